"""FP8 caches: which formats a target has, and numbers as codes with a scale.

A cache holds codes; a kernel reads float(code) * scale. Scales are chosen so that the codes of ordinary values neither all
vanish nor all saturate, and so that what is dequantised stays finite in the query's dtype.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from hypothesis import strategies as st

from tridiff.harness.api import Domain, require
from tridiff.strategies.draws import Weights, allowed, choose

DTYPES = {
    "float8_e4m3fn": torch.float8_e4m3fn,
    "float8_e4m3fnuz": torch.float8_e4m3fnuz,
    "float8_e5m2": torch.float8_e5m2,
}
LARGEST = {name: torch.finfo(dtype).max for name, dtype in DTYPES.items()}
"""448, 240 and 57344 (OCP 8-bit Floating Point 1.0; Noune et al. 2022 for FNUZ)."""

_OCP = {"float8_e4m3fn": 6, "float8_e5m2": 3}
_FORMATS = {
    "gfx942": {"float8_e4m3fnuz": 5, "float8_e4m3fn": 4, "float8_e5m2": 2},
    "gfx950": {"float8_e4m3fn": 5, "float8_e4m3fnuz": 2, "float8_e5m2": 3},
    "sm_80": {"float8_e5m2": 6},
    "sm_86": {"float8_e5m2": 6},
}

K_SCALES = {1.0: 1, 0.37: 4, 1.7: 4, 0.25: 1, 4.0: 1, 2.0**-6: 1, 2.0**6: 1, 2.0**-10: 1}
V_SCALES = {1.0: 1, 0.37: 3, 1.7: 3, 0.25: 1, 4.0: 1, 2.0**-6: 1, 2.0**6: 1, 2.0**-10: 1}
"""Powers of two and others."""

SCALE_FORMS = ("scalar", "vector", "absent", "unread")
"""How scales reach the launcher. Of FP8 caches, as tensors of no dimension or of one; "absent": None for every scale that is 1.
Of other caches, as None; "unread": as tensors all the same, which hold poison."""

_FORM_NEEDS = {
    "vector": "an FP8 format as cache_dtype",
    "absent": "an FP8 format as cache_dtype and a k_scale or v_scale of 1.0",
    "unread": "cache_dtype='same'",
}

_SAME = 17
_EACH = 4
_MOST_CODE = 0.25
_LEAST_CODE = 2.0**-6


def formats(target: str) -> Weights[str]:
    """FP8 formats of caches that kernels for `target` can read, by weight.

    gfx942 has the FNUZ formats in hardware and the OCP ones in software, gfx950 the reverse; elsewhere FNUZ is no format of
    the part, and converted to bfloat16 it aborts Triton's back end on gfx90a and gfx11. NVIDIA has OCP e4m3 from sm_89 on
    (Triton's `supported_fp8_dtypes`).
    """
    return _FORMATS.get(target, _OCP)


def offered(target: str, *, whole: bool) -> Weights[str]:
    """`formats`; with `whole` all that there are, so that a launcher is asked for what the part lacks as well."""
    return {**formats(target), **dict.fromkeys(DTYPES, _EACH)} if whole else formats(target)


Fits = Callable[[str, float, float], bool]
"""(cache dtype, scale of K, scale of V) -> whether they are on offer."""


def _any(_cache_dtype: str, _k_scale: float, _v_scale: float) -> bool:
    return True


@st.composite
def cache_types(draw: st.DrawFn, domain: Domain, fits: Fits = _any) -> dict[str, Any]:
    """`cache_dtype`, "same" or a format `offered` for the target, with the latter `k_scale` and `v_scale`; simplest: "same".

    Of what `fits` there must be something. Drawn before the values, which must suit the scales: the other way round a scale could
    not become simpler alone.
    """
    k_scales, v_scales = allowed(K_SCALES, domain, "k_scale"), allowed(V_SCALES, domain, "v_scale")

    def fits_key(cache_dtype: str, k_scale: float) -> bool:
        return any(fits(cache_dtype, k_scale, v_scale) for v_scale in v_scales)

    def fits_at_all(cache_dtype: str) -> bool:
        if cache_dtype == "same":
            return fits(cache_dtype, 1.0, 1.0)
        return any(fits_key(cache_dtype, k_scale) for k_scale in k_scales)

    cache_dtype = draw(choose({"same": _SAME, **offered(domain.target, whole=domain.whole)}, fits_at_all))
    if cache_dtype == "same":
        return {"cache_dtype": cache_dtype}
    k_scale = draw(choose(k_scales, lambda scale: fits_key(cache_dtype, scale)))
    v_scale = draw(choose(v_scales, lambda scale: fits(cache_dtype, k_scale, scale)))
    return {"cache_dtype": cache_dtype, "k_scale": k_scale, "v_scale": v_scale}


def scale_form(seed: int, cache_dtype: str, k_scale: float = 1.0, v_scale: float = 1.0) -> str:
    """Which of `SCALE_FORMS`, told by the seed: no choice of its own, that other fields would have to shrink around.

    A tensor that holds 1 shows nothing that other scales do not, so with one "absent" comes 7 times in 8; "vector" 3 times in 8,
    "unread" once in 4; for seed 0 "scalar", the simplest.
    """
    if cache_dtype == "same":
        return "unread" if seed % 4 == 3 else "scalar"
    if 1.0 in (k_scale, v_scale):
        return "absent" if seed % 8 else "scalar"
    return "vector" if seed % 8 in {2, 5, 7} else "scalar"


def form_fits(form: str, cache_dtype: str, k_scale: float, v_scale: float) -> bool:
    """Whether the scales can take that form: see `SCALE_FORMS`."""
    if cache_dtype == "same":
        return form in {"scalar", "unread"}
    return {"absent": 1.0 in (k_scale, v_scale), "unread": False}.get(form, True)


def check_form(form: str, cache_dtype: str, k_scale: float, v_scale: float) -> None:
    """Raise `CaseError` unless the scales can take that form."""
    fits = form_fits(form, cache_dtype, k_scale, v_scale)
    require(fits, f"scale_form={form!r}: must be combined with {_FORM_NEEDS.get(form)}")


def check_scales(cache_dtype: str, k_scale: float, v_scale: float, dtype: torch.dtype) -> None:
    """Raise `CaseError` unless caches of that format have such scales, and what is dequantised is finite in `dtype`."""
    for field, scale in {"k_scale": k_scale, "v_scale": v_scale}.items():
        require(scale == 1.0 or cache_dtype != "same", f"{field}={scale}: must be 1.0 unless cache_dtype is an FP8 format")
    require(
        stays_finite(cache_dtype, max(k_scale, v_scale), dtype),
        f"k_scale={k_scale}, v_scale={v_scale}: {cache_dtype} times that overflows {str(dtype).removeprefix('torch.')}",
    )


def suits(cache_dtype: str, scale: float, sigma: float) -> bool:
    """Whether values of standard deviation `sigma` suit the format and `scale`.

    Their deviation in codes lies between 2^-6 and a quarter of the format's range. Any values suit "same".
    """
    return cache_dtype == "same" or _LEAST_CODE <= sigma / scale <= _MOST_CODE * LARGEST[cache_dtype]


def stays_finite(cache_dtype: str, scale: float, dtype: torch.dtype) -> bool:
    """Whether the largest number of the format, times `scale`, is finite in `dtype`."""
    return cache_dtype == "same" or LARGEST[cache_dtype] * scale <= torch.finfo(dtype).max


def quantised(values: torch.Tensor, scale: float, dtype: torch.dtype) -> torch.Tensor:
    """Codes of float32 `values` for `scale`, as uint8: divided, clamped to the format's range, rounded to nearest even."""
    largest = torch.finfo(dtype).max
    return (values / scale).clamp(-largest, largest).to(dtype).view(torch.uint8)
