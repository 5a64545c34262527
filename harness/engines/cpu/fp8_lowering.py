"""What each target does when a kernel converts to or from FP8: natively or by Triton's own sequences of integer operations.

docs/reference/number_formats.md has the table and the evidence. Software sequences were read from, and evaluated in, the
LLVM IR and PTX that Triton 3.6 to 3.9 emit; what a native instruction does is from its document, or marked as unverified.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from tridiff.harness.engines.cpu import fp8
from tridiff.harness.engines.cpu.errors import KernelError, UnsupportedOperation
from tridiff.harness.engines.cpu.fp8 import Array
from tridiff.harness.engines.cpu.target import Target

Conversion = Callable[[Array], Array]

_OCP = {"f8E4M3FN", "f8E5M2"}
QUIET, CANONICAL = 0x0200, 0x7FFF
"""What a conversion makes of an fp16 NaN: AMD's sets the bit that quiets it, NVIDIA's has one result for all NaNs, no sign."""
_E5M2_LOW, _E5M2_HIGH = 0x3800, 0x57E0
"""bf16 patterns of 2^-15 and 1.75 * 2^48: the range that sm_80's conversion clamps to."""


def decoder(element: str, result: str, target: Target) -> Conversion:
    """From codes of `element` to values of `result` ('f32', 'f16' or 'bf16'), as float32."""
    if element not in fp8.FORMATS or result not in {"f32", "f16", "bf16"}:
        raise _refused(element, result, "", target)
    table = fp8.values(element).copy()
    if element == "f8E5M2" and result == "bf16" and _multiplies_bf16(target):
        # The sequence moves the bits and multiplies by 2^112, which makes of the all-ones exponent one like any other.
        for code in (*range(0x7C, 0x80), *range(0xFC, 0x100)):
            table[code] = (1 + (code & 3) / 4) * 65536 * (-1 if code & 0x80 else 1)
    elif element == "f8E4M3FN" and result == "bf16" and target.backend == "hip" and target.arch != "gfx950":
        table[0x7F], table[0xFF] = 480.0, -480.0
    elif fp8.FORMATS[element].fnuz:
        _check_fnuz(element, result, result, target)
        if target.arch != "gfx942":
            table[0x80] = -0.0
    return lambda codes: table[codes]


def _multiplies_bf16(target: Target) -> bool:
    return target.backend == "cuda" or target.arch != "gfx950"


def encoder(source: str, element: str, rounding: str, target: Target) -> Conversion:
    """From values of `source` (as float32) to codes of `element`. `rounding`: 'rtne' or 'rtz'.

    Raises `KernelError` (check `launch`) for what Triton's back end for the target cannot compile.
    """
    if element not in fp8.FORMATS or source not in {"f32", "f16", "bf16"}:
        raise _refused(source, element, rounding, target)
    build = _nvidia if target.backend == "cuda" else _amd
    return build(source, element, rounding, target)


def _amd(source: str, element: str, rounding: str, target: Target) -> Conversion:
    if rounding == "rtz":
        if element == "f8E5M2FNUZ" and source == "f16" and target.release >= (3, 8):
            raise UnsupportedOperation("tt.fp_to_fp from f16 to f8E5M2FNUZ toward zero: Triton emits f8E5M2's")
        if element != "f8E5M2" or source == "bf16":
            raise _refused(source, element, rounding, target)
        return lambda x: (_f16_bits(x, source, QUIET) >> np.uint16(8)).astype(np.uint8)
    if element not in _OCP:
        _check_fnuz(element, source, source, target)
        narrow = source == "f32" and target.arch not in {"gfx942", "gfx950"} and target.release < (3, 8)
        return lambda x: _saturated(_through_f16(x) if narrow else x, element, clamps_infinity=False)
    if target.arch == "gfx950":
        return lambda x: _saturated(x, element, clamps_infinity=False)
    if element == "f8E4M3FN" and source == "f16":
        return _amd_f16_to_e4m3fn
    return lambda x: _saturated(x, element, clamps_infinity=True)


def _check_fnuz(element: str, other: str, wide: str, target: Target) -> None:
    """Conversions between bf16 and a FNUZ format that Triton before 3.8 got wrong, or died of, but on gfx942."""
    if target.backend == "cuda":
        raise _refused(wide, element, "", target)
    if (
        other != "bf16"
        or target.release >= (3, 8)
        or target.arch == "gfx942"
        or (target.arch == "gfx950" and element == "f8E4M3FNUZ")
    ):
        return
    if target.arch == "gfx950" or target.arch.startswith("gfx12"):
        reason = f"between {other} and {element}: Triton emits the instruction of the OCP format on {target.arch}"
        raise UnsupportedOperation(f"tt.fp_to_fp {reason}")
    raise _refused(wide, element, "", target)


