"""What the writers of KV caches store: elements converted into the dtype of the cache; and which FP8 formats a GPU converts.

A number x becomes, with the scale of an FP8 cache, the code nearest to x / scale, ties to even, no larger than the largest finite
one of the format; NaN stays NaN. In other caches it is rounded to nearest even, and becomes infinite beyond the largest number.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl

FP8_DTYPES = (torch.float8_e4m3fn, torch.float8_e4m3fnuz, torch.float8_e5m2)

E4M3FN_SINCE = 89
"""The first of NVIDIA's parts, sm_89, for which Triton converts e4m3fn."""


class Unsupported(NotImplementedError):
    """The GPU lacks what the arguments ask for: an FP8 format. Raised before anything is compiled."""


def require_convertible(dtype: torch.dtype) -> None:
    """Raise `Unsupported` where Triton's active target cannot convert float32 into the FP8 format `dtype`.

    NVIDIA has no FNUZ formats, and e4m3fn from sm_89 on (`supported_fp8_dtypes` of Triton's back end). AMD's parts convert into
    all of `FP8_DTYPES`, in software where they must.
    """
    target = triton.runtime.driver.active.get_current_target()
    if dtype not in FP8_DTYPES or target.backend != "cuda":
        return
    name = str(dtype).removeprefix("torch.")
    if dtype == torch.float8_e4m3fnuz:
        raise Unsupported(f"a cache of {name} on sm_{target.arch}: NVIDIA has no such format, use float8_e4m3fn")
    if dtype == torch.float8_e4m3fn and target.arch < E4M3FN_SINCE:
        raise Unsupported(f"a cache of {name} on sm_{target.arch}: needs sm_{E4M3FN_SINCE} or later, use float8_e5m2 or bfloat16")


def largest_of(dtype: torch.dtype) -> float:
    """The largest finite number of an FP8 format; 0 for any other dtype, which nothing is clamped to."""
    return float(torch.finfo(dtype).max) if dtype in FP8_DTYPES else 0.0


def as_moved(tensor: torch.Tensor) -> torch.Tensor:
    """`tensor` as it is moved without a conversion: FP8 as bytes, which every GPU has."""
    return tensor.view(torch.uint8) if tensor.dtype in FP8_DTYPES else tensor


@triton.jit
def load_scale(scale):
    """The one element behind `scale`, or 1 for None."""
    return tl.load(scale) if scale is not None else 1.0


@triton.jit
def converted(numbers, scale, largest, element: tl.constexpr):
    """`numbers` as elements of the cache, of Triton's dtype `element`; into FP8 divided by `scale`, at most `largest`."""
    if element.is_fp8():
        # Not "/": NVIDIA's is off by up to two units, which is another code where the quotient is next to a tie.
        stored = encoded(saturated(tl.div_rn(numbers.to(tl.float32), scale), largest), element)
    else:
        stored = numbers.to(element)
    return stored


@triton.jit
def saturated(numbers, largest):
    """`numbers` between -`largest` and `largest`; NaN stays, which a minimum would lose."""
    return tl.where(numbers > largest, largest, tl.where(numbers < -largest, -largest, numbers))


@triton.jit
def encoded(numbers, element: tl.constexpr):
    """Float32 `numbers`, no larger than the largest of the FP8 format `element`, as its nearest codes, ties to even.

    The conversion itself does not round alike everywhere: sm_80 rounds ties away and makes NaN a zero, and sm_89 and AMD's parts
    without the format go by way of float16 (before Triton 3.9 and 3.8). So what it is given is a number of the format already.
    """
    # Adding 2^(23 - m) times the power of two below a number leaves m bits behind it, or as many as subnormals have.
    power = (numbers.to(tl.int32, bitcast=True) & 0x7F800000).to(tl.float32, bitcast=True)
    smallest: tl.constexpr = 2.0 ** (1 - element.exponent_bias)
    anchor = tl.maximum(power, smallest) * (1.5 * 2.0 ** (23 - element.fp_mantissa_width))
    magnitude = ((numbers + anchor) - anchor).to(tl.int32, bitcast=True) & 0x7FFFFFFF
    sign = numbers.to(tl.int32, bitcast=True) & -0x80000000
    codes = (magnitude | sign).to(tl.float32, bitcast=True).to(element).to(tl.uint8, bitcast=True)
    nan: tl.constexpr = 0x80 if element.exponent_bias == 8 else 0x7F
    is_nan = numbers != numbers  # noqa: PLR0124 - nothing else differs from itself
    return tl.where(is_nan, nan, codes).to(element, bitcast=True)
