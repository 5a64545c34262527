"""Integer and boolean operations against Python's integers, wrapped by hand."""

# ruff: noqa: D103 - jit functions of one line that stand for an operator
# mypy: allow-untyped-defs, allow-untyped-decorators

from __future__ import annotations

import itertools
import operator
from collections.abc import Callable
from typing import Any

import pytest
import torch
import triton
import triton.language as tl

from tridiff.harness.api import Arena, Poison

Elementwise = Callable[..., torch.Tensor]
Binary = Callable[[int, int], int]
SIGNED = {8: torch.int8, 16: torch.int16, 32: torch.int32, 64: torch.int64}
UNSIGNED = {8: torch.uint8, 16: torch.uint16, 32: torch.uint32, 64: torch.uint64}


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
    return a // b


@triton.jit
def jit_remainder(a, b):
    return a % b


@triton.jit
def jit_maximum(a, b):
    return tl.maximum(a, b)


@triton.jit
def jit_minimum(a, b):
    return tl.minimum(a, b)


@triton.jit
def jit_and(a, b):
    return a & b


@triton.jit
def jit_or(a, b):
    return a | b


@triton.jit
def jit_xor(a, b):
    return a ^ b


@triton.jit
def jit_shift_left(a, b):
    return a << b


@triton.jit
def jit_shift_right(a, b):
    return a >> b


@triton.jit
def jit_absolute(a):
    return tl.abs(a)


@triton.jit
def jit_equal(a, b):
    return a == b


@triton.jit
def jit_not_equal(a, b):
    return a != b


@triton.jit
def jit_less(a, b):
    return a < b


@triton.jit
def jit_less_equal(a, b):
    return a <= b


@triton.jit
def jit_greater(a, b):
    return a > b


@triton.jit
def jit_greater_equal(a, b):
    return a >= b


def truncated(a: int, b: int) -> int:
    """Quotient rounded toward zero, as in C; 0x7A7A... for a division by zero, which hardware does not define."""
    quotient = abs(a) // abs(b)
    return quotient if (a < 0) == (b < 0) else -quotient


def remainder(a: int, b: int) -> int:
    """What `truncated` leaves: it has the dividend's sign."""
    return a - b * truncated(a, b)


COMMON: dict[str, tuple[Any, Binary]] = {
    "arith.addi": (jit_add, operator.add),
    "arith.subi": (jit_subtract, operator.sub),
    "arith.muli": (jit_multiply, operator.mul),
    "arith.andi": (jit_and, operator.and_),
    "arith.ori": (jit_or, operator.or_),
    "arith.xori": (jit_xor, operator.xor),
}
OF_SIGNED = COMMON | {
    "arith.divsi": (jit_divide, truncated),
    "arith.remsi": (jit_remainder, remainder),
    "arith.maxsi": (jit_maximum, max),
    "arith.minsi": (jit_minimum, min),
}
OF_UNSIGNED = COMMON | {
    "arith.divui": (jit_divide, operator.floordiv),
    "arith.remui": (jit_remainder, operator.mod),
    "arith.maxui": (jit_maximum, max),
    "arith.minui": (jit_minimum, min),
}
COMPARISONS: list[tuple[Any, Binary]] = [
    (jit_equal, operator.eq),
    (jit_not_equal, operator.ne),
    (jit_less, operator.lt),
    (jit_less_equal, operator.le),
    (jit_greater, operator.gt),
    (jit_greater_equal, operator.ge),
]


def operations_of(table: dict[str, tuple[Any, Binary]]) -> list[Any]:
    """Parameters (jit function, Python function), each marked with its operation."""
    return [pytest.param(*pair, marks=pytest.mark.operations(name), id=name) for name, pair in table.items()]


def wrap(value: int, bits: int, *, signed: bool) -> int:
    """The integer of that width with the same low bits."""
    low = value & ((1 << bits) - 1)
    return low - (1 << bits) if signed and low >> (bits - 1) else low


def edges(bits: int, *, signed: bool) -> list[int]:
    """Sixteen values around the ends of the range, zero and the sign bit."""
    half = 1 << (bits - 1)
    if signed:
        return [-half, 1 - half, 2 - half, -90, -7, -3, -2, -1, 0, 1, 2, 3, 7, 90, half - 2, half - 1]
    return [0, 1, 2, 3, 5, 7, 90, *range(half - 2, half + 3), *range(2 * half - 4, 2 * half)]


def pairs(bits: int, *, signed: bool) -> tuple[list[int], list[int]]:
    """All pairs of edges, as two lists of 256."""
    every = list(itertools.product(edges(bits, signed=signed), repeat=2))
    return [a for a, _ in every], [b for _, b in every]


def test_edges_are_distinct() -> None:
    """No edge is tested twice in the place of another."""
    for bits, signed in itertools.product(SIGNED, (True, False)):
        assert len(set(edges(bits, signed=signed))) == 16


