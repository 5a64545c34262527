"""What a run reports while it runs. The core emits; terminal, files and exit codes belong to those who listen."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from tridiff.harness.api import Clean, Finding, Found, Infrastructure, Judged, Quarantined, Skipped, Tolerated, Unsupported


@dataclass(frozen=True, kw_only=True)
class CaseDone:
    """One Case was examined.

    `shrinking`: it was run to minimise a Finding, not drawn as an example. `replayed`: it was not drawn, but remembered from
    an earlier run or taken from a list. `properties`: the Case's words by property (`Op.properties`), where it was judged.
    """

    kernel: str
    case: Any
    outcome: Judged
    shrinking: bool
    replayed: bool = False
    properties: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class WorkerDied:
    """A process that ran a Case died, or was ended because it took too long or too much memory.

    `how`: one sentence. `tail`: the last lines that it wrote to standard error. `confirming`: it was the fresh process in
    which a death is replayed.
    """

    kernel: str
    case: Any
    how: str
    tail: tuple[str, ...] = ()
    confirming: bool = False


@dataclass(frozen=True, kw_only=True)
class FindingSeen:
    """A Finding not seen before in this run; its Case is as drawn."""

    finding: Finding
    examples: int


@dataclass(frozen=True, kw_only=True)
class FindingMinimal:
    """A Finding's smallest Case. `examples`: how many were drawn up to it.

    `shrunk`: whether nothing simpler fails; `why`: what came between, where it is False.
    """

    finding: Finding
    examples: int
    shrunk: bool
    why: str = ""


@dataclass(frozen=True, kw_only=True)
class UnexpectedPass:
    """The Case of a tolerated entry of the ledger does not fail as the entry says. `entry`: its key. `how`: what it did."""

    kernel: str
    entry: str
    case: Any
    how: str


@dataclass(frozen=True, kw_only=True)
class KernelDone:
    """A kernel's share of the run has ended."""

    kernel: str


Event = CaseDone | WorkerDied | FindingSeen | FindingMinimal | UnexpectedPass | KernelDone
Listener = Callable[[Event], None]


@dataclass
class Tally:
    """Counts of one kernel's run: examples by outcome, specialisations met, the worst error ratio, hits by signature.

    `examples` are drawn; of the `replayed` cases, which are counted besides, the outcomes are counted likewise. `reasons`: why
    cases were skipped or unsupported. `quarantined`, `tolerated`: cases by the key of their entry in the ledger.
    """

    examples: int = 0
    replayed: int = 0
    shrink_runs: int = 0
    clean: int = 0
    inconclusive: int = 0
    failing: int = 0
    skipped: int = 0
    unsupported: int = 0
    infrastructure: int = 0
    worst_ratio: float = 0.0
    specialisations: set[str] = field(default_factory=set)
    hits: dict[str, int] = field(default_factory=dict)
    reasons: dict[str, int] = field(default_factory=dict)
    quarantined: dict[str, int] = field(default_factory=dict)
    tolerated: dict[str, int] = field(default_factory=dict)

    @property
    def judged(self) -> int:
        """Cases that were clean or failed, be it as they may."""
        return self.clean + self.failing + sum(self.tolerated.values())

    def add(self, event: CaseDone) -> None:
        """Count one examined Case."""
        outcome = event.outcome
        if isinstance(outcome, Clean | Found | Tolerated):
            self.specialisations.update(outcome.specialisations)
        if event.shrinking:
            self.shrink_runs += 1
            return
        self.examples += not event.replayed
        self.replayed += event.replayed
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
            case Infrastructure():
                self.infrastructure += 1
            case Quarantined():
                self.quarantined[outcome.entry] = self.quarantined.get(outcome.entry, 0) + 1
            case Tolerated():
                self.tolerated[outcome.entry] = self.tolerated.get(outcome.entry, 0) + 1

    def _reason(self, reason: str) -> None:
        self.reasons[reason] = self.reasons.get(reason, 0) + 1
