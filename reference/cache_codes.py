"""What a KV cache holds of a number: the nearest number of its dtype, and how far from it a legitimate quotient may lead.

FP8 formats: OCP 8-bit Floating Point Formats 1.0 (e4m3fn, e5m2) and Noune et al. 2022, arXiv 2206.02915 (e4m3fnuz). A writer
divides a number by the scale in float32 and rounds the quotient to nearest even; beyond the largest number it is that number,
infinities included, and NaN stays NaN. Which codes an inexact division may reach is derived in `docs/explanation/tolerance.md`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from tridiff.reference.roundings import gamma

FP8_DTYPES = (torch.float8_e4m3fn, torch.float8_e4m3fnuz, torch.float8_e5m2)

DIVISIONS = {"ieee": 0.0, "approximate": gamma(5), "reciprocal": gamma(2)}
"""Relative error of a quotient beside that of "ieee", which is the correctly rounded float32 quotient and nothing else.

"approximate": off by two ulps, or a product (1) with a reciprocal that is (4). "reciprocal": the product with the correctly
rounded reciprocal of the scale.
"""


def division_of(rounding: Mapping[str, Any]) -> str:
    """The entry "division" of a kernel's rounding, "ieee" without one. Raises ValueError for another entry or value."""
    unknown = sorted(set(rounding) - {"division"})
    if unknown:
        raise ValueError(f"rounding has the unknown entry {unknown[0]!r}: known is division")
    division = rounding.get("division", "ieee")
    if division not in DIVISIONS:
        raise ValueError(f"rounding has division={division!r}: must be one of {', '.join(DIVISIONS)}")
    return str(division)


def scale_of(scale: Tensor | None, cache: torch.dtype) -> float:
    """The scale of a cache, 1 if it is None or the cache holds no FP8. Raises ValueError if it is not positive and finite."""
    if scale is None or cache not in FP8_DTYPES:
        return 1.0
    value = float(scale)
    if not 0.0 < value < float("inf"):
        raise ValueError(f"a scale is {value}: must be a positive number")
    return value


def stored(values: Tensor, cache: torch.dtype, scale: float = 1.0, division: str = "ieee") -> tuple[Tensor, Tensor]:
    """What a cache of dtype `cache` holds of `values`, and the largest legitimate distance from it: both float64 of their shape.

    Values of the cache's dtype are stored as they are, and into any dtype but FP8 they are cast: both have bound 0.
    """
    if cache not in FP8_DTYPES or values.dtype == cache:
        exact = values.to(cache).to(torch.float32).to(torch.float64)
        return exact, torch.zeros_like(exact)
    return quotient_codes(values.to(torch.float32), scale, cache, division)


def quotient_codes(values: Tensor, scale: float, dtype: torch.dtype, division: str) -> tuple[Tensor, Tensor]:
    """Numbers of the FP8 `dtype` nearest to float32 `values` / `scale`, and the distance to the farthest that can be reached."""
    if division == "ieee":
        nearest = saturated(values / torch.tensor(scale, dtype=torch.float32), dtype)
        return nearest, torch.zeros_like(nearest)
    exact = values.to(torch.float64) / float(torch.tensor(scale, dtype=torch.float32))
    return reachable(exact, DIVISIONS[division], dtype)


def reachable(exact: Tensor, error: float, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """The number of the FP8 `dtype` nearest to float64 `exact`, and the distance to the farthest within the relative `error`."""
    value = saturated(exact, dtype)
    ends = [saturated(exact * (1 + sign * error), dtype) for sign in (-1, 1)]
    bound = torch.maximum(*((end - value).abs() for end in ends))
    return value, bound.masked_fill(exact.isnan(), 0.0)


def saturated(values: Tensor, dtype: torch.dtype) -> Tensor:
    """`values` rounded to the nearest number of the FP8 `dtype`, ties to the even code, float64; the largest beyond it, NaN kept.

    By arithmetic in float64, where all of it is exact, and by none of torch's conversions. A zero keeps its sign, unless the
    format is e4m3fnuz, which has but one.
    """
    info, wide = torch.finfo(dtype), values.to(torch.float64)
    largest, smallest = float(info.max), float(info.smallest_normal)
    inside = wide.clamp(-largest, largest)
    _, exponent = torch.frexp(inside.abs().clamp(min=smallest))
    step = torch.ldexp(torch.full_like(inside, float(info.eps)), exponent - 1)
    nearest = torch.round(inside / step) * step
    return nearest + 0.0 if dtype == torch.float8_e4m3fnuz else nearest
