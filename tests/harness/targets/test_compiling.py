"""One Case through the compiler: which launches are compiled, in which placements, and what a launcher's exception means."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import compiled_kernels
import pytest
import torch
from compiled_kernels import WIDE
from toy.strategies.scale import ScaleCase

from tridiff.harness.api import Clean, Failure, Finding, Found, Outcome, Skipped, StagingError, Unsupported
from tridiff.harness.engines.spec import COMPILER, EngineSpec, UsageError
from tridiff.harness.registry import Registry
from tridiff.harness.runner import compiling
from tridiff.harness.runner.examine import KernelRef, examine
from tridiff.harness.targets import selftest, verdicts
from tridiff.harness.targets.pipeline import Figures
from tridiff.harness.targets.verdicts import Judgement

CASE = ScaleCase(rows=2, columns=16)
Placements = Mapping[str, Callable[[ScaleCase], ScaleCase]]
PLACED: Placements = {
    "production": lambda case: case,
    "again": lambda case: replace(case, gap=0),
    "apart": lambda case: replace(case, gap=1),
}


def placed(placements: Placements) -> Registry:
    """The kernels, for an Op with these placements."""
    made = compiled_kernels.registry()
    made.ops["scale"] = replace(made.ops["scale"], placements=placements)
    return made


def outcome(
    kernel: str, case: ScaleCase = CASE, *, target: str = "gfx942", known: Registry | None = None, **spec: Any
) -> Outcome:
    """What the compiler says."""
    wanted = EngineSpec(name=COMPILER, target=target, **spec)
    return examine(KernelRef(kernel=kernel), wanted, case, known or compiled_kernels.registry())


def clean(kernel: str, case: ScaleCase = CASE, **options: Any) -> Clean:
    """Likewise of what compiles."""
    found = outcome(kernel, case, **options)
    assert isinstance(found, Clean), found
    return found


def found(kernel: str, case: ScaleCase = CASE, **options: Any) -> Found:
    """Likewise of what does not."""
    what = outcome(kernel, case, **options)
    assert isinstance(what, Found), what
    return what


def finding(kernel: str, case: ScaleCase = CASE, **options: Any) -> Finding:
    """Likewise, the Finding alone."""
    return found(kernel, case, **options).finding


# Launches


@pytest.mark.parametrize(("target", "lanes"), [("gfx942", 64), ("sm_90", 32)])
def test_launch_that_compiles(target: str, lanes: int) -> None:
    """Its figures are told, with the placement; nothing ran, so the error ratio is 0."""
    what = clean("fits", target=target)

    (entry,) = what.compiled
    assert re.fullmatch(r"copied-[0-9a-f]{8}", entry.name)
    assert (entry.function, entry.placement, entry.config, entry.check) == ("copied", "drawn", "", "")
    assert (entry.shared, entry.threads, entry.registers) == (0, 4 * lanes, ())
    assert what.specialisations == (entry.name,)
    assert what.ratio == 0


def test_nothing_is_executed() -> None:
    """A kernel that would stop the executor does not stop the compiler."""
    before = torch.zeros(3)
    inputs: list[torch.Tensor] = []
    known = compiled_kernels.registry()
    build = known.ops["scale"].build

    def building(case: Any, arena: Any) -> dict[str, Any]:
        made = build(case, arena)
        inputs.append(made["out"])
        before.resize_(made["out"].shape).copy_(made["out"])
        return made

    known.ops["scale"] = replace(known.ops["scale"], build=building)
    clean("fits", known=known)

    assert inputs[0].contiguous().view(torch.int32).equal(before.view(torch.int32))


def test_full_pipeline() -> None:
    """With registers."""
    (entry,) = clean("fits", full=True).compiled

    assert dict(entry.registers)["vgpr"] > 0


def test_launch_that_is_too_large() -> None:
    """A Finding with what was compiled, for the part that is too small."""
    what = found("large")

    assert what.finding.check == "resources"
    assert (what.finding.engine, what.finding.target, what.finding.case) == (COMPILER, "gfx942", CASE)
    assert (what.finding.line or "").startswith("selftest_kernel.py:")
    (entry,) = what.compiled
    assert entry.check == "resources"
    assert entry.shared >= WIDE * 128 * 2
    assert what.specialisations == (entry.name,)


def test_first_check_of_several() -> None:
    """By precedence, not by time: the others are named."""
    what = found("twice")

    assert (what.finding.check, what.finding.others) == ("compile", ("resources",))
    assert [entry.check for entry in what.compiled] == ["resources", "compile"]
    assert what.compiled[1].threads == 0


def test_self_test_comes_first(monkeypatch: pytest.MonkeyPatch) -> None:
    """No verdict without it; its drift ends the run, and is no Finding."""
    monkeypatch.setattr(selftest, "_passed", set())
    asked: list[str] = []

    def drifts(backend: str) -> None:
        asked.append(backend)
        raise selftest.TargetsDrift("drifted")

    monkeypatch.setattr(selftest, "check", drifts)
    monkeypatch.setenv("TRIDIFF_CACHE", "0")

    with pytest.raises(UsageError, match="drifted"):
        outcome("fits", target="sm_90")
    assert asked == ["cuda"]


def test_budget_of_the_whole_pipeline(monkeypatch: pytest.MonkeyPatch) -> None:
    """Is the spec's; the fast verdict knows none."""
    told: list[tuple[str, float]] = []

    def full(_specialisation: object, part: Any, budget: float) -> Judgement:
        told.append((part.name, budget))
        return Judgement(figures=Figures(shared=0, threads=64), failures=(), registers=(("vgpr", 3),))

    monkeypatch.setattr(verdicts, "full", full)

    (entry,) = clean("fits", full=True, max_seconds=7.0).compiled
    clean("fits", max_seconds=7.0)

    assert told == [("gfx942", 7.0)]
    assert entry.registers == (("vgpr", 3),)


