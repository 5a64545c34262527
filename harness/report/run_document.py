"""The JSON form of a run, or of several, from their sums alone."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tridiff.harness.report import waived
from tridiff.harness.report.run_text import plugin_notes
from tridiff.harness.report.summary import Counts, Summary, most_first

SCHEMA = 1
"""Version of the document's form."""


def runs_document(runs: Sequence[Summary]) -> dict[str, Any]:
    """The document of the run; of several, a list of them."""
    if len(runs) == 1:
        return run_document(runs[0])
    return {"schema": SCHEMA, "runs": [run_document(run) for run in runs]}


def run_document(summary: Summary) -> dict[str, Any]:
    """Everything the closing table says, and each finding with its number of hits."""
    run = summary.run
    return {
        "schema": SCHEMA,
        "seed": run["seed"],
        "engine": run["engine"],
        "target": run["target"],
        "plugins": run["plugins"],
        "plugin_notes": plugin_notes([summary]),
        "shard": run["shard"],
        "seconds": summary.seconds,
        "interrupted": summary.interrupted,
        "ended": not summary.killed,
        "error": summary.error,
        "lost": summary.lost,
        "kernels": [{**_counts(counts), "domain": run["domains"].get(counts.kernel)} for counts in summary.kernels.values()],
        "unrunnable": run["unrunnable"],
        "findings": [_finding(summary, signature) for signature in summary.findings],
        "waived": waived.document(summary),
        "infrastructure": [
            {"kernel": name, "reason": reason, "cases": deaths.cases, "tail": list(deaths.tail)}
            for name, counts in summary.kernels.items()
            for reason, deaths in counts.infrastructure.items()
        ],
        "environment": run["environment"],
    }


def _counts(counts: Counts) -> dict[str, Any]:
    return {
        "op": counts.op,
        "kernel": counts.kernel,
        "cases": counts.cases,
        "replayed": counts.replayed,
        "shrink_runs": counts.shrink_runs,
        "clean": counts.clean,
        "inconclusive": counts.inconclusive,
        "failing": counts.failing,
        "skipped": counts.skipped,
        "unsupported": counts.unsupported,
        "infrastructure": counts.in_infrastructure,
        "quarantined": sum(counts.quarantined.values()),
        "tolerated": sum(counts.tolerated.values()),
        "worker_deaths": counts.worker_deaths,
        "reasons": counts.reasons,
        "specialisations": len(counts.specialisations),
        "worst_ratio": counts.worst_ratio,
        "properties": {name: dict(most_first(words)) for name, words in counts.properties.items()},
    }


def _finding(summary: Summary, signature: str) -> dict[str, Any]:
    """The case file, with its signature, source line, the other checks that fired, and how to run it again."""
    record = summary.findings[signature]
    return {
        "signature": signature,
        "line": record["line"],
        "others": record["others"],
        "tail": record["tail"],
        "hits": summary.hits(signature),
        "file": record["file"],
        "reproduce": record["reproduce"],
        "shrunk": bool(record["shrunk"]),
        **record["repro"],
    }
