"""Does a fast verdict say what the whole of the installed Triton's pipeline says? One kernel for each back end.

Before a process gives verdicts, the kernel is compiled both ways and the figures must be equal. That they were is remembered
beside the IR, for this build of Triton and this source of ours; a drift is not.
"""

from __future__ import annotations

import inspect
from functools import lru_cache
from types import ModuleType

import torch
import triton

from tridiff.harness.capture import Launch, Specialisation, capturing
from tridiff.harness.engines.cpu import cache, fingerprint
from tridiff.harness.engines.cpu.ttir import SUPPORTED
from tridiff.harness.engines.spec import UsageError, backend_of
from tridiff.harness.targets import machine_code, pipeline, selftest_kernel
from tridiff.harness.targets.pipeline import PipelineDrift, Refused
from tridiff.harness.targets.selftest_kernel import attend

TARGETS = {"hip": "gfx942", "cuda": "sm_90"}
"""The part for which the kernel is compiled, by back end."""
QUERIES, KEYS, COLUMNS = 16, 64, 128
"""Of the kernel's tiles."""


class TargetsDrift(PipelineDrift, UsageError):
    """The installed Triton is not one on whose verdicts we can rely."""


_passed: set[str] = set()


def ensure(target: str) -> None:
    """Run the self-test for the target's back end unless it has passed before. Raises `TargetsDrift`."""
    backend = str(backend_of(target)[0])
    if backend in _passed:
        return
    store, key = cache.store(), fingerprint.digest(f"self-test of verdicts {backend} {_source()}")
    if store is None or store.get(key) != "passed":
        check(backend)
        if store is not None:
            store.put(key, "passed")
    _passed.add(backend)


def check(backend: str) -> None:
    """Compile the kernel both ways. Raises `TargetsDrift` where the figures differ, or nothing is allocated at all."""
    specialisation = specialised(TARGETS[backend])
    try:
        quick = pipeline.allocated(specialisation).figures
        whole = machine_code.compiled(specialisation).figures
    except (Refused, PipelineDrift) as error:
        raise _drift(backend, str(error)) from error
    if quick != whole or not quick.shared:
        raise _drift(backend, f"the fast verdict says {quick}, the whole pipeline {whole}")


def specialised(target: str) -> Specialisation:
    """The kernel as it would be launched on `target`."""
    tensors = [torch.zeros(4 * KEYS, COLUMNS, dtype=torch.bfloat16) for _ in range(4)]
    tiles = {"block_q": QUERIES, "block_n": KEYS, "block_d": COLUMNS}
    launches: list[Launch] = []
    with capturing(target, launches.append, lambda _tensor: None):
        attend[(1,)](*tensors, 4 * KEYS, **tiles, num_warps=4, num_stages=2)
    return launches[0].specialisation


def _drift(backend: str, what: str) -> TargetsDrift:
    return TargetsDrift(
        f"triton {triton.__version__} does not pass the self-test of verdicts on targets for back end {backend!r} ({what}); "
        f"tested versions: {SUPPORTED}: install one of these"
    )


@lru_cache(maxsize=1)
def _source() -> str:
    """What the self-test depends on besides Triton."""
    modules: tuple[ModuleType, ...] = (pipeline, machine_code, selftest_kernel, inspect.getmodule(ensure) or pipeline)
    return fingerprint.digest("".join(inspect.getsource(module) for module in modules))
