"""Every fault of every family that shows when it runs is caught by a check that it names; most of them soon.

Those that show when they are compiled are in `test_compiled_faults`; `tridiff prove` hunts all.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from filelock import FileLock

from tridiff.harness.api import COMPILER, DEADLY, Fault
from tridiff.harness.engines.spec import EngineSpec
from tridiff.harness.isolation.isolated import Isolated, Limits
from tridiff.harness.registry import builtin
from tridiff.harness.runner.prove import prove_fault

EXAMPLES = 200
"""Examples within which every fault must be caught."""
SOON = 20
"""Examples within which three quarters of them must be."""
SPEC = EngineSpec(max_steps=2_000)
"""Legal cases take some hundred steps, so a hang need not run for a minute until it counts as one."""
LIMITS = Limits(most_bytes=2 << 30)
"""So that memory need not be filled further than it takes to tell."""

FAULTS = [fault for faults in builtin().faults.values() for fault in faults if not fault.checks <= COMPILER]


@dataclass(frozen=True)
class Catch:
    """Which check caught a fault, "" for none, after how many examples, and how many failed with other checks."""

    check: str
    examples: int
    strays: int


@pytest.fixture(scope="session")
def caught(tmp_path_factory: pytest.TempPathFactory, worker_id: str) -> Iterator[Callable[[Fault], Catch]]:
    """Hunts a fault, without shrinking, in a process of its own where it would end this one; once for all workers."""
    base = tmp_path_factory.getbasetemp()
    folder = (base if worker_id == "master" else base.parent) / "faults"
    folder.mkdir(exist_ok=True)
    with contextlib.closing(Isolated(LIMITS)) as examiner:
        yield lambda fault: _once(
            folder / f"{fault.kernel}-{fault.name}.json", fault, examiner if fault.checks <= DEADLY else None
        )


def _once(path: Path, fault: Fault, examiner: Isolated | None) -> Catch:
    with FileLock(f"{path}.lock"):
        if not path.exists():
            proof = prove_fault(fault, SPEC, examples=EXAMPLES, shrink_seconds=0.0, examiner=examiner)
            check = "" if proof.finding is None else proof.finding.check
            path.write_text(json.dumps([check, proof.examples, proof.strays]), encoding="utf-8")
    return Catch(*json.loads(path.read_text(encoding="utf-8")))


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
