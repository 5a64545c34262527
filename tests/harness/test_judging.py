"""Verdicts in a fuzz run: what ran clean is compiled for each target, and the first Finding of a compiler is the outcome."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import pytest
from toy.family import registry
from toy.strategies.scale import ScaleCase

from tridiff.harness.api import Clean, Domain, Finding, Found, Infrastructure, Outcome, Skipped, Unsupported
from tridiff.harness.engines.spec import COMPILER, EngineSpec
from tridiff.harness.registry import Registry
from tridiff.harness.runner.events import WorkerDied
from tridiff.harness.runner.examine import KernelRef
from tridiff.harness.runner.judging import Judging

REF = KernelRef(kernel="scale")
SPEC = EngineSpec(max_steps=7)
CASE = ScaleCase(columns=3)
CLEAN = Clean(ratio=0.5, specialisations=("ran",))


def finding(target: str, engine: str = COMPILER) -> Finding:
    """One for a target."""
    return Finding(check="resources", message="m", line=None, op="scale", kernel="scale", engine=engine, target=target, case=CASE)


@dataclass
class StandIn:
    """An Examiner that has its answers ready. `asked`: what it was asked, and `again`: what it was to confirm."""

    outcome: Outcome = CLEAN
    asked: list[tuple[EngineSpec, Any, bool]] = field(default_factory=list)
    again: list[tuple[EngineSpec, Finding]] = field(default_factory=list)
    told: list[object] = field(default_factory=list)
    closed: int = 0
    fails: bool = False

    def examine(
        self,
        ref: KernelRef,
        spec: EngineSpec,
        case: Any,
        registry: Registry,
        *,
        shrinking: bool,
        announce: Callable[[WorkerDied], None],
    ) -> Outcome:
        """The answer."""
        assert ref == REF
        assert registry.kernels
        self.asked.append((spec, case, shrinking))
        announce(WorkerDied(kernel="scale", case=case, how=spec.name))
        return self.outcome

    def confirmed(
        self, ref: KernelRef, spec: EngineSpec, finding: Finding, registry: Registry, announce: Callable[[WorkerDied], None]
    ) -> Finding | None:
        """Whatever it was shown."""
        assert ref == REF
        assert registry.kernels
        self.again.append((spec, finding))
        announce(WorkerDied(kernel="scale", case=finding.case, how=spec.name))
        return replace(finding, message="confirmed")

    def close(self) -> None:
        """Once more."""
        self.closed += 1
        if self.fails:
            raise RuntimeError("it does not end")


def asked(judging: Judging, *, known: Registry | None = None, shrinking: bool = False) -> tuple[Outcome, list[str]]:
    """The outcome, and which engines announced a death."""
    died: list[WorkerDied] = []
    outcome = judging.examine(REF, SPEC, CASE, known or registry(), shrinking=shrinking, announce=died.append)
    return outcome, [death.how for death in died]


@pytest.mark.parametrize("shrinking", [False, True])
def test_clean_everywhere(shrinking: bool) -> None:
    """The outcome is that of the engine; each target was asked for production's placement."""
    engine, first, second = StandIn(), StandIn(Clean(ratio=0.0)), StandIn(Clean(ratio=0.0))

    outcome, died = asked(Judging(engine, {"gfx942": first, "gfx950": second}), shrinking=shrinking)

    assert outcome is CLEAN
    assert engine.asked == [(SPEC, CASE, shrinking)]
    for target, examiner in (("gfx942", first), ("gfx950", second)):
        assert examiner.asked == [(EngineSpec(name=COMPILER, target=target, placement="production"), CASE, shrinking)]
    assert died == ["cpu", COMPILER, COMPILER]


@pytest.mark.parametrize(
    "first",
    [Found(finding=finding("gfx942", "cpu")), Skipped(reason="no room"), Infrastructure(reason="lost")],
)
def test_what_failed_is_not_compiled(first: Outcome) -> None:
    """The engine's outcome stands."""
    compiler = StandIn()

    outcome, _ = asked(Judging(StandIn(first), {"gfx942": compiler}))

    assert outcome is first
    assert compiler.asked == []


@pytest.mark.parametrize("verdict", [Found(finding=finding("gfx942")), Infrastructure(reason="lost")])
def test_first_finding_of_a_compiler(verdict: Outcome) -> None:
    """Is the outcome, and later targets are not asked."""
    second = StandIn()

    outcome, _ = asked(Judging(StandIn(), {"gfx942": StandIn(verdict), "gfx950": second}))

    assert outcome is verdict
    assert second.asked == []


@pytest.mark.parametrize("verdict", [Unsupported(reason="not here"), Skipped(reason="no room")])
def test_target_without_a_verdict(verdict: Outcome) -> None:
    """Does not spoil what ran clean, and the next target is asked."""
    found = Found(finding=finding("gfx950"))

    assert asked(Judging(StandIn(), {"gfx942": StandIn(verdict)}))[0] is CLEAN
    assert asked(Judging(StandIn(), {"gfx942": StandIn(verdict), "gfx950": StandIn(found)}))[0] is found


def test_case_that_a_target_does_not_allow() -> None:
    """Is not compiled for it."""
    known = registry()
    seen: list[tuple[object, Domain]] = []

    def within(case: object, domain: Domain) -> bool:
        seen.append((case, domain))
        return domain.target != "gfx942"

    known.ops["scale"] = replace(known.ops["scale"], within=within)
    left_out, compiled = StandIn(Found(finding=finding("gfx942"))), StandIn()

    assert asked(Judging(StandIn(), {"gfx942": left_out, "gfx950": compiled}), known=known)[0] is CLEAN
    assert left_out.asked == []
    assert len(compiled.asked) == 1
    assert seen == [(CASE, Domain(target="gfx942")), (CASE, Domain(target="gfx950"))]


def test_finding_is_confirmed_by_who_found_it() -> None:
    """A compiler's by the one for its target, with what was asked; any other by the engine."""
    engine, first, second = StandIn(), StandIn(), StandIn()
    judging = Judging(engine, {"gfx942": first, "gfx950": second})
    died: list[WorkerDied] = []
    of_compiler, of_engine = finding("gfx950"), finding("gfx942", "cpu")

    confirmed = [judging.confirmed(REF, SPEC, each, registry(), died.append) for each in (of_compiler, of_engine)]

    assert [each.message for each in confirmed if each] == ["confirmed"] * 2
    assert first.again == []
    assert second.again == [(EngineSpec(name=COMPILER, target="gfx950", placement="production"), of_compiler)]
    assert engine.again == [(SPEC, of_engine)]
    assert [death.how for death in died] == [COMPILER, "cpu"]


def test_closing() -> None:
    """Ends all, also where one of them does not end."""
    engine, first, second = StandIn(), StandIn(fails=True), StandIn()

    with pytest.raises(RuntimeError, match="does not end"):
        Judging(engine, {"gfx942": first, "gfx950": second}).close()

    assert [examiner.closed for examiner in (engine, first, second)] == [1, 1, 1]
