"""Tensors taken apart and put together: gather, histogram, join, split and cat, of numbers and of pointers."""

# ruff: noqa: D103 - jit functions of a few lines
# mypy: allow-untyped-defs, allow-untyped-decorators

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
import triton
import triton.language as tl

from tridiff.harness.api import Arena, Poison, integers
from tridiff.harness.engines.cpu.errors import UnsupportedOperation

Run = Callable[..., None]
BOTH_POISONS = pytest.mark.parametrize("poison", [Poison.LOUD, Poison.QUIET], ids=lambda poison: poison.name)


def numbers(name: str, *shape: int, bound: int = 1000) -> torch.Tensor:
    """int32 tensor of random integers in [0, bound)."""
    return torch.from_numpy(integers(0, name, math.prod(shape), bound)).to(torch.int32).reshape(shape)


@triton.jit
def gather_tile(x, index, out, m: tl.constexpr, n: tl.constexpr, k: tl.constexpr, axis: tl.constexpr):
    """Picks k rows, or columns, of a tile [m, n] of every program."""
    p = tl.program_id(0)
    tile = tl.load(x + (p * m + tl.arange(0, m)[:, None]) * n + tl.arange(0, n)[None, :])
    rows: tl.constexpr = k if axis == 0 else m
    columns: tl.constexpr = n if axis == 0 else k
    lanes = (p * rows + tl.arange(0, rows)[:, None]) * columns + tl.arange(0, columns)[None, :]
    tl.store(out + lanes, tl.gather(tile, tl.load(index + lanes), axis))


@pytest.mark.operations("tt.gather")
@pytest.mark.parametrize("size", [2, 16])
@pytest.mark.parametrize("axis", [0, 1])
def test_gather(run: Run, axis: int, size: int) -> None:
    """Along either axis, to fewer elements or more."""
    x = numbers("x", 3, 4, 8)
    index = numbers("rows", 3, size, 8, bound=4) if axis == 0 else numbers("columns", 3, 4, size, bound=8)
    out = torch.zeros_like(index)

    run(gather_tile, (3,), x, index, out, 4, 8, size, axis)

    assert torch.equal(out, x.gather(axis + 1, index.long()))


@triton.jit
def gather_uniform(index, out):
    """The source is the same in all programs and along its rows; the index is one scalar."""
    p = tl.program_id(0)
    tile = tl.broadcast_to(tl.arange(0, 8)[None, :] * 10, [4, 8])
    picked = tl.gather(tile, tl.zeros([4, 2], tl.int32) + tl.load(index + p), 1)
    tl.store(out + (p * 4 + tl.arange(0, 4)[:, None]) * 2 + tl.arange(0, 2)[None, :], picked)


def test_gather_of_uniform_values(run: Run) -> None:
    """What exists once along an axis is gathered as if it were written out."""
    index, out = torch.tensor([7, 0, 3], dtype=torch.int32), torch.zeros(3, 4, 2, dtype=torch.int32)

    run(gather_uniform, (3,), index, out)

    assert torch.equal(out, (index * 10)[:, None, None].expand(3, 4, 2))


@triton.jit
def gather_row(x, index, out, n: tl.constexpr):
    tl.store(out + tl.arange(0, 8), tl.gather(tl.load(x + tl.arange(0, n)), tl.load(index + tl.arange(0, 8)), 0))


@BOTH_POISONS
@pytest.mark.parametrize("dtype", [torch.int32, torch.int64], ids=str)
def test_indices_outside(run: Run, dtype: torch.dtype, poison: Poison) -> None:
    """A negative or too large index gives an undefined value: NaN, or under the other poison a number of its own."""
    index = torch.tensor([0, -1, 3, 4, 2, torch.iinfo(dtype).max, torch.iinfo(dtype).min, 1], dtype=dtype)
    out = torch.zeros(8)

    run(gather_row, (1,), torch.tensor([1.0, 2.0, 3.0, 4.0]), index, out, 4, arena=Arena(poison))

    unknown = math.nan if poison is Poison.LOUD else 24576.0
    assert [repr(item) for item in out.tolist()] == [
        repr(item) for item in [1.0, unknown, 4.0, unknown, 3.0, *[unknown] * 2, 2.0]
    ]


