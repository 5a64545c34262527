"""Every fault that shows when it runs is found by a hunt among drawn cases; most of them soon.

In a pull request these are the faults with a known minimal case that is found soon, and those that end a process; in nightly runs
all. What becomes of the others, and of those that show when they are compiled, is in `test_pinned_faults`.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from hunting import DUE, EXAMPLES, Catch

from tridiff.harness.api import COMPILER, DEADLY, Fault
from tridiff.harness.profiles import is_nightly
from tridiff.harness.registry import builtin

SOON = 20
"""Examples within which three quarters of them must be."""


def is_pinned(kernel: str) -> bool:
    """Whether the cases in which its faults are caught are kept."""
    return (Path(__file__).parent / "pinned" / f"{kernel}.json").exists()


FAULTS = [
    fault
    for faults in builtin().faults.values()
    for fault in faults
    if not fault.checks <= COMPILER
    and (is_nightly() or fault.checks <= DEADLY or fault.name in DUE.get(fault.kernel, {}) or not is_pinned(fault.kernel))
]


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: f"{fault.kernel}-{fault.name}")
def test_fault_is_caught(caught: Callable[[Fault], Catch], fault: Fault) -> None:
    """An expected check fires within the budget."""
    catch = caught(fault)

    assert catch.check, f"missed within {catch.examples} examples; {catch.strays} failed with other checks"
    assert catch.check in fault.checks
    assert catch.examples <= EXAMPLES


def test_most_faults_are_caught_soon(caught: Callable[[Fault], Catch]) -> None:
    """Three quarters of all faults need few examples, so a short run before a merge is worth its time."""
    catches = {fault.name: caught(fault) for fault in FAULTS}

    late = [name for name, catch in catches.items() if not catch.check or catch.examples > SOON]
    assert len(late) <= len(FAULTS) / 4, f"caught late or missed: {', '.join(late)}"
