"""Faults made real: a kernel module's source with a Fault's patches, written to a file and loaded under another name."""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import sys
import tempfile
from functools import lru_cache
from pathlib import Path
from types import ModuleType

from tridiff.harness.api import Fault, Kernel
from tridiff.harness.capture import targeting
from tridiff.harness.engines.spec import DEFAULT_TARGET


class PatchError(RuntimeError):
    """A Fault's patch does not fit its kernel's source: which fault, which snippet, how often it occurs."""


def patched(source: str, fault: Fault) -> str:
    """`source` with every patch applied, in order. Raises `PatchError` unless each snippet occurs exactly once."""
    for patch in fault.patches:
        count = source.count(patch.old)
        if count != 1:
            raise PatchError(
                f"fault {fault.name!r}: the snippet {patch.old!r} occurs {count} times in {fault.kernel!r}, not once"
            )
        source = source.replace(patch.old, patch.new)
    return source


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
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise PatchError(f"fault {fault.name!r}: cannot load {path}")
    twin = importlib.util.module_from_spec(spec)
    sys.modules[name] = twin
    try:
        spec.loader.exec_module(twin)
    except BaseException:
        del sys.modules[name]
        raise
    return twin


_holder: list[tempfile.TemporaryDirectory[str]] = []


def _folder() -> Path:
    """A folder of this process, removed when it ends."""
    if not _holder:
        _holder.append(tempfile.TemporaryDirectory(prefix="tridiff-faults-"))
    return Path(_holder[0].name)
