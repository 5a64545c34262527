"""How Cases of prefill are drawn: each choice among what those before it, the budget and the domain leave."""

from __future__ import annotations

import functools
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, replace
from typing import Any

from hypothesis import strategies as st

from tridiff.harness.api import Domain
from tridiff.strategies import fp8, layouts, paging, profiles
from tridiff.strategies.draws import Weights, allowed, choose, evenly, fields
from tridiff.strategies.paged_readers_case import DTYPES, VERY_NEGATIVE, very_negative_fits
from tridiff.strategies.kv_caches import HEAD_MAJOR_KINDS, HEAD_MAJOR_ORDERS, PAGES
from tridiff.strategies.prefill_case import PrefillCase
from tridiff.strategies.prefill_lengths import lengths
from tridiff.strategies.prefill_room import LAYOUT, Layout, Room, Shape

DTYPE_WEIGHTS = {"float32": 3, "bfloat16": 5, "float16": 3}
OUTPUT_SCALES = {0.37: 3, 1.7: 3, 0.01: 1, 2.0**-6: 1, 4.0: 1}
"""Small ones make some outputs saturate."""

CAUSAL = {True: 11, False: 2}
ALIBI = {"none": 6, "standard": 2, "steep": 1}
WINDOWED = {False: 5, True: 4}
CHUNKS = {"rows": 7, "cache": 3}
CHUNK_SLOTS = {"written": 5, "poison": 6}
_ATTENTION = {"causal": CAUSAL, "alibi": ALIBI, "windowed": WINDOWED}

INDEPENDENT: Mapping[str, Weights[Any]] = {
    "sinks": {"none": 6, "normal": 3, "large": 1, "minus_infinity": 1, "mixed": 1},
    "extra_query_len": {0: 13, 1: 3, 200: 1},
    "padding_rows": {0: 12, 1: 3, 3: 2},
    "page_order": paging.PAGE_ORDERS,
    "page_sharing": paging.PAGE_SHARINGS,
    "table_tail": paging.TABLE_TAILS,
    "far": {"none": 15, "pages": 2},
    "query_layout": layouts.QUERY_LAYOUTS,
    "chunk_layout": {"packed": 3, "fused_qkv": 3, "padded_heads": 1, "heads_first": 1},
    "output_layout": layouts.ROW_LAYOUTS,
    "table_layout": layouts.TABLE_LAYOUTS,
}
"""Facets of which any allowed value will do."""

PATTERNS = profiles.PATTERNS | {VERY_NEGATIVE: 2}

PEAKS = {
    **{"last": 4, "first": 1, "before_page": 1, "after_page": 1, "before_tile": 1, "after_tile": 1},
    **{"before_chunk": 2, "after_chunk": 2, "outside_window": 2, "inside_window": 2, "anywhere": 1},
}
"""Where the peak of a sequence lies, see `paged_readers_case.PEAKS`."""

_WINDOWS = {1: 3, 2: 2, 31: 1, 32: 2, 33: 1, 10**6: 2}
SEEDS = evenly(range(254))
_OF_SEED = frozenset({"lead", "storage", "scale_form"})
_ALIKE = 14


@dataclass(frozen=True, kw_only=True)
class Batch:
    """What differs from Op to Op: how often which `query_lens`, and whether there are sequences without tokens (`empty`)."""

    query_lens: Weights[int]
    empty: bool = False


def is_empty(room: Room) -> bool:
    """Whether the domain leaves no Case."""
    domain = room.domain
    return (
        room.is_empty
        or not all(allowed(weights, domain, name) for name, weights in INDEPENDENT.items())
        or not all(allowed(weights, domain, name) for name, weights in (("kind", HEAD_MAJOR_KINDS), ("pattern", PATTERNS)))
        or not allowed(profiles.SCALE_FACTORS, domain, "scale_factor")
        or not (_attention(domain) and _chunks(domain) and _output_types(domain))
        or not any(takes_types(room, *types) for types in _all_types(domain))
    )


