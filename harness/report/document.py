"""The JSON form of what `prove` and `list` have to say; that of fuzz runs is in `run_document`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from tridiff.harness.api import CHECKS, SCHEMA, Kernel, to_json
from tridiff.harness.domains import Coverage
from tridiff.harness.engines.spec import EngineSpec
from tridiff.harness.registry import Registry
from tridiff.harness.report.domain_text import domain_document
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


def list_document(registry: Registry, kernels: Iterable[Kernel], coverage: Mapping[str, Coverage]) -> dict[str, Any]:
    """Ops, the `kernels` with their Faults and where they come from, and checks; `plugins` as they were given."""
    return {
        "schema": SCHEMA,
        "plugins": list(registry.plugins),
        "ops": list(registry.ops),
        "facets": {op.name: {name: facet.description for name, facet in op.facets.items()} for op in registry.ops.values()},
        "models": {op.name: {name: list(variants) for name, variants in op.models.items()} for op in registry.ops.values()},
        "kernels": [
            {
                "name": kernel.name,
                "op": kernel.op,
                "engines": list(kernel.engines),
                "domain": domain_document(kernel, coverage.get(kernel.name)),
                "module": kernel.module,
                "from": registry.source_of("kernel", kernel.name),
                "faults": [fault.name for fault in registry.faults.get(kernel.name, [])],
            }
            for kernel in kernels
        ],
        "checks": CHECKS,
    }
