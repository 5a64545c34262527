"""The self-test of verdicts: passes with the Triton that is installed, and a drift ends the run with one line."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import triton
from triton._C.libtriton import amd, nvidia

from tridiff.harness.api import Failure
from tridiff.harness.engines.cpu import cache, fingerprint
from tridiff.harness.engines.spec import UsageError
from tridiff.harness.targets import machine_code, pipeline, selftest
from tridiff.harness.targets.pipeline import Figures, PipelineDrift, Refused
from tridiff.harness.targets.selftest import TargetsDrift

SOME = Figures(shared=1024, threads=128)


@pytest.fixture(autouse=True)
def _fresh(monkeypatch: pytest.MonkeyPatch, cold: None) -> None:
    """Nothing has passed in this process, nor on disk."""
    monkeypatch.setattr(selftest, "_passed", set())


def saying(monkeypatch: pytest.MonkeyPatch, fast: Figures, full: Figures) -> None:
    """From now on the two pipelines say this."""
    monkeypatch.setattr(pipeline, "allocated", lambda _: SimpleNamespace(figures=fast))
    monkeypatch.setattr(machine_code, "compiled", lambda _: SimpleNamespace(figures=full))


def counted(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The back ends for which it runs from now on; nothing is compiled."""
    runs: list[str] = []
    monkeypatch.setattr(selftest, "check", runs.append)
    return runs


@pytest.mark.parametrize("backend", ["hip", "cuda"])
def test_installed_triton_passes(backend: str) -> None:
    """For either maker's back end: the kernel needs shared memory, and both pipelines say how much."""
    selftest.check(backend)

    assert pipeline.allocated(selftest.specialised(selftest.TARGETS[backend])).figures.shared > 0


@pytest.mark.parametrize(
    ("fast", "full"),
    [
        (SOME, Figures(shared=1025, threads=128)),
        (SOME, Figures(shared=1024, threads=256)),
        (SOME, Figures(shared=1024, threads=128, tensor_memory=8)),
        (Figures(shared=0, threads=128), Figures(shared=0, threads=128)),
    ],
)
def test_figures_that_differ(monkeypatch: pytest.MonkeyPatch, fast: Figures, full: Figures) -> None:
    """In any of them; or none at all, from which nothing follows. Equal ones pass."""
    saying(monkeypatch, SOME, SOME)
    selftest.check("hip")
    saying(monkeypatch, fast, full)

    with pytest.raises(TargetsDrift) as caught:
        selftest.ensure("gfx942")

    assert str(caught.value) == (
        f"triton {triton.__version__} does not pass the self-test of verdicts on targets for back end 'hip' (the fast verdict "
        f"says {fast}, the whole pipeline {full}); tested versions: 3.6 to 3.9: install one of these"
    )
    assert isinstance(caught.value, UsageError)
    assert isinstance(caught.value, PipelineDrift)


@pytest.mark.parametrize(("target", "passes"), [("gfx90a", amd.passes.ttgpuir), ("sm_100", nvidia.passes.ttgpuir)])
def test_pass_that_is_gone(monkeypatch: pytest.MonkeyPatch, target: str, passes: object) -> None:
    """Is drift, not a finding of some kernel."""
    monkeypatch.delattr(passes, "add_to_llvmir")

    with pytest.raises(TargetsDrift, match=r"\(Triton \S+ has no add_to_llvmir among its passes"):
        selftest.ensure(target)


def test_kernel_that_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """Our kernel compiles everywhere, so a refusal is drift as well."""

    def refuses(_: object) -> None:
        raise Refused(Failure(check="codegen", message="no such instruction"))

    monkeypatch.setattr(machine_code, "compiled", refuses)

    with pytest.raises(TargetsDrift, match="no such instruction"):
        selftest.ensure("sm_90")


def test_it_runs_once_for_a_build(monkeypatch: pytest.MonkeyPatch) -> None:
    """Once a process and back end; another process reads from the cache that it passed."""
    runs = counted(monkeypatch)

    for target in ("gfx942", "gfx1201", "sm_90", "gfx942", "sm_86"):
        selftest.ensure(target)
    monkeypatch.setattr(selftest, "_passed", set())
    selftest.ensure("gfx90a")

    assert runs == ["hip", "cuda"]


def test_it_runs_again_when_something_changed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Another source of ours, or another build of Triton."""
    runs = counted(monkeypatch)
    selftest.ensure("gfx942")

    monkeypatch.setattr(selftest, "_passed", set())
    monkeypatch.setattr(selftest, "_source", lambda: "edited")
    selftest.ensure("gfx942")
    monkeypatch.setattr(selftest, "_passed", set())
    monkeypatch.setattr(fingerprint, "build", lambda: "rebuilt")
    cache._store.cache_clear()
    selftest.ensure("gfx942")
    cache._store.cache_clear()

    assert runs == ["hip"] * 3


def test_failure_is_not_remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    """As long as it fails it is asked again, and when the cause is gone it passes."""
    saying(monkeypatch, SOME, Figures(shared=1, threads=128))
    for _ in range(2):
        with pytest.raises(TargetsDrift):
            selftest.ensure("gfx942")

    saying(monkeypatch, SOME, SOME)
    selftest.ensure("gfx942")

    assert selftest._passed == {"hip"}


def test_without_a_cache(monkeypatch: pytest.MonkeyPatch) -> None:
    """It runs once in every process."""
    monkeypatch.setenv("TRIDIFF_CACHE", "0")
    runs = counted(monkeypatch)

    for _ in range(3):
        selftest.ensure("gfx942")
    monkeypatch.setattr(selftest, "_passed", set())
    selftest.ensure("gfx942")

    assert runs == ["hip", "hip"]
