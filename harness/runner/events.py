"""What a run reports while it runs. The core emits; terminal, files and exit codes belong to those who listen."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from tridiff.harness.api import Clean, Finding, Found, Outcome, Skipped, Unsupported


@dataclass(frozen=True, kw_only=True)
class CaseDone:
    """One Case was examined. `shrinking`: it was run to minimise a Finding, not drawn as an example."""

    kernel: str
    case: Any
    outcome: Outcome
    shrinking: bool


@dataclass(frozen=True, kw_only=True)
class FindingSeen:
    """A Finding not seen before in this run; its Case is as drawn."""

    finding: Finding
    examples: int


@dataclass(frozen=True, kw_only=True)
class FindingMinimal:
    """A Finding's smallest Case. `examples`: how many were drawn up to it; `shrunk`: False where time ran out."""

    finding: Finding
    examples: int
    shrunk: bool


@dataclass(frozen=True, kw_only=True)
class KernelDone:
    """A kernel's share of the run has ended."""

    kernel: str


Event = CaseDone | FindingSeen | FindingMinimal | KernelDone
Listener = Callable[[Event], None]


@dataclass
class Tally:
    """Counts of one kernel's run: drawn examples by outcome, specialisations met, the worst error ratio, hits by signature."""

    examples: int = 0
    shrink_runs: int = 0
    clean: int = 0
    inconclusive: int = 0
    failing: int = 0
    skipped: int = 0
    unsupported: int = 0
    worst_ratio: float = 0.0
    specialisations: set[str] = field(default_factory=set)
    hits: dict[str, int] = field(default_factory=dict)
    reasons: dict[str, int] = field(default_factory=dict)

    def add(self, event: CaseDone) -> None:
        """Count one examined Case."""
        outcome = event.outcome
        if isinstance(outcome, Clean | Found):
            self.specialisations.update(outcome.specialisations)
        if event.shrinking:
            self.shrink_runs += 1
            return
        self.examples += 1
        match outcome:
            case Clean():
                self.clean += 1
                self.inconclusive += not outcome.conclusive
                self.worst_ratio = max(self.worst_ratio, outcome.ratio)
            case Found():
                self.failing += 1
                signature = outcome.finding.signature()
                self.hits[signature] = self.hits.get(signature, 0) + 1
            case Skipped():
                self.skipped += 1
                self._reason(outcome.reason)
            case Unsupported():
                self.unsupported += 1
                self._reason(f"{outcome.reason} ({outcome.line})" if outcome.line else outcome.reason)

    def _reason(self, reason: str) -> None:
        self.reasons[reason] = self.reasons.get(reason, 0) + 1
