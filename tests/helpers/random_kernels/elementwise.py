"""The table of element-wise operations: how each is printed, what type it has, and what it does to scalars.

`apply` gets operands already converted to the type that it computes in (`computes`), and that type's name.

Where formats leave a choice, the printed form takes it away: which zero a minimum or maximum of -0 and +0 is, and the sign
of `-x` for zero (Triton 3.8 changed it), are erased by adding 0.0; a float becomes an integer only where it fits.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

from random_kernels import numbers
from random_kernels.numbers import Number, bits, is_float, is_signed, nearest, wrap
from random_kernels.promotion import promoted

Rule = Callable[..., tuple[str, str]]
"""(operand types, index of a literal operand) to (type computed in, type of the result)."""


@dataclass(frozen=True)
class Elementwise:
    """One operation. `groups`: which operand types it takes: of "int", "float", "bool"."""

    template: str
    apply: Callable[..., Number]
    rule: Rule
    groups: frozenset[str]
    literal: bool = True


def _finite(*values: Number) -> bool:
    return all(math.isfinite(value) for value in values)


def _add(kind: str, a: Any, b: Any) -> Number:
    if not is_float(kind):
        return wrap(kind, a + b)
    if not _finite(a, b) or a + b == 0:  # an exact zero: its sign is the same in every format
        return float(a + b)
    return nearest(kind, Fraction(a) + Fraction(b))


def _subtract(kind: str, a: Any, b: Any) -> Number:
    return _add(kind, a, -b) if is_float(kind) else wrap(kind, a - b)


def _multiply(kind: str, a: Any, b: Any) -> Number:
    if not is_float(kind):
        return wrap(kind, a * b)
    if not _finite(a, b) or 0 in {a, b}:
        return float(a * b)
    return math.copysign(nearest(kind, Fraction(a) * Fraction(b)), math.copysign(1, a) * math.copysign(1, b))


def _quotient(kind: str, a: Any, b: Any) -> float:
    sign = math.copysign(1, a) * math.copysign(1, b)
    if math.isnan(a) or math.isnan(b) or (math.isinf(a) and math.isinf(b)) or (a == 0 and b == 0):
        return math.nan
    if math.isinf(a) or b == 0:
        return sign * math.inf
    if math.isinf(b) or a == 0:
        return sign * 0.0
    return math.copysign(nearest(kind, Fraction(a) / Fraction(b)), sign)


def _divide(kind: str, a: Any, b: Any) -> Number:
    """`/`: of integers as of their nearest float32."""
    if not is_float(kind):
        a, b, kind = numbers.cast(kind, "float32", a), numbers.cast(kind, "float32", b), "float32"
    return _quotient(kind, a, b)


def _floor_divide(kind: str, a: Any, b: Any) -> Number:
    """`//` of integers: toward zero, as C does; the least one by -1 wraps."""
    size = abs(a) // abs(b)
    return wrap(kind, size if (a < 0) == (b < 0) else -size)


def _remainder(kind: str, a: Any, b: Any) -> Number:
    """`%` has the sign of the dividend."""
    if not is_float(kind):
        size: int = abs(a) % abs(b)
        return -size if a < 0 else size
    if math.isnan(a) or math.isnan(b) or math.isinf(a) or b == 0:
        return math.nan
    if math.isinf(b):
        return float(a)
    rest = abs(Fraction(a)) % abs(Fraction(b))
    return math.copysign(float(rest), a)


def _extreme(choose: Callable[[Any, Any], Any]) -> Callable[..., Number]:
    def apply(kind: str, a: Any, b: Any) -> Number:
        if not is_float(kind):
            return int(choose(a, b))
        if math.isnan(a):
            return float(b) + 0.0
        return float(a if math.isnan(b) else choose(a, b)) + 0.0

    return apply


def _shift_left(kind: str, a: Any, b: Any) -> Number:
    return wrap(kind, a << (b & bits(kind) - 1))


def _shift_right_signed(kind: str, a: Any, b: Any) -> Number:
    return wrap(kind, _as_signed(kind, a) >> (b & bits(kind) - 1))


def _shift_right_unsigned(kind: str, a: Any, b: Any) -> Number:
    return wrap(kind, (a & ((1 << bits(kind)) - 1)) >> (b & bits(kind) - 1))


def _as_signed(kind: str, a: int) -> int:
    half = 1 << bits(kind) - 1
    return ((a + half) & (2 * half - 1)) - half


def _negate(kind: str, a: Any) -> Number:
    return -a + 0.0 if is_float(kind) else wrap(kind, -a)


def _root(kind: str, a: Any) -> Number:
    """Square root, correctly rounded: from the integer root of a number scaled to some 60 digits, made odd where inexact."""
    if math.isnan(a) or a < 0:
        return math.nan
    if a == 0 or math.isinf(a):
        return float(a)
    scaled = Fraction(a) * Fraction(4) ** 220
    root = math.isqrt(scaled.numerator // scaled.denominator)
    return nearest(kind, Fraction(root | int(root * root != scaled), 2**220))


def _fused(kind: str, a: Any, b: Any, c: Any) -> Number:
    if not _finite(a, b, c):
        product = a * b
        return float(product + c)
    exact = Fraction(a) * Fraction(b) + Fraction(c)
    if exact == 0:  # the product is exact in float64, so this has the right sign
        return float(a * b + c)
    return math.copysign(nearest(kind, exact), exact.numerator)


def _rounded_to_integer(choose: Callable[[float], int]) -> Callable[..., Number]:
    def apply(_kind: str, a: Any) -> Number:
        return math.copysign(float(choose(a)), a) if _finite(a) else float(a)

    return apply


def _arithmetic(*kinds: str, literal: int | None = None) -> tuple[str, str]:
    kind = kinds[0]
    for other in kinds[1:]:
        kind = promoted(kind, other, literal=literal)
    return kind, kind


def _dividing(a: str, b: str, literal: int | None = None) -> tuple[str, str]:
    kind = promoted(a, b, literal=literal, divides=True)
    return kind, kind


def _true_dividing(a: str, b: str, literal: int | None = None) -> tuple[str, str]:
    kind = promoted(a, b, literal=literal, divides=True)
    return kind, kind if is_float(kind) else "float32"


def _comparing(a: str, b: str, literal: int | None = None) -> tuple[str, str]:
    return promoted(a, b, literal=literal), "int1"


def _widening(a: str, b: str, literal: int | None = None) -> tuple[str, str]:
    """Extremes take bf16 to float32 first."""
    wide = ["float32" if kind == "bfloat16" else kind for kind in (a, b)]
    return _arithmetic(*wide, literal=literal)


INT, FLOAT, BOOL = "int", "float", "bool"
_ANY, _NUMBER, _BITS = frozenset({INT, FLOAT, BOOL}), frozenset({INT, FLOAT}), frozenset({INT, BOOL})
_INTEGER, _REAL = frozenset({INT}), frozenset({FLOAT})

BINARY = {
    "add": Elementwise("({0} + {1})", _add, _arithmetic, _ANY),
    "sub": Elementwise("({0} - {1})", _subtract, _arithmetic, _ANY),
    "mul": Elementwise("({0} * {1})", _multiply, _arithmetic, _ANY),
    "lt": Elementwise("({0} < {1})", lambda _k, a, b: int(a < b), _comparing, _ANY),
    "le": Elementwise("({0} <= {1})", lambda _k, a, b: int(a <= b), _comparing, _ANY),
    "gt": Elementwise("({0} > {1})", lambda _k, a, b: int(a > b), _comparing, _ANY),
    "ge": Elementwise("({0} >= {1})", lambda _k, a, b: int(a >= b), _comparing, _ANY),
    "eq": Elementwise("({0} == {1})", lambda _k, a, b: int(a == b), _comparing, _ANY),
    "ne": Elementwise("({0} != {1})", lambda _k, a, b: int(a != b), _comparing, _ANY),
    "and": Elementwise("({0} & {1})", lambda k, a, b: wrap(k, a & b), _arithmetic, _BITS),
    "or": Elementwise("({0} | {1})", lambda k, a, b: wrap(k, a | b), _arithmetic, _BITS),
    "xor": Elementwise("({0} ^ {1})", lambda k, a, b: wrap(k, a ^ b), _arithmetic, _BITS),
    "minimum": Elementwise("tl.minimum({0}, {1})", _extreme(min), _widening, _ANY, literal=False),
    "maximum": Elementwise("tl.maximum({0}, {1})", _extreme(max), _widening, _ANY, literal=False),
    "truediv": Elementwise("({0} / {1})", _divide, _true_dividing, _NUMBER),
    "floordiv": Elementwise("({0} // ({1} | 1))", lambda k, a, b: _floor_divide(k, a, b | 1), _dividing, _INTEGER, literal=False),
    "mod": Elementwise("({0} % ({1} | 1))", lambda k, a, b: _remainder(k, a, b | 1), _dividing, _INTEGER, literal=False),
    "floordiv_by": Elementwise("({0} // {1})", _floor_divide, _dividing, _INTEGER),
    "mod_by": Elementwise("({0} % {1})", _remainder, _dividing, _INTEGER),
    "fmod": Elementwise("({0} % {1})", _remainder, _dividing, _REAL),
    "div_rn": Elementwise("tl.div_rn({0}, {1})", _divide, _arithmetic, frozenset({"float32"}), literal=False),
    "shl": Elementwise("({0} << ({1} & {mask}))", _shift_left, _arithmetic, _INTEGER, literal=False),
    "ashr": Elementwise("({0} >> ({1} & {mask}))", _shift_right_signed, _arithmetic, frozenset({"signed"}), literal=False),
    "lshr": Elementwise("({0} >> ({1} & {mask}))", _shift_right_unsigned, _arithmetic, frozenset({"unsigned"}), literal=False),
}
"""`floordiv_by` and `mod_by` have a literal divisor, never zero. Which of two shifts `>>` is follows the left operand."""

UNARY = {
    "neg": Elementwise("(-{0})", _negate, _arithmetic, _NUMBER),
    "invert": Elementwise("(~{0})", lambda k, a: wrap(k, ~a), _arithmetic, _BITS),
    "abs": Elementwise("tl.abs({0})", lambda k, a: abs(a) if is_float(k) else wrap(k, abs(a)), _arithmetic, _NUMBER),
    "floor": Elementwise("tl.floor({0})", _rounded_to_integer(math.floor), _arithmetic, frozenset({"float32"})),
    "ceil": Elementwise("tl.ceil({0})", _rounded_to_integer(math.ceil), _arithmetic, frozenset({"float32"})),
    "sqrt_rn": Elementwise("tl.sqrt_rn({0})", _root, _arithmetic, frozenset({"float32"})),
}

TERNARY = {"fma": Elementwise("tl.fma({0}, {1}, {2})", _fused, _arithmetic, _REAL)}

TABLE: dict[str, Elementwise] = {**BINARY, **UNARY, **TERNARY}


def group(kind: str) -> str:
    """The name of the group: int, float or bool."""
    return FLOAT if is_float(kind) else BOOL if kind == "int1" else INT


def takes(operation: Elementwise, kind: str) -> bool:
    """Whether the operation is defined on the type."""
    sign = "signed" if is_signed(kind) else "unsigned" if group(kind) == INT else ""
    return bool(operation.groups & {group(kind), kind, sign})
