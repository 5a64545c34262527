"""Roundings of float32 arithmetic and of stored results: what the error bounds of several families count in."""

from __future__ import annotations

import math

import torch
from torch import Tensor

UNIT = 2.0**-24
"""Unit roundoff of float32, in which every kernel accumulates."""

UNDERFLOW = 2.0**-150
"""Largest error of a float32 product or quotient below the normal range: half of the smallest subnormal."""

NORMAL = 2.0**-126
"""Smallest normal float32: what a flushed result may lose. GPUs flush exp2 (v_exp_f32, ex2.approx.ftz)."""

LARGEST = torch.finfo(torch.float32).max
"""Beyond it float32 overflows."""


def gamma(roundings: float) -> float:
    """Relative error of `roundings` float32 roundings in a row: k u / (1 - k u) (Higham, Accuracy and Stability, 3.1)."""
    product = roundings * UNIT
    return product / (1 - product) if product < 1 else math.inf


def stored(value: Tensor, error: Tensor, dtype: torch.finfo) -> Tensor:
    """Bound after rounding `value` +- `error` to `dtype`; infinite where the rounded value may overflow."""
    bound = error + unit_of(dtype) * (value.abs() + error) + subnormal_of(dtype) / 2
    return bound.masked_fill(value.abs() + error > dtype.max, math.inf)


def unit_of(dtype: torch.finfo) -> float:
    """Unit roundoff."""
    return float(dtype.eps) / 2


def subnormal_of(dtype: torch.finfo) -> float:
    """Smallest subnormal."""
    return float(dtype.smallest_normal) * float(dtype.eps)
