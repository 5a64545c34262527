"""From the events of a session to records: into a file, and into the sum that is shown."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
import time
from collections.abc import Callable, Iterable
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from tridiff.harness.api import (
    CHECKS,
    Clean,
    Finding,
    Found,
    Infrastructure,
    Judged,
    Quarantined,
    Skipped,
    Tolerated,
    Unsupported,
    to_json,
)
from tridiff.harness.doctor.environment import environment
from tridiff.harness.engines.spec import UsageError
from tridiff.harness.ledger.confirming import untried
from tridiff.harness.report.domain_text import domain_document
from tridiff.harness.report.eventfile import EventFile
from tridiff.harness.report.records import SCHEMA, Record
from tridiff.harness.report.summary import Distribution, Summary, add_words
from tridiff.harness.report.verdict import Exit, verdict
from tridiff.harness.repro import as_json, command
from tridiff.harness.runner.events import CaseDone, Event, FindingMinimal, FindingSeen, KernelDone, UnexpectedPass, WorkerDied
from tridiff.harness.runner.session import Session


class Recording:
    """The records of `session`, written to `file` and folded into `summary` as they come; as a context, up to its end.

    `folder`: where case files go, as the user is told. `shard`: "I/N" of a run that is one of several. `named`: what the user
    is told of the name of a plug-in.
    """

    def __init__(
        self,
        session: Session,
        file: EventFile,
        *,
        folder: Path,
        shard: str | None = None,
        named: Callable[[str], str] = str,
    ) -> None:
        self._session = session
        self._file = file
        self._named = named
        self._started = time.monotonic()
        self._distributions: dict[str, Distribution] = {}
        run = {
            **_run(session),
            **self._kernels(),
            "waived": _waived(session),
            "shard": shard,
            "folder": str(folder),
            "environment": environment(),
        }
        self.summary = Summary(run)
        file.write(run)

    def __enter__(self) -> Recording:  # noqa: PYI034 - nobody derives from it, and Self is Python 3.11's
        return self

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        self.end(error)

    def _kernels(self) -> dict[str, Any]:
        kernels = self._session.kernels
        return {
            "kernels": [
                {"op": kernel.op, "kernel": kernel.name, "plugins": self._plugins_for(kernel.name)} for kernel in kernels
            ],
            "plugins": [self._named(name) for name in self._session.registry.plugins],
            "plugin_notes": list(self._session.registry.notes),
        }

    def _plugins_for(self, kernel: str) -> list[str]:
        return [self._named(name) for name in self._session.registry.plugins_for(kernel)]

    @property
    def elapsed(self) -> float:
        """Seconds since the beginning, to the millisecond."""
        return round(time.monotonic() - self._started, 3)

    def event(self, event: Event, *, path: Path | None = None, unwritten: str | None = None) -> None:
        """Record what happened; `path`: the case file of a finding, or why it is `unwritten`."""
        if isinstance(event, CaseDone):
            self._add(_case(event))
            add_words(self._distributions.setdefault(event.kernel, {}), event.properties)
        elif isinstance(event, KernelDone):
            self._distribution(event.kernel)
        elif isinstance(event, WorkerDied):
            self._add(_death(event))
        elif isinstance(event, UnexpectedPass):
            self._add(_pass(event))
        elif isinstance(event, FindingSeen | FindingMinimal):
            self._add(self._finding(event, path, unwritten))

    def end(self, error: BaseException | None = None) -> None:
        """Record how the run ended: `error` is what it raised."""
        for kernel in list(self._distributions):  # those of kernels that were interrupted
            self._distribution(kernel)
        ending = {
            "record": "summary",
            "seconds": self.elapsed,
            "interrupted": self._session.interrupted,
            "exit": 0 if error is None else int(_exit(error)),
            "error": None if error is None else one_line(error),
            "lost": 0,
            "totals": self.summary.totals(),
        }
        self.summary.add(ending)
        ending["exit"] = int(verdict(self.summary).code)
        self._file.write({**ending, "lost": self._file.lost})  # of the sum in memory nothing is lost

    def _distribution(self, kernel: str) -> None:
        """Record what the kernel's cases were, once its share has ended: in every record of a case it would cost too much."""
        properties = self._distributions.pop(kernel, {})
        if properties:
            self._add({"record": "distribution", "kernel": kernel, "properties": properties})

    def _finding(self, event: FindingSeen | FindingMinimal, path: Path | None, unwritten: str | None) -> dict[str, Any]:
        minimal = isinstance(event, FindingMinimal)
        return {
            "record": "finding",
            "stage": "minimal" if minimal else "seen",
            "examples": event.examples,
            "shrunk": event.shrunk if isinstance(event, FindingMinimal) else None,
            "why": event.why or None if isinstance(event, FindingMinimal) else None,
            **finding_fields(event.finding, path, self._plugins_for(event.finding.kernel)),
            "unwritten": unwritten,
        }

    def _add(self, record: dict[str, Any]) -> None:
        timed: Record = {"record": record.pop("record"), "seconds": self.elapsed, **record}
        self.summary.add(timed)
        self._file.write(timed)


