"""The environment: what this process needs of the machine, checked once, with one line on what is missing.

The only module that reads environment variables.
"""

from __future__ import annotations

import importlib
import importlib.util
import os
import re
from typing import Any

from tridiff.harness.engines.spec import UsageError

_BLAS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
_TRITON = (3, 5)
_TORCH = (2, 9)


def one_blas_thread() -> None:
    """One BLAS thread per process, unless the user set another number; call before numpy or torch load."""
    for name in _BLAS:
        os.environ.setdefault(name, "1")


def caches_ir() -> bool:
    """Whether the IR of compiled kernels is kept on disk: yes, unless TRIDIFF_CACHE=0."""
    return os.environ.get("TRIDIFF_CACHE", "1") != "0"


def require_packages() -> None:
    """Raise `UsageError` unless a torch and a triton that tridiff supports can be imported and launches can be captured."""
    for name in ("torch", "triton"):
        if not _present(name):
            raise UsageError(f"{name} is not installed: {_advice(name)}")
    torch, triton = _imported("torch"), _imported("triton")
    _check_version("torch", str(torch.__version__), _TORCH, (99, 0))
    _check_version("triton", str(triton.__version__), _TRITON, (99, 0))  # the self-test decides
    if triton.knobs.runtime.interpret:
        raise UsageError("TRITON_INTERPRET is set, so launches cannot be captured: unset it and run again")


def _imported(name: str) -> Any:
    try:
        return importlib.import_module(name)
    except (ImportError, OSError) as error:  # A shared library that is missing, or of another CUDA or ROCm.
        raise UsageError(f"{name} is installed but cannot be imported: {error}; repair or reinstall it") from error


def _present(name: str) -> bool:
    try:
        return importlib.util.find_spec(name) is not None
    except (ImportError, ValueError):
        return False


def _advice(name: str) -> str:
    if name == "triton" and _present("torch"):
        return "install the Triton that belongs to your torch (pip install 'tridiff[cpu]' on a machine without a GPU)"
    return "pip install 'tridiff[cpu]' on a machine without a GPU, or use a ROCm or CUDA container that has it"


def _check_version(name: str, version: str, low: tuple[int, int], high: tuple[int, int]) -> None:
    match = re.match(r"(\d+)\.(\d+)", version)
    if match is None:
        return
    number = (int(match.group(1)), int(match.group(2)))
    if not low <= number <= high:
        limit = f"{low[0]}.{low[1]}" + (f" to {high[0]}.{high[1]}" if high[0] < 99 else " or newer")
        raise UsageError(f"{name} {version} is installed, tridiff works with {limit}: install one of these")
