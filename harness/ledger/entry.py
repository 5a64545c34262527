"""One entry of the ledger as plain data; neither torch nor a kernel is needed to read one."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import date
from pathlib import Path
from typing import Any

QUARANTINED, TOLERATED = "quarantined", "tolerated"
"""Never launched; and: runs, its failure costs nothing, and a pass is loud."""


@dataclass(frozen=True, kw_only=True)
class Entry:
    """What one table of the ledger says; "" and empty where it says nothing.

    `file`: the ledger, as it is shown; `number`: of the table in it, from 1. `days`: left until it expires, 0 on its last day.
    `check`, `also`, `signature`, `message`, `line`, `targets`: which Findings are tolerated. `when`: which Cases, by field.
    `case`: the path of a case file, absolute, or the fields of a Case.
    """

    file: str
    number: int
    kernel: str
    status: str
    owner: str
    expires: date
    days: int
    reason: str = ""
    issue: str = ""
    check: str = ""
    also: tuple[str, ...] = ()
    signature: str = ""
    message: str = ""
    line: str = ""
    targets: tuple[str, ...] = ()
    when: Mapping[str, Any] = field(default_factory=dict)
    case: Path | Mapping[str, Any] | None = None

    @property
    def name(self) -> str:
        """How messages call it."""
        return f"{self.file}: entry {self.number} ({self.kernel})"

    @property
    def whole(self) -> bool:
        """Whether it keeps the Kernel from running at all."""
        return self.status == QUARANTINED and not self.when

    @property
    def scope(self) -> tuple[Any, ...]:
        """What it waives, whatever the reason: no two entries may say the same here."""
        fields = (self.kernel, self.status, self.check, self.signature, self.message, self.line, sorted(self.targets))
        return (*fields, json.dumps(self.when, sort_keys=True))

    @property
    def key(self) -> str:
        """8 hexadecimal digits for what it waives: the same in any run, wherever in the file it stands."""
        return hashlib.blake2b(json.dumps(self.scope).encode(), digest_size=4).hexdigest()

    def record(self) -> dict[str, Any]:
        """As records and documents have it."""
        return {
            "entry": self.key,
            "file": self.file,
            "number": self.number,
            "kernel": self.kernel,
            "status": self.status,
            "whole": self.whole,
            "scope": self.described(),
            "reason": self.reason or None,
            "issue": self.issue or None,
            "owner": self.owner,
            "expires": self.expires.isoformat(),
            "days": self.days,
        }

    def described(self) -> str:
        """What it waives, in words."""
        if self.whole:
            return "every case"
        parts = [self.check, f"with {', '.join(self.also)} besides" if self.also else ""]
        parts += [f"on {', '.join(self.targets)}" if self.targets else "", self.signature]
        parts += [f"message {self.message!r}" if self.message else "", f"line {self.line}" if self.line else ""]
        parts += [f"where {' and '.join(f'{name}={_shown(value)}' for name, value in self.when.items())}" if self.when else ""]
        return " ".join(part for part in parts if part)


@dataclass(frozen=True, kw_only=True)
class Ledger:
    """All entries of a file, in order. `file`: its path as it is shown."""

    file: str
    entries: tuple[Entry, ...] = ()


def _shown(value: Any) -> str:
    """A condition on a field: a range as A..B, a choice as A|B."""
    if isinstance(value, Mapping):
        return f"{value.get('min', '')}..{value.get('max', '')}"
    return "|".join(json.dumps(item) for item in value) if isinstance(value, list) else json.dumps(value)
