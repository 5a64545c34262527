"""The inputs of `reshape_and_cache_per_token_head`: every tensor of a Case, with its values."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch

from tridiff.harness.api import Arena, Inputs
from tridiff.strategies import cache_writes_victims
from tridiff.strategies import reshape_and_cache_per_token_head_values as values
from tridiff.strategies.cache_writes import Slots, slots_of
from tridiff.strategies.cache_writes_inputs import SCALES, heads_rows, live_cache, make_live, write_slots
from tridiff.strategies.layouts import LARGE_STORAGE_BYTES
from tridiff.strategies.reshape_and_cache_per_token_head_case import ReshapeAndCachePerTokenHeadCase


def build(case: ReshapeAndCachePerTokenHeadCase, arena: Arena) -> Inputs:
    """Arguments of `reshape_and_cache_per_token_head` for `case`; deterministic bit for bit.

    All four caches are full of live data, but for what the tokens are to be stored in. Raises `StagingError` when the machine has
    no address space for far pages.
    """
    slots = slots_of(case)
    return {
        **{role: heads_rows(arena, case, role, values.rows(case, role, case.width(role))) for role in SCALES},
        **{f"{role}_cache": _codes(case, arena, role, slots) for role in SCALES},
        **{f"{SCALES[role]}_cache": _scales(case, arena, role, slots) for role in SCALES},
        "slot_mapping": write_slots(arena, case, slots),
        "platform": case.platform,
    }


def _codes(case: ReshapeAndCachePerTokenHeadCase, arena: Arena, role: str, slots: Slots) -> torch.Tensor:
    cache = case.cache(role)
    guard = cache.strides[1]  # slot -1 lies so far below the cache
    return live_cache(arena, f"{role}_cache", case, cache, slots, case.stored_dtype, guard=guard)


def _scales(case: ReshapeAndCachePerTokenHeadCase, arena: Arena, role: str, slots: Slots) -> torch.Tensor:
    name, placement = f"{SCALES[role]}_cache", case.placement(slots)
    strides, committed = case.stretched_scales(role, placement)
    tensor = arena.tensor(
        name,
        (placement.num_pages, case.page_size, case.num_heads),
        torch.float32,
        strides=strides,
        committed=committed,
        storage_bytes=LARGE_STORAGE_BYTES if case.storage == "large" else 0,
        guard=case.scale_strides(role)[1],
    )
    page, offset = slots.places(placement)
    make_live(arena, name, case.seed, (page[:, None], offset[:, None], torch.arange(case.num_heads)[None]))
    return tensor


def victim(inputs: Inputs, name: str, cells: npt.NDArray[np.int64], *, is_changed: bool = True) -> str:
    """What stood in one of the caches at `cells`, and by which token it is overwritten; "" of any other tensor."""
    role = {f"{part}_cache": role for role, scale in SCALES.items() for part in (role, scale)}.get(name)
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
    return cache_writes_victims.victim(target, cells, is_changed=is_changed)
