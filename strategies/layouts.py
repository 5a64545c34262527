"""Layouts: strides of paged caches and of row-wise tensors, in elements, and caches with far-away pages.

A cache is [pages, page size, heads, width] whatever its memory looks like. Row-wise tensors are [rows, heads, width]
(queries, outputs) or [rows, columns] (tables, log-sum-exps).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from hypothesis import strategies as st

from tridiff.harness.api import Domain, dense_strides
from tridiff.strategies.draws import UNLIMITED, allowed, choose, fields
from tridiff.strategies.lengths import cdiv

CACHE_LAYOUTS = {
    "packed": 8,
    "page_gap": 3,
    "token_gap": 3,
    "every_gap": 2,
    "interleaved": 2,
    "cross_layer": 3,
    "heads_in_page": 3,
    "heads_outermost": 3,
    "flat": 3,
    "flat_token_gap": 1,
}
"""Memory order and gaps of a cache, see `cache_strides`."""

ROW_LAYOUTS = {"packed": 4, "padded_rows": 3, "padded_heads": 1, "heads_first": 1}
QUERY_LAYOUTS = {"packed": 4, "fused_qkv": 3, "padded_heads": 1, "heads_first": 1}
LSE_LAYOUTS = {"packed": 2, "padded_rows": 1}
TABLE_LAYOUTS = {"packed": 3, "padded_rows": 1}

GAPS = {16: 6, 8: 2, 1: 2, 48: 1}
"""Elements of a gap or of padding; multiples of 16 first, because Triton compiles others separately."""

STORAGES = ("small", "large")
"""Whether a cache's storage exceeds 2 GiB, as production's do: on AMD Triton compiles smaller ones separately."""
LARGE_STORAGE_BYTES = 2**31 + 2**20

FAR = {"none": 14, "pages": 2, "heads": 14}
"""What lies beyond `FAR_ELEMENTS`; "pages" and "heads" are never on offer together, see `far_fits`."""

FAR_ELEMENTS = 2**31
"""The first offset that 32-bit arithmetic cannot hold."""

LAYERS = 2
"""Layers whose pages alternate in a cross-layer cache."""

Strides = tuple[int, ...]
Span = tuple[int, int]


def is_flat(layout: str) -> bool:
    """Whether the cache is 3-D, [pages * page size, heads, width]."""
    return layout.startswith("flat")


@dataclass(frozen=True, kw_only=True)
class CacheShape:
    """One cache: pages, tokens per page, heads, width of a head; `neighbour`: the width of the other cache's heads."""

    num_pages: int
    page_size: int
    num_heads: int
    width: int
    neighbour: int

    def strides(self, layout: str, gap: int) -> tuple[int, int, int, int]:
        """Strides of page, token, head and element for `layout`.

        "packed", "flat": dense. "page_gap", "token_gap", "flat_token_gap": `gap` elements after every page or token.
        "every_gap": after every head, token and page. "interleaved": K and V side by side, each head of one followed by a
        head of the other. "cross_layer": pages of `LAYERS` layers alternate. "heads_in_page": [page, head, token].
        "heads_outermost": [head, page, token]. Wherever pages have gaps, page stride != page size * token stride.
        """
        head_gap = {"every_gap": gap, "interleaved": self.neighbour}.get(layout, 0)
        token_gap = gap if layout in {"token_gap", "flat_token_gap", "every_gap"} else 0
        page_gap = gap if layout in {"page_gap", "every_gap"} else 0
        if layout == "heads_in_page":
            run = self.page_size * self.width
            return self.num_heads * run, self.width, run, 1
        if layout == "heads_outermost":
            run = self.page_size * self.width
            return run, self.width, self.num_pages * run, 1
        token = self.num_heads * (self.width + head_gap) + token_gap
        page = self.page_size * token + page_gap
        return page * (LAYERS if layout == "cross_layer" else 1), token, self.width + head_gap, 1

    def page_elements(self, layout: str, gap: int) -> int:
        """Elements that each page adds to the cache, at most."""
        page, _, _, _ = self.strides(layout, gap)
        return page * (self.num_heads if layout == "heads_outermost" else 1)

    def elements(self, layout: str, gap: int) -> int:
        """Elements from the first to the last one of the cache."""
        sizes = (self.num_pages, self.page_size, self.num_heads, self.width)
        return span(sizes, self.strides(layout, gap))


def span(sizes: Sequence[int], strides: Sequence[int]) -> int:
    """Elements from the first to the last one of a view that is not empty."""
    return 1 + sum((size - 1) * stride for size, stride in zip(sizes, strides, strict=True))


