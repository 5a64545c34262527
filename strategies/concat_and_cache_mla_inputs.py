"""The inputs of `concat_and_cache_mla`, every tensor of a Case with its values, and what a finding says of overwritten memory."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch

from tridiff.harness.api import RAW, Arena, Inputs
from tridiff.strategies import cache_writes, cache_writes_victims, fp8
from tridiff.strategies import cache_writes_values as values
from tridiff.strategies.cache_writes_inputs import make_live, numbers_of, write_rows, write_slots
from tridiff.strategies.concat_and_cache_mla_case import ConcatAndCacheMlaCase
from tridiff.strategies.layouts import LARGE_STORAGE_BYTES

PARTS = ("kv_c", "k_pe")


def build(case: ConcatAndCacheMlaCase, arena: Arena) -> Inputs:
    """Arguments of `concat_and_cache_mla` for `case`; deterministic bit for bit.

    The cache is full of live data, but for the slots that tokens have. Raises `StagingError` when the machine has no address
    space for far pages.
    """
    slots = cache_writes.slots_of(case)
    latent, rotary = case.kv_lora_rank, case.rope_dim
    return {
        "kv_c": write_rows(arena, case, "kv_c", numbers_of(case, "kv_c", (latent,), case.scale), case.kv_c_layout, fused=rotary),
        "k_pe": write_rows(arena, case, "k_pe", numbers_of(case, "k_pe", (rotary,), case.scale), case.k_pe_layout, fused=latent),
        "kv_cache": _cache(case, arena, slots),
        "slot_mapping": write_slots(arena, case, slots),
        "scale": values.scale_tensor(arena, "scale", case.scale, case.scale_form, needed=case.is_fp8),
        "platform": case.platform,
    }


def _cache(case: ConcatAndCacheMlaCase, arena: Arena, slots: cache_writes.Slots) -> torch.Tensor:
    """The tensor `kv_cache` [NB, BS, R + P], live, with the cells declared that must be written."""
    cache, placement = case.cache, case.placement(slots)
    (page_stride, token_stride, _, _), committed = cache.stretched(case.far, placement)
    tensor = arena.tensor(
        "kv_cache",
        (placement.num_pages, case.page_size, cache.width),
        case.stored_dtype,
        strides=(page_stride, token_stride, 1),
        committed=committed,
        lead=case.lead,
        storage_bytes=LARGE_STORAGE_BYTES if case.storage == "large" else 0,
        guard=cache.strides[1],  # slot -1 lies so far below the cache
    )
    page, offset, _, column = cache.index(*slots.places(placement))
    make_live(arena, "kv_cache", case.seed, (page, offset, column))
    return tensor


def victim(inputs: Inputs, name: str, cells: npt.NDArray[np.int64], *, is_changed: bool = True) -> str:
    """What stood in the cache at `cells`, and by which token it is overwritten; "" of any other tensor."""
    if name != "kv_cache":
        return ""
    cache, scale = inputs[name], inputs["scale"]
    divisor = 1.0 if scale is None or cache.dtype not in fp8.DTYPES.values() else float(scale)
    rows = [values.as_stored(inputs[part], cache.dtype, divisor).view(RAW[cache.element_size()]) for part in PARTS]
    target = cache_writes_victims.Target(
        cache=cache,
        page_size=int(cache.shape[1]),
        index=cache_writes_victims.plain_index(cache),
        slots=inputs["slot_mapping"],
        rows=torch.cat(rows, dim=1)[:, None].view(cache.dtype),
        has_heads=False,
    )
    return cache_writes_victims.victim(target, cells, is_changed=is_changed)
