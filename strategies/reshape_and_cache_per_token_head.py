"""The Op `reshape_and_cache_per_token_head`: tokens quantised into a paged KV cache, with a scale for each head of each token.

A row x, one head of one token, becomes codes q with a scale that follows from its largest element:

    scale = max(max |x| / QMAX, 1e-6);  q = x * (1 / scale), clamped to [QMIN, QMAX], rounded to nearest

int8: QMIN -128, QMAX 127, ties away from zero. FP8: ties to even; QMAX is 448 in e4m3fn and, as in vLLM, 224 in e4m3fnuz, below
that format's 240; QMIN is -QMAX.

Launcher arguments, by keyword: `key` [T', H, D] and `value` [T', H, Dv], of which the first T tokens count; `slot_mapping` int32
or int64 [T], see `cache_writes`. Written are `key_cache` [NB, BS, H, D] and `value_cache` [NB, BS, H, Dv], int8 or FP8, and
float32 `k_scale_cache` and `v_scale_cache` [NB, BS, H]: of the slots that tokens have, and nothing else. The last axis of rows
and codes is dense, all other strides are the tensors' own. Rows are finite; T = 0 is legal. `platform`: "hip" or "cuda".
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from hypothesis import strategies as st

from tridiff.harness.api import Domain, Op
from tridiff.strategies import cache_writes, fp8, layouts
from tridiff.strategies import cache_writes_facets as facets
from tridiff.strategies import reshape_and_cache_per_token_head_case as fields
from tridiff.strategies.cache_writes import cache_of
from tridiff.strategies.cache_writes_dims import (
    CACHE_BYTES,
    PRESET_BYTES,
    Pairs,
    Shape,
    Sizes,
    affordable,
    seeds,
    shapes_of,
    size_fields,
)
from tridiff.strategies.cache_writes_drawing import Writes, allowed_rows, also, row_fields, write_fields
from tridiff.strategies.cache_writes_facets import PLACEMENTS
from tridiff.strategies.draws import Weights, allowed, choose
from tridiff.strategies.kv_caches import ORDERS, PAGES
from tridiff.strategies.models import GQA_MODELS, names
from tridiff.strategies.reshape_and_cache_per_token_head_case import ReshapeAndCachePerTokenHeadCase, scale_strides
from tridiff.strategies.reshape_and_cache_per_token_head_inputs import build, victim

__all__ = ["OP", "ReshapeAndCachePerTokenHeadCase", "build", "cases", "preset_cases", "within"]

CODE_WEIGHTS = {"int8": 9, "float8_e4m3fn": 5, "float8_e4m3fnuz": 5}
DTYPE_WEIGHTS = {"float32": 3, "bfloat16": 6, "float16": 3}
PATTERN_WEIGHTS = {"gaussian": 6, "ties": 5, "dominant": 2, "zeros": 2, "limits": 1, "mixed_norms": 2}
SIGMAS = {1.0: 7, 0.1: 1, 30.0: 2, 1e-3: 1, 1e-5: 2, 1e-7: 1, 1e30: 1, 1e-39: 1}
"""Standard deviations. With 1e-5 and less the scale is the least one; 1e-39 is subnormal in float32."""

NUM_HEADS = {1: 6, 2: 6, 3: 2, 4: 3, 5: 1, 8: 2, 16: 1}
HEAD_DIMS = {16: 6, 64: 6, 80: 3, 96: 2, 128: 6, 192: 2, 256: 2, 17: 2, 71: 1, 8: 1, 2: 1, 129: 1}

INDEPENDENT: Mapping[str, Weights[Any]] = {
    "dtype": DTYPE_WEIGHTS,
    "pattern": PATTERN_WEIGHTS,
    "gap": layouts.GAPS,
    "key_order": ORDERS,
    "key_pages": PAGES,
    "value_order": ORDERS,
    "value_pages": PAGES,
    "k_scale_layout": fields.SCALE_LAYOUTS,
    "v_scale_layout": fields.SCALE_LAYOUTS,
}
"""Facets of which any allowed value will do."""

_BYTES_OF_SCALES = 8
"""Two float32 for each head of a token."""

PRESETS = tuple(shapes_of(GQA_MODELS))


class Room:
    """What a domain leaves. `shapes`: those of models; None for all head counts and widths that it allows."""

    def __init__(self, domain: Domain, most_bytes: int, shapes: tuple[Shape, ...] | None = None) -> None:
        self.domain = domain
        self.most_bytes = most_bytes
        self.codes = allowed(_code_weights(domain), domain, "cache_dtype")
        self.sizes = Sizes(domain, NUM_HEADS, Pairs(domain, HEAD_DIMS, HEAD_DIMS, {}), shapes)
        self.writes = Writes(domain, far=self.sizes.far)
        self.offered = {name: allowed(weights, domain, name) for name, weights in INDEPENDENT.items()}
        self.rows = {name: allowed_rows(domain, name) for name in ("key_layout", "value_layout")}
        self.seeds = seeds(domain)

    @property
    def is_empty(self) -> bool:
        """Whether the domain leaves nothing."""
        return (
            self.sizes.is_empty
            or self.writes.is_empty
            or not all((*self.offered.values(), *self.rows.values(), self.codes, self.seeds))
        )


def _code_weights(domain: Domain) -> Weights[str]:
    """The codes that `domain`'s target has; int8 everywhere."""
    formats = fp8.offered(domain.target, whole=domain.whole)
    return {name: weight for name, weight in CODE_WEIGHTS.items() if name == "int8" or name in formats}


