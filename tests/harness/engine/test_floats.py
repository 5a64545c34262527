"""Floating-point operations: rounding per operation, special values, and accuracy where IEEE 754 asks for none."""

# ruff: noqa: D103 - jit functions of one line that stand for an operator
# mypy: allow-untyped-defs, allow-untyped-decorators

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
import torch
import triton
import triton.language as tl

from tridiff.harness.api import words
from tridiff.harness.engines.cpu.ops_arith import _float_predicate
from tridiff.harness.engines.spec import EngineSpec

Elementwise = Callable[..., torch.Tensor]
Torch = Callable[..., torch.Tensor]
NAN, INF = math.nan, math.inf
SPECIAL = [0.0, -0.0, 1.0, -1.0, 0.5, -2.5, INF, -INF, NAN]
BITS = {2: torch.int16, 4: torch.int32, 8: torch.int64}
NARROW = [torch.bfloat16, torch.float16]
WIDE = [torch.float32, torch.float64]


def patterns(dtype: torch.dtype, name: str, count: int = 1 << 16) -> torch.Tensor:
    """Random bit patterns: every exponent, NaNs, infinities and denormals; all of them, shuffled, for 16 bits."""
    raw = torch.from_numpy(words(0, name, count).astype(np.int64))
    if dtype.itemsize == 2:
        raw = torch.argsort(raw)
    return raw.to(BITS[dtype.itemsize]).view(dtype)


def bits(tensor: torch.Tensor) -> torch.Tensor:
    """Bit patterns, all NaNs alike: -0.0 is not 0.0 and a wrong ulp is seen."""
    return torch.where(torch.isnan(tensor), torch.full_like(tensor, NAN), tensor).view(BITS[tensor.element_size()])


def crossed(values: list[float], dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor]:
    """All pairs of values."""
    every = torch.tensor(list(itertools.product(values, repeat=2)), dtype=dtype)
    return every[:, 0].contiguous(), every[:, 1].contiguous()


@triton.jit
def jit_add(a, b):
    return a + b


@triton.jit
def jit_subtract(a, b):
    return a - b


@triton.jit
def jit_multiply(a, b):
    return a * b


@triton.jit
def jit_divide(a, b):
    return a / b


@triton.jit
def jit_remainder(a, b):
    return a % b


@triton.jit
def jit_precise_divide(a, b):
    return tl.div_rn(a, b)


@triton.jit
def jit_negate(a):
    return -a


@triton.jit
def jit_absolute(a):
    return tl.abs(a)


@triton.jit
def jit_fma(a, b, c):
    return tl.fma(a, b, c)


BASIC: dict[str, tuple[Any, Torch]] = {
    "arith.addf": (jit_add, torch.add),
    "arith.subf": (jit_subtract, torch.sub),
    "arith.mulf": (jit_multiply, torch.mul),
}


