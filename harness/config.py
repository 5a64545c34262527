"""The environment: what this process needs of the machine, checked once, with one line on what is missing.

The only module that reads environment variables.
"""

from __future__ import annotations

import importlib
import importlib.util
import os
import re
from pathlib import Path
from typing import Any

from tridiff.harness.engines.spec import UsageError

_BLAS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
_VISIBLE = ("ROCR_VISIBLE_DEVICES", "HIP_VISIBLE_DEVICES", "CUDA_VISIBLE_DEVICES")
_MINIMUM = {"torch": (2, 9), "triton": (3, 5)}


def one_blas_thread() -> None:
    """One BLAS thread per process, unless the user set another number; call before numpy or torch load."""
    for name in _BLAS:
        os.environ.setdefault(name, "1")


def caches_ir() -> bool:
    """Whether the IR of compiled kernels is kept on disk: yes, unless TRIDIFF_CACHE=0."""
    return os.environ.get("TRIDIFF_CACHE", "1") != "0"


def upstream() -> tuple[Path, bool]:
    """The folder of fetched packages, and whether TRIDIFF_UPSTREAM names it; else it is `.upstream` in the current one."""
    named = os.environ.get("TRIDIFF_UPSTREAM")
    return Path(named or ".upstream").absolute(), bool(named)


def github_token() -> str | None:
    """What GITHUB_TOKEN says, else GH_TOKEN; None without either."""
    return os.environ.get("GITHUB_TOKEN") or os.environ.get("GH_TOKEN") or None


def require_packages() -> None:
    """Raise `UsageError` unless a torch and a triton that tridiff supports can be imported and launches can be captured."""
    for name in _MINIMUM:
        _require_presence(name)
    for name in _MINIMUM:
        _require_fitness(name)


def package_problem(name: str) -> str | None:
    """What is wrong with `name` ("torch" or "triton") and what to do about it; None if nothing is."""
    try:
        _require_presence(name)
        _require_fitness(name)
    except UsageError as error:
        return str(error)
    return None


def imported(name: str) -> Any:
    """The module `name`, or None where it cannot be imported."""
    try:
        return importlib.import_module(name)
    except (ImportError, OSError):
        return None


def visible_devices() -> dict[str, str]:
    """The variables by which ROCm and CUDA hide GPUs, as far as they are set."""
    return {name: os.environ[name] for name in _VISIBLE if name in os.environ}


def container() -> str | None:
    """What the variable `container` says, which systemd-nspawn, podman and others set."""
    return os.environ.get("container") or None  # noqa: SIM112 - lower case it is


def _require_presence(name: str) -> None:
    if not _present(name):
        raise UsageError(f"{name} is not installed: {_advice(name)}")


def _require_fitness(name: str) -> None:
    module = _imported(name)
    _check_version(name, str(module.__version__), _MINIMUM[name], (99, 0))  # of Triton, the self-test decides
    if name == "triton" and module.knobs.runtime.interpret:
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