# Autotuned kernels


def test_every_configuration_is_compiled() -> None:
    """The one that does not fit is dropped, as in production, and is no defect; where it fits it is not."""
    small, large = clean("tunes").compiled

    assert small.config.startswith("block_n=16, ")
    assert large.config.startswith(f"block_n={WIDE}, ")
    assert (small.dropped, small.check, large.check) == ("", "", "")
    assert re.match(r"attend needs \d+ bytes of shared memory \(LDS\), gfx942 has 65536 ", large.dropped)
    assert large.shared > small.shared > 0


def test_all_configurations_are_dropped() -> None:
    """Production launches one all the same, which fails."""
    what = found("tunes_large")

    assert what.finding.check == "resources"
    assert sorted(entry.check for entry in what.compiled) == ["", "resources"]
    assert [bool(entry.dropped) for entry in what.compiled] == [entry.check == "" for entry in what.compiled]


def test_static_assertion_drops_a_configuration() -> None:
    """As in production; where it drops all of them, that is a Finding."""
    fitting, dropped = clean("tunes_asserting").compiled

    assert (fitting.dropped, dropped.check) == ("", "")
    assert "too large" in dropped.dropped
    assert finding("tunes_nothing").check == "compile"


def test_configuration_that_does_not_compile() -> None:
    """Production raises, whatever the others do."""
    what = found("tunes_odd")

    assert what.finding.check == "compile"
    assert "power of 2" in what.finding.message
    assert [(entry.config[:8], entry.check, entry.dropped) for entry in what.compiled] == [
        ("block=16", "", ""),
        ("block=24", "compile", ""),
    ]


