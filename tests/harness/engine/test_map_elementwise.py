"""Scalar functions mapped over the lanes of tensors: branches per lane, several results, lanes packed together."""

# ruff: noqa: D103 - jit functions of a few lines that stand for an operator
# mypy: allow-untyped-defs, allow-untyped-decorators

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import triton
import triton.language as tl

Run = Callable[..., None]


@triton.jit
def halve_or_triple(x, y):
    """Two results; the branch, and the steps of the loop, differ from lane to lane."""
    steps = 0
    if x > y:
        while x > y:
            x = x // 2
            steps += 1
        return x, steps
    return 3 * y + x, -steps - 1


@triton.jit
def map_branches(x, y, first, second, m: tl.constexpr, n: tl.constexpr):
    lanes = (tl.program_id(0) * m + tl.arange(0, m)[:, None]) * n + tl.arange(0, n)[None, :]
    a, b = tl.map_elementwise(halve_or_triple, tl.load(x + lanes), tl.load(y + tl.program_id(0)))
    tl.store(first + lanes, a)
    tl.store(second + lanes, b)


@pytest.mark.operations("tt.map_elementwise", "tt.map_elementwise.return")
def test_branches_per_lane(run: Run) -> None:
    """Every lane takes its own branch and its own number of steps; a scalar is broadcast; two results."""
    x, y = torch.arange(3 * 4 * 8, dtype=torch.int32).reshape(3, 4, 8), torch.tensor([5, 1, 70], dtype=torch.int32)
    expected: list[tuple[int, int]] = []
    for p, rows in enumerate(x.reshape(3, -1).tolist()):
        for value in rows:
            bound, left, steps = int(y[p]), value, 0
            while left > bound:
                left, steps = left // 2, steps + 1
            expected.append((left, steps) if steps else (3 * bound + value, -1))
    first, second = torch.zeros_like(x), torch.zeros_like(x)

    run(map_branches, (3,), x, y, first, second, 4, 8)

    assert list(zip(first.flatten().tolist(), second.flatten().tolist(), strict=True)) == expected


@triton.jit
def swap_pair(x0, x1, y0, y1):
    return x1 - y0, x0 - y1, y1 * 10, y0 * 100


@triton.jit
def rotate_four(x0, x1, x2, x3, y0, y1, y2, y3):
    return x1, x2, x3, x0 + y0, y3, y2, y1, y0


@triton.jit
def jit_pairs(x, y):
    return tl.map_elementwise(swap_pair, x, y, pack=2)


@triton.jit
def jit_fours(x, y):
    return tl.map_elementwise(rotate_four, x, y, pack=4)


@triton.jit
def map_packed(x, y, first, second, function: tl.constexpr):
    lanes = (tl.program_id(0) * 4 + tl.arange(0, 4)[:, None]) * 8 + tl.arange(0, 8)[None, :]
    a, b = function(tl.load(x + lanes), tl.load(y + lanes))
    tl.store(first + lanes, a)
    tl.store(second + lanes, b)


@pytest.mark.operations("tt.map_elementwise", "tt.map_elementwise.return")
def test_pairs(run: Run) -> None:
    """pack=2: a call sees two neighbours of each operand, and gives two of each result."""
    x, y = torch.arange(64, dtype=torch.int32).reshape(2, 4, 8), torch.arange(64, dtype=torch.int32).reshape(2, 4, 8) ** 2
    first, second = torch.zeros_like(x), torch.zeros_like(x)

    run(map_packed, (2,), x, y, first, second, jit_pairs)

    a, b = x.unflatten(2, (4, 2)).unbind(3), y.unflatten(2, (4, 2)).unbind(3)
    assert torch.equal(first, torch.stack([a[1] - b[0], a[0] - b[1]], 3).flatten(2))
    assert torch.equal(second, torch.stack([b[1] * 10, b[0] * 100], 3).flatten(2))


@pytest.mark.operations("tt.map_elementwise", "tt.map_elementwise.return")
def test_fours(run: Run) -> None:
    """pack=4."""
    x, y = torch.arange(64, dtype=torch.int32).reshape(2, 4, 8), torch.arange(64, dtype=torch.int32).reshape(2, 4, 8) + 500
    first, second = torch.zeros_like(x), torch.zeros_like(x)

    run(map_packed, (2,), x, y, first, second, jit_fours)

    a, b = x.unflatten(2, (2, 4)), y.unflatten(2, (2, 4))
    rotated = a.roll(-1, 3)
    rotated[..., 3] += b[..., 0]
    assert torch.equal(first, rotated.flatten(2))
    assert torch.equal(second, b.flip(3).flatten(2))


@triton.jit
def with_program(x):
    return x + tl.program_id(0)


@triton.jit
def map_uniform(out, n: tl.constexpr):
    values = tl.map_elementwise(with_program, tl.arange(0, n))
    tl.store(out + tl.program_id(0) * n + tl.arange(0, n), values)


def test_program_id(run: Run) -> None:
    """A function of the program, of values that all programs share."""
    out = torch.zeros(4, 4, dtype=torch.int32)

    run(map_uniform, (4,), out, 4)

    assert out.tolist() == [[p + i for i in range(4)] for p in range(4)]
