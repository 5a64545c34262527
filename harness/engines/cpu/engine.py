"""The cpu engine: runs a launcher unmodified and executes each of its launches on arrays."""

from __future__ import annotations

import weakref
from bisect import bisect_right
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from triton.compiler.errors import CompileTimeAssertionFailure

from tridiff.harness.api import RAW, Allocation, Arena, Zone, pattern
from tridiff.harness.capture import Choose, Launch, NotCompiled, capturing, first
from tridiff.harness.engines.cpu import formats
from tridiff.harness.engines.cpu.control import run_function
from tridiff.harness.engines.cpu.errors import KernelError, UnsupportedOperation
from tridiff.harness.engines.cpu.formats import Array
from tridiff.harness.engines.cpu.ir import Type
from tridiff.harness.engines.cpu.machine import RESERVED_SLOTS, Budget, Lanes
from tridiff.harness.engines.cpu.memory import Memory
from tridiff.harness.engines.cpu.program import Function
from tridiff.harness.engines.cpu.selftest import ensure
from tridiff.harness.engines.cpu.space import Space
from tridiff.harness.engines.cpu.threads import one_blas_thread
from tridiff.harness.engines.cpu.ttir import compiled
from tridiff.harness.engines.cpu.values import Pointer
from tridiff.harness.engines.spec import EngineSpec, backend_of

LIVE_BYTES = 32 << 20
"""Programs run in chunks that keep about this many bytes alive. Measured: from 12 MB on, launches take the same time."""
MAX_CHUNK = 4096


@dataclass
class CpuEngine:
    """Executes launches for `spec.target`. `specialisations` names those met, in order.

    The first one in a process sees to it that the installed Triton has passed the self-test, or raises `SelfTestError`.
    """

    spec: EngineSpec
    specialisations: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        """Run the self-test, if need be; with the usual budget, whatever this engine's is."""
        target = self.spec.target
        usual = EngineSpec(target=target)
        ensure(str(backend_of(target)[0]), lambda launcher: _run(usual, launcher, {}, Arena(), []))

    def run(self, launcher: Callable[..., Any], inputs: Mapping[str, Any], arena: Arena, choose: Choose = first) -> None:
        """Call `launcher(**inputs)`; its uninitialised allocations are poisoned first, `choose` picks autotuned configurations.

        Raises `KernelError` when the kernel misbehaves, `UnsupportedOperation`, and whatever the launcher itself raises.
        """
        try:
            _run(self.spec, launcher, inputs, arena, self.specialisations, choose)
        except NotCompiled as error:
            raise UnsupportedOperation(str(error)) from error


def _run(
    spec: EngineSpec,
    launcher: Callable[..., Any],
    inputs: Mapping[str, Any],
    arena: Arena,
    names: list[str],
    choose: Choose = first,
) -> None:
    stage = _Stage(arena, spec, names)
    capture = capturing(spec.target, stage.launch, stage.poison, made=stage.remember, prepare=stage.prepare, choose=choose)
    with np.errstate(all="ignore"), one_blas_thread(), capture:
        launcher(**inputs)


