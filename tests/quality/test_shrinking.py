"""How well findings shrink: a planted defect ends as the case that a person would write into a bug report."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hunting import DUE, Catch

from tridiff.harness.api import Fault, from_json
from tridiff.harness.registry import builtin

MOST_RUNS = 60
"""Cases that may be run to minimise one finding."""


@pytest.mark.parametrize(("kernel", "name"), [(kernel, name) for kernel, cases in DUE.items() for name in cases])
def test_minimal_case(caught: Callable[[Fault], Catch], kernel: str, name: str) -> None:
    """Nothing is left in the case that the defect does not need, and it takes no more than some hundred runs to get there."""
    known = builtin()

    catch = caught(known.fault(kernel, name))

    case_type = known.op(known.kernel(kernel).op).case
    assert catch.check
    assert catch.shrunk
    assert from_json(case_type, catch.case) in [case_type(**fields) for fields in DUE[kernel][name]]
    assert catch.runs <= MOST_RUNS
