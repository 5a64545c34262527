"""Triton's standard library on the engine: sorting networks, reductions with indices, softmax, and what is built of them."""

# ruff: noqa: D103 - jit functions of one line that stand for a function
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
NAN = math.nan


def numbers(name: str, *shape: int, bound: int = 1000) -> torch.Tensor:
    """int32 tensor of random integers in [-bound, bound), some of them equal."""
    return torch.from_numpy(integers(0, name, math.prod(shape), 2 * bound) - bound).to(torch.int32).reshape(shape)


@triton.jit
def jit_sort(x):
    return tl.sort(x)


@triton.jit
def jit_sort_descending(x):
    return tl.sort(x, descending=True)


@triton.jit
def jit_flip(x):
    return tl.flip(x, 1)


@triton.jit
def jit_flip_rows(x):
    return tl.flip(x, 0)


@triton.jit
def jit_softmax(x):
    return tl.trans(tl.softmax(tl.trans(x)))


@triton.jit
def jit_sigmoid(x):
    return tl.sigmoid(x)


@triton.jit
def jit_zeros_like(x):
    return tl.zeros_like(x) - x


@triton.jit
def jit_argsort(x):
    """The rank in the low bits, the value above: sorted together, as kernels sort with indices."""
    packed = (x.to(tl.int64) << 32) | tl.arange(0, 16)[None, :]
    return (tl.sort(packed) & 0xFFFFFFFF).to(tl.int32)


@triton.jit
def tiles(x, out, function: tl.constexpr, m: tl.constexpr, n: tl.constexpr):
    """A function of a tile [m, n] of every program that keeps its shape."""
    lanes = (tl.program_id(0) * m + tl.arange(0, m)[:, None]) * n + tl.arange(0, n)[None, :]
    tl.store(out + lanes, function(tl.load(x + lanes)))


KEEPING: dict[str, tuple[Any, Callable[[torch.Tensor], torch.Tensor]]] = {
    "sort": (jit_sort, lambda x: x.sort(2).values),
    "descending": (jit_sort_descending, lambda x: x.sort(2, descending=True).values),
    "flip": (jit_flip, lambda x: x.flip(2)),
    "flip rows": (jit_flip_rows, lambda x: x.flip(1)),
    "argsort": (jit_argsort, lambda x: x.sort(stable=True, dim=2).indices),
    "zeros_like": (jit_zeros_like, lambda x: -x),
}


@pytest.mark.operations("tt.reduce")
@pytest.mark.parametrize("name", ["sort", "descending"])
def test_sorting_networks(run: Run, name: str) -> None:
    """Rows of every program, with duplicates, either way (Triton's network exchanges by exclusive-or reductions)."""
    check_kept(run, name)


@pytest.mark.parametrize("name", ["flip", "flip rows", "argsort", "zeros_like"])
def test_rearrangements(run: Run, name: str) -> None:
    """Flips along either axis, the order of a sort, zeros of a tile's type."""
    check_kept(run, name)


def check_kept(run: Run, name: str) -> None:
    """Three tiles of 4 by 16."""
    function, reference = KEEPING[name]
    x, out = numbers("x", 3, 4, 16, bound=10), torch.full((3, 4, 16), 99, dtype=torch.int32)

    run(tiles, (3,), x, out, function, 4, 16)

    assert torch.equal(out, reference(x).to(torch.int32))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.int8], ids=str)
def test_sorts_of_other_types(run: Run, dtype: torch.dtype) -> None:
    """Floats by value, negative zero beside zero; bytes with their sign."""
    x = gaussian(0, "x", [2, 4, 16]).mul(50).to(dtype)
    out = torch.zeros_like(x)

    run(tiles, (2,), x, out, jit_sort, 4, 16)

    assert torch.equal(out, x.sort(2).values)


@pytest.mark.parametrize(("function", "reference"), [(jit_softmax, lambda x: x.softmax(2)), (jit_sigmoid, torch.sigmoid)])
def test_float_functions(run: Run, function: Any, reference: Callable[[torch.Tensor], torch.Tensor]) -> None:
    """Softmax along the rows and sigmoid, to a few ulps of the float64 result."""
    x = gaussian(0, "x", [3, 4, 16]).mul(5)
    out = torch.zeros_like(x)

    run(tiles, (3,), x, out, function, 4, 16)

    # exp, a sum of 16 terms and a division: at most some 20 roundings of 2^-24 each.
    torch.testing.assert_close(out.double(), reference(x.double()), rtol=2.0**-19, atol=0)


@triton.jit
def top(x, out, n: tl.constexpr, k: tl.constexpr):
    p = tl.program_id(0)
    tl.store(out + p * k + tl.arange(0, k), tl.topk(tl.load(x + p * n + tl.arange(0, n)), k))


