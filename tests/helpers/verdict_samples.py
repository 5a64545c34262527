"""Specialisations to compare verdicts on: of our kernels as their cases are drawn, and of one kernel with tiles of any size."""

from __future__ import annotations

import itertools
import json
from collections.abc import Container, Iterator
from contextlib import contextmanager
from types import ModuleType

import torch

from tridiff.harness.api import Arena, Domain, Kernel, StagingError
from tridiff.harness.capture import Launch, Specialisation, capturing
from tridiff.harness.faults import load
from tridiff.harness.registry import Registry
from tridiff.harness.runner.drawing import batches
from tridiff.harness.runner.refusal import is_refusal
from tridiff.harness.targets.selftest_kernel import attend

TILES = {
    "2048-token block, head_dim 64": (16, 2048, 64),
    "2048-token block, head_dim 128": (16, 2048, 128),
    "head_dim 256, 128 x 128": (128, 128, 256),
    "head_dim 256, 64 x 256": (64, 256, 256),
    "MLA 576 as one tile of 1024": (16, 128, 1024),
}
"""Tiles that shipped kernels have had, all too large for some part; rows of queries, keys and columns."""


def tiled(
    target: str, block_q: int, block_n: int, block_d: int, dtype: torch.dtype = torch.bfloat16, warps: int = 4, stages: int = 2
) -> Specialisation:
    """`attend` with these tiles, as it would be launched on `target`."""
    tensors = [torch.zeros(max(block_q, block_n), block_d, dtype=dtype) for _ in range(4)]
    launches: list[Launch] = []
    with capturing(target, launches.append, lambda _tensor: None):
        attend[(1,)](*tensors, block_n, block_q=block_q, block_n=block_n, block_d=block_d, num_warps=warps, num_stages=stages)
    return launches[0].specialisation


def of_kernel(
    registry: Registry, kernel: Kernel, target: str, *, count: int, seed: int, placements: Container[str] | None = None
) -> Iterator[Specialisation]:
    """What `kernel` launches for drawn cases in all `placements` (None: every), each specialisation once, up to `count`."""
    op, module = registry.op(kernel.op), load(kernel, None, target)
    seen: dict[str, Specialisation] = {}

    def receive(launch: Launch) -> None:
        seen.setdefault(launch.specialisation.name, launch.specialisation)

    given = 0
    for case in itertools.chain.from_iterable(batches(registry, kernel.op, Domain(target=target, whole=True), seed=seed)):
        for name, place in (op.placements or {"drawn": lambda case: case}).items():
            if op.placements and placements is not None and name not in placements:
                continue
            with _ignoring(kernel, module), capturing(target, receive, _nothing, prepare=receive, every=True):
                getattr(module, kernel.launcher)(**op.build(place(case), Arena()))
        new = list(seen.values())[given:]
        for specialisation in new[: count - given]:
            given += 1
            yield specialisation
        if given >= count:
            return


@contextmanager
def _ignoring(kernel: Kernel, module: ModuleType) -> Iterator[None]:
    """What cannot be staged, and what the launcher refuses, is left out."""
    try:
        yield
    except StagingError:
        return
    except Exception as error:
        if not is_refusal(error, kernel, module):
            raise


def _nothing(_tensor: torch.Tensor) -> None:
    """Scratch stays as it is."""


def described(specialisation: Specialisation) -> str:
    """Name and constants, in a line."""
    constants = {str(path): str(value) for path, value in specialisation.constants.items()}
    return f"{specialisation.name} {json.dumps(constants)}"
