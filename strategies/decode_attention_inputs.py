"""The inputs of `decode_attention`: every tensor of a Case, with its values."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from tridiff.harness.api import Arena, Inputs
from tridiff.strategies import fp8, layouts, paging, profiles
from tridiff.strategies.caches import Pool
from tridiff.strategies.decode_attention_case import DTYPES, SEQ_LENS_DTYPES, DecodeAttentionCase
from tridiff.strategies.layouts import CacheShape


def cache_shapes(fields: Mapping[str, Any], num_pages: int) -> dict[str, CacheShape]:
    """Shape of each cache by name; latent attention has none for the values."""
    common = {"num_pages": num_pages, "page_size": fields["page_size"], "num_heads": fields["num_kv_heads"]}
    lk, lv = fields["head_dim"], fields["head_dim_v"]
    key = CacheShape(**common, width=lk, neighbour=lv)
    return {"key": key} if fields["is_mla"] else {"key": key, "value": CacheShape(**common, width=lv, neighbour=lk)}


def build(case: DecodeAttentionCase, arena: Arena) -> Inputs:
    """Arguments of `decode_attention` for `case`; deterministic bit for bit.

    Only slots that some row reads hold values, and only table entries that some row needs; everything else keeps its
    poison. Raises `StagingError` when the machine has no address space for far pages.
    """
    pages = paging.assign_pages(case.seq_lens, case.page_size, order=case.page_order, sharing=case.page_sharing, seed=case.seed)
    pool = _pool(case, pages)
    return {
        "query": _query(case, arena),
        **_caches(case, arena, pool),
        "block_table": _block_table(case, arena, pool),
        "seq_lens": _seq_lens(case, arena),
        **_outputs(case, arena),
        "sm_scale": case.sm_scale,
        "logit_cap": case.logit_cap,
        **_scale_tensors(case, arena),
        "page_size": case.page_size,
        "num_kv_splits": case.num_kv_splits,
        "is_mla": case.is_mla,
        "platform": case.platform,
    }


def _pool(case: DecodeAttentionCase, pages: paging.Paging) -> Pool:
    shapes = cache_shapes(vars(case), pages.pool_size)
    return Pool(
        pages=pages,
        shapes=shapes,
        layouts={name: getattr(case, f"{name}_layout") for name in shapes},
        gap=case.gap,
        far=case.far,
        lead=case.lead,
        storage=case.storage,
        unused_slots=case.unused_slots,
    )


def _caches(case: DecodeAttentionCase, arena: Arena, pool: Pool) -> dict[str, torch.Tensor]:
    """Both caches; with latent attention the values are a view of the keys."""
    dtype = DTYPES[case.dtype] if case.cache_dtype == "same" else fp8.DTYPES[case.cache_dtype]
    keys = pool.filled(arena, "key", _keys(case, pool.pages), dtype, case.k_scale)
    if case.is_mla:
        return {"key_cache": keys, "value_cache": keys[..., : case.head_dim_v]}
    return {"key_cache": keys, "value_cache": pool.filled(arena, "value", _values(case, pool.pages), dtype, case.v_scale)}


def _peaks(case: DecodeAttentionCase, pages: paging.Paging) -> list[int]:
    """Slots of the peak of every row that has keys; none where the pattern has no peak."""
    if not profiles.has_peak(case.pattern):
        return []
    picks = profiles.picks(case.seed, len(case.seq_lens))
    rows = [(row, length, pick) for row, (length, pick) in enumerate(zip(case.seq_lens, picks, strict=True)) if length]
    return [
        pages.slot(
            row,
            profiles.peak_position(case.peak_at, length, page_size=case.page_size, num_kv_splits=case.num_kv_splits, pick=pick),
        )
        for row, length, pick in rows
    ]


def _keys(case: DecodeAttentionCase, pages: paging.Paging) -> torch.Tensor:
    shape = (pages.slot_page.size, case.num_kv_heads, case.head_dim)
    peak_dot = case.peak_height / case.sm_scale
    # Keys that are values too are at the limit with them, but not so far that logits leave the hundreds.
    limit = min(_limit(case, case.k_scale), _MOST_KEY) if case.is_mla else 0.0
    return profiles.key_values(case.pattern, case.sigma, case.seed, shape, _peaks(case, pages), peak_dot, limit=limit)


def _values(case: DecodeAttentionCase, pages: paging.Paging) -> torch.Tensor:
    shape = (pages.slot_page.size, case.num_kv_heads, case.head_dim_v)
    limit = _limit(case, case.v_scale)
    return profiles.value_values(case.pattern, case.value_sigma, case.seed, shape, _peaks(case, pages), limit)


_MOST_KEY = 448.0
_MOST_VALUE = 57344.0


def _limit(case: DecodeAttentionCase, scale: float) -> float:
    """The largest number of an FP8 cache; of any other, one whose sums are still finite in float16."""
    return fp8.LARGEST[case.cache_dtype] * scale if case.cache_dtype in fp8.LARGEST else _MOST_VALUE


def _query(case: DecodeAttentionCase, arena: Arena) -> torch.Tensor:
    sizes = (len(case.seq_lens), case.num_heads, case.head_dim)
    fused = case.num_kv_heads * (case.head_dim + case.head_dim_v)
    strides = layouts.row_strides(case.query_layout, sizes, gap=case.gap, fused=fused)
    query = arena.tensor("query", sizes, DTYPES[case.dtype], strides=strides, lead=case.lead)
    return query.copy_(profiles.query_values(case.pattern, case.seed, sizes, case.num_kv_heads))


def _block_table(case: DecodeAttentionCase, arena: Arena, pool: Pool) -> torch.Tensor:
    """int32 [rows, widest row + tail]; entries that no row needs keep their poison."""
    used = torch.from_numpy(pool.pages.logical >= 0)
    sizes = (used.shape[0], max(1, used.shape[1]) + case.table_tail)
    strides = layouts.row_strides(case.table_layout, sizes, gap=case.gap)
    table = arena.tensor("block_table", sizes, torch.int32, strides=strides)
    ids = torch.from_numpy(pool.placement.ids(pool.pages.table)).to(torch.int32)
    table[:, : used.shape[1]][used] = ids[used]
    return table


def _seq_lens(case: DecodeAttentionCase, arena: Arena) -> torch.Tensor:
    lengths = arena.tensor("seq_lens", (len(case.seq_lens),), SEQ_LENS_DTYPES[case.seq_lens_dtype])
    return lengths.copy_(torch.tensor(case.seq_lens, dtype=torch.int64))


def _scale_tensors(case: DecodeAttentionCase, arena: Arena) -> dict[str, torch.Tensor | None]:
    """`k_scale` and `v_scale`, float32 of one element or None; one tensor for latent attention."""
    k_scale = _scale_tensor(case, arena, "k_scale")
    return {"k_scale": k_scale, "v_scale": k_scale if case.is_mla else _scale_tensor(case, arena, "v_scale")}


def _scale_tensor(case: DecodeAttentionCase, arena: Arena, name: str) -> torch.Tensor | None:
    """The scale `name` in the case's form, see `fp8.SCALE_FORMS`."""
    scale: float = getattr(case, name)
    if case.scale_form == "unread":
        return arena.tensor(name, (), torch.float32)
    if case.cache_dtype == "same" or (case.scale_form == "absent" and scale == 1.0):
        return None
    return arena.tensor(name, (1,) if case.scale_form == "vector" else (), torch.float32).fill_(scale)


def _outputs(case: DecodeAttentionCase, arena: Arena) -> dict[str, torch.Tensor]:
    """`output` [B, Hq, Lv] and `lse` float32 [B, Hq], both written in full."""
    sizes = (len(case.seq_lens), case.num_heads, case.head_dim_v)
    dtype = DTYPES[case.dtype if case.output_dtype == "same" else case.output_dtype]
    strides = layouts.row_strides(case.output_layout, sizes, gap=case.gap)
    lse_strides = layouts.row_strides(case.lse_layout, sizes[:2], gap=case.gap)
    return {
        "output": arena.output("output", sizes, dtype, strides=strides),
        "lse": arena.output("lse", sizes[:2], torch.float32, strides=lse_strides),
    }
