"""Lists of Cases to examine before any is drawn, as files to be committed: a changed strategy draws other Cases from a seed.

A list is JSON lines: `{"schema": 1, "op": NAME, "target": ARCH}`, then one Case a line. The case file of a finding is a list of
one, for its kernel alone. Both are read strictly.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tridiff.harness import repro
from tridiff.harness.api import SCHEMA, CaseError, Domain, Kernel, Op, from_json, to_json
from tridiff.harness.engines.spec import UsageError, check_target
from tridiff.harness.registry import Registry

_HEADER = {"schema", "op", "target"}


@dataclass(frozen=True, kw_only=True)
class CaseList:
    """Cases of an Op, drawn for `target`; `kernel`: the only one that they are for, or None for every kernel of the Op."""

    path: Path
    op: str
    target: str
    cases: tuple[Any, ...]
    kernel: str | None = None

    def serves(self, kernel: Kernel) -> bool:
        """Whether the Cases are for `kernel`."""
        return kernel.op == self.op and self.kernel in {None, kernel.name}


def cases_for(kernel: Kernel, lists: Iterable[CaseList]) -> list[Any]:
    """The distinct Cases of all `lists` that are for `kernel`, in order."""
    return list(dict.fromkeys(case for given in lists if given.serves(kernel) for case in given.cases))


def read_all(paths: Iterable[Path], registry: Registry) -> list[CaseList]:
    """The lists in `paths`: a file each, or a folder with all `*.jsonl` and `*.json` below it, by name.

    Raises `UsageError` with the file, the line and what is wrong there, and for a folder without lists.
    """
    return [read(file, registry) for path in paths for file in _files(path)]


def _files(path: Path) -> list[Path]:
    if not path.is_dir():
        return [path]
    found = sorted(file for suffix in ("*.jsonl", "*.json") for file in path.rglob(suffix))
    if not found:
        raise UsageError(f"{path}: no list of cases in this folder (*.jsonl, or *.json of findings)")
    return found


def read(path: Path, registry: Registry) -> CaseList:
    """The list in a file: the case file of a finding if its name ends in .json. Raises `UsageError` as `read_all` does."""
    if path.suffix == ".json":
        found = repro.read(path, registry)
        kernel = registry.kernel(found.ref.kernel)
        return CaseList(path=path, op=kernel.op, target=found.spec.target, cases=(found.case,), kernel=kernel.name)
    lines = _lines(path)
    op, target = _header(path, lines, registry)
    return CaseList(path=path, op=op.name, target=target, cases=tuple(_cases(path, lines[1:], op, target)))


def written(op: str, target: str, cases: Sequence[Any]) -> str:
    """The content of a list. Every field is spelt out: a default that changes must not change the Cases."""
    header = {"schema": SCHEMA, "op": op, "target": target}
    return "".join(json.dumps(line, separators=(",", ":")) + "\n" for line in [header, *map(to_json, cases)])


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text(encoding="utf-8").splitlines()
    except FileNotFoundError as error:
        raise UsageError(f"{path}: no such file; give a list of cases that `tridiff cases` wrote, or a folder of them") from error
    except OSError as error:
        raise UsageError(f"{path}: cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise UsageError(f"{path}: cannot be read: {error}") from error


def _header(path: Path, lines: Sequence[str], registry: Registry) -> tuple[Op, str]:
    if not lines:
        raise UsageError(f"{path}: empty; the first line of a list says schema, op and target")
    data = _parsed(path, 1, lines[0])
    if not isinstance(data, dict) or set(data) != _HEADER:
        raise UsageError(f"{path}: line 1: must be an object with schema, op and target, and nothing else")
    if type(data["schema"]) is not int or data["schema"] != SCHEMA:
        raise UsageError(f"{path}: line 1: schema {data['schema']!r}: this tridiff reads schema {SCHEMA}")
    for name in ("op", "target"):
        if not isinstance(data[name], str):
            raise UsageError(f"{path}: line 1: {name}={data[name]!r}: must be a string")
    try:
        return registry.op(data["op"]), check_target(data["target"])
    except UsageError as error:
        hint = "" if data["op"] in registry.ops else "; if it comes from a plug-in, name that: --plugin FILE"
        raise UsageError(f"{path}: line 1: {error}{hint}") from error


def _cases(path: Path, lines: Sequence[str], op: Op, target: str) -> Iterator[Any]:
    seen: dict[Any, int] = {}
    for number, line in enumerate(lines, start=2):
        case = _case(path, number, line, op)
        if op.within is not None and not op.within(case, Domain(target=target)):
            raise UsageError(
                f"{path}: line {number}: not a case of {op.name} on {target}; remove it, or put it into another list"
            )
        if case in seen:
            raise UsageError(f"{path}: line {number}: the same case as in line {seen[case]}; remove one of them")
        seen[case] = number
        yield case
    if not seen:
        raise UsageError(f"{path}: no cases after the first line; `tridiff cases --op {op.name}` makes a list")


def _case(path: Path, number: int, line: str, op: Op) -> Any:
    try:
        return from_json(op.case, _parsed(path, number, line))
    except CaseError as error:
        raise UsageError(f"{path}: line {number}: {error}") from error


def _parsed(path: Path, number: int, line: str) -> Any:
    try:
        return json.loads(line)
    except json.JSONDecodeError as error:
        raise UsageError(f"{path}: line {number}: not JSON: {error.msg} at column {error.colno}") from error
    except (ValueError, RecursionError) as error:  # An integer of thousands of digits, lists in lists in lists.
        raise UsageError(f"{path}: line {number}: not JSON that can be read: {error}") from error