@pytest.mark.parametrize(
    ("failures", "dropped"),
    [
        (["resources"], True),
        (["resources", "resources"], True),
        (["resources", "fp8_semantics"], False),
        (["compile_time"], False),
    ],
)
def test_what_is_dropped(monkeypatch: pytest.MonkeyPatch, failures: list[str], dropped: bool) -> None:
    """Only what production's autotuner would go on without, and nothing else besides."""
    told = tuple(Failure(check=check, message=check, subject=str(at)) for at, check in enumerate(failures))
    judge = verdicts.fast

    def fast(specialisation: Any, part: Any) -> Judgement:
        judged = judge(specialisation, part)
        return replace(judged, failures=told if WIDE in specialisation.constants.values() else ())

    monkeypatch.setattr(verdicts, "fast", fast)

    what = outcome("tunes")

    assert isinstance(what, Clean if dropped else Found)
    assert [bool(entry.dropped) for entry in what.compiled] == [False, dropped]
    assert (what.compiled[1].check == "") is dropped


# Placements


def test_each_placement_is_compiled_once() -> None:
    """A stride of 16 is one specialisation, of 17 another; a placement that changes nothing about the case is left out."""
    built: list[int] = []
    known = placed(PLACED)
    build = known.ops["scale"].build

    def building(case: Any, arena: Any) -> dict[str, Any]:
        built.append(case.gap)
        return build(case, arena)

    known.ops["scale"] = replace(known.ops["scale"], build=building)

    entries = clean("places", known=known).compiled

    assert [entry.placement for entry in entries] == ["production", "apart"]
    assert len({entry.name for entry in entries}) == 2
    assert built == [0, 1]


def test_same_specialisation_of_two_placements() -> None:
    """Is told once, with the placement that came first."""
    (entry,) = clean("fits", known=placed(PLACED)).compiled

    assert entry.placement == "production"


@pytest.mark.parametrize("name", ["production", "apart"])
def test_one_placement_alone(name: str) -> None:
    """Where the spec names it."""
    (entry,) = clean("places", known=placed(PLACED), placement=name).compiled

    assert entry.placement == name


def test_op_without_placements() -> None:
    """Is compiled as drawn, whatever the spec names."""
    (entry,) = clean("places", placement="production").compiled

    assert entry.placement == compiling.AS_DRAWN


def test_finding_of_production_comes_first() -> None:
    """Of two of one check; and the Case is the one that was drawn, not the placed one."""
    known = placed({"production": PLACED["apart"], "large": PLACED["production"]})

    what = finding("large", known=known)

    assert what.case == CASE


def test_placement_that_fails() -> None:
    """Is told of the plug-in whose Op it is."""
    known = placed({"production": lambda case: replace(case, rows=0)})
    known._sources["op", "scale"] = "mine.py"

    with pytest.raises(UsageError, match=r"^plug-in mine\.py: placement production of scale raised CaseError"):
        outcome("fits", known=known)


# What a launcher raises


def test_refusal_is_no_finding() -> None:
    """By either engine, with the launcher's line and words; and only what the kernel declares is one."""
    for name in (COMPILER, "cpu"):
        what = examine(KernelRef(kernel="refuses"), EngineSpec(name=name), CASE, compiled_kernels.registry())

        assert isinstance(what, Unsupported)
        assert what.reason == "one row, please"
        assert (what.line or "").startswith("compiled_kernels.py:")
    assert isinstance(outcome("refuses", ScaleCase(columns=16)), Clean)
    known = compiled_kernels.registry()
    known.kernels["refuses"] = replace(known.kernels["refuses"], unsupported=None)
    assert finding("refuses", known=known).check == "launch"


def test_refusal_after_a_finding() -> None:
    """Does not hide it."""
    assert finding("refuses_after_large").check == "resources"


def test_refusal_in_one_placement() -> None:
    """What the launcher does not support in a placement is told, unless another one failed before."""
    known = placed({"production": PLACED["production"], "one": lambda case: replace(case, rows=1)})
    assert isinstance(outcome("refuses", known=known), Unsupported)


