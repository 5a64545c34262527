"""What arrays hold: a function of type, flavour and seed, so that a kernel is described by a few small numbers."""

from __future__ import annotations

import math
import random
from fractions import Fraction

from random_kernels.numbers import FLOATS, Number, decode, is_float, limits, nearest, size
from random_kernels.tree import Array

FLAVOURS = ("small", "edges", "bits", "edges", "bits")
"""small: integers from -4 to 4. edges: extremes, zeros, infinities, NaN. bits: uniform bit patterns.

The latter are likelier: they tell more.
"""


def content(array: Array) -> list[Number]:
    """The elements of `array` before the launch."""
    if array.flavour == "zeros":
        return [0.0 if is_float(array.kind) else 0] * array.length
    generator = random.Random(f"{array.flavour}{array.seed}")
    draw = {"small": _small, "edges": _edge, "bits": _pattern, "counts": _count}[array.flavour]
    return [draw(array.kind, generator) for _ in range(array.length)]


def _count(_kind: str, generator: random.Random) -> Number:
    return generator.randint(0, 4)


def _small(kind: str, generator: random.Random) -> Number:
    value = generator.randint(-4, 4)
    if kind == "int1":
        return value & 1
    if is_float(kind):
        return value / 2
    return value if limits(kind)[0] < 0 else abs(value)


def _edge(kind: str, generator: random.Random) -> Number:
    if generator.random() < 0.5:
        return _pattern(kind, generator)
    if kind == "int1":
        return generator.randint(0, 1)
    return generator.choice(_float_edges(kind) if is_float(kind) else _integer_edges(kind))


def _integer_edges(kind: str) -> list[Number]:
    low, high = limits(kind)
    return [low, low + 1, high, high - 1, high // 2, 0, 1, 2, max(low, -1), max(low, -2)]


def _float_edges(kind: str) -> list[Number]:
    form = FLOATS[kind]
    ulp = 2.0 ** (1 - form.precision)
    greatest = (2 - ulp) * 2.0**form.high
    least = 2.0 ** (form.low - form.precision + 1)
    values = [0.0, 1.0, 1 + ulp, 1 - ulp / 2, 2.0**form.low, least, greatest, math.inf, 0.5, 3.0, 2.0 ** (form.precision - 1)]
    return [math.nan, *values, *(-value for value in values)]


def _pattern(kind: str, generator: random.Random) -> Number:
    if kind == "int1":
        return generator.randint(0, 1)
    if is_float(kind) and generator.random() < 0.5:
        # Of like magnitude, so that sums and comparisons do not hang on one exponent.
        return nearest(kind, Fraction(generator.randint(-(2**30), 2**30), 2**28))
    return decode(kind, generator.getrandbits(8 * size(kind)).to_bytes(size(kind), "little"))
