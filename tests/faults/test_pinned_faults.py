"""Every fault is caught on the case that `tridiff prove` found for it: one run a fault, where a hunt takes up to some hundred.

`tests/faults/pinned/KERNEL.json` is what `tridiff prove --kernel KERNEL --json` printed; nightly runs hunt all faults anew. Those
that end the process they run in have hunts of their own in `test_faults`.
"""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hunting import SPEC

from tridiff.harness.api import COMPILER, DEADLY, Clean, Fault, Found, Kernel, Unsupported, from_json
from tridiff.harness.engines.spec import EngineSpec
from tridiff.harness.registry import builtin, runs_here
from tridiff.harness.runner.examine import KernelRef, examine
from tridiff.harness.runner.judging import PLACEMENT
from tridiff.harness.runner.prove import spec_for

FOLDER = Path(__file__).parent / "pinned"
FAULTS = [
    fault
    for faults in builtin().faults.values()
    for fault in faults
    # The code generator, which takes half a minute for one, is for `tridiff prove` alone.
    if (FOLDER / f"{fault.kernel}.json").exists() and not fault.checks <= DEADLY | {"compile_time"}
]
KERNELS = [kernel for kernel in builtin().kernels.values() if runs_here(kernel) and (FOLDER / f"{kernel.name}.json").exists()]


def pinned(kernel: str) -> dict[str, dict[str, Any]]:
    """What is pinned of each fault of a kernel, by name."""
    document = json.loads((FOLDER / f"{kernel}.json").read_text(encoding="utf-8"))
    return {entry["fault"]: entry for entry in document["faults"]}


def spec_of(fault: Fault) -> EngineSpec:
    """The engine and target by which a fault is caught; placed as in production where it is compiled."""
    spec = spec_for(fault, SPEC)
    return replace(spec, placement=PLACEMENT) if fault.checks <= COMPILER else spec


@pytest.mark.parametrize("kernel", KERNELS, ids=lambda kernel: kernel.name)
def test_faults_are_those_of_the_kernel(kernel: Kernel) -> None:
    """A new fault is proven and pinned, one that is gone leaves nothing behind, and each was caught by a check that it names."""
    entries = pinned(kernel.name)
    checks = {fault.name: sorted(fault.checks) for fault in builtin().faults[kernel.name]}

    assert {name: entry["expected"] for name, entry in entries.items()} == checks, f"run tridiff prove --kernel {kernel.name}"
    assert [name for name, entry in entries.items() if entry["caught_by"] not in entry["expected"]] == []


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: f"{fault.kernel}-{fault.name}")
def test_fault_is_caught(fault: Fault) -> None:
    """By a check that it names; without the fault the case is clean, or refused."""
    case = from_json(builtin().op(builtin().kernel(fault.kernel).op).case, pinned(fault.kernel)[fault.name]["case"])

    caught = examine(KernelRef(kernel=fault.kernel, fault=fault.name), spec_of(fault), case)
    clean = examine(KernelRef(kernel=fault.kernel), spec_of(fault), case)

    assert isinstance(caught, Found), caught
    assert caught.finding.check in fault.checks
    assert isinstance(clean, Clean | Unsupported), clean
