"""Which file the settings are in, and what it holds."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from tridiff.harness import config
from tridiff.harness.engines.spec import UsageError
from tridiff.harness.settings.checking import check
from tridiff.harness.settings.model import Database, GitHub, Override, Settings
from tridiff.harness.targets.table import BUILT_IN, Part

OWN = "tridiff.toml"
SHARED = "pyproject.toml"
_HEADER = re.compile(r"^\s*\[+\s*tool\s*\.\s*[\"']?tridiff\b", re.MULTILINE)
"""How a table of ours begins, for files that cannot be read as TOML."""


def read(file: Path | None = None, *, start: Path | None = None) -> Settings:
    """The settings of `file`, else of the nearest file from `start` upwards, by default the current folder; else the defaults.

    Raises `UsageError` with one line that names the file, the key, the value and what is allowed.
    """
    found = _table_of(file) if file is not None else _nearest((start or Path.cwd()).absolute())
    if found is None:
        return Settings()
    path, table = found
    check(table, shown(path))
    return _settings(path.absolute(), table)


Found = tuple[Path, dict[str, Any]]


def _table_of(file: Path) -> Found:
    """The settings of a file that was asked for; whatever its name, those of pyproject.toml are in a table."""
    if file.name == SHARED:
        table = _shared(file)
        if table is None:
            raise UsageError(f"{shown(file)}: has no table [tool.tridiff]; add one, or give another file with --config")
        return file, table
    return file, parsed(file, text(file))


def _nearest(start: Path) -> Found | None:
    for folder in (start, *start.parents):
        own, shared = folder / OWN, folder / SHARED
        table = _shared(shared) if shared.is_file() else None
        if own.is_file():
            if table is not None:
                raise UsageError(f"{shown(own)}: {SHARED} beside it has [tool.tridiff] as well; keep the settings in one of them")
            return own, parsed(own, text(own))
        if table is not None:
            return shared, table
    return None


def _shared(path: Path) -> dict[str, Any] | None:
    """The table [tool.tridiff]; None without one, also where a file that does not mention us is no TOML."""
    content = text(path)
    if "tridiff" not in content:
        return None
    try:
        data = parsed(path, content)
    except UsageError:
        if _HEADER.search(content) is None:
            return None
        raise
    tool = data.get("tool", {})
    table = tool.get("tridiff") if isinstance(tool, dict) else None
    if table is not None and not isinstance(table, dict):
        raise UsageError(f"{shown(path)}: tool.tridiff: {table!r}: must be a table")
    return table


ADVICE = "give the path of a settings file with --config"


def text(path: Path, advice: str = ADVICE) -> str:
    """The content of a file of the user. Raises `UsageError`, with `advice` where there is none."""
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError as error:
        raise UsageError(f"{shown(path)}: no such file; {advice}") from error
    except OSError as error:
        raise UsageError(f"{shown(path)}: cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise UsageError(f"{shown(path)}: not UTF-8 at byte {error.start}; save it as UTF-8") from error


def parsed(path: Path, content: str) -> dict[str, Any]:
    """`content` of `path` as TOML. Raises `UsageError`."""
    parser = config.imported("tomllib") or config.imported("tomli")  # the former from Python 3.11
    if parser is None:
        raise UsageError(f"{shown(path)}: cannot be read without the package tomli: pip install tomli")
    try:
        table: dict[str, Any] = parser.loads(content)
    except (ValueError, RecursionError) as error:
        raise UsageError(f"{shown(path)}: not TOML: {error}") from error
    return table


def shown(path: Path) -> str:
    """`path` as short as it is clear: relative to the current folder where it lies below."""
    here = Path.cwd()
    return str(path.relative_to(here) if path.is_relative_to(here) else path)


def _settings(path: Path, table: Mapping[str, Any]) -> Settings:
    folder = path.parent
    plain = {name: table[name] for name in ("profile", "target", "timeout", "memory_limit") if name in table}
    return Settings(
        **plain,
        file=path,
        targets=tuple(_part(name, values) for name, values in table.get("targets", {}).items()),
        plugins=tuple(_plugin(folder, name) for name in table.get("plugins", ())),
        out=_path(folder, table, "out"),
        known_failures=_path(folder, table, "known_failures"),
        cases=tuple(folder / name for name in table.get("cases", ())),
        database=_database(folder, table["database"]) if "database" in table else None,
        profiles={name: _override(values) for name, values in table.get("profiles", {}).items()},
    )


def _part(name: str, table: Mapping[str, Any]) -> Part:
    """What is not given is as it is for the built-in part of that name, if there is one."""
    whole = ("shared_bytes", "threads", "tensor_memory", "processors")
    given: dict[str, Any] = {key: int(table[key]) if key in whole else table[key] for key in (*whole, "device") if key in table}
    known = BUILT_IN.get(name)
    sources = {**(known.sources if known else {}), **dict.fromkeys(given, table["source"])}
    return replace(known, sources=sources, **given) if known else Part(name=name, sources=sources, **given)


def _plugin(folder: Path, name: str) -> str:
    """A file is relative to `folder`; a module has a dotted name."""
    return str(folder / name) if name.endswith(".py") or os.sep in name else name


def _path(folder: Path, table: Mapping[str, Any], name: str) -> Path | None:
    return folder / table[name] if name in table else None


def _database(folder: Path, table: Mapping[str, Any]) -> Database:
    github = None
    if "github" in table:
        given = table["github"]
        github = GitHub(**{**given, "directory": _path(folder, given, "directory")})
    return Database(directory=_path(folder, table, "directory"), github=github)


def _override(table: Mapping[str, Any]) -> Override:
    """Numbers without a fraction are integers to the schema, also as `100.0`."""
    whole = {name: int(table[name]) for name in ("examples", "seed") if isinstance(table.get(name), int | float)}
    return Override(**{**table, **whole})