@pytest.mark.parametrize(("kernel", "summary"), [("raises_before", "ZeroDivisionError: before"), ("exits", "SystemExit: 3")])
def test_launcher_that_raises_before_its_first_launch(kernel: str, summary: str) -> None:
    """It would in production, too."""
    what = finding(kernel)

    assert (what.check, what.message, what.subject) == ("launch", summary, summary)
    assert (what.line or "").startswith("compiled_kernels.py:")


def test_launcher_that_raises_after_a_launch() -> None:
    """It may have read what the kernel did not write, so there is no verdict."""
    what = outcome("raises_after")

    assert isinstance(what, Unsupported)
    assert what.reason == "after a launch that was compiled and not executed the launcher raised ZeroDivisionError: after"


def test_launcher_that_raises_first_in_a_later_placement(monkeypatch: pytest.MonkeyPatch) -> None:
    """A launch in an earlier placement is none in this."""
    known = placed({"production": PLACED["production"], "one": lambda case: replace(case, rows=1)})

    def moody(*, x: torch.Tensor, out: torch.Tensor, **_: Any) -> None:
        if x.shape[0] == 1:
            raise ZeroDivisionError("one row")
        compiled_kernels.copied[(1,)](x, out, 16)

    monkeypatch.setattr(compiled_kernels, "fits", moody)

    assert finding("fits", known=known).subject == "ZeroDivisionError: one row"


@pytest.mark.parametrize("error", [KeyboardInterrupt, GeneratorExit])
def test_end_of_the_run(monkeypatch: pytest.MonkeyPatch, error: type[BaseException]) -> None:
    """Is not the launcher's doing."""

    def ends(**_: Any) -> None:
        raise error

    monkeypatch.setattr(compiled_kernels, "fits", ends)

    with pytest.raises(error):
        outcome("fits")


def test_mistake_of_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    """Is no Finding."""
    monkeypatch.setattr(compiling.Compilation, "_judged", lambda *_: math.floor(math.nan))

    with pytest.raises(ValueError, match="NaN"):
        outcome("fits")


def test_too_many_threads() -> None:
    """32 warps of 64 lanes: production refuses at the launch, which is a Finding of the resources; of 32 lanes they fit."""
    what = finding("crowded")

    assert (what.check, what.subject) == ("resources", "copied threads")
    assert "needs 2048 threads, gfx942 has 1024 (Triton " in what.message
    assert (what.line or "").startswith("compiled_kernels.py:")
    assert clean("crowded", target="sm_90").compiled[0].threads == 1024


@pytest.mark.parametrize(
    ("kernel", "said"),
    [
        ("asks", "the launcher asks for 'n_regs' of the compiled kernel copied"),
        ("asks_device", "the launcher asks for 'L2_cache_size' of a GPU, which is not known of gfx942"),
    ],
)
def test_launcher_that_asks_for_what_is_not_there(kernel: str, said: str) -> None:
    """Machine code, or a figure of the GPU that nobody has stated: there is no verdict, before a launch or after it."""
    assert outcome(kernel) == Unsupported(reason=said)


def test_scratch_is_zero() -> None:
    """What a launcher reads of memory that a kernel would have filled; poison there would be a size, or an index."""
    assert isinstance(outcome("reads_scratch"), Clean)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float8_e4m3fnuz, torch.int64, torch.bool, torch.complex64])
def test_scratch_of_any_type(dtype: torch.dtype) -> None:
    """All bytes; a tensor without any stays as it is."""
    tensor = torch.full((64,), 255, dtype=torch.uint8).view(dtype)

    compiling._cleared(tensor)
    compiling._cleared(torch.empty(0, dtype=dtype))

    assert not tensor.view(torch.uint8).any()


def test_case_that_cannot_be_staged() -> None:
    """Is skipped where the inputs do not fit, and says nothing of the kernel."""
    known = compiled_kernels.registry()

    def huge(_case: object, _arena: object) -> dict[str, Any]:
        raise StagingError("no room")

    known.ops["scale"] = replace(known.ops["scale"], build=huge)

    assert outcome("fits", known=known) == Skipped(reason="no room")
