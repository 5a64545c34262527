"""Shapes: what is splat, expanded, broadcast, transposed or reshaped keeps its elements, whatever it is made of."""

# ruff: noqa: D103 - jit functions of a few lines
# mypy: allow-untyped-defs, allow-untyped-decorators

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
import triton
import triton.language as tl

from tridiff.harness.engines.cpu.values import combined

Run = Callable[..., None]


@triton.jit
def outer(x, y, out, m: tl.constexpr, n: tl.constexpr):
    p = tl.program_id(0)
    i = tl.arange(0, m)
    j = tl.arange(0, n)
    rows = tl.load(x + p * m + i)
    columns = tl.load(y + j)
    tile = rows[:, None] * columns[None, :] + p
    tl.store(out + p * m * n + i[:, None] * n + j[None, :], tile + tl.full([m, n], 5, tl.int32))


@pytest.mark.operations("tt.expand_dims", "tt.broadcast", "tt.splat", "tt.make_range")
def test_broadcast(run: Run) -> None:
    """Rows against columns, with a scalar of the program."""
    x, y = torch.arange(12, dtype=torch.int32).reshape(3, 4), torch.arange(8, dtype=torch.int32) - 3
    out = torch.zeros(3, 4, 8, dtype=torch.int32)

    run(outer, (3,), x, y, out, 4, 8)

    assert torch.equal(out, x[:, :, None] * y + torch.arange(3, dtype=torch.int32)[:, None, None] + 5)


@triton.jit
def rearrange(x, out, m: tl.constexpr, n: tl.constexpr, k: tl.constexpr):
    """[m, n, k] transposed to [k, m, n], reshaped to [k, m * n], transposed again."""
    p = tl.program_id(0)
    i = tl.arange(0, m)[:, None, None]
    j = tl.arange(0, n)[None, :, None]
    l = tl.arange(0, k)[None, None, :]  # noqa: E741
    tile = tl.load(x + p * m * n * k + (i * n + j) * k + l)
    flat = tl.reshape(tl.permute(tile, (2, 0, 1)), [k, m * n])
    a = tl.arange(0, m * n)[:, None]
    b = tl.arange(0, k)[None, :]
    tl.store(out + p * m * n * k + a * k + b, tl.trans(flat) + 1)


@pytest.mark.operations("tt.trans", "tt.reshape")
def test_transpose_and_reshape(run: Run) -> None:
    """Three axes, in every program."""
    x = torch.arange(3 * 2 * 4 * 8, dtype=torch.int32).reshape(3, 2, 4, 8)
    out = torch.zeros(3, 8, 8, dtype=torch.int32)

    run(rearrange, (3,), x, out, 2, 4, 8)

    assert torch.equal(out, x.permute(0, 3, 1, 2).reshape(3, 8, 8).transpose(1, 2) + 1)


@triton.jit
def rearrange_lazy(x, out, m: tl.constexpr, n: tl.constexpr):
    """Sums, masks and pointers of rows and columns, which exist as terms only, transposed and reshaped."""
    p = tl.program_id(0)
    i = tl.arange(0, m)[:, None]
    j = tl.arange(0, n)[None, :]
    offsets = i * n + j
    mask = (i != 1) & (j < n - 1)
    pointers = x + offsets
    flat = tl.reshape(tl.trans(pointers + p), [m * n])
    values = tl.load(flat, mask=tl.reshape(tl.trans(mask), [m * n]), other=-1)
    where = tl.reshape(tl.trans(offsets), [m * n])
    tl.store(out + p * m * n + tl.arange(0, m * n), values * 100 + where)


def test_lazy_values_are_rearranged(run: Run) -> None:
    """Whether a value is an array or a sum of terms makes no difference to a reshape."""
    x = torch.arange(1000, 1040, dtype=torch.int32)
    expected = torch.zeros(2, 8, 4, dtype=torch.int32)
    for p in range(2):
        for i in range(4):
            for j in range(8):
                loaded = int(x[i * 8 + j + p]) if i != 1 and j < 7 else -1
                expected[p, j, i] = loaded * 100 + i * 8 + j
    out = torch.zeros(2, 32, dtype=torch.int32)

    run(rearrange_lazy, (2,), x, out, 4, 8)

    assert torch.equal(out, expected.reshape(2, 32))


@triton.jit
def ranges(out, start: tl.constexpr, stop: tl.constexpr):
    values = tl.arange(start, stop)
    tl.store(out + values - start, values)


@pytest.mark.operations("tt.make_range")
@pytest.mark.parametrize(("start", "stop"), [(0, 8), (4, 8), (24, 32), (2, 4)])
def test_ranges(run: Run, start: int, stop: int) -> None:
    """A range may begin anywhere; its length is a power of two."""
    out = torch.zeros(stop - start, dtype=torch.int32)

    run(ranges, (1,), out, start, stop)

    assert out.tolist() == list(range(start, stop))


@triton.jit
def scalar_item(x, out):
    tile = tl.load(x + tl.arange(0, 1))
    tl.store(out + tl.program_id(0), tile.item() + tl.program_id(0))


@pytest.mark.operations("tt.unsplat")
def test_item(run: Run) -> None:
    """A tensor of one element as a scalar."""
    out = torch.zeros(2, dtype=torch.int32)

    run(scalar_item, (2,), torch.tensor([41], dtype=torch.int32), out)

    assert out.tolist() == [41, 42]


@triton.jit
def mixed_sums(x, out, m: tl.constexpr, n: tl.constexpr):
    """Address arithmetic in every form: 32-bit sums widened, scaled, subtracted, masked, compared."""
    p = tl.program_id(0)
    i = tl.arange(0, m)[:, None]
    j = tl.arange(0, n)[None, :]
    total = i * 10 + j + p
    wide = total.to(tl.int64) - 1
    bits = (total & 6) | (j << 4) ^ (i > j).to(tl.int32)
    chosen = tl.where(total % 2 == 0, wide * 2, -wide)
    picked = tl.load(x + (total + 1) // 2)
    tl.store(out + (p * m + i) * n + j, chosen + bits + picked)


def test_sums_of_terms_in_arithmetic(run: Run) -> None:
    """A sum that is kept as terms is an integer like any other."""
    x = torch.arange(500, 600, dtype=torch.int64)
    out = torch.zeros(3, 4, 8, dtype=torch.int64)

    run(mixed_sums, (3,), x, out, 4, 8)

    p, i, j = torch.meshgrid(torch.arange(3), torch.arange(4), torch.arange(8), indexing="ij")
    total = i * 10 + j + p
    chosen = torch.where(total % 2 == 0, (total - 1) * 2, 1 - total)
    bits = (total & 6) | ((j << 4) ^ (i > j).long())
    assert torch.equal(out, chosen + bits + x[(total + 1) // 2])


def test_conjunctions_stay_short() -> None:
    """However many masks are joined, no more terms are kept than there are shapes that do not fit together."""
    rows, columns = np.ones((1, 4, 1), np.bool_), np.ones((1, 1, 8), np.bool_)

    terms = combined([rows, columns] * 1000, np.logical_and)

    assert [term.shape for term in terms] == [rows.shape, columns.shape]
    assert {term.dtype for term in terms} == {np.dtype(np.bool_)}
