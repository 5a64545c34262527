"""Minimising a Case by its fields, after Hypothesis has done so by its choices.

Hypothesis shrinks what was drawn: a field can only become a value that its pool holds, at a position that the search happens
to try, and only if the choices behind it still mean the same. A Case is small and its defaults are the simplest values, so
what is left is tried directly: fields at their defaults, many at once and then one by one, numbers nearer to it, rows left
out, and pairs of fields.

What costs most is tried least. A smaller value of a compile-time field is another specialisation, which has to be compiled: so
the fields that only matter at run time go first, within the one that failed. And where a Case that fails costs a process, few
steps that fail are better than many: so all fields of a group are reset at once, then all but one.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from typing import Any, NamedTuple

from tridiff.harness.api import CaseError

MOST_IN_PAIRS = 8
"""Fields that differ from their default, up to which pairs of them are reset together."""


class Field(NamedTuple):
    """A field of a Case, and its simplest value."""

    name: str
    default: Any


def minimised(case: Any, fails: Callable[[Any], bool], compile_time: Collection[str] = (), towards: Any = None) -> Any:
    """The simplest Case found on the way from `case` to the defaults of its class, of which `fails` holds throughout.

    `towards`: another Case to take its fields for the defaults, where those of the class cannot be had.
    `compile_time`: names of the fields that decide which specialisation is compiled; they are simplified after the others.
    Only Cases that their class accepts are tried, and none twice. Deterministic: the same `fails` gives the same result.
    """
    known: dict[Any, bool] = {}

    def failing(candidate: Any) -> bool:
        if candidate not in known:
            known[candidate] = fails(candidate)
        return known[candidate]

    fields = [Field(field.name, field.default) for field in dataclasses.fields(case)]
    if towards is not None:
        fields = [Field(field.name, getattr(towards, field.name)) for field in fields]
    groups: tuple[list[Field], ...] = ([], [])
    for field in fields:
        groups[field.name in compile_time].append(field)
    while True:
        before = case
        for group in groups:
            case = _reset(case, group, failing)
            for field in group:
                case = _simplest(case, field, failing)
        if case == before:
            case = next((pair for pair in pairs(case, fields) if failing(pair)), case)
        if case == before:
            return case


def _reset(case: Any, group: Sequence[Field], fails: Callable[[Any], bool]) -> Any:
    """`case` with all fields of `group` at their defaults; or all but one; or as many as a search by halves can reset."""
    changed = [field for field in group if not _is_simple(case, field)]
    if len(changed) < 2:
        return case
    wholes = [changed, *([field for field in changed if field is not kept] for kept in changed)]
    for whole in wholes:
        for candidate in _defaults(case, whole):
            if fails(candidate):
                return candidate
    return _reset_halves(case, changed, fails)


def _reset_halves(case: Any, changed: Sequence[Field], fails: Callable[[Any], bool]) -> Any:
    """`case` with the fields of either half of `changed` at their defaults, or of either half of it, and so on."""
    if len(changed) < 2:
        return case
    middle = len(changed) // 2
    for half in (changed[:middle], changed[middle:]):
        simpler = next((candidate for candidate in _defaults(case, half) if fails(candidate)), None)
        case = _reset_halves(case, half, fails) if simpler is None else simpler
    return case


def _simplest(case: Any, field: Field, fails: Callable[[Any], bool]) -> Any:
    """`case` with one field as simple as `fails` lets it be."""
    while True:
        simpler = next((candidate for candidate in candidates(case, field) if fails(candidate)), None)
        if simpler is None:
            return case
        case = simpler


def candidates(case: Any, field: Field) -> Iterator[Any]:
    """Legal Cases in which `field` is simpler than in `case`, and no other unless a row is left out; the simplest first."""
    if _is_simple(case, field):
        return
    value = getattr(case, field.name)
    if isinstance(value, tuple) and len(value) > 1:
        for place in range(len(value)):
            yield from _without_row(case, field.name, place)
    for simpler in _simpler(getattr(case, field.name), field.default):
        yield from _with(case, {field.name: simpler})


def pairs(case: Any, fields: Iterable[Field]) -> Iterator[Any]:
    """Legal Cases in which two of `fields` have their defaults that had not; none while many fields have not."""
    changed = [field for field in fields if not _is_simple(case, field)]
    if len(changed) <= MOST_IN_PAIRS:
        for pair in itertools.combinations(changed, 2):
            yield from _defaults(case, pair)


def _defaults(case: Any, fields: Iterable[Field]) -> Iterator[Any]:
    """`case` with these fields at their defaults, if that is legal."""
    return _with(case, {field.name: field.default for field in fields})


def _is_simple(case: Any, field: Field) -> bool:
    """Whether the field cannot become simpler: it has its default, or there is none."""
    return field.default in (dataclasses.MISSING, getattr(case, field.name))


def _simpler(value: Any, default: Any) -> Iterator[Any]:
    """Values between the default and `value`: the default first, then ever nearer to `value`."""
    if isinstance(value, tuple):
        yield from _simpler_tuples(value, default)
        return
    yield default
    if type(value) is int:
        yield from _between(value, default)


def _between(value: int, default: int) -> Iterator[int]:
    """Numbers whose distance from `value` halves each time: value - distance / 2, ..., value - 1."""
    distance = (value - default) // 2 if value > default else -((default - value) // 2)
    while distance:
        yield value - distance
        distance = int(distance / 2)


def _simpler_tuples(value: tuple[Any, ...], default: Any) -> Iterator[tuple[Any, ...]]:
    """One item simpler; the first item of the default is the simplest."""
    simplest = default[0] if isinstance(default, tuple) and default else None
    for place, item in enumerate(value):
        if simplest is not None and item != simplest:
            for simpler in _simpler(item, simplest):
                yield (*value[:place], simpler, *value[place + 1 :])


def _without_row(case: Any, name: str, place: int) -> Iterator[Any]:
    """`case` without item `place` of field `name`, alone, or of every field with as many items where these go together."""
    value = getattr(case, name)
    alone = list(_with(case, {name: value[:place] + value[place + 1 :]}))
    if alone:
        yield from alone
        return
    parallel = {
        each.name: rows[:place] + rows[place + 1 :]
        for each in dataclasses.fields(case)
        if isinstance(rows := getattr(case, each.name), tuple) and len(rows) == len(value)
    }
    yield from _with(case, parallel)


def _with(case: Any, fields: dict[str, Any]) -> Iterator[Any]:
    try:
        yield dataclasses.replace(case, **fields)
    except CaseError:
        return