def row_strides(layout: str, sizes: Sequence[int], *, gap: int, fused: int = 0) -> Strides:
    """Strides of a row-wise tensor of `sizes`, its last axis dense.

    "packed": dense. "padded_rows": `gap` elements after every row. "padded_heads": after every head as well. "heads_first":
    memory order [heads, rows, width]. "fused_qkv": the rows of a projection with `fused` further elements each.
    """
    dense = dense_strides(sizes)
    if layout == "padded_heads":
        return sizes[1] * (sizes[2] + gap) + gap, sizes[2] + gap, 1
    if layout == "heads_first":
        return sizes[2], sizes[0] * sizes[2], 1
    padding = {"padded_rows": gap, "fused_qkv": fused}.get(layout, 0)
    return dense[0] + padding, *dense[1:]


def row_fields(domain: Domain = UNLIMITED) -> st.SearchStrategy[dict[str, Any]]:
    """`query_layout`, `output_layout`, `lse_layout` and `table_layout`, independent of each other, those that `domain` allows."""
    return fields(
        query_layout=choose(allowed(QUERY_LAYOUTS, domain, "query_layout")),
        output_layout=choose(allowed(ROW_LAYOUTS, domain, "output_layout")),
        lse_layout=choose(allowed(LSE_LAYOUTS, domain, "lse_layout")),
        table_layout=choose(allowed(TABLE_LAYOUTS, domain, "table_layout")),
    )


def placement_fields(seed: int) -> dict[str, Any]:
    """`lead` and `storage`, told by the seed: no choice of their own, that other fields would have to shrink around.

    Large storage 15 times in 16, as in production; a misaligned tensor 3 times in 16; neither for seed 0, the simplest.
    """
    return {"lead": {5: 1, 7: 4, 11: 8}.get(seed % 16, 0), "storage": STORAGES[seed >= 16]}


@st.composite
def cache_fields(
    draw: st.DrawFn, key: CacheShape, value: CacheShape, *, elements: int, domain: Domain = UNLIMITED
) -> dict[str, Any]:
    """`gap`, `key_layout`, `value_layout` and `far`, with at most `elements` elements in both caches together.

    V often has K's layout, as it does in production, but need not. Of what `domain` allows something must fit; packed, both need
    least.
    """
    pairs = allowed_pairs(domain, num_heads=key.num_heads, equal_widths=key.width == value.width, is_mla=False)

    def fit(gap: int, key_layout: str, value_layout: str) -> bool:
        room = elements - key.elements(key_layout, gap)
        return (key_layout, value_layout) in pairs and value.elements(value_layout, gap) <= room

    def partnered(gap: int, key_layout: str) -> bool:
        return any(fit(gap, key_layout, value_layout) for value_layout in CACHE_LAYOUTS)

    gaps = allowed(GAPS, domain, "gap")
    gap = draw(choose(gaps, lambda gap: any(partnered(gap, layout) for layout in CACHE_LAYOUTS)))
    key_layout = draw(choose(CACHE_LAYOUTS, lambda layout: partnered(gap, layout)))
    alike = CACHE_LAYOUTS | {key_layout: 20}
    value_layout = draw(choose(alike, lambda layout: fit(gap, key_layout, layout)))
    far = choose(allowed(FAR, domain, "far"), lambda far: far_fits(far, key_layout, value_layout, key.num_heads))
    return {"gap": gap, "key_layout": key_layout, "value_layout": value_layout, "far": draw(far)}


LATENT_LAYOUTS = {"packed": 7, "page_gap": 3, "token_gap": 2, "every_gap": 1, "cross_layer": 4, "flat": 3, "flat_token_gap": 1}
"""Those of a cache with one head and nothing beside it."""
LATENT_FAR = {"none": 15, "pages": 2}


@st.composite
def latent_fields(draw: st.DrawFn, key: CacheShape, *, elements: int, domain: Domain = UNLIMITED) -> dict[str, Any]:
    """As `cache_fields`, for a cache whose keys hold the values as well: both have one layout. It makes as many choices."""
    pairs = allowed_pairs(domain, num_heads=key.num_heads, equal_widths=False, is_mla=True)

    def fit(gap: int, layout: str) -> bool:
        return (layout, layout) in pairs and key.elements(layout, gap) <= elements

    gaps = allowed(GAPS, domain, "gap")
    gap = draw(choose(gaps, lambda gap: any(fit(gap, layout) for layout in LATENT_LAYOUTS)))
    layout = draw(choose(LATENT_LAYOUTS, lambda layout: fit(gap, layout)))
    far = choose(allowed(LATENT_FAR, domain, "far"))
    return {"gap": gap, "key_layout": layout, "value_layout": draw(choose({layout: 1})), "far": draw(far)}


