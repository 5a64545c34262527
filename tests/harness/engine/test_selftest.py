"""The self-test: passes with the Triton that is installed, and names what drifted when its IR reads otherwise."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import triton

from tridiff.harness import cli
from tridiff.harness.api import Arena
from tridiff.harness.engines.cpu import cache, engine, fingerprint, selftest, selftest_kernels, ttir
from tridiff.harness.engines.spec import EngineSpec, UsageError

Rewrite = Callable[[str], str]
OURS = pytest.mark.installed_triton("when the self-test runs, and what is said of its result, is ours")


@pytest.fixture(autouse=True)
def _fresh(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No verdict in this process, nor on disk."""
    monkeypatch.setattr(selftest, "_passed", set())
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setenv("TRIDIFF_CACHE", "1")


def execute(launcher: Callable[[], None]) -> None:
    """Run a launcher without a self-test before it."""
    engine._run(EngineSpec(), launcher, {}, Arena(), [])


def drifting(monkeypatch: pytest.MonkeyPatch, rewrite: Rewrite) -> None:
    """From now on Triton prints what `rewrite` makes of its IR."""
    monkeypatch.setenv("TRIDIFF_CACHE", "0")
    build = ttir.built_text
    monkeypatch.setattr(ttir, "built_text", lambda specialisation, **options: rewrite(build(specialisation, **options)))