@st.composite
def prefill_fields(draw: st.DrawFn, room: Room, batch: Batch) -> dict[str, Any]:
    """Fields of a Case, in the order in which they should become simple: FP8, values, shape, lengths and pages, layouts."""
    domain = room.domain
    drawn = draw(fp8.cache_types(domain, functools.partial(takes_types, room)))
    types = dict(drawn)
    drawn |= draw(_values(domain, room.narrowest, **types))
    drawn["dtype"] = draw(choose(DTYPE_WEIGHTS, lambda name: takes_dtype(room, name, **types)))
    itemsize = _itemsize(drawn["cache_dtype"], drawn["dtype"])
    shape = draw(_shapes(room, itemsize))
    page_size = draw(choose(room.sizes_of(shape), lambda size: room.takes_page(shape, size, itemsize)))
    drawn |= shape.fields | {"page_size": page_size, "kind": draw(choose(allowed(HEAD_MAJOR_KINDS, domain, "kind")))}
    gap = draw(choose(room.gaps, lambda gap: bool(room.layouts(shape, page_size, itemsize, gap))))
    layout = draw(_layouts(room.layouts(shape, page_size, itemsize, gap)))
    drawn |= {"gap": gap, **dict(zip(LAYOUT, layout, strict=True))}
    drawn |= draw(
        lengths(
            page_size,
            batch.query_lens,
            cost=functools.partial(room.cost, shape),
            most=room.multiply_adds,
            pages=room.most_pages(shape, page_size, itemsize, gap, layout),
            domain=domain,
            empty=batch.empty,
        )
    )
    attention = draw(joint(_ATTENTION, _attention(domain)))
    context = max(keys - queries for keys, queries in zip(drawn["seq_lens"], drawn["query_lens"], strict=True))
    drawn["window"] = draw(choose(_windows(domain, context, windowed=attention.pop("windowed"))))
    drawn |= attention | draw(joint({"chunk": CHUNKS, "chunk_slots": CHUNK_SLOTS}, _chunks(domain)))
    drawn |= draw(fields(**{name: choose(allowed(weights, domain, name)) for name, weights in INDEPENDENT.items()}))
    drawn |= draw(_output(domain))
    seed = draw(choose(SEEDS, lambda seed: _takes_seed(domain, seed, **types)))
    drawn |= layouts.placement_fields(seed)
    return drawn | {"platform": domain.platform, "scale_form": fp8.scale_form(seed, **types), "seed": seed}


@st.composite
def joint(draw: st.DrawFn, weights: Mapping[str, Weights[Any]], legal: Collection[tuple[Any, ...]]) -> dict[str, Any]:
    """One of the `legal` combinations of values, drawn one after the other: each as its weights say."""
    chosen: tuple[Any, ...] = ()
    for offered in weights.values():
        left = {each[len(chosen)] for each in legal if each[: len(chosen)] == chosen}
        chosen += (draw(choose(offered, left.__contains__)),)
    return dict(zip(weights, chosen, strict=True))


# Types and values


def _all_types(domain: Domain) -> list[tuple[str, float, float]]:
    k_scales, v_scales = allowed(fp8.K_SCALES, domain, "k_scale"), allowed(fp8.V_SCALES, domain, "v_scale")
    formats = fp8.offered(domain.target, whole=domain.whole)
    return [("same", 1.0, 1.0), *((name, k, v) for name in formats for k in k_scales for v in v_scales)]


