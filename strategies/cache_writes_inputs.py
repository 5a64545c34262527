"""Tensors of cache writers: the slot mapping, the tokens' rows, and caches that are live but for what must be written."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from tridiff.harness.api import Arena, Inputs
from tridiff.strategies import cache_writes_values as values
from tridiff.strategies.cache_writes import SLOT_DTYPES, HeadsCase, ScaledHeadsCase, Slots, WriterCase
from tridiff.strategies.kv_caches import KVCache
from tridiff.strategies.layouts import far_axis, row_strides, span

SCALES = {"key": "k_scale", "value": "v_scale"}
"""The scale of each side, where there are two."""


def write_slots(arena: Arena, case: WriterCase, slots: Slots) -> torch.Tensor:
    """The tensor `slot_mapping` [T]."""
    tensor = arena.tensor("slot_mapping", (case.num_tokens,), SLOT_DTYPES[case.slot_dtype])
    return tensor.copy_(slots.mapping(case.placement(slots)))


def write_rows(arena: Arena, case: WriterCase, name: str, content: torch.Tensor, layout: str, *, fused: int = 0) -> torch.Tensor:
    """The tensor `name` [T + padding, ...], whose first rows are `content` [T, ...], and whose others hold poison.

    `layout`, `fused`: see `layouts.row_strides`. Where heads lie far apart, those of rows with gaps between heads do as well.
    """
    sizes = (content.shape[0] + case.padding_rows, *content.shape[1:])
    strides, committed = row_strides(layout, sizes, gap=case.gap, fused=fused), None
    if case.far == "tokens":
        strides, committed = far_axis(strides, 0, sizes[0], span(sizes[1:], strides[1:]))
    elif case.far == "heads" and layout == "padded_heads":
        strides = row_strides(layout, (sizes[0], 1, *sizes[2:]), gap=case.gap)
        strides, committed = far_axis(strides, 1, sizes[1], sizes[0] * strides[0])
    rows = arena.tensor(name, sizes, content.dtype, strides=strides, committed=committed, lead=case.lead)
    raw = torch.uint8 if content.element_size() == 1 else content.dtype  # torch puts no elements into FP8 tensors
    rows.view(raw)[: content.shape[0]] = content.view(raw)
    return rows


def numbers_of(case: WriterCase, name: str, sizes: Sequence[int], scale: float) -> torch.Tensor:
    """What the tokens' tensor `name` holds, [T, *sizes], see `cache_writes_values.numbers`."""
    shape = (case.num_tokens, *sizes)
    return values.numbers(
        case.pattern, case.sigma, case.seed, name, shape, dtype=case.dtype, cache_dtype=case.cache_dtype, scale=scale
    )


def heads_rows(arena: Arena, case: HeadsCase, role: str, content: torch.Tensor) -> torch.Tensor:
    """The tensor `key` or `value`, [T + padding, H, width]; fused with as many query heads as KV heads, and the other side."""
    fused = case.num_heads * (case.head_dim + case.width("value" if role == "key" else "key"))
    return write_rows(arena, case, role, content, getattr(case, f"{role}_layout"), fused=fused)


def scaled_rows(arena: Arena, case: ScaledHeadsCase) -> Inputs:
    """The tensors `key` and `value`, [T + padding, H, width]."""
    return {
        role: heads_rows(
            arena, case, role, numbers_of(case, role, (case.num_heads, case.width(role)), getattr(case, SCALES[role]))
        )
        for role in SCALES
    }


def scales_of(arena: Arena, case: ScaledHeadsCase) -> Inputs:
    """The arguments `k_scale` and `v_scale`: tensors, or None."""
    return {
        name: values.scale_tensor(arena, name, getattr(case, name), case.scale_form, needed=case.is_fp8)
        for name in SCALES.values()
    }


def live_cache(
    arena: Arena, name: str, case: WriterCase, cache: KVCache, slots: Slots, dtype: torch.dtype, *, guard: int
) -> torch.Tensor:
    """The cache `name`, see `make_live`; `guard`: elements from the first slot to the one before it, were there one."""
    placement = case.placement(slots)
    tensor = cache.allocate(arena, name, dtype, placement, lead=case.lead, storage=case.storage, guard=guard, far=case.far)
    make_live(arena, name, case.seed, cache.index(*slots.places(placement)))
    return tensor


def make_live(arena: Arena, name: str, seed: int, index: Sequence[torch.Tensor]) -> None:
    """Fill the cache `name` and all its gaps with live data, and declare that exactly the cells `index` must be written."""
    arena.scribble(name, seed)
    arena.declare_cells(name, index)