@pytest.mark.parametrize("bits", SIGNED)
@pytest.mark.parametrize(("function", "python"), operations_of(OF_SIGNED))
def test_signed(elementwise: Elementwise, function: Any, python: Binary, bits: int) -> None:
    """Results wrap around; division and remainder round toward zero, INT_MIN / -1 included."""
    a, b = pairs(bits, signed=True)
    if function in {jit_divide, jit_remainder}:
        b = [value or 5 for value in b]

    result = elementwise(function, torch.tensor(a, dtype=SIGNED[bits]), torch.tensor(b, dtype=SIGNED[bits]))

    assert result.tolist() == [wrap(python(x, y), bits, signed=True) for x, y in zip(a, b, strict=True)]


@pytest.mark.parametrize("bits", UNSIGNED)
@pytest.mark.parametrize(("function", "python"), operations_of(OF_UNSIGNED))
def test_unsigned(elementwise: Elementwise, function: Any, python: Binary, bits: int) -> None:
    """Results wrap around at 2^bits, and values with the top bit set are large."""
    a, b = pairs(bits, signed=False)
    if function in {jit_divide, jit_remainder}:
        b = [value or 5 for value in b]

    result = elementwise(function, torch.tensor(a, dtype=UNSIGNED[bits]), torch.tensor(b, dtype=UNSIGNED[bits]))

    assert result.tolist() == [wrap(python(x, y), bits, signed=False) for x, y in zip(a, b, strict=True)]


@pytest.mark.parametrize("dtype", [torch.int8, torch.uint8, torch.int32, torch.uint32, torch.int64, torch.uint64])
@pytest.mark.parametrize("function", [jit_divide, jit_remainder])
def test_division_by_zero(elementwise: Elementwise, function: Any, dtype: torch.dtype) -> None:
    """A division by zero gives a recognisable value: hardware gives anything."""
    dividends = torch.tensor([0, 1, 7, 100], dtype=dtype)

    result = elementwise(function, dividends, torch.zeros(4, dtype=dtype))

    assert set(result.tolist()) == {int.from_bytes(b"\x7a" * dtype.itemsize, "little")}


