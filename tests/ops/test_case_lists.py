"""The committed lists of cases: they mean the same whatever becomes of the strategies, and every kernel of the Op passes them."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import pytest

from tridiff.harness.api import Clean
from tridiff.harness.case_lists import CaseList, cases_for, read_all
from tridiff.harness.engines.spec import EngineSpec
from tridiff.harness.registry import builtin
from tridiff.harness.runner.campaign import Budget, Campaign
from tridiff.harness.runner.events import CaseDone, Event
from tridiff.harness.runner.examine import KernelRef

FOLDER = Path(__file__).resolve().parents[1] / "cases"
PARTS = 4
"""Tests of one kernel: they run in parallel under xdist."""


@cache
def lists() -> list[CaseList]:
    """All committed lists."""
    return read_all([FOLDER], builtin())


def test_every_op_has_a_list() -> None:
    """Of 100 cases or more, of each Op with a kernel; a new family commits its own."""
    counts = {name: sum(len(given.cases) for given in lists() if given.op == name) for name in builtin().ops}

    assert all(count >= 100 for count in counts.values()), counts


@pytest.mark.parametrize("part", range(PARTS))
def test_no_finding(tridiff_kernel: str, part: int) -> None:
    """No committed case fails, every one is judged, and none is left out on its target."""
    kernel = builtin().kernel(tridiff_kernel)
    for given in lists():
        cases = cases_for(kernel, [given])[part::PARTS]
        done: list[Event] = []

        found = Campaign(
            KernelRef(kernel=kernel.name), EngineSpec(target=given.target), 0, Budget(examples=0), done.append, first=cases
        ).run()

        outcomes = [event.outcome for event in done if isinstance(event, CaseDone)]
        assert found == {}
        assert len(outcomes) == len(cases)
        assert [outcome for outcome in outcomes if not isinstance(outcome, Clean)] == []
        assert sum(isinstance(outcome, Clean) and not outcome.conclusive for outcome in outcomes) <= len(cases) / 4