STRIDES = ("alike", "own")
"""Whether V has K's strides: values of the facet `cache_strides`."""


def cache_strides(key_layout: str, value_layout: str, *, equal_widths: bool, is_mla: bool) -> str:
    """Which of `STRIDES`: V has K's in the same layout with the same width, side by side with K, and as a part of K."""
    same = key_layout == value_layout and (equal_widths or key_layout == "interleaved")
    return STRIDES[not (same or is_mla)]


def rank(layout: str) -> int:
    """Dimensions of a cache: a value of the facet `cache_rank`."""
    return 3 if is_flat(layout) else 4


def allowed_pairs(domain: Domain, *, num_heads: int, equal_widths: bool, is_mla: bool) -> tuple[tuple[str, str], ...]:
    """Layouts of K and V that `domain` allows, with something for `far`."""
    return tuple(
        (key, value)
        for key in (LATENT_LAYOUTS if is_mla else CACHE_LAYOUTS)
        for value in ((key,) if is_mla else CACHE_LAYOUTS)
        if domain.allows("key_layout", key)
        and domain.allows("value_layout", value)
        and domain.allows("cache_rank", rank(key), rank(value))
        and domain.allows("cache_strides", cache_strides(key, value, equal_widths=equal_widths, is_mla=is_mla))
        and any(far_fits(far, key, value, num_heads) for far in allowed(LATENT_FAR if is_mla else FAR, domain, "far"))
    )


def page_elements(domain: Domain, pairs: Iterable[tuple[str, str]], key: CacheShape, value: CacheShape | None) -> int | None:
    """Most elements that a page takes in those of `pairs` that need least; None where there are none.

    `value`: None where it is a part of `key`.
    """
    gap = min(allowed(GAPS, domain, "gap"), default=1)
    sizes = (key.page_elements(k, gap) + (value.page_elements(v, gap) if value else 0) for k, v in pairs)
    return min(sizes, default=None)


def far_fits(far: str, key_layout: str, value_layout: str, num_heads: int) -> bool:
    """Whether the caches can be stretched so.

    "pages" needs pages to be the outermost axis of both. "heads" needs heads to be that of one, and at least three of them:
    with two, the stride itself would exceed 32 bits, which no kernel gets wrong.
    """
    outermost = "heads_outermost" in {key_layout, value_layout}
    return {"none": True, "pages": not outermost, "heads": outermost and num_heads >= 3}[far]


@dataclass(frozen=True, kw_only=True)
class Placement:
    """Where the pages of a pool lie: the first `near` at their own ids, the others `shift` ids further on."""

    pool_size: int
    near: int
    shift: int

    @property
    def num_pages(self) -> int:
        """Pages of the cache, those in the hole included."""
        return self.pool_size + self.shift

    def ids(self, pool_ids: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        """Physical page ids of `pool_ids`."""
        return pool_ids + self.shift * (pool_ids >= self.near)

    def committed(self, page_stride: int) -> list[Span] | None:
        """Spans of elements with content for a cache of that page stride; None: all."""
        if not self.shift:
            return None
        first_far = self.near + self.shift
        return [(0, self.near * page_stride), (first_far * page_stride, self.num_pages * page_stride)]


def place(pool_size: int, far: str, page_stride: int) -> Placement:
    """Placement of a pool; with `far` "pages" its second half begins 2^31 elements into a cache of `page_stride`."""
    if far != "pages":
        return Placement(pool_size=pool_size, near=pool_size, shift=0)
    near = pool_size // 2
    return Placement(pool_size=pool_size, near=near, shift=cdiv(FAR_ELEMENTS, page_stride) - near)


def far_heads(strides: Strides, num_heads: int) -> tuple[Strides, list[Span]]:
    """`strides` of a "heads_outermost" cache with the last head 2^31 elements away, and the spans that have content."""
    return far_axis(strides, 2, num_heads, strides[2])


def far_axis(strides: Strides, axis: int, count: int, run: int) -> tuple[Strides, list[Span]]:
    """`strides` with the last of the `count` entries of `axis` 2^31 elements away, and the spans that have content.

    `run`: elements of an entry, from its first to its last, gaps included.
    """
    step = 64 * cdiv(FAR_ELEMENTS, 64 * (count - 1))
    return (*strides[:axis], step, *strides[axis + 1 :]), [(at * step, at * step + run) for at in range(count)]
