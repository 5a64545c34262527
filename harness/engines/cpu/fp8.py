"""The four FP8 formats: what each code means, and rounding to them.

Values of these formats are held as their codes (uint8): loads, stores, bitcasts and selections then keep every bit, NaNs
included, and no arithmetic can happen by accident. What a target's conversion does with overflow, infinities and NaN is in
`fp8_lowering`.

E4M3FN and E5M2 are the OCP's (OCP 8-bit Floating Point Specification 1.0, 2023); the FNUZ formats (one NaN in the place of
-0, no infinity, bias larger by one) are from Noune et al., "8-bit Numerical Formats for Deep Neural Networks", 2022, as
LLVM's APFloat and AMD's gfx942 have them.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class Format:
    """`mantissa`: its bits. `largest`: code of the largest finite number. `infinity`, `nan`: codes, without a sign.

    In the FNUZ formats infinity does not exist (its code here is NaN's), NaN and zero have no sign.
    """

    mantissa: int
    bias: int
    largest: int
    infinity: int
    nan: int
    fnuz: bool = False

    @property
    def smallest_normal(self) -> float:
        """2 to the least exponent of a normal number."""
        return 2.0 ** (1 - self.bias)


FORMATS = {
    "f8E4M3FN": Format(mantissa=3, bias=7, largest=0x7E, infinity=0x7F, nan=0x7F),
    "f8E4M3FNUZ": Format(mantissa=3, bias=8, largest=0x7F, infinity=0x80, nan=0x80, fnuz=True),
    "f8E5M2": Format(mantissa=2, bias=15, largest=0x7B, infinity=0x7C, nan=0x7E),
    "f8E5M2FNUZ": Format(mantissa=2, bias=16, largest=0x7F, infinity=0x80, nan=0x80, fnuz=True),
}


@functools.cache
def values(element: str) -> Array:
    """float32 value of each of the 256 codes."""
    form = FORMATS[element]
    codes = np.arange(256)
    exponent, fraction = codes >> form.mantissa & (0x7F >> form.mantissa), codes & ((1 << form.mantissa) - 1)
    steps = np.where(exponent == 0, fraction, fraction + (1 << form.mantissa))
    magnitude = np.ldexp(steps.astype(np.float64), np.maximum(exponent, 1) - form.bias - form.mantissa)
    result = np.where(codes & 0x80 != 0, -magnitude, magnitude)
    for code in range(256):
        if form.fnuz:
            result[code] = np.nan if code == form.nan else result[code]
        elif code & 0x7F > form.largest:
            infinite = form.infinity != form.nan and code & 0x7F == form.infinity
            result[code] = np.copysign(np.inf if infinite else np.nan, -1.0 if code & 0x80 else 1.0)
    table: Array = result.astype(np.float32)
    table.flags.writeable = False
    return table


def nearest(x: Array, element: str) -> Array:
    """Codes, without a sign, of |x| (float32) rounded to nearest, ties to even.

    Numbers beyond the largest get the codes that would follow it, up to 0xFFFF: the caller decides. Infinities and NaN give
    any code.
    """
    form = FORMATS[element]
    magnitude = np.abs(x)
    shift = np.uint32(23 - form.mantissa)
    bits = magnitude.view(np.uint32)
    rounded = (bits + ((np.uint32(1) << (shift - np.uint32(1))) - np.uint32(1)) + (bits >> shift & np.uint32(1))) >> shift
    normal = rounded.astype(np.int64) - ((127 - form.bias) << form.mantissa)
    # Below the normal numbers the codes count multiples of the smallest one; the product is exact.
    multiple = np.minimum(magnitude, np.float32(form.smallest_normal)) * np.float32(2.0 ** (form.bias - 1 + form.mantissa))
    codes = np.where(magnitude < form.smallest_normal, np.rint(np.nan_to_num(multiple)).astype(np.int64), normal)
    return np.asarray(np.clip(codes, 0, 0xFFFF).astype(np.uint16))


def signed(codes: Array, x: Array, element: str) -> Array:
    """uint8 codes with the signs of `x`; a zero of a FNUZ format has none, nor has its NaN."""
    narrow = codes.astype(np.uint8)
    result = np.asarray(narrow | np.signbit(x).astype(np.uint8) << np.uint8(7))
    return np.where((narrow & 0x7F) == 0, narrow, result) if FORMATS[element].fnuz else result
