"""Reference of `reshape_and_cache_diffkv`: what every addressed token of a cache of keys and values side by side holds.

Read `reference`. Row h of the token in slot s lies in page s // page size at position s % page size: its key in the first Dk
columns, its value in the Dv behind them.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from tridiff.reference.cache_codes import division_of, scale_of, stored
from tridiff.reference.cache_slots import stored_tokens


def reference(inputs: Mapping[str, Any], rounding: Mapping[str, Any]) -> dict[str, Any]:
    """Key and value of each head of each token, side by side in its slot.

    `inputs`: the launcher's keyword arguments. key [T', H, Dk] and value [T', H, Dv], of which the first T tokens count; kv_cache
    [NB, BS, H, Dk + Dv] is read for shape and dtype only; slot_mapping [T], where a negative slot says that the token is not
    stored; k_scale and v_scale, by which keys and values are divided where the cache is FP8, and they are not. `rounding`:
    optionally `division`, see `cache_codes.DIVISIONS`.

    Returns {"outputs": {"kv_cache": (value, bound, at)}, "conclusive": True}, float64 [n, H, Dk + Dv] of the n tokens that have
    a slot; no output where there is none. Raises KeyError for a missing argument, ValueError for an unknown entry of `rounding`,
    a scale that is not positive, a slot beyond the cache, and one that two tokens have.
    """
    division = division_of(rounding)
    cache = inputs["kv_cache"]
    tokens = stored_tokens(inputs["slot_mapping"], cache)
    if not tokens.token.numel():
        return {"outputs": {}, "conclusive": True}
    sides = [
        stored(tokens.rows(inputs[name]), cache.dtype, scale_of(inputs[scale], cache.dtype), division)
        for name, scale in (("key", "k_scale"), ("value", "v_scale"))
    ]
    value, bound = (torch.cat(both, dim=2) for both in zip(*sides, strict=True))
    outputs = {"kv_cache": (value, bound, tokens.at(*cache.shape[2:]))}
    return {"outputs": outputs, "conclusive": True, "signed_zeros": True}