def exact_remainder(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """C's fmod, which is exact; torch's is not where the quotient is large."""

    def one(a: float, b: float) -> float:
        return math.fmod(a, b) if math.isfinite(a) and b != 0 else NAN

    return torch.tensor([one(a, b) for a, b in zip(x.tolist(), y.tolist(), strict=True)], dtype=x.dtype)


FULL = BASIC | {"arith.divf": (jit_divide, torch.div), "arith.remf": (jit_remainder, exact_remainder)}


def operations_of(table: dict[str, tuple[Any, Torch]]) -> list[Any]:
    """Parameters (jit function, torch function), each marked with its operation."""
    return [pytest.param(*pair, marks=pytest.mark.operations(name), id=name) for name, pair in table.items()]


@pytest.mark.parametrize("dtype", NARROW, ids=str)
@pytest.mark.parametrize(("function", "reference"), operations_of(BASIC))
def test_narrow_arithmetic(elementwise: Elementwise, function: Any, reference: Torch, dtype: torch.dtype) -> None:
    """bf16 and fp16 results are rounded to nearest even after every operation, for all patterns of one operand."""
    x = patterns(dtype, "x")
    # Three kinds of second operand: anything, something of the same magnitude (so that sums round), and itself.
    for y in (patterns(dtype, "y"), x.view(torch.int16).bitwise_xor(0x1F5).view(dtype), x):
        assert torch.equal(bits(elementwise(function, x, y)), bits(reference(x, y)))


@pytest.mark.parametrize("dtype", WIDE, ids=str)
@pytest.mark.parametrize(("function", "reference"), operations_of(FULL))
def test_wide_arithmetic(elementwise: Elementwise, function: Any, reference: Torch, dtype: torch.dtype) -> None:
    """float32 and float64 arithmetic is IEEE 754's, denormals included; the remainder has the dividend's sign."""
    for x, y in ((patterns(dtype, "x"), patterns(dtype, "y")), crossed([*SPECIAL, 3.0, 1e-310, 1e300], dtype)):
        assert torch.equal(bits(elementwise(function, x, y)), bits(reference(x, y)))


@pytest.mark.operations("tt.precise_divf")
def test_precise_division(elementwise: Elementwise) -> None:
    """tl.div_rn is correctly rounded."""
    x, y = patterns(torch.float32, "x"), patterns(torch.float32, "y")

    assert torch.equal(bits(elementwise(jit_precise_divide, x, y)), bits(x / y))


@pytest.mark.parametrize("dtype", [*NARROW, *WIDE], ids=str)
def test_negation(elementwise: Elementwise, dtype: torch.dtype) -> None:
    """Triton 3.7 negates by subtracting from zero, later releases flip the sign: -x and 0 - x differ at zero only."""
    x = patterns(dtype, "x")
    x = x[x != 0]

    assert torch.equal(bits(elementwise(jit_negate, x)), bits(-x))


@pytest.mark.operations("math.absf")
@pytest.mark.parametrize("dtype", [*NARROW, *WIDE], ids=str)
def test_absolute(elementwise: Elementwise, dtype: torch.dtype) -> None:
    """The sign is dropped, of zeros and infinities too."""
    x = patterns(dtype, "x")

    assert torch.equal(bits(elementwise(jit_absolute, x)), bits(x.abs()))


def nearest(value: Fraction, dtype: torch.dtype) -> float:
    """The finite number of `dtype` nearest to `value`, ties to even, by exact arithmetic; `value` is not out of range."""
    info = torch.finfo(dtype)
    binade = Fraction(2) ** (value.numerator.bit_length() - value.denominator.bit_length())
    if binade > abs(value):
        binade /= 2
    quantum = max(binade, Fraction(info.smallest_normal)) * Fraction(info.eps)
    return float(round(value / quantum) * quantum)  # round() of a Fraction breaks ties to even


def hard_triples(digits: int) -> list[tuple[float, float, float]]:
    """Triples whose a * b + c lies beside the middle of two numbers of so many digits, nearer than a float64 sum can tell."""
    tie, low, half = 2.0**-digits, 2.0 ** (4 - digits), 2.0 ** -(digits // 2)
    below = [(half * (1 + low), tie / half * (1 - low), 1 + 2 * tie), (half, tie / half, 1.0), (half, tie / half, 1 + 2 * tie)]
    # (2^23 + 2^12 + 1) (2^23 - 2^12 + 1) = 2^46 + 1
    above = [(2.0**23 + 2.0**12 + 1, (2.0**23 - 2.0**12 + 1) * 2.0**-70, 1.0)] if digits == 24 else []
    return [(a, sign * b, sign * c) for a, b, c in (*below, *above, (3.0, 1.0, -3.0)) for sign in (1, -1)]


@pytest.mark.operations("math.fma")
@pytest.mark.parametrize(("dtype", "digits"), [(torch.float32, 24), (torch.bfloat16, 8), (torch.float16, 11)], ids=str)
def test_fma_rounds_once(elementwise: Elementwise, dtype: torch.dtype, digits: int) -> None:
    """The exact a * b + c is rounded once, also where the exact sum lies just beside the middle of two numbers."""
    hard = torch.tensor(hard_triples(digits), dtype=torch.float64)
    random = torch.from_numpy(words(1, "fma", 3 * 2000).astype(np.int64)).reshape(-1, 3) / 2.0**60
    triples = torch.cat([hard, random]).to(dtype)
    assert torch.equal(triples[: len(hard)].double(), hard)

    result = elementwise(jit_fma, *(column.contiguous() for column in triples.unbind(1)))

    exact = [Fraction(a) * Fraction(b) + Fraction(c) for a, b, c in triples.tolist()]
    assert result.tolist() == [nearest(value, dtype) for value in exact]


@triton.jit
def jit_maximum(a, b):
    return tl.maximum(a, b)


@triton.jit
def jit_minimum(a, b):
    return tl.minimum(a, b)


@triton.jit
def jit_maximum_nan(a, b):
    return tl.maximum(a, b, propagate_nan=tl.PropagateNan.ALL)


@triton.jit
def jit_minimum_nan(a, b):
    return tl.minimum(a, b, propagate_nan=tl.PropagateNan.ALL)


EXTREMES = {
    "arith.maxnumf": (jit_maximum, torch.fmax),
    "arith.minnumf": (jit_minimum, torch.fmin),
    "arith.maximumf": (jit_maximum_nan, torch.maximum),
    "arith.minimumf": (jit_minimum_nan, torch.minimum),
}


@pytest.mark.parametrize("dtype", [*NARROW, *WIDE], ids=str)
@pytest.mark.parametrize(("function", "reference"), operations_of(EXTREMES))
def test_extremes(elementwise: Elementwise, function: Any, reference: Torch, dtype: torch.dtype) -> None:
    """Maximum and minimum drop a NaN, or keep it where they are told to propagate it."""
    x, y = crossed(SPECIAL, dtype)

    result = elementwise(function, x, y)

    # 0.0 is larger than -0.0, which torch leaves open.
    zeros = (x == 0) & (y == 0)
    larger = function in {jit_maximum, jit_maximum_nan}
    negative = (x.signbit() & y.signbit()) if larger else (x.signbit() | y.signbit())
    wanted = torch.where(zeros, torch.zeros_like(x).copysign(torch.where(negative, -1.0, 1.0).to(dtype)), reference(x, y))
    assert torch.equal(torch.isnan(result), torch.isnan(wanted))
    assert torch.equal(bits(result[~wanted.isnan()]), bits(wanted[~wanted.isnan()]))


@triton.jit
def jit_zeros_in_order(x, largest, smallest, so_far):
    values = tl.load(x + tl.arange(0, 4)[:, None] * 4 + tl.arange(0, 4)[None, :])
    tl.store(largest + tl.arange(0, 4), tl.max(values, 1))
    tl.store(smallest + tl.arange(0, 4), tl.min(values, 1))
    at = tl.arange(0, 4)[:, None] * 4 + tl.arange(0, 4)[None, :]
    tl.store(so_far + at, tl.associative_scan(values, 1, jit_maximum))


def test_zeros_in_order(run: Callable[..., None]) -> None:
    """In reductions and scans too: the largest of 0.0 and -0.0 is 0.0, the smallest -0.0, wherever they stand."""
    x = torch.tensor([[-0.0, 0.0, -0.0, -0.0], [0.0, -0.0, -1.0, -0.0], [-0.0, -0.0, NAN, 1.0], [-0.0, -0.0, -0.0, -3.0]])
    largest, smallest, so_far = torch.zeros(4), torch.zeros(4), torch.zeros(4, 4)

    run(jit_zeros_in_order, (1,), x, largest, smallest, so_far)

    assert list(map(repr, largest.tolist())) == ["0.0", "0.0", "1.0", "-0.0"]
    assert list(map(repr, smallest.tolist())) == ["-0.0", "-1.0", "-0.0", "-3.0"]
    assert [list(map(repr, row)) for row in so_far.tolist()] == [
        ["-0.0", "0.0", "0.0", "0.0"],
        ["0.0", "0.0", "0.0", "0.0"],
        ["-0.0", "-0.0", "-0.0", "1.0"],
        ["-0.0", "-0.0", "-0.0", "-0.0"],
    ]


@triton.jit
def jit_remainders(x, y, out, size, block: tl.constexpr):
    i = tl.arange(0, block)
    tl.store(out + i, tl.load(x + i, mask=i < size) % tl.load(y + i, mask=i < size), mask=i < size)


@pytest.mark.parametrize("dtype", [*NARROW, torch.float32], ids=str)
def test_remainder_on_nvidia(run: Callable[..., None], dtype: torch.dtype) -> None:
    """sm_90 computes x - trunc(x / y) y: the quotient rounded to float32, then one rounding of the rest."""
    numbers = [7.5, -7.5, 1.0, 100.0, -0.3, 3e4, 0.1, 1.1e-4, 1 / 3]
    x, y = crossed(numbers, dtype)
    out = torch.zeros_like(x)

    run(jit_remainders, (1,), x, y, out, x.numel(), 128, spec=EngineSpec(target="sm_90"))

    quotients = (x.float() / y.float()).trunc()
    exact = [Fraction(a) - Fraction(q) * Fraction(b) for a, b, q in zip(x.tolist(), y.tolist(), quotients.tolist(), strict=True)]
    assert any(not 0 <= abs(rest) < abs(b) for rest, b in zip(exact, y.tolist(), strict=True))
    wanted = torch.tensor([nearest(rest, torch.float32) if rest else 0.0 for rest in exact]).to(dtype)
    assert torch.equal(out, wanted)


def test_remainder_of_infinities_on_nvidia(run: Callable[..., None]) -> None:
    """An infinite divisor gives x; a zero divisor and an infinite dividend give NaN; -0.0 becomes 0.0."""
    x, y = torch.tensor([-1.5, 1.5, INF, -0.0, 1e30]), torch.tensor([INF, 0.0, 2.0, 1.0, 1e-30])
    out = torch.zeros(5)

    run(jit_remainders, (1,), x, y, out, 5, 8, spec=EngineSpec(target="sm_90"))

    assert list(map(repr, out.tolist())) == ["-1.5", "nan", "nan", "0.0", "-inf"]


@triton.jit
def jit_clamp(x, low, high):
    return tl.clamp(x, low, high)


@triton.jit
def jit_clamp_nan(x, low, high):
    return tl.clamp(x, low, high, propagate_nan=tl.PropagateNan.ALL)


@pytest.mark.operations("tt.clampf")
@pytest.mark.parametrize("dtype", [*NARROW, *WIDE], ids=str)
def test_clamp(elementwise: Elementwise, dtype: torch.dtype) -> None:
    """Clamping keeps what lies between the limits; a NaN becomes the lower one, or stays if it is to propagate."""
    x = torch.tensor([-INF, -3.0, -1.0, -0.25, 0.5, 2.0, 7.0, INF, NAN], dtype=dtype)
    low, high = torch.full_like(x, -1.0), torch.full_like(x, 2.0)

    plain = elementwise(jit_clamp, x, low, high)
    propagating = elementwise(jit_clamp_nan, x, low, high)

    assert plain.tolist() == [-1.0, -1.0, -1.0, -0.25, 0.5, 2.0, 2.0, 2.0, -1.0]
    assert propagating.tolist()[:-1] == plain.tolist()[:-1]
    assert math.isnan(propagating[-1])


@triton.jit
def jit_comparisons(a, b):
    less = (a < b).to(tl.int32) + (a <= b).to(tl.int32) * 2
    return less + (a > b).to(tl.int32) * 4 + (a >= b).to(tl.int32) * 8 + (a == b).to(tl.int32) * 16 + (a != b).to(tl.int32) * 32


@pytest.mark.operations("arith.cmpf")
@pytest.mark.parametrize("dtype", [*NARROW, *WIDE], ids=str)
def test_comparisons(elementwise: Elementwise, dtype: torch.dtype) -> None:
    """Every comparison with a NaN is false, except !=."""
    x, y = crossed(SPECIAL, dtype)

    result = elementwise(jit_comparisons, x, y, dtype=torch.int32)

    expected = [
        (a < b) + 2 * (a <= b) + 4 * (a > b) + 8 * (a >= b) + 16 * (a == b) + 32 * (a != b)
        for a, b in zip(x.tolist(), y.tolist(), strict=True)
    ]
    assert result.tolist() == expected


# In the order of MLIR's numbers; each letter is an outcome for which the predicate holds: =, <, > or unordered (?).
PREDICATES = ["", "=", ">", ">=", "<", "<=", "<>", "<=>", "?=", "?>", "?>=", "?<", "?<=", "?<>", "?", "?<=>"]


@pytest.mark.parametrize(("predicate", "outcomes"), list(enumerate(PREDICATES)))
def test_float_predicates(predicate: int, outcomes: str) -> None:
    """All sixteen: Triton's front end writes six, but MLIR's passes may invert a comparison."""
    pairs = {"=": (2.0, 2.0), ">": (3.0, 2.0), "<": (2.0, 3.0), "?": (2.0, NAN)}

    for outcome, (a, b) in pairs.items():
        answer = _float_predicate(predicate, np.array([a], np.float32), np.array([b], np.float32))

        assert answer.tolist() == [outcome in outcomes]


@triton.jit
def jit_select(condition, a, b):
    return tl.where(condition > 0, a, b)


@pytest.mark.operations("arith.select")
@pytest.mark.parametrize("dtype", [*NARROW, *WIDE], ids=str)
def test_select(elementwise: Elementwise, dtype: torch.dtype) -> None:
    """A select takes bits, and what was not chosen leaves no trace, NaN or not."""
    condition = torch.tensor([1, 0] * 50, dtype=dtype)
    x, y = patterns(dtype, "x")[:100], patterns(dtype, "y")[:100]

    result = elementwise(jit_select, condition, x, y)

    raw = BITS[dtype.itemsize]
    assert torch.equal(result.view(raw), torch.where(condition > 0, x.view(raw), y.view(raw)))
