"""Reductions and matrix products."""

# ruff: noqa: D103 - jit functions of one line that stand for an operator
# mypy: allow-untyped-defs, allow-untyped-decorators

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
import triton
import triton.language as tl

from tridiff.harness.api import gaussian, integers

Run = Callable[..., None]
NAN, INF = math.nan, math.inf


def numbers(name: str, shape: list[int], bound: int = 1000) -> torch.Tensor:
    """int32 tensor of random integers in [-bound, bound)."""
    return torch.from_numpy(integers(0, name, math.prod(shape), 2 * bound) - bound).to(torch.int32).reshape(shape)


@triton.jit
def jit_sum(x, axis: tl.constexpr):
    return tl.sum(x, axis)


@triton.jit
def jit_max(x, axis: tl.constexpr):
    return tl.max(x, axis)


@triton.jit
def jit_min(x, axis: tl.constexpr):
    return tl.min(x, axis)


@triton.jit
def jit_argmax(x, axis: tl.constexpr):
    return tl.argmax(x, axis)


@triton.jit
def jit_argmin(x, axis: tl.constexpr):
    return tl.argmin(x, axis)


@triton.jit
def jit_xor(x, axis: tl.constexpr):
    return tl.xor_sum(x, axis)


@triton.jit
def combine_and(a, b):
    return a & b


@triton.jit
def combine_or(a, b):
    return a | b


@triton.jit
def combine_product(a, b):
    return a * b


@triton.jit
def combine_plus_one(a, b):
    return a + b + 1


@triton.jit
def combine_sum(a, b):
    return a + b


@triton.jit
def combine_min_max(low_a, high_a, low_b, high_b):
    return tl.minimum(low_a, low_b), tl.maximum(high_a, high_b)


@triton.jit
def combine_branch(a, b):
    """A sum of what is positive, of at most 1000."""
    result = b
    if a > 0:
        result = a
        if b > 0:
            result = tl.minimum(a + b, 1000)
    return result


@triton.jit
def jit_and(x, axis: tl.constexpr):
    return tl.reduce(x, axis, combine_and)


@triton.jit
def jit_or(x, axis: tl.constexpr):
    return tl.reduce(x, axis, combine_or)


@triton.jit
def jit_product(x, axis: tl.constexpr):
    return tl.reduce(x, axis, combine_product)


@triton.jit
def jit_plus_one(x, axis: tl.constexpr):
    return tl.reduce(x, axis, combine_plus_one)


@triton.jit
def jit_generic_sum(x, axis: tl.constexpr):
    return tl.reduce(x, axis, combine_sum)


@triton.jit
def jit_parity(x, axis: tl.constexpr):
    return tl.reduce((x & 1) == 1, axis, combine_sum).to(tl.int32)


@triton.jit
def jit_spread(x, axis: tl.constexpr):
    low, high = tl.reduce((x, x * 2), axis, combine_min_max)
    return high - low


@triton.jit
def jit_branch(x, axis: tl.constexpr):
    return tl.reduce(x, axis, combine_branch)


@triton.jit
def reduce_cube(x, out, function: tl.constexpr, axis: tl.constexpr, a: tl.constexpr, b: tl.constexpr, c: tl.constexpr):
    """Reduces a tile [a, b, c] of every program along one axis."""
    p = tl.program_id(0)
    i = tl.arange(0, a)[:, None, None]
    j = tl.arange(0, b)[None, :, None]
    k = tl.arange(0, c)[None, None, :]
    result = function(tl.load(x + ((p * a + i) * b + j) * c + k), axis)
    if axis == 0:
        lanes = tl.arange(0, b)[:, None] * c + tl.arange(0, c)[None, :]
    elif axis == 1:
        lanes = tl.arange(0, a)[:, None] * c + tl.arange(0, c)[None, :]
    else:
        lanes = tl.arange(0, a)[:, None] * b + tl.arange(0, b)[None, :]
    tl.store(out + p * (result.shape[0] * result.shape[1]) + lanes, result)


def folded(function: Callable[[int, int], int]) -> Callable[..., torch.Tensor]:
    """A reduction by folding slices."""
    return lambda x, axis: functools.reduce(function, x.unbind(axis))


REDUCTIONS: dict[str, tuple[Any, Callable[..., torch.Tensor]]] = {
    "sum": (jit_sum, lambda x, axis: x.sum(axis)),
    "max": (jit_max, lambda x, axis: x.amax(axis)),
    "min": (jit_min, lambda x, axis: x.amin(axis)),
    "argmax": (jit_argmax, lambda x, axis: x.argmax(axis)),
    "argmin": (jit_argmin, lambda x, axis: x.argmin(axis)),
    "xor": (jit_xor, folded(lambda a, b: a ^ b)),
    "and": (jit_and, folded(lambda a, b: a & b)),
    "or": (jit_or, folded(lambda a, b: a | b)),
    "product": (jit_product, folded(lambda a, b: a * b)),
    "plus_one": (jit_plus_one, lambda x, axis: x.sum(axis) + x.shape[axis] - 1),
    "parity": (jit_parity, lambda x, axis: (x % 2).sum(axis) % 2),
    "spread": (jit_spread, lambda x, axis: (2 * x).amax(axis) - x.amin(axis)),
}


