"""Shows hunts of mutants: live progress, and at the end the table and every survivor with its lines, or a document."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence

from rich.console import Console

from tridiff.harness.report.mutants_document import mutants_document
from tridiff.harness.report.mutants_text import headline, show
from tridiff.harness.report.progress import Progress as Line
from tridiff.harness.report.progress import progress
from tridiff.harness.report.recording import one_line
from tridiff.harness.report.verdict import Exit, Verdict
from tridiff.harness.runner.mutant_hunt import KILLED, SURVIVED
from tridiff.harness.runner.mutating import Mutating, Progress


class MutantsReport:
    """Listens to hunts, one kernel after the other. `min_score`: percent below which the verdict is no success.

    `out`: standard output, which gets one JSON document where `as_json`. `err`: standard error, for progress.
    """

    def __init__(self, out: Console, err: Console, *, as_json: bool = False, min_score: float | None = None) -> None:
        self._out = out
        self._err = err
        self._as_json = as_json
        self._min_score = min_score
        self._line = ""
        self._shown: Line | None = None
        self._started = time.monotonic()
        self._runs: Sequence[Mutating] = ()

    def run(self, runs: Sequence[Mutating]) -> Verdict:
        """Run them all, up to Ctrl-C, and show each; what is known is shown also where one fails."""
        self._runs, done = runs, []
        error: BaseException | None = None
        try:
            for run in runs:
                done.append(run)
                self._one(run)
                if run.interrupted:
                    break
        except BaseException as raised:
            error = raised
            raise
        finally:
            if self._as_json:
                said = None if error is None else one_line(error)
                self._out.print_json(json.dumps(mutants_document(done, error=said, min_score=self._min_score)))
        return verdict(runs, self._min_score)

    def listen(self, event: Progress) -> None:
        """Keep the line of progress up to date; called from several threads, of which one at a time need show it."""
        run = next((each for each in self._runs if each.kernel.name == event.kernel), None)
        hunts = [] if run is None else list(run.hunts.values())
        counts = {fate: sum(hunt.fate == fate for hunt in hunts) for fate in (KILLED, SURVIVED)}
        elapsed = time.monotonic() - self._started
        found = f", {counts[KILLED]} killed, {counts[SURVIVED]} survived" if hunts else ""
        self._line = f"{event.kernel}: {event.done} of {event.total} {event.what}{found}, {elapsed:.0f} s"
        if self._shown is not None:
            self._shown.update()

    def _one(self, run: Mutating) -> None:
        if not self._as_json:
            self._out.print(headline(run), markup=False, soft_wrap=True)
        try:
            with progress(self._err, lambda: self._line) as self._shown:
                run.run()
        finally:
            self._shown = None
            if not self._as_json and (run.mutants or run.interrupted):
                show(self._out, run)


def verdict(runs: Sequence[Mutating], min_score: float | None) -> Verdict:
    """What the hunts come to: a success, unless a score was asked for that a kernel does not reach, or may not reach."""
    if min_score is None:
        return Verdict(code=Exit.CLEAN)
    low = [run for run in runs if run.interrupted or run.unsteady or run.least_score is None or run.least_score < min_score]
    if not low:
        return Verdict(code=Exit.CLEAN)
    scores = ", ".join(f"{run.kernel.name} ({'no score' if run.score is None else f'{run.score:.1f} %'})" for run in low)
    return Verdict(code=Exit.FINDINGS, complaint=f"below --min-score {min_score:g}, or not known to reach it: {scores}")
