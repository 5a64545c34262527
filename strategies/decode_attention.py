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
from tridiff.strategies.budget import LARGE_PAGES, TYPICAL, Budget
from tridiff.strategies.decode_attention_case import DTYPES, DecodeAttentionCase
from tridiff.strategies.decode_attention_inputs import build, cache_shapes
from tridiff.strategies.dims import head_dims, latent_dims
from tridiff.strategies.draws import Weights, choose, evenly, fields
from tridiff.strategies.heads import heads, latent_heads
from tridiff.strategies.lengths import seq_lens
from tridiff.strategies.models import GQA_MODELS, MLA_MODELS, model_shapes, names

__all__ = ["OP", "DecodeAttentionCase", "build", "cases", "preset_cases", "score", "within"]

SEEDS = evenly(range(256))
NUM_KV_SPLITS = evenly((1, 2, 3, 4, 5, 8, 16, 64, 264))

DTYPE_WEIGHTS = {"float32": 3, "bfloat16": 5, "float16": 2}
NARROW_DTYPES = {"bfloat16": 5, "float16": 2}
OUTPUT_DTYPE_WEIGHTS = {"same": 3, "float32": 1}
MLA = {False: 13, True: 8}
SEQ_LENS_DTYPE_WEIGHTS = {"int32": 3, "int64": 1}


def cases(domain: Domain) -> st.SearchStrategy[DecodeAttentionCase]:
    """Cases over the whole of `domain`, within `TYPICAL`; shrinks towards `DecodeAttentionCase()`."""
    return _cases(domain, _shapes(TYPICAL), paging.PAGE_SIZES, TYPICAL)


def preset_cases(domain: Domain) -> st.SearchStrategy[DecodeAttentionCase]:
    """Cases with the dimensions of real models and the page sizes that serve them, within `LARGE_PAGES`."""
    return _cases(domain, model_shapes(PRESETS, domain.models), paging.MODEL_PAGE_SIZES, LARGE_PAGES)


PRESETS = dict.fromkeys(GQA_MODELS, 2) | dict.fromkeys(MLA_MODELS, 3)


@st.composite
def _shapes(draw: st.DrawFn, budget: Budget) -> dict[str, Any]:
    """`is_mla`, head counts and widths; many heads leave room for small widths only."""
    is_mla = draw(choose(MLA))
    counts = draw(latent_heads() if is_mla else heads())
    max_sum = budget.row_width // (counts["num_kv_heads"] * counts["group_size"])
    dims = latent_dims(max_sum=max_sum) if is_mla else head_dims(max_sum=max_sum)
    return {"is_mla": is_mla} | counts | draw(dims)


@st.composite
def _cases(
    draw: st.DrawFn, domain: Domain, shapes: st.SearchStrategy[dict[str, Any]], page_sizes: Weights[int], budget: Budget
) -> DecodeAttentionCase:
    """Draws in the order in which fields should become simple: FP8, values, shape, lengths and pages, layouts, dtypes.

    Page size and splits come before the lengths, because those lie around their multiples.
    """
    types = draw(fp8.cache_types(domain.target, whole=domain.whole))
    drawn = types | draw(_profile(**types)) | draw(shapes)
    if drawn["is_mla"] and "k_scale" in drawn:
        drawn["v_scale"] = drawn["k_scale"]
    drawn |= draw(_extents(drawn, page_sizes, budget))
    drawn |= draw(paging.paging_fields())
    caches = cache_shapes(drawn, paging.pool_size(drawn["seq_lens"], drawn["page_size"]))
    elements = budget.cache_bytes // _NARROW
    drawn |= draw(
        layouts.latent_fields(caches["key"], elements=elements)
        if drawn["is_mla"]
        else layouts.cache_fields(caches["key"], caches["value"], elements=elements)
    )
    drawn |= draw(layouts.row_fields())
    total = sum(shape.elements(drawn[f"{name}_layout"], drawn["gap"]) for name, shape in caches.items())
    drawn |= draw(_types(**types, narrow=total * 4 > budget.cache_bytes))
    seed = draw(choose(SEEDS))
    drawn |= layouts.placement_fields(seed)
    scales = {name: drawn[name] for name in ("k_scale", "v_scale") if name in drawn}
    form = fp8.scale_form(seed, drawn["cache_dtype"], **scales)
    return DecodeAttentionCase(**drawn, platform=domain.platform, scale_form=form, seed=seed)


_NARROW = 2
"""Bytes of a 16-bit element: pages are counted in these, and float32 is offered where it fits as well."""


_FEW_SPLITS = 4
"""As many splits are always on offer. With 128 heads of 512 columns the scratch of five rows then takes 5 MiB."""


@st.composite
def _extents(draw: st.DrawFn, shape: Mapping[str, Any], page_sizes: Weights[int], budget: Budget) -> dict[str, Any]:
    """`num_kv_splits`, `page_size` and `seq_lens`, as the heads and widths of `shape` leave room for."""
    num_heads = shape["num_kv_heads"] * shape["group_size"]
    widths = shape["head_dim"] + shape["head_dim_v"]
    most_splits = max(_FEW_SPLITS, budget.split_elements // (num_heads * max(shape["head_dim_v"] + 1, 64)))
    splits = draw(choose(NUM_KV_SPLITS, lambda splits: splits <= most_splits))
    # Half of the memory for packed pages: the gaps of the layouts get the other half.
    token = shape["head_dim"] if shape["is_mla"] else shape["num_kv_heads"] * widths
    tokens_in_memory = budget.cache_bytes // (2 * _NARROW * token)
    page_size = draw(choose(page_sizes, lambda size: tokens_in_memory // size > paging.SPARE_PAGES))
    pages = tokens_in_memory // page_size - paging.SPARE_PAGES
    tokens = budget.multiply_adds // (num_heads * widths)
    lengths = draw(seq_lens(page_size, splits, tokens=tokens, pages=pages))
    return {"num_kv_splits": splits, "page_size": page_size, "seq_lens": lengths}


def _profile(cache_dtype: str, k_scale: float = 1.0, v_scale: float = 1.0) -> st.SearchStrategy[dict[str, Any]]:
    """Values that suit the scales of FP8 caches."""
    return profiles.profile_fields(
        suits_keys=functools.partial(fp8.suits, cache_dtype, k_scale),
        suits_values=functools.partial(fp8.suits, cache_dtype, v_scale),
    )


@functools.cache
def _types(cache_dtype: str, k_scale: float = 1.0, v_scale: float = 1.0, *, narrow: bool) -> st.SearchStrategy[dict[str, Any]]:
    """`dtype`, `output_dtype` and `seq_lens_dtype`; with `narrow` bfloat16 stands in for float32, unless caches are in FP8."""
    scale = max(k_scale, v_scale)
    return fields(
        dtype=choose(
            NARROW_DTYPES if narrow and cache_dtype == "same" else DTYPE_WEIGHTS,
            lambda name: fp8.stays_finite(cache_dtype, scale, DTYPES[name]),
        ),
        output_dtype=choose(OUTPUT_DTYPE_WEIGHTS),
        seq_lens_dtype=choose(SEQ_LENS_DTYPE_WEIGHTS),
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
)
