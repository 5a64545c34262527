"""Which file is the ledger, and what it holds: every entry checked, none expired."""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import date, datetime, timezone
from functools import cache
from pathlib import Path
from typing import Any

from tridiff.harness.engines.spec import UsageError
from tridiff.harness.ledger.entry import QUARANTINED, TOLERATED, Entry, Ledger
from tridiff.harness.settings.checking import complaint, first_error
from tridiff.harness.settings.files import parsed, shown, text
from tridiff.harness.settings.model import Settings

NAME = "known-failures.toml"
SCHEMA_FILE = Path(__file__).with_name("schema.json")
"""JSON Schema, draft 2020-12, of the whole file. The `title` of a value says what is allowed, for editors and our messages."""
LONGEST = 366
"""Days from today that an entry may last: whoever wants longer looks at it again once a year."""
_TABLE = "failure"
_NARROWING = ("signature", "message", "line", "when")
"""At least one of these narrows what a tolerated entry forgives."""
_ALIKE = frozenset({"corruption", "unwritten", "nan", "mismatch", "poison"})
"""Checks of what a kernel has written. All their Findings of one kernel have the same words and one signature, whatever the
defect: only the Cases tell them apart."""
_OF_FINDINGS = ("check", "also", "signature", "message", "line", "targets")
_ADVICE = "give the path of a ledger of known failures with --known-failures, or go without: --no-known-failures"


def today() -> date:
    """By UTC, so that all machines of a project agree."""
    return datetime.now(timezone.utc).date()


def read(
    given: Settings, file: Path | None = None, *, off: bool = False, start: Path | None = None, now: date | None = None
) -> Ledger | None:
    """The ledger in `file`, else in the one that the settings name, else in the nearest one; None where there is none, or `off`.

    The nearest is beside the settings' file, else in `start` (the current folder by default), or above. `now`: the date.
    Raises `UsageError` with one line that names the file, the entry and what is wrong.
    """
    if off and file is not None:
        raise UsageError("--known-failures and --no-known-failures: give one of them")
    path = None if off else file or given.known_failures or _nearest(given, (start or Path.cwd()).absolute())
    return None if path is None else _read(path, now or today())


def _nearest(given: Settings, start: Path) -> Path | None:
    beside = [] if given.file is None else [given.file.parent]
    return next((folder / NAME for folder in (*beside, start, *start.parents) if (folder / NAME).is_file()), None)


def _read(path: Path, now: date) -> Ledger:
    file = shown(path)
    data = parsed(path, text(path, _ADVICE))
    unknown = next((name for name in data if name != _TABLE), None)
    if unknown is not None:
        raise UsageError(f"{file}: {unknown}: unknown key; every known failure is a table [[{_TABLE}]]")
    tables = data.get(_TABLE, [])
    if not isinstance(tables, list) or not all(isinstance(table, dict) for table in tables):
        raise UsageError(f"{file}: {_TABLE}: must be tables, each begun by a line [[{_TABLE}]]")
    entries: dict[str, Entry] = {}
    for number, table in enumerate(tables, 1):
        entry = _entry(path, number, table, now)
        same = entries.setdefault(entry.key, entry)
        if same is not entry:
            raise UsageError(f"{entry.name}: waives the same as entry {same.number}; remove one of them")
    return Ledger(file=file, entries=tuple(entries.values()))


def _entry(path: Path, number: int, table: Mapping[str, Any], now: date) -> Entry:
    name = table.get("kernel")
    place = f"{shown(path)}: entry {number}" + (f" ({name})" if isinstance(name, str) else "")
    table = {key: value.isoformat() if isinstance(value, date) else value for key, value in table.items()}  # as JSON has it
    error = first_error(_schema()["$defs"][_TABLE], table, f"{place}: known failures")
    if error is not None:
        raise UsageError(f"{place}: {complaint(error)}")
    expires = _expires(place, table["expires"], now)
    _check_whys(place, table)
    _check_scope(place, table)
    _check_ranges(place, table.get("when", {}))
    lists: dict[str, Any] = {key: tuple(table[key]) for key in ("also", "targets") if key in table}
    case = path.absolute().parent / table["case"] if isinstance(table.get("case"), str) else table.get("case")
    known: dict[str, Any] = {**table, **lists, "case": case, "expires": expires}
    return Entry(file=shown(path), number=number, days=(expires - now).days, **known)


@cache
def _schema() -> dict[str, Any]:
    schema: dict[str, Any] = json.loads(SCHEMA_FILE.read_text(encoding="utf-8"))
    return schema


def _expires(place: str, given: str, now: date) -> date:
    try:
        expires = date.fromisoformat(given)
    except ValueError as error:
        raise UsageError(f"{place}: expires: {given}: {error}") from error
    if expires < now:
        days = (now - expires).days
        raise UsageError(
            f"{place}: expired on {given}, {days} day{'s' * (days != 1)} ago: look whether it still fails, then remove the "
            "entry or set another date"
        )
    if (expires - now).days > LONGEST:
        raise UsageError(f"{place}: expires: {given}: must be at most {LONGEST} days ahead")
    return expires


def _check_whys(place: str, table: Mapping[str, Any]) -> None:
    if not ("reason" in table or "issue" in table):
        raise UsageError(f"{place}: without a reason: write one, or link the issue")


def _check_ranges(place: str, when: Mapping[str, Any]) -> None:
    for name, test in when.items():
        if isinstance(test, Mapping) and not test.get("min", float("-inf")) <= test.get("max", float("inf")):
            raise UsageError(f"{place}: when.{name}: {dict(test)}: no number lies in this range")


def _check_scope(place: str, table: Mapping[str, Any]) -> None:
    """Whether the entry says as much as its status needs, and no more."""
    if table["status"] == QUARANTINED:
        wrong = next((key for key in _OF_FINDINGS if key in table), None)
        if wrong is not None:
            raise UsageError(f"{place}: {wrong}: what is {QUARANTINED} never runs, so no finding is told from another; remove it")
        return
    missing = next((key for key in ("check", "case") if key not in table), None)
    if missing is not None:
        raise UsageError(f"{place}: {missing}: missing: what is {TOLERATED} needs a check, and the minimal case that shows it")
    if not any(key in table for key in _NARROWING):
        raise UsageError(f"{place}: forgives every {table['check']}: say which one with {', '.join(_NARROWING[:-1])} or when")
    if table["check"] in _ALIKE and "when" not in table:
        raise UsageError(f"{place}: when: missing: one {table['check']} looks like another, so say in which cases it is this one")
    if table["check"] in table.get("also", ()):
        raise UsageError(f"{place}: also: {table['check']} is the check itself; name those that fire besides it")