def test_narrow_indices_are_unsigned(run: Run) -> None:
    """Bytes of 128 and more are indices like any other."""
    x, index = numbers("x", 256), torch.tensor([0, 127, 128, 200, 255, 1, 254, 129], dtype=torch.uint8)
    out = torch.zeros(8, dtype=torch.int32)

    run(gather_row, (1,), x, index, out, 256)

    assert torch.equal(out, x[index.long()])


@triton.jit
def count(x, masks, out, n: tl.constexpr, bins: tl.constexpr, masked: tl.constexpr):
    p = tl.program_id(0)
    values = tl.load(x + p * n + tl.arange(0, n))
    if masked:
        result = tl.histogram(values, bins, mask=tl.load(masks + p * n + tl.arange(0, n)) != 0)
    else:
        result = tl.histogram(values, bins)
    tl.store(out + p * bins + tl.arange(0, bins), result)


MASKED = pytest.mark.parametrize("masked", [False, True], ids=["all", "masked"])


@pytest.mark.operations("tt.histogram")
@MASKED
def test_histogram(run: Run, masked: bool) -> None:
    """Many values in few bins, each program its own; inactive lanes do not count."""
    check_histogram(run, torch.int32, masked=masked)


@pytest.mark.operations("tt.histogram", versions="<3.9", reason="Triton 3.9 counts integers of 32 bits only")
@MASKED
@pytest.mark.parametrize("dtype", [torch.uint8, torch.int64], ids=str)
def test_histograms_of_other_widths(run: Run, dtype: torch.dtype, masked: bool) -> None:
    """Bytes and 64-bit integers."""
    check_histogram(run, dtype, masked=masked)


def check_histogram(run: Run, dtype: torch.dtype, *, masked: bool) -> None:
    """256 values of each of three programs in 16 bins."""
    x, masks = numbers("x", 3, 256, bound=16).to(dtype), numbers("masks", 3, 256, bound=2)
    out = torch.zeros(3, 16, dtype=torch.int32)

    run(count, (3,), x, masks, out, 256, 16, masked)

    rows = [row[mask != 0] if masked else row for row, mask in zip(x.long(), masks, strict=True)]
    assert out.tolist() == [torch.bincount(row, minlength=16).tolist() for row in rows]


