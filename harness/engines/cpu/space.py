"""All memory of one launcher call, by address: what an integer that becomes a pointer points into."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import numpy as np

from tridiff.harness.api import Poison
from tridiff.harness.engines.cpu.formats import Array
from tridiff.harness.engines.cpu.memory import Memory
from tridiff.harness.engines.cpu.values import MixedPointer, Pointer, pointing


class Space:
    """Tensors by address, and the poison of this run.

    `memories` gives the storages, none of which overlap (of several at one address the first counts); it is called when a
    kernel first makes a pointer of an integer.
    """

    def __init__(self, memories: Callable[[], Iterable[Memory]], poison: Poison = Poison.LOUD) -> None:
        self.poison = poison
        self._find = memories
        self._storages: list[Memory] = []

    def pointer(self, addresses: Array, element: str) -> Pointer | MixedPointer:
        """Pointers to `element` at these byte addresses (int64); what belongs to no tensor may be held, not accessed.

        The end of a tensor belongs to it, as in C: pointers count down from there.
        """
        if not self._storages:
            self._collect()
        entry = np.searchsorted(self._bases, addresses, side="right") - 1
        owner = np.where(addresses <= self._ends[entry], self._owners[entry], 0)
        return pointing(self._storages, owner, addresses - self._addresses[owner], element)

    def _collect(self) -> None:
        # A storage of no bytes may share its address with another.
        found: dict[int, Memory] = {}
        for memory in self._find():
            if memory.cells.size:
                found.setdefault(memory.address, memory)
        # In the order in which they were found: addresses differ from run to run, findings must not.
        self._storages = [_NOWHERE, *found.values()]
        self._addresses = np.array([storage.address for storage in self._storages], dtype=np.int64)
        # What lies below all tensors belongs to none, so that every address has an entry.
        bases = np.array([np.iinfo(np.int64).min, *found], dtype=np.int64)
        sizes = np.array([0, *(memory.cells.nbytes for memory in found.values())], dtype=np.int64)
        self._owners = np.argsort(bases, kind="stable")
        self._bases = bases[self._owners]
        self._ends = self._bases + sizes[self._owners]


def _address(address: int) -> str:
    # A real address changes from run to run, so it would say nothing.
    return f"address {address}, as from a null pointer" if 0 <= address < 1 << 16 else "an address that belongs to no tensor"


_NOTHING = np.empty(0, dtype=np.int64)
_NOWHERE = Memory("no tensor", "i8", np.empty(0, dtype=np.int8), 0, _NOTHING, _NOTHING, _address)
"""Memory of no cells that begins at address 0: what a pointer to no tensor points into."""
