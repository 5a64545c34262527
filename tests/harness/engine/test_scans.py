"""Scans, and functions mapped over lanes: order of combination, widths, several operands, what differs between programs."""

# ruff: noqa: D103 - jit functions of a few lines that stand for an operator
# mypy: allow-untyped-defs, allow-untyped-decorators

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
import triton
import triton.language as tl

from tridiff.harness.api import gaussian, integers

Run = Callable[..., None]


def numbers(name: str, shape: list[int], bound: int = 1000) -> torch.Tensor:
    """int32 tensor of random integers in [-bound, bound)."""
    return torch.from_numpy(integers(0, name, math.prod(shape), 2 * bound) - bound).to(torch.int32).reshape(shape)


@triton.jit
def combine_sum(a, b):
    return a + b


@triton.jit
def combine_maximum(a, b):
    return tl.maximum(a, b)


@triton.jit
def combine_digits(length_a, digits_a, length_b, digits_b):
    """Concatenates numbers in base 16, of so many digits: associative, and wrong in any other order."""
    return length_a + length_b, (digits_a << (4 * length_b)) | digits_b


@triton.jit
def combine_capped(a, b):
    """A sum of what is positive, of at most 1000: associative, and branches differently in every lane."""
    result = b
    if a > 0:
        result = a
        if b > 0:
            result = tl.minimum(a + b, 1000)
    return result


@triton.jit
def combine_with_program(a, b):
    return a + b + tl.program_id(0)


@triton.jit
def jit_cumsum(x, axis: tl.constexpr, reverse: tl.constexpr):
    return tl.cumsum(x, axis, reverse=reverse)


@triton.jit
def jit_cumprod(x, axis: tl.constexpr, reverse: tl.constexpr):
    return tl.cumprod(x, axis, reverse=reverse)


@triton.jit
def jit_maximum(x, axis: tl.constexpr, reverse: tl.constexpr):
    return tl.associative_scan(x, axis, combine_maximum, reverse=reverse)


@triton.jit
def jit_capped(x, axis: tl.constexpr, reverse: tl.constexpr):
    return tl.associative_scan(x, axis, combine_capped, reverse=reverse)


@triton.jit
def jit_digits(x, axis: tl.constexpr, reverse: tl.constexpr):
    _, digits = tl.associative_scan((x * 0 + 1, x & 15), axis, combine_digits, reverse=reverse)
    return digits


@triton.jit
def scan_cube(x, out, function: tl.constexpr, axis: tl.constexpr, reverse: tl.constexpr, a: tl.constexpr, b: tl.constexpr):
    """Scans a tile [a, b, 8] of every program along one axis."""
    i = tl.arange(0, a)[:, None, None]
    j = tl.arange(0, b)[None, :, None]
    k = tl.arange(0, 8)[None, None, :]
    lanes = ((tl.program_id(0) * a + i) * b + j) * 8 + k
    tl.store(out + lanes, function(tl.load(x + lanes), axis, reverse))


def folded(function: Callable[[int, int], int], x: torch.Tensor, axis: int, *, reverse: bool) -> torch.Tensor:
    """The scan by Python's own accumulate, lane by lane, in 32 bits."""
    x = (x.flip(axis) if reverse else x).movedim(axis, -1)
    rows = [list(itertools.accumulate(row, lambda a, b: wrapped(function(a, b)))) for row in x.reshape(-1, x.shape[-1]).tolist()]
    result = torch.tensor(rows, dtype=torch.int32).reshape(x.shape).movedim(-1, axis)
    return result.flip(axis) if reverse else result


def wrapped(value: int) -> int:
    """The value in 32 bits of two's complement."""
    return (value + 2**31) % 2**32 - 2**31


SCANS: dict[str, tuple[Any, Callable[[int, int], int], int]] = {
    "sum": (jit_cumsum, lambda a, b: a + b, 2**30),
    "product": (jit_cumprod, lambda a, b: a * b, 2**30),
    "maximum": (jit_maximum, max, 1000),
    "capped": (jit_capped, lambda a, b: (min(a + b, 1000) if b > 0 else a) if a > 0 else b, 500),
    "digits": (jit_digits, lambda a, b: a << 4 | b, 8),
}


