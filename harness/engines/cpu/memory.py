"""Memory as a kernel sees it: one `Memory` per tensor and format, with exact bounds, gathers and scatters.

Addresses arrive as terms (see `values`). Where one axis of the tensor is a run of consecutive elements, whole rows are
copied through a sliding view; otherwise every lane is gathered on its own. Bounds are checked before anything is touched.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
from numpy.lib.stride_tricks import as_strided

from tridiff.harness.api import Poison, Stores
from tridiff.harness.engines.cpu import formats, fp8
from tridiff.harness.engines.cpu.formats import Array


class OutOfBounds(Exception):
    """A lane's element is not legal: `element` counts from the pointer argument, `program` is the index in lockstep order."""

    def __init__(self, memory: Memory, element: int, program: int) -> None:
        super().__init__(memory.name)
        self.memory = memory
        self.element = element
        self.program = program


@dataclass(frozen=True, eq=False)
class Memory:
    """What a pointer points into.

    `cells`: flat array of the whole storage in its memory format. `origin`: the cell that an offset of 0 means.
    `starts`, `stops`: the legal spans of cells, sorted. `locate`: cell -> where that is, in words. `address`: of cell 0, in
    bytes. `whole`: the storage that this is a view of, whose first `skip` bytes it leaves out. `stores`: where stores are noted,
    asked for at the first one; None where nobody asks for them.
    """

    name: str
    element: str
    cells: Array
    origin: int
    starts: Array
    stops: Array
    locate: Callable[[int], str]
    address: int = 0
    skip: int = 0
    whole: Memory | None = None
    stores: Callable[[], Stores] | None = None
    _views: dict[tuple[str, int], Memory] = field(default_factory=dict)

    @property
    def itemsize(self) -> int:
        """Bytes of a cell."""
        return int(self.cells.dtype.itemsize)

    @property
    def storage(self) -> Memory:
        """What this is a view of, or this itself."""
        return self.whole or self

    @property
    def start(self) -> int:
        """Bytes from the beginning of the storage to where an offset of 0 points."""
        return self.skip + self.origin * self.itemsize

    def viewed_as(self, element: str, skip: int = 0) -> Memory:
        """The bytes of the storage in another format, without the first `skip` (fewer than an element's).

        A cell of the view is legal where all its bytes are.
        """
        if self.whole is not None:
            return self.whole.viewed_as(element, skip)
        key = (element, skip)
        if key not in self._views:
            self._views[key] = self._view(element, skip)
        return self._views[key]

    def _view(self, element: str, skip: int) -> Memory:
        stored = np.dtype(formats.MEMORY[element])
        old, new = self.itemsize, stored.itemsize
        content = self.cells.view(np.uint8)[skip:]

        def locate(cell: int) -> str:
            # Of a cell that begins within a span and ends behind it, the part behind.
            first, *others = range((cell * new + skip) // old, (cell * new + skip + new - 1) // old + 1)
            return self.locate(next((at for at in (first, *others) if not self._is_legal(at)), first))

        return Memory(
            name=self.name,
            element=element,
            cells=content[: content.size // new * new].view(stored),
            origin=0,
            starts=-((skip - self.starts * old) // new),
            stops=(self.stops * old - skip) // new,
            locate=locate,
            address=self.address + skip,
            skip=skip,
            whole=self,
            stores=self.stores,
        )

    @cached_property
    def _noted(self) -> tuple[Stores, Array] | None:
        """The stores, and for each cell the numbers of its bytes, which are those of one unsigned integer."""
        if self.stores is None:
            return None
        stores = self.stores()
        size = self.cells.nbytes
        return stores, stores.last[self.skip : self.skip + size].view(f"u{self.itemsize}")

    def note(self, first: Array, length: int, line: str, *, is_update: bool = False) -> None:
        """Note that a store in `line` wrote all runs of `length` cells that begin at `first` (one-dimensional).

        `is_update`: an atomic operation that makes the new value of the old one did.
        """
        if self._noted is not None:
            stores, numbers = self._noted
            number = stores.number(line, is_update=is_update)
            every_byte = int.from_bytes(bytes([number]) * self.itemsize, "little")
            if length == 1:
                numbers[first] = every_byte
            else:
                _windows(numbers, length)[first] = every_byte

    def _is_legal(self, cell: int) -> bool:
        return bool(((self.starts <= cell) & (cell < self.stops)).any())

    def check(self, first: Array, length: int, programs: Callable[[], Array]) -> None:
        """Raise `OutOfBounds` unless all runs of `length` cells that begin at `first` are legal.

        `programs` gives the program of each entry of `first`; called only to report.
        """
        if first.size == 0:
            return
        low, high = int(first.min()), int(first.max()) + length
        if len(self.starts) == 1 and self.starts[0] <= low and high <= self.stops[0]:
            return
        self._check_each(first, length, programs)

    def _check_each(self, first: Array, length: int, programs: Callable[[], Array]) -> None:
        flat = first.ravel()
        span = np.searchsorted(self.starts, flat, side="right") - 1
        ends = self.stops[np.maximum(span, 0)] if len(self.stops) else flat
        inside = (span >= 0) & (flat + length <= ends)
        if inside.all():
            return
        at = int(np.flatnonzero(~inside)[0])
        cell = int(flat[at])
        if span[at] >= 0 and cell < int(self.stops[span[at]]):
            cell = int(self.stops[span[at]])
        raise OutOfBounds(self, cell, int(programs().ravel()[at]))


@dataclass(frozen=True)
class _Rows:
    """A rectangle of accesses: runs of `length` consecutive cells along `axis`, one per entry of `first`.

    `first` has size one along `axis`; `active` (same axes) says which rows are accessed, None for all.
    """

    axis: int
    length: int
    first: Array
    active: Array | None


def gather(
    memory: Memory,
    terms: Sequence[Array],
    masks: Sequence[Array],
    other: Array | None,
    shape: tuple[int, ...],
    *,
    poison: Poison = Poison.LOUD,
) -> Array:
    """Load a tensor of `shape` for every program; lanes where a mask is false hold `other`, or `poison` without one."""
    rows = _as_rows(memory, terms, masks, shape)
    fill = undefined(memory.element, len(shape) + 1, poison) if other is None else other
    return _gather_rows(memory, rows, fill, shape) if rows else _gather_lanes(memory, terms, masks, fill)


_QUIET_FLOAT = 24576.0
"""Finite, and exact in bf16 and fp16 too."""
_QUIET_FP8 = 0x5B
"""A finite number in every FP8 format."""
_QUIET_BYTES = {"i1": False, "i8": 0}
"""Booleans lie in memory as bytes, of which any but 0 is true: the other poison must be false."""


def undefined(element: str, rank: int, poison: Poison) -> Array:
    """What lanes hold whose value the language leaves open, with `rank` axes of size one.

    NaN or a recognisable integer; another value under other poison, so that a result that depends on it changes.
    """
    value = formats.masked_off(element)
    if poison is Poison.QUIET:
        value = _quiet(element, value)
    return np.full((1,) * rank, value, dtype=formats.compute_dtype(element))


def _quiet(element: str, loud: Any) -> Any:
    if element in _QUIET_BYTES:
        return _QUIET_BYTES[element]
    if element in fp8.FORMATS:
        return _QUIET_FP8
    return ~loud if isinstance(loud, int) else _QUIET_FLOAT


def scatter(
    memory: Memory,
    terms: Sequence[Array],
    masks: Sequence[Array],
    values: Array,
    shape: tuple[int, ...],
    *,
    line: str = "",
) -> None:
    """Store `values` of a tensor of `shape`; of lanes that share an address the last one stays. `line`: where the kernel does."""
    raw = formats.encode(values, memory.element)
    rows = _as_rows(memory, terms, masks, shape)
    if rows:
        _scatter_rows(memory, rows, raw, line)
    else:
        _scatter_lanes(memory, terms, masks, raw, line)


def active_cells(memory: Memory, terms: Sequence[Array], masks: Sequence[Array], shape: tuple[int, ...]) -> tuple[Array, Array]:
    """The cells of all active lanes (one-dimensional, in row order) and where those are; `shape` starts with the programs."""
    cells = np.broadcast_to(_total(terms, memory.origin, len(shape)), shape)
    where = np.ones(shape, dtype=np.bool_)
    for mask in masks:
        where = where & mask
    chosen = cells[where]
    memory.check(chosen, 1, lambda: _programs(cells)[where])
    return chosen, where


def _as_rows(memory: Memory, terms: Sequence[Array], masks: Sequence[Array], shape: tuple[int, ...]) -> _Rows | None:
    for axis in range(len(shape), 0, -1):
        run = _run_along(axis, terms)
        if run is None:
            continue
        start, rest = run
        length = _prefix(axis, shape[axis - 1], masks)
        if length is None:
            continue
        active = [mask for mask in masks if not _only_along(mask, axis)]
        if any(mask.shape[axis] != 1 for mask in active):
            continue
        first = _total(rest, memory.origin + start, len(shape) + 1)
        return _Rows(axis, length, first, _all_of(active))
    return None


def _run_along(axis: int, terms: Sequence[Array]) -> tuple[int, list[Array]] | None:
    """If the terms count 0, 1, 2, ... along `axis`: the start of the run and the terms that place it."""
    varying = [term for term in terms if term.shape[axis] != 1]
    if len(varying) != 1 or not _only_along(varying[0], axis):
        return None
    run = varying[0].ravel()
    start = int(run[0])
    if run[-1] - start != run.size - 1 or not np.array_equal(run, np.arange(start, start + run.size)):
        return None
    return start, [term for term in terms if term is not varying[0]]


def _only_along(array: Array, axis: int) -> bool:
    return bool(array.shape[axis] > 1 and array.size == array.shape[axis])


def _prefix(axis: int, size: int, masks: Sequence[Array]) -> int | None:
    """How many leading lanes along `axis` the masks that vary only there let through; None if those are no prefix."""
    along = [mask.ravel() for mask in masks if _only_along(mask, axis)]
    if not along:
        return size
    mask = np.logical_and.reduce(along)
    count = int(np.count_nonzero(mask))
    return count if bool(mask[:count].all()) else None


def _total(terms: Sequence[Array], start: int, rank: int) -> Array:
    total = np.full((1,) * rank, start, dtype=np.int64)
    for term in terms:
        total = total + term
    return total


def _all_of(masks: Sequence[Array]) -> Array | None:
    if not masks:
        return None
    result = masks[0]
    for mask in masks[1:]:
        result = result & mask
    return None if bool(result.all()) else result


def _windows(cells: Array, length: int) -> Array:
    """Every run of `length` consecutive cells, as a view."""
    step = cells.strides[0]
    return as_strided(cells, (cells.size - length + 1, length), (step, step))


def _aligned(rows: _Rows, others: tuple[int, ...]) -> tuple[Array, Array | None]:
    """First cells and activity without the row axis, broadcast against each other and against `others`."""
    first = rows.first.squeeze(rows.axis)
    active = None if rows.active is None else rows.active.squeeze(rows.axis)
    shape = np.broadcast_shapes(first.shape, others, () if active is None else active.shape)
    return np.broadcast_to(first, shape), None if active is None else np.broadcast_to(active, shape)


def _gather_rows(memory: Memory, rows: _Rows, fill: Array, shape: tuple[int, ...]) -> Array:
    size = shape[rows.axis - 1]
    if rows.active is None and rows.length == size:
        first = rows.first.squeeze(rows.axis)
        memory.check(first, rows.length, lambda: _programs(first))
        return np.moveaxis(formats.decode(_windows(memory.cells, size)[first], memory.element), -1, rows.axis)
    fill = np.moveaxis(fill, rows.axis, -1)
    first, active = _aligned(rows, fill.shape[:-1])
    result = np.empty((*first.shape, size), dtype=formats.compute_dtype(memory.element))
    result[...] = fill
    chosen = first if active is None else first[active]
    if rows.length and chosen.size:
        memory.check(chosen, rows.length, lambda: _chosen_programs(first, active))
        loaded = formats.decode(_windows(memory.cells, rows.length)[chosen], memory.element)
        if active is None:
            result[..., : rows.length] = loaded
        else:
            result[active, : rows.length] = loaded
    return np.moveaxis(result, -1, rows.axis)


def _scatter_rows(memory: Memory, rows: _Rows, raw: Array, line: str) -> None:
    if rows.length == 0:
        return
    values = np.moveaxis(raw, rows.axis, -1)[..., : rows.length]
    first, active = _aligned(rows, values.shape[:-1])
    values = np.broadcast_to(values, (*first.shape, rows.length))
    # One-dimensional, because NumPy assigns in an order of its own where there are more axes to choose from.
    chosen = first.ravel() if active is None else first[active]
    memory.check(chosen, rows.length, lambda: _chosen_programs(first, active))
    if chosen.size:
        memory.note(chosen, rows.length, line)
        _windows(memory.cells, rows.length)[chosen] = values.reshape(-1, rows.length) if active is None else values[active]


def _gather_lanes(memory: Memory, terms: Sequence[Array], masks: Sequence[Array], fill: Array) -> Array:
    cells = _total(terms, memory.origin, terms[0].ndim)
    active = _all_of(masks)
    if active is None:
        memory.check(cells, 1, lambda: _programs(cells))
        return formats.decode(memory.cells[cells], memory.element)
    cells, active = np.broadcast_arrays(cells, active)
    chosen = cells[active]
    memory.check(chosen, 1, lambda: _chosen_programs(cells, active))
    shape = np.broadcast_shapes(cells.shape, fill.shape)
    result = np.empty(shape, dtype=formats.compute_dtype(memory.element))
    result[...] = fill
    if shape == cells.shape:
        result[active] = formats.decode(memory.cells[chosen], memory.element)
    else:
        cells, active = np.broadcast_to(cells, shape), np.broadcast_to(active, shape)
        result[active] = formats.decode(memory.cells[cells[active]], memory.element)
    return result


def _scatter_lanes(memory: Memory, terms: Sequence[Array], masks: Sequence[Array], raw: Array, line: str) -> None:
    cells = _total(terms, memory.origin, terms[0].ndim)
    shape = np.broadcast_shapes(cells.shape, raw.shape, *(mask.shape for mask in masks))
    cells, raw = np.broadcast_to(cells, shape), np.broadcast_to(raw, shape)
    active = _all_of(masks)
    if active is None:
        memory.check(cells, 1, lambda: _programs(cells))
        memory.note(cells.ravel(), 1, line)
        memory.cells[cells.ravel()] = raw.ravel()  # one-dimensional, as above
        return
    active = np.broadcast_to(active, shape)
    chosen = cells[active]
    memory.check(chosen, 1, lambda: _chosen_programs(cells, active))
    memory.note(chosen, 1, line)
    memory.cells[chosen] = raw[active]


def _programs(first: Array) -> Array:
    """The program of each entry, as a broadcast view (costs nothing until an error is reported)."""
    index = np.arange(first.shape[0]).reshape(-1, *(1,) * (first.ndim - 1))
    return np.broadcast_to(index, first.shape)


def _chosen_programs(first: Array, active: Array | None) -> Array:
    return _programs(first) if active is None else _programs(first)[active]
