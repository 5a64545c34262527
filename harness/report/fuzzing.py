"""Shows a fuzz session: live progress, findings as they become minimal, a closing table or document."""

from __future__ import annotations

import json
import time
from pathlib import Path

from rich.console import Console

from tridiff.harness import repro
from tridiff.harness.report import document, text
from tridiff.harness.report.progress import Progress, progress
from tridiff.harness.runner.events import Event, FindingMinimal, FindingSeen, Tally
from tridiff.harness.runner.session import Session

WIDE = 100
"""Columns of a terminal below which the closing table leaves out the Op."""


class FuzzReport:
    """Listens to a session; writes case files to `folder` the moment a finding is seen, and again once it is minimal."""

    def __init__(self, out: Console, err: Console, folder: Path, *, as_json: bool) -> None:
        self._out = out
        self._err = err
        self._folder = folder
        self._as_json = as_json
        self._files: dict[str, Path] = {}
        self._shrunk: dict[str, bool] = {}
        self._session: Session | None = None
        self._progress: Progress | None = None
        self._started = time.monotonic()
        self._shrinking = ""

    def run(self, session: Session) -> None:
        """Run `session`, then show the outcome; what was found is shown also when tridiff itself fails."""
        self._session = session
        if not self._as_json:
            names = ", ".join(kernel.name for kernel in session.kernels)
            self._say(f"fuzzing {names} on engine {session.spec.name}, target {session.spec.target}, seed {session.seed}")
        try:
            with progress(self._err, self._line) as self._progress:
                session.run()
        finally:
            self._close(session)

    def listen(self, event: Event) -> None:
        """Keep files and progress up to date."""
        if isinstance(event, FindingSeen | FindingMinimal):
            signature = event.finding.signature()
            self._files[signature] = repro.write(self._folder, event.finding)
            self._shrinking = ""
        if isinstance(event, FindingSeen):
            self._shrinking = f"shrinking a finding of {event.finding.check}, "
        if isinstance(event, FindingMinimal):
            self._shrunk[event.finding.signature()] = event.shrunk
        if self._progress is not None:
            self._progress.update()

    def _close(self, session: Session) -> None:
        if self._as_json:
            self._out.print_json(json.dumps(document.fuzz_document(session, self._files, self._shrunk)))
            return
        for signature, finding in session.findings.items():
            hits = session.tallies[finding.kernel].hits.get(signature, 1)
            shrunk = self._shrunk.get(signature, False)
            plugins = session.registry.plugins_for(finding.kernel)
            block = text.finding_text(finding, file=self._files.get(signature), hits=hits, shrunk=shrunk, plugins=plugins)
            self._out.print(block, soft_wrap=True)
        wide = self._out.width >= WIDE
        table = text.fuzz_table(session.kernels, session.tallies, session.findings.values(), session.elapsed, with_op=wide)
        self._out.print(table)
        for line in text.reasons_text(session.tallies):
            self._say(line)
        self._say(self._verdict(session))

    def _verdict(self, session: Session) -> str:
        cases = sum(tally.examples for tally in session.tallies.values())
        found = len(session.findings)
        replayed = sum(tally.replayed for tally in session.tallies.values())
        besides = f", and {replayed} from lists and earlier runs" if replayed else ""
        early = "interrupted: " if session.interrupted else ""
        outcome = f"{found} finding{'s' * (found != 1)}, case files in {self._folder}" if found else "no findings"
        return f"{early}{cases} case{'s' * (cases != 1)}{besides} in {session.elapsed:.0f} s: {outcome}"

    def _line(self) -> str:
        elapsed = time.monotonic() - self._started
        tallies = self._session.tallies if self._session is not None else {}
        name, tally = next(reversed(tallies.items()), ("", Tally()))
        runs = tally.examples + tally.shrink_runs
        return (
            f"{name}: {self._shrinking}{tally.examples} cases, {runs / max(elapsed, 1e-9):.1f} cases/s, "
            f"{len(tally.specialisations)} specialisations, worst ratio {tally.worst_ratio:.3f}, "
            f"{len(self._shrunk)} findings, {elapsed:.0f} s"
        )

    def _say(self, line: str) -> None:
        self._out.print(line, markup=False, soft_wrap=True)