@pytest.mark.operations("tt.scan", "tt.scan.return")
@pytest.mark.parametrize("reverse", [False, True], ids=["forward", "reverse"])
@pytest.mark.parametrize("axis", [0, 1, 2])
@pytest.mark.parametrize("name", SCANS)
def test_scans(run: Run, name: str, axis: int, reverse: bool) -> None:
    """Every combiner along every axis and in both directions; sums and products wrap."""
    function, combine, bound = SCANS[name]
    x = numbers("scan", [3, 2, 4, 8], bound)
    x = x & 15 if name == "digits" else x
    out = torch.zeros_like(x)

    run(scan_cube, (3,), x, out, function, axis, reverse, 2, 4)

    assert torch.equal(out, folded(combine, x, axis + 1, reverse=reverse))


@triton.jit
def scan_row(x, out, function: tl.constexpr, n: tl.constexpr):
    lanes = tl.program_id(0) * n + tl.arange(0, n)
    tl.store(out + lanes, function(tl.load(x + lanes), 0, reverse=False))


@pytest.mark.parametrize("size", [1, 2, 1024])
def test_sizes(run: Run, size: int) -> None:
    """A scan of one element is that element; a long one goes on in the right order."""
    x = numbers("sizes", [2, size], 2**30)
    out = torch.zeros_like(x)

    run(scan_row, (2,), x, out, jit_generic_sum, size)

    assert torch.equal(out, x.cumsum(1).to(torch.int32))


@triton.jit
def jit_generic_sum(x, axis: tl.constexpr, reverse: tl.constexpr):
    return tl.associative_scan(x, axis, combine_sum, reverse=reverse)


@pytest.mark.parametrize("dtype", [torch.int8, torch.int16, torch.int64], ids=str)
def test_widths(run: Run, dtype: torch.dtype) -> None:
    """tl.cumsum promotes narrow integers to 32 bits; the plain scan wraps in its own width."""
    x = torch.full((2, 16), torch.iinfo(dtype).max, dtype=dtype)
    promoted, own = torch.zeros(2, 16, dtype=torch.promote_types(dtype, torch.int32)), torch.zeros(2, 16, dtype=dtype)

    run(scan_row, (2,), x, promoted, jit_cumsum, 16)
    run(scan_row, (2,), x, own, jit_generic_sum, 16)

    assert torch.equal(promoted, torch.cumsum(x, 1, dtype=promoted.dtype))
    assert torch.equal(own, torch.cumsum(x, 1, dtype=torch.int64).to(dtype))


@triton.jit
def jit_parity(x, axis: tl.constexpr, reverse: tl.constexpr):
    return tl.associative_scan(x != 0, axis, combine_sum, reverse=reverse).to(tl.int32)


@triton.jit
def jit_all(x, axis: tl.constexpr, reverse: tl.constexpr):
    return tl.associative_scan(x != 0, axis, combine_product, reverse=reverse).to(tl.int32)


@triton.jit
def combine_product(a, b):
    return a * b


@pytest.mark.parametrize(("function", "expected"), [(jit_parity, [1, 0, 0, 1, 1, 0, 1, 1]), (jit_all, [1, 1, 0, 0, 0, 0, 0, 0])])
def test_booleans(run: Run, function: Any, expected: list[int]) -> None:
    """Integers of one bit: a sum is exclusive or, a product is and."""
    x, out = torch.tensor([1, 1, 0, 1, 0, 1, 1, 0], dtype=torch.int32), torch.zeros(8, dtype=torch.int32)

    run(scan_row, (1,), x, out, function, 8)

    assert out.tolist() == expected


def test_float_scan(run: Run) -> None:
    """Every prefix sum of float32 errs by less than the bound of any order of summation."""
    x = gaussian(0, "x", [4, 1024])
    out = torch.zeros_like(x)

    run(scan_row, (4,), x, out, jit_cumsum, 1024)

    exact = x.double().cumsum(1)
    # Higham, "Accuracy and Stability of Numerical Algorithms", (4.4): (n - 1) u sum |x|.
    bound = torch.arange(1024) * 2.0**-24 * x.double().abs().cumsum(1)
    assert ((out.double() - exact).abs() <= bound).all()


@triton.jit
def jit_generic_product(x, axis: tl.constexpr, reverse: tl.constexpr):
    return tl.associative_scan(x, axis, combine_product, reverse=reverse)


