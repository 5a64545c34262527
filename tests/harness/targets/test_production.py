"""Verdicts on what production compiles and goes on from: kernels that are warmed up, and tiles that a launcher does without."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import compiled_kernels
import pytest
from toy.strategies.scale import ScaleCase

from tridiff.harness.api import Arena, Clean, Found, Inputs, Outcome, StagingError
from tridiff.harness.engines.spec import COMPILER, EngineSpec
from tridiff.harness.registry import Registry
from tridiff.harness.runner.examine import KernelRef, examine
from tridiff.harness.targets import pipeline, verdicts

CASE = ScaleCase(rows=2, columns=16)


def outcome(kernel: str, known: Registry | None = None) -> Outcome:
    """What the compiler says of gfx942."""
    spec = EngineSpec(name=COMPILER, target="gfx942")
    return examine(KernelRef(kernel=kernel), spec, CASE, known or compiled_kernels.registry())


def placed(placements: Mapping[str, Callable[[ScaleCase], ScaleCase]]) -> Registry:
    """The kernels, for an Op with these placements."""
    made = compiled_kernels.registry()
    made.ops["scale"] = replace(made.ops["scale"], placements=placements)
    return made


def test_warmed_up_and_never_launched() -> None:
    """It raises in production; and again where Triton has the specialisation from an earlier capture."""
    for _ in range(2):
        what = outcome("warms")

        assert isinstance(what, Found)
        assert (what.finding.check, len(what.compiled)) == ("compile", 1)


def test_warmed_up_and_too_large() -> None:
    """What a part has is asked for at the launch, of which there is none."""
    what = outcome("warms_large")

    assert isinstance(what, Clean)
    assert len(what.compiled) == 2
    assert max(entry.shared for entry in what.compiled) > 65536


def test_compiled_kernel_is_launched() -> None:
    """With its constants, as production's is."""
    what = outcome("warms_and_launches")

    assert isinstance(what, Clean)
    assert len(what.compiled) == 1


def test_smaller_tile() -> None:
    """A launcher that catches OutOfResources fits, if what it does then fits; the large tile is dropped."""
    what = outcome("smaller")

    assert isinstance(what, Clean)
    large, small = what.compiled
    assert "bytes of shared memory" in large.dropped
    assert not small.dropped
    assert small.shared <= 65536


@pytest.mark.parametrize("kernel", ["smaller_odd", "refuses_after_large"])
def test_no_way_around(kernel: str) -> None:
    """Where a launcher does not get to its end after OutOfResources, that is what it fails of."""
    what = outcome(kernel)

    assert isinstance(what, Found)
    assert (what.finding.check, what.compiled[0].dropped) == ("resources", "")


def test_launch_that_triton_refuses_after_another() -> None:
    """Whatever a kernel would have written, it raises in production, too."""
    what = outcome("unknown_option")

    assert isinstance(what, Found)
    assert what.finding.check == "launch"
    assert "unrecognised" in what.finding.message


def test_refusal_in_one_placement_hides_no_other() -> None:
    """A failure behind a placement that the launcher refuses is told."""
    made = placed({"production": lambda case: case, "one": lambda case: replace(case, rows=1)})
    made.kernels["refuses"] = replace(made.kernels["refuses"], launcher="moody")

    what = outcome("refuses", made)

    assert isinstance(what, Found)
    assert what.finding.check == "compile"


def test_placement_that_cannot_be_staged_hides_no_other() -> None:
    """A failure in production's placement is told."""
    made = placed({"production": lambda case: case, "apart": lambda case: replace(case, gap=1)})
    build = made.ops["scale"].build

    def refused(case: Any, arena: Arena) -> Inputs:
        if case.gap:
            raise StagingError("no room")
        return build(case, arena)

    made.ops["scale"] = replace(made.ops["scale"], build=refused)

    assert isinstance(outcome("odd", made), Found)


@pytest.mark.parametrize("error", [AssertionError("no such layout"), RuntimeError("no such layout")])
def test_back_end_that_raises(monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    """Triton's own Python may raise what it likes: the kernel does not compile."""

    def raises(*_: Any) -> None:
        raise error

    monkeypatch.setattr(pipeline, "_lowered", raises)
    monkeypatch.setattr(verdicts, "_known", verdicts._asked)

    what = outcome("fits")

    assert isinstance(what, Found)
    assert what.finding.check == "compile"
    assert "no such layout" in what.finding.message