def takes_types(room: Room, cache_dtype: str, k_scale: float, v_scale: float) -> bool:
    """Whether such caches leave values, dtypes and seeds."""
    domain = room.domain
    if not (
        domain.allows("cache_dtype", cache_dtype) and domain.allows("k_scale", k_scale) and domain.allows("v_scale", v_scale)
    ):
        return False
    has_values = all(
        any(fp8.suits(cache_dtype, scale, sigma) for sigma in pool)
        for scale, pool in (
            (k_scale, profiles.SIGMAS),
            (k_scale, profiles.QUIET_SIGMAS),
            (v_scale, profiles.VALUE_SIGMAS),
        )
    )
    patterns, factors = allowed(PATTERNS, domain, "pattern"), allowed(profiles.SCALE_FACTORS, domain, "scale_factor")
    has_pattern = set(patterns) != {VERY_NEGATIVE} or any(
        very_negative_fits(room.narrowest, cache_dtype, k_scale, factor) for factor in factors
    )
    return (
        has_values
        and has_pattern
        and any(takes_dtype(room, name, cache_dtype, k_scale, v_scale) for name in DTYPE_WEIGHTS)
        and any(_takes_seed(domain, seed, cache_dtype, k_scale, v_scale) for seed in SEEDS)
    )


def takes_dtype(room: Room, name: str, cache_dtype: str, k_scale: float = 1.0, v_scale: float = 1.0) -> bool:
    """Whether queries may be of that dtype, in which all numbers of the caches must be finite, and leave a shape."""
    finite = fp8.stays_finite(cache_dtype, max(k_scale, v_scale), DTYPES[name])
    return finite and room.domain.allows("dtype", name) and room.has_shape(_itemsize(cache_dtype, name))


def _itemsize(cache_dtype: str, dtype: str) -> int:
    """Bytes of an element of the caches."""
    return DTYPES[dtype].itemsize if cache_dtype == "same" else 1


def _takes_seed(domain: Domain, seed: int, cache_dtype: str, k_scale: float = 1.0, v_scale: float = 1.0) -> bool:
    if not _OF_SEED & domain.limits.keys():
        return True
    told = layouts.placement_fields(seed) | {"scale_form": fp8.scale_form(seed, cache_dtype, k_scale, v_scale)}
    return all(domain.allows(facet, value) for facet, value in told.items())


@st.composite
def _values(
    draw: st.DrawFn, domain: Domain, narrowest: int, cache_dtype: str, k_scale: float = 1.0, v_scale: float = 1.0
) -> dict[str, Any]:
    """`pattern` and what belongs to it, of values that suit the scales; `scale_factor`. `narrowest`: the least width of heads."""

    def fits(pattern: str, factor: float) -> bool:
        return pattern != VERY_NEGATIVE or very_negative_fits(narrowest, cache_dtype, k_scale, factor)

    factors = allowed(profiles.SCALE_FACTORS, domain, "scale_factor")
    patterns = allowed(PATTERNS, domain, "pattern")
    pattern = draw(choose(patterns, lambda pattern: any(fits(pattern, factor) for factor in factors)))
    drawn: dict[str, Any] = {"pattern": pattern}
    sigmas = profiles.SIGMAS
    if profiles.has_peak(pattern):
        drawn |= {"peak_at": draw(choose(PEAKS)), "peak_height": draw(choose(profiles.PEAK_HEIGHTS))}
        sigmas = profiles.QUIET_SIGMAS
    drawn["sigma"] = draw(choose(sigmas, functools.partial(fp8.suits, cache_dtype, k_scale)))
    drawn["value_sigma"] = draw(choose(profiles.VALUE_SIGMAS, functools.partial(fp8.suits, cache_dtype, v_scale)))
    drawn["scale_factor"] = draw(choose(factors, functools.partial(fits, pattern)))
    return drawn


