"""Room: which shapes, pages and layouts of head-major caches there is memory and time for, within a budget and a domain.

Nothing is filtered afterwards: what would leave nothing for the choices that follow is not on offer in the first place. Every
cost grows with each of its factors, so that something follows where the smallest does.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from tridiff.harness.api import Domain
from tridiff.strategies import fp8, kv_caches, layouts, paging
from tridiff.strategies.budget import Budget
from tridiff.strategies.draws import Weights, allowed, evenly
from tridiff.strategies.kv_caches import KVCache
from tridiff.strategies.lengths import cdiv
from tridiff.strategies.paged_readers_case import DTYPES

# Widths and groups are compile-time constants of most kernels, so a few carry most of the weight.
HEAD_DIMS = {32: 6, 64: 16, 80: 3, 96: 2, 128: 14, 160: 1, 192: 1, 224: 1, 256: 2}
GROUP_SIZES = {1: 10, 2: 2, 3: 2, 4: 12, 5: 1, 6: 3, 7: 1, 8: 5, 9: 1, 12: 1, 15: 1, 16: 2, 20: 1}
NUM_KV_HEADS = {1: 7, 2: 5, 3: 1, 4: 2, 8: 1}
DTYPE_WEIGHTS = {"float32": 3, "bfloat16": 8, "float16": 2}
NARROW_DTYPES = ("bfloat16", "float16")
SEEDS = evenly(range(254))

STRIDES = ("alike", "own")
"""Whether pages and heads of V lie as far apart as those of K: values of the facet `cache_strides`."""

NATIVE = ("packed", "strided")
"""Whether the pages of both caches are packed, as native kernels want them: values of the facet `native`."""

_NARROW = 2
"""Bytes of an element by which memory is counted: float32 is offered where it fits as well."""
_WIDE = 4


class Shape(NamedTuple):
    """Heads and width of one rank; `model`: whose, "" for none. `page_sizes`: those that serve it, () for all."""

    num_kv_heads: int
    group_size: int
    head_dim: int
    model: str = ""
    page_sizes: tuple[int, ...] = ()

    @property
    def fields(self) -> dict[str, Any]:
        """Fields of the Case."""
        return {name: getattr(self, name) for name in ("model", "num_kv_heads", "group_size", "head_dim")}


class Layout(NamedTuple):
    """How the two caches lie: fields of the Case."""

    key_pages: str
    value_pages: str
    key_order: str
    value_order: str


_SMALLEST = Layout("packed", "packed", "token_major", "token_major")
_LARGEST = Layout("layers", "layers", "padded_heads", "padded_heads")
"""Those that need least and most memory, whatever the shape."""


class ReaderRoom:
    """What there is room for.

    `rows_per_key`: query rows that meet each key, by which the work grows. `shapes`: those of models; None for all heads and
    widths that the domain allows.
    """

    def __init__(self, domain: Domain, budget: Budget, *, rows_per_key: int = 1, shapes: Sequence[Shape] | None = None) -> None:
        self.domain = domain
        self.budget = budget
        self.page_sizes = allowed(kv_caches.PAGE_SIZES, domain, "page_size")
        self.gaps = allowed(layouts.GAPS, domain, "gap")
        self.num_kv_heads = allowed(NUM_KV_HEADS, domain, "num_kv_heads")
        self.group_sizes = allowed(GROUP_SIZES, domain, "group_size")
        self.head_dims = allowed(HEAD_DIMS, domain, "head_dim")
        self.models = None if shapes is None else tuple(shapes)
        self.least = _least_length(domain)
        self.element_bytes = _NARROW if any(domain.allows("dtype", name) for name in NARROW_DTYPES) else _WIDE
        self._rows_per_key = rows_per_key
        self._layouts = tuple(_allowed_layouts(domain))
        self.fits = functools.cache(self._fits)  # kept for as long as this object lives: asked again and again
        self._page = functools.cache(self._least_page)
        self._seeds = functools.cache(self._allowed_seeds)

    @property
    def has_shapes(self) -> bool:
        """Whether there are heads and widths, with pages and layouts, that fit."""
        if not (self._layouts and self.gaps and self.page_sizes):
            return False
        if self.models is not None:
            return any(self.fits(shape) for shape in self.models)
        if not (self.num_kv_heads and self.group_sizes and self.head_dims):
            return False
        return self.fits(Shape(min(self.num_kv_heads), min(self.group_sizes), min(self.head_dims)))

    def _fits(self, shape: Shape) -> bool:
        domain, rows = self.domain, shape.num_kv_heads * shape.group_size * 2 * shape.head_dim
        return (
            all(domain.allows(name, getattr(shape, name)) for name in ("num_kv_heads", "group_size", "head_dim"))
            and (self.models is not None or rows <= self.budget.row_width)
            and self.most_tokens(shape) >= max(1, self.least)
            and any(self.takes_pages(shape, size) for size in self.pages_of(shape))
        )

    def pages_of(self, shape: Shape) -> Weights[int]:
        """Page sizes on offer for a shape."""
        if not shape.page_sizes:
            return self.page_sizes
        return {size: 1 for size in shape.page_sizes if self.domain.allows("page_size", size)}

    def most_tokens(self, shape: Shape) -> int:
        """Keys of all sequences together."""
        return self.budget.multiply_adds // (self._rows_per_key * shape.num_kv_heads * shape.group_size * 2 * shape.head_dim)

    def takes_pages(self, shape: Shape, page_size: int) -> bool:
        """Whether there is room for the pages of a sequence at least."""
        return self.most_pages(shape, page_size) >= max(1, cdiv(self.least, page_size))

    def most_pages(self, shape: Shape, page_size: int) -> int:
        """Pages for which there is memory in the layouts that need least."""
        return self.elements // self._page(shape.num_kv_heads, shape.head_dim, page_size) - paging.SPARE_PAGES

    def _least_page(self, num_kv_heads: int, head_dim: int, page_size: int) -> int:
        smallest = (_SMALLEST,) if _SMALLEST in self._layouts else self._layouts
        return min(page_elements(each, min(self.gaps), num_kv_heads, head_dim, page_size) for each in smallest)

    @property
    def elements(self) -> int:
        """Elements of both caches together."""
        return self.budget.cache_bytes // self.element_bytes

    def layouts_for(self, shape: Shape, page_size: int, gap: int, num_pages: int) -> list[Layout]:
        """Layouts in which `num_pages` fit."""
        each = self.elements // num_pages
        sizes = (gap, shape.num_kv_heads, shape.head_dim, page_size)
        if page_elements(_LARGEST, *sizes) <= each:
            return list(self._layouts)
        return [layout for layout in self._layouts if page_elements(layout, *sizes) <= each]

    def takes_dtype(self, name: str, types: Mapping[str, Any]) -> bool:
        """Whether queries may be of that dtype, in which all numbers of the caches must be finite."""
        scale = max(types.get("k_scale", 1.0), types.get("v_scale", 1.0))
        return fp8.stays_finite(types["cache_dtype"], scale, DTYPES[name]) and self.domain.allows("dtype", name)

    def seeds(self, types: Mapping[str, Any]) -> Weights[int]:
        """Seeds that tell of nothing that is not allowed."""
        return self._seeds(types["cache_dtype"], types.get("k_scale", 1.0), types.get("v_scale", 1.0))

    def _allowed_seeds(self, cache_dtype: str, k_scale: float, v_scale: float) -> Weights[int]:
        domain, types = self.domain, {"cache_dtype": cache_dtype, "k_scale": k_scale, "v_scale": v_scale}
        if not {"lead", "storage", "scale_form"} & domain.limits.keys():
            return SEEDS
        return {
            seed: weight
            for seed, weight in SEEDS.items()
            if all(domain.allows(facet, value) for facet, value in layouts.placement_fields(seed).items())
            and domain.allows("scale_form", scale_form(seed, types))
        }


def scale_form(seed: int, types: Mapping[str, Any]) -> str:
    """`fp8.scale_form` for the fields `types`."""
    return fp8.scale_form(seed, types["cache_dtype"], types.get("k_scale", 1.0), types.get("v_scale", 1.0))


def page_elements(layout: Layout, gap: int, num_kv_heads: int, head_dim: int, page_size: int) -> int:
    """Elements that each page adds to both caches together."""
    return sum(
        _page_stride(order, pages, gap if order != "token_major" or pages == "padded" else 0, num_kv_heads, head_dim, page_size)
        for pages, order in ((layout.key_pages, layout.key_order), (layout.value_pages, layout.value_order))
    )


@functools.lru_cache(maxsize=2**14)
def _page_stride(order: str, pages: str, gap: int, num_kv_heads: int, head_dim: int, page_size: int) -> int:
    return _cache("key", order, pages, gap, num_kv_heads, head_dim, page_size).page_stride


def _cache(role: str, order: str, pages: str, gap: int, num_kv_heads: int, head_dim: int, page_size: int) -> KVCache:
    """A cache; strides of pages and heads depend neither on the role nor on the element's size."""
    return KVCache(
        role=role,
        kind="head_major",
        order=order,
        pages=pages,
        gap=gap,
        page_size=page_size,
        num_heads=num_kv_heads,
        width=head_dim,
        neighbour=head_dim,
        itemsize=_NARROW,
    )


