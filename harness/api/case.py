"""Case: the drawn parameters of one example, as a frozen dataclass that survives a strict JSON round trip."""

from __future__ import annotations

import dataclasses
import math
import types
import typing
from collections.abc import Mapping
from functools import lru_cache
from typing import Any, TypeVar

SCHEMA = 1
"""Version of the JSON form of a Case; raised whenever an old file could be misread."""

CaseT = TypeVar("CaseT")


class CaseError(ValueError):
    """A Case, or its JSON form, is malformed: the message names the field, the value and what is allowed."""


def require(condition: bool, message: str) -> None:
    """Raise `CaseError(message)` unless `condition` holds; for `__post_init__` of a Case."""
    if not condition:
        raise CaseError(message)


def require_one_of(field: str, value: object, allowed: typing.Iterable[object]) -> None:
    """Raise `CaseError` unless `value` of field `field` is among `allowed`."""
    choices = tuple(allowed)
    require(value in choices, f"{field}={value!r}: must be one of {', '.join(map(repr, choices))}")


def require_range(field: str, value: float, low: float, high: float) -> None:
    """Raise `CaseError` unless `low <= value <= high`."""
    require(low <= value <= high, f"{field}={value!r}: must be from {low} to {high}")


def to_json(case: Any) -> dict[str, Any]:
    """The fields of `case` as JSON-ready values (tuples become lists)."""
    return {field.name: _plain(getattr(case, field.name)) for field in dataclasses.fields(case)}


def from_json(case_type: type[CaseT], data: object) -> CaseT:
    """Build a `case_type` from its JSON form, strictly.

    Every field without a default must be present, none may be unknown and each value must have the annotated type; an int
    is not taken for a bool, nor a string for a number. Raises `CaseError`.
    """
    if not isinstance(data, Mapping):
        raise CaseError(f"a case must be a JSON object, got {type(data).__name__}")
    fields = {field.name: field for field in dataclasses.fields(typing.cast(Any, case_type))}
    hints = _hints(typing.cast(Any, case_type))
    for name in data:
        require(name in fields, f"unknown field {name!r}: {case_type.__name__} has {', '.join(fields)}")
    missing = [name for name, field in fields.items() if _is_required(field) and name not in data]
    require(not missing, f"missing field {', '.join(missing)} of {case_type.__name__}")
    return case_type(**{name: _typed(name, value, hints[name]) for name, value in data.items()})


def field_from_json(case_type: type[Any], name: str, value: object) -> Any:
    """The value of one field of a `case_type` from its JSON form, as strictly as `from_json`. Raises `CaseError`."""
    hints = _hints(typing.cast(Any, case_type))
    require(name in hints, f"unknown field {name!r}: {case_type.__name__} has {', '.join(hints)}")
    return _typed(name, value, hints[name])


@lru_cache(maxsize=64)
def _hints(case_type: type[Any]) -> Mapping[str, Any]:
    """The types of its fields; to look them up takes a millisecond or two, and every drawn Case goes through here."""
    return typing.get_type_hints(case_type)


def _is_required(field: dataclasses.Field[Any]) -> bool:
    return field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING


def _plain(value: Any) -> Any:
    return [_plain(item) for item in value] if isinstance(value, tuple) else value


def _typed(name: str, value: object, hint: Any) -> Any:
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        return _typed_union(name, value, typing.get_args(hint))
    if typing.get_origin(hint) is tuple:
        return _typed_tuple(name, value, typing.get_args(hint))
    if hint is float and type(value) in (int, float):
        return _finite(name, typing.cast(float, value))
    if type(value) is not hint:
        raise CaseError(f"{name}={value!r}: must be of type {getattr(hint, '__name__', hint)}")
    return value


def _finite(name: str, value: float) -> float:
    try:
        number = float(value)
    except OverflowError as error:
        raise CaseError(f"{name}: must be finite, and this integer is larger than any float") from error
    require(math.isfinite(number), f"{name}={value!r}: must be finite")
    return number


def _typed_tuple(name: str, value: object, arguments: tuple[Any, ...]) -> tuple[Any, ...]:
    if not isinstance(value, list):
        raise CaseError(f"{name}={value!r}: must be a list")
    if len(arguments) == 2 and arguments[1] is Ellipsis:
        return tuple(_typed(f"{name}[{i}]", item, arguments[0]) for i, item in enumerate(value))
    require(len(value) == len(arguments), f"{name}={value!r}: must have {len(arguments)} items")
    return tuple(_typed(f"{name}[{i}]", item, hint) for i, (item, hint) in enumerate(zip(value, arguments, strict=True)))


def _typed_union(name: str, value: object, options: tuple[Any, ...]) -> Any:
    for option in options:
        if option is type(None) and value is None:
            return None
    (rest,) = (option for option in options if option is not type(None))
    return _typed(name, value, rest)
