"""Records as a run writes them, made by hand."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from tridiff.harness.api import Finding
from tridiff.harness.report.recording import finding_fields
from tridiff.harness.report.records import check
from tridiff.harness.report.summary import Summary

ENVIRONMENT = {"python": "3.11.7", "torch": {"version": "2.13.0", "commit": None}, "devices": [{"arch": "gfx942"}], "rocm": None}


def run(*kernels: str, **changed: Any) -> dict[str, Any]:
    """The record that begins a run of toy `kernels`."""
    return {
        "record": "run",
        "schema": 1,
        "started": "2026-03-01T12:00:00+00:00",
        "seed": 0,
        "engine": "cpu",
        "target": "gfx942",
        "verdicts": [],
        "kernels": [{"op": "scale", "kernel": kernel, "plugins": []} for kernel in kernels or ("scale",)],
        "models": [],
        "domains": {},
        "unrunnable": [],
        "plugins": [],
        "plugin_notes": [],
        "waived": [],
        "budget": {"examples": 20, "seconds": None, "shrink_seconds": 60.0},
        "shard": None,
        "folder": "out/findings",
        "environment": ENVIRONMENT,
        **changed,
    }


def case(outcome: str = "clean", **changed: Any) -> dict[str, Any]:
    """A drawn case of `scale`."""
    fields: dict[str, dict[str, Any]] = {
        "clean": {"ratio": 0.5, "conclusive": True, "specialisations": ["a"]},
        "found": {"signature": "scale-mismatch-00000000", "specialisations": ["a"]},
        "skipped": {"reason": "no address space"},
        "unsupported": {"reason": "the operation tt.scan", "line": "scale.py:29"},
        "infrastructure": {"reason": "died of SIGSEGV", "tail": ["last words"]},
        "quarantined": {"entry": "00000001"},
        "tolerated": {
            "entry": "00000002",
            "signature": "scale-mismatch-00000000",
            "message": "out[0] is 2, expected 1",
            "specialisations": ["a"],
        },
    }
    known = {"record": "case", "seconds": 1.0, "kernel": "scale", "case": "0123456789ab", "kind": "drawn", "outcome": outcome}
    return {**known, **fields.get(outcome, {}), **changed}


def finding(known: Finding, **changed: Any) -> dict[str, Any]:
    """The record of a minimal finding, without a case file."""
    stage = {"record": "finding", "seconds": 2.0, "stage": "minimal", "examples": 3, "shrunk": True, "why": None}
    return {**stage, **finding_fields(known, None), "unwritten": "No space left on device", **changed}


def waived(entry: str = "00000002", **changed: Any) -> dict[str, Any]:
    """An entry of the ledger for `scale`, as the record that begins a run has it: a tolerated one."""
    return {
        "entry": entry,
        "file": "known-failures.toml",
        "number": int(entry),
        "kernel": "scale",
        "status": "tolerated",
        "whole": False,
        "scope": "mismatch where columns=3",
        "reason": "the tail is summed twice",
        "issue": "https://example.org/1",
        "owner": "@kernels",
        "expires": "2027-01-31",
        "days": 71,
        "untried": None,
        **changed,
    }


def unexpected_pass(**changed: Any) -> dict[str, Any]:
    """The record of a known failure that does not fail."""
    known = {"kernel": "scale", "entry": "00000002", "case": {"rows": 1, "columns": 3}, "differing": {"columns": 3}}
    return {"record": "unexpected_pass", "seconds": 0.5, **known, "how": "is clean", **changed}


def death(**changed: Any) -> dict[str, Any]:
    """The record of a worker's death."""
    how = {"how": "the process died of SIGSEGV", "tail": ["last words"], "confirming": False}
    return {"record": "worker_died", "seconds": 1.5, "kernel": "scale", "case": {"rows": 1}, **how, **changed}


def distribution(**properties: Any) -> dict[str, Any]:
    """The record of what the cases of `scale` were."""
    return {"record": "distribution", "seconds": 1.5, "kernel": "scale", "properties": properties}


def end(**changed: Any) -> dict[str, Any]:
    """The record of a run that came to its end."""
    known: dict[str, Any] = {"interrupted": False, "exit": 0, "error": None, "lost": 0, "totals": {}}
    return {"record": "summary", "seconds": 9.0, **known, **changed}


def folded(records: Iterable[dict[str, Any]]) -> Summary:
    """The sum of `records`, each of which is well formed; the first begins the run."""
    first, *others = map(check, records)
    summary = Summary(first)
    for record in others:
        summary.add(record)
    return summary
