"""What tokens hold that are written into a KV cache, and the scales of FP8 caches.

A writer divides a number by the scale and rounds the quotient to a code. So the standard deviation of numbers is told in
quotients, and what is hard about a format (ties, subnormals, its limits) is there for every scale.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from hypothesis import strategies as st

from tridiff.harness.api import RAW, Arena, Domain, gaussian, integers, require
from tridiff.strategies import fp8
from tridiff.strategies.draws import UNLIMITED, Weights, allowed, choose

FLOATS = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
DTYPES = FLOATS | fp8.DTYPES
"""Of the tokens' tensors and of caches. Tokens in FP8 are stored as they are, into a cache of the same format."""

DTYPE_WEIGHTS = {"float32": 6, "bfloat16": 12, "float16": 6}

PATTERNS = {"gaussian": 8, "ties": 3, "limits": 2, "subnormals": 2, "zeros": 1, "overflow": 3, "non_finite": 2}
"""See `numbers`."""

SIGMAS = {1.0: 5, 0.1: 1, 30.0: 2, 1e-3: 1}
"""Standard deviations of the quotients."""

SCALE_RANGE = (2.0**-30, 2.0**20)

_SCALED = {"gaussian", "ties", "limits"}
"""Patterns to which the standard deviation matters."""

FITS = ("fits", "overflows")
"""Whether all numbers lie in the cache's range: values of the facet `overflow`."""

_EVERY = 5


def type_fields(
    domain: Domain = UNLIMITED, *, fits: Callable[[str, str], bool] = lambda _dtype, _cache_dtype: True
) -> st.SearchStrategy[dict[str, Any]]:
    """`dtype` of the tokens and `cache_dtype`, "same" or another, those that `domain` allows and `fits`; simplest: float32, same.

    See `allowed_types` for whether there are any.
    """
    pairs = [pair for pair in allowed_types(domain) if fits(*pair)]
    dtypes = allowed(_dtypes(domain), domain, "dtype")
    caches = allowed(_cache_dtypes(domain), domain, "cache_dtype")
    return choose(dtypes, lambda dtype: any(pair[0] == dtype for pair in pairs)).flatmap(
        lambda dtype: choose(caches, lambda cache: (dtype, cache) in pairs).map(
            lambda cache: {"dtype": dtype, "cache_dtype": cache}
        )
    )


def allowed_types(domain: Domain) -> list[tuple[str, str]]:
    """Pairs of `dtype` and `cache_dtype` that `domain` allows."""
    dtypes, caches = allowed(_dtypes(domain), domain, "dtype"), allowed(_cache_dtypes(domain), domain, "cache_dtype")
    return [(dtype, cache) for dtype in dtypes for cache in caches if types_fit(dtype, cache)]


def _dtypes(domain: Domain) -> Weights[str]:
    return DTYPE_WEIGHTS | dict.fromkeys(fp8.offered(domain.target, whole=domain.whole), 1)


def _cache_dtypes(domain: Domain) -> Weights[str]:
    formats = fp8.offered(domain.target, whole=domain.whole)
    return {"same": 8} | {name: 2 * weight for name, weight in formats.items()} | {"bfloat16": 1, "float16": 1, "float32": 1}


def types_fit(dtype: str, cache_dtype: str) -> bool:
    """Whether tokens of `dtype` can be written into such a cache, and the latter is not "same" by its own name."""
    return cache_dtype == "same" or (dtype in FLOATS and cache_dtype != dtype)


def cache_type(dtype: str, cache_dtype: str) -> torch.dtype:
    """The dtype of the cache."""
    return DTYPES[dtype if cache_dtype == "same" else cache_dtype]


def is_fp8(dtype: str, cache_dtype: str) -> bool:
    """Whether the cache holds FP8 codes, those included that tokens already are."""
    return cache_type(dtype, cache_dtype) in fp8.DTYPES.values()


def is_verbatim(dtype: str) -> bool:
    """Whether tokens are codes already."""
    return dtype in fp8.DTYPES


