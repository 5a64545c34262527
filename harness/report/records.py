"""Records: what a run writes down while it runs, a JSON object each. `docs/reference/events.md` explains every field.

Everything that is shown of a run is derived from its records, by readers that need neither torch nor the kernels. So this
module imports none of what runs kernels; `recording` makes records of events.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

SCHEMA = 1
"""Version of the records' form; raised whenever an old file could be misread. New fields alone do not raise it."""

Record = Mapping[str, Any]

Types = tuple[type, ...]
_TEXT: Types = (str,)
_COUNT: Types = (int,)
_NUMBER: Types = (int, float)
_FLAG: Types = (bool,)
_LIST: Types = (list,)
_OBJECT: Types = (dict,)
_NONE: Types = (type(None),)

_CASE = {"seconds": _NUMBER, "kernel": _TEXT, "case": _TEXT, "kind": _TEXT, "outcome": _TEXT}
_REASON = {"reason": _TEXT}

FORMS: dict[str, dict[str, Types]] = {
    "run": {
        "schema": _COUNT,
        "started": _TEXT,
        "seed": _COUNT,
        "engine": _TEXT,
        "target": _TEXT,
        "verdicts": _LIST,
        "kernels": _LIST,
        "models": _LIST,
        "domains": _OBJECT,
        "unrunnable": _LIST,
        "plugins": _LIST,
        "plugin_notes": _LIST,
        "budget": _OBJECT,
        "waived": _LIST,
        "shard": (*_TEXT, *_NONE),
        "folder": _TEXT,
        "environment": _OBJECT,
    },
    "case": _CASE,
    "finding": {
        "seconds": _NUMBER,
        "stage": _TEXT,
        "signature": _TEXT,
        "examples": _COUNT,
        "shrunk": (*_FLAG, *_NONE),
        "why": (*_TEXT, *_NONE),
        "meaning": _TEXT,
        "line": (*_TEXT, *_NONE),
        "others": _LIST,
        "tail": _LIST,
        "differing": _OBJECT,
        "file": (*_TEXT, *_NONE),
        "unwritten": (*_TEXT, *_NONE),
        "reproduce": (*_TEXT, *_NONE),
        "repro": _OBJECT,
    },
    "unexpected_pass": {
        "seconds": _NUMBER,
        "kernel": _TEXT,
        "entry": _TEXT,
        "case": _OBJECT,
        "differing": _OBJECT,
        "how": _TEXT,
    },
    "distribution": {"seconds": _NUMBER, "kernel": _TEXT, "properties": _OBJECT},
    "worker_died": {
        "seconds": _NUMBER,
        "kernel": _TEXT,
        "case": _OBJECT,
        "how": _TEXT,
        "tail": _LIST,
        "confirming": _FLAG,
    },
    "summary": {
        "seconds": _NUMBER,
        "interrupted": _FLAG,
        "exit": _COUNT,
        "error": (*_TEXT, *_NONE),
        "lost": _COUNT,
        "totals": _OBJECT,
    },
}
"""The fields that every record of a kind has, with their types."""

OUTCOMES: dict[str, dict[str, Types]] = {
    "clean": {"ratio": (*_NUMBER, *_NONE), "conclusive": _FLAG, "specialisations": _LIST},
    "found": {"signature": _TEXT, "specialisations": _LIST},
    "skipped": _REASON,
    "unsupported": {**_REASON, "line": (*_TEXT, *_NONE)},
    "infrastructure": {**_REASON, "tail": _LIST},
    "quarantined": {"entry": _TEXT},
    "tolerated": {"entry": _TEXT, "signature": _TEXT, "message": _TEXT, "specialisations": _LIST},
}
"""The further fields of a `case`, by its outcome."""

KINDS = ("drawn", "replayed", "shrinking")
STAGES = ("seen", "minimal")
EXITS = (0, 1, 2, 3)

KERNEL = {"op": _TEXT, "kernel": _TEXT, "plugins": _LIST}
"""The fields of each entry of `kernels` in a `run`."""
WAIVED: dict[str, Types] = {
    **dict.fromkeys(("entry", "file", "kernel", "status", "scope", "owner", "expires"), _TEXT),
    **dict.fromkeys(("number", "days"), _COUNT),
    "whole": _FLAG,
    **dict.fromkeys(("reason", "issue", "untried"), (*_TEXT, *_NONE)),
}
"""Those of each entry of `waived` in a `run`."""
REPRO = {**dict.fromkeys(("op", "kernel", "engine", "target", "check", "message"), _TEXT), "case": _OBJECT}
"""Those fields of a case file that are shown."""


class RecordError(ValueError):
    """A record is malformed: the message names the field, and what it must be."""


def check(record: object) -> Record:
    """`record`, if it is one. Raises `RecordError`."""
    if not isinstance(record, dict):
        raise RecordError(f"must be a JSON object, not {_name(type(record))}")
    kind = record.get("record")
    if not isinstance(kind, str) or kind not in FORMS:
        raise RecordError(f"record={kind!r}: must be one of {', '.join(FORMS)}")
    if kind == "run":
        _check_schema(record)
    _check_fields(record, FORMS[kind], kind)
    _CHECKS.get(kind, lambda _record: None)(record)
    return record


def _check_schema(record: Record) -> None:
    if record.get("schema") != SCHEMA or type(record.get("schema")) is not int:
        raise RecordError(f"schema {record.get('schema')!r}: this tridiff reads schema {SCHEMA}")


def _check_run(record: Record) -> None:
    for field, form in (("kernels", KERNEL), ("waived", WAIVED)):
        for entry in record[field]:
            if not isinstance(entry, dict):
                raise RecordError(f"{field} of run: must be objects")
            _check_fields(entry, form, f"{field} of run")


def _check_case(record: Record) -> None:
    _check_choice(record, "outcome", tuple(OUTCOMES))
    _check_choice(record, "kind", KINDS)
    _check_fields(record, OUTCOMES[record["outcome"]], f"case that is {record['outcome']}")


def _check_finding(record: Record) -> None:
    _check_choice(record, "stage", STAGES)
    _check_fields(record["repro"], REPRO, "repro of finding")


def _check_distribution(record: Record) -> None:
    for name, words in record["properties"].items():
        if not (isinstance(words, dict) and all(type(count) is int for count in words.values())):
            raise RecordError(f"{name} of properties: must be an object of counts by word")


def _check_summary(record: Record) -> None:
    if record["exit"] not in EXITS:
        raise RecordError(f"exit={record['exit']}: must be one of {', '.join(map(str, EXITS))}")


_CHECKS = {
    "run": _check_run,
    "case": _check_case,
    "finding": _check_finding,
    "distribution": _check_distribution,
    "summary": _check_summary,
}


def _check_choice(record: Record, field: str, choices: tuple[str, ...]) -> None:
    if record[field] not in choices:
        raise RecordError(f"{field}={record[field]!r}: must be one of {', '.join(choices)}")


def _check_fields(record: Record, form: Mapping[str, Types], what: str) -> None:
    for field, types in form.items():
        if field not in record:
            raise RecordError(f"{what} without the field {field}")
        value = record[field]
        if not isinstance(value, types) or (isinstance(value, bool) and bool not in types):
            raise RecordError(f"{field} of {what} is {_name(type(value))}: must be {' or '.join(_names(types))}")


def _names(types: Types) -> list[str]:
    """Each of `types`; an integer is a number."""
    return [_name(kind) for kind in types if not (kind is int and float in types)]


def _name(kind: type) -> str:
    names = {str: "a string", int: "an integer", float: "a number", bool: "true or false", list: "a list", dict: "an object"}
    return names.get(kind, "null")