def _saturated(x: Array, element: str, *, clamps_infinity: bool) -> Array:
    """To nearest even; finite numbers beyond the largest become it, infinities too or else the format's infinity (or NaN)."""
    form = fp8.FORMATS[element]
    codes = np.minimum(fp8.nearest(x, element), form.largest)
    codes = np.where(np.isinf(x), form.largest if clamps_infinity else form.infinity, codes)
    return fp8.signed(np.where(np.isnan(x), form.nan, codes), x, element)


def _amd_f16_to_e4m3fn(x: Array) -> Array:
    """What lies between 464, the tie of 448 and its successor, and 480 becomes NaN: the sequence saturates from 480 on."""
    magnitude = np.abs(x)
    missed = (magnitude > 464) & (magnitude < 480)
    return _saturated(np.where(missed, np.copysign(np.float32(np.nan), x), x), "f8E4M3FN", clamps_infinity=True)


def _through_f16(x: Array) -> Array:
    """Rounded to fp16 first; the mode bit that these kernels set keeps what overflows finite."""
    half = x.astype(np.float16).astype(np.float32)
    return np.where(np.isinf(half) & np.isfinite(x), np.copysign(np.float32(65504), x), half)


def _nvidia(source: str, element: str, rounding: str, target: Target) -> Conversion:
    if element not in _OCP or (element == "f8E4M3FN" and target.capability < 89):
        raise _refused(source, element, rounding, target)
    if rounding == "rtz":
        if element != "f8E5M2" or source != "f32":
            raise _refused(source, element, rounding, target)
        return lambda x: (_f16_bits(x, source, CANONICAL) >> np.uint16(8)).astype(np.uint8)
    if target.capability < 89:
        return _sm80_bf16_to_e5m2 if source == "bf16" else lambda x: _sm80_to_e5m2(_f16_bits(x, source, CANONICAL))
    if source == "f32" and target.capability < 90:
        return lambda x: _satfinite(half_toward_zero(x, CANONICAL).view(np.float16).astype(np.float32), element)
    return lambda x: _satfinite(x, element)


def _satfinite(x: Array, element: str) -> Array:
    """PTX's cvt.rn.satfinite: infinities become the largest number too, and every NaN 0x7F."""
    return np.where(np.isnan(x), np.uint8(0x7F), _saturated(x, element, clamps_infinity=True))


def _sm80_to_e5m2(half: Array) -> Array:
    """Bits of fp16 (a float32 was cut to it), half a unit added, cut: ties go away from zero, what overflows is infinite.

    A NaN whose fraction is all ones overflows into -0. The sequence handles two numbers in a register; such a NaN's carry
    into its neighbour is not modelled.
    """
    rounded = (half.astype(np.uint32) & np.uint32(0xFFFE)) + np.uint32(0x80)
    return np.asarray((rounded >> np.uint32(8)).astype(np.uint8))


def _sm80_bf16_to_e5m2(x: Array) -> Array:
    """The exponent moved by 112, ties away from zero.

    From 2^17 on the exponent runs into the sign, and below 2^-14 a normal number is taken for a subnormal one.
    """
    bits = x.view(np.uint32) >> np.uint32(16)
    magnitude = np.clip(bits & np.uint32(0x7FFF), np.uint32(_E5M2_LOW), np.uint32(_E5M2_HIGH))
    codes = (magnitude + np.uint32(0x10) - np.uint32(_E5M2_LOW) << np.uint32(3)) >> np.uint32(8)
    return np.asarray((codes | (bits & np.uint32(0x8000)) >> np.uint32(8)).astype(np.uint8))


def half_toward_zero(x: Array, nan: int) -> Array:
    """float32 cut to fp16, as its bits: what is too large gives 65504, infinities stay; `nan` is QUIET or CANONICAL."""
    half = x.astype(np.float16)
    bits = half.view(np.uint16)
    past = np.abs(half.astype(np.float32)) > np.abs(x)
    cut = np.where(past, bits - np.uint16(1), bits)
    return np.where(np.isnan(x), np.uint16(nan) if nan == CANONICAL else cut | np.uint16(nan), cut)


def _f16_bits(x: Array, source: str, nan: int) -> Array:
    return x.astype(np.float16).view(np.uint16) if source == "f16" else half_toward_zero(x, nan)


def _refused(source: str, element: str, rounding: str, target: Target) -> KernelError:
    how = {"rtz": " toward zero", "rtne": ""}.get(rounding, "")
    message = f"Triton has no conversion between {source} and {element}{how} on {target.arch}"
    return KernelError("launch", message, subject=message)
