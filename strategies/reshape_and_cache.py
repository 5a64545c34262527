"""The Op `reshape_and_cache`: keys and values of new tokens are written into the slots of a paged KV cache.

Launcher arguments, by keyword: `key` [T', H, D] and `value` [T', H, Dv] of one dtype; `key_cache` and `value_cache`, in kind
"nhd" [pages, page size, H, D] and [pages, page size, H, Dv], in the others [pages, H, D / x, page size, x] and [pages, H, Dv,
page size], see `kv_caches`; `interleaved`, whether tokens of V lie in packs there; `slot_mapping` [T], int32 or int64, T <= T',
and T = 0 is legal; `k_scale` and `v_scale`, float32 of no dimension or one element, or None for 1, which nobody reads unless the
caches hold FP8; `platform`, "hip" or "cuda". All have strides of their own, the last axis alone is dense; in head-major kinds
a head of a page is dense in itself.

Token t goes to slot s = slot_mapping[t]: page s // page size, position s % page size. A negative slot, whichever it is, says that
nothing is written; no two tokens have the same slot otherwise. Rows of key and value from T on are padding.

What is written is float32(x) / scale, rounded to nearest even into the format, where the caches hold FP8 and the tokens do not:
beyond the largest number it is that number, infinities included, and NaN stays NaN. FP8 tokens are stored as they are, unscaled.
Any other dtype is a plain cast: rounded to nearest even, overflow is infinite.

Nothing else of the caches' memory may change: not slot 0, not page 0, not what lies between pages.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Mapping
from typing import Any

from hypothesis import strategies as st

from tridiff.harness.api import Domain, Op
from tridiff.strategies import cache_writes, fp8, hybrid, kv_caches, layouts
from tridiff.strategies import cache_writes_values as values
from tridiff.strategies.cache_writes import cache_of
from tridiff.strategies.cache_writes_dims import CACHE_BYTES, MEBI, Pairs, Shape, Sizes, affordable, shapes_of, size_fields
from tridiff.strategies.cache_writes_drawing import Writes, allowed_rows, row_fields, write_fields
from tridiff.strategies.cache_writes_facets import PLACEMENTS, within
from tridiff.strategies.cache_writes_types import Types, seed_fields, type_fields
from tridiff.strategies.draws import Weights, allowed, choose, evenly
from tridiff.strategies.kv_caches import KVCache
from tridiff.strategies.models import GQA_MODELS, names
from tridiff.strategies.reshape_and_cache_case import ReshapeAndCacheCase
from tridiff.strategies.reshape_and_cache_facets import FACETS, PROPERTIES, strides_relation
from tridiff.strategies.reshape_and_cache_inputs import build, victim

__all__ = ["OP", "ReshapeAndCacheCase", "build", "cases", "preset_cases", "within"]

NUM_HEADS = {1: 7, 2: 6, 3: 2, 4: 4, 5: 2, 7: 1, 8: 3, 12: 1, 16: 4, 17: 2, 32: 4}

# Most kernels are compiled anew for each H * D up to some tile: few widths carry most of the weight. 1, 17 and 71 are odd, as
# only kind "nhd" can have them, and 80, 96, 160, 192 and 224 no powers of two.
HEAD_DIMS = {**{16: 6, 32: 4, 64: 9, 80: 3, 96: 2, 128: 9, 160: 1, 192: 2, 224: 1, 256: 3}, **{17: 2, 71: 2, 1: 1}}

GAPS = layouts.GAPS | {16: 7}

PRESET_BYTES = 6 * MEBI
"""Of both caches together, gaps included, where a domain does not force more."""

USUAL_PAGE_SIZES = {16: 8, 32: 5, 64: 2, 128: 2}
HYBRID_PAGE_SIZES = evenly(sorted({size for sizes in hybrid.page_sizes_of_models().values() for size in sizes}))
MODEL_PAGE_SIZES = USUAL_PAGE_SIZES | HYBRID_PAGE_SIZES
"""What serves real models: those of models whose layers all attend, and those of hybrid ones."""

PRESETS = tuple(shapes_of(GQA_MODELS))

Layout = tuple[str, str]
"""Order and pages of a cache."""
Pair = tuple[Layout, Layout]
"""Those of K and of V."""


class Room:
    """What a domain leaves. `shapes`: those of models; None for all head counts and widths that it allows."""

    def __init__(self, domain: Domain, most_bytes: int, shapes: tuple[Shape, ...] | None = None) -> None:
        self.domain = domain
        self.most_bytes = most_bytes
        self._shapes = shapes
        self.relates = "cache_strides" in domain.limits
        self.rows = {name: allowed_rows(domain, name) for name in ("key_layout", "value_layout")}
        self.gaps = allowed(GAPS, domain, "gap")
        self.sizes = functools.cache(self._sizes)
        self.writes = functools.cache(self._writes)
        self.kinds = functools.cache(self._kinds)
        self.types = Types(
            domain, {"k_scale": fp8.K_SCALES, "v_scale": fp8.V_SCALES}, lambda itemsize: bool(self.kinds(itemsize))
        )

    @property
    def is_empty(self) -> bool:
        """Whether the domain leaves nothing."""
        return self.types.is_empty or not all((*self.rows.values(), self.gaps))

    def _kinds(self, itemsize: int) -> Weights[str]:
        """The kinds of caches with so many bytes an element of which something is left."""
        return {
            kind: weight
            for kind, weight in allowed(kv_caches.KINDS, self.domain, "kind").items()
            if all(self.layouts(kind, role) for role in ("key", "value"))
            and not self.sizes(kind, itemsize).is_empty
            and not self.writes(kind, itemsize).is_empty
        }

    def _sizes(self, kind: str, itemsize: int) -> Sizes:
        """Heads and widths that such caches can have: the width of K is a multiple of x in head-major kinds."""
        pack = kv_caches.pack_of(itemsize) if kv_caches.is_head_major(kind) else 1
        sides = tuple(tuple(self.layouts(kind, role)) for role in ("key", "value"))

        def fits(key: int, value: int) -> bool:
            if key % pack or not self.relates:
                return key % pack == 0
            return any(self.domain.allows("cache_strides", each) for each in _relations(kind, itemsize, key, value, sides))

        return Sizes(self.domain, NUM_HEADS, Pairs(self.domain, HEAD_DIMS, HEAD_DIMS, {}, fits), self._shapes)

    def _writes(self, kind: str, itemsize: int) -> Writes:
        """What is written where in such caches: pages are whole packs of interleaved values."""
        pack = kv_caches.pack_of(itemsize) if kind == "interleaved" else 1
        sizes = allowed(kv_caches.PAGE_SIZES if self._shapes is None else MODEL_PAGE_SIZES, self.domain, "page_size")
        whole = {size: weight for size, weight in sizes.items() if size % pack == 0}
        far = self.sizes(kind, itemsize).far
        return Writes(self.domain, whole, {each: far[each] for each in far if each != "positions" or kind == "nhd"})

    def layouts(self, kind: str, role: str) -> list[Layout]:
        """Those of K or of V that the domain allows."""
        orders = allowed(kv_caches.orders(kind), self.domain, f"{role}_order")
        return list(itertools.product(orders, allowed(kv_caches.PAGES, self.domain, f"{role}_pages")))

    def pairs(self, fields: Mapping[str, Any], itemsize: int) -> dict[Pair, int]:
        """Layouts of K and of V that the domain allows together, with the elements of a page of both."""
        keys, others = (
            {layout: _cache(role, fields, itemsize, *layout) for layout in self.layouts(fields["kind"], role)}
            for role in ("key", "value")
        )
        strides = {layout: cache.page_stride for layout, cache in others.items()}
        return {
            (key, value): stride + strides[value]
            for key, stride in {layout: cache.page_stride for layout, cache in keys.items()}.items()
            for value in others
            if not self.relates or self.domain.allows("cache_strides", strides_relation(keys[key], others[value]))
        }


def cases(domain: Domain) -> st.SearchStrategy[ReshapeAndCacheCase]:
    """Cases over the whole of `domain`, within a budget of memory; shrinks towards `ReshapeAndCacheCase()`."""
    room = Room(domain, CACHE_BYTES)
    return st.nothing() if room.is_empty else _cases(room)


def preset_cases(domain: Domain) -> st.SearchStrategy[ReshapeAndCacheCase]:
    """Cases with the heads and widths of real models, and the page sizes that serve them."""
    room = Room(domain, PRESET_BYTES, PRESETS)
    return st.nothing() if room.is_empty else _cases(room)


@st.composite
def _cases(draw: st.DrawFn, room: Room) -> ReshapeAndCacheCase:
    """Draws in the order in which fields should become simple: dtypes, values, slots, shape, layouts."""
    drawn: dict[str, Any] = draw(type_fields(room.types))
    item = values.cache_type(drawn["dtype"], drawn["cache_dtype"]).itemsize
    kind = drawn["kind"] = draw(choose(room.kinds(item)))
    drawn |= draw(write_fields(room.writes(kind, item)))
    pages = cache_writes.pool_size(drawn["placing"], drawn["num_tokens"], drawn["page_size"])
    slots: int = pages * drawn["page_size"]
    # Slots of caches of one column that begin beyond 2^31 elements are themselves as large.
    fewest = 2 if drawn["far"] == "pages" and drawn["slot_dtype"] == "int32" else 1

    def cost(heads: int, key: int, value: int) -> float:
        return slots * item * heads * (key + value) if heads * max(key, value) >= fewest else float("inf")

    drawn |= draw(size_fields(room.sizes(kind, item), cost, room.most_bytes / 2, drawn["far"]))  # layouts can take the rest
    drawn |= draw(_layouts(room, drawn, item, pages))
    drawn |= draw(seed_fields(room.types, drawn))
    return ReshapeAndCacheCase(**drawn, **layouts.placement_fields(drawn["seed"]), platform=room.domain.platform)


@st.composite
def _layouts(draw: st.DrawFn, room: Room, drawn: Mapping[str, Any], itemsize: int, pages: int) -> dict[str, Any]:
    """`gap`, orders and pages of both caches, strides of key and value. V often has K's layout, as it does in production."""
    gap = draw(choose(room.gaps, (lambda gap: bool(room.pairs({**drawn, "gap": gap}, itemsize))) if room.relates else None))
    elements = room.pairs({**drawn, "gap": gap}, itemsize)
    fits = affordable(elements, lambda pair: pages * itemsize * elements[pair], room.most_bytes)
    left = [pair for pair in elements if fits(pair)]
    key = draw(_layout(drawn["kind"], [key for key, _ in left]))
    value = draw(_layout(drawn["kind"], [value for other, value in left if other == key], key))
    return {
        "gap": gap,
        **{"key_order": key[0], "key_pages": key[1], "value_order": value[0], "value_pages": value[1]},
        **draw(row_fields(room.rows)),
    }