class _Stage:
    """The memory of one launcher call, and the budget of each of its launches."""

    def __init__(self, arena: Arena, spec: EngineSpec, specialisations: list[str]) -> None:
        self._arena = arena
        self._spec = spec
        self._names = specialisations
        self._owners = sorted(arena, key=lambda allocation: _address(allocation.storage))
        self._bases = [_address(allocation.storage) for allocation in self._owners]
        self._made: list[weakref.ref[torch.Tensor]] = []
        self._storages: dict[tuple[int, str], Memory] = {}

    def poison(self, tensor: torch.Tensor) -> None:
        """Fill a launcher's uninitialised tensor."""
        if tensor.numel():
            bits = pattern(tensor.dtype, self._arena.poison, Zone.SCRATCH)
            tensor.view(RAW[tensor.element_size()]).fill_(bits)

    def prepare(self, launch: Launch) -> None:
        """Compile; a `tl.static_assert` that fails is raised as Triton raises it, so that its autotuner sees it."""
        try:
            compiled(launch.specialisation)
        except KernelError as error:
            raise error.__cause__ if isinstance(error.__cause__, CompileTimeAssertionFailure) else error from None

    def remember(self, tensor: torch.Tensor) -> None:
        """A kernel may get the address of any tensor that the launcher made, for as long as it exists."""
        self._made.append(weakref.ref(tensor))

    def launch(self, launch: Launch) -> None:
        """Execute one launch."""
        self._names.append(launch.name)
        function = compiled(launch.specialisation)
        regs: list[Any] = [None] * function.slots
        values = launch.flattened([kind.element for _, kind in function.arguments])
        if len(values) != len(function.arguments):
            raise UnsupportedOperation(f"{len(values)} arguments for the {len(function.arguments)} of {function.name}")
        for (name, value), (slot, kind) in zip(values, function.arguments, strict=True):
            regs[slot] = self._argument(name, value, kind)
        space = Space(self._memories, self._arena.poison)
        execute(function, launch.grid, regs, Budget(self._spec.max_steps, self._spec.max_seconds), space)

    def _argument(self, name: str, value: Any, kind: Type) -> Any:
        if not kind.is_pointer:
            if not isinstance(value, (int, float)):
                raise UnsupportedOperation(f"the argument {name} is a {type(value).__name__}, which {kind.element} cannot hold")
            return formats.scalar(value, kind.element)
        if not isinstance(value, torch.Tensor):
            raise UnsupportedOperation(f"the pointer argument {name} is a {type(value).__name__}, not a tensor")
        return _pointer(self._storage(f"scratch {name}", value), value, kind.element[1:])

    def _storage(self, name: str, tensor: torch.Tensor) -> Memory:
        """The storage behind `tensor` as integers of its item size; remembered, which also keeps its address from reuse."""
        owner = self._owner(tensor)
        title, source = (owner.name, owner.storage) if owner else (name, tensor)
        key = (_address(source), title)
        if key not in self._storages:
            cells = _cells(source)
            spans = owner.legal if owner else ((0, cells.size),)
            self._storages[key] = Memory(
                name=title,
                element=f"i{8 * source.element_size()}",
                cells=cells,
                origin=0,
                starts=np.array([start for start, _ in spans], dtype=np.int64),
                stops=np.array([stop for _, stop in spans], dtype=np.int64),
                locate=_locator(title, owner, cells.size),
                address=_address(source),
                stores=owner.note_stores if owner and self._arena.notes_stores and owner.has_forbidden() else None,
            )
        return self._storages[key]

    def _owner(self, tensor: torch.Tensor) -> Allocation | None:
        """The allocation in which the tensor lies; it need not share torch's storage with it: an array of NumPy's does not."""
        at = bisect_right(self._bases, _address(tensor)) - 1
        if at < 0 or _address(tensor) >= self._bases[at] + self._owners[at].storage.untyped_storage().nbytes():
            return None
        return self._owners[at]

    def _memories(self) -> Iterator[Memory]:
        """All storages that this launch may know the address of: its arguments', the Case's, and the launcher's own."""
        yield from list(self._storages.values())
        for allocation in self._arena:
            yield self._storage(allocation.name, allocation.storage)
        for reference in self._made:
            tensor = reference()
            if tensor is not None and tensor.layout is torch.strided and tensor.device.type == "cpu":
                yield self._storage("scratch", tensor)


def _address(tensor: torch.Tensor) -> int:
    return int(tensor.untyped_storage().data_ptr())


def _cells(tensor: torch.Tensor) -> Array:
    """The whole storage behind `tensor` as a flat array of integers; writes go through."""
    count = tensor.untyped_storage().nbytes() // tensor.element_size()
    flat = torch.as_strided(tensor.detach(), (count,), (1,), 0)
    return np.asarray(flat.view(RAW[tensor.element_size()]).numpy())


def _pointer(storage: Memory, tensor: torch.Tensor, element: str) -> Pointer:
    formats.compute_dtype(element)
    size = np.dtype(formats.MEMORY[element]).itemsize
    start = _address(tensor) - storage.address + int(tensor.storage_offset()) * tensor.element_size()
    return Pointer(storage.viewed_as(element, start % size), (np.full(1, start // size, dtype=np.int64),))


def _locator(name: str, owner: Allocation | None, size: int) -> Callable[[int], str]:
    if owner is not None:
        return owner.locate
    return lambda cell: f"element {cell} of {size} of {name}"


def execute(function: Function, grid: tuple[int, int, int], regs: list[Any], budget: Budget, space: Space) -> None:
    """Run all programs of `grid`, x fastest, in chunks that bound the memory of live values."""
    total = grid[0] * grid[1] * grid[2]
    chunk = 1 if function.waits else min(MAX_CHUNK, max(1, LIVE_BYTES // function.live))
    for start in range(0, total, chunk):
        index = np.arange(start, min(start + chunk, total), dtype=np.int64)
        registers = list(regs)
        ids = (index % grid[0], index // grid[0] % grid[1], index // (grid[0] * grid[1]))
        registers[:RESERVED_SLOTS] = [*(axis.astype(np.int32) for axis in ids), index - start]
        budget.restart()
        run_function(function, Lanes(registers, len(index), grid, budget, space))


__all__ = ["CpuEngine", "KernelError", "UnsupportedOperation", "execute"]
