"""The inputs of `reshape_and_cache_per_token_head`: every tensor of a Case, with its values."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch

from tridiff.harness.api import Arena, Inputs
from tridiff.strategies import cache_writes_victims
from tridiff.strategies import reshape_and_cache_per_token_head_values as values
from tridiff.strategies.cache_writes import Slots, make_live, slots_of, write_rows, write_slots
from tridiff.strategies.layouts import LARGE_STORAGE_BYTES, Placement
from tridiff.strategies.reshape_and_cache_per_token_head_case import (
    CACHE_DTYPES,
    ReshapeAndCachePerTokenHeadCase,
)

SIDES = {"key": "k_scale", "value": "v_scale"}
"""The caches of codes, and the name that the scales of each have."""


def build(case: ReshapeAndCachePerTokenHeadCase, arena: Arena) -> Inputs:
    """Arguments of `reshape_and_cache_per_token_head` for `case`; deterministic bit for bit.

    All four caches are full of live data, but for what the tokens are to be stored in. Raises `StagingError` when the machine has
    no address space for far pages.
    """
    slots = slots_of(case)
    placement = case.placement(slots)
    tokens = {role: _rows(case, arena, role) for role in SIDES}
    codes = {f"{role}_cache": _codes(case, arena, role, slots, placement) for role in SIDES}
    scales = {f"{SIDES[role]}_cache": _scales(case, arena, role, slots, placement) for role in SIDES}
    return {
        **tokens,
        **codes,
        **scales,
        "slot_mapping": write_slots(arena, case, slots, placement),
        "platform": case.platform,
    }


def _rows(case: ReshapeAndCachePerTokenHeadCase, arena: Arena, role: str) -> torch.Tensor:
    own, other = (case.head_dim, case.head_dim_v) if role == "key" else (case.head_dim_v, case.head_dim)
    content = values.rows(case, role, own)
    layout = case.key_layout if role == "key" else case.value_layout
    fused = case.num_heads * (own + 2 * other)  # as many query heads as KV heads beside this side and the other one
    return write_rows(arena, role, content, case.padding_rows, layout=layout, gap=case.gap, lead=case.lead, fused=fused)


def _codes(case: ReshapeAndCachePerTokenHeadCase, arena: Arena, role: str, slots: Slots, placement: Placement) -> torch.Tensor:
    cache, name = case.cache(role), f"{role}_cache"
    guard = cache.strides[1]  # slot -1 lies so far below the cache
    dtype = CACHE_DTYPES[case.cache_dtype]
    tensor = cache.allocate(arena, name, dtype, placement, lead=case.lead, storage=case.storage, guard=guard)
    make_live(arena, name, case.seed, cache.index(*slots.places(placement)))
    return tensor


def _scales(case: ReshapeAndCachePerTokenHeadCase, arena: Arena, role: str, slots: Slots, placement: Placement) -> torch.Tensor:
    name, strides = f"{SIDES[role]}_cache", case.scale_strides(role)
    tensor = arena.tensor(
        name,
        (placement.num_pages, case.page_size, case.num_heads),
        torch.float32,
        strides=strides,
        committed=placement.committed(strides[0]),
        storage_bytes=LARGE_STORAGE_BYTES if case.storage == "large" else 0,
        guard=strides[1],
    )
    page, offset = slots.places(placement)
    make_live(arena, name, case.seed, (page[:, None], offset[:, None], torch.arange(case.num_heads)[None]))
    return tensor


def victim(inputs: Inputs, name: str, cells: npt.NDArray[np.int64]) -> str:
    """What stood in one of the caches at `cells`, and by which token it is overwritten; "" of any other tensor."""
    role = {f"{part}_cache": role for role, scale in SIDES.items() for part in (role, scale)}.get(name)
    if role is None:
        return ""
    cache, is_scale = inputs[name], not name.startswith(role)
    codes, scales = values.as_stored(inputs[role], inputs[f"{role}_cache"].dtype)
    index = cache_writes_victims.scale_index if is_scale else cache_writes_victims.plain_index
    target = cache_writes_victims.Target(
        cache=cache,
        page_size=int(cache.shape[1]),
        index=index(cache),
        slots=inputs["slot_mapping"],
        rows=scales if is_scale else codes,
    )
    return cache_writes_victims.victim(target, cells)
