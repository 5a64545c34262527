"""Victims of a cache write: what stood in memory that was overwritten, and which token stands there now.

Says, for `Op.victim`, of the first slot, gap or stretch outside of the cache that is damaged:

    slot 0 (page 0, offset 0), head 1, bytes 32..48 overwritten by token 3 whose slot is -1
    gap after page 3, bytes 0..16 overwritten by token 2 whose slot is 70
    below the cache, where slot -1 (page 0, offset -1) would lie, head 0, bytes 0..32 overwritten by token 0 whose slot is -1
    slot 0 (page 0, offset 0), head 1, bytes 32..48 written back
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import torch

from tridiff.harness.api import RAW, offsets_of

Index = Callable[[torch.Tensor, torch.Tensor], tuple[torch.Tensor, ...]]
"""(pages, positions), int64 [n] each -> indices into the cache of the elements of these slots, as [n, heads, width]."""

_SHOWN = 2**16
"""Damaged elements that are looked at: the first ones."""

_FEWEST_BYTES = 4
"""Shorter stretches are found in too many rows to say whose they are, unless at their own place."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Target:
    """A cache as its writer must fill it.

    `cache`: the tensor, whose first dimension is pages. `page_size`: positions of a page. `index`: see `Index`. `slots`: the slot
    mapping, [T]. `rows`: [T', heads, width], what each token's row is stored as, in the cache's dtype. `has_heads`: whether heads
    are worth a word. `is_changed`: whether what is looked at holds other bits than before.
    """

    cache: torch.Tensor
    page_size: int
    index: Index
    slots: torch.Tensor
    rows: torch.Tensor
    has_heads: bool = True
    is_changed: bool = True

    def offsets(self, pages: torch.Tensor, positions: torch.Tensor) -> npt.NDArray[np.int64]:
        """Elements of some slots, counted from the cache's first one: int64 [n, heads, width]."""
        found = offsets_of(self.cache, self.index(pages, positions))
        return found.reshape(len(pages), *self.rows.shape[1:])


def plain_index(cache: torch.Tensor) -> Index:
    """The `Index` of a cache [pages, page size, heads, width], or [pages, page size, width], which has one head."""

    def index(pages: torch.Tensor, positions: torch.Tensor) -> tuple[torch.Tensor, ...]:
        column = torch.arange(cache.shape[-1])[None, None, :]
        heads = [torch.arange(cache.shape[2])[None, :, None]] if cache.dim() == 4 else []
        return (pages[:, None, None], positions[:, None, None], *heads, column)

    return index


