"""Room: which choices for a Case of prefill leave something for those that follow, within a budget and a domain.

Nothing is filtered afterwards: what would leave no head count, no page size, no layout, ... is not on offer in the first place.
Where a domain names shapes that exceed the budget, all of them, the budget is what the smallest of them needs.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tridiff.harness.api import Domain
from tridiff.strategies import hybrid, kv_caches, layouts, paging
from tridiff.strategies.draws import Weights, allowed, least_of
from tridiff.strategies.kv_caches import KVCache
from tridiff.strategies.lengths import cdiv
from tridiff.strategies.models import GQA_MODELS, TP_SIZES

NUM_KV_HEADS = {1: 6, 2: 6, 3: 1, 4: 3, 8: 1}
GROUP_SIZES = {1: 14, 2: 4, 3: 2, 4: 10, 5: 2, 6: 2, 7: 2, 8: 4, 9: 1, 12: 1, 13: 1, 16: 2}
HEAD_DIMS = {32: 12, 64: 12, 128: 8, 80: 2, 96: 2, 160: 1, 192: 1, 224: 1, 256: 2}
"""Widths of heads that ROCm's backend has."""

MULTIPLE = 16
"""Of page sizes and of widths: x in FP8, and the smallest page that backends take; Cases with others are legal, but not drawn."""

QUERY_TILE = 64
"""Queries as many of which cost no more than one: kernels take them by tiles."""

MULTIPLY_ADDS = 2**25
"""Of all sequences together, whole tiles of queries counted: about 50 ms on the engine `cpu`."""

CACHE_BYTES = 10 * 2**20
"""Of both caches, gaps included."""

PRESET_MULTIPLY_ADDS = 2**28
PRESET_BYTES = 26 * 2**20
"""Room for two pages of 2096 tokens with two KV heads of width 256, in 16 bits and beside the other cache's."""

LAYOUT = ("key_order", "key_pages", "value_order", "value_pages")
Layout = tuple[str, str, str, str]
"""Values of the fields `LAYOUT`."""


@dataclass(frozen=True)
class Shape:
    """Heads, their width and, of a preset, its name; of a hybrid one also its page size, which `cache_bytes` decide on.

    `cache_bytes`: 1 for caches in FP8, 2 for others, 0 for any.
    """

    num_kv_heads: int
    group_size: int
    head_dim: int
    model: str = ""
    page_size: int = 0
    cache_bytes: int = 0

    @property
    def fields(self) -> dict[str, Any]:
        """Those of the Case, but for the page size, which is drawn."""
        return {
            "model": self.model,
            "num_kv_heads": self.num_kv_heads,
            "group_size": self.group_size,
            "head_dim": self.head_dim,
        }


def presets(domain: Domain) -> tuple[Shape, ...]:
    """Ranks of real models, hybrid ones with the page sizes that they get; those that `domain` names."""
    return tuple(
        shape for shape in PRESETS if not domain.models or {shape.model, shape.model.rpartition(" ")[0]} & set(domain.models)
    )


def _plain_models() -> Iterator[Shape]:
    for model in GQA_MODELS:
        for tp in TP_SIZES if model.head_dim == model.head_dim_v and model.head_dim % MULTIPLE == 0 else ():
            if model.splits_over(tp):
                fields = model.sharded(tp)
                yield Shape(fields["num_kv_heads"], fields["group_size"], fields["head_dim"], fields["model"])