@triton.jit
def scan_minus(x, y, out, function: tl.constexpr, n: tl.constexpr):
    lanes = tl.arange(0, n)
    tl.store(out + lanes, function(tl.load(x + lanes), 0, reverse=False) - tl.load(y + lanes))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_narrow_floats_round_per_step(run: Run, dtype: torch.dtype) -> None:
    """Combined in bf16 or fp16 a partial result is rounded before anything else sees it (tl.cumprod widens bf16 before)."""
    ulp = torch.finfo(dtype).eps
    # 1 + 3/8 ulp is 1; (1 + ulp)^2 is 1 + 2 ulp.
    terms, sums = torch.tensor([1.0, 0.375 * ulp], dtype=dtype), torch.tensor([1.0, 1.0], dtype=dtype)
    factors, products = torch.tensor([1 + ulp, 1 + ulp], dtype=dtype), torch.tensor([1 + ulp, 1 + 2 * ulp], dtype=dtype)
    rests = torch.ones(2, 2, dtype=dtype)

    run(scan_minus, (1,), terms, sums, rests[0], jit_generic_sum, 2)
    run(scan_minus, (1,), factors, products, rests[1], jit_generic_product, 2)

    assert rests.tolist() == [[0.0, 0.0], [0.0, 0.0]]


@triton.jit
def combine_segmented(flag_a, value_a, flag_b, value_b):
    return flag_a | flag_b, tl.where(flag_b != 0, value_b, value_a + value_b)


@triton.jit
def combine_affine(gate_a, value_a, gate_b, value_b):
    return gate_a * gate_b, gate_b * value_a + value_b


@triton.jit
def combine_matrices(a, b, c, d, e, f, g, h):
    """[[a, b], [c, d]] times [[e, f], [g, h]] in 32 bits, the later matrix on the left."""
    return e * a + f * c, e * b + f * d, g * a + h * c, g * b + h * d


@triton.jit
def jit_segmented(flags, values):
    _, result = tl.associative_scan((flags, values), 0, combine_segmented)
    return result


@triton.jit
def jit_affine(gates, values):
    _, result = tl.associative_scan((gates, values), 0, combine_affine)
    return result


@triton.jit
def scan_pairs(x, y, out, function: tl.constexpr, n: tl.constexpr):
    lanes = tl.program_id(0) * n + tl.arange(0, n)
    tl.store(out + lanes, function(tl.load(x + lanes), tl.load(y + lanes)))


def test_segmented_scan(run: Run) -> None:
    """A sum that starts afresh where a flag is set."""
    flags, values = (numbers("flags", [2, 64]) % 5 == 0).to(torch.int32), numbers("values", [2, 64])
    out = torch.zeros_like(values)
    expected = values.clone()
    for i in range(1, 64):
        expected[:, i] += torch.where(flags[:, i] != 0, 0, expected[:, i - 1])

    run(scan_pairs, (2,), flags, values, out, jit_segmented, 64)

    assert torch.equal(out, expected)


@pytest.mark.parametrize("dtype", [torch.int32, torch.float32], ids=str)
def test_linear_recurrence(run: Run, dtype: torch.dtype) -> None:
    """H = gate * h + value, as in state-space models; integers exactly, floats (eighths, small) without rounding too."""
    gates, values = numbers("gates", [2, 8], 3).to(dtype) / (1 if dtype == torch.int32 else 2), numbers("v", [2, 8], 8).to(dtype)
    gates = gates.to(dtype)
    out, expected = torch.zeros_like(values), values.clone()
    for i in range(1, 8):
        expected[:, i] += gates[:, i] * expected[:, i - 1]

    run(scan_pairs, (2,), gates, values, out, jit_affine, 8)

    assert torch.equal(out, expected)


@triton.jit
def scan_matrices(x, out, n: tl.constexpr, reverse: tl.constexpr):
    lanes = (tl.program_id(0) * n + tl.arange(0, n)) * 4
    a, b, c, d = tl.load(x + lanes), tl.load(x + lanes + 1), tl.load(x + lanes + 2), tl.load(x + lanes + 3)
    a, b, c, d = tl.associative_scan((a, b, c, d), 0, combine_matrices, reverse=reverse)
    tl.store(out + lanes, a)
    tl.store(out + lanes + 1, b)
    tl.store(out + lanes + 2, c)
    tl.store(out + lanes + 3, d)


