"""Shows a survey of targets: live progress, case files as failures are seen, and at the end the matrix or a document."""

from __future__ import annotations

import json
import time
from pathlib import Path

from rich.console import Console

from tridiff.harness import repro
from tridiff.harness.report.progress import Progress, progress
from tridiff.harness.report.recording import one_line
from tridiff.harness.report.run_text import plural
from tridiff.harness.report.targets_document import survey_document
from tridiff.harness.report.targets_text import CaseFile, headline, show
from tridiff.harness.report.verdict import Exit, Verdict
from tridiff.harness.runner.events import FindingMinimal, FindingSeen
from tridiff.harness.runner.surveying import Event, Survey, TargetDone


class TargetsReport:
    """Listens to a survey; writes case files to `folder` the moment a failure is seen, and again once it is minimal.

    `out`: standard output, which gets one JSON document where `as_json`. `err`: standard error, for progress.
    """

    def __init__(self, out: Console, err: Console, folder: Path, *, as_json: bool = False) -> None:
        self._out = out
        self._err = err
        self._folder = folder
        self._as_json = as_json
        self._survey: Survey | None = None
        self._progress: Progress | None = None
        self._files: dict[str, CaseFile] = {}
        self._written_for: dict[str, int] = {}
        self._started = time.monotonic()
        self._done = 0

    def run(self, survey: Survey) -> Verdict:
        """Run `survey`, then show the outcome; what was found is shown also where that fails."""
        self._survey = survey
        if not self._as_json:
            for line in (headline(survey), *survey.registry.notes):
                self._out.print(line, markup=False, soft_wrap=True)
        error: BaseException | None = None
        try:
            with progress(self._err, self._line) as self._progress:
                survey.run()
        except BaseException as raised:
            error = raised
            raise
        finally:
            self._show(survey, error)
        return verdict(survey)

    def _show(self, survey: Survey, error: BaseException | None) -> None:
        if self._as_json:
            said = None if error is None else one_line(error)
            self._out.print_json(json.dumps(survey_document(survey, self._files, error=said)))
        else:
            show(self._out, survey, self._files, self._folder)

    def listen(self, event: Event) -> None:
        """Keep files and progress up to date; nobody else calls this at the same time."""
        if isinstance(event, FindingSeen | FindingMinimal):
            self._write(event)
        self._done += isinstance(event, TargetDone)
        if self._progress is not None:
            self._progress.update()

    def _write(self, event: FindingSeen | FindingMinimal) -> None:
        """Of several targets that have seen a failure, the first in order has the file. A full disk must not end the run."""
        if self._survey is None:
            return
        signature = event.finding.signature()
        at = self._survey.targets.index(event.finding.target)
        if at > self._written_for.get(signature, at):
            return
        self._written_for[signature] = at
        try:
            self._files[signature] = CaseFile(path=repro.write(self._folder, event.finding))
        except OSError as error:
            self._files[signature] = CaseFile(unwritten=error.strerror or str(error))

    def _line(self) -> str:
        rows = [] if self._survey is None else list(self._survey.rows.values())
        targets = len({row.target for row in rows})
        elapsed = time.monotonic() - self._started
        found = len(self._files)
        return (
            f"{self._done} of {targets} targets, {sum(row.met for row in rows)} specialisations, "
            f"{plural(sum(row.cases + row.shrink_runs for row in rows))}, {found} failure{'s' * (found != 1)}, {elapsed:.0f} s"
        )


def verdict(survey: Survey) -> Verdict:
    """What a survey comes to.

    Failures are failures, and so is a known one that does not fail. Without any, one of which cases ended in infrastructure
    failures proves nothing, nor does one that met no specialisation of a kernel on any target; but what Ctrl-C left out is
    nobody's fault.
    """
    if survey.failing or any(row.passes for row in survey.rows.values()):
        return Verdict(code=Exit.FINDINGS)
    if count := sum(row.infrastructure for row in survey.rows.values()):
        return Verdict(code=Exit.HARNESS, complaint=f"{count} case{'s' * (count != 1)} ended in infrastructure failures")
    if names := _unjudged(survey):
        complaint = f"nothing of {', '.join(names)} was compiled on any target: the run above says why"
        return Verdict(code=Exit.USAGE, complaint=complaint)
    return Verdict(code=Exit.CLEAN)


def _unjudged(survey: Survey) -> list[str]:
    names = []
    for kernel in survey.kernels:
        rows = [survey.rows[kernel.name, target] for target in survey.targets]
        begun = any(row.cases for row in rows)
        if (begun or not survey.interrupted) and not any(row.compiled for row in rows):
            names.append(kernel.name)
    return names
