"""Number formats: how TTIR element types are held while computing, and how they lie in memory.

bf16 and fp16 values are held as float32 and rounded after every operation: float32 has more than twice their precision
plus two bits, so one rounding of the float32 result is the correctly rounded result of +, -, *, / and sqrt
(Figueroa, "When is double rounding innocuous?", 1995).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

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
}
MEMORY: dict[str, Any] = {**COMPUTE, "bf16": np.uint16, "f16": np.float16, "i1": np.int8}
UNSIGNED: dict[str, Any] = {"i1": np.bool_, "i8": np.uint8, "i16": np.uint16, "i32": np.uint32, "i64": np.uint64}
_MASKED_INT = {"i8": 0x7A, "i16": 0x7A7A, "i32": 0x7A7A7A7A, "i64": 0x7A7A7A7A7A7A7A7A}
_BITS = {"f64": (np.uint64, np.float64), "f32": (np.uint32, np.float32), "f16": (np.uint16, np.float16)}


def compute_dtype(element: str) -> Any:
    """NumPy dtype that values of `element` are held in. Raises `UnsupportedOperation` for FP8 and unknown types."""
    if element not in COMPUTE:
        raise UnsupportedOperation(f"the element type {element}")
    return COMPUTE[element]


def round_bf16(x: Array) -> Array:
    """float32 rounded to the nearest bf16, ties to even, still as float32; NaN stays NaN."""
    bits = x.view(np.uint32)
    rounded = (bits + (np.uint32(0x7FFF) + ((bits >> np.uint32(16)) & np.uint32(1)))) & np.uint32(0xFFFF0000)
    return np.where(np.isnan(x), bits | np.uint32(0x00400000), rounded).view(np.float32)


def round_f16(x: Array) -> Array:
    """float32 (or float64) rounded to the nearest fp16, ties to even, still as float32."""
    return np.asarray(x.astype(np.float16).astype(np.float32))


def round_tf32(x: Array) -> Array:
    """float32 rounded to 10 mantissa bits, ties to even (the operand precision of a tf32 dot)."""
    bits = x.view(np.uint32)
    rounded = (bits + (np.uint32(0x0FFF) + ((bits >> np.uint32(13)) & np.uint32(1)))) & np.uint32(0xFFFFE000)
    return np.where(np.isfinite(x), rounded, bits).view(np.float32)


ROUND: dict[str, Callable[[Array], Array]] = {"bf16": round_bf16, "f16": round_f16}
"""Rounding after an operation, for the formats that need one."""


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


def masked_off(element: str) -> Any:
    """What a masked-off lane of a load without `other` holds: NaN, or a recognisable integer."""
    if element in _MASKED_INT:
        return _MASKED_INT[element]
    return True if element == "i1" else float("nan")
