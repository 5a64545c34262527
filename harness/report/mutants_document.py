"""The JSON form of hunts of mutants."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tridiff.harness.doctor.environment import environment
from tridiff.harness.report.mutants_text import by_check
from tridiff.harness.runner.mutant_hunt import EQUIVALENT, KILLED, STILLBORN, SURVIVED, Hunt
from tridiff.harness.runner.mutating import Mutating

SCHEMA = 1
"""Version of the document's form."""


def mutants_document(runs: Sequence[Mutating], *, error: str | None = None, min_score: float | None = None) -> dict[str, Any]:
    """Everything that the tables say and more: each mutant, what was changed, and what became of it.

    `error`: what ended the run early. Kernels that were not begun are left out.
    """
    known = environment()
    return {
        "schema": SCHEMA,
        "tridiff": known["tridiff"]["version"],
        "triton": known["triton"]["version"],
        "interrupted": any(run.interrupted for run in runs),
        "error": error,
        "min_score": min_score,
        "kernels": [_kernel(run) for run in runs],
        "environment": known,
    }


def _kernel(run: Mutating) -> dict[str, Any]:
    to_kill = run.examples_to_kill
    return {
        "kernel": run.kernel.name,
        "op": run.kernel.op,
        "engine": run.spec.name,
        "target": run.spec.target,
        "plugins": list(run.registry.plugins),
        "seed": run.seed,
        "budget": {"examples": run.quota.examples, "mutants": run.quota.mutants, "seconds": run.quota.seconds},
        "only": list(run.only),
        "seconds": round(run.elapsed, 3),
        "cases": len(run.cases),
        "left_out": run.left_out,
        "unsteady": run.unsteady,
        "not_mutated": run.hidden,
        "mutants": len(run.mutants),
        "tried": len(run.hunts),
        "cut_short": run.cut_short,
        **{fate: len(run.by_fate(fate)) for fate in (EQUIVALENT, STILLBORN, KILLED, SURVIVED)},
        "by_check": by_check(list(run.hunts.values())),
        "score": None if run.score is None else round(run.score, 2),
        "examples_to_kill": None if to_kill is None else {"median": to_kill[0], "most": to_kill[1]},
        "hunts": [_hunt(run.hunts[mutant.name]) for mutant in run.mutants if mutant.name in run.hunts],
    }


def _hunt(hunt: Hunt) -> dict[str, Any]:
    mutant = hunt.mutant
    return {
        "mutant": mutant.name,
        "operator": mutant.operator,
        "function": mutant.rewrite.function,
        "line": f"{mutant.file}:{mutant.line}",
        "before": list(mutant.before),
        "after": list(mutant.after),
        "fate": hunt.fate,
        "check": hunt.check or None,
        "message": hunt.message or None,
        "examples": hunt.examples,
        "judged": hunt.judged,
        "reason": hunt.reason or None,
    }
