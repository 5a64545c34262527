"""Reference of `reshape_and_cache`: token by token, where each element goes by the layouts' formulas, and what it is there."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from tridiff.reference.cache_codes import division_of, scale_of, stored

_PACK_BYTES = 16


def reference(inputs: Mapping[str, Any], rounding: Mapping[str, Any]) -> dict[str, Any]:
    """What the caches hold in the slots of all tokens whose slot is not negative.

    `inputs`: the launcher's keyword arguments, see `strategies/reshape_and_cache.py`; none is written, and of the caches nothing
    is read but dtypes and shapes. `rounding`: optionally `division`, see `cache_codes.DIVISIONS`.

    Returns {"outputs": {"key_cache": (value, bound, at), "value_cache": ...}, "conclusive": True}: float64 [n, H, D] for the n
    tokens that are written, and the indices of these elements; no outputs if n is 0. The bound is 0 but where an inexact division
    may reach another code; where it is 0, so must the sign of a zero be right ("signed_zeros": True). Raises ValueError for an
    unknown entry of `rounding`, a scale that is not positive, a slot beyond the caches, and one that two tokens have.
    """
    division = division_of(rounding)
    written = _written(inputs)
    if not written:
        return {"outputs": {}, "conclusive": True}
    outputs = {}
    for name, scale, place in (("key", "k_scale", _key_place), ("value", "v_scale", _value_place)):
        cache = inputs[f"{name}_cache"]
        rows = torch.stack([inputs[name][token].cpu() for token in written])
        value, bound = stored(rows, cache.dtype, scale_of(inputs[scale], cache.dtype), division)
        heads, width = rows.shape[1:]
        places = [list(place(inputs, page, offset, heads, width)) for page, offset in written.values()]
        outputs[f"{name}_cache"] = (value, bound, tuple(torch.stack(part) for part in zip(*places, strict=True)))
    return {"outputs": outputs, "conclusive": True, "signed_zeros": True}


def _written(inputs: Mapping[str, Any]) -> dict[int, tuple[int, int]]:
    """Page and position of each token that is written."""
    page_size, pages = _page_size(inputs), int(inputs["key_cache"].shape[0])
    slots = {token: int(slot) for token, slot in enumerate(inputs["slot_mapping"]) if int(slot) >= 0}
    for token, slot in slots.items():
        if slot >= pages * page_size:
            raise ValueError(f"slot_mapping[{token}] is {slot}: must be below {pages * page_size}, the slots of the cache")
    if len(set(slots.values())) < len(slots):
        raise ValueError(f"slot_mapping is {list(slots.values())}: no two tokens may have the same slot")
    return {token: divmod(slot, page_size) for token, slot in slots.items()}


def _page_size(inputs: Mapping[str, Any]) -> int:
    cache = inputs["key_cache"]
    return int(cache.shape[3] if cache.dim() == 5 else cache.shape[1])


def _key_place(inputs: Mapping[str, Any], page: int, offset: int, heads: int, width: int) -> Iterator[Tensor]:
    """Index of K's elements of one token, [heads, width] for each dimension: [NB, BS, H, D], or [NB, H, D/x, BS, x]."""
    head, column = _grid(heads, width)
    if inputs["key_cache"].dim() == 4:
        return map(_filled(head), (page, offset, head, column))
    x = int(inputs["key_cache"].shape[4])
    return map(_filled(head), (page, head, column // x, offset, column % x))


def _value_place(inputs: Mapping[str, Any], page: int, offset: int, heads: int, width: int) -> Iterator[Tensor]:
    """Index of V's elements of one token: [NB, BS, H, Dv], or [NB, H, Dv, BS], whose last two may be [BS/p, Dv, p] in memory."""
    head, column = _grid(heads, width)
    if inputs["key_cache"].dim() == 4:
        return map(_filled(head), (page, offset, head, column))
    if not inputs["interleaved"]:
        return map(_filled(head), (page, head, column, offset))
    page_size, p = _page_size(inputs), _PACK_BYTES // inputs["value_cache"].element_size()
    at = (offset // p) * width * p + column * p + offset % p
    return map(_filled(head), (page, head, at // page_size, at % page_size))


def _grid(heads: int, width: int) -> tuple[Tensor, Tensor]:
    """Head and column of each element, int64 [heads, width]."""
    head, column = torch.meshgrid(torch.arange(heads), torch.arange(width), indexing="ij")
    return head, column


def _filled(like: Tensor) -> Any:
    """Makes a number a tensor of the shape of `like`."""
    return lambda part: part if isinstance(part, Tensor) else torch.full_like(like, part)
