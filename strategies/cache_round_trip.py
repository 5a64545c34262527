"""The Op `cache_round_trip`: tokens are written into a paged KV cache by one kernel, and read from it by another.

Each writer and each reader may be right by itself, and still they disagree: where hybrid models have pages far apart, vLLM wrote
them by their strides and read them as if packed (pull request 38502). So this is one call: `key` and `value` [T', Hkv, D] are
written into the slots of `slot_mapping` [T], of which negative ones mean "nowhere", and then each sequence b attends with
`query` [B, Hq, D] to its `seq_lens[b]` tokens, which the block table names. The caches are of one layout, `kv_caches` says which;
what they hold afterwards is judged by what is read: `output` [B, Hq, D], attention over the tokens as they were given, rounded to
FP8 where the caches are, x / scale, saturated. That nothing but the tokens' elements has changed is checked besides.

Head-major caches have a second reader, the driver of mixed batches: with `query_start_loc` [B + 1] `query` and `output` are
[Q, Hq, D] and have query_start_loc[b + 1] - query_start_loc[b] rows for sequence b, its last tokens, `max_query_len` or fewer.
Each attends to itself and to the tokens before it, all of them in the caches.

`page_size`: tokens of a page, by which slots and positions are told. `sm_scale`, `k_scale`, `v_scale` (None for 1), `interleaved`
and `platform`: as writers and readers have them. Scales are powers of two: then no division rounds, and no kernel that divides
less exactly stores another code.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Mapping
from itertools import product
from typing import Any

from hypothesis import strategies as st

from tridiff.harness.api import Domain, Op
from tridiff.strategies import fp8, hybrid, kv_caches, paging
from tridiff.strategies.cache_round_trip_case import DTYPES, CacheRoundTripCase, cache_of
from tridiff.strategies.cache_round_trip_facets import FACETS, PROPERTIES
from tridiff.strategies.cache_round_trip_inputs import build
from tridiff.strategies.draws import Weights, allowed, choose, evenly, fields
from tridiff.strategies.layouts import GAPS
from tridiff.strategies.lengths import cdiv, more, simplicity
from tridiff.strategies.models import GQA_MODELS, TP_SIZES

__all__ = ["OP", "CacheRoundTripCase", "build", "cases", "preset_cases", "within"]

MEBI = 2**20
CACHE_BYTES, PRESET_BYTES = 3 * MEBI // 2, 6 * MEBI
"""Of both caches together, gaps included, at most, where nothing smaller is left: all of it is filled with known data."""

DTYPE_WEIGHTS = {"float32": 3, "bfloat16": 8, "float16": 4}
SAME_WEIGHT = 15
K_SCALES = {1.0: 2, 0.25: 2, 4.0: 3, 2.0**-6: 2}
V_SCALES = {1.0: 2, 0.25: 3, 4.0: 2, 2.0**-5: 2}

PAGE_SIZES = kv_caches.PAGE_SIZES | {16: 20, 32: 12}
"""Those of the native kernels more often: with others there is nothing to choose."""

NUM_KV_HEADS = {1: 6, 2: 6, 3: 1, 4: 2, 8: 1}
GROUP_SIZES = {1: 6, 4: 5, 2: 2, 6: 1, 8: 1, 16: 1}
HEAD_DIMS = {32: 5, 64: 9, 128: 5, 80: 1, 96: 1, 256: 1}

LENGTHS = {1: 8, 2: 4, 3: 3, 0: 2, 5: 2, 9: 2, 13: 1, 17: 2, 31: 1, 33: 2, 40: 1}
"""Beside those around a page."""
NUM_SEQUENCES = {1: 5, 2: 4, 3: 2, 4: 1}
_QUERY_TILE = 16
_LONG = 300
"""Tokens from which on lengths around a page are rare, and the other sequences short: each token costs a program to write."""

CHUNKS = {0: 13, 1: 1, 2: 3, 5: 2, 17: 1}
"""0: each sequence has one query. Kernels take queries by tiles of 16, and more of them by larger ones."""
CHUNK_WORK = 2**24
"""Products of queries, whole tiles of them, and keys in columns, at most."""

SKIPPED = {0: 5, 1: 3, 3: 2}
PADDING_ROWS = {0: 5, 2: 2, 5: 1}
SLOT_ORDERS = {"ascending": 2, "shuffled": 3}
SLOT_DTYPES = {"int64": 3, "int32": 1}
SEEDS = evenly(range(256))

_INDEPENDENT: Mapping[str, Weights[Any]] = {
    "skipped": SKIPPED,
    "padding_rows": PADDING_ROWS,
    "slot_order": SLOT_ORDERS,
    "slot_dtype": SLOT_DTYPES,
    "page_order": paging.PAGE_ORDERS,
    "table_tail": paging.TABLE_TAILS,
}
"""Fields of which any allowed value will do."""

_SHAPE: Mapping[str, Weights[int]] = {"page_size": PAGE_SIZES, "num_kv_heads": NUM_KV_HEADS, "head_dim": HEAD_DIMS}
"""Fields that bytes depend on, in the order in which they are drawn."""

Shape = Mapping[str, Any]
Shapes = Callable[[Shape], st.SearchStrategy[dict[str, Any]]]
"""(dtypes and layout) -> strategy of page size, heads, widths, and the bytes that the caches may have."""


def cases(domain: Domain) -> st.SearchStrategy[CacheRoundTripCase]:
    """Cases over the whole of `domain`; shrinks towards `CacheRoundTripCase()`."""
    return _cases(domain, functools.partial(_shapes, domain), _types_of(domain)) if _leaves_any(domain) else st.nothing()


def preset_cases(domain: Domain) -> st.SearchStrategy[CacheRoundTripCase]:
    """Cases with the heads and the page sizes of real models, hybrid ones and others."""
    known = [shape for shape in PRESETS if _in_domain(shape, domain)]
    types = [each for each in _types_of(domain) if any(_suits(shape, *each) for shape in known)]
    return _cases(domain, functools.partial(_preset_shapes, known), types) if types and _leaves_any(domain) else st.nothing()


def _presets() -> Iterator[dict[str, Any]]:
    """Each rank of each hybrid model, by the dtypes of its state and its cache; and of models whose layers all attend."""
    for model in hybrid.MODELS:
        ranks = [tp for tp in TP_SIZES if model.splits_over(tp) and not model.is_latent]
        for tp, state_bytes, cache_bytes in product(ranks, hybrid.STATE_BYTES, hybrid.CACHE_BYTES):
            yield {
                "model": f"{model.name} TP{tp}",
                "page_size": model.page(tp=tp, state_bytes=state_bytes, cache_bytes=cache_bytes).page_size,
                "num_kv_heads": model.kv_heads(tp),
                "group_size": model.num_heads // tp // model.kv_heads(tp),
                "head_dim": model.head_dim,
                "cache_bytes": cache_bytes,
            }
    for usual in GQA_MODELS:
        ranks = [tp for tp in TP_SIZES if usual.splits_over(tp) and usual.head_dim == usual.head_dim_v]
        for tp, cache_bytes in product(ranks, hybrid.CACHE_BYTES):
            rank = usual.sharded(tp)
            names = ("model", "num_kv_heads", "group_size", "head_dim")
            yield {name: rank[name] for name in names} | {"page_size": 16, "cache_bytes": cache_bytes}


PRESETS = tuple(_presets())


def _models() -> dict[str, tuple[str, ...]]:
    """Name of each model, with those of its rank counts."""
    names: dict[str, dict[str, None]] = {}
    for shape in PRESETS:
        names.setdefault(shape["model"].rpartition(" ")[0], {})[shape["model"]] = None
    return {model: tuple(variants) for model, variants in names.items()}


def _in_domain(shape: Shape, domain: Domain) -> bool:
    names = {shape["model"], shape["model"].rpartition(" ")[0]}
    return (not domain.models or bool(names & set(domain.models))) and all(
        domain.allows(name, shape[name]) for name in (*_SHAPE, "group_size")
    )


def _suits(shape: Shape, dtype: str, cache_dtype: str) -> bool:
    """Whether that is the dtype of the cache for which the model's page has its size; float32 stands in for 16 bits."""
    return bool((shape["cache_bytes"] == 1) == (_itemsize(dtype, cache_dtype) == 1))