@st.composite
def _layout(draw: st.DrawFn, kind: str, left: list[Layout], twin: Layout | None = None) -> Layout:
    """One of `left`; what `twin` has comes in more than half of the cases."""
    orders, pages = (
        weights if twin is None else {**weights, own: 15}
        for weights, own in zip((kv_caches.orders(kind), kv_caches.PAGES), twin or ("", ""), strict=True)
    )
    order = draw(choose(orders, lambda order: any(order == each for each, _ in left)))
    return order, draw(choose(pages, lambda distance: (order, distance) in left))


def _cache(role: str, fields: Mapping[str, Any], itemsize: int, order: str, pages: str) -> KVCache:
    return cache_of(role, {**fields, f"{role}_order": order, f"{role}_pages": pages}, itemsize)


@functools.lru_cache(maxsize=4096)
def _relations(kind: str, itemsize: int, head_dim: int, head_dim_v: int, sides: tuple[tuple[Layout, ...], ...]) -> frozenset[str]:
    """Which of `layouts.STRIDES` there are among caches of such widths."""
    # Sizes by which no strides are alike by chance: those that are alike are so for all sizes.
    shape = {"kind": kind, "head_dim": head_dim, "head_dim_v": head_dim_v, "page_size": 16 * 1009, "num_heads": 7, "gap": 10007}
    caches = [
        [_cache(role, shape, itemsize, *layout) for layout in side] for role, side in zip(("key", "value"), sides, strict=True)
    ]
    return frozenset(strides_relation(key, value) for key, value in itertools.product(*caches))


OP = Op(
    name="reshape_and_cache",
    case=ReshapeAndCacheCase,
    strategy=cases,
    presets=preset_cases,
    build=build,
    models=names(GQA_MODELS),
    within=within,
    # Dtypes and ranks, sizes that tiles follow, and what decides which pointers and strides are divisible by 16.
    compile_time=frozenset(
        {
            *("platform", "kind", "num_heads", "head_dim", "head_dim_v", "dtype", "cache_dtype", "slot_dtype"),
            *("scale_form", "gap", "lead", "storage"),
        }
    ),
    placements=PLACEMENTS,
    facets=FACETS,
    properties=PROPERTIES,
    victim=victim,
)
