"""Scalars of Triton's element types in plain Python: ranges, one rounding per operation, and bytes in memory.

An integer is held as the `int` that its type means, a bool as 0 or 1, a float of any format as a Python float (each format's
values are exact in float64). Nothing here uses numpy or torch, so nothing is shared with the engine under test.
"""

from __future__ import annotations

import math
import struct
from dataclasses import dataclass
from fractions import Fraction

Number = int | float


@dataclass(frozen=True)
class Float:
    """A binary format: `precision` counts the hidden bit; exponents of normal numbers lie in [low, high]."""

    precision: int
    low: int
    high: int


FLOATS = {"float16": Float(11, -14, 15), "bfloat16": Float(8, -126, 127), "float32": Float(24, -126, 127)}
SIGNED = ("int8", "int16", "int32", "int64")
UNSIGNED = ("uint8", "uint16", "uint32", "uint64")
INTEGERS = (*SIGNED, *UNSIGNED)
KINDS = (*INTEGERS, "int1", *FLOATS)


def bits(kind: str) -> int:
    """Width of an element type."""
    return int("".join(letter for letter in kind if letter.isdigit()))


def is_float(kind: str) -> bool:
    """Whether `kind` is a float format."""
    return kind in FLOATS


def is_signed(kind: str) -> bool:
    """Whether `kind` is a signed integer; bool counts as unsigned, as it does in Triton."""
    return kind in SIGNED


def limits(kind: str) -> tuple[int, int]:
    """Least and greatest value of an integer type."""
    width = bits(kind)
    return (-(1 << width - 1), (1 << width - 1) - 1) if is_signed(kind) else (0, (1 << width) - 1)


def wrap(kind: str, value: int) -> int:
    """`value` modulo 2**width, in the range of the integer type."""
    width = bits(kind)
    low = value & ((1 << width) - 1)
    return low - (1 << width) if is_signed(kind) and low >> (width - 1) else low


def nearest(kind: str, exact: Fraction) -> float:
    """The value of the format nearest to `exact`, ties to even; beyond the greatest one, infinity. Zero is +0."""
    if exact == 0:
        return 0.0
    form = FLOATS[kind]
    size = abs(exact)
    exponent = size.numerator.bit_length() - size.denominator.bit_length()
    if size < Fraction(2) ** exponent:
        exponent -= 1
    quantum = max(exponent, form.low) - form.precision + 1
    count = round(size / Fraction(2) ** quantum)  # Python rounds fractions half to even
    result = (
        math.inf if Fraction(count) * Fraction(2) ** quantum >= Fraction(2) ** (form.high + 1) else math.ldexp(count, quantum)
    )
    return math.copysign(result, exact.numerator)


def encode(kind: str, value: Number) -> bytes:
    """Little-endian bytes in memory; a bool takes one."""
    if kind == "float16":
        return struct.pack("<e", value)
    if kind == "bfloat16":
        return struct.pack("<f", value)[2:]
    if kind == "float32":
        return struct.pack("<f", value)
    width = max(bits(kind), 8)
    return (int(value) & ((1 << width) - 1)).to_bytes(width // 8, "little")


def decode(kind: str, raw: bytes) -> Number:
    """The inverse of `encode`."""
    if kind == "float16":
        return float(struct.unpack("<e", raw)[0])
    if kind == "bfloat16":
        return float(struct.unpack("<f", b"\0\0" + raw)[0])
    if kind == "float32":
        return float(struct.unpack("<f", raw)[0])
    return int.from_bytes(raw, "little") if kind == "int1" else wrap(kind, int.from_bytes(raw, "little"))


def size(kind: str) -> int:
    """Bytes of an element in memory."""
    return max(bits(kind), 8) // 8


def bitcast(source: str, target: str, value: Number) -> Number:
    """The value of `target` with the same bits."""
    return decode(target, encode(source, value))


def cast(source: str, target: str, value: Number) -> Number:
    """What `.to(target)` gives, for floats only where the integer type can hold the truncated value."""
    if source == target:
        return value
    if target == "int1":
        return int(value != 0)  # NaN is not zero
    if is_float(target):
        return _to_float(target, value)
    if is_float(source):
        return int(value)
    return wrap(target, int(value))


def _to_float(target: str, value: Number) -> float:
    if isinstance(value, float) and (not math.isfinite(value) or value == 0):
        return value
    return nearest(target, Fraction(value))


def same(kind: str, a: Number, b: Number) -> bool:
    """Whether two values are equal bit for bit; one NaN is like another."""
    if is_float(kind) and math.isnan(a) and math.isnan(b):
        return True
    return encode(kind, a) == encode(kind, b)
