"""The inputs of `reshape_and_cache_diffkv`: every tensor of a Case, and what a finding says of overwritten memory."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch

from tridiff.harness.api import RAW, Arena, Inputs
from tridiff.strategies import cache_writes, cache_writes_victims, fp8
from tridiff.strategies import cache_writes_values as values
from tridiff.strategies.cache_writes_inputs import SCALES, live_cache, scaled_rows, scales_of, write_slots
from tridiff.strategies.reshape_and_cache_diffkv_case import ReshapeAndCacheDiffkvCase


def build(case: ReshapeAndCacheDiffkvCase, arena: Arena) -> Inputs:
    """Arguments of `reshape_and_cache_diffkv` for `case`; deterministic bit for bit.

    The cache is full of live data, but for the slots that tokens have. Raises `StagingError` when the machine has no address
    space for far pages.
    """
    slots, cache = cache_writes.slots_of(case), case.cache
    guard = cache.strides[1]  # slot -1 lies so far below the cache
    return {
        **scaled_rows(arena, case),
        "kv_cache": live_cache(arena, "kv_cache", case, cache, slots, case.stored_dtype, guard=guard),
        "slot_mapping": write_slots(arena, case, slots),
        **scales_of(arena, case),
        "platform": case.platform,
    }


def victim(inputs: Inputs, name: str, cells: npt.NDArray[np.int64], *, is_changed: bool = True) -> str:
    """What stood in the cache at `cells`, and by which token it is overwritten; "" of any other tensor."""
    if name != "kv_cache":
        return ""
    cache = inputs[name]
    is_fp8 = cache.dtype in fp8.DTYPES.values()
    sides = []
    for role, scale in SCALES.items():
        divisor = 1.0 if inputs[scale] is None or not is_fp8 else float(inputs[scale])
        sides.append(values.as_stored(inputs[role], cache.dtype, divisor).view(RAW[cache.element_size()]))
    target = cache_writes_victims.Target(
        cache=cache,
        page_size=int(cache.shape[1]),
        index=cache_writes_victims.plain_index(cache),
        slots=inputs["slot_mapping"],
        rows=torch.cat(sides, dim=2).view(cache.dtype),
    )
    return cache_writes_victims.victim(target, cells, is_changed=is_changed)