def scale_index(cache: torch.Tensor) -> Index:
    """The `Index` of scales [pages, page size, heads], one for each row of width 1."""

    def index(pages: torch.Tensor, positions: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return pages[:, None, None], positions[:, None, None], torch.arange(cache.shape[2])[None, :, None]

    return index


def victim(target: Target, cells: npt.NDArray[np.int64], *, is_changed: bool = True) -> str:
    """What stood in `cells`, elements counted from the cache's first one, sorted, and which token stands there now."""
    target = replace(target, is_changed=is_changed)
    cells = cells[:_SHOWN]
    first = int(cells[0])
    if first < 0:
        return _outside(target, cells[cells < 0], "below the cache")
    end = 1 + sum((size - 1) * stride for size, stride in zip(target.cache.shape, target.cache.stride(), strict=True))
    if first >= end:
        last = int(_run(cells)[-1])
        return _outside(target, cells, f"past the end of the cache, bytes {_bytes(target, first - end, last - end)}")
    page = _page(target.cache, first)
    positions = torch.arange(target.page_size)
    offsets = target.offsets(torch.full_like(positions, page), positions)
    at = np.argwhere(offsets == first)
    if at.size:
        position, head, _ = map(int, at[0])
        slot = page * target.page_size + position
        where = f"slot {slot} (page {page}, offset {position})"
        return _within(target, cells, offsets[position, head], where, head)
    return _gap(target, cells, page, offsets)


def _page(cache: torch.Tensor, element: int) -> int:
    """The page of an element: pages are the outermost dimension of all, but where heads or positions lie far apart."""
    for dim in sorted(range(cache.dim()), key=cache.stride, reverse=True):
        at = min(element // int(cache.stride(dim)), cache.shape[dim] - 1)
        if dim == 0:
            return at
        element -= at * int(cache.stride(dim))
    raise AssertionError("dimension 0 is one of all")


def _within(target: Target, cells: npt.NDArray[np.int64], row: npt.NDArray[np.int64], where: str, head: int) -> str:
    """Of damage in the row of one head: `row`, its elements."""
    columns = np.flatnonzero(np.isin(row, cells))
    place = f"{where}{_head(target, head)}, bytes {_bytes(target, int(columns[0]), int(columns[-1]))}"
    now = _content(target, row[columns])
    writer = _writer(target, _same_place(target, now, head, columns), now)
    return f"{place} {writer}"


def _gap(target: Target, cells: npt.NDArray[np.int64], page: int, offsets: npt.NDArray[np.int64]) -> str:
    """Of damage between the pages, or between the slots and heads of one."""
    before = offsets[offsets < cells[0]]
    after = offsets[offsets > cells[0]]
    run = _run(cells if after.size == 0 else cells[cells < after.min()])
    skip = int(run[0] - before.max()) - 1
    if after.size == 0:
        where = f"gap after page {page}"
    else:
        position, head, _ = map(int, np.argwhere(offsets == before.max())[0])
        slot = page * target.page_size + position
        where = f"padding after slot {slot} (page {page}, offset {position}){_head(target, head)}"
    now = _content(target, run)
    return f"{where}, bytes {_bytes(target, skip, skip + run.size - 1)} {_writer(target, [], now)}"


def _outside(target: Target, cells: npt.NDArray[np.int64], where: str) -> str:
    """Of damage outside: below, at the place of the negative slot that would lie there."""
    negative = {-1, *(int(slot) for slot in target.slots if -(2**31) <= int(slot) < 0)}
    for slot in sorted(negative, reverse=True):
        page, position = -(-slot // target.page_size), -(-slot % target.page_size)
        row = target.offsets(torch.tensor([page]), torch.tensor([position]))[0]
        at = np.argwhere(row == cells[0])
        if at.size:
            head = int(at[0][0])
            return _within(
                target, cells, row[head], f"{where}, where slot {slot} (page {page}, offset {position}) would lie", head
            )
    return f"{where} {_writer(target, [], _content(target, _run(cells)))}"


def _run(cells: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """The first of them that follow each other."""
    breaks = np.flatnonzero(np.diff(cells) != 1)
    return cells[: int(breaks[0]) + 1] if breaks.size else cells


def _content(target: Target, cells: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """Bits of the elements `cells`, counted from the cache's first one."""
    bits = target.cache.view(RAW[target.cache.element_size()])
    storage = torch.as_strided(bits, (bits.untyped_storage().nbytes() // bits.element_size(),), (1,), 0)
    return np.asarray(storage[torch.from_numpy(cells) + bits.storage_offset()].to(torch.int64).numpy())


def _bits(target: Target) -> npt.NDArray[np.int64]:
    """Bits of what each row is stored as, [T', heads, width]."""
    return np.asarray(target.rows.contiguous().view(RAW[target.rows.element_size()]).to(torch.int64).numpy())


def _same_place(target: Target, now: npt.NDArray[np.int64], head: int, columns: npt.NDArray[np.int64]) -> list[int]:
    """Tokens whose row has `now` in these columns of that head."""
    return [int(token) for token in np.flatnonzero((_bits(target)[:, head, columns] == now).all(axis=1))]


def _elsewhere(target: Target, now: npt.NDArray[np.int64]) -> list[int]:
    """Tokens in whose rows `now` is found, at any place."""
    flat = _bits(target).reshape(len(target.rows), -1)
    if now.size > flat.shape[1] or now.size * target.cache.element_size() < _FEWEST_BYTES:
        return []
    windows = np.lib.stride_tricks.sliding_window_view(flat, now.size, axis=1)
    return [int(token) for token in np.flatnonzero((windows == now).all(axis=2).any(axis=1))]


def _writer(target: Target, tokens: list[int], now: npt.NDArray[np.int64]) -> str:
    """By whose data it is overwritten: that of `tokens`, which have `now` at that place, or of others, which have it at another.

    Of several, one whose slot is negative, since nothing of it may be written. What did not change says nothing of its writer.
    """
    if not target.is_changed:
        return "written back"
    tokens = tokens or _elsewhere(target, now)
    if not tokens:
        return "overwritten by no token's data"
    token = min(tokens, key=lambda token: (_is_written(target, token), token))
    if token >= len(target.slots):
        return f"overwritten by row {token}, padding behind the last token"
    return f"overwritten by token {token} whose slot is {int(target.slots[token])}"


def _is_written(target: Target, token: int) -> bool:
    return token < len(target.slots) and int(target.slots[token]) >= 0


def _head(target: Target, head: int) -> str:
    return f", head {head}" if target.has_heads else ""


def _bytes(target: Target, first: int, last: int) -> str:
    item = target.cache.element_size()
    return f"{first * item}..{(last + 1) * item}"
