"""Loading: a Python file as a module under a name of its own, which Triton can read the source of."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType


def executed(name: str, path: Path) -> ModuleType:
    """The module in `path`, imported as `name`; not kept if that fails. Raises ImportError, and whatever the file raises."""
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise ImportError(f"cannot load {path}")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module
