"""The JSON form of what `prove` and `list` have to say; that of fuzz runs is in `run_document`."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from tridiff.harness.api import CHECKS, SCHEMA, to_json
from tridiff.harness.engines.spec import EngineSpec
from tridiff.harness.registry import Registry
from tridiff.harness.runner.prove import Proof


def prove_document(
    proofs: list[Proof], spec: EngineSpec, seed: int, examples: int, plugins: Iterable[str] = (), *, interrupted: bool = False
) -> dict[str, Any]:
    """One entry a Fault; `plugins` as they were given. Where `interrupted`, those Faults alone that were tried."""
    return {
        "schema": SCHEMA,
        "seed": seed,
        "engine": spec.name,
        "target": spec.target,
        "plugins": list(plugins),
        "max_examples": examples,
        "interrupted": interrupted,
        "faults": [
            {
                "fault": proof.fault.name,
                "kernel": proof.fault.kernel,
                "expected": sorted(proof.fault.checks),
                "target": proof.fault.target or spec.target,
                "caught_by": proof.finding.check if proof.finding else None,
                "examples": proof.examples,
                "shrunk": proof.shrunk if proof.finding else None,
                "case": to_json(proof.finding.case) if proof.finding else None,
            }
            for proof in proofs
        ],
    }


def list_document(registry: Registry) -> dict[str, Any]:
    """Ops, Kernels with their Faults and where they come from, and checks; `plugins` as they were given."""
    return {
        "schema": SCHEMA,
        "plugins": list(registry.plugins),
        "ops": list(registry.ops),
        "models": {op.name: {name: list(variants) for name, variants in op.models.items()} for op in registry.ops.values()},
        "kernels": [
            {
                "name": kernel.name,
                "op": kernel.op,
                "engines": list(kernel.engines),
                "module": kernel.module,
                "from": registry.source_of("kernel", kernel.name),
                "faults": [fault.name for fault in registry.faults.get(kernel.name, [])],
            }
            for kernel in registry.kernels.values()
        ],
        "checks": CHECKS,
    }
