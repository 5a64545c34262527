"""The inputs of `reshape_and_cache`, every tensor of a Case with its values, and what a finding says of overwritten memory."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch

from tridiff.harness.api import Arena, Inputs
from tridiff.strategies import cache_writes, cache_writes_victims, fp8
from tridiff.strategies import cache_writes_values as values
from tridiff.strategies.cache_writes_inputs import SCALES, live_cache, scaled_rows, scales_of, write_slots
from tridiff.strategies.kv_caches import KVCache
from tridiff.strategies.reshape_and_cache_case import ReshapeAndCacheCase


def build(case: ReshapeAndCacheCase, arena: Arena) -> Inputs:
    """Arguments of `reshape_and_cache` for `case`; deterministic bit for bit.

    Both caches are full of live data, but for the cells that must be written. Raises `StagingError` when the machine has no
    address space for far pages.
    """
    slots = cache_writes.slots_of(case)
    return {
        **scaled_rows(arena, case),
        **{f"{role}_cache": _cache(case, arena, role, slots) for role in SCALES},
        "slot_mapping": write_slots(arena, case, slots),
        **scales_of(arena, case),
        "interleaved": case.kind == "interleaved",
        "platform": case.platform,
    }


def _cache(case: ReshapeAndCacheCase, arena: Arena, role: str, slots: cache_writes.Slots) -> torch.Tensor:
    """The tensor `key_cache` or `value_cache`, live, with the cells declared that must be written."""
    cache = case.cache(role)
    return live_cache(arena, f"{role}_cache", case, cache, slots, case.stored_dtype, guard=_guard(cache))


def _guard(cache: KVCache) -> int:
    """Elements from the first slot to the one before it, were there one: of kind "nhd" a token, of others a pack or less."""
    return cache.strides[1] if cache.kind == "nhd" else cache.pack


def victim(inputs: Inputs, name: str, cells: npt.NDArray[np.int64], *, is_changed: bool = True) -> str:
    """What stood in the cache `name` at `cells`, and by which token it is overwritten; "" of any other tensor."""
    role = name.removesuffix("_cache")
    if name == role or role not in SCALES:
        return ""
    cache: torch.Tensor = inputs[name]
    scale = inputs[SCALES[role]]
    is_fp8 = cache.dtype in fp8.DTYPES.values()
    rows = values.as_stored(inputs[role], cache.dtype, 1.0 if scale is None or not is_fp8 else float(scale))
    known = _described(inputs, role)
    target = cache_writes_victims.Target(
        cache=cache, page_size=known.page_size, index=_index(known), slots=inputs["slot_mapping"], rows=rows
    )
    return cache_writes_victims.victim(target, cells, is_changed=is_changed)


def _described(inputs: Inputs, role: str) -> KVCache:
    """What is known of a cache by its tensors; its strides are the tensor's own."""
    cache, is_packed = inputs[f"{role}_cache"], inputs["key_cache"].dim() == 5
    kind = "nhd" if not is_packed else "interleaved" if inputs["interleaved"] else "head_major"
    width = int(inputs[role].shape[2])
    return KVCache(
        role=role,
        kind=kind,
        order="token_major",
        pages="packed",
        gap=1,
        page_size=int(cache.shape[1] if kind == "nhd" else cache.shape[3]),
        num_heads=int(inputs[role].shape[1]),
        width=width,
        neighbour=width,
        itemsize=cache.element_size(),
    )


def _index(cache: KVCache) -> cache_writes_victims.Index:
    """As `KVCache.index`; of a negative position in packs as the device has it, whose division truncates."""

    def index(pages: torch.Tensor, positions: torch.Tensor) -> tuple[torch.Tensor, ...]:
        packed = cache.kind == "interleaved" and cache.role == "value"
        if not packed or not bool((positions < 0).any()):
            return cache.index(pages, positions)
        within = torch.fmod(positions, cache.pack)
        page, head, *_ = cache.index(pages, positions)
        column = torch.arange(cache.width)[None, None, :]
        start = (positions - within)[:, None, None] * cache.width
        at = start + column * cache.pack + within[:, None, None]
        return page, head, at // cache.page_size, at % cache.page_size

    return index
