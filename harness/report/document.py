"""The JSON form of what a run found."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from tridiff.harness.api import CHECKS, SCHEMA, Finding, to_json
from tridiff.harness.engines.spec import EngineSpec
from tridiff.harness.registry import Registry
from tridiff.harness.repro import as_json, command
from tridiff.harness.runner.events import Tally
from tridiff.harness.runner.prove import Proof
from tridiff.harness.runner.session import Session


def fuzz_document(session: Session, files: Mapping[str, Path], shrunk: Mapping[str, bool]) -> dict[str, Any]:
    """Everything the closing table says, and each Finding with its number of hits.

    `files`, `shrunk`: by signature, the case file of a Finding and whether its Case is minimal.
    """
    return {
        "schema": SCHEMA,
        "seed": session.seed,
        "engine": session.spec.name,
        "target": session.spec.target,
        "plugins": list(session.registry.plugins),
        "seconds": round(session.elapsed, 3),
        "interrupted": session.interrupted,
        "kernels": [
            {"op": kernel.op, "kernel": kernel.name, **_counts(session.tallies.get(kernel.name, Tally()))}
            for kernel in session.kernels
        ],
        "findings": [
            finding_document(finding, session, files.get(signature), shrunk=shrunk.get(signature, False))
            for signature, finding in session.findings.items()
        ],
    }


def _counts(tally: Tally) -> dict[str, Any]:
    return {
        "cases": tally.examples,
        "shrink_runs": tally.shrink_runs,
        "clean": tally.clean,
        "inconclusive": tally.inconclusive,
        "failing": tally.failing,
        "skipped": tally.skipped,
        "unsupported": tally.unsupported,
        "reasons": tally.reasons,
        "specialisations": len(tally.specialisations),
        "worst_ratio": tally.worst_ratio,
    }


def finding_document(finding: Finding, session: Session, file: Path | None, *, shrunk: bool) -> dict[str, Any]:
    """The finding's case file, with its signature, source line, the other checks that fired, and how to run it again."""
    signature = finding.signature()
    plugins = session.registry.plugins_for(finding.kernel)
    return {
        "signature": signature,
        "line": finding.line,
        "others": list(dict.fromkeys(finding.others)),
        "hits": session.tallies[finding.kernel].hits.get(signature, 1),
        "file": None if file is None else str(file),
        "reproduce": None if file is None else command(file, plugins),
        "shrunk": shrunk,
        **as_json(finding),
    }


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