@st.composite
def value_fields(draw: st.DrawFn, domain: Domain = UNLIMITED, *, dtype: str, cache_dtype: str) -> dict[str, Any]:
    """`pattern` and `sigma` that `domain` allows; simplest: gaussian, 1. Something must be left, see `allowed_patterns`."""
    pattern = draw(choose(allowed_patterns(domain, dtype, cache_dtype)))
    # A choice also where there is none: Hypothesis takes fewer choices for simpler.
    return {"pattern": pattern, "sigma": draw(choose(SIGMAS if pattern in _SCALED else {1.0: 1}))}


def allowed_patterns(domain: Domain, dtype: str, cache_dtype: str) -> Weights[str]:
    """Patterns that `domain` allows of tokens of `dtype` in such a cache."""
    return {
        pattern: weight
        for pattern, weight in allowed(PATTERNS, domain, "pattern").items()
        if domain.allows("overflow", overflow(pattern, dtype, cache_dtype))
    }


def overflow(pattern: str, dtype: str, cache_dtype: str) -> str:
    """Which of `FITS`: infinities and NaN are no overflow where the cache's dtype is the tokens'."""
    return FITS[pattern in {"overflow", "non_finite"} and cache_dtype not in {"same", dtype, "float32"}]


def scale_form(seed: int, *scales: float, needed: bool) -> str:
    """Which of `fp8.SCALE_FORMS`, told by the seed, as `fp8.scale_form` does; `needed`: whether the cache holds FP8."""
    if not needed:
        return "unread" if seed % 4 == 3 else "scalar"
    if 1.0 in scales:
        return "absent" if seed % 8 else "scalar"
    return "vector" if seed % 8 in {2, 5, 7} else "scalar"


def scale_form_fits(form: str, *scales: float, needed: bool) -> bool:
    """Whether scales can take that form."""
    if not needed:
        return form in {"scalar", "unread"}
    return {"absent": 1.0 in scales, "unread": False}.get(form, True)


def check_types(dtype: str, cache_dtype: str, scale_form: str, scales: Mapping[str, float]) -> None:
    """Raise `CaseError` unless tokens of `dtype` can be written into such a cache, with such `scales`, by field, in that form."""
    require(
        types_fit(dtype, cache_dtype),
        f"cache_dtype={cache_dtype!r}: must be 'same', or a dtype other than {dtype!r} where that is no FP8 format",
    )
    needed = is_fp8(dtype, cache_dtype)
    for field, scale in scales.items():
        require(needed or scale == 1.0, f"{field}={scale}: must be 1.0 unless the cache is in FP8")
    require(
        scale_form_fits(scale_form, *scales.values(), needed=needed),
        f"scale_form={scale_form!r}: must be 'scalar', or 'unread' of a cache that is not in FP8, 'vector' of one that is, or "
        "'absent' where a scale of it is 1",
    )


def scale_tensor(arena: Arena, name: str, scale: float, form: str, *, needed: bool) -> torch.Tensor | None:
    """The scale `name`, see `fp8.SCALE_FORMS`: float32 of one element, or None; poison where it is not `needed` and "unread"."""
    if form == "unread":
        return arena.tensor(name, (), torch.float32)
    if not needed or (form == "absent" and scale == 1.0):
        return None
    return arena.tensor(name, (1,) if form == "vector" else (), torch.float32).fill_(scale)


def numbers(
    pattern: str, sigma: float, seed: int, name: str, shape: tuple[int, ...], *, dtype: str, cache_dtype: str, scale: float
) -> torch.Tensor:
    """Numbers of the tensor `name` [T, ...], of `dtype`. Of a cache that is not in FP8, the scale counts as 1.

    "gaussian": normal, their quotients with standard deviation `sigma`. "ties": halfway between two codes of the cache, exactly
    so for scales that are powers of two. "limits": every fifth at the cache's largest number or its opposite. "subnormals": a few
    times its smallest number. "zeros": half of them are, of either sign. "overflow": every fifth is far beyond the cache's range,
    every fifth at the largest number of `dtype`, where that is no FP8 format. "non_finite": every fifth infinite or NaN. All
    others lie within the range.
    """
    if is_verbatim(dtype) or not is_fp8(dtype, cache_dtype):
        scale = 1.0
    cache = cache_type(dtype, cache_dtype)
    largest, most = torch.finfo(cache).max, torch.finfo(DTYPES[dtype]).max
    quotients = gaussian(seed, name, shape).to(torch.float64) * sigma
    kinds = torch.from_numpy(integers(seed, f"{name}/kinds", quotients.numel(), 2 * _EVERY)).reshape(shape)
    quotients = _PATTERNS[pattern](quotients, kinds, cache)
    limit = min(most, largest * scale)
    within = _inside((quotients * scale).clamp(-limit, limit).to(torch.float32).to(DTYPES[dtype]), limit)
    beyond = _BEYOND.get(pattern, _nothing)(quotients, kinds, limit, most)
    found = torch.where(beyond != 0, beyond, within.to(torch.float64))
    return found.to(torch.float32).to(DTYPES[dtype])


