"""Every fault of every family that shows when it runs is caught by a check that it names; most of them soon.

Those that show when they are compiled are in `test_compiled_faults`; `tridiff prove` hunts all.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hunting import EXAMPLES, Catch

from tridiff.harness.api import COMPILER, Fault
from tridiff.harness.registry import builtin

SOON = 20
"""Examples within which three quarters of them must be."""

FAULTS = [fault for faults in builtin().faults.values() for fault in faults if not fault.checks <= COMPILER]


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
