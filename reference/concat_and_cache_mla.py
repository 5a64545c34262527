"""Reference of `concat_and_cache_mla`: what every addressed token of a latent cache holds, element by element.

Read `reference`. Element i of the token in slot s lies in page s // page size at position s % page size, column i: of the latent
vector for i < R, of the rotary part from there on.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from tridiff.reference.cache_codes import division_of, scale_of, stored
from tridiff.reference.cache_slots import stored_tokens


def reference(inputs: Mapping[str, Any], rounding: Mapping[str, Any]) -> dict[str, Any]:
    """Latent vector and rotary part of each token, side by side in its slot.

    `inputs`: the launcher's keyword arguments. kv_c [T', R] and k_pe [T', P], of which the first T rows count; kv_cache
    [NB, BS, R + P] is read for shape and dtype only; slot_mapping [T], where a negative slot says that the token is not stored;
    scale, by which both parts are divided where the cache is FP8, and kv_c is not. `rounding`: optionally `division`, see
    `cache_codes.DIVISIONS`.

    Returns {"outputs": {"kv_cache": (value, bound, at)}, "conclusive": True}, float64 [n, R + P] of the n tokens that have a
    slot; no output where there is none. Raises KeyError for a missing argument, ValueError for an unknown entry of `rounding`,
    a scale that is not positive, a slot beyond the cache, and one that two tokens have.
    """
    division = division_of(rounding)
    cache = inputs["kv_cache"]
    tokens = stored_tokens(inputs["slot_mapping"], cache)
    if not tokens.token.numel():
        return {"outputs": {}, "conclusive": True}
    scale = scale_of(inputs["scale"], cache.dtype)
    parts = [stored(tokens.rows(inputs[name]), cache.dtype, scale, division) for name in ("kv_c", "k_pe")]
    value, bound = (torch.cat(both, dim=1) for both in zip(*parts, strict=True))
    outputs = {"kv_cache": (value, bound, tokens.at(cache.shape[2]))}
    return {"outputs": outputs, "conclusive": True, "signed_zeros": True}
