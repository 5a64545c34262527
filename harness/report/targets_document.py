"""The JSON form of a survey of targets."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tridiff.harness.doctor.environment import environment
from tridiff.harness.report.recording import finding_fields
from tridiff.harness.report.targets_text import CaseFile, headroom, known, notes, waivers
from tridiff.harness.runner.surveyed import Failing, Placed, Row
from tridiff.harness.runner.surveying import Survey
from tridiff.harness.targets.parts import part

SCHEMA = 1
"""Version of the document's form."""


def survey_document(survey: Survey, files: Mapping[str, CaseFile], *, error: str | None = None) -> dict[str, Any]:
    """Everything that the matrix says and more: all numbers of each placement, and each failure with its case.

    `files`: the case files by signature. `error`: what ended the survey early.
    """
    machine = environment()
    return {
        "schema": SCHEMA,
        "tridiff": machine["tridiff"]["version"],
        "triton": machine["triton"]["version"],
        "seed": survey.seed,
        "full": survey.full,
        "kernels": [kernel.name for kernel in survey.kernels],
        "unrunnable": list(survey.unrunnable),
        "targets": list(survey.targets),
        "plugins": list(survey.registry.plugins),
        "plugin_notes": list(survey.registry.notes),
        "budget": {"specialisations": survey.quota.specialisations, "seconds": survey.quota.seconds},
        "seconds": round(survey.elapsed, 3),
        "interrupted": survey.interrupted,
        "error": error,
        "rows": [_row(row) for row in survey.rows.values()],
        "findings": [_finding(survey, failing, files.get(failing.signature, CaseFile())) for failing in survey.failing],
        "waived": waivers(survey),
        "notes": [*known(survey), *notes(survey)],
        "environment": machine,
    }


def _row(row: Row) -> dict[str, Any]:
    limits = part(row.target)
    counted = ("cases", "clean", "failing", "unsupported", "skipped", "infrastructure", "shrink_runs", "deaths")
    return {
        "op": row.op,
        "kernel": row.kernel,
        "target": row.target,
        "limits": {"shared": limits.shared_bytes, "threads": limits.threads, "tensor_memory": limits.tensor_memory},
        **{name: getattr(row, name) for name in counted},
        "production": row.production,
        "specialisations": row.met,
        "placements": {name: _placed(placed, row.target) for name, placed in sorted(row.placements.items())},
        "failures": {check: len(failing) for check, failing in sorted(row.failures.items())},
        "reasons": row.reasons,
        "quarantined": row.quarantined,
        "tolerated": row.tolerated,
        "unexpected_passes": row.passes,
        "ended": row.ended or None,
    }


def _placed(placed: Placed, target: str) -> dict[str, Any]:
    room = headroom(placed.shared, target) if placed.shared_by else None
    return {
        "specialisations": len(placed.names),
        "dropped": len(placed.dropped),
        "shared": placed.shared,
        "shared_by": placed.shared_by or None,
        "headroom_percent": None if room is None else round(room, 1),
        "threads": placed.threads,
        "tensor_memory": placed.tensor_memory,
        "registers": placed.registers,
    }


def _finding(survey: Survey, failing: Failing, file: CaseFile) -> dict[str, Any]:
    smallest = failing.smallest
    fields = finding_fields(smallest.finding, file.path, survey.registry.plugins_for(smallest.finding.kernel))
    return {
        "signature": failing.signature,
        "line": fields["line"],
        "others": fields["others"],
        "tail": fields["tail"],
        "targets": list(failing.hits),
        "hits": failing.hits,
        "file": fields["file"],
        "reproduce": fields["reproduce"],
        "shrunk": bool(smallest.shrunk),
        "why": smallest.why or None,
        **fields["repro"],
    }
