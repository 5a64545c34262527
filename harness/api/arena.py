"""Arena: guarded memory for the tensors of one Case.

Every tensor is a view into an allocation of its own: red zones on both sides, and poison in every element that nobody
wrote (red zones, gaps of strided layouts, unused pages and slots). Parts of an allocation can be *holes*: address space
without content, in which any access is a finding; so a page offset beyond 2^31 elements costs megabytes. A view may begin
off alignment, and its storage may be larger than what it needs: what production's launches are specialised on.

What a kernel updates in place, a cache say, is full of known data (`scribble`) but for the elements that it must write
(`declare_cells`): these hold poison, so that what was left out shows.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import torch

from tridiff.harness.api.poison import RAW, Poison, Zone, pattern
from tridiff.harness.api.stores import Stores
from tridiff.harness.api.values import words

RED_ZONE_BYTES = 1024
"""On each side of a view; a multiple of 64, so that views stay as aligned as production's tensors are."""

_NONE = np.empty(0, dtype=np.int64)

Span = tuple[int, int]
"""Half-open range of elements, [start, stop)."""


class StagingError(RuntimeError):
    """The machine cannot hold the Case: not enough address space or memory."""


@dataclass(frozen=True, kw_only=True)
class Damage:
    """An element that is not as it must be: which tensor, where, the value before and the value now.

    `cells`: all such elements, counted from the view's first one: negative before it. Sorted. `line`: where in the kernel the
    first of them was written, as FILE:LINE; None where that is not known. `is_changed`: whether they hold other bits than before.
    """

    tensor: str
    where: str
    before: float | int
    after: float | int
    cells: npt.NDArray[np.int64]
    line: str | None = None
    is_changed: bool = True

    @property
    def count(self) -> int:
        """How many elements."""
        return int(self.cells.size)