def _inside(values: torch.Tensor, limit: float) -> torch.Tensor:
    """`values`, but the next smaller number where their rounding has left the range +-`limit`."""
    smaller = (values.contiguous().view(RAW[values.element_size()]) - 1).view(values.dtype)
    outside = values.to(torch.float64).abs() > limit
    return torch.where(outside, smaller.to(torch.float32), values.to(torch.float32)).to(values.dtype)


def _as_they_are(quotients: torch.Tensor, _kinds: torch.Tensor, _cache: torch.dtype) -> torch.Tensor:
    return quotients


def _ties(quotients: torch.Tensor, _kinds: torch.Tensor, cache: torch.dtype) -> torch.Tensor:
    """Means of each number's code and the next larger one; exact in float64."""
    code = quotients.to(torch.float32).to(cache)
    further = (code.contiguous().view(RAW[cache.itemsize]) + 1).view(cache).to(torch.float64)
    code = code.to(torch.float64)
    return torch.where(further.isfinite(), (code + further) / 2, code)


def _limits(quotients: torch.Tensor, kinds: torch.Tensor, cache: torch.dtype) -> torch.Tensor:
    return torch.where(kinds < 2, torch.sign(quotients) * torch.finfo(cache).max, quotients)


def _subnormals(quotients: torch.Tensor, _kinds: torch.Tensor, cache: torch.dtype) -> torch.Tensor:
    smallest = torch.finfo(cache).smallest_normal * torch.finfo(cache).eps
    return quotients * 4 * smallest


def _zeros(quotients: torch.Tensor, kinds: torch.Tensor, _cache: torch.dtype) -> torch.Tensor:
    return torch.where(kinds < _EVERY, torch.copysign(torch.zeros_like(quotients), quotients), quotients)


_PATTERNS: Mapping[str, Callable[[torch.Tensor, torch.Tensor, torch.dtype], torch.Tensor]] = {
    **dict.fromkeys(("gaussian", "overflow", "non_finite"), _as_they_are),
    **{"ties": _ties, "limits": _limits, "subnormals": _subnormals, "zeros": _zeros},
}


def _nothing(quotients: torch.Tensor, _kinds: torch.Tensor, _limit: float, _most: float) -> torch.Tensor:
    return torch.zeros_like(quotients)


def _overflowing(quotients: torch.Tensor, kinds: torch.Tensor, limit: float, most: float) -> torch.Tensor:
    """0 but where numbers lie beyond `limit`: 1.0 to 8 times it, and at `most`."""
    sign = torch.copysign(torch.ones_like(quotients), quotients)
    times = (limit * (1.0 + 2.0 * quotients.abs())).clamp(max=most)
    return torch.where(kinds < 2, sign * times, torch.where(kinds < 4, sign * most, 0.0))


def _non_finite(quotients: torch.Tensor, kinds: torch.Tensor, _limit: float, _most: float) -> torch.Tensor:
    sign = torch.copysign(torch.ones_like(quotients), quotients)
    return torch.where(kinds == 0, sign * torch.inf, torch.where(kinds == 1, torch.nan, 0.0))


_BEYOND = {"overflow": _overflowing, "non_finite": _non_finite}


def as_stored(values: torch.Tensor, dtype: torch.dtype, scale: float = 1.0) -> torch.Tensor:
    """What the cache of `dtype` holds of `values`: FP8 codes saturated, NaN kept; what has that dtype already as it is."""
    if values.dtype == dtype or dtype not in fp8.DTYPES.values():
        return values.to(dtype)
    return fp8.quantised(values.to(torch.float32), scale, dtype).view(dtype)