@pytest.mark.parametrize("reverse", [False, True], ids=["forward", "reverse"])
def test_products_of_matrices(run: Run, reverse: bool) -> None:
    """Matrices modulo 2^32 do not commute: any change of order shows."""
    x = numbers("matrices", [2, 32, 2, 2], 2**30)
    out = torch.zeros_like(x)
    expected = x.long().flip(1) if reverse else x.long()
    for i in range(1, 32):
        expected[:, i] = (expected[:, i] @ expected[:, i - 1]) & 0xFFFFFFFF
    expected = (expected.flip(1) if reverse else expected).to(torch.int32)

    run(scan_matrices, (2,), x, out, 32, reverse)

    assert torch.equal(out, expected)


@triton.jit
def scan_uniform(out, m: tl.constexpr, n: tl.constexpr, axis: tl.constexpr, uniform: tl.constexpr, function: tl.constexpr):
    """A tile that is the same in all programs, or along an axis: a scalar, a row or a column."""
    p = tl.program_id(0)
    row = tl.arange(0, n)[None, :] + 1
    column = tl.arange(0, m)[:, None] + 1
    if uniform == "programs":
        tile = row + 0 * column
    elif uniform == "scalar":
        tile = tl.zeros([m, n], tl.int32) + p + 1
    elif uniform == "row":
        tile = tl.broadcast_to(row + p, [m, n])
    else:
        tile = tl.broadcast_to(column + p, [m, n])
    tl.store(out + (p * m + column - 1) * n + row - 1, function(tile, axis, reverse=False))


@pytest.mark.parametrize("function", [jit_cumsum, jit_generic_sum, jit_capped], ids=["known", "straight", "branching"])
@pytest.mark.parametrize("axis", [0, 1])
@pytest.mark.parametrize("uniform", ["programs", "scalar", "row", "column"])
def test_uniform_values(run: Run, uniform: str, axis: int, function: Any) -> None:
    """What exists once for all programs, or once along an axis, is scanned as if it were written out."""
    p, i, j = torch.meshgrid(torch.arange(3), torch.arange(4), torch.arange(8), indexing="ij")
    tiles = {"programs": j + 1, "scalar": p + 1, "row": j + 1 + p, "column": i + 1 + p}
    out = torch.zeros(3, 4, 8, dtype=torch.int32)

    run(scan_uniform, (3,), out, 4, 8, axis, uniform, function)

    assert torch.equal(out, tiles[uniform].cumsum(axis + 1).to(torch.int32))


@triton.jit
def jit_with_program(x, axis: tl.constexpr, reverse: tl.constexpr):
    return tl.associative_scan(x, axis, combine_with_program, reverse=reverse)


@triton.jit
def reduce_with_program(out, n: tl.constexpr):
    # The program id of the store comes later, so that Triton's passes leave that of the combiner where it is.
    result = tl.reduce(tl.full([n], 1, tl.int32), 0, combine_with_program)
    tl.store(out + tl.program_id(0), result)


@triton.jit
def reduce_captured(x, out, n: tl.constexpr):
    """The program id is known outside already, so that Triton's passes may take it from there."""
    p = tl.program_id(0)
    tl.store(out + p, tl.reduce(tl.load(x + p * n + tl.arange(0, n)), 0, combine_with_program))


def test_combiners_that_know_their_program(run: Run) -> None:
    """The program id inside a combiner is that of the program, even where sizes would fit another axis or all values agree."""
    size = 4
    x = torch.ones(size, size, dtype=torch.int32)
    p, i = torch.meshgrid(torch.arange(size), torch.arange(size), indexing="ij")
    scanned, reduced, captured = torch.zeros_like(x), torch.zeros(size, dtype=torch.int32), torch.zeros(size, dtype=torch.int32)

    run(scan_row, (size,), x, scanned, jit_with_program, size)
    run(reduce_with_program, (size,), reduced, size)
    run(reduce_captured, (size,), x, captured, size)

    assert torch.equal(scanned, (i + 1 + i * p).to(torch.int32))
    assert reduced.tolist() == captured.tolist() == [4, 7, 10, 13]
