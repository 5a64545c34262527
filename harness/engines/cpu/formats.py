"""Number formats: how TTIR element types are held while computing, and how they lie in memory.

bf16 and fp16 values are held as float32 and rounded after every operation: float32 has more than twice their precision
plus two bits, so one rounding of the float32 result is the correctly rounded result of +, -, *, / and sqrt
(Figueroa, "When is double rounding innocuous?", 1995). exp, log and their like are approximations on every target anyway.

FP8 values are held as their codes: see `fp8`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from tridiff.harness.engines.cpu import fp8
from tridiff.harness.engines.cpu.errors import UnsupportedOperation

Array = npt.NDArray[Any]

COMPUTE: dict[str, Any] = {
    "f64": np.float64,
    "f32": np.float32,
    "bf16": np.float32,
    "f16": np.float32,
    "i1": np.bool_,
    "i8": np.int8,
    "i16": np.int16,
    "i32": np.int32,
    "i64": np.int64,
    "index": np.int64,
    **dict.fromkeys(fp8.FORMATS, np.uint8),
}
MEMORY: dict[str, Any] = {**COMPUTE, "bf16": np.uint16, "f16": np.float16, "i1": np.int8}
UNSIGNED: dict[str, Any] = {"i1": np.bool_, "i8": np.uint8, "i16": np.uint16, "i32": np.uint32, "i64": np.uint64}
_MASKED_INT = {"i8": 0x7A, "i16": 0x7A7A, "i32": 0x7A7A7A7A, "i64": 0x7A7A7A7A7A7A7A7A}
_BITS = {"f64": (np.uint64, np.float64), "f32": (np.uint32, np.float32), "f16": (np.uint16, np.float16)}


def compute_dtype(element: str) -> Any:
    """NumPy dtype that values of `element` are held in. Raises `UnsupportedOperation` for unknown types."""
    if element not in COMPUTE:
        raise UnsupportedOperation(f"the element type {element}")
    return COMPUTE[element]


def check_arithmetic(element: str) -> None:
    """Raise `UnsupportedOperation` unless values of `element` are held as numbers."""
    if compute_dtype(element) is np.uint8:
        raise UnsupportedOperation(f"arithmetic on {element}, which Triton's back ends cannot compile either: convert it first")


def round_bf16(x: Array) -> Array:
    """float32 rounded to the nearest bf16, ties to even, still as float32; NaN stays NaN."""
    bits = x.view(np.uint32)
    rounded = (bits + (np.uint32(0x7FFF) + ((bits >> np.uint32(16)) & np.uint32(1)))) & np.uint32(0xFFFF0000)
    return np.asarray(np.where(np.isnan(x), bits | np.uint32(0x00400000), rounded).view(np.float32))


def round_f16(x: Array) -> Array:
    """float32 (or float64) rounded to the nearest fp16, ties to even, still as float32."""
    return np.asarray(x.astype(np.float16).astype(np.float32))


def round_tf32(x: Array) -> Array:
    """float32 rounded to 10 mantissa bits, ties away from zero (PTX's cvt.rna.tf32.f32). Infinities and NaN stay."""
    bits = x.view(np.uint32)
    rounded = ((bits + np.uint32(0x1000)) & np.uint32(0xFFFFE000)).view(np.float32)
    return np.where(np.isfinite(x), rounded, x)


def truncate_tf32(x: Array) -> Array:
    """float32 cut to 10 mantissa bits: the operand precision of a tf32 dot. NaN stays NaN.

    Hardware truncates: measured on an H200 with Triton 3.6.0. AMD's xf32 is unverified.
    """
    cut = (x.view(np.uint32) & np.uint32(0xFFFFE000)).view(np.float32)
    return np.where(np.isnan(x), x, cut)


ROUND: dict[str, Callable[[Array], Array]] = {"bf16": round_bf16, "f16": round_f16}
"""Rounding after an operation, for the formats that need one."""


def round_once(x: Array, element: str) -> Array:
    """float64 or integers rounded to bf16 or fp16, as float32: to odd in float32 first, so that the second rounding is exact.

    Boldo and Melquiond, "Emulation of FMA and correctly rounded sums: proved algorithms using rounding to odd", 2008.
    """
    exact = _to_odd_float64(x) if x.dtype.kind in "iu" else x.astype(np.float64)
    near = exact.astype(np.float32)
    bits = near.view(np.uint32)
    inexact = (near.astype(np.float64) != exact) & np.isfinite(near)
    past = np.abs(near.astype(np.float64)) > np.abs(exact)
    odd = np.where(inexact, np.where(past, bits - np.uint32(1), bits) | np.uint32(1), bits).astype(np.uint32)
    return ROUND[element](odd.view(np.float32))


def _to_odd_float64(x: Array) -> Array:
    """Integers as float64, those of more than 53 bits rounded to odd: the bits that are lost are kept as one."""
    if x.dtype.itemsize < 8:
        return x.astype(np.float64)
    lost = x.dtype.type(0x7FF)
    odd = x & ~lost | ((x & lost) != 0).astype(x.dtype) << x.dtype.type(11)
    near = x.astype(np.float64)
    return np.where(np.abs(near) < 2.0**53, near, odd.astype(np.float64))


def add_to_odd(a: Array, b: Array) -> Array:
    """float64 sum rounded to odd, which leaves any later rounding to a narrower format exact."""
    total = a + b
    rest = total - a
    error = (a - (total - rest)) + (b - rest)  # Knuth's TwoSum: exact, or NaN where the total is not finite
    bits = total.view(np.int64)
    step = np.where((error > 0) == (total > 0), 1, -1)
    return np.where((error != 0) & np.isfinite(total) & (bits & 1 == 0), bits + step, bits).view(np.float64)


def decode(raw: Array, element: str) -> Array:
    """Memory representation -> compute representation."""
    if element == "bf16":
        return np.left_shift(raw, 16, dtype=np.uint32).view(np.float32)
    if element == "f16":
        return np.asarray(raw.astype(np.float32))
    if element == "i1":
        return np.asarray(raw != 0)
    return raw


def encode(values: Array, element: str) -> Array:
    """Compute representation -> memory representation; values are already rounded."""
    if element == "bf16":
        return np.right_shift(np.ascontiguousarray(values).view(np.uint32), 16).astype(np.uint16)
    return np.asarray(values.astype(MEMORY[element]))


def constant(text: Any, element: str) -> Any:
    """The value of a constant's text: decimal, hexadecimal bit pattern of a float, or true / false."""
    if isinstance(text, list):
        return [constant(item, element) for item in text]
    if isinstance(text, (int, bool)):
        return text
    if text in {"true", "false"}:
        return text == "true"
    if element in fp8.FORMATS:
        return _fp8_constant(text, element)
    if element.startswith(("f", "bf")):
        return _float_constant(text, element)
    return int(text, 0)


def _float_constant(text: str, element: str) -> float:
    if not text.startswith("0x"):
        return float(text)
    if element == "bf16":
        return float(np.array([int(text, 16) << 16], np.uint32).view(np.float32)[0])
    bits, kind = _BITS[element]
    return float(np.array([int(text, 16)], bits).view(kind)[0])


def _fp8_constant(text: str, element: str) -> int:
    if text.startswith("0x"):
        return int(text, 16)
    value = np.array([float(text)], dtype=np.float32)
    return int(fp8.signed(fp8.nearest(value, element), value, element)[0])


def scalar(value: Any, element: str) -> Array:
    """A kernel's scalar argument; integers beyond int64 wrap (Triton passes an unsigned one in the same bits)."""
    dtype = np.dtype(compute_dtype(element))
    if dtype.kind == "i":
        bits = int(value) & ((1 << 8 * dtype.itemsize) - 1)
        return np.asarray(np.array([bits], dtype=f"u{dtype.itemsize}").view(dtype))
    rounded: Array = ROUND.get(element, np.asarray)(np.array([value], dtype=dtype))
    return rounded


def masked_off(element: str) -> Any:
    """What a masked-off lane of a load without `other` holds: NaN, or a recognisable integer."""
    if element in _MASKED_INT:
        return _MASKED_INT[element]
    if element in fp8.FORMATS:
        return fp8.FORMATS[element].nan
    return True if element == "i1" else float("nan")
