"""Simplifying what the compiler refuses: the Case of one Finding, by its fields, within limits of time and of runs."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from tridiff.harness.api import DEADLY, Finding, Found, Judged, Op
from tridiff.harness.runner.campaign import DEADLY_SHARE, INTERRUPTED, TIME_LIMIT
from tridiff.harness.runner.minimise import minimised
from tridiff.harness.runner.surveyed import Smallest

RUN_LIMIT = "limit of runs"
NOT_AGAIN = "what is smaller killed no fresh process"


@dataclass
class Simplification:
    """Makes the Case of `finding` smaller, while its signature stays.

    `examined`: runs a Case. `contains`: whether the Op allows it on the target, and the Kernel does. `towards`: the simplest Case
    that they allow. `confirmed`: see `Examiner`. At most `runs` Cases are tried, for at most `seconds`; three times as long where
    each one that fails may cost a process.
    """

    finding: Finding
    op: Op
    examined: Callable[[Any], Judged]
    contains: Callable[[Any], bool]
    confirmed: Callable[[Finding], Finding | None]
    seconds: float
    runs: int
    towards: Any = None
    _why: str = ""
    _ran: int = 0
    _deadline: float = 0.0

    def __post_init__(self) -> None:
        """Begin with the Finding as it is."""
        self._best = self.finding
        self._signature = self.finding.signature()
        self._deadly = self.finding.check in DEADLY | {"hang", "codegen", "compile_time"}

    def run(self) -> None:
        """Simplify; what `smallest` says is right also where this raises."""
        self._deadline = time.monotonic() + self.seconds * (DEADLY_SHARE if self._deadly else 1)
        try:
            minimised(self.finding.case, self._fails, self.op.compile_time, self.towards)
            self._confirm()
        except BaseException:
            self._why = INTERRUPTED
            if self._deadly:
                self._best = self.finding  # of anything smaller, no fresh process has died
            raise

    @property
    def smallest(self) -> Smallest:
        """What has come of it."""
        return Smallest(finding=self._best, shrunk=not self._why, why=self._why)

    def _fails(self, case: Any) -> bool:
        if case == self._best.case:
            return True
        if not self.contains(case):
            return False
        if self._ran >= self.runs or time.monotonic() > self._deadline:
            self._why = RUN_LIMIT if self._ran >= self.runs else TIME_LIMIT
            return False
        self._ran += 1
        outcome = self.examined(case)
        if not (isinstance(outcome, Found) and outcome.finding.signature() == self._signature):
            return False
        self._best = outcome.finding
        return True

    def _confirm(self) -> None:
        """Go back to the Case as it was found, where the minimal one kills no fresh process."""
        if self._best is self.finding:
            return
        again = self.confirmed(self._best)
        if again is None:
            self._why = NOT_AGAIN
        self._best = again or self.finding
