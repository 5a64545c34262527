"""The cpu engine: runs a launcher unmodified and executes each of its launches on arrays."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from tridiff.harness.api import RAW, Allocation, Arena, Zone, pattern
from tridiff.harness.capture import Launch, capturing
from tridiff.harness.engines.cpu import formats
from tridiff.harness.engines.cpu.control import run_function
from tridiff.harness.engines.cpu.errors import KernelError, UnsupportedOperation
from tridiff.harness.engines.cpu.formats import Array
from tridiff.harness.engines.cpu.ir import Type
from tridiff.harness.engines.cpu.machine import PROGRAM_ID_SLOTS, Budget, Lanes
from tridiff.harness.engines.cpu.memory import Memory
from tridiff.harness.engines.cpu.program import Function
from tridiff.harness.engines.cpu.ttir import compiled
from tridiff.harness.engines.cpu.values import Pointer
from tridiff.harness.engines.spec import EngineSpec

LIVE_ELEMENTS = 1 << 20
"""Programs run in chunks whose largest tensor has about this many elements (4 MB of float32): it then stays in cache."""
MAX_CHUNK = 4096


@dataclass
class CpuEngine:
    """Executes launches for `spec.target`. `specialisations` names those met, in order."""

    spec: EngineSpec
    specialisations: list[str] = field(default_factory=list)

    def run(self, launcher: Callable[..., Any], inputs: Mapping[str, Any], arena: Arena) -> None:
        """Call `launcher(**inputs)`; its uninitialised allocations are poisoned first.

        Raises `KernelError` when the kernel misbehaves, `UnsupportedOperation`, and whatever the launcher itself raises.
        """
        stage = _Stage(arena, self.spec, self.specialisations)
        with np.errstate(all="ignore"), capturing(self.spec.target, stage.launch, stage.poison):
            launcher(**inputs)


class _Stage:
    """The memory of one launcher call, and the budget of each of its launches."""

    def __init__(self, arena: Arena, spec: EngineSpec, specialisations: list[str]) -> None:
        self._arena = arena
        self._spec = spec
        self._names = specialisations
        self._owners = {_address(allocation.storage): allocation for allocation in arena}

    def poison(self, tensor: torch.Tensor) -> None:
        """Fill a launcher's uninitialised tensor."""
        if tensor.numel():
            bits = pattern(tensor.dtype, self._arena.poison, Zone.SCRATCH)
            tensor.view(RAW[tensor.element_size()]).fill_(bits)

    def launch(self, launch: Launch) -> None:
        """Execute one launch."""
        self._names.append(launch.specialisation.name)
        function = compiled(launch.specialisation)
        names = [name for name, kind in launch.specialisation.signature.items() if kind != "constexpr"]
        if len(names) != len(function.arguments):
            raise UnsupportedOperation(f"tuple arguments of {function.name}")
        regs: list[Any] = [None] * function.slots
        for name, (slot, kind) in zip(names, function.arguments, strict=True):
            regs[slot] = self._argument(name, launch.arguments[name], kind)
        execute(function, launch.grid, regs, Budget(self._spec.max_steps, self._spec.max_seconds))

    def _argument(self, name: str, value: Any, kind: Type) -> Any:
        if not kind.is_pointer:
            return formats.scalar(value, kind.element)
        if not isinstance(value, torch.Tensor):
            raise UnsupportedOperation(f"the pointer argument {name} is a {type(value).__name__}, not a tensor")
        return Pointer(self._memory(name, value, kind.element[1:]), (np.zeros(1, dtype=np.int64),))

    def _memory(self, name: str, tensor: torch.Tensor, element: str) -> Memory:
        formats.compute_dtype(element)
        owner = self._owners.get(_address(tensor))
        cells = _cells(tensor, element)
        spans = owner.legal if owner else ((0, cells.size),)
        return Memory(
            name=owner.name if owner else f"scratch {name}",
            element=element,
            cells=cells,
            origin=int(tensor.storage_offset()),
            starts=np.array([start for start, _ in spans], dtype=np.int64),
            stops=np.array([stop for _, stop in spans], dtype=np.int64),
            locate=_locator(name, owner, cells.size),
        )


def _address(tensor: torch.Tensor) -> int:
    return int(tensor.untyped_storage().data_ptr())


def _cells(tensor: torch.Tensor, element: str) -> Array:
    """The whole storage behind `tensor` as a flat array in memory format; writes go through."""
    stored = np.dtype(formats.MEMORY[element])
    if stored.itemsize != tensor.element_size():
        raise UnsupportedOperation(f"a tensor of {tensor.dtype} used as a pointer to {element}")
    count = tensor.untyped_storage().nbytes() // tensor.element_size()
    flat = torch.as_strided(tensor.detach(), (count,), (1,), 0)
    return flat.view(RAW[tensor.element_size()]).numpy().view(stored)


def _locator(name: str, owner: Allocation | None, size: int) -> Callable[[int], str]:
    if owner is not None:
        return owner.locate
    return lambda cell: f"element {cell} of {size} of scratch {name}"


def execute(function: Function, grid: tuple[int, int, int], regs: list[Any], budget: Budget) -> None:
    """Run all programs of `grid`, x fastest, in chunks that bound the memory of live values."""
    total = grid[0] * grid[1] * grid[2]
    chunk = min(MAX_CHUNK, max(1, LIVE_ELEMENTS // function.largest))
    for start in range(0, total, chunk):
        index = np.arange(start, min(start + chunk, total), dtype=np.int64)
        registers = list(regs)
        ids = (index % grid[0], index // grid[0] % grid[1], index // (grid[0] * grid[1]))
        registers[:PROGRAM_ID_SLOTS] = [axis.astype(np.int32) for axis in ids]
        budget.restart()
        run_function(function, Lanes(registers, len(index), grid, budget))


__all__ = ["CpuEngine", "KernelError", "UnsupportedOperation", "execute"]
