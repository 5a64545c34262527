"""Loads and stores of kernels: tiles and masks of all kinds, by rows and lane by lane."""

# mypy: allow-untyped-defs, allow-untyped-decorators

from __future__ import annotations

import itertools
from collections.abc import Callable

import numpy as np
import pytest
import torch
import triton
import triton.language as tl

from tridiff.harness.engines.cpu import memory

Run = Callable[..., None]
PROGRAMS, ROWS, COLUMNS = 3, 4, 8
MASKS = ["none", "columns", "rows", "both", "holes", "program", "nothing"]


@triton.jit
def copy_tile(
    source,
    target,
    step,
    row,
    column,
    transposed: tl.constexpr,
    mask: tl.constexpr,
    fill: tl.constexpr,
    m: tl.constexpr,
    n: tl.constexpr,
):
    """Copies source[p, i, j] to the dense target[p, i, j], where the source has strides `step`, `row` and `column`."""
    p = tl.program_id(0)
    i = tl.arange(0, m)[:, None]
    j = tl.arange(0, n)[None, :]
    if mask == "none":
        chosen = (i < m) & (j < n)
    elif mask == "columns":
        chosen = (i < m) & (j < n - 3)
    elif mask == "rows":
        chosen = (i % 2 == 0) & (j < n)
    elif mask == "both":
        chosen = (i != 1) & (j < n - 1)
    elif mask == "holes":
        chosen = (i < m) & (j % 3 != 1)
    elif mask == "program":
        chosen = (i < p + 1) & (j < n - p)
    else:
        chosen = (i < 0) & (j < n)
    address = source + p * step + i * row + j * column
    if transposed:
        address = tl.trans(source + p * step + tl.trans(i) * row + tl.trans(j) * column)
    values = tl.load(address, mask=chosen, other=fill) if fill is not None else tl.load(address, mask=chosen)
    tl.store(target + p * m * n + i * n + j, values, mask=chosen if fill is None else (i < m) & (j < n))


def chosen_lanes(mask: str, p: int, i: int, j: int) -> bool:
    """The same masks in Python."""
    return {
        "none": True,
        "columns": j < COLUMNS - 3,
        "rows": i % 2 == 0,
        "both": i != 1 and j < COLUMNS - 1,
        "holes": j % 3 != 1,
        "program": i < p + 1 and j < COLUMNS - p,
        "nothing": False,
    }[mask]


LAYOUTS = {
    "rows": (ROWS * COLUMNS, COLUMNS, 1),
    "padded": (60, 11, 1),
    "columns": (40, 1, 5),
    "strided": (80, 18, 2),
    "same": (0, 8, 1),
}


@pytest.mark.operations("tt.load", "tt.store", "tt.trans", "tt.addptr")
@pytest.mark.parametrize("path", ["rows", "lanes"])
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("mask", MASKS)
def test_tiles(run: Run, mask: str, layout: str, path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every combination of layout and mask, by rows where possible and lane by lane, gives what indexing gives."""
    if path == "lanes":
        monkeypatch.setattr(memory, "_as_rows", lambda *_: None)
    step, row, column = LAYOUTS[layout]
    source = torch.arange(300, dtype=torch.int32)
    expected = torch.full((2, PROGRAMS, ROWS, COLUMNS), -1, dtype=torch.int32)
    for p, i, j in itertools.product(range(PROGRAMS), range(ROWS), range(COLUMNS)):
        if chosen_lanes(mask, p, i, j):
            expected[:, p, i, j] = source[p * step + i * row + j * column]
    expected[1][expected[1] == -1] = -7

    for transposed in (False, True):
        actual = torch.full_like(expected, -1)
        for target, fill in zip(actual, (None, -7), strict=True):
            run(copy_tile, (PROGRAMS,), source, target, step, row, column, transposed, mask, fill, ROWS, COLUMNS)
        assert torch.equal(actual, expected)


@triton.jit
def spread_store(target, values, m: tl.constexpr, n: tl.constexpr):
    """Row i of the tile goes to target[p + i : p + i + n]: rows and programs overlap."""
    p = tl.program_id(0)
    i = tl.arange(0, m)[:, None]
    j = tl.arange(0, n)[None, :]
    tl.store(target + p + i + j, tl.load(values + (p * m + i) * n + j))


@pytest.mark.parametrize("path", ["rows", "lanes"])
def test_last_store_stays(run: Run, path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of stores to one address the last stays: programs in order, and lanes of a program in row-major order."""
    if path == "lanes":
        monkeypatch.setattr(memory, "_as_rows", lambda *_: None)
    values = torch.arange(3 * 4 * 8, dtype=torch.int32).reshape(3, 4, 8)
    expected = torch.full((16,), -1, dtype=torch.int32)
    for p, i in itertools.product(range(3), range(4)):
        expected[p + i : p + i + 8] = values[p, i]
    target = torch.full((16,), -1, dtype=torch.int32)

    run(spread_store, (3,), target, values, 4, 8)

    assert torch.equal(target, expected)


@triton.jit
def masked_off(x, target, block: tl.constexpr):
    """Stores what the masked-off lanes of a load without `other` hold."""
    i = tl.arange(0, block)
    tl.store(target + i, tl.load(x + i, mask=i < 2))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float64], ids=str)
def test_masked_off_floats_are_nan(run: Run, dtype: torch.dtype) -> None:
    """A masked-off lane without `other` is undefined on hardware: here it is NaN, which shows."""
    target = torch.zeros(4, dtype=dtype)

    run(masked_off, (1,), torch.ones(2, dtype=dtype), target, 4)

    assert target[:2].tolist() == [1.0, 1.0]
    assert target[2:].isnan().all()


@pytest.mark.parametrize("dtype", [torch.int8, torch.int16, torch.int32, torch.int64], ids=str)
def test_masked_off_integers_are_huge(run: Run, dtype: torch.dtype) -> None:
    """Integers have no NaN: the value is recognisable, and out of bounds wherever it is used as an index."""
    target = torch.zeros(4, dtype=dtype)

    run(masked_off, (1,), torch.ones(2, dtype=dtype), target, 4)

    assert target.tolist() == [1, 1, *[int.from_bytes(b"\x7a" * dtype.itemsize, "little")] * 2]


@triton.jit
def other_of_program(x, y, target, block: tl.constexpr):
    """`other` varies with the program although the addresses do not."""
    p = tl.program_id(0)
    i = tl.arange(0, block)
    tl.store(target + p * block + i, tl.load(x + i, mask=i < 3, other=p))
    tl.store(y + p, tl.load(x, mask=p == 1, other=p * 10))


def test_other_varies_more_than_addresses(run: Run) -> None:
    """Lanes that are masked off take the `other` of their own program."""
    target, scalars = torch.zeros(3, 8, dtype=torch.int32), torch.zeros(3, dtype=torch.int32)

    run(other_of_program, (3,), torch.arange(70, 78, dtype=torch.int32), scalars, target, 8)

    assert target.tolist() == [[70, 71, 72, p, p, p, p, p] for p in range(3)]
    assert scalars.tolist() == [0, 70, 20]


def test_row_windows_cover_all_memory() -> None:
    """Runs of a length are windows that overlap by all but one cell, the last ending with the memory."""
    content = np.arange(10, dtype=np.int32)
    windows = memory._windows(content, 4)

    assert windows.shape == (7, 4)
    assert windows[-1].tolist() == [6, 7, 8, 9]