@pytest.mark.operations("arith.shli", "arith.shrsi", "arith.shrui")
@pytest.mark.parametrize("bits", SIGNED)
def test_shifts(elementwise: Elementwise, bits: int) -> None:
    """A right shift of a signed integer copies the sign, of an unsigned one zeros; a left shift drops what leaves."""
    for signed, dtype in ((True, SIGNED[bits]), (False, UNSIGNED[bits])):
        every = list(itertools.product(edges(bits, signed=signed), [0, 1, 2, 3, 5, bits // 2, bits - 2, bits - 1]))
        values, amounts = torch.tensor([x for x, _ in every], dtype=dtype), torch.tensor([y for _, y in every], dtype=dtype)

        left = elementwise(jit_shift_left, values, amounts)
        right = elementwise(jit_shift_right, values, amounts)

        assert left.tolist() == [wrap(x << y, bits, signed=signed) for x, y in every]
        assert right.tolist() == [x >> y for x, y in every]


@pytest.mark.operations("arith.cmpi")
@pytest.mark.parametrize("bits", SIGNED)
@pytest.mark.parametrize(("function", "python"), COMPARISONS, ids=[f.__name__ for _, f in COMPARISONS])
def test_comparisons(elementwise: Elementwise, function: Any, python: Binary, bits: int) -> None:
    """All ten predicates, at the ends of the range of every width."""
    for signed, dtype in ((True, SIGNED[bits]), (False, UNSIGNED[bits])):
        a, b = pairs(bits, signed=signed)

        result = elementwise(function, torch.tensor(a, dtype=dtype), torch.tensor(b, dtype=dtype), dtype=torch.int8)

        assert result.tolist() == [int(python(x, y)) for x, y in zip(a, b, strict=True)]


@pytest.mark.operations("math.absi")
@pytest.mark.parametrize("bits", SIGNED)
def test_absolute(elementwise: Elementwise, bits: int) -> None:
    """|INT_MIN| wraps to INT_MIN."""
    values = edges(bits, signed=True)

    result = elementwise(jit_absolute, torch.tensor(values, dtype=SIGNED[bits]))

    assert result.tolist() == [wrap(abs(value), bits, signed=True) for value in values]


def of_sources(widths: set[int], signed: str, unsigned: str) -> list[Any]:
    """Integer dtypes of those widths, each marked with the operation that reads it."""
    dtypes = [table[bits] for table in (SIGNED, UNSIGNED) for bits in sorted(widths)]
    return [pytest.param(t, marks=pytest.mark.operations(signed if t.is_signed else unsigned), id=str(t)) for t in dtypes]


@triton.jit
def jit_to_int64(a):
    return a.to(tl.int64)


@triton.jit
def jit_to_int8(a):
    return a.to(tl.int8)


@pytest.mark.parametrize("source", of_sources({8, 16, 32}, "arith.extsi", "arith.extui"))
def test_extension(elementwise: Elementwise, source: torch.dtype) -> None:
    """The source's signedness says what the new bits are."""
    values = edges(8 * source.itemsize, signed=source.is_signed)

    result = elementwise(jit_to_int64, torch.tensor(values, dtype=source), dtype=torch.int64)

    assert result.tolist() == values


@pytest.mark.parametrize("source", of_sources({16, 32, 64}, "arith.trunci", "arith.trunci"))
def test_truncation(elementwise: Elementwise, source: torch.dtype) -> None:
    """The low bits stay."""
    values = edges(8 * source.itemsize, signed=source.is_signed)

    result = elementwise(jit_to_int8, torch.tensor(values, dtype=source), dtype=torch.int8)

    assert result.tolist() == [wrap(value, 8, signed=True) for value in values]


@triton.jit
def jit_not(a, _b):
    return not a


@triton.jit
def jit_invert(a, _b):
    return ~a


@triton.jit
def jit_widened(a, b):
    return a.to(tl.int32) - b.to(tl.int32) * 2 == -1


BOOLEAN: dict[str, tuple[Any, Binary]] = {
    "and": (jit_and, lambda a, b: a & b),
    "or": (jit_or, lambda a, b: a | b),
    "xor": (jit_xor, lambda a, b: a ^ b),
    "not": (jit_not, lambda a, _: 1 - a),
    "invert": (jit_invert, lambda a, _: 1 - a),
    # Arithmetic of one bit: + and - are xor, * is and.
    "add": (jit_add, lambda a, b: (a + b) % 2),
    "subtract": (jit_subtract, lambda a, b: (a - b) % 2),
    "multiply": (jit_multiply, lambda a, b: a * b),
    "maximum": (jit_maximum, max),
    "minimum": (jit_minimum, min),
    "equal": (jit_equal, lambda a, b: int(a == b)),
    # True is 1, not -1: booleans are unsigned.
    "less": (jit_less, lambda a, b: int(a < b)),
    "greater_equal": (jit_greater_equal, lambda a, b: int(a >= b)),
    "widened": (jit_widened, lambda a, b: int(a - 2 * b == -1)),
}


@pytest.mark.operations("tt.bitcast")  # of pointers to booleans into pointers to bytes
@pytest.mark.parametrize(("function", "python"), BOOLEAN.values(), ids=BOOLEAN)
def test_booleans(elementwise: Elementwise, function: Any, python: Binary) -> None:
    """Booleans in memory and in arithmetic."""
    a, b = [False, False, True, True], [False, True, False, True]

    result = elementwise(function, torch.tensor(a), torch.tensor(b))

    assert result.tolist() == [bool(python(x, y)) for x, y in zip(a, b, strict=True)]


@triton.jit
def store_scalar(out, value):
    tl.store(out, value)


@pytest.mark.parametrize(
    ("value", "dtype"),
    [
        (-(2**31), torch.int32),
        (2**31, torch.int64),
        (-(2**63), torch.int64),
        (2**63, torch.uint64),
        (2**64 - 1, torch.uint64),
        (True, torch.bool),
    ],
    ids=str,
)
def test_scalar_arguments(run: Callable[..., None], value: int, dtype: torch.dtype) -> None:
    """Integers of every size that Triton tells apart arrive as they are."""
    result = torch.zeros(1, dtype=dtype)

    run(store_scalar, (1,), result, value)

    assert result.tolist() == [value]


@triton.jit
def divisions(x, y, out, masked, size):
    i = tl.arange(0, 8)
    a, b = tl.load(x + i), tl.load(y + i)
    tl.store(out + i, a // b)
    tl.store(out + 8 + i, a % b)
    tl.store(masked + i, tl.where(b == 0, 5, a // b), mask=i < size)


@pytest.mark.parametrize("dtype", [torch.int8, torch.int32, torch.int64, torch.uint8, torch.uint32], ids=str)
def test_division_by_zero_is_poison(run: Callable[..., None], dtype: torch.dtype) -> None:
    """It is undefined: its value changes with the run's poison, so that a result that depends on it is found."""
    x = torch.tensor([7, 0, 1, 9, 100, 5, 6, 8]).to(dtype)
    y = torch.tensor([2, 0, 1, 0, 7, 5, 0, 3]).to(dtype)
    results = []
    for poison in (Poison.LOUD, Poison.QUIET):
        out, masked = torch.zeros(16, dtype=dtype), torch.zeros(8, dtype=dtype)
        run(divisions, (1,), x, y, out, masked, 8, arena=Arena(poison))
        results.append(out.tolist())
        assert masked.tolist() == [3, 5, 1, 5, 14, 1, 5, 2]

    loud, quiet = results
    by_zero = [divisor == 0 for divisor in y.tolist()] * 2
    assert [a != b for a, b in zip(loud, quiet, strict=True)] == by_zero
    assert [a for a, undefined in zip(loud, by_zero, strict=True) if not undefined] == [3, 1, 14, 1, 2, 1, 0, 2, 0, 2]
