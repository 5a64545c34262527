"""Strategies of Ops that read vLLM's head-major caches: what they draw in common, of what a `ReaderRoom` leaves.

Draw in this order, in which fields should become simple: `types`, `profile`, `shapes` and `page_size`, lengths (`sequences`),
`features`, `paging.paging_fields`, `cache_layouts`, `row_layouts`, and `dtype_and_seed` last.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from hypothesis import strategies as st

from tridiff.harness.api import Domain
from tridiff.strategies import fp8, kv_caches, layouts, paging, profiles
from tridiff.strategies.draws import Weights, allowed, choose, fields
from tridiff.strategies.lengths import NUM_ROWS, cdiv, length_weights, more, simplicity
from tridiff.strategies.paged_readers_case import VERY_NEGATIVE, ReaderCase, very_negative_fits
from tridiff.strategies.paged_readers_room import (
    DTYPE_WEIGHTS,
    Layout,
    ReaderRoom,
    Shape,
    page_elements,
    scale_form,
)

PATTERNS = {
    **{"gaussian": 13, "peaked": 22, "sink": 2, "identical": 4, "mixed_norms": 2},
    **{"near_duplicates": 3, "one_hot": 2, "constant": 1, "limits": 2, VERY_NEGATIVE: 4},
}
"""What an output alone, without a log-sum-exp beside it, hardly shows, is rarer than in `profiles`: equal values, one key of norm
1e-3 among others of 100, large norms."""
SIGMAS = {1.0: 7, 0.1: 1, 10.0: 1, 100.0: 1, 1e-3: 1, 1e-6: 1}
MIXED_SIGMAS = {1.0: 1, 0.01: 2}
"""Of keys with norms of 1e-3 and 1e2, see `profiles`: at 1 nearly all weigh nothing, at 0.01 all weigh much the same."""
PEAKS = {
    **{"last": 3, "first": 1, "outside_window": 3, "inside_window": 2},
    **{"before_page": 2, "after_page": 1, "before_tile": 1, "after_tile": 1, "anywhere": 1},
}
WINDOWS = {0: 14, 1: 2, 2: 1, 16: 1, 31: 1, 32: 2, 33: 1, 10**6: 1}
"""Beside them the length of the longest sequence, one less and one more."""
# Kernels are compiled anew where any of these is present, in every combination: most cases have none or one.
ALIBI = {"none": 10, "standard": 2, "steep": 1}
SINKS = {"none": 9, "normal": 1, "minus_infinity": 1, "large": 1, "mixed": 2}
KINDS = {"head_major": 6, "interleaved": 1}
SCALE_FACTORS = {1.0: 7, 0.5: 1, 2.0: 1}
OUTPUT_SAME = 20
OUTPUT_SCALES = {1.0: 1, 0.37: 2, 1.7: 1, 2.0**-6: 1, 2.0**-9: 4}
"""By which an output in FP8 is divided; by 2^-9, ordinary values are too large for e4m3fn and e4m3fnuz."""
PADDING_ROWS = {0: 5, 1: 1, 3: 1}
FAR = {"none": 15, "pages": 2}

_LEAST_OUTPUT = 2.0**-6
_MOST_OUTPUT = 2.5

INDEPENDENT: Mapping[str, Weights[Any]] = {
    "kind": KINDS,
    "window": WINDOWS,
    "alibi": ALIBI,
    "sinks": SINKS,
    "scale_factor": SCALE_FACTORS,
    "padding_rows": PADDING_ROWS,
    "page_order": paging.PAGE_ORDERS,
    "page_sharing": paging.PAGE_SHARINGS,
    "table_tail": paging.TABLE_TAILS,
    "far": FAR,
    "query_layout": layouts.QUERY_LAYOUTS,
    "output_layout": layouts.ROW_LAYOUTS,
    "table_layout": layouts.TABLE_LAYOUTS,
}
"""Facets of which any allowed value will do."""


def is_empty(room: ReaderRoom) -> bool:
    """Whether the domain leaves no Case."""
    domain = room.domain
    return not (
        room.has_shapes
        and all(allowed(weights, domain, facet) for facet, weights in INDEPENDENT.items())
        and any(_takes(room, *types) for types in _all_cache_types(domain))
    )


def _all_cache_types(domain: Domain) -> list[tuple[str, float, float]]:
    k_scales, v_scales = allowed(fp8.K_SCALES, domain, "k_scale"), allowed(fp8.V_SCALES, domain, "v_scale")
    offered = fp8.offered(domain.target, whole=domain.whole)
    return [("same", 1.0, 1.0), *((name, k, v) for name in offered for k in k_scales for v in v_scales)]


def _takes(room: ReaderRoom, cache_dtype: str, k_scale: float, v_scale: float) -> bool:
    """Whether such caches leave a dtype, seeds, values and an output."""
    domain, types = room.domain, {"cache_dtype": cache_dtype, "k_scale": k_scale, "v_scale": v_scale}
    return (
        all(domain.allows(name, value) for name, value in types.items())
        and any(room.takes_dtype(name, types) for name in DTYPE_WEIGHTS)
        and bool(room.seeds(types))
        and any(_takes_pattern(room, types, pattern) for pattern in PATTERNS)
        and any(_takes_output(room, types, name) for name in _output_dtypes(domain))
    )


# Dtypes and scales of caches and output


@st.composite
def types(draw: st.DrawFn, room: ReaderRoom) -> dict[str, Any]:
    """`cache_dtype` with `k_scale` and `v_scale`, `output_dtype` with `output_scale`; the scales only of FP8."""
    drawn = draw(fp8.cache_types(room.domain, functools.partial(_takes, room)))
    output_dtype = draw(choose(_output_dtypes(room.domain), lambda name: _takes_output(room, drawn, name)))
    drawn["output_dtype"] = output_dtype
    if output_dtype != "same":
        fits = functools.partial(_takes_output_scale, drawn, output_dtype)
        drawn["output_scale"] = draw(choose(allowed(OUTPUT_SCALES, room.domain, "output_scale"), fits))
    return drawn


def _output_dtypes(domain: Domain) -> Weights[str]:
    offered = dict.fromkeys(fp8.offered(domain.target, whole=domain.whole), 1)
    return allowed({"same": OUTPUT_SAME, **offered}, domain, "output_dtype")


def _takes_output(room: ReaderRoom, types: Mapping[str, Any], output_dtype: str) -> bool:
    """Whether values suit both the caches and an output of that dtype."""
    if output_dtype == "same":
        return room.domain.allows("output_scale", 1.0)
    scales = allowed(OUTPUT_SCALES, room.domain, "output_scale")
    return any(_takes_output_scale(types, output_dtype, scale) for scale in scales)


def _takes_output_scale(types: Mapping[str, Any], output_dtype: str, scale: float) -> bool:
    drawn = {**types, "output_dtype": output_dtype, "output_scale": scale}
    return any(_suits_values(drawn, sigma) for sigma in profiles.VALUE_SIGMAS)


def _suits_values(types: Mapping[str, Any], sigma: float) -> bool:
    """Whether values of that standard deviation suit the value cache, and an FP8 output, where not all may vanish or saturate."""
    if not fp8.suits(types["cache_dtype"], types.get("v_scale", 1.0), sigma):
        return False
    if types["output_dtype"] == "same":
        return True
    most = _MOST_OUTPUT * fp8.LARGEST[types["output_dtype"]]
    return bool(_LEAST_OUTPUT <= sigma / types["output_scale"] <= most)


# Values


@st.composite
def profile(draw: st.DrawFn, room: ReaderRoom, types: Mapping[str, Any], peaks: Weights[str] = PEAKS) -> dict[str, Any]:
    """`pattern`, `sigma`, `value_sigma`, `peak_at`, `peak_height` and `scale_factor`, which suit the `types`."""
    patterns = allowed(PATTERNS, room.domain, "pattern")
    pattern = draw(choose(patterns, functools.partial(_takes_pattern, room, types)))
    drawn: dict[str, Any] = {"pattern": pattern}
    if profiles.has_peak(pattern):
        drawn["peak_at"] = draw(choose(peaks))
        drawn["peak_height"] = draw(choose(profiles.PEAK_HEIGHTS))
    suits_keys = functools.partial(fp8.suits, types["cache_dtype"], types.get("k_scale", 1.0))
    # Beside so large keys, what suits the scale does not matter.
    drawn["sigma"] = draw(choose({1.0: 1}) if pattern == VERY_NEGATIVE else choose(_sigmas(pattern), suits_keys))
    drawn["value_sigma"] = draw(choose(profiles.VALUE_SIGMAS, functools.partial(_suits_values, types)))
    drawn["scale_factor"] = draw(choose(allowed(SCALE_FACTORS, room.domain, "scale_factor")))
    return drawn


def _sigmas(pattern: str) -> Weights[float]:
    if pattern == "mixed_norms":
        return MIXED_SIGMAS
    return profiles.QUIET_SIGMAS if profiles.has_peak(pattern) else SIGMAS


def _takes_pattern(room: ReaderRoom, types: Mapping[str, Any], pattern: str) -> bool:
    """Whether such values suit the caches; very negative logits for every width and scale that may follow."""
    domain = room.domain
    if not (domain.allows("pattern", pattern) and domain.allows("very_negative_logits", pattern == VERY_NEGATIVE)):
        return False
    cache_dtype, k_scale = types["cache_dtype"], types.get("k_scale", 1.0)
    if pattern != VERY_NEGATIVE:
        return any(fp8.suits(cache_dtype, k_scale, sigma) for sigma in _sigmas(pattern))
    widths = [shape.head_dim for shape in room.models or ()] or room.head_dims
    return very_negative_fits(min(widths), cache_dtype, k_scale, min(allowed(SCALE_FACTORS, domain, "scale_factor")))


# Heads, widths, pages and lengths


@st.composite
def shapes(draw: st.DrawFn, room: ReaderRoom) -> Shape:
    """Heads and width; those of a model, or independent of each other."""
    if room.models is not None:
        return draw(choose(dict.fromkeys(room.models, 1), room.fits))
    group, width = min(room.group_sizes), min(room.head_dims)
    heads = draw(choose(room.num_kv_heads, lambda heads: room.fits(Shape(heads, group, width))))
    group = draw(choose(room.group_sizes, lambda group: room.fits(Shape(heads, group, width))))
    return Shape(heads, group, draw(choose(room.head_dims, lambda width: room.fits(Shape(heads, group, width)))))


def page_size(room: ReaderRoom, shape: Shape) -> st.SearchStrategy[int]:
    """Tokens per page: every size there is, not only those for which many pages fit."""
    return choose(room.pages_of(shape), lambda size: room.takes_pages(shape, size))


@st.composite
def sequences(
    draw: st.DrawFn, room: ReaderRoom, shape: Shape, page_size: int, query_lens: Weights[int]
) -> dict[str, tuple[int, ...]]:
    """`seq_lens` and `query_lens` of one to five sequences, as there are tokens and pages for; what no longer fits is left out.

    `query_lens`: weights of the query tokens of a sequence. Simplest: one sequence of one token.
    """
    tokens, pages = room.most_tokens(shape), room.most_pages(shape, page_size)
    offered, domain = allowed(query_lens, room.domain, "query_lens"), room.domain
    longest = min(tokens, pages * page_size)
    rows: list[tuple[int, int]] = []
    for row in range(max(NUM_ROWS)):
        lengths = length_choices(domain, page_size, row)
        keys = draw(choose(lengths, lambda keys: keys <= longest and any(queries_fit(each, keys) for each in offered)))
        first = next(iter(offered))
        # No two rows draw from equal choices: see `draws`.
        queries = draw(choose({**offered, first: offered[first] + row}, functools.partial(_swapped_fit, keys)))
        if keys <= tokens and cdiv(keys, page_size) <= pages:
            tokens, pages = tokens - keys, pages - cdiv(keys, page_size)
            rows.append((queries, keys))
        if not draw(more(NUM_ROWS, row + 1)):
            break
    return {"query_lens": tuple(queries for queries, _ in rows), "seq_lens": tuple(keys for _, keys in rows)}


def queries_fit(queries: int, keys: int) -> bool:
    """Whether a sequence of `keys` can end in as many queries; a single one may be without keys."""
    return queries <= keys or (queries, keys) == (1, 0)


def _swapped_fit(keys: int, queries: int) -> bool:
    return queries_fit(queries, keys)


@functools.lru_cache(maxsize=1024)
def _lengths(page_size: int, row: int) -> dict[int, int]:
    weights = length_weights(page_size, 1)
    return weights | {1: weights[1] + row}


def length_choices(domain: Domain, page_size: int, row: int) -> Weights[int]:
    """Lengths on offer for sequence `row`, simplest first."""
    weights = _lengths(page_size, row)
    if "seq_lens" not in domain.limits:
        return weights
    inside = allowed(weights, domain, "seq_lens")
    return {length: inside[length] for length in sorted(inside, key=simplicity)}


def sinks(domain: Domain, pattern: str) -> st.SearchStrategy[str]:
    """Which sinks; beside very negative logits, given the choice, none that is finite: nothing would be left of the keys."""
    offered = allowed(SINKS, domain, "sinks")
    without = {name: weight for name, weight in offered.items() if name in {"none", "minus_infinity"}}
    return choose(without if pattern == VERY_NEGATIVE and without else offered)


def features(domain: Domain, pattern: str, seq_lens: Sequence[int]) -> st.SearchStrategy[dict[str, Any]]:
    """`window`, `alibi`, `sinks` and `padding_rows`; windows lie around the longest sequence, too."""
    longest = max(seq_lens)
    around = {length: 1 for length in (longest - 1, longest, longest + 1) if length > 0}
    return fields(
        window=choose(allowed(WINDOWS | around | WINDOWS, domain, "window")),
        alibi=choose(allowed(ALIBI, domain, "alibi")),
        sinks=sinks(domain, pattern),
        padding_rows=choose(allowed(PADDING_ROWS, domain, "padding_rows")),
    )


# Layouts, dtypes and seed


@st.composite
def cache_layouts(draw: st.DrawFn, room: ReaderRoom, shape: Shape, page_size: int, num_pages: int) -> dict[str, Any]:
    """`kind`, `gap`, `key_pages`, `value_pages`, `key_order`, `value_order` and `far`, with `num_pages` in memory.

    V often lies as K does, as in production, but need not.
    """
    offered = {gap: room.layouts_for(shape, page_size, gap, num_pages) for gap in room.gaps}
    gap = draw(choose(room.gaps, lambda gap: bool(offered[gap])))
    left, drawn = offered[gap], {"kind": draw(choose(allowed(KINDS, room.domain, "kind"))), "gap": gap}
    for name, weights in _LAYOUT_WEIGHTS.items():
        usual = {**weights, **_alike(name, drawn)}
        chosen = draw(choose(usual, functools.partial(_occurs, left, name)))
        left, drawn[name] = [layout for layout in left if getattr(layout, name) == chosen], chosen
    return drawn | {"far": draw(choose(allowed(FAR, room.domain, "far")))}


_LAYOUT_WEIGHTS: Mapping[str, Weights[str]] = {
    "key_pages": kv_caches.PAGES,
    "value_pages": kv_caches.PAGES,
    "key_order": kv_caches.HEAD_MAJOR_ORDERS,
    "value_order": kv_caches.HEAD_MAJOR_ORDERS,
}


def _alike(name: str, drawn: Mapping[str, Any]) -> dict[str, int]:
    """What V most often has: what K has."""
    key = name.replace("value", "key")
    return {drawn[key]: 22} if name != key else {}


def _occurs(left: Sequence[Layout], name: str, value: str) -> bool:
    return any(getattr(layout, name) == value for layout in left)


def elements_of(drawn: Mapping[str, Any], shape: Shape, num_pages: int) -> int:
    """Elements of both caches in the layouts `drawn`."""
    layout = Layout(*(drawn[name] for name in Layout._fields))
    sizes = (drawn["gap"], shape.num_kv_heads, shape.head_dim, drawn["page_size"])
    return num_pages * page_elements(layout, *sizes)


def row_layouts(domain: Domain) -> st.SearchStrategy[dict[str, Any]]:
    """`query_layout`, `output_layout` and `table_layout`, independent of each other."""
    return fields(
        query_layout=choose(allowed(layouts.QUERY_LAYOUTS, domain, "query_layout")),
        output_layout=choose(allowed(layouts.ROW_LAYOUTS, domain, "output_layout")),
        table_layout=choose(allowed(layouts.TABLE_LAYOUTS, domain, "table_layout")),
    )


@st.composite
def dtype_and_seed(draw: st.DrawFn, room: ReaderRoom, types: Mapping[str, Any], *, elements: int) -> dict[str, Any]:
    """`dtype`, `seed` and what the seed tells: `lead`, `storage`, `scale_form`. float32 if so many `elements` of it fit."""
    wide = types["cache_dtype"] != "same" or elements * 4 <= room.budget.cache_bytes or room.element_bytes == 4

    def takes(name: str) -> bool:
        return room.takes_dtype(name, types) and (wide or name != "float32")

    dtype = draw(choose(DTYPE_WEIGHTS, takes))
    seed = draw(choose(room.seeds(types)))
    return {"dtype": dtype, "seed": seed, "scale_form": scale_form(seed, types), **layouts.placement_fields(seed)}


# What Ops declare besides


def within(case: ReaderCase, domain: Domain) -> bool:
    """Whether the platform is the target's, and the target has the case's FP8 formats; the whole domain has them all."""
    offered = ("same", *fp8.offered(domain.target, whole=domain.whole))
    return case.platform == domain.platform and case.cache_dtype in offered and case.output_dtype in offered


def _placed(*, lead: int, storage: str) -> Callable[[Any], Any]:
    return lambda case: replace(case, lead=lead, storage=storage)


PLACEMENTS = {
    "production": _placed(lead=0, storage="large"),
    "small": _placed(lead=0, storage="small"),
    "misaligned": _placed(lead=1, storage="large"),
}

COMPILE_TIME = frozenset(
    {
        *("platform", "group_size", "head_dim", "page_size", "kind", "dtype", "cache_dtype", "output_dtype", "storage", "lead"),
        *("window", "alibi", "sinks"),
    }
)
"""Fields that change what kernels are compiled to: tiles follow from the page size, and what is absent costs nothing."""