def _output_types(domain: Domain) -> Weights[str]:
    """Dtypes of the output, "same" or an FP8 format that the target has."""
    formats = fp8.offered(domain.target, whole=domain.whole)
    weights = allowed({"same": 24, **{name: max(1, weight // 2) for name, weight in formats.items()}}, domain, "output_dtype")
    if allowed(OUTPUT_SCALES, domain, "output_scale"):
        return weights
    return {name: weight for name, weight in weights.items() if name == "same"}


@st.composite
def _output(draw: st.DrawFn, domain: Domain) -> dict[str, Any]:
    """`output_dtype` and, in FP8, `output_scale`."""
    dtype = draw(choose(_output_types(domain)))
    if dtype == "same":
        return {"output_dtype": dtype}
    return {"output_dtype": dtype, "output_scale": draw(choose(allowed(OUTPUT_SCALES, domain, "output_scale")))}


# Shapes and layouts


@st.composite
def _shapes(draw: st.DrawFn, room: Room, itemsize: int) -> Shape:
    """One of the room's shapes; where they are no models' the heads, the group and the width are drawn one by one."""
    if room.is_preset:
        return draw(choose(evenly(room.shapes), lambda shape: room.fits(shape, itemsize)))
    counts, groups, widths = room.pools

    def on(count: int, group: int, width: int) -> bool:
        return room.fits(Shape(count, group, width), itemsize)

    count = draw(choose(counts, lambda count: any(on(count, group, width) for group in groups for width in widths)))
    group = draw(choose(groups, lambda group: any(on(count, group, width) for width in widths)))
    return Shape(count, group, draw(choose(widths, lambda width: on(count, group, width))))


@st.composite
def _layouts(draw: st.DrawFn, legal: Collection[Layout]) -> Layout:
    """One of the legal layouts; V lies as K does more often than not."""
    key = draw(joint({"key_order": HEAD_MAJOR_ORDERS, "key_pages": PAGES}, legal))
    alike = {
        "value_order": HEAD_MAJOR_ORDERS | {key["key_order"]: _ALIKE},
        "value_pages": PAGES | {key["key_pages"]: _ALIKE},
    }
    value = draw(joint(alike, {each[2:] for each in legal if each[:2] == tuple(key.values())}))
    return (*key.values(), *value.values())


# What is attended to


def _attention(domain: Domain) -> list[tuple[bool, str, bool]]:
    """Legal combinations of `causal`, `alibi`, and whether there is a window."""
    return [
        (causal, alibi, windowed)
        for causal in CAUSAL
        for alibi in (ALIBI if causal else ("none",))
        for windowed in WINDOWED
        if domain.allows("causal", causal)
        and domain.allows("alibi", alibi)
        and domain.allows("alibi_with_window", windowed and alibi != "none")
        and _windows(domain, 0, windowed=windowed)
    ]


def _windows(domain: Domain, context: int, *, windowed: bool) -> Weights[int]:
    """Windows on offer: some that always are, and some around the longest `context`; else 0, none at all."""
    if not windowed:
        return {0: 1} if domain.allows("window", 0) else {}
    around = {context + delta: 2 for delta in (-1, 0, 1)}
    return {size: weight for size, weight in allowed(_WINDOWS | around, domain, "window").items() if size > 0}


def _chunks(domain: Domain) -> list[tuple[str, str]]:
    """Legal combinations of `chunk` and `chunk_slots`: what is read from the cache must be there."""
    every = [("rows", "written"), ("rows", "poison"), ("cache", "written")]
    return [pair for pair in every if domain.allows("chunk", pair[0]) and domain.allows("chunk_slots", pair[1])]


# What both Ops declare


def within(case: PrefillCase, domain: Domain) -> bool:
    """Whether the platform is the target's, and the target has the case's FP8 formats; the whole domain has them all."""
    formats = {case.cache_dtype, case.output_dtype} - {"same"}
    return case.platform == domain.platform and formats <= set(fp8.offered(domain.target, whole=domain.whole))


def _placed(*, lead: int, storage: str) -> Callable[[PrefillCase], PrefillCase]:
    return lambda case: replace(case, lead=lead, storage=storage)


PLACEMENTS = {
    "production": _placed(lead=0, storage="large"),
    "small": _placed(lead=0, storage="small"),
    "misaligned": _placed(lead=1, storage="large"),
}
"""One element past a 16-byte boundary, no pointer is divisible by 16, whatever the dtype; with 4 or 8 some are."""

COMPILE_TIME = frozenset(
    {
        *("platform", "group_size", "head_dim", "dtype", "cache_dtype", "output_dtype", "causal", "alibi", "sinks", "window"),
        *("chunk", "page_size", "kind", "storage", "lead"),
    }
)
