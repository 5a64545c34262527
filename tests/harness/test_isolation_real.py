"""Real worker processes, with torch and Triton in them: the same verdicts as without, and a death in one of them."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import misbehaving
import pytest
from toy.strategies.scale import ScaleCase

from tridiff.harness.api import Clean, Found, to_json
from tridiff.harness.engines.spec import EngineSpec
from tridiff.harness.isolation.isolated import Isolated
from tridiff.harness.plugins import load
from tridiff.harness.runner.campaign import Budget, Campaign
from tridiff.harness.runner.events import CaseDone, Event, WorkerDied
from tridiff.harness.runner.examine import KernelRef, examine

PLUGINS = ("toy.planted",)


@pytest.fixture(scope="module")
def examiner() -> Iterator[Isolated]:
    """Workers for all tests: one takes seconds to start."""
    with contextlib.closing(Isolated()) as made:
        yield made


def test_verdicts_are_the_same(examiner: Isolated) -> None:
    """Clean or not, a case has the same outcome, to the last bit of its ratio."""
    known = load(PLUGINS)
    seen = set()
    for kernel in ("scale", "scale_wrong", "raises", "babbles"):
        for case in (ScaleCase(), ScaleCase(rows=3, columns=16, gap=2, factor=-0.5, seed=7), ScaleCase(columns=18)):
            ref = KernelRef(kernel=kernel, plugins=PLUGINS)

            isolated = examiner.examine(ref, EngineSpec(), case, known, shrinking=False, announce=lambda _: None)

            assert isolated == examine(ref, EngineSpec(), case, known)
            seen.add(isolated.finding.check if isinstance(isolated, Found) else type(isolated).__name__)
    assert seen == {"Clean", "mismatch", "launch"}


def test_twin_with_a_fault(examiner: Isolated) -> None:
    """Faults travel by name; the file of the twin is where it goes with the process, which will be killed."""
    known = load(PLUGINS)
    fault = known.faults["scale"][0]
    ref = KernelRef(kernel="scale", fault=fault.name, plugins=PLUGINS)
    case = ScaleCase(rows=2, columns=5, gap=1, factor=2.0)

    outcome = examiner.examine(ref, EngineSpec(), case, known, shrinking=False, announce=lambda _: None)

    assert outcome == examine(ref, EngineSpec(), case, known)
    assert examiner._worker is not None
    assert [path.name for path in examiner._worker._folder.glob("*/*")] == ["scale.py"]


def test_abort_within_a_launcher(examiner: Isolated) -> None:
    """It becomes one minimal finding on the author's line; the other examples complete."""
    events: list[Event] = []
    bad = ScaleCase(columns=misbehaving.FROM, gap=1)
    ref = KernelRef(kernel="aborts", plugins=PLUGINS)

    campaign = Campaign(
        ref, EngineSpec(), 0, Budget(examples=4), events.append, load(PLUGINS), first=[bad], examiner=examiner, models=("Toy",)
    )
    (finding,) = campaign.run().values()

    assert (finding.check, to_json(finding.case)) == ("crash", to_json(ScaleCase(columns=misbehaving.FROM)))
    assert finding.message.startswith(
        "the process that ran the kernel was killed by SIGABRT (an abort): LLVM ERROR: Cannot select"
    )
    assert (finding.line or "").startswith("misbehaving.py:")
    drawn = [event.outcome for event in events if isinstance(event, CaseDone) and not (event.shrinking or event.replayed)]
    assert [type(outcome) for outcome in drawn] == [Clean] * 4
    assert 3 <= sum(isinstance(event, WorkerDied) for event in events) <= 5
