"""Entries held against a registry: their Cases and conditions as those of the kernel's Op."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tridiff.harness import repro
from tridiff.harness.api import CaseError, Op, field_from_json, from_json
from tridiff.harness.engines.spec import UsageError
from tridiff.harness.ledger.entry import TOLERATED, Entry, Ledger
from tridiff.harness.ledger.waivers import NONE, Condition, Waiver, Waivers, telling
from tridiff.harness.registry import Registry


def bound(ledger: Ledger | None, registry: Registry) -> Waivers:
    """What `ledger` waives of the kernels in `registry`; nothing without one.

    Raises `UsageError` that names the file, the entry and what is wrong: a field or value that the Op's Case does not have, a
    case file that cannot be read, a Case that the entry itself is not about. Of a kernel that is not registered, none of that
    can be checked.
    """
    if ledger is None:
        return NONE
    waivers = tuple(_waiver(entry, registry) for entry in ledger.entries if entry.kernel in registry.kernels)
    known = Waivers(entries=ledger.entries, waivers=waivers)
    for waiver in waivers:
        _check_order(waiver, known)
    return known


def _waiver(entry: Entry, registry: Registry) -> Waiver:
    op = registry.op(registry.kernel(entry.kernel).op)
    if entry.message and not telling(entry.message):
        raise UsageError(f"{entry.name}: message: {entry.message!r}: fits any message; give a part with words in it")
    try:
        when = {name: _condition(op, name, given) for name, given in entry.when.items()}
    except CaseError as error:
        raise UsageError(f"{entry.name}: when: {error}") from error
    waiver = Waiver(entry=entry, when=when, case=_case(entry, op, registry))
    if waiver.case is not None and not waiver.covers(entry.kernel, waiver.case):
        raise UsageError(f"{entry.name}: case: its fields are not those of `when`; one of them is wrong")
    return waiver


def _check_order(waiver: Waiver, known: Waivers) -> None:
    """Nothing can be tolerated of a Case that never runs."""
    entry = waiver.entry
    if entry.status != TOLERATED:
        return
    kept_away = known.quarantined(entry.kernel, waiver.case)
    if kept_away is not None:
        number = next(other.number for other in known.entries if other.key == kept_away.entry)
        raise UsageError(f"{entry.name}: case: entry {number} quarantines it, so it never runs; remove one of the entries")


def _condition(op: Op, name: str, given: Any) -> Condition:
    if isinstance(given, Mapping):
        _check_range(op, name)
        return Condition(low=given.get("min", float("-inf")), high=given.get("max", float("inf")))
    choices = given if isinstance(given, list) else [given]
    return Condition(values=tuple(field_from_json(op.case, name, choice) for choice in choices))


def _check_range(op: Op, name: str) -> None:
    """Raise `CaseError` unless the field is one, and holds a number, or several."""
    if name not in {field.name for field in dataclasses.fields(op.case)}:
        field_from_json(op.case, name, 0)  # which says so
    if not any(_holds(op, name, number) for number in (0, 0.0, [0], [0.0])):
        raise CaseError(f"{name}: a range is for fields that hold numbers; give a value, or a list of values")


def _holds(op: Op, name: str, value: Any) -> bool:
    try:
        field_from_json(op.case, name, value)
    except CaseError:
        return False
    return True


def _case(entry: Entry, op: Op, registry: Registry) -> Any:
    if isinstance(entry.case, Path):
        return _filed(entry, entry.case, registry)
    try:
        return None if entry.case is None else from_json(op.case, entry.case)
    except CaseError as error:
        raise UsageError(f"{entry.name}: case: {error}") from error


def _filed(entry: Entry, path: Path, registry: Registry) -> Any:
    try:
        found = repro.read(path, registry)
    except UsageError as error:
        raise UsageError(f"{entry.name}: case: {error}") from error
    if found.ref.kernel != entry.kernel:
        raise UsageError(f"{entry.name}: case: {path} is of kernel {found.ref.kernel}")
    if entry.check not in {"", found.check}:
        raise UsageError(f"{entry.name}: case: {path} is of check {found.check}, the entry of {entry.check}")
    return found.case
