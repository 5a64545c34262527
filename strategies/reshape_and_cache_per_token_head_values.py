"""What keys and values hold that are quantised row by row: a row is one head of one token, and has a scale of its own.

All arithmetic is elementwise in float32, so the bits are the same on every machine.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch

from tridiff.harness.api import integers
from tridiff.strategies.profiles import normals
from tridiff.strategies.reshape_and_cache_per_token_head_case import CACHE_DTYPES, DTYPES, ReshapeAndCachePerTokenHeadCase

CODE_LIMITS = {"int8": 127, "float8_e4m3fn": 448, "float8_e4m3fnuz": 224}
"""The number that the largest element of a row becomes."""

LEAST_SCALE = 1e-6

_EXPONENTS = (-12, 4)
"""Powers of two that scales of ties may be: above the least scale, and finite in float16."""


def rows(case: ReshapeAndCachePerTokenHeadCase, name: str, width: int) -> torch.Tensor:
    """The tensor `name` [T, H, width] of `dtype`: normal with standard deviation `sigma`, changed by `pattern`.

    "gaussian": nothing. "ties": the largest element of a row is QMAX times a power of two near `sigma`, and the others lie
    half-way between two codes. "dominant": one element is 1024 times as large, so that most others become 0 or 1. "zeros": about
    half of the rows, and the first, are 0. "limits": about every eighth element is the dtype's largest number or its negative.
    "mixed_norms": about half of the rows are 2^-10 of the others.
    """
    shape = (case.num_tokens, case.num_heads, width)
    dtype = DTYPES[case.dtype]
    if case.pattern == "ties":
        return _ties(case, name, shape).to(dtype)
    values = normals(case.seed, name, shape) * case.sigma
    largest = torch.finfo(dtype).max
    if case.pattern == "dominant":
        one = _drawn(case, f"{name}/dominant", shape[:2], width)[..., None] == torch.arange(width)
        values = torch.where(one, (values * 1024).clamp(-largest, largest), values)
    if case.pattern == "limits":
        values = torch.where(_drawn(case, f"{name}/limits", shape, 8) == 0, torch.copysign(torch.tensor(largest), values), values)
    if case.pattern in {"zeros", "mixed_norms"}:
        some = _drawn(case, f"{name}/some", (*shape[:2], 1), 2) == 0
        some.view(-1)[:1] = True
        values = torch.where(some, values * (0.0 if case.pattern == "zeros" else 2.0**-10), values)
    return values.to(dtype)


def as_stored(values: torch.Tensor, dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor]:
    """Codes [T, H, width] of `dtype` and float32 scales [T, H, 1] of `values`, as float32 arithmetic gives them."""
    name = next(name for name, known in CACHE_DTYPES.items() if known is dtype)
    largest, numbers = CODE_LIMITS[name], values.to(torch.float32)
    scales = (numbers.abs().amax(dim=-1, keepdim=True) / largest).clamp(min=LEAST_SCALE)
    codes = (numbers * (1 / scales)).clamp(-largest, largest)
    if dtype == torch.int8:
        codes = torch.trunc(codes + torch.copysign(torch.tensor(0.5), codes)).nan_to_num(0.0)
    return codes.to(dtype), scales


def _ties(case: ReshapeAndCachePerTokenHeadCase, name: str, shape: Sequence[int]) -> torch.Tensor:
    """Numbers half-way between two codes, of either sign, and one that is QMAX, times a power of two."""
    between = torch.from_numpy(_half_way(case.cache_dtype))
    values = between[_drawn(case, f"{name}/ties", shape, between.numel())]
    values = torch.where(_drawn(case, f"{name}/signs", shape, 2) == 0, values, -values)
    largest = _drawn(case, f"{name}/largest", shape[:2], shape[2])[..., None] == torch.arange(shape[2])
    values = torch.where(largest, float(CODE_LIMITS[case.cache_dtype]), values)
    low, high = _EXPONENTS
    exponent = max(low, min(high, math.frexp(case.sigma)[1] - 1)) if case.sigma else low
    return values * 2.0**exponent


def _half_way(cache_dtype: str) -> np.ndarray[tuple[int], np.dtype[np.float32]]:
    """The middles between neighbouring codes from 0 to QMAX."""
    if cache_dtype == "int8":
        return np.arange(0.5, CODE_LIMITS["int8"], dtype=np.float32)
    codes = torch.arange(256, dtype=torch.uint8).view(CACHE_DTYPES[cache_dtype]).float()
    usable = np.unique(codes[(codes >= 0) & (codes <= CODE_LIMITS[cache_dtype])].numpy())
    return np.asarray((usable[1:] + usable[:-1]) / 2, dtype=np.float32)


def _drawn(case: ReshapeAndCachePerTokenHeadCase, name: str, shape: Sequence[int], bound: int) -> torch.Tensor:
    """int64 tensor of `shape` of integers in [0, bound)."""
    return torch.from_numpy(integers(case.seed, name, math.prod(shape), bound)).reshape(tuple(shape))