def _exit(error: BaseException) -> Exit:
    """The exit code of the command that ends with `error`."""
    return Exit.USAGE if isinstance(error, UsageError | KeyboardInterrupt) else Exit.HARNESS


def _run(session: Session) -> dict[str, Any]:
    return {
        "record": "run",
        "schema": SCHEMA,
        "started": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "seed": session.seed,
        "engine": session.spec.name,
        "target": session.spec.target,
        "verdicts": list(session.verdicts),
        "models": list(session.models),
        "domains": {kernel.name: domain_document(kernel, session.coverage.get(kernel.name)) for kernel in session.kernels},
        "unrunnable": list(session.unrunnable),
        "budget": dataclasses.asdict(session.budget),
    }


def _waived(session: Session) -> list[dict[str, Any]]:
    """The entries of the ledger for the kernels of the run, those that are left out included."""
    untold = {
        waiver.entry.key: untried(session, waiver)
        for kernel in session.kernels
        for waiver in session.waivers.tolerated(kernel.name)
    }
    entries = session.waivers.concerning([*session.kernels, *session.left_out])
    return [{**entry.record(), "untried": untold.get(entry.key) or None} for entry in entries]


def _case(event: CaseDone) -> dict[str, Any]:
    return {
        "record": "case",
        "kernel": event.kernel,
        "case": digest(event.case),
        "kind": "shrinking" if event.shrinking else "replayed" if event.replayed else "drawn",
        **_outcome(event.outcome),
    }


def _outcome(outcome: Judged) -> dict[str, Any]:
    match outcome:
        case Clean():
            ratio = outcome.ratio if math.isfinite(outcome.ratio) else None  # which JSON cannot express
            names = list(outcome.specialisations)
            return {"outcome": "clean", "ratio": ratio, "conclusive": outcome.conclusive, "specialisations": names}
        case Found():
            names = list(outcome.specialisations)
            return {"outcome": "found", "signature": outcome.finding.signature(), "specialisations": names}
        case Skipped():
            return {"outcome": "skipped", "reason": outcome.reason}
        case Unsupported():
            return {"outcome": "unsupported", "reason": outcome.reason, "line": outcome.line}
        case Infrastructure():
            return {"outcome": "infrastructure", "reason": outcome.reason, "tail": list(outcome.tail)}
        case Quarantined() | Tolerated():
            return _known(outcome)


def _known(outcome: Quarantined | Tolerated) -> dict[str, Any]:
    if isinstance(outcome, Quarantined):
        return {"outcome": "quarantined", "entry": outcome.entry}
    told = {"signature": outcome.finding.signature(), "message": outcome.finding.message}
    return {"outcome": "tolerated", "entry": outcome.entry, **told, "specialisations": list(outcome.specialisations)}


def _death(event: WorkerDied) -> dict[str, Any]:
    return {
        "record": "worker_died",
        "kernel": event.kernel,
        "case": to_json(event.case),
        "how": event.how,
        "tail": list(event.tail),
        "confirming": event.confirming,
    }


def _pass(event: UnexpectedPass) -> dict[str, Any]:
    return {
        "record": "unexpected_pass",
        "kernel": event.kernel,
        "entry": event.entry,
        "case": to_json(event.case),
        "differing": differing(event.case),
        "how": event.how,
    }


def digest(case: Any) -> str:
    """12 hexadecimal digits by which the Cases of a run can be told apart, whatever the run."""
    content = json.dumps(to_json(case), separators=(",", ":")).encode()
    return hashlib.blake2b(content, digest_size=6).hexdigest()


def finding_fields(finding: Finding, path: Path | None, plugins: Iterable[str] = ()) -> dict[str, Any]:
    """What the records and the blocks of the terminal say of a finding; `path`: its case file, which needs `plugins`."""
    return {
        "signature": finding.signature(),
        "meaning": CHECKS[finding.check],
        "line": finding.line,
        "others": list(dict.fromkeys(finding.others)),
        "tail": list(finding.tail),
        "differing": differing(finding.case),
        "file": None if path is None else str(path),
        "reproduce": None if path is None else command(path, plugins),
        "repro": as_json(finding),
    }


def differing(case: Any) -> dict[str, Any]:
    """The fields of `case` that have no default or differ from it, in order."""
    changed = {field.name for field in dataclasses.fields(case) if getattr(case, field.name) != field.default}
    return {name: value for name, value in to_json(case).items() if name in changed}


def one_line(error: BaseException) -> str:
    """The error's message in one line, its kind where it has none."""
    return " ".join(str(error).split()) or type(error).__name__
