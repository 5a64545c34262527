"""A table of settings against `schema.json`: one line for the first thing that is wrong, from the schema's own words."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any

from tridiff.harness import config
from tridiff.harness.engines.spec import TARGETS, UsageError, nearest

SCHEMA_FILE = Path(__file__).with_name("schema.json")
"""JSON Schema, draft 2020-12. The `title` of a value says what is allowed, for editors and for our messages."""
_LONGEST = 60
"""Characters of a value that a message shows."""


def check(table: Mapping[str, Any], file: str) -> None:
    """Raise `UsageError` unless `table`, which comes from `file`, is what the schema allows."""
    first = first_error(_schema(), table, f"{file}: settings")
    if first is not None:
        raise UsageError(f"{file}: {_complaint(first, table)}")
    if table.get("target", TARGETS[0]) not in _targets(table):
        raise UsageError(f"{file}: {_unknown_target(table)}")
    for place, value in _numbers(table, ()):
        if not math.isfinite(value):
            raise UsageError(f"{file}: {_dotted(place)}: {value}: must be finite")


def first_error(schema: Mapping[str, Any], value: Any, what: str) -> Any:
    """What jsonschema holds against `value`, the first by place, so that the same file gives the same message; None for nothing.

    Raises `UsageError` that begins with `what` where jsonschema is missing.
    """
    validating = config.imported("jsonschema")
    if validating is None:
        raise UsageError(f"{what} cannot be checked without the package jsonschema: pip install jsonschema")
    return min(validating.Draft202012Validator(schema).iter_errors(value), key=_place, default=None)


@cache
def _schema() -> dict[str, Any]:
    schema: dict[str, Any] = json.loads(SCHEMA_FILE.read_text(encoding="utf-8"))
    return schema


def _place(error: Any) -> tuple[list[str], str]:
    return [str(part) for part in error.absolute_path], str(error.validator)


def _complaint(error: Any, table: Mapping[str, Any]) -> str:
    return _unknown_target(table) if _dotted(error.absolute_path) == "target" else complaint(error)


def complaint(error: Any) -> str:
    """An error of jsonschema in one line: the place, the value, and the schema's own words for what is allowed."""
    where = _dotted(error.absolute_path)
    if error.validator == "additionalProperties":
        known = error.schema["properties"]
        unknown = next(name for name in error.instance if name not in known)
        place = f"{where}.{unknown}" if where else unknown
        return f"{place}: unknown key{nearest(unknown, known)}; keys: {', '.join(known)}"
    if error.validator == "required":
        missing = next(name for name in error.validator_value if name not in error.instance)
        place = f"{where}.{missing}" if where else missing
        return f"{place}: missing: must be {error.schema['properties'][missing]['title']}"
    return f"{where}: {_value(error.instance)}: must be {_allowed(error.schema, error.instance)}"


def _unknown_target(table: Mapping[str, Any]) -> str:
    """The schema knows what a target may be called, and not which there are."""
    given, names = table["target"], _targets(table)
    return f"target: {_value(given)}: must be {_allowed({'enum': names}, given)}; `targets` adds others"


def _targets(table: Mapping[str, Any]) -> list[str]:
    """The names of all targets, built-in or of `table`, which need not be one that the schema allows."""
    added = table.get("targets")
    return list(dict.fromkeys([*TARGETS, *(added if isinstance(added, dict) else ())]))


def _allowed(schema: Mapping[str, Any], value: object) -> str:
    if "enum" not in schema:
        return str(schema["title"])
    hint = nearest(value, schema["enum"]) if isinstance(value, str) else ""
    return f"one of {', '.join(schema['enum'])}{hint}"


def _value(value: object) -> str:
    """As in the file where TOML and Python write it alike, and not at length."""
    text = str(value).lower() if isinstance(value, bool) else repr(value)
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}..."


def _dotted(place: Iterable[object]) -> str:
    """`database.github.repo`, `cases[2]`."""
    text = ""
    for part in place:
        text += f"[{part}]" if isinstance(part, int) else f".{part}"
    return text.removeprefix(".")


def _numbers(value: object, place: tuple[object, ...]) -> Iterator[tuple[tuple[object, ...], float]]:
    """Every float of `value`, and where: TOML knows inf and nan, which are numbers to a JSON schema."""
    if isinstance(value, float):
        yield place, value
    if isinstance(value, Mapping):
        for name, item in value.items():
            yield from _numbers(item, (*place, name))
