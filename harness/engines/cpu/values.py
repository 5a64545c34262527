"""Values of the lockstep executor: arrays with a leading axis of program instances, and three lazy forms.

An array of a tensor of rank r has 1 + r axes. The leading one has an entry per program instance, or one if all agree;
any other axis has its full size, or one if the values do not vary along it (so splat and broadcast cost nothing).

`Sum` keeps an integer sum, and `Mask` a conjunction, as terms of different shapes; `Pointer` is a tensor argument's memory
plus a sum of element offsets. A load sees from the terms that rows are contiguous, without ever forming every address.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from tridiff.harness.engines.cpu import formats
from tridiff.harness.engines.cpu.errors import UnsupportedOperation
from tridiff.harness.engines.cpu.formats import Array
from tridiff.harness.engines.cpu.memory import Memory


class Sum:
    """A lazy integer sum of arrays of one dtype; wraps around like the dtype when it is formed."""

    __slots__ = ("_dense", "terms")

    def __init__(self, terms: list[Array]) -> None:
        self.terms = terms
        self._dense: Array | None = None

    def dense(self) -> Array:
        """The sum as one array, wrapped to the dtype."""
        if self._dense is None:
            total = self.terms[0]
            for term in self.terms[1:]:
                total = total + term
            self._dense = total
        return self._dense

    def exact_terms(self) -> list[Array]:
        """Terms in int64 whose plain sum equals the wrapped sum."""
        limit = np.iinfo(self.terms[0].dtype)
        low = sum(int(term.min()) for term in self.terms if term.size)
        high = sum(int(term.max()) for term in self.terms if term.size)
        if limit.min <= low and high <= limit.max:
            return [term.astype(np.int64, copy=False) for term in self.terms]
        return [self.dense().astype(np.int64, copy=False)]


class Mask:
    """A lazy conjunction of boolean arrays."""

    __slots__ = ("_dense", "terms")

    def __init__(self, terms: list[Array]) -> None:
        self.terms = terms
        self._dense: Array | None = None

    def dense(self) -> Array:
        """The conjunction as one array."""
        if self._dense is None:
            result = self.terms[0]
            for term in self.terms[1:]:
                result = result & term
            self._dense = result
        return self._dense


@dataclass(frozen=True, slots=True)
class Pointer:
    """Pointers into one tensor: `memory` is where they came from, `terms` int64 element offsets that add up."""

    memory: Memory
    terms: tuple[Array, ...]

    def offsets(self) -> Array:
        """All offsets as one array."""
        total = self.terms[0]
        for term in self.terms[1:]:
            total = total + term
        return total

    def moved(self, extra: list[Array]) -> Pointer:
        """The pointers advanced by the sum of `extra`."""
        return Pointer(self.memory, tuple(combined([*self.terms, *extra])))

    def addresses(self) -> Array:
        """Byte addresses as int64."""
        return self.memory.address + (self.memory.origin + self.offsets()) * self.memory.itemsize


@dataclass(frozen=True, slots=True)
class MixedPointer:
    """Pointers into several tensors: `which` of the `memories` each points into, and its offset in elements there.

    `which` and `offsets` broadcast against each other.
    """

    memories: tuple[Memory, ...]
    which: Array
    offsets: Array

    def moved(self, extra: list[Array]) -> MixedPointer:
        """The pointers advanced by the sum of `extra`."""
        return MixedPointer(self.memories, self.which, sum(extra, start=self.offsets))

    def addresses(self) -> Array:
        """Byte addresses as int64."""
        storages, which, distance = self.places()
        return np.asarray(np.array([storage.address for storage in storages], dtype=np.int64)[which] + distance)

    def places(self) -> tuple[list[Memory], Array, Array]:
        """The storages, which of them each points into, and how many bytes from its beginning."""
        storages = list(dict.fromkeys(memory.storage for memory in self.memories))
        index = np.array([storages.index(memory.storage) for memory in self.memories], dtype=np.int64)
        starts = np.array([memory.start for memory in self.memories], dtype=np.int64)
        sizes = np.array([memory.itemsize for memory in self.memories], dtype=np.int64)
        return storages, index[self.which], starts[self.which] + self.offsets * sizes[self.which]

    def parts(self) -> list[tuple[Memory, Array]]:
        """Each memory, and where it is the one that is meant."""
        return [(memory, self.which == index) for index, memory in enumerate(self.memories)]


@dataclass(frozen=True, slots=True)
class Descriptor:
    """A tensor that a descriptor names: base, and per axis its size and stride in elements; `fill_nan`: what pads a load."""

    pointer: Pointer
    shape: tuple[Array, ...]
    strides: tuple[Array, ...]
    fill_nan: bool


Value = Array | Sum | Mask | Pointer | MixedPointer | Descriptor


def combined(terms: Sequence[Array], join: Callable[[Array, Array], Array] = np.add) -> list[Array]:
    """The same sum (or `join`) of fewer terms: two are joined where the result is no larger than the larger of them."""
    result: list[Array] = []
    for term in terms:
        for at, other in enumerate(result):
            if not grows(term, other):
                result[at] = join(other, term)
                break
        else:
            result.append(term)
    return result


def grows(a: Array, b: Array) -> bool:
    """Whether broadcasting `a` against `b` makes something larger than both."""
    if a.ndim != b.ndim:
        return False  # a constant inside the combiner of a reduction, which has no axes
    size = 1
    for m, n in zip(a.shape, b.shape, strict=True):
        size *= max(m, n)
    return size > max(a.size, b.size)


def dense(value: Value) -> Array:
    """The value as one array; pointers cannot be."""
    if isinstance(value, np.ndarray):
        return value
    if isinstance(value, (Sum, Mask)):
        return value.dense()
    raise UnsupportedOperation("arithmetic on pointers as numbers")


def mapped(value: Value, change: Callable[[Array], Array]) -> Value:
    """`change`, a pure re-arrangement of axes or programs, applied to whatever the value is made of."""
    if isinstance(value, np.ndarray):
        return change(value)
    if isinstance(value, Pointer):
        return Pointer(value.memory, tuple(change(term) for term in value.terms))
    if isinstance(value, MixedPointer):
        return MixedPointer(value.memories, change(value.which), change(value.offsets))
    if isinstance(value, Descriptor):
        base = Pointer(value.pointer.memory, tuple(change(term) for term in value.pointer.terms))
        shape, strides = (tuple(change(number) for number in axes) for axes in (value.shape, value.strides))
        return Descriptor(base, shape, strides, value.fill_nan)
    return type(value)([change(term) for term in value.terms])


def take(value: Value, chosen: Any) -> Value:
    """The value for the programs `chosen` (an index array, a mask or a slice)."""
    return mapped(value, lambda array: array if array.shape[0] == 1 else array[chosen])


def full(array: Array, shape: tuple[int, ...]) -> Array:
    """The array with every axis but the leading one broadcast to `shape` (a read-only view)."""
    return np.broadcast_to(array, (array.shape[0], *shape))


def merged(pieces: Sequence[tuple[Value, int]], order: Any) -> Value:
    """One value for all programs from pieces with a count of programs each.

    `order[i]` is the program that the i-th entry of the concatenated pieces belongs to.
    """
    if isinstance(pieces[0][0], (Pointer, MixedPointer)):
        return _merged_pointers(pieces, order)
    if isinstance(pieces[0][0], Descriptor):
        raise UnsupportedOperation("a descriptor that differs between programs")
    return _merged_arrays([(dense(value), count) for value, count in pieces], order)


def _merged_arrays(arrays: Sequence[tuple[Array, int]], order: Any) -> Array:
    inner = np.broadcast_shapes(*(array.shape[1:] for array, _ in arrays))
    total = sum(count for _, count in arrays)
    result = np.empty((total, *inner), dtype=arrays[0][0].dtype)
    start = 0
    for array, count in arrays:
        result[order[start : start + count]] = array
        start += count
    return result


def _merged_pointers(pieces: Sequence[tuple[Value, int]], order: Any) -> Pointer | MixedPointer:
    pointers = [value for value, _ in pieces if isinstance(value, (Pointer, MixedPointer))]
    counts = [count for _, count in pieces]
    memories, mixed = unified(pointers)
    offsets = _merged_arrays([(pointer.offsets, count) for pointer, count in zip(mixed, counts, strict=True)], order)
    if len(memories) == 1:
        return Pointer(memories[0], (offsets,))
    which = _merged_arrays([(pointer.which, count) for pointer, count in zip(mixed, counts, strict=True)], order)
    return MixedPointer(memories, which, offsets)


def unified(pointers: Sequence[Pointer | MixedPointer]) -> tuple[tuple[Memory, ...], list[MixedPointer]]:
    """All memories that the pointers may point into, and the pointers with `which` counting in these."""
    memories: dict[Memory, int] = {}
    mixed = []
    for pointer in pointers:
        own = (pointer.memory,) if isinstance(pointer, Pointer) else pointer.memories
        index = np.array([memories.setdefault(memory, len(memories)) for memory in own], dtype=np.int64)
        if isinstance(pointer, Pointer):
            offsets = pointer.offsets()
            mixed.append(MixedPointer(own, np.broadcast_to(index[0], (1,) * offsets.ndim), offsets))
        else:
            mixed.append(MixedPointer(own, index[pointer.which], pointer.offsets))
    return tuple(memories), mixed


def pointing(storages: Sequence[Memory], which: Array, distance: Array, element: str) -> Pointer | MixedPointer:
    """Pointers to `element`, each `distance` bytes from the beginning of `storages[which]`, aligned or not."""
    size = np.dtype(formats.MEMORY[element]).itemsize
    which, distance = np.broadcast_arrays(which, distance)
    skip = distance % size
    keys, index = np.unique(which * size + skip, return_inverse=True)
    memories = tuple(storages[key // size].viewed_as(element, key % size) for key in keys.tolist())
    offsets = (distance - skip) // size
    return Pointer(memories[0], (offsets,)) if len(memories) == 1 else MixedPointer(memories, index.reshape(which.shape), offsets)


def chosen_pointer(mask: Array, x: Pointer | MixedPointer, y: Pointer | MixedPointer) -> Pointer | MixedPointer:
    """`x` where `mask` holds, else `y`."""
    memories, (a, b) = unified([x, y])
    offsets = np.where(mask, a.offsets, b.offsets)
    return (
        Pointer(memories[0], (offsets,))
        if len(memories) == 1
        else MixedPointer(memories, np.where(mask, a.which, b.which), offsets)
    )
