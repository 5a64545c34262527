"""The Op `decode_attention`: softmax attention of one query token per row over a paged cache, with the log-sum-exp.

Multi-head and grouped-query attention, where keys and values lie in caches of their own, and latent attention (MLA), where
the values are the first columns of the keys; caches of the query's dtype or in FP8. The strategy and the presets of real models;
the case and its inputs are in modules of their own.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from hypothesis import strategies as st

from tridiff.harness.api import Domain, Op
from tridiff.strategies import fp8, layouts, paging, profiles
from tridiff.strategies.budget import LARGE_PAGES, TYPICAL
from tridiff.strategies.decode_attention_case import UNUSED_SLOTS, DecodeAttentionCase
from tridiff.strategies.decode_attention_facets import FACETS
from tridiff.strategies.decode_attention_inputs import build, cache_shapes
from tridiff.strategies.decode_attention_properties import PROPERTIES
from tridiff.strategies.decode_attention_room import (
    DTYPE_WEIGHTS,
    NARROW_DTYPES,
    OUTPUT_DTYPE_WEIGHTS,
    SEEDS,
    SEQ_LENS_DTYPE_WEIGHTS,
    Room,
)
from tridiff.strategies.dims import head_dims, latent_dims
from tridiff.strategies.draws import allowed, choose, fields
from tridiff.strategies.heads import allowed_heads, heads, latent_heads
from tridiff.strategies.lengths import seq_lens
from tridiff.strategies.models import GQA_MODELS, MLA_MODELS, model_shapes, names, ranks

__all__ = ["OP", "DecodeAttentionCase", "build", "cases", "preset_cases", "score", "within"]

MLA = {False: 13, True: 8}


def cases(domain: Domain) -> st.SearchStrategy[DecodeAttentionCase]:
    """Cases over the whole of `domain`, within `TYPICAL`; shrinks towards `DecodeAttentionCase()`."""
    room = Room(domain, paging.PAGE_SIZES, TYPICAL)
    return st.nothing() if room.is_empty else _cases(room, functools.partial(_shapes, room))


def preset_cases(domain: Domain) -> st.SearchStrategy[DecodeAttentionCase]:
    """Cases with the dimensions of real models and the page sizes that serve them, within `LARGE_PAGES`."""
    known = tuple(model.sharded(tp) for model in PRESETS for tp in ranks(model, domain.models, lambda _fields: True))
    room = Room(domain, paging.MODEL_PAGE_SIZES, LARGE_PAGES, known)
    return st.nothing() if room.is_empty else _cases(room, functools.partial(_model_shapes, room))


PRESETS = dict.fromkeys(GQA_MODELS, 2) | dict.fromkeys(MLA_MODELS, 3)

Shapes = Callable[[Mapping[str, Any]], st.SearchStrategy[dict[str, Any]]]
"""(cache dtype and scales) -> strategy of `is_mla`, head counts and widths."""


@st.composite
def _shapes(draw: st.DrawFn, room: Room, types: Mapping[str, Any]) -> dict[str, Any]:
    """`is_mla`, head counts and widths; many heads leave room for small widths only."""
    element_bytes = room.element_bytes(types["cache_dtype"])
    is_mla = draw(choose(MLA, lambda is_mla: room.has(is_mla, **types)))
    counts = draw(_heads(room, element_bytes, is_mla=is_mla))
    max_sum = room.budget.row_width // (counts["num_kv_heads"] * counts["group_size"])

    def fits(head_dim: int, head_dim_v: int) -> bool:
        widths = {"head_dim": head_dim, "head_dim_v": head_dim_v}
        return room.fits({"is_mla": is_mla, **counts, **widths}, element_bytes)

    dims = (latent_dims if is_mla else head_dims)(max_sum=max_sum, domain=room.domain, fits=fits)
    return {"is_mla": is_mla} | counts | draw(dims)


def _heads(room: Room, element_bytes: int, *, is_mla: bool) -> st.SearchStrategy[dict[str, Any]]:
    """`num_kv_heads` and `group_size`; independent of each other where nothing is limited."""
    if not room.domain.limits:
        return latent_heads() if is_mla else heads()
    fits = functools.partial(room.heads_fit, is_mla=is_mla, element_bytes=element_bytes)
    return allowed_heads(room.domain, fits, is_mla=is_mla)


def _model_shapes(room: Room, types: Mapping[str, Any]) -> st.SearchStrategy[dict[str, Any]]:
    """Shapes of real models that there is room for."""
    element_bytes = room.element_bytes(types["cache_dtype"])

    def fits(shape: Mapping[str, Any]) -> bool:
        return room.has(shape["is_mla"], **types) and room.fits(shape, element_bytes)

    return model_shapes(PRESETS, room.domain.models, fits)


@st.composite
def _cases(draw: st.DrawFn, room: Room, shapes: Shapes) -> DecodeAttentionCase:
    """Draws in the order in which fields should become simple: FP8, values, shape, lengths and pages, layouts, dtypes.

    Page size and splits come before the lengths, because those lie around their multiples.
    """
    domain = room.domain
    types = draw(fp8.cache_types(domain, room.takes))
    drawn = types | draw(_profile(domain, **types)) | draw(shapes(types))
    if drawn["is_mla"] and "k_scale" in drawn:
        drawn["v_scale"] = drawn["k_scale"]
    elements = room.elements(room.element_bytes(types["cache_dtype"]))
    drawn |= draw(_extents(drawn, room))
    drawn |= draw(paging.paging_fields(domain))
    caches = cache_shapes(drawn, paging.pool_size(drawn["seq_lens"], drawn["page_size"]))
    drawn |= draw(
        layouts.latent_fields(caches["key"], elements=elements, domain=domain)
        if drawn["is_mla"]
        else layouts.cache_fields(caches["key"], caches["value"], elements=elements, domain=domain)
    )
    drawn |= draw(layouts.row_fields(domain))
    total = sum(shape.elements(drawn[f"{name}_layout"], drawn["gap"]) for name, shape in caches.items())
    drawn |= draw(_types(room, types, narrow=total * 4 > room.budget.cache_bytes))
    types = {name: drawn[name] for name in types}
    seed = draw(choose(SEEDS, lambda seed: room.takes_seed(seed, **types)))
    drawn |= layouts.placement_fields(seed)
    form = fp8.scale_form(seed, **types)
    unused_slots = next((content for content in UNUSED_SLOTS if domain.allows("unused_slots", content)), "poison")
    return DecodeAttentionCase(**drawn, platform=domain.platform, scale_form=form, unused_slots=unused_slots, seed=seed)


@st.composite
def _extents(draw: st.DrawFn, shape: Mapping[str, Any], room: Room) -> dict[str, Any]:
    """`num_kv_splits`, `page_size` and `seq_lens`, as the heads and widths of `shape` leave room for."""
    element_bytes, most_splits = room.element_bytes(shape["cache_dtype"]), room.most_splits(shape)
    splits = draw(choose(room.splits, lambda splits: splits <= most_splits))
    page_size = draw(choose(room.page_sizes, lambda size: room.takes_pages(shape, size, element_bytes)))
    pages = room.most_pages(shape, page_size, element_bytes)
    rows = seq_lens(page_size, splits, tokens=room.most_tokens(shape), pages=pages, domain=room.domain)
    return {"num_kv_splits": splits, "page_size": page_size, "seq_lens": draw(rows)}


def _profile(domain: Domain, cache_dtype: str, k_scale: float = 1.0, v_scale: float = 1.0) -> st.SearchStrategy[dict[str, Any]]:
    """Values that suit the scales of FP8 caches."""
    return profiles.profile_fields(
        suits_keys=functools.partial(fp8.suits, cache_dtype, k_scale),
        suits_values=functools.partial(fp8.suits, cache_dtype, v_scale),
        domain=domain,
    )


def _types(room: Room, types: Mapping[str, Any], *, narrow: bool) -> st.SearchStrategy[dict[str, Any]]:
    """`dtype`, `output_dtype` and `seq_lens_dtype`; with `narrow` bfloat16 stands in for float32, unless caches are in FP8."""
    weights = NARROW_DTYPES if narrow and types["cache_dtype"] == "same" else DTYPE_WEIGHTS
    return fields(
        dtype=choose(weights, lambda name: room.takes_dtype(name, **types)),
        output_dtype=choose(allowed(OUTPUT_DTYPE_WEIGHTS, room.domain, "output_dtype")),
        seq_lens_dtype=choose(allowed(SEQ_LENS_DTYPE_WEIGHTS, room.domain, "seq_lens_dtype")),
    )


def within(case: DecodeAttentionCase, domain: Domain) -> bool:
    """Whether the platform is the target's, and the target has the case's FP8 format; the whole domain has them all."""
    has_format = case.cache_dtype == "same" or case.cache_dtype in fp8.offered(domain.target, whole=domain.whole)
    return case.platform == domain.platform and has_format


def score(case: DecodeAttentionCase, _ratio: float) -> dict[str, float]:
    """`late_peak`: how far the maximum of a long row rises, and how late; 0 without a peak.

    docs/explanation/targeting.md says why this alone, and neither the ratio nor the number of keys.
    """
    if not profiles.has_peak(case.pattern):
        return {"late_peak": 0.0}
    height = min(case.peak_height, case.logit_cap or case.peak_height)
    return {"late_peak": height * _LATENESS.get(case.peak_at, 0.5) * math.log2(1 + max(case.seq_lens))}


_LATENESS = {"first": 0.0, "last": 1.0}
"""Part of a row that lies before its peak; about half, where the peak is at some boundary or anywhere."""


def _placed(*, lead: int, storage: str) -> Callable[[DecodeAttentionCase], DecodeAttentionCase]:
    return lambda case: replace(case, lead=lead, storage=storage)


PLACEMENTS = {
    "production": _placed(lead=0, storage="large"),
    "small": _placed(lead=0, storage="small"),
    "misaligned": _placed(lead=1, storage="large"),
}
"""One element past a 16-byte boundary, no pointer is divisible by 16, whatever the dtype; with 4 or 8 some are."""


OP = Op(
    name="decode_attention",
    case=DecodeAttentionCase,
    strategy=cases,
    presets=preset_cases,
    build=build,
    models=names(PRESETS),
    within=within,
    # Measured on 23 drawn cases, by resetting each field: what changes the specialisation in most of them.
    compile_time=frozenset(
        {
            "platform",
            "group_size",
            "head_dim",
            "head_dim_v",
            "dtype",
            "cache_dtype",
            "output_dtype",
            "seq_lens_dtype",
            "is_mla",
            "logit_cap",
            "storage",
            "lead",
        }
    ),
    score=score,
    placements=PLACEMENTS,
    facets=FACETS,
    properties=PROPERTIES,
)
