"""Every fault of every family is caught by a check that it names; most of them soon."""

from __future__ import annotations

import functools

import pytest

from tridiff.harness.api import Fault
from tridiff.harness.engines.spec import EngineSpec
from tridiff.harness.registry import builtin
from tridiff.harness.runner.prove import Proof, prove_fault

EXAMPLES = 200
"""Examples within which every fault must be caught."""
SOON = 20
"""Examples within which three quarters of them must be."""
SPEC = EngineSpec(max_steps=2_000)
"""Legal cases take some hundred steps, so a hang need not run for a minute until it counts as one."""

FAULTS = [fault for faults in builtin().faults.values() for fault in faults]


@functools.cache
def proof_of(fault: Fault) -> Proof:
    """Hunt the fault, without shrinking; once in a process."""
    return prove_fault(fault, SPEC, examples=EXAMPLES, shrink_seconds=0.0)


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: f"{fault.kernel}-{fault.name}")
def test_fault_is_caught(fault: Fault) -> None:
    """An expected check fires within the budget."""
    proof = proof_of(fault)

    assert proof.finding is not None, f"missed within {proof.examples} examples; {proof.strays} failed with other checks"
    assert proof.finding.check in fault.checks
    assert proof.examples <= EXAMPLES


def test_most_faults_are_caught_soon() -> None:
    """Three quarters of all faults need few examples, so a short run before a merge is worth its time."""
    late = [proof.fault.name for proof in map(proof_of, FAULTS) if not (proof.caught and proof.examples <= SOON)]

    assert len(late) <= len(FAULTS) / 4, f"caught late or missed: {', '.join(late)}"
