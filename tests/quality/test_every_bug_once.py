"""How well a campaign lists bugs: a frequent one does not hide a rare one, and each is reported once, however often it is hit."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import strategies as st
from toy.family import registry
from toy.strategies.scale import ScaleCase

from tridiff.harness.api import Clean, Domain, Fault, Finding, Found, Outcome, Patch
from tridiff.harness.engines.spec import EngineSpec
from tridiff.harness.registry import Registry
from tridiff.harness.runner import campaign as module
from tridiff.harness.runner.campaign import Budget, Campaign
from tridiff.harness.runner.events import CaseDone, Event, FindingMinimal, FindingSeen, Tally
from tridiff.harness.runner.examine import KernelRef

EXAMPLES = 2_000
"""A bug that 1 case in 500 shows is missed in one such run of fifty; the seeds below are of the other forty-nine."""

FEW = 40
"""Enough for two of them at least."""

# Which cases show a bug, how many of all cases are reported as it, and the simplest of them. Where a case shows several, the
# frequent one is reported; so of the cases that show one of the others, half are not.
SHOWN: dict[str, tuple[Callable[[ScaleCase], bool], float, ScaleCase]] = {
    "launch": (lambda case: case.factor < 0, 1 / 2, ScaleCase(factor=-0.5)),
    "bounds": (lambda case: case.gap >= 24, 1 / 50, ScaleCase(gap=24)),
    "mismatch": (lambda case: case.rows >= 20 and case.columns >= 13, 1 / 500, ScaleCase(rows=20, columns=13)),
}
MINIMAL = {check: case for check, (_, _, case) in SHOWN.items()}

# Less rare ones as defects of the kernel, since each case costs some milliseconds there.
THREE_BUGS = Fault(
    name="three_bugs",
    kernel="scale",
    description="Large gaps are refused, the last row of large inputs is read too far, and the sign of the factor is lost.",
    patches=(
        Patch(
            old="rows, columns = x.shape\n",
            new="rows, columns = x.shape\n    if x.stride(0) - columns >= 22:\n        raise ValueError(f'gap {x.stride()}')\n",
        ),
        Patch(
            old="stride + at, mask=live, other",
            new="stride + at, mask=live | ((at == columns) & (at >= 11) & (row >= 15) & (row + 1 == tl.num_programs(0))), other",
        ),
        Patch(old="values * factor, mask", new="values * tl.abs(factor), mask"),
    ),
    checks=frozenset({"launch", "bounds", "mismatch"}),
)
MINIMAL_IN_KERNEL = {
    "launch": ScaleCase(gap=22),
    "bounds": ScaleCase(rows=16, columns=11),
    "mismatch": ScaleCase(factor=-0.5),
}
EXAMPLES_OF_KERNEL = 300


def cases(_domain: Domain, *, preset: bool = False) -> st.SearchStrategy[ScaleCase]:
    """Every field evenly and on its own: few enough choices each, and no two fields with as many (see `strategies.draws`)."""
    return st.builds(
        ScaleCase,
        rows=st.sampled_from(range(1, 21)),
        columns=st.sampled_from(range(1, 14)),
        gap=st.sampled_from(range(25)),
        factor=st.sampled_from((1.0, -0.5)),
        preset=st.just(preset),
    )


def known_bugs() -> Registry:
    """The toy family with the strategy above and the fault of three bugs."""
    known = registry()
    known.ops["scale"] = dataclasses.replace(known.op("scale"), strategy=cases, presets=lambda domain: cases(domain, preset=True))
    known.faults["scale"].append(THREE_BUGS)
    return known


def stand_in(_ref: KernelRef, _spec: EngineSpec, case: ScaleCase, _known: Registry) -> Outcome:
    """`examine` of a kernel with the three bugs; the frequent one hides the others."""
    check = reported_as(case)
    if check is None:
        return Clean(ratio=0.5)
    return Found(
        finding=Finding(
            check=check, message=f"at {case.columns}", line=None, op="scale", kernel="scale", engine="cpu", target="gfx942",
            case=case,
        )
    )  # fmt: skip


@dataclasses.dataclass
class Listed:
    """What a campaign reported."""

    events: list[Event]
    findings: dict[str, Finding]

    @property
    def drawn(self) -> list[ScaleCase]:
        """The cases that were drawn."""
        return [event.case for event in self.events if isinstance(event, CaseDone) and not event.shrinking]

    @property
    def tally(self) -> Tally:
        """Counts of the whole campaign."""
        tally = Tally()
        for event in self.events:
            if isinstance(event, CaseDone):
                tally.add(event)
        return tally

    def hits(self) -> Counter[str]:
        """Hits by check."""
        counts = self.tally.hits
        return Counter({finding.check: counts[signature] for signature, finding in self.findings.items()})


def listed(*, seed: int = 0, examples: int = EXAMPLES, fault: str | None = None, **changes: Any) -> Listed:
    """A campaign and what it reported."""
    events: list[Event] = []
    ref = KernelRef(kernel="scale", fault=fault)
    run = Campaign(ref, EngineSpec(), seed, Budget(examples=examples), events.append, known_bugs(), **changes)
    return Listed(events, run.run())


def complaints(run: Listed, minimal: dict[str, ScaleCase]) -> list[str]:
    """What is wrong with a list of bugs: one that is missing, not minimal, reported twice, or not counted."""
    found = {finding.check: finding.case for finding in run.findings.values()}
    wrong = [f"{check}: {found.get(check)}" for check in minimal.keys() | found.keys() if found.get(check) != minimal.get(check)]
    for kind in (FindingSeen, FindingMinimal):
        reported = Counter(event.finding.check for event in run.events if isinstance(event, kind))
        wrong += [f"{check}: reported {count} times" for check, count in reported.items() if count != 1]
    if len(run.findings) != len(minimal) or run.tally.hits.keys() != run.findings.keys():
        wrong.append(f"{len(run.findings)} findings, {len(run.tally.hits)} signatures")
    return wrong


def reported_as(case: ScaleCase) -> str | None:
    """The bug that is reported of a case."""
    return next((check for check, (shows, _, _) in SHOWN.items() if shows(case)), None)


@pytest.fixture
def staged(monkeypatch: pytest.MonkeyPatch) -> None:
    """`stand_in` is what campaigns of the test call."""
    monkeypatch.setattr(module, "examine", stand_in)


@pytest.mark.usefixtures("staged")
def test_a_frequent_bug_does_not_hide_a_rare_one() -> None:
    """Of 1 case in 2, in 50 and in 500: each is found once, minimal, and every hit of it is counted."""
    run = listed()

    reported = Counter(reported_as(case) for case in run.drawn)
    assert len(run.drawn) == EXAMPLES
    assert complaints(run, MINIMAL) == []
    for check, (_, rate, _) in SHOWN.items():
        assert run.hits()[check] == reported[check]
        # As many as a rate of this size gives in all but one of a thousand runs.
        assert reported[check] == pytest.approx(rate * EXAMPLES, abs=3.3 * (rate * EXAMPLES) ** 0.5)


def test_three_bugs_of_a_kernel() -> None:
    """The whole way, on the engine: whatever the failing cases say, they are three findings, each minimal."""
    run = listed(fault="three_bugs", examples=EXAMPLES_OF_KERNEL)

    assert complaints(run, MINIMAL_IN_KERNEL) == []
    assert run.tally.failing > EXAMPLES_OF_KERNEL / 3
    assert sum(run.hits().values()) == run.tally.failing


@pytest.mark.usefixtures("staged")
@pytest.mark.parametrize("broken", ["nothing is known", "ends with the first", "not shrunk"])
def test_the_test_sees_a_broken_campaign(broken: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """One that reports what it has reported, one that stops, and one that does not shrink are each told from a right one."""
    right = listed(examples=FEW)
    few = {finding.check: MINIMAL[finding.check] for finding in right.findings.values()}
    assert complaints(right, few) == []
    assert len(few) >= 2

    if broken == "nothing is known":
        monkeypatch.setattr(module._Hunt, "_is_wanted", lambda _self, _finding: True)
    if broken == "not shrunk":
        monkeypatch.setattr(module._Hunt, "_minimise", lambda _self: None)
        monkeypatch.setattr(module._Hunt, "_shrink", lambda _self, _case: None)

    assert complaints(listed(examples=FEW, stop_at_first=broken == "ends with the first"), few) != []
