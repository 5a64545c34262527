"""Faults made real: a kernel module's source with a Fault's patches, written to a file and loaded under another name."""

from __future__ import annotations

import ast
import hashlib
import importlib
import itertools
import tempfile
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from types import ModuleType

from tridiff.harness.api import Fault, Kernel
from tridiff.harness.capture import targeting
from tridiff.harness.engines.spec import DEFAULT_TARGET
from tridiff.harness.loading import executed


class PatchError(RuntimeError):
    """A Fault's patch does not fit its kernel's source: which fault, which snippet, how often it occurs."""


def patched(source: str, fault: Fault) -> str:
    """`source` with every patch applied, in order. Raises `PatchError` unless each snippet occurs exactly once.

    A string that is the snippet, as where the Fault is declared in the kernel's own file, does not count.
    """
    for patch in fault.patches:
        places = _occurrences(source, patch.old)
        if len(places) != 1:
            raise PatchError(
                f"fault {fault.name!r}: the snippet {patch.old!r} occurs {len(places)} times in {fault.kernel!r}, not once"
            )
        (at,) = places
        source = source[:at] + patch.new + source[at + len(patch.old) :]
    return source


def _occurrences(source: str, snippet: str) -> list[int]:
    """Where `snippet` begins in `source`."""
    found: list[int] = []
    at = source.find(snippet)
    while at >= 0 and snippet:
        found.append(at)
        at = source.find(snippet, at + len(snippet))
    spans = list(_strings(source, snippet)) if found else []
    return [at for at in found if not any(start < at < stop for start, stop in spans)]


def _strings(source: str, value: str) -> Iterator[tuple[int, int]]:
    """From where to where in `source` there are strings that equal `value`."""
    try:
        tree = ast.parse(source)
    except SyntaxError:
        return
    lines = source.splitlines(keepends=True)
    starts = [0, *itertools.accumulate(map(len, lines))]
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and node.value == value:
            ends = ((node.lineno, node.col_offset), (node.end_lineno or node.lineno, node.end_col_offset or 0))
            start, stop = (starts[row - 1] + len(lines[row - 1].encode()[:column].decode()) for row, column in ends)
            yield start, stop


def load(kernel: Kernel, fault: Fault | None, target: str = DEFAULT_TARGET) -> ModuleType:
    """The kernel's module, or its faulty twin (Triton reads a kernel's source from its file, so it gets a real one).

    A module that asks Triton for the current device while it is imported is told `target`; it is imported once a process.
    """
    with targeting(target):
        module = importlib.import_module(kernel.module)
        return module if fault is None else _twin(module, fault)


@lru_cache(maxsize=256)
def _twin(module: ModuleType, fault: Fault) -> ModuleType:
    origin = Path(str(module.__file__))
    source = patched(origin.read_text(encoding="utf-8"), fault)
    digest = hashlib.blake2b(source.encode(), digest_size=6).hexdigest()
    flat = f"tridiff_fault_{fault.name}_{digest}"
    name = f"{module.__package__}.{flat}" if module.__package__ else flat  # so that relative imports work in the twin
    path = _folder() / flat / origin.name
    path.parent.mkdir(exist_ok=True)
    path.write_text(source, encoding="utf-8")
    return executed(name, path)


_holder: list[tempfile.TemporaryDirectory[str]] = []


_given: list[Path] = []


def keep_in(folder: Path) -> None:
    """From now on write twins to `folder`, which whoever started this process removes: it may be killed."""
    _given[:] = [folder]


def _folder() -> Path:
    """A folder of this process, removed when it ends."""
    if _given:
        _given[0].mkdir(mode=0o700, exist_ok=True)
        return _given[0]
    if not _holder:
        _holder.append(tempfile.TemporaryDirectory(prefix="tridiff-faults-"))
    return Path(_holder[0].name)
