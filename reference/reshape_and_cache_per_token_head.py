"""Reference of `reshape_and_cache_per_token_head`: keys and values as codes, with a scale for each head of each token.

Read `reference` first, then `scales` and `codes`. How far a correct kernel may be off is derived in
`docs/explanation/tolerance.md`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from tridiff.reference.cache_codes import DIVISIONS, division_of, saturated
from tridiff.reference.cache_slots import stored_tokens
from tridiff.reference.roundings import UNIT

LIMITS = {torch.int8: (-128.0, 127.0), torch.float8_e4m3fn: (-448.0, 448.0), torch.float8_e4m3fnuz: (-224.0, 224.0)}
"""QMIN and QMAX: between these are codes, and the largest element of a row becomes QMAX. In e4m3fnuz that is 224, not 240, as in
vLLM."""

FLOOR = 1e-6
"""Least scale: that of a row of zeros."""


def reference(inputs: Mapping[str, Any], rounding: Mapping[str, Any]) -> dict[str, Any]:
    """Codes and scale of every head of every token, in its slot.

    `inputs`: the launcher's keyword arguments. key [T', H, D] and value [T', H, Dv], of which the first T tokens count; key_cache
    and value_cache [NB, BS, H, D or Dv], k_scale_cache and v_scale_cache [NB, BS, H] are read for shape and dtype only;
    slot_mapping [T], where a negative slot says that the token is not stored: the others lie in page s // BS at position s % BS.
    `rounding`: optionally `division`, see `cache_codes.DIVISIONS`.

    Returns {"outputs": {name: (value, bound, at)}, "conclusive": True} for these four, float64 [n, H, width] and [n, H] of the
    n tokens that have a slot; no output where there is none. Raises KeyError for a missing argument, ValueError for an unknown
    entry of `rounding`, for a row that holds what is no finite number, for a slot beyond the caches and one that two tokens have.
    """
    division = division_of(rounding)
    tokens = stored_tokens(inputs["slot_mapping"], inputs["key_cache"])
    if not tokens.token.numel():
        return {"outputs": {}, "conclusive": True}
    outputs: dict[str, tuple[Tensor, Tensor, tuple[Tensor, ...]]] = {}
    for name, scale_cache in (("key", "k_scale_cache"), ("value", "v_scale_cache")):
        cache, rows = inputs[f"{name}_cache"], tokens.rows(inputs[name]).to(torch.float64)
        if not bool(rows.isfinite().all()):
            raise ValueError(f"{name} holds what is no finite number in a token that has a slot: no kernel can be judged by it")
        scale, slack = (each[..., 0] for each in scales(rows, cache.dtype, division))
        outputs[scale_cache] = (scale, slack, tokens.at(cache.shape[2]))
        outputs[f"{name}_cache"] = (*codes(rows, cache.dtype, division), tokens.at(*cache.shape[2:]))
    return {"outputs": outputs, "conclusive": True}


def scales(rows: Tensor, dtype: torch.dtype, division: str) -> tuple[Tensor, Tensor]:
    """The scale of each of `rows` [n, H, width], and its bound, [n, H, 1].

    The largest magnitude over QMAX, or `FLOOR`, correctly rounded to float32: so known exactly where divisions are "ieee". Others
    may be off by what they are declared to be, and by the rounding of the value itself.
    """
    value = _exact_scales(rows, dtype).float().double()
    return value, torch.zeros_like(value) if division == "ieee" else value * (DIVISIONS[division] + UNIT) * (1 + 2 * UNIT)


def codes(rows: Tensor, dtype: torch.dtype, division: str) -> tuple[Tensor, Tensor]:
    """The codes of `rows` [n, H, width] as numbers, and how far the farthest one lies that a correct kernel may choose.

    The value is what correctly rounded float32 arithmetic gives. A correct kernel's product lies in an interval around the exact
    one, and it may choose any code between those of the interval's ends.
    """
    scale = _exact_scales(rows, dtype)
    inverse = (1 / scale.float()).double()
    value = _nearest((rows * inverse).float(), dtype)
    exact = rows / scale
    error = exact.abs() * _relative_error(scale, exact, division)
    if dtype == torch.int8:
        # The sum with a half is rounded as well, unless it is exact, as from a tie.
        error = error + torch.where(_is_integer(2 * exact), 0.0, (exact.abs() + error + 0.5) * UNIT)
    ends = [_nearest((exact + sign * error).float(), dtype) for sign in (-1, 1)]
    return value, torch.maximum(*((end - value).abs() for end in ends))


def _exact_scales(rows: Tensor, dtype: torch.dtype) -> Tensor:
    return (rows.abs().amax(dim=-1, keepdim=True) / LIMITS[dtype][1]).clamp(min=FLOOR)


def _relative_error(scale: Tensor, exact: Tensor, division: str) -> Tensor:
    """Of the product x * (1 / scale): from the roundings of scale, inverse and product.

    Correctly rounded, those that are exact add nothing: where a scale is a power of two nothing is rounded, and what lies
    half-way between two codes does so for every kernel.
    """
    if division != "ieee":
        return torch.full_like(exact, (1 + UNIT) / (1 - DIVISIONS[division]) ** 2 - 1)
    inexact = (~_is_float32(number) for number in (scale, 1 / scale, exact))
    roundings = UNIT * sum((each.double() for each in inexact), start=torch.zeros_like(exact))
    return roundings / (1 - roundings)


def _is_integer(number: Tensor) -> Tensor:
    return number == number.round()


def _is_float32(number: Tensor) -> Tensor:
    return number.float().double() == number


def _nearest(number: Tensor, dtype: torch.dtype) -> Tensor:
    """The code that is nearest to float32 `number`, as float64: int8 from a tie away from zero, FP8 to the even one."""
    number = number.clamp(*LIMITS[dtype])
    if dtype == torch.int8:
        return torch.trunc(number + torch.copysign(torch.tensor(0.5), number)).double()
    return saturated(number, dtype)