@dataclass(kw_only=True, eq=False)
class Allocation:
    """Backing store of one tensor.

    `storage`: 1-D tensor of the dtype, red zones included. `view`: what the kernel receives. `legal`: the spans of storage
    elements that a kernel may touch. `live`: the spans that have content (poison included) and are compared afterwards.
    `writable`: storage elements that must be written, sorted. `permitted`: those that may be, sorted. `stores`: what an engine
    noted; None where it does not, or where nothing was stored.
    """

    name: str
    zone: Zone
    poison: Poison
    storage: torch.Tensor
    view: torch.Tensor
    legal: tuple[Span, ...]
    live: tuple[Span, ...]
    writable: npt.NDArray[np.int64]
    permitted: npt.NDArray[np.int64] = field(default_factory=lambda: _NONE)
    stores: Stores | None = None
    _before: list[npt.NDArray[np.int64]] = field(default_factory=list)

    @property
    def raw(self) -> npt.NDArray[np.int64]:
        """The storage as signed integers of the item size."""
        return np.asarray(self.storage.view(RAW[self.storage.element_size()]).numpy())

    def seal(self) -> None:
        """Remember every live byte; what differs later was written by the kernel."""
        self._before = [self.raw[start:stop].copy() for start, stop in self.live]

    def changed(self) -> Damage | None:
        """The first element outside the declared writes that no longer holds its bits, or None."""
        hits: list[npt.NDArray[np.int64]] = []
        first: int | None = None
        for (start, stop), before in zip(self.live, self._before, strict=True):
            differs = self.raw[start:stop] != before
            self._allow(differs, start, stop)
            at = np.flatnonzero(differs)
            if at.size and first is None:
                first = int(before[at[0]])
            hits.append(at + start)
        return None if first is None else self._damage(np.concatenate(hits), first)

    def stored(self) -> Damage | None:
        """The first element outside the declared writes that a kernel stored into, told as if it still held its bits.

        None where there is none, and where the engine notes no stores.
        """
        if self.stores is None:
            return None
        hits = []
        for start, stop in self.legal:
            wrong = self.stores.stored(start, stop, self.storage.element_size())
            self._allow(wrong, start, stop)
            hits.append(np.flatnonzero(wrong) + start)
        cells = np.concatenate(hits)
        return self._damage(cells, int(self.raw[cells[0]])) if cells.size else None

    def has_forbidden(self) -> bool:
        """Whether it has elements that a kernel can reach and must not write."""
        return sum(stop - start for start, stop in self.legal) > self.writable.size

    def note_stores(self) -> Stores:
        """The stores noted so far, to note more."""
        if self.stores is None:
            self.stores = Stores(self.storage.numel() * self.storage.element_size())
        return self.stores

    def _allow(self, wrong: npt.NDArray[np.bool_], start: int, stop: int) -> None:
        """Take from `wrong`, which is about the elements [start, stop), those that may be written."""
        for allowed in (self.writable, self.permitted):
            wrong[allowed[(allowed >= start) & (allowed < stop)] - start] = False

    def kept(self) -> npt.NDArray[np.bool_]:
        """Which of the declared writes (`writable`) hold what poison is."""
        return np.asarray(self.raw[self.writable] == pattern(self.storage.dtype, self.poison, self.zone))

    def unwritten(self, again: Allocation | None = None) -> Damage | None:
        """The first declared write that still holds poison, or None.

        `again`: the same tensor after a run over another poison. What was written may look like poison, as an int8 code of a
        number or a NaN may; it cannot look like either.
        """
        kept = self.kept() if again is None else self.kept() & again.kept()
        cells = self.writable[kept]
        return self._damage(cells, int(self.raw[cells[0]])) if cells.size else None

    def locate(self, element: int) -> str:
        """Storage element as `name[i, j]`, or as its distance from the view or the view's element before a gap."""
        low, high = extent(self.view)
        if element < low:
            return f"{_elements(low - element)} before {self.name}"
        if element >= high:
            return f"{_elements(element - high + 1)} past the end of {self.name}"
        index, rest = unravel(self.view, element - low)
        where = f"{self.name}[{', '.join(map(str, index))}]"
        return where if rest == 0 else f"{_elements(rest)} into the gap after {where}"

    def _damage(self, cells: npt.NDArray[np.int64], before: int) -> Damage:
        element, item = int(cells[0]), self.storage.element_size()
        original = torch.tensor([before], dtype=RAW[item]).view(self.storage.dtype)
        return Damage(
            tensor=self.name,
            where=self.locate(element),
            before=original.item(),
            after=self.storage[element].item(),
            cells=cells - int(self.view.storage_offset()),
            line=None if self.stores is None else self._line(self.stores, element, before),
            is_changed=before != int(self.raw[element]),
        )

    def _line(self, stores: Stores, element: int, before: int) -> str | None:
        """Who wrote the first byte that changed of an element that held `before`; where none has, the first that was written."""
        first = element * self.storage.element_size()
        changed = before ^ int(self.raw[element])
        if changed:
            return stores.line(first + ((changed & -changed).bit_length() - 1) // 8)
        return stores.line(first + int(np.argmax(stores.last[first : first + self.storage.element_size()] != 0)))


@dataclass(frozen=True)
class _Placement:
    """Where a view begins in its storage, in elements behind the red zone, and how large red zone and storage are at least."""

    lead: int
    storage_bytes: int
    guard: int

    def __post_init__(self) -> None:
        if min(self.lead, self.storage_bytes, self.guard) < 0:
            raise ValueError(f"lead={self.lead}, storage_bytes={self.storage_bytes}, guard={self.guard}: none may be negative")

    def red_zone(self, itemsize: int) -> int:
        """Elements of it; its bytes are a multiple of those of `RED_ZONE_BYTES`."""
        return RED_ZONE_BYTES * max(1, -(-self.guard * itemsize // RED_ZONE_BYTES)) // itemsize


class Arena:
    """Allocates the tensors of one Case, all filled with `poison` until the Op writes their content.

    `notes_stores`: whether the engine shall note which line of the kernel stored where, see `Stores`.
    """

    def __init__(self, poison: Poison = Poison.LOUD, *, notes_stores: bool = True) -> None:
        self.poison = poison
        self.notes_stores = notes_stores
        self.allocations: dict[str, Allocation] = {}

    def __iter__(self) -> Iterator[Allocation]:
        return iter(self.allocations.values())

    def tensor(
        self,
        name: str,
        shape: Sequence[int],
        dtype: torch.dtype,
        *,
        strides: Sequence[int] | None = None,
        committed: Sequence[Span] | None = None,
        lead: int = 0,
        storage_bytes: int = 0,
        guard: int = 0,
    ) -> torch.Tensor:
        """A read-only input of `shape` with `strides` in elements (default: dense), poisoned; the caller fills it.

        `committed`: the spans of elements, counted from the view's first, that have content; the rest is a hole.
        `lead`: elements between an address that is a multiple of 64 bytes and the view's first, as in a slice of a fused
        tensor: with 2 of them a float16 view is 4-byte aligned, and Triton does not specialise it on 16.
        `storage_bytes`: the storage has at least this size, as when the tensor is a slice of a larger one; the rest is a
        hole. Triton on AMD asks for it: beyond 2^31 - 1 bytes a pointer is not taken to reach everything in 32 bits.
        Neither makes more memory legal. `guard`: each red zone has at least so many elements: more than a token of a cache, say,
        where the slot before the first one is worth watching.

        Raises `StagingError` when the machine has no address space for it, ValueError for a second tensor of one name or a
        negative size.
        """
        placement = _Placement(lead, storage_bytes, guard)
        return self._allocate(name, shape, dtype, strides, committed, Zone.INPUT, placement).view

    def output(
        self,
        name: str,
        shape: Sequence[int],
        dtype: torch.dtype,
        *,
        strides: Sequence[int] | None = None,
        committed: Sequence[Span] | None = None,
        lead: int = 0,
        storage_bytes: int = 0,
    ) -> torch.Tensor:
        """A tensor of which the kernel must write every element of the view, and nothing else; see `tensor`."""
        allocation = self._allocate(name, shape, dtype, strides, committed, Zone.OUTPUT, _Placement(lead, storage_bytes, 0))
        self.declare_writes(name, torch.ones(tuple(shape), dtype=torch.bool))
        return allocation.view

    def declare_writes(self, name: str, mask: torch.Tensor) -> None:
        """Declare that exactly the elements of tensor `name` where `mask` (bool, the view's shape) holds must be written."""
        allocation = self.allocations[name]
        index = torch.nonzero(mask).to(torch.int64)
        stride = torch.tensor(allocation.view.stride(), dtype=torch.int64)
        offsets = (index * stride).sum(dim=1) + int(allocation.view.storage_offset())
        allocation.writable = np.unique(offsets.numpy())

    def declare_cells(self, name: str, index: Sequence[torch.Tensor]) -> None:
        """Declare that exactly the elements `view[index]` of tensor `name` must be written, and fill them with poison.

        `index`: an int64 tensor for each dimension, which broadcast against each other; of a cache of far pages no mask could be
        had. Raises ValueError for an element that is named twice, or lies in a hole.
        """
        allocation = self.allocations[name]
        cells = np.sort(offsets_of(allocation.view, index)) + int(allocation.view.storage_offset())
        if (cells[1:] == cells[:-1]).any():
            raise ValueError(f"{name}: an element is declared as written twice")
        if sum(int(((cells >= start) & (cells < stop)).sum()) for start, stop in allocation.legal) != cells.size:
            raise ValueError(f"{name}: an element in a hole is declared as written")
        allocation.raw[cells] = pattern(allocation.storage.dtype, self.poison, allocation.zone)
        allocation.writable = cells

    def permit_cells(self, name: str, index: Sequence[torch.Tensor]) -> None:
        """Declare that the elements `view[index]` of tensor `name` may be written, or not: nobody judges them."""
        allocation = self.allocations[name]
        cells = offsets_of(allocation.view, index) + int(allocation.view.storage_offset())
        allocation.permitted = np.unique(cells)

    def scribble(self, name: str, seed: int) -> None:
        """Fill all content of tensor `name`, gaps included, with known data: bits of the stream (seed, name), not poison.

        What lies between the pages of a cache may be a Mamba state, which no poison would stand for.
        """
        allocation = self.allocations[name]
        item = allocation.storage.element_size()
        for at, (start, stop) in enumerate(allocation.legal):
            data = words(seed, f"{name}/bits/{at}", -(-(stop - start) * item // 8)).view(allocation.raw.dtype)
            allocation.raw[start:stop] = data[: stop - start]

    def written(self) -> tuple[str, ...]:
        """Names of the tensors that are outputs, or of which some element was declared as written."""
        return tuple(each.name for each in self if each.zone is Zone.OUTPUT or each.writable.size)

    def forbid_writes(self, name: str) -> None:
        """Take back that tensor `name` is written: from now on it is memory that nobody may change."""
        allocation = self.allocations[name]
        allocation.zone, allocation.writable = Zone.INPUT, _NONE

    def seal(self) -> None:
        """Remember the content of all memory; call once the Op has filled its tensors."""
        for allocation in self:
            allocation.seal()

    def _allocate(
        self,
        name: str,
        shape: Sequence[int],
        dtype: torch.dtype,
        strides: Sequence[int] | None,
        committed: Sequence[Span] | None,
        zone: Zone,
        placement: _Placement,
    ) -> Allocation:
        if name in self.allocations:
            raise ValueError(f"the arena already holds a tensor {name!r}")
        steps = tuple(strides) if strides is not None else dense_strides(shape)
        red = placement.red_zone(dtype.itemsize)
        length = span_of(shape, steps)
        first = red + placement.lead
        end = first + length + red
        storage = _reserve(name, max(end, -(-placement.storage_bytes // dtype.itemsize)), dtype)
        legal = tuple(_merged([(first + start, first + min(stop, length)) for start, stop in committed or [(0, length)]]))
        live = tuple(_merged([(0, first), *legal, (first + length, end)]))
        for start, stop in live:
            storage[start:stop].view(RAW[dtype.itemsize]).fill_(pattern(dtype, self.poison, zone))
        allocation = Allocation(
            name=name,
            zone=zone,
            poison=self.poison,
            storage=storage,
            view=torch.as_strided(storage, tuple(shape), steps, first),
            legal=legal,
            live=live,
            writable=_NONE,
        )
        self.allocations[name] = allocation
        return allocation


def dense_strides(shape: Sequence[int]) -> tuple[int, ...]:
    """Row-major strides in elements."""
    strides: list[int] = []
    step = 1
    for size in reversed(shape):
        strides.append(step)
        step *= max(size, 1)
    return tuple(reversed(strides))


def span_of(shape: Sequence[int], strides: Sequence[int]) -> int:
    """Number of elements from the first to the last of such a view, both included; 0 for an empty one."""
    if 0 in shape:
        return 0
    return 1 + sum((size - 1) * stride for size, stride in zip(shape, strides, strict=True))


def extent(view: torch.Tensor) -> Span:
    """Storage elements from the view's first to its last, as [start, stop)."""
    start = int(view.storage_offset())
    return start, start + span_of(view.shape, view.stride())


def unravel(view: torch.Tensor, offset: int) -> tuple[list[int], int]:
    """Index of the view's element `offset` elements behind its first, and how far behind that element it lies (a gap)."""
    index = [0] * view.dim()
    for dim in sorted(range(view.dim()), key=view.stride().__getitem__, reverse=True):
        stride = view.stride(dim)
        if stride > 0:
            index[dim] = min(offset // stride, view.shape[dim] - 1)
            offset -= index[dim] * stride
    return index, offset


def offsets_of(view: torch.Tensor, index: Sequence[torch.Tensor]) -> npt.NDArray[np.int64]:
    """Elements `view[index]`, counted from the view's first one; `index`: an int64 tensor for each dimension, broadcast."""
    if len(index) != view.dim():
        raise ValueError(f"{len(index)} indices for {view.dim()} dimensions")
    parts = [part.to(torch.int64) * stride for part, stride in zip(index, view.stride(), strict=True)]
    total = sum(torch.broadcast_tensors(*parts), start=torch.zeros((), dtype=torch.int64))
    return np.asarray(total.flatten().numpy())


def _elements(count: int) -> str:
    return f"{count} element{'s' * (count != 1)}"


def _reserve(name: str, elements: int, dtype: torch.dtype) -> torch.Tensor:
    try:
        return torch.empty(elements, dtype=dtype)
    except RuntimeError as error:
        size = elements * dtype.itemsize / 2**30
        raise StagingError(f"no address space for {name}: {size:.1f} GiB of {dtype}") from error


def _merged(spans: list[Span]) -> Iterator[Span]:
    ordered = sorted(span for span in spans if span[0] < span[1])
    current: Span | None = None
    for start, stop in ordered:
        if current is not None and start <= current[1]:
            current = (current[0], max(current[1], stop))
        else:
            if current is not None:
                yield current
            current = (start, stop)
    if current is not None:
        yield current