@triton.jit
def count_uniform(masks, out):
    """The same values in all programs, masked differently."""
    p = tl.program_id(0)
    mask = tl.load(masks + p * 8 + tl.arange(0, 8)) != 0
    tl.store(out + p * 4 + tl.arange(0, 4), tl.histogram(tl.arange(0, 8) // 2, 4, mask=mask))
    tl.store(out + 8 + p * 4 + tl.arange(0, 4), tl.histogram(tl.full([8], 3, tl.int32), 4))


def test_histogram_of_uniform_values(run: Run) -> None:
    """One value for all lanes counts as often as there are lanes."""
    masks, out = (
        torch.tensor([1, 1, 0, 1, 0, 0, 1, 1, 0, 0, 0, 0, 0, 0, 1, 0], dtype=torch.int32),
        torch.zeros(16, dtype=torch.int32),
    )

    run(count_uniform, (2,), masks, out)

    assert out.tolist() == [2, 1, 0, 2, 0, 0, 0, 1, 0, 0, 0, 8, 0, 0, 0, 8]


@BOTH_POISONS
def test_values_beyond_the_bins(run: Run, poison: Poison) -> None:
    """Undefined: counted by their low bits under one poison, dropped under the other, so that it shows; lanes off never count."""
    x, masks = torch.tensor([[0, 5, -1, 3, 4, 4, 2**31 - 1, 1]], dtype=torch.int32), torch.tensor([[1] * 7 + [0]])
    out = torch.zeros(1, 4, dtype=torch.int32)

    run(count, (1,), x, masks.to(torch.int32), out, 8, 4, masked=True, arena=Arena(poison))

    assert out.tolist() == ([[3, 1, 0, 3]] if poison is Poison.LOUD else [[1, 0, 0, 1]])


@triton.jit
def join_and_split(x, y, out, m: tl.constexpr, n: tl.constexpr):
    """Joins a tile and a row of the program, then splits the pairs of columns."""
    p = tl.program_id(0)
    i = tl.arange(0, m)[:, None]
    j = tl.arange(0, n)[None, :]
    pairs = tl.join(tl.load(x + i * n + j), tl.load(y + p * n + j) + 0 * i)
    even, odd = tl.split(tl.reshape(pairs, [m, n, 2]))
    first, second = tl.split(tl.permute(tl.join(even * 2, odd + p), (0, 2, 1)).reshape(m, n, 2))
    tl.store(out + ((p * m + i) * 2) * n + j, first)
    tl.store(out + ((p * m + i) * 2 + 1) * n + j, second)


@pytest.mark.operations("tt.join", "tt.split")
def test_join_and_split(run: Run) -> None:
    """Along a new last axis, what all programs share with what each has of its own."""
    x, y, out = numbers("x", 4, 8), numbers("y", 3, 8), torch.zeros(3, 4, 2, 8, dtype=torch.int32)
    p = torch.arange(3, dtype=torch.int32)[:, None, None]

    run(join_and_split, (3,), x, y, out, 4, 8)

    joined = torch.stack(torch.broadcast_tensors(x[None] * 2, y[:, None] + p), 2).reshape(3, 4, 8, 2)
    assert torch.equal(out, joined.permute(0, 1, 3, 2))


@triton.jit
def split_uniform(out):
    """The halves of what exists once along the last axis, and along all axes."""
    p = tl.program_id(0)
    a, b = tl.split(tl.broadcast_to(tl.arange(0, 4)[:, None] + p, [4, 2]))
    c, d = tl.split(tl.full([4, 2], 7, tl.int32))
    pair = tl.join(p, p * 0 + 5)
    lanes = tl.arange(0, 4)
    tl.store(out + p * 10 + lanes, a * 10 + b)
    tl.store(out + p * 10 + 4 + lanes, c + d)
    tl.store(out + p * 10 + 8 + tl.arange(0, 2), pair)


@pytest.mark.operations("tt.join", "tt.split")
def test_uniform_halves(run: Run) -> None:
    """A scalar joins a constant; both halves of a splat are the same."""
    out = torch.zeros(2, 10, dtype=torch.int32)

    run(split_uniform, (2,), out)

    assert out.tolist() == [[11 * (i + p) for i in range(4)] + [14] * 4 + [p, 5] for p in range(2)]


@triton.jit
def concatenate(x, out, n: tl.constexpr):
    p = tl.program_id(0)
    both = tl.cat(tl.load(x + p * n + tl.arange(0, n)), tl.full([n], 3, tl.int32) + p, can_reorder=True)
    tl.store(out + p * 2 * n + tl.arange(0, 2 * n), both)


@pytest.mark.operations("tt.cat")
@pytest.mark.filterwarnings("ignore:.*can_reorder")
def test_cat(run: Run) -> None:
    """One after the other (Triton may choose another order, and a kernel must not care)."""
    x, out = numbers("x", 3, 8), torch.zeros(3, 16, dtype=torch.int32)

    run(concatenate, (3,), x, out, 8)

    assert torch.equal(out, torch.cat([x, torch.arange(3, 6, dtype=torch.int32)[:, None].expand(3, 8)], 1))


@triton.jit
def pointers_together(x, y, out):
    """Pointers into two tensors, joined, transposed, split, gathered."""
    p = tl.program_id(0)
    pairs = tl.join(x + p + tl.arange(0, 4), y + tl.arange(0, 4))
    tl.store(out + p * 12 + tl.arange(0, 8), tl.load(tl.reshape(tl.trans(pairs), [8])))
    _, second = tl.split(pairs)
    tl.store(out + p * 12 + 8 + tl.arange(0, 4), tl.load(tl.gather(second, 3 - tl.arange(0, 4), 0)))


@pytest.mark.operations("tt.join", "tt.gather", "tt.trans", "tt.reshape")
def test_pointers(run: Run) -> None:
    """Pointers are joined, split and gathered like numbers, and remember which tensor each belongs to."""
    x, y, out = torch.arange(10, 20), torch.arange(50, 60), torch.zeros(2, 12, dtype=torch.int64)

    run(pointers_together, (2,), x, y, out)

    assert out.tolist() == [[*range(10 + p, 14 + p), 50, 51, 52, 53, 53, 52, 51, 50] for p in range(2)]


@triton.jit
def pointer_outside(x, out):
    tl.store(out + tl.arange(0, 4), tl.load(tl.gather(x + tl.arange(0, 4), 1 + tl.arange(0, 4), 0)))


def test_pointers_outside(run: Run) -> None:
    """An undefined pointer is not followed."""
    with pytest.raises(UnsupportedOperation) as error:
        run(pointer_outside, (1,), torch.arange(8), torch.arange(8))

    assert (error.value.line or "").startswith("test_gather.py:")
