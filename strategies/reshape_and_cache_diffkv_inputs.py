"""The inputs of `reshape_and_cache_diffkv`: every tensor of a Case, and what a finding says of overwritten memory."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch

from tridiff.harness.api import RAW, Arena, Inputs
from tridiff.strategies import cache_writes, cache_writes_victims, fp8
from tridiff.strategies import cache_writes_values as values
from tridiff.strategies.reshape_and_cache_diffkv_case import ReshapeAndCacheDiffkvCase

SCALES = {"key": "k_scale", "value": "v_scale"}


def build(case: ReshapeAndCacheDiffkvCase, arena: Arena) -> Inputs:
    """Arguments of `reshape_and_cache_diffkv` for `case`; deterministic bit for bit.

    The cache is full of live data, but for the slots that tokens have. Raises `StagingError` when the machine has no address
    space for far pages.
    """
    slots = cache_writes.slots_of(case)
    needed = values.is_fp8(case.dtype, case.cache_dtype)
    return {
        **{role: _rows(case, arena, role) for role in SCALES},
        "kv_cache": _cache(case, arena, slots),
        "slot_mapping": cache_writes.write_slots(arena, case, slots, case.placement(slots)),
        **{
            name: values.scale_tensor(arena, name, getattr(case, name), case.scale_form, needed=needed)
            for name in SCALES.values()
        },
        "platform": case.platform,
    }


def _rows(case: ReshapeAndCacheDiffkvCase, arena: Arena, role: str) -> torch.Tensor:
    """The tensor `key` or `value`, [T + padding, H, Dk or Dv]."""
    own, other = (case.head_dim, case.head_dim_v) if role == "key" else (case.head_dim_v, case.head_dim)
    content = values.numbers(
        case.pattern,
        case.sigma,
        case.seed,
        role,
        (case.num_tokens, case.num_heads, own),
        dtype=case.dtype,
        cache_dtype=case.cache_dtype,
        scale=getattr(case, SCALES[role]),
    )
    layout = case.key_layout if role == "key" else case.value_layout
    fused = case.num_heads * (case.head_dim + other)  # as many query heads as KV heads beside this side and the other one
    return cache_writes.write_rows(
        arena, role, content, case.padding_rows, layout=layout, gap=case.gap, lead=case.lead, fused=fused
    )


def _cache(case: ReshapeAndCacheDiffkvCase, arena: Arena, slots: cache_writes.Slots) -> torch.Tensor:
    """The tensor `kv_cache`, live, with the cells declared that must be written."""
    cache, placement = case.cache, case.placement(slots)
    tensor = cache.allocate(
        arena,
        "kv_cache",
        values.cache_type(case.dtype, case.cache_dtype),
        placement,
        lead=case.lead,
        storage=case.storage,
        guard=cache.strides[1],  # slot -1 lies so far below the cache
    )
    cache_writes.make_live(arena, "kv_cache", case.seed, cache.index(*slots.places(placement)))
    return tensor


def victim(inputs: Inputs, name: str, cells: npt.NDArray[np.int64]) -> str:
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
    return cache_writes_victims.victim(target, cells)