def _leaves_any(domain: Domain) -> bool:
    independent = (*_INDEPENDENT.items(), *_SHAPE.items(), ("group_size", GROUP_SIZES), ("gap", GAPS))
    pages = (("key_pages", kv_caches.PAGES), ("value_pages", kv_caches.PAGES))
    drawn = all(allowed(weights, domain, name) for name, weights in (*independent, *pages))
    return drawn and bool(_types_of(domain)) and bool(_kinds(domain)) and bool(_lengths(domain, 16))


def _kinds(domain: Domain) -> Weights[str]:
    """Kinds of caches that have an order for keys and one for values, and a reader."""

    def has_orders(kind: str) -> bool:
        return all(allowed(kv_caches.orders(kind), domain, name) for name in ("key_order", "value_order"))

    kinds = allowed(kv_caches.KINDS, domain, "kind")
    return {kind: weight for kind, weight in kinds.items() if has_orders(kind) and _chunks(domain, kind)}


def _chunks(domain: Domain, kind: str) -> Weights[int]:
    """Chunks on offer for such caches; the driver reads head-major ones alone."""
    offered = allowed(CHUNKS, domain, "chunk")
    return {chunk: weight for chunk, weight in offered.items() if chunk == 0 or kv_caches.is_head_major(kind)}