def strides_word(key: KVCache, value: KVCache) -> str:
    """Which of `STRIDES`."""
    return STRIDES[key.strides[:2] != value.strides[:2]]


def native_word(key: KVCache, value: KVCache) -> str:
    """Which of `NATIVE`."""
    return NATIVE[not (key.is_packed and value.is_packed)]


def _allowed_layouts(domain: Domain) -> Iterator[Layout]:
    """All layouts that the domain allows."""
    orders = kv_caches.HEAD_MAJOR_ORDERS
    for key_pages in allowed(kv_caches.PAGES, domain, "key_pages"):
        for value_pages in allowed(kv_caches.PAGES, domain, "value_pages"):
            for key_order in allowed(orders, domain, "key_order"):
                for value_order in allowed(orders, domain, "value_order"):
                    # The words are those of any shape: with two heads, two pages and a gap.
                    key = _cache("key", key_order, key_pages, 16, 2, 32, 16)
                    value = _cache("value", value_order, value_pages, 16, 2, 32, 16)
                    if domain.allows("cache_strides", strides_word(key, value)) and domain.allows(
                        "native", native_word(key, value)
                    ):
                        yield Layout(key_pages, value_pages, key_order, value_order)


def _least_length(domain: Domain) -> int:
    """The smallest length of a sequence that `domain` allows, with queries that it allows."""
    limit = domain.limits.get("seq_lens", (0,))
    least = min(limit[0], limit[-1]) if isinstance(limit, range) else min(limit)
    queries = domain.limits.get("query_lens", (0,))
    fewest = min(queries)
    return int(max(least, fewest if fewest > 1 else 0))
