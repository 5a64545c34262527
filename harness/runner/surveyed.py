"""What a survey has learnt of one Kernel on one target, folded as it comes; plain data."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from tridiff.harness.api import (
    Clean,
    Compiled,
    Finding,
    Found,
    Infrastructure,
    Judged,
    Quarantined,
    Skipped,
    Tolerated,
    Unsupported,
)

ENOUGH = "as many specialisations as were asked for"
TIME = "time"
NOTHING_NEW = "nothing new in a batch of cases"
NO_MORE_CASES = "no more cases"
DEATHS = "too many cases that end the compiler's process"
"""Why drawing ended."""


@dataclass
class Placed:
    """What the specialisations of one placement need.

    `names`: of those that were compiled; `dropped`: of those among them that the autotuner would leave out, which no figure
    counts. `shared`: the most bytes of shared memory (LDS), `shared_by` the specialisation that needs them, "" where none got
    as far as an allocation; `threads` and columns of `tensor_memory` likewise, and `registers` by name, where code was
    generated.
    """

    names: set[str] = field(default_factory=set)
    dropped: set[str] = field(default_factory=set)
    shared: int = 0
    shared_by: str = ""
    threads: int = 0
    tensor_memory: int = 0
    registers: dict[str, int] = field(default_factory=dict)

    def add(self, compiled: Compiled) -> bool:
        """Count one specialisation; whether it is new."""
        is_new = compiled.name not in self.names
        self.names.add(compiled.name)
        if compiled.dropped:
            self.dropped.add(compiled.name)
            return is_new
        if compiled.threads and (compiled.shared > self.shared or not self.shared_by):
            self.shared, self.shared_by = compiled.shared, compiled.name
        self.threads = max(self.threads, compiled.threads)
        self.tensor_memory = max(self.tensor_memory, compiled.tensor_memory)
        for name, count in compiled.registers:
            self.registers[name] = max(self.registers.get(name, 0), count)
        return is_new


@dataclass
class Row:
    """One Kernel on one target; only what was drawn counts, not what shrinking compiled.

    `production`: name of the placement of production; None where the Op has no placements, and all count. `cases` drawn, each
    with one outcome: `clean`, `failing`, `unsupported` (refused by the launcher), `skipped` or `infrastructure`; `reasons` of
    the latter three by text. `failures`: by check, the names of the specialisations that fail, or the Case where none is
    known, because the process died. `findings`: as they were drawn, by signature; `seen_at`: the cases drawn until then;
    `hits`: cases. `deaths`: cases that ended a process. `ended`: why no more were drawn, "" while that goes on.
    `quarantined`, `tolerated`: cases by the key of their entry in the ledger; `passes`: what cases did that should have failed.
    """

    op: str
    kernel: str
    target: str
    production: str | None = None
    cases: int = 0
    clean: int = 0
    failing: int = 0
    unsupported: int = 0
    skipped: int = 0
    infrastructure: int = 0
    shrink_runs: int = 0
    deaths: int = 0
    placements: dict[str, Placed] = field(default_factory=dict)
    failures: dict[str, set[Any]] = field(default_factory=dict)
    reasons: dict[str, dict[str, int]] = field(default_factory=dict)
    findings: dict[str, Finding] = field(default_factory=dict)
    seen_at: dict[str, int] = field(default_factory=dict)
    hits: dict[str, int] = field(default_factory=dict)
    quarantined: dict[str, int] = field(default_factory=dict)
    tolerated: dict[str, int] = field(default_factory=dict)
    passes: dict[str, str] = field(default_factory=dict)
    ended: str = ""

    @property
    def met(self) -> int:
        """Distinct specialisations in the placement of production, or in all where the Op has none."""
        if self.production is None:
            return self.compiled
        return len(self.placements[self.production].names) if self.production in self.placements else 0

    @property
    def compiled(self) -> int:
        """Distinct specialisations in all placements together."""
        return len(set().union(*(placed.names for placed in self.placements.values())))

    @property
    def dropped(self) -> int:
        """Configurations that the autotuner would leave out, in all placements."""
        return len(set().union(*(placed.dropped for placed in self.placements.values())))

    @property
    def judged(self) -> int:
        """Cases that were clean or failed, be it as they may."""
        return self.clean + self.failing + sum(self.tolerated.values())

    def add(self, case: Any, outcome: Judged) -> bool:
        """Count the outcome of a drawn Case; whether it told anything new: a specialisation, or a failure."""
        self.cases += 1
        match outcome:
            case Clean():
                self.clean += 1
                return self._add_compiled(outcome.compiled)
            case Found():
                self.failing += 1
                return self._add_found(case, outcome)
            case Unsupported():
                self.unsupported += 1
                self._reason("unsupported", f"{outcome.reason} ({outcome.line})" if outcome.line else outcome.reason)
            case Skipped():
                self.skipped += 1
                self._reason("skipped", outcome.reason)
            case Infrastructure():
                self.infrastructure += 1
                self._reason("infrastructure", outcome.reason)
            case Quarantined():
                self.quarantined[outcome.entry] = self.quarantined.get(outcome.entry, 0) + 1
            case Tolerated():
                return self._add_tolerated(outcome)
        return False

    def _add_tolerated(self, outcome: Tolerated) -> bool:
        is_new = outcome.entry not in self.tolerated
        self.tolerated[outcome.entry] = self.tolerated.get(outcome.entry, 0) + 1
        return self._add_compiled(outcome.compiled) or is_new

    def _add_compiled(self, compiled: tuple[Compiled, ...]) -> bool:
        are_new = [self._placed(each.placement).add(each) for each in compiled]
        return any(are_new)

    def _placed(self, placement: str) -> Placed:
        return self.placements.setdefault(placement, Placed())

    def _add_found(self, case: Any, found: Found) -> bool:
        is_new = self._add_compiled(found.compiled)
        for each in found.compiled:
            if each.check:
                self.failures.setdefault(each.check, set()).add(each.name)
        if found.finding.check not in {each.check for each in found.compiled}:
            self.failures.setdefault(found.finding.check, set()).add(case)
        signature = found.finding.signature()
        self.hits[signature] = self.hits.get(signature, 0) + 1
        if signature in self.findings:
            return is_new
        self.findings[signature] = found.finding
        self.seen_at[signature] = self.cases
        return True

    def _reason(self, kind: str, reason: str) -> None:
        counted = self.reasons.setdefault(kind, {})
        counted[reason] = counted.get(reason, 0) + 1


@dataclass(frozen=True, kw_only=True)
class Smallest:
    """A Finding and how far it was minimised. `shrunk`: None where that did not begin; `why`: what came between, if False."""

    finding: Finding
    shrunk: bool | None = None
    why: str = ""


@dataclass(frozen=True, kw_only=True)
class Failing:
    """One defect, on all targets of one family that have it: `hits` counts drawn cases by target, in the order asked for.

    `smallest` is from the first of them.
    """

    smallest: Smallest
    hits: dict[str, int]

    @property
    def signature(self) -> str:
        """The Findings'."""
        return self.smallest.finding.signature()