def _chunk(domain: Domain, drawn: Shape) -> st.SearchStrategy[int]:
    """Of those on offer what there is time for; the smallest in any case."""
    offered = _chunks(domain, drawn["kind"])
    work = sum(drawn["seq_lens"]) * drawn["num_kv_heads"] * drawn["group_size"] * 2 * drawn["head_dim"]

    def fits(chunk: int) -> bool:
        return chunk == min(offered) or cdiv(chunk, _QUERY_TILE) * _QUERY_TILE * work <= CHUNK_WORK

    return choose(offered, fits)


def _types_of(domain: Domain) -> list[tuple[str, str]]:
    """Pairs of `dtype` and `cache_dtype` that are on offer, each with scales that are finite in it."""
    offered = allowed({"same": SAME_WEIGHT, **fp8.offered(domain.target, whole=domain.whole)}, domain, "cache_dtype")
    return [
        (dtype, cache_dtype)
        for dtype in allowed(DTYPE_WEIGHTS, domain, "dtype")
        for cache_dtype in offered
        if all(_scales(domain, name, dtype, cache_dtype) for name in ("k_scale", "v_scale"))
    ]


def _scales(domain: Domain, name: str, dtype: str, cache_dtype: str) -> Weights[float]:
    """Scales on offer, powers of two; 1 where the caches are no FP8."""
    weights = {1.0: 1} if cache_dtype == "same" else {"k_scale": K_SCALES, "v_scale": V_SCALES}[name]
    offered = {scale: weight for scale, weight in weights.items() if domain.allows(name, scale)}
    return {scale: weight for scale, weight in offered.items() if fp8.stays_finite(cache_dtype, scale, DTYPES[dtype])}


def _itemsize(dtype: str, cache_dtype: str) -> int:
    """Bytes of an element of the caches."""
    return DTYPES[dtype].itemsize if cache_dtype == "same" else fp8.DTYPES[cache_dtype].itemsize