@pytest.mark.parametrize("k", [2, 8, 32])
def test_topk(run: Run, k: int) -> None:
    """The k largest, largest first."""
    x, out = numbers("x", 3, 32, bound=20), torch.zeros(3, k, dtype=torch.int32)

    run(top, (3,), x, out, 32, k)

    assert torch.equal(out, x.topk(k, 1).values)


@triton.jit
def jit_max_left(x):
    return tl.max(x, 1, return_indices=True)


@triton.jit
def jit_max_any(x):
    return tl.max(x, 1, return_indices=True, return_indices_tie_break_left=False)


@triton.jit
def jit_min_left(x):
    return tl.min(x, 1, return_indices=True)


@triton.jit
def jit_min_any(x):
    return tl.min(x, 1, return_indices=True, return_indices_tie_break_left=False)


@triton.jit
def extremes(x, values, indices, function: tl.constexpr, m: tl.constexpr, n: tl.constexpr):
    rows = tl.program_id(0) * m + tl.arange(0, m)
    value, index = function(tl.load(x + rows[:, None] * n + tl.arange(0, n)[None, :]))
    tl.store(values + rows, value)
    tl.store(indices + rows, index)


@pytest.mark.operations("tt.reduce")
@pytest.mark.parametrize("left", [True, False], ids=["left", "any"])
@pytest.mark.parametrize("largest", [True, False], ids=["max", "min"])
def test_extremes_with_indices(run: Run, largest: bool, left: bool) -> None:
    """The value and where it is: of equal ones the first, or, unless that is asked, any of them."""
    function = ((jit_max_left, jit_max_any) if largest else (jit_min_left, jit_min_any))[0 if left else 1]
    x = numbers("x", 3, 8, 16, bound=4)
    values, indices = torch.zeros(3, 8, dtype=torch.int32), torch.full((3, 8), -1, dtype=torch.int32)

    run(extremes, (3,), x, values, indices, function, 8, 16)

    expected = x.amax(2) if largest else x.amin(2)
    assert torch.equal(values, expected)
    assert torch.equal(x.gather(2, indices.long()[..., None])[..., 0], expected)
    assert not left or torch.equal(indices, (x == expected[..., None]).int().argmax(2).int())


@triton.jit
def bits(x, out, n: tl.constexpr):
    p = tl.program_id(0)
    row = tl.load(x + p * n + tl.arange(0, n))
    tl.store(out + 2 * p, tl.xor_sum(row, 0))
    tl.store(out + 2 * p + 1, tl.reduce_or(row, 0))


def test_bitwise_reductions(run: Run) -> None:
    """Exclusive or, and or."""
    x, out = numbers("x", 3, 16).abs() & 0x155, torch.zeros(3, 2, dtype=torch.int32)

    run(bits, (3,), x, out, 16)

    rows = x.tolist()
    assert out.tolist() == [
        [functools.reduce(lambda a, b: a ^ b, row), functools.reduce(lambda a, b: a | b, row)] for row in rows
    ]


@triton.jit
def interleaved(x, y, out, n: tl.constexpr):
    p = tl.program_id(0)
    rows = tl.arange(0, 2)[:, None] * n + tl.arange(0, n)[None, :]
    both = tl.interleave(tl.load(x + rows), tl.load(y + rows) + p)
    tl.store(out + p * 4 * n + tl.arange(0, 4 * n), tl.ravel(both))


@pytest.mark.operations("tt.join", "tt.reshape")
def test_interleave_and_ravel(run: Run) -> None:
    """Columns of two tiles in turn, row by row."""
    x, y, out = numbers("x", 2, 8), numbers("y", 2, 8), torch.zeros(3, 2, 16, dtype=torch.int32)

    run(interleaved, (3,), x, y, out, 8)

    assert torch.equal(out, torch.stack([torch.stack([x, y + p], 2).reshape(2, 16) for p in range(3)]))


@triton.jit
def swizzled(out, m, n, group):
    i, j = tl.swizzle2d(tl.program_id(0), tl.program_id(1), m, n, group)
    tl.store(out + i * n + j, tl.program_id(0) * n + tl.program_id(1))
    tl.store(out + m * n, tl.cdiv(m * n, group))


def test_swizzle_and_cdiv(run: Run) -> None:
    """Groups of rows are walked column by column; a last group of fewer rows too."""
    out = torch.full((5 * 4 + 1,), -1, dtype=torch.int32)

    run(swizzled, (5, 4), out, 5, 4, 2)

    order = [(row, column) for first in (0, 2, 4) for column in range(4) for row in range(first, min(first + 2, 5))]
    assert [divmod(int(out[:20].argsort()[at]), 4) for at in range(20)] == order
    assert out[20] == 10