def counted(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Grows by one with each run of the self-test."""
    runs: list[int] = []
    drift = selftest.drift

    def counting(run: selftest.Execute) -> dict[str, str]:
        runs.append(1)
        return drift(run)

    monkeypatch.setattr(selftest, "drift", counting)
    return runs


@pytest.mark.parametrize("target", ["gfx942", "gfx1201", "sm_80"])
def test_installed_triton_passes(target: str) -> None:
    """Nothing has drifted in the versions that the tests run with, for either maker's back end."""
    spec = EngineSpec(target=target)

    assert selftest.drift(lambda launcher: engine._run(spec, launcher, {}, Arena(), [])) == {}


@OURS
def test_it_runs_once_for_a_build(monkeypatch: pytest.MonkeyPatch) -> None:
    """Once per process and back end; and another process reads from the cache that it passed."""
    runs = counted(monkeypatch)
    for _ in range(3):
        engine.CpuEngine(EngineSpec())
    monkeypatch.setattr(selftest, "_passed", set())
    engine.CpuEngine(EngineSpec(max_steps=1))

    assert runs == [1]


@OURS
def test_it_runs_again_when_something_changed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Another source of ours, another build of Triton, or another maker's back end is a new question."""
    runs = counted(monkeypatch)
    engine.CpuEngine(EngineSpec())
    engine.CpuEngine(EngineSpec(target="sm_80"))
    assert len(runs) == 2
    monkeypatch.setattr(selftest, "_passed", set())
    monkeypatch.setattr(selftest, "_source", lambda: "edited")
    engine.CpuEngine(EngineSpec())
    assert len(runs) == 3
    monkeypatch.setattr(selftest, "_passed", set())
    monkeypatch.setattr(fingerprint, "build", lambda: "rebuilt")
    cache._store.cache_clear()
    engine.CpuEngine(EngineSpec())
    cache._store.cache_clear()

    assert len(runs) == 4


def _next_line(match: re.Match[str]) -> str:
    return f'selftest_kernels.py":{int(match[1]) + 1}'


@pytest.mark.parametrize(
    ("rewrite", "named"),
    [
        (lambda text: text.replace("predicate = 2 :", "predicate = 3 :"), {"comparisons", "masked load and store"}),
        (lambda text: re.sub(r"(arith\.cmpf.*?predicate = )4", r"\g<1>5", text), {"comparisons"}),
        (lambda text: re.sub(r"(arith\.cmpi.*?predicate = )6", r"\g<1>8", text), {"comparisons"}),
        (lambda text: text.replace("arith.divsi", "arith.quotient"), {"arithmetic"}),
        (lambda text: text.replace("tt.dot", "tt.matmul"), {"dot"}),
        (lambda text: re.sub(r"(tt\.trans\"\(%\w+\)) <\{.*?\}>", r"\1", text), {"dot"}),
        (lambda text: re.sub(r"(tt\.reduce\"\(%\w+\)) <\{axis = 1", r"\1 <{axis = 0", text), {"reductions"}),
        (lambda text: re.sub(r"operandSegmentSizes = array<i32: 1, 1, 1>", "operandSegmentSizes = array<i32: 1, 1, 0>", text),
         {"masked load and store"}),
        (lambda text: text.replace("0x7F800000", "0x7F800001"), {"constants"}),
        (lambda text: text.replace("0xFF800000", "0x7F800000"), {"constants"}),
        (lambda text: text.replace("-1.562500e-01", "-1.562500e-02"), {"constants"}),
        (lambda text: text.replace("scf.while", "scf.do"), {"loops and branches"}),
        (lambda text: text.replace("cf.cond_br", "cf.branch_if"), {"early return"}),
        (lambda text: text.replace("arith.truncf", "arith.shrinkf"), {"casts"}),
        (lambda text: text.replace("arith.uitofp", "arith.sitofp"), {"casts"}),
        (lambda text: text.replace("tt.reshape", "tt.relabel"), {"pointer arithmetic"}),
        (lambda text: re.sub(r"selftest_kernels\.py\":(\d+)", _next_line, text), {"source lines"}),
    ],
    ids=["slt", "oge", "ult", "divsi", "dot", "trans", "axis", "segments", "inf", "hex", "bf16", "while", "cond_br", "truncf",
         "uitofp", "reshape", "lines"],
)  # fmt: skip
def test_drift_is_named(monkeypatch: pytest.MonkeyPatch, rewrite: Rewrite, named: set[str]) -> None:
    """A property that is gone, an operation by another name, other numbers of predicates: the constructs are named."""
    drifting(monkeypatch, rewrite)

    assert named <= set(selftest.drift(execute))


def test_form_that_cannot_be_read(monkeypatch: pytest.MonkeyPatch) -> None:
    """If the trick that yields the generic form works no longer, it is that which is named, and not every construct."""
    drifting(
        monkeypatch, lambda text: text.replace('"tt.func"() <{', "tt.func public @kernel").replace('"tt.return"', "tt.return")
    )

    with pytest.raises(selftest.SelfTestError) as caught:
        engine.CpuEngine(EngineSpec())

    assert list(caught.value.drifted) == ["the form in which IR is printed"]
    assert isinstance(caught.value, UsageError)
    assert isinstance(caught.value, ttir.FrontEndDrift)


@OURS
def test_message_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    """One line: the version, the construct, what was wrong with it, the versions that work."""
    drifting(monkeypatch, lambda text: text.replace("tt.dot", "tt.matmul"))

    with pytest.raises(selftest.SelfTestError) as caught:
        engine.CpuEngine(EngineSpec())

    assert str(caught.value) == (
        f"triton {triton.__version__} does not pass the self-test of the cpu engine (dot: UnsupportedOperation: the operation "
        "tt.matmul); tested versions: 3.6 to 3.9: install one of these, or report the construct that drifted"
    )


@OURS
def test_failure_is_not_remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    """As long as it fails it is asked again, and when the cause is gone it passes."""
    with monkeypatch.context() as patched:
        patched.setattr(selftest, "drift", lambda _execute: {"dot": "wrong"})
        for _ in range(2):
            with pytest.raises(selftest.SelfTestError, match="dot: wrong"):
                engine.CpuEngine(EngineSpec())

    engine.CpuEngine(EngineSpec())

    assert selftest._passed == {"hip"}


@OURS
@pytest.mark.parametrize(
    ("version", "tested"), [("3.5.1", False), ("3.6.0", True), ("3.9.0+git1", True), ("3.10.0", False), ("?", False)]
)
def test_untested_version_is_noted(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, version: str, tested: bool
) -> None:
    """An older or newer Triton is not refused: the self-test decides, and one line says so."""
    monkeypatch.setattr(triton, "__version__", version)
    with caplog.at_level(logging.WARNING, "tridiff"):
        engine.CpuEngine(EngineSpec())
        engine.CpuEngine(EngineSpec())

    notes = [record.getMessage() for record in caplog.records]
    assert notes == (
        [] if tested else [f"tridiff was not tested with triton {version}, but with 3.6 to 3.9: its self-test decides"]
    )


@OURS
def test_drift_is_a_problem_of_the_environment(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """The command line ends with exit code 2 and one line, before any case is drawn."""
    monkeypatch.setattr(selftest, "drift", lambda _execute: {"dot": "wrong"})

    code = cli._run(["fuzz", "--max-examples", "1"])

    assert code == cli.Exit.USAGE
    assert re.fullmatch(
        r"tridiff: triton \S+ does not pass the self-test of the cpu engine \(dot: wrong\); .*\n", capsys.readouterr().err
    )


def test_every_kernel_has_its_own_device_cache_cleared(monkeypatch: pytest.MonkeyPatch) -> None:
    """The self-test goes through the front end even where its kernels were compiled in this process before."""
    assert selftest.drift(execute) == {}
    drifting(monkeypatch, lambda text: text.replace("tt.dot", "tt.matmul"))

    assert set(selftest.drift(execute)) == {"dot"}


def test_constructs_have_their_own_kernels() -> None:
    """Names and kernels are distinct, and all kernels of the module are used."""
    kernels = {
        name for name, value in vars(selftest_kernels).items() if hasattr(value, "device_caches") and not name.startswith("_")
    }

    assert {construct.kernel.__name__ for construct in selftest.CONSTRUCTS} == kernels
    assert len({construct.name for construct in selftest.CONSTRUCTS}) == len(kernels)


def test_wrong_value_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    """The reason gives what was computed and what it should be."""
    assert selftest._differs(torch.tensor([1.0, float("nan")]), [1, float("nan")]) is None
    assert selftest._differs(torch.tensor([1, 2]), [1, 3]) == "computes [1, 2] instead of [1, 3]"
