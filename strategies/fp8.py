"""FP8 caches: which formats a target has, and numbers as codes with a scale.

A cache holds codes; a kernel reads float(code) * scale. Scales are chosen so that the codes of ordinary values neither all
vanish nor all saturate, and so that what is dequantised stays finite in the query's dtype.
"""

from __future__ import annotations

import torch

from tridiff.strategies.draws import Weights

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

SCALES = (1.0, 0.37, 1.7, 0.25, 4.0, 2.0**-6, 2.0**6, 2.0**-10, 2.0**-20)
"""Powers of two and others; the last two for tiny values only, see `fits`."""

_MOST_CODE = 0.25
_LEAST_CODE = 2.0**-5


def formats(target: str) -> Weights[str]:
    """FP8 formats of caches that kernels for `target` can read, by weight.

    gfx942 has the FNUZ formats in hardware and the OCP ones in software, gfx950 the reverse; elsewhere FNUZ is no format of
    the part, and Triton's back end fails on it on gfx90a and gfx11. NVIDIA has OCP e4m3 from sm_89 on (Triton's
    `supported_fp8_dtypes`).
    """
    return _FORMATS.get(target, _OCP)


def fits(scale: float, cache_dtype: str, dtype: torch.dtype, sigma: float) -> bool:
    """Whether `scale` suits values of standard deviation `sigma` that are dequantised to `dtype`.

    The deviation, in codes, lies between 2^-5 and a quarter of the format's range; the largest code stays finite.
    """
    largest = LARGEST[cache_dtype]
    return _LEAST_CODE <= sigma / scale <= _MOST_CODE * largest and largest * scale <= torch.finfo(dtype).max


def quantised(values: torch.Tensor, scale: float, dtype: torch.dtype) -> torch.Tensor:
    """Codes of float32 `values` for `scale`, as uint8: divided, clamped to the format's range, rounded to nearest even."""
    largest = torch.finfo(dtype).max
    return (values / scale).clamp(-largest, largest).to(dtype).view(torch.uint8)
