"""Repro: a Finding as a small JSON file, strict in both directions, and what reads it back.

`{schema, op, kernel, engine, target, check, message, case}`; `schema` is the version of the form.
"""

from __future__ import annotations

import json
import os
import shlex
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tridiff.harness.api import CHECKS, OF_MACHINE_CODE, SCHEMA, CaseError, Finding, Kernel, from_json, to_json
from tridiff.harness.engines.spec import COMPILER, EngineSpec, UsageError, check_engine, check_target
from tridiff.harness.registry import Registry, builtin, needs, runs_here
from tridiff.harness.runner.examine import KernelRef

_FIELDS = {"schema", "op", "kernel", "engine", "target", "check", "message", "case"}


@dataclass(frozen=True, kw_only=True)
class Repro:
    """What a case file says: how to run which Case, and the check that once failed."""

    ref: KernelRef
    spec: EngineSpec
    check: str
    case: Any


def as_json(finding: Finding) -> dict[str, Any]:
    """The content of the finding's case file."""
    return {
        "schema": SCHEMA,
        "op": finding.op,
        "kernel": finding.kernel,
        "engine": finding.engine,
        "target": finding.target,
        "check": finding.check,
        "message": finding.message,
        "case": to_json(finding.case),
    }


def prepare(folder: Path, *, option: str = "--out") -> Path:
    """Make FOLDER/findings, so that an unwritable place is known before the work. Raises `UsageError` that names `option`."""
    return writable(folder / "findings", f"choose another folder with {option}")


def writable(folder: Path, advice: str) -> Path:
    """`folder`, made where it is missing. Raises `UsageError` with `advice` where nothing can be written to it."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe = folder / ".tridiff-write-test"
        probe.touch()
        probe.unlink(missing_ok=True)  # Another process may be probing, too.
    except OSError as error:
        raise UsageError(f"cannot write to {folder}: {error.strerror}; {advice}") from error
    return folder


def write(folder: Path, finding: Finding) -> Path:
    """Write FOLDER/SIGNATURE.json and return its path."""
    path = folder / f"{finding.signature()}.json"
    whole = path.with_suffix(f".{os.getpid()}")  # Another process may be writing the same finding.
    whole.write_text(json.dumps(as_json(finding), indent=2) + "\n", encoding="utf-8")
    return whole.replace(path)


def command(file: Path, plugins: Iterable[str] = ()) -> str:
    """What to type to run a case file again, with the `plugins` that its kernel comes from."""
    options = [word for name in plugins for word in ("--plugin", name)]
    return shlex.join(["tridiff", "repro", *options, str(file)])


def target_of(path: Path) -> str:
    """The target of a case file, before it is known which plug-ins it needs. Raises `UsageError` as `read` does."""
    data = _object(path)
    try:
        _check_form(data)
        return check_target(data["target"])
    except UsageError as error:
        raise UsageError(f"{path}: {error}") from error


def read(path: Path, registry: Registry | None = None) -> Repro:
    """Read a case file, strictly. Raises `UsageError` with the file's name and what is wrong in it."""
    data = _object(path)
    try:
        return _interpret(data, registry or builtin())
    except (UsageError, CaseError) as error:
        raise UsageError(f"{path}: {error}") from error


def _interpret(data: dict[str, Any], known: Registry) -> Repro:
    _check_form(data)
    kernel = _kernel(data["kernel"], known)
    op = known.op(data["op"])
    if kernel.op != op.name:
        raise UsageError(f"kernel {kernel.name!r} implements {kernel.op!r}, not {op.name!r}")
    if not runs_here(kernel):
        raise UsageError(f"kernel {kernel.name!r} {needs(kernel)}")
    spec = _spec(data["engine"], check_target(data["target"]), data["check"])
    case = from_json(op.case, data["case"])
    return Repro(ref=KernelRef(kernel=kernel.name, plugins=known.plugins), spec=spec, check=data["check"], case=case)


def _spec(engine: str, target: str, check: str) -> EngineSpec:
    """How the Case is run; of the compiler's checks some need machine code."""
    if engine == COMPILER:
        return EngineSpec(name=COMPILER, target=target, full=check in OF_MACHINE_CODE)
    return EngineSpec(name=check_engine(engine), target=target)


def _kernel(name: str, known: Registry) -> Kernel:
    try:
        return known.kernel(name)
    except UsageError as error:
        raise UsageError(f"{error}; if it comes from a plug-in, name that: --plugin FILE") from error


def _object(path: Path) -> dict[str, Any]:
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise UsageError(f"{path}: no such file; give the path of a case file that tridiff wrote") from error
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"{path}: cannot be read: {error}") from error
    except json.JSONDecodeError as error:
        raise UsageError(f"{path}: not JSON: {error.msg} in line {error.lineno}") from error
    except (ValueError, RecursionError) as error:  # An integer of thousands of digits, lists in lists in lists.
        raise UsageError(f"{path}: not JSON that can be read: {error}") from error
    if not isinstance(data, dict):
        raise UsageError(f"{path}: a case file holds a JSON object, this one a {type(data).__name__}")
    return data


def _check_form(data: dict[str, Any]) -> None:
    if type(data.get("schema")) is not int or data["schema"] != SCHEMA:
        raise UsageError(f"schema {data.get('schema')!r}: this tridiff reads schema {SCHEMA}")
    missing, unknown = sorted(_FIELDS - {"message"} - set(data)), sorted(set(data) - _FIELDS)
    if missing:
        raise UsageError(f"missing field {', '.join(missing)}")
    if unknown:
        raise UsageError(f"unknown field {', '.join(unknown)}; fields: {', '.join(sorted(_FIELDS))}")
    wrong = [name for name in ("op", "kernel", "engine", "target", "check") if not isinstance(data[name], str)]
    if wrong:
        raise UsageError(f"{wrong[0]}={data[wrong[0]]!r}: must be a string")
    if data["check"] not in CHECKS:
        raise UsageError(f"unknown check {data['check']!r}; checks: {', '.join(CHECKS)}")