def _hybrid_models() -> Iterator[Shape]:
    for model in (model for model in hybrid.MODELS if not model.is_latent):
        for tp in (tp for tp in TP_SIZES if model.splits_over(tp)):
            heads = model.kv_heads(tp)
            shape = (heads, model.num_heads // tp // heads, model.head_dim, f"{model.name} TP{tp}")
            for cache_bytes in hybrid.CACHE_BYTES:
                sizes = {model.page(tp=tp, state_bytes=each, cache_bytes=cache_bytes).page_size for each in hybrid.STATE_BYTES}
                yield from (Shape(*shape, page_size, cache_bytes) for page_size in sorted(sizes))


PRESETS = (*dict.fromkeys(_hybrid_models()), *_plain_models())


def preset_names() -> dict[str, tuple[str, ...]]:
    """Name of each model, with those of its ranks."""
    ranks = dict.fromkeys(shape.model for shape in PRESETS)
    names = dict.fromkeys(rank.rpartition(" ")[0] for rank in ranks)
    return {name: tuple(rank for rank in ranks if rank.rpartition(" ")[0] == name) for name in names}


class Room:
    """What there is room for. `presets`: shapes of models; None for all that the domain allows."""

    def __init__(self, domain: Domain, presets: Sequence[Shape] | None = None) -> None:
        self.domain = domain
        self.page_sizes = _multiples(allowed(kv_caches.PAGE_SIZES, domain, "page_size"))
        self.gaps = allowed(layouts.GAPS, domain, "gap")
        self.pools = (
            allowed(NUM_KV_HEADS, domain, "num_kv_heads"),
            allowed(GROUP_SIZES, domain, "group_size"),
            _multiples(allowed(HEAD_DIMS, domain, "head_dim")),
        )
        self._least_queries = max(1, int(least_of(domain.limits.get("query_lens", (1,)))))
        self._least_context = self._shortest_context()
        self.is_preset = presets is not None
        self.shapes = tuple(presets if presets is not None else self._products())
        self.takes_page = functools.cache(self._takes_page)
        self.fits = functools.cache(self._fits)
        self.has_shape = functools.cache(self._has_shape)
        self._layouts = tuple(self._allowed_layouts())
        budget = (PRESET_MULTIPLY_ADDS, PRESET_BYTES) if self.is_preset else (MULTIPLY_ADDS, CACHE_BYTES)
        smallest = min(self.shapes, key=self._size, default=None)
        least = (self._least_cost(smallest), self._least_bytes(smallest)) if smallest else (0, 0)
        self.multiply_adds, self.cache_bytes = map(max, budget, least)

    @property
    def is_empty(self) -> bool:
        """Whether shapes, page sizes or layouts leave no Case."""
        return not self.shapes or not self.gaps or not any(map(self.has_shape, (1, 2, 4)))

    def _has_shape(self, itemsize: int) -> bool:
        """Whether there is a shape for caches of such elements."""
        return any(self.fits(shape, itemsize) for shape in self.shapes)

    def _fits(self, shape: Shape, itemsize: int) -> bool:
        """Whether the shape leaves lengths, and a page size with layouts, for caches of such elements."""
        return (
            shape.cache_bytes in {0, min(itemsize, 2)}
            and self._least_cost(shape) <= self.multiply_adds
            and any(self.takes_page(shape, size, itemsize) for size in self.sizes_of(shape))
        )

    def sizes_of(self, shape: Shape) -> Weights[int]:
        """Page sizes on offer for a shape: a model's own, or all."""
        if not shape.page_size:
            return self.page_sizes
        return {shape.page_size: 1} if self.domain.allows("page_size", shape.page_size) else {}

    def cost(self, shape: Shape, context: int, queries: int) -> int:
        """Multiply-adds of a sequence, of both products."""
        if queries == 0:
            return 0
        tiles = cdiv(queries, QUERY_TILE) * QUERY_TILE
        return tiles * (context + queries) * shape.num_kv_heads * shape.group_size * 2 * shape.head_dim

    def most_pages(self, shape: Shape, page_size: int, itemsize: int, gap: int, layout: Layout) -> int:
        """Pages of all sequences for which there is memory."""
        page = self._page_bytes(shape, page_size, itemsize, gap)
        return self.cache_bytes // (page[layout[:2]] + page[layout[2:]]) - paging.SPARE_PAGES

    def layouts(self, shape: Shape, page_size: int, itemsize: int, gap: int) -> tuple[Layout, ...]:
        """Layouts of K and V that the domain allows, with room for as many pages as a sequence needs at least."""
        needed = self._least_pages(page_size)
        pages = self._page_bytes(shape, page_size, itemsize, gap)
        most = self.cache_bytes // (needed + paging.SPARE_PAGES)
        return tuple(each for each in self._layouts if pages[each[:2]] + pages[each[2:]] <= most)

    def _takes_page(self, shape: Shape, page_size: int, itemsize: int) -> bool:
        return any(self.layouts(shape, page_size, itemsize, gap) for gap in self.gaps)

    @property
    def narrowest(self) -> int:
        """The least width of heads that may be drawn."""
        return min((shape.head_dim for shape in self.shapes), default=MULTIPLE)

    def _products(self) -> Iterator[Shape]:
        counts, groups, widths = self.pools
        yield from (Shape(count, group, width) for count in counts for group in groups for width in widths)

    def _shortest_context(self) -> int:
        """Of a sequence of `_least_queries` at least, as the domain allows contexts and all keys of a sequence."""
        context = int(least_of(self.domain.limits.get("context_lens", (0,))))
        keys = int(least_of(self.domain.limits.get("seq_lens", (0,))))
        return max(0, context, keys - self._least_queries)

    def _least_cost(self, shape: Shape) -> int:
        """Multiply-adds of one sequence, as short as the domain allows."""
        return self.cost(shape, self._least_context, self._least_queries)

    def _least_pages(self, page_size: int) -> int:
        return cdiv(self._least_context + self._least_queries, page_size)

    def _least_bytes(self, shape: Shape) -> int:
        """Bytes of both caches of one short sequence in float32."""
        smallest = min(self.sizes_of(shape), default=MULTIPLE)
        pages = self._page_bytes(shape, smallest, 4, min(self.gaps, default=1))
        page = min((pages[each[:2]] + pages[each[2:]] for each in self._layouts), default=0)
        return page * (self._least_pages(smallest) + paging.SPARE_PAGES)

    def _size(self, shape: Shape) -> int:
        """What grows with the cost of a shape, and with its bytes."""
        return shape.num_kv_heads * shape.group_size * shape.head_dim * min(self.sizes_of(shape), default=2**16)

    @staticmethod
    @functools.lru_cache(maxsize=4096)
    def _page_bytes(shape: Shape, page_size: int, itemsize: int, gap: int) -> Mapping[tuple[str, str], int]:
        """Bytes from page to page, for each order and distance of pages."""
        found = {}
        for order in kv_caches.HEAD_MAJOR_ORDERS:
            for pages in kv_caches.PAGES:
                fields = {**shape.fields, "page_size": page_size, "kind": "head_major", "gap": gap}
                each = cache_of({**fields, "key_order": order, "key_pages": pages}, "key", itemsize)
                found[order, pages] = each.page_stride * itemsize
        return found

    def _allowed_layouts(self) -> Iterator[Layout]:
        own = [(order, pages) for order in kv_caches.HEAD_MAJOR_ORDERS for pages in kv_caches.PAGES]
        yield from ((*key, *value) for key in own for value in own if self._takes_layout((*key, *value)))

    def _takes_layout(self, layout: Layout) -> bool:
        named = dict(zip(LAYOUT, layout, strict=True))
        return (
            all(self.domain.allows(name, value) for name, value in named.items())
            and self.domain.allows("native", is_native(named))
            and self.domain.allows("cache_strides", cache_strides(named))
        )


def cache_of(fields: Mapping[str, Any], role: str, itemsize: int) -> KVCache:
    """The cache "key" or "value" of a Case with these `fields`."""
    return KVCache(
        role=role,
        kind=fields["kind"],
        order=fields[f"{role}_order"],
        pages=fields[f"{role}_pages"],
        gap=fields["gap"],
        page_size=fields["page_size"],
        num_heads=fields["num_kv_heads"],
        width=fields["head_dim"],
        neighbour=fields["head_dim"],
        itemsize=itemsize,
    )


def is_native(fields: Mapping[str, Any]) -> bool:
    """Whether pages of both caches follow each other without a gap, as native kernels assume."""
    return all(fields[f"{role}_pages"] == "packed" and fields[f"{role}_order"] == "token_major" for role in ("key", "value"))


def cache_strides(fields: Mapping[str, Any]) -> str:
    """Which of `layouts.STRIDES`: whether pages and heads of V are as far apart as those of K."""
    alike = all(fields[f"key_{name}"] == fields[f"value_{name}"] for name in ("order", "pages"))
    return layouts.STRIDES[not alike]


def _multiples(weights: Weights[int]) -> dict[int, int]:
    return {size: weight for size, weight in weights.items() if size % MULTIPLE == 0}
