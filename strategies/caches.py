"""Paged caches of one Case: tensors in guarded memory, with values in the slots that some row reads and poison elsewhere."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch

from tridiff.harness.api import Arena
from tridiff.strategies import fp8, paging
from tridiff.strategies.layouts import LARGE_STORAGE_BYTES, CacheShape, Placement, far_heads, is_flat, place


@dataclass(frozen=True, kw_only=True, eq=False)
class Pool:
    """The caches of a Case, whose pages have the same numbers in all of them.

    `pages`: which page and slot each token has. `shapes`, `layouts`: of each cache, by name. `gap`, `far`, `lead`,
    `storage`: see the module `layouts`. `unused_slots`: "zeros" in the slots of a page in use that no row reads, else poison.
    """

    pages: paging.Paging
    shapes: Mapping[str, CacheShape]
    layouts: Mapping[str, str]
    gap: int
    far: str
    lead: int
    storage: str
    unused_slots: str = "poison"

    @property
    def placement(self) -> Placement:
        """Where the pages lie: as far away as the cache with the largest page stride needs."""
        strides = [shape.strides(self.layouts[name], self.gap)[0] for name, shape in self.shapes.items()]
        return place(self.pages.pool_size, self.far, max(strides))

    def filled(self, arena: Arena, name: str, values: torch.Tensor, dtype: torch.dtype, scale: float = 1.0) -> torch.Tensor:
        """Cache `name`, called `NAME_cache` in the arena, with float32 `values` [slots in use, heads, width].

        FP8 caches hold the codes of `values` for `scale`. Raises `StagingError` without address space for far pages.
        """
        cache = self._allocate(arena, name, dtype)
        used = torch.from_numpy(self.placement.ids(self.pages.pool_ids))
        page = used[self.pages.slot_page]
        offset = torch.from_numpy(self.pages.slot_offset)
        cells, content = cache, values
        if dtype.itemsize == 1:
            cells, content = cache.view(torch.uint8), fp8.quantised(values, scale, dtype)
        content = content.to(cells.dtype)
        if self.unused_slots == "zeros":
            _paged(cells, self.pages.page_size)[used] = 0
        if cache.dim() == 3:
            cells[page * self.pages.page_size + offset] = content
        else:
            cells[page, offset] = content
        return cache

    def _allocate(self, arena: Arena, name: str, dtype: torch.dtype) -> torch.Tensor:
        layout, shape, placement = self.layouts[name], self.shapes[name], self.placement
        strides: Sequence[int] = shape.strides(layout, self.gap)
        committed = placement.committed(strides[0])
        if self.far == "heads" and layout == "heads_outermost":
            strides, committed = far_heads(tuple(strides), shape.num_heads)
        sizes: tuple[int, ...] = (placement.num_pages, shape.page_size, shape.num_heads, shape.width)
        if is_flat(layout):
            sizes, strides = (sizes[0] * sizes[1], *sizes[2:]), strides[1:]
        storage_bytes = LARGE_STORAGE_BYTES if self.storage == "large" else 0
        return arena.tensor(
            f"{name}_cache", sizes, dtype, strides=strides, committed=committed, lead=self.lead, storage_bytes=storage_bytes
        )


def _paged(cache: torch.Tensor, page_size: int) -> torch.Tensor:
    """A view [pages, page_size, heads, width] of a cache, which may be [pages * page_size, heads, width]."""
    return cache.unflatten(0, (-1, page_size)) if cache.dim() == 3 else cache