@st.composite
def _cases(draw: st.DrawFn, domain: Domain, shapes: Shapes, types: list[tuple[str, str]]) -> CacheRoundTripCase:
    """Draws in the order in which fields should become simple: dtypes, layout, shape, lengths, slots."""
    drawn = draw(_types(domain, types)) | draw(_layouts(domain))
    shape = draw(shapes(drawn))
    drawn |= shape
    most_bytes = drawn.pop("most_bytes")
    drawn["group_size"] = draw(
        choose({drawn["group_size"]: 1} if "group_size" in drawn else allowed(GROUP_SIZES, domain, "group_size"))
    )
    most_pages = max(most_bytes // _bytes(drawn, drawn) - paging.SPARE_PAGES, _least_pages(domain, drawn["page_size"]))
    drawn["seq_lens"] = draw(_seq_lens(domain, drawn["page_size"], most_pages))
    drawn["chunk"] = draw(_chunk(domain, drawn))
    independent = {name: choose(allowed(weights, domain, name)) for name, weights in _INDEPENDENT.items()}
    return CacheRoundTripCase(**drawn, **draw(fields(**independent)), platform=domain.platform, seed=draw(choose(SEEDS)))


@st.composite
def _types(draw: st.DrawFn, domain: Domain, types: list[tuple[str, str]]) -> dict[str, Any]:
    """`dtype`, `cache_dtype` and, with FP8, both scales."""
    cache_dtypes = {"same": SAME_WEIGHT, **fp8.offered(domain.target, whole=domain.whole)}
    cache_dtype = draw(choose(cache_dtypes, {cache for _, cache in types}.__contains__))
    dtype = draw(choose(DTYPE_WEIGHTS, {dtype for dtype, cache in types if cache == cache_dtype}.__contains__))
    drawn: dict[str, Any] = {"dtype": dtype, "cache_dtype": cache_dtype}
    for name in ("k_scale", "v_scale") if cache_dtype != "same" else ():
        drawn[name] = draw(choose(_scales(domain, name, dtype, cache_dtype)))
    return drawn


@st.composite
def _layouts(draw: st.DrawFn, domain: Domain) -> dict[str, Any]:
    """`kind`, and order and pages of both caches, most often alike."""
    kind = draw(choose(_kinds(domain)))
    orders = kv_caches.orders(kind)
    key_order = draw(choose(allowed(orders, domain, "key_order")))
    value_orders = allowed(orders, domain, "value_order")
    key_pages = draw(choose(allowed(kv_caches.PAGES, domain, "key_pages")))
    value_pages = allowed(kv_caches.PAGES, domain, "value_pages")
    return {
        "kind": kind,
        "key_order": key_order,
        "value_order": draw(choose(_alike(value_orders, key_order))),
        "key_pages": key_pages,
        "value_pages": draw(choose(_alike(value_pages, key_pages))),
        "gap": draw(choose(allowed(GAPS, domain, "gap"))),
    }


def _alike(weights: Weights[str], other: str) -> Weights[str]:
    """`weights` with a good chance of `other`, where it is among them."""
    return {name: weight + (20 if name == other else 0) for name, weight in weights.items()}


@st.composite
def _shapes(draw: st.DrawFn, domain: Domain, drawn: Shape) -> dict[str, Any]:
    """Page size, heads and width, such that two pages fit, or as many as the shortest sequence needs."""
    offered = {name: allowed(weights, domain, name) for name, weights in _SHAPE.items()}
    shape: dict[str, Any] = {name: min(weights) for name, weights in offered.items()}

    def bytes_of(shape: Shape) -> int:
        return (_least_pages(domain, shape["page_size"]) + paging.SPARE_PAGES) * _bytes(drawn, shape)

    most_bytes = max(CACHE_BYTES, bytes_of(shape))

    def fits(name: str, value: int) -> bool:
        return bytes_of({**shape, name: value}) <= most_bytes

    for name, weights in offered.items():
        shape[name] = draw(choose(weights, functools.partial(fits, name)))
    return {**shape, "most_bytes": most_bytes}


def _preset_shapes(known: list[dict[str, Any]], drawn: Shape) -> st.SearchStrategy[dict[str, Any]]:
    """Those of `known` for which the cache's dtype suits, of which two pages fit; the smallest where none does."""
    suiting = [shape for shape in known if _suits(shape, drawn["dtype"], drawn["cache_dtype"])]
    most_bytes = max(PRESET_BYTES, 2 * min(_bytes(drawn, shape) for shape in suiting))
    fitting = [shape for shape in suiting if 2 * _bytes(drawn, shape) <= most_bytes]
    names = ("model", *_SHAPE, "group_size")
    return choose(evenly(range(len(fitting)))).map(
        lambda at: {name: fitting[at][name] for name in names} | {"most_bytes": most_bytes}
    )


def _bytes(drawn: Shape, shape: Shape) -> int:
    """Bytes of a page in both caches."""
    fields = {**drawn, **shape}
    return _page_bytes(_itemsize(drawn["dtype"], drawn["cache_dtype"]), *(fields[name] for name in _LAYOUT))


_LAYOUT = ("kind", "key_order", "value_order", "key_pages", "value_pages", "gap", *_SHAPE)


@functools.lru_cache(maxsize=2**14)
def _page_bytes(itemsize: int, *layout: Any) -> int:
    fields = dict(zip(_LAYOUT, layout, strict=True))
    return itemsize * sum(cache_of(fields, role, itemsize).page_stride for role in ("key", "value"))


def _lengths(domain: Domain, page_size: int) -> Weights[int]:
    """Lengths on offer, simplest first; those around a page, unless it is long, more often."""
    weight = 3 if page_size < _LONG else 1
    weights = LENGTHS | dict.fromkeys((page_size - 1, page_size, page_size + 1), weight)
    found = allowed(weights, domain, "seq_lens")
    return {length: found[length] for length in sorted(found, key=simplicity)}


def _least_pages(domain: Domain, page_size: int) -> int:
    """Pages of the shortest sequence."""
    return max(1, cdiv(min(_lengths(domain, page_size)), page_size))


@st.composite
def _seq_lens(draw: st.DrawFn, domain: Domain, page_size: int, pages: int) -> tuple[int, ...]:
    """Lengths of one to four sequences on at most `pages` pages; those that no longer fit are left out."""
    weights = _lengths(domain, page_size)
    first = draw(choose(weights, lambda length: cdiv(length, page_size) <= pages))
    found, left = [first], pages - cdiv(first, page_size)
    for at in range(1, max(NUM_SEQUENCES) + 1):
        if not draw(more(NUM_SEQUENCES, at)):
            break
        # One more for each, so that no two sequences draw from equal choices: see `draws`.
        others = {length: weight + (at if length == min(weights) else 0) for length, weight in weights.items()}
        length = draw(choose(others, lambda length: length < _LONG or length == min(weights)))
        if cdiv(length, page_size) <= left:
            found.append(length)
            left -= cdiv(length, page_size)
    return tuple(found)


def within(case: CacheRoundTripCase, domain: Domain) -> bool:
    """Whether the platform is the target's, and the target has the case's FP8 format; the whole domain has them all."""
    has_format = case.cache_dtype == "same" or case.cache_dtype in fp8.offered(domain.target, whole=domain.whole)
    return case.platform == domain.platform and has_format


OP = Op(
    name="cache_round_trip",
    case=CacheRoundTripCase,
    strategy=cases,
    presets=preset_cases,
    build=build,
    models=_models(),
    within=within,
    compile_time=frozenset(
        {
            "platform",
            "num_kv_heads",
            "group_size",
            "head_dim",
            "kind",
            "key_order",
            "value_order",
            "dtype",
            "cache_dtype",
            "slot_dtype",
            "chunk",
        }
    ),
    facets=FACETS,
    properties=PROPERTIES,
)