def cases(domain: Domain) -> st.SearchStrategy[ReshapeAndCachePerTokenHeadCase]:
    """Cases over the whole of `domain`, within `CACHE_BYTES`; shrinks towards `ReshapeAndCachePerTokenHeadCase()`."""
    room = Room(domain, CACHE_BYTES)
    return st.nothing() if room.is_empty else _cases(room)


def preset_cases(domain: Domain) -> st.SearchStrategy[ReshapeAndCachePerTokenHeadCase]:
    """Cases with the heads and widths of real models, within `PRESET_BYTES`."""
    room = Room(domain, PRESET_BYTES, PRESETS)
    return st.nothing() if room.is_empty else _cases(room)


@st.composite
def _cases(draw: st.DrawFn, room: Room) -> ReshapeAndCachePerTokenHeadCase:
    """Draws in the order in which fields should become simple: dtypes, values, slots, shape, layouts."""
    drawn: dict[str, Any] = {"cache_dtype": draw(choose(room.codes))}
    for name in ("dtype", "pattern"):
        drawn[name] = draw(choose(room.offered[name]))
    drawn["sigma"] = draw(choose(SIGMAS, lambda sigma: fields.suits(sigma, drawn["dtype"])))
    drawn |= draw(write_fields(room.writes))
    pages = cache_writes.pool_size(drawn["placing"], drawn["num_tokens"], drawn["page_size"])
    tokens: int = pages * drawn["page_size"]

    def cost(heads: int, key: int, value: int) -> int:
        return tokens * heads * (key + value + _BYTES_OF_SCALES)

    drawn |= draw(size_fields(room.sizes, cost, room.most_bytes / 4, drawn["far"]))  # layouts can take the rest
    drawn = draw(_layouts(room, drawn, pages))
    seed = draw(choose(room.seeds))
    return ReshapeAndCachePerTokenHeadCase(**drawn, **layouts.placement_fields(seed), platform=room.domain.platform, seed=seed)


@st.composite
def _layouts(draw: st.DrawFn, room: Room, drawn: Mapping[str, Any], pages: int) -> dict[str, Any]:
    """Layouts of caches, scales and rows."""
    known = dict(drawn) | {"gap": draw(choose(room.offered["gap"]))}
    for role in ("key", "value"):
        known |= draw(_cache_layout(room, known, role, pages))
    tokens, heads, gap = drawn["page_size"], drawn["num_heads"], known["gap"]
    for name, twin in (("k_scale_layout", ""), ("v_scale_layout", "k_scale_layout")):
        offered = also(known.get(twin, ""), room.offered[name])
        fits = affordable(offered, lambda layout: 4 * pages * scale_strides(layout, tokens, heads, gap)[0], room.most_bytes / 4)
        known[name] = draw(choose(offered, fits))
    return known | draw(row_fields(room.rows))


@st.composite
def _cache_layout(draw: st.DrawFn, room: Room, known: Mapping[str, Any], role: str, pages: int) -> dict[str, str]:
    """Order and pages of one cache of codes. That of the values often has those of the keys, as in production."""
    orders, distances = room.offered[f"{role}_order"], room.offered[f"{role}_pages"]
    if role == "value":
        orders, distances = also(known["key_order"], orders), also(known["key_pages"], distances)

    def cost(order: str, distance: str) -> int:
        return pages * cache_of(role, {**known, f"{role}_order": order, f"{role}_pages": distance}, itemsize=1).page_stride

    most = room.most_bytes / 2
    fits = affordable(orders, lambda order: min(cost(order, distance) for distance in distances), most)
    order = draw(choose(orders, fits))
    return {
        f"{role}_order": order,
        f"{role}_pages": draw(choose(distances, affordable(distances, lambda distance: cost(order, distance), most))),
    }


def within(case: ReshapeAndCachePerTokenHeadCase, domain: Domain) -> bool:
    """Whether the platform is the target's, and the target has the case's format; the whole domain has them all."""
    return case.platform == domain.platform and case.cache_dtype in _code_weights(domain)


def layout_class(case: ReshapeAndCachePerTokenHeadCase) -> str:
    """Whether pages and tokens of the caches of codes are dense, for reports."""
    pages = {case.key_pages, case.value_pages} != {"packed"}
    tokens = {case.key_order, case.value_order} != {"token_major"}
    return {(False, False): "packed", (True, False): "strided pages", (False, True): "strided tokens"}.get(
        (pages, tokens), "strided pages and tokens"
    )


OP = Op(
    name="reshape_and_cache_per_token_head",
    case=ReshapeAndCachePerTokenHeadCase,
    strategy=cases,
    presets=preset_cases,
    build=build,
    models=names(GQA_MODELS),
    within=within,
    compile_time=frozenset({"platform", "head_dim", "head_dim_v", "dtype", "cache_dtype", "slot_dtype", "storage", "lead"}),
    placements=PLACEMENTS,
    facets=facets.facets_of(
        ReshapeAndCachePerTokenHeadCase,
        cache_dtype="dtype of the codes",
        k_scale_layout="memory of the keys' scales, see `scale_strides`",
        v_scale_layout="memory of the values' scales, likewise",
    ),
    properties=facets.properties_of(layout_class),
    victim=victim,
)
