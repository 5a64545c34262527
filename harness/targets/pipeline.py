"""Triton's own compiler for one specialisation: up to the allocation of memory (fast), or to the object file (full).

Fast: the TTIR that the executor runs too, then the installed release's own `make_ttgir` and `make_llir`, of which the latter is
cut off where it begins to convert to LLVM: what comes before are the passes that allocate shared memory and tensor memory.
So no list of passes of ours can drift; that the cut is where we think it is, `selftest` sees to.
"""

from __future__ import annotations

import contextlib
import os
import re
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import triton
from triton._C.libtriton import amd, nvidia
from triton.compiler import ASTSource

from tridiff.harness.api import Failure
from tridiff.harness.capture import Specialisation, backend_for
from tridiff.harness.engines.cpu.errors import KernelError
from tridiff.harness.engines.cpu.ttir import generic_text, loaded_context, parsed_module

RELEASE = f"Triton {triton.__version__}"
"""Named in every verdict: the same kernel fits in one release and not in the next."""
_LOWERING = {"hip": amd.passes.ttgpuir, "cuda": nvidia.passes.ttgpuir}
"""By back end: what holds `add_to_llvmir`, the pass that begins the conversion to LLVM (3.6 to 3.9)."""
_DIAGNOSTIC = re.compile(r"error: (.+)")
_NO_REASON = "the pass manager says no more"


class Refused(Exception):
    """Triton refuses a specialisation; `failure` says why, as a check of the compiler."""

    def __init__(self, failure: Failure) -> None:
        super().__init__(failure.message)
        self.failure = failure


class PipelineDrift(RuntimeError):
    """The installed Triton's compiler is not laid out as we think."""


@dataclass(frozen=True, kw_only=True)
class Figures:
    """What a program needs: bytes of shared memory, threads, and columns of tensor memory."""

    shared: int
    threads: int
    tensor_memory: int = 0


@dataclass(frozen=True, kw_only=True, eq=False)
class Allocated:
    """Triton's `module` after the allocation of memory, what it needs, and the `ttir` that it was made from, as text."""

    module: Any
    figures: Figures
    ttir: str


class _Cut(BaseException):
    """Ends `make_llir` where the conversion to LLVM begins."""


def allocated(specialisation: Specialisation) -> Allocated:
    """Compile up to the allocation of memory. Raises `Refused`."""
    try:
        text = generic_text(specialisation, shared=True)
    except KernelError as error:
        raise Refused(
            Failure(check="compile", message=f"{error.message} ({RELEASE})", line=error.line, subject=error.subject)
        ) from error
    try:
        module = _lowered(specialisation, text)
    except (PipelineDrift, MemoryError):  # no fault of the kernel's
        raise
    except Exception as error:  # a pass fails with a RuntimeError; Triton's own Python may raise what it likes
        with _messages() as said, contextlib.suppress(Exception):
            _lowered(specialisation, text)
        otherwise = str(error) if isinstance(error, RuntimeError) else f"{type(error).__name__}: {error}"
        reason = _explanation("".join(said), otherwise)
        message = f"Triton's passes refuse {specialisation.function.__name__}: {reason} ({RELEASE})"
        raise Refused(Failure(check="compile", message=message, subject=reason)) from error
    return Allocated(module=module, figures=_figures(module, specialisation), ttir=text)


def _lowered(specialisation: Specialisation, text: str) -> Any:
    backend, options = backend_for(specialisation.target), specialisation.options
    stages: dict[str, Any] = {}
    backend.add_stages(stages, options, ASTSource(specialisation.function, specialisation.signature).language)
    metadata = dict(vars(options))
    module = stages["ttgir"](parsed_module(text, loaded_context(backend)), metadata)
    manager: list[Any] = []

    def cut(passes: Any, *_: Any) -> None:
        manager.append(passes)
        raise _Cut

    with _replaced(_LOWERING[specialisation.target.backend], "add_to_llvmir", cut):
        try:
            stages["llir"](module, metadata)
        except _Cut:
            manager[0].run(module, "allocate")
        else:
            raise PipelineDrift(f"{RELEASE} converts to LLVM by other passes than tridiff knows: no verdict on targets")
    return module


@contextmanager
def _replaced(owner: Any, name: str, value: Callable[..., Any]) -> Iterator[None]:
    if not hasattr(owner, name):
        raise PipelineDrift(f"{RELEASE} has no {name} among its passes: no verdict on targets")
    before = getattr(owner, name)
    setattr(owner, name, value)
    try:
        yield
    finally:
        setattr(owner, name, before)


def _figures(module: Any, specialisation: Specialisation) -> Figures:
    shared = module.get_int_attr("ttg.shared")
    if shared is None:
        raise PipelineDrift(f"{RELEASE} does not say how much shared memory it allocates: no verdict on targets")
    # Specialised warps add to those that were asked for.
    warps = module.get_int_attr("ttg.total-num-warps") or specialisation.options.num_warps
    return Figures(
        shared=shared,
        threads=warps * specialisation.target.warp_size,
        tensor_memory=module.get_int_attr("ttg.tensor_memory_size") or 0,
    )


@contextmanager
def _messages() -> Iterator[list[str]]:
    """Catch what MLIR writes to standard error, where its diagnostics go; an abort here would lose them.

    The list holds it once the context is left.
    """
    said: list[str] = []
    sys.stderr.flush()
    with tempfile.TemporaryFile() as file:
        kept = os.dup(2)
        os.dup2(file.fileno(), 2)
        try:
            yield said
        finally:
            os.dup2(kept, 2)
            os.close(kept)
            file.seek(0)
            said.append(file.read().decode(errors="replace"))


def _explanation(said: str, otherwise: str) -> str:
    match = _DIAGNOSTIC.search(said)
    return match[1] if match else f"{otherwise}: {_NO_REASON}"
