"""Shows a fuzz session: live progress, findings as they become minimal, a closing table or document."""

from __future__ import annotations

import time
from pathlib import Path

from rich.console import Console

from tridiff.harness import repro
from tridiff.harness.report.eventfile import EventFile
from tridiff.harness.report.figures import ratio
from tridiff.harness.report.outputs import Outputs
from tridiff.harness.report.progress import Progress, progress
from tridiff.harness.report.recording import Recording
from tridiff.harness.report.run_text import headline, plugin_notes, speed
from tridiff.harness.report.summary import Counts
from tridiff.harness.report.verdict import Verdict, verdict, without_output
from tridiff.harness.runner.events import Event, FindingMinimal, FindingSeen
from tridiff.harness.runner.session import Session


class FuzzReport:
    """Listens to a session; writes case files to `folder` the moment a finding is seen, and again once it is minimal.

    `events`: gets a record of whatever happens. `shard`: "I/N" of a run that is one of several.
    """

    def __init__(self, outputs: Outputs, err: Console, folder: Path, events: EventFile, *, shard: str | None = None) -> None:
        self._outputs = outputs
        self._err = err
        self._folder = folder
        self._events = events
        self._shard = shard
        self._recording: Recording | None = None
        self._progress: Progress | None = None
        self._started = time.monotonic()
        self._shrinking = ""
        self._minimal = 0

    def run(self, session: Session) -> Verdict:
        """Run `session`, then show the outcome; what was found is shown also when tridiff itself fails."""
        self._recording = Recording(session, self._events, folder=self._folder, shard=self._shard)
        if not self._outputs.as_json:
            runs = [self._recording.summary]
            for line in (headline(runs), *plugin_notes(runs)):
                self._outputs.console.print(line, markup=False, soft_wrap=True)
        try:
            with self._recording, progress(self._err, self._line) as self._progress:
                session.run()
        finally:
            complaints = self._outputs.show([self._recording.summary])
            self._complain(complaints)
        known = verdict(self._recording.summary)
        return without_output(known) if complaints else known

    def listen(self, event: Event) -> None:
        """Keep files, records and progress up to date."""
        path, unwritten = None, None
        if isinstance(event, FindingSeen | FindingMinimal):
            path, unwritten = _write(self._folder, event)
            self._shrinking = f"shrinking a finding of {event.finding.check}, " if isinstance(event, FindingSeen) else ""
            self._minimal += isinstance(event, FindingMinimal)
        if self._recording is not None:
            self._recording.event(event, path=path, unwritten=unwritten)
        if self._progress is not None:
            self._progress.update()

    def _complain(self, complaints: list[str]) -> None:
        for line in (*complaints, self._events.complaint):
            if line is not None:
                self._err.print(f"tridiff: {line}", markup=False, soft_wrap=True)

    def _line(self) -> str:
        elapsed = time.monotonic() - self._started
        summary = None if self._recording is None else self._recording.summary
        counts = Counts(op="", kernel="") if summary is None or not summary.current else summary.kernels[summary.current]
        return (
            f"{counts.kernel}: {self._shrinking}{counts.cases} cases, {speed(counts):.1f} cases/s, "
            f"{len(counts.specialisations)} specialisations, worst ratio {ratio(counts.worst_ratio)}, "
            f"{self._minimal} finding{'s' * (self._minimal != 1)}, {elapsed:.0f} s"
        )


def _write(folder: Path, event: FindingSeen | FindingMinimal) -> tuple[Path | None, str | None]:
    """The case file, or why there is none: a full disk must not end the run, and the records hold the case as well."""
    try:
        return repro.write(folder, event.finding), None
    except OSError as error:
        return None, error.strerror or str(error)
