"""All memory of one launcher call, by address: what an integer that becomes a pointer points into."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import numpy as np

from tridiff.harness.api import Poison
from tridiff.harness.engines.cpu import formats
from tridiff.harness.engines.cpu.formats import Array
from tridiff.harness.engines.cpu.memory import Memory
from tridiff.harness.engines.cpu.values import MixedPointer, Pointer


class Space:
    """Tensors by address, and the poison of this run.

    `memories` gives the storages, none of which overlap; it is called when a kernel first makes a pointer of an integer.
    """

    def __init__(self, memories: Callable[[], Iterable[Memory]], poison: Poison = Poison.LOUD) -> None:
        self.poison = poison
        self._find = memories
        self._memories: list[Memory] = []
        self._bases = np.empty(0, dtype=np.int64)
        self._ends = np.empty(0, dtype=np.int64)

    def pointer(self, addresses: Array, element: str) -> Pointer | MixedPointer:
        """Pointers to `element` at these byte addresses (int64); what belongs to no tensor may be held, not accessed."""
        if not self._memories:
            self._collect()
        size = np.dtype(formats.MEMORY[element]).itemsize
        owner = np.searchsorted(self._bases, addresses, side="right") - 1
        known = (owner >= 0) & (addresses < self._ends[np.maximum(owner, 0)]) if self._memories else np.zeros_like(owner, bool)
        distance = addresses - np.where(known, self._bases[np.maximum(owner, 0)], 0) if self._memories else addresses
        skip = np.where(known, distance % size, 0)
        keys, which = np.unique(np.where(known, owner * 8 + skip, -1), return_inverse=True)
        memories = tuple(self._memory(int(key), element) for key in keys)
        offsets = (distance - skip) // size
        if len(memories) == 1:
            return Pointer(memories[0], (offsets,))
        return MixedPointer(memories, which.reshape(addresses.shape), offsets)

    def _collect(self) -> None:
        # A storage of no bytes may share its address with another.
        memories = {memory.address: memory for memory in self._find() if memory.cells.size}
        self._memories = [memories[address] for address in sorted(memories)]
        self._bases = np.array([memory.address for memory in self._memories], dtype=np.int64)
        self._ends = self._bases + np.array([memory.cells.nbytes for memory in self._memories], dtype=np.int64)

    def _memory(self, key: int, element: str) -> Memory:
        return nowhere(element) if key < 0 else self._memories[key // 8].viewed_as(element, key % 8)


def nowhere(element: str) -> Memory:
    """Memory of no cells, whose offsets count from address 0: what a pointer to no tensor points into."""
    stored = np.dtype(formats.MEMORY[element])
    nothing = np.empty(0, dtype=np.int64)
    return Memory(
        "no tensor", element, np.empty(0, dtype=stored), 0, nothing, nothing, lambda cell: _address(cell * stored.itemsize)
    )


def _address(address: int) -> str:
    # A real address changes from run to run, so it would say nothing.
    return f"address {address}, as from a null pointer" if 0 <= address < 1 << 16 else "an address that belongs to no tensor"
