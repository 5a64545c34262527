"""Waivers: what the entries of the ledger mean for Cases that are to run, and for outcomes."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from tridiff.harness.api import Finding, Found, Judged, Kernel, Outcome, Quarantined, Tolerated, normalised
from tridiff.harness.ledger.entry import QUARANTINED, TOLERATED, Entry


@dataclass(frozen=True, kw_only=True)
class Waiver:
    """An entry for a Kernel that is registered. `when`: what each of these fields must hold; `case`: the Case that shows it."""

    entry: Entry
    when: Mapping[str, Condition] = field(default_factory=dict)
    case: Any = None

    def covers(self, kernel: str, case: Any) -> bool:
        """Whether it is about this Case of this Kernel, whatever comes of it."""
        return kernel == self.entry.kernel and all(test.holds(getattr(case, name)) for name, test in self.when.items())

    def forgives(self, finding: Finding) -> bool:
        """Whether a tolerated entry is about `finding`, and about all else that fired with it."""
        entry = self.entry
        return (
            entry.status == TOLERATED
            and finding.check == entry.check
            and set(finding.others) <= {entry.check, *entry.also}
            and (not entry.targets or finding.target in entry.targets)
            and entry.signature in {"", finding.signature()}
            and entry.line in {"", finding.line}
            and normalised(entry.message) in normalised(finding.message)
            and self.covers(finding.kernel, finding.case)
        )


@dataclass(frozen=True, kw_only=True)
class Condition:
    """What a field of a Case must hold: one of `values`, or where there are none a number from `low` to `high`.

    Of a field that holds several numbers, one of them must lie in the range.
    """

    values: tuple[Any, ...] = ()
    low: float = float("-inf")
    high: float = float("inf")

    def holds(self, value: Any) -> bool:
        """Whether `value` is so."""
        if self.values:
            return value in self.values
        return any(self.low <= number <= self.high for number in (value if isinstance(value, tuple) else (value,)))


@dataclass(frozen=True, kw_only=True)
class Waivers:
    """All `entries`; `waivers` are those for registered Kernels. Nothing is waived by default."""

    entries: tuple[Entry, ...] = ()
    waivers: tuple[Waiver, ...] = ()

    def whole(self, kernel: str) -> Entry | None:
        """The entry by which a Kernel is not run at all."""
        return next((waiver.entry for waiver in self.waivers if waiver.entry.whole and waiver.entry.kernel == kernel), None)

    def split(self, kernels: Iterable[Kernel]) -> tuple[list[Kernel], list[Kernel]]:
        """The kernels that may run, and those that are quarantined as a whole."""
        known = list(kernels)
        left_out = [kernel for kernel in known if self.whole(kernel.name) is not None]
        return [kernel for kernel in known if kernel not in left_out], left_out

    def quarantined(self, kernel: str, case: Any) -> Quarantined | None:
        """What comes of a Case that must not run; None if it may."""
        for waiver in self.waivers:
            if waiver.entry.status == QUARANTINED and waiver.covers(kernel, case):
                return Quarantined(entry=waiver.entry.key)
        return None

    def judged(self, outcome: Outcome) -> Judged:
        """`outcome`, or `Tolerated` where it is a Finding that an entry forgives."""
        if isinstance(outcome, Found):
            for waiver in self.waivers:
                if waiver.forgives(outcome.finding):
                    return Tolerated(
                        entry=waiver.entry.key,
                        finding=outcome.finding,
                        specialisations=outcome.specialisations,
                        compiled=outcome.compiled,
                    )
        return outcome

    def tolerated(self, kernel: str) -> list[Waiver]:
        """The tolerated entries of a Kernel."""
        return [waiver for waiver in self.waivers if waiver.entry.status == TOLERATED and waiver.entry.kernel == kernel]

    def concerning(self, kernels: Iterable[Kernel]) -> list[Entry]:
        """The entries for any of `kernels`."""
        names = {kernel.name for kernel in kernels}
        return [entry for entry in self.entries if entry.kernel in names]


NONE = Waivers()
"""Nothing is waived."""

_PLACEHOLDER = re.compile(r"<\w+>")
_WORD = re.compile(r"[A-Za-z]{3}")


def telling(message: str) -> bool:
    """Whether a part of a message has a word in it once all that varies is gone: without one it would fit any defect."""
    return _WORD.search(_PLACEHOLDER.sub("", normalised(message))) is not None
