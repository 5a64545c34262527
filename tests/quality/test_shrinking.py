"""How well findings shrink: a planted defect ends as the case that a person would write into a bug report."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hunting import MINIMAL, Catch

from tridiff.harness.api import Fault, from_json
from tridiff.harness.registry import builtin

KERNEL = "decode_attention"
MOST_RUNS = 60
"""Cases that may be run to minimise one finding."""


@pytest.mark.parametrize("name", MINIMAL)
def test_minimal_case(caught: Callable[[Fault], Catch], name: str) -> None:
    """Nothing is left in the case that the defect does not need, and it takes no more than some hundred runs to get there."""
    known = builtin()

    catch = caught(known.fault(KERNEL, name))

    case_type = known.op(KERNEL).case
    assert catch.check
    assert catch.shrunk
    assert from_json(case_type, catch.case) in [case_type(**fields) for fields in MINIMAL[name]]
    assert catch.runs <= MOST_RUNS