@pytest.mark.operations("tt.reduce", "tt.reduce.return")
@pytest.mark.parametrize("axis", [0, 1, 2])
@pytest.mark.parametrize(("function", "reference"), REDUCTIONS.values(), ids=REDUCTIONS)
def test_integer_reductions(run: Run, function: Any, reference: Callable[..., torch.Tensor], axis: int) -> None:
    """Every combiner along every axis, one value or two, known or not; no value repeats, so argmax has one answer."""
    x = (torch.argsort(numbers("reduce", [3 * 64]).flatten(), stable=True).to(torch.int32) - 90).reshape(3, 2, 4, 8)
    expected = reference(x.long(), axis + 1).to(torch.int32)
    out = torch.zeros_like(expected)

    run(reduce_cube, (3,), x, out, function, axis, 2, 4, 8)

    assert torch.equal(out, expected)


@triton.jit
def reduce_row(x, out, function: tl.constexpr, n: tl.constexpr):
    p = tl.program_id(0)
    tl.store(out + p, function(tl.load(x + p * n + tl.arange(0, n)), 0))


@pytest.mark.parametrize("dtype", [torch.int8, torch.int16, torch.int32, torch.int64], ids=str)
def test_sums_wrap(run: Run, dtype: torch.dtype) -> None:
    """Combined in the element's own width, a sum wraps (tl.sum widens to int32 before)."""
    x = torch.full((2, 16), torch.iinfo(dtype).max, dtype=dtype)
    out = torch.zeros(2, dtype=dtype)

    run(reduce_row, (2,), x, out, jit_generic_sum, 16)

    assert out.tolist() == [-16, -16]


def test_argmax_breaks_ties_to_the_left(run: Run) -> None:
    """Of equal values the first index."""
    x = torch.tensor([[1.0, 5.0, 5.0, 5.0], [7.0, 7.0, 1.0, 7.0]])
    out = torch.zeros(2, dtype=torch.int32)

    run(reduce_row, (2,), x, out, jit_argmax, 4)

    assert out.tolist() == [1, 0]


@pytest.mark.parametrize(("function", "expected"), [(jit_max, [3.0, INF]), (jit_min, [-2.0, -1.0])])
def test_float_extremes_drop_nan(run: Run, function: Any, expected: list[float]) -> None:
    """tl.max and tl.min skip NaN."""
    x = torch.tensor([[3.0, NAN, -2.0, 1.0], [NAN, INF, -1.0, NAN]])
    out = torch.zeros(2)

    run(reduce_row, (2,), x, out, function, 4)

    assert out.tolist() == expected


def test_float_sum(run: Run) -> None:
    """A float32 sum of 1024 terms errs by less than the bound of any order of summation."""
    x = gaussian(0, "x", [4, 1024])
    out = torch.zeros(4)

    run(reduce_row, (4,), x, out, jit_sum, 1024)

    exact = x.double().sum(1)
    # Higham, "Accuracy and Stability of Numerical Algorithms", (4.4): (n - 1) u sum |x|.
    bound = 1023 * 2.0**-24 * x.double().abs().sum(1)
    assert ((out.double() - exact).abs() <= bound).all()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_narrow_sums_round_per_step(run: Run, dtype: torch.dtype) -> None:
    """Combined in bf16 or fp16, every partial sum is rounded: small terms vanish beside a large one."""
    ulp = torch.finfo(dtype).eps
    x = torch.tensor([[1.0, ulp / 4, ulp / 4, ulp / 4, ulp / 4, ulp / 4, ulp / 4, ulp / 4]], dtype=dtype)
    out = torch.zeros(1, dtype=dtype)
    wide = torch.zeros(1)

    run(reduce_row, (1,), x, out, jit_generic_sum, 8)
    run(reduce_row, (1,), x.float(), wide, jit_generic_sum, 8)

    # In halves: (1 + u/4) = 1, three times u/2 from the rest; then (1 + u/2) = 1 by the tie, and u; 1 + u.
    assert out.item() == 1 + ulp
    assert wide.item() == 1 + 7 * ulp / 4


def test_combiners_with_branches(run: Run) -> None:
    """Lanes of a combiner may part ways: each goes as if it were a program of its own."""
    x = numbers("x", [9, 8], 400) - numbers("y", [9, 8], 400)
    expected = x.clamp(min=0).sum(1).clamp(max=1000)
    out = torch.zeros_like(expected)

    run(reduce_row, (9,), x, out, jit_branch, 8)

    assert torch.equal(out, expected)
    assert (expected < 1000).any()
    assert (expected == 1000).any()


@triton.jit
def sort_rows(x, out, n: tl.constexpr):
    p = tl.program_id(0)
    i = tl.arange(0, n)
    tl.store(out + p * n + i, tl.sort(tl.load(x + p * n + i)))


def test_sort(run: Run) -> None:
    """Triton's bitonic sort: reshapes, exclusive ors and reductions at once."""
    x = numbers("sort", [3, 32])
    out = torch.zeros_like(x)

    run(sort_rows, (3,), x, out, 32)

    assert torch.equal(out, x.sort(1).values)


@triton.jit
def compact_sum(out, n: tl.constexpr):
    """Reductions of values that do not vary along the axis."""
    p = tl.program_id(0)
    ones = tl.full([n], 3, tl.int32) + p
    tl.store(out + p * 2, tl.sum(ones, 0))
    tl.store(out + p * 2 + 1, tl.max(ones, 0))


def test_reduction_of_compact_values(run: Run) -> None:
    """A splat is summed as often as it is long."""
    out = torch.zeros(2, 2, dtype=torch.int32)

    run(compact_sum, (2,), out, 8)

    assert out.tolist() == [[24, 3], [32, 4]]
