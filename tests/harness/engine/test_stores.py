"""What the engine notes of stores: which elements, by which line of the kernel, through whatever format they are written."""

# mypy: allow-untyped-defs, allow-untyped-decorators

from __future__ import annotations

import inspect
import resource
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import triton
import triton.language as tl

from tridiff.harness.api import Arena, Damage, Stores

Run = Callable[..., None]


def cache(arena: Arena) -> torch.Tensor:
    """A sealed cache [3, 4] of float16, known data, of which row 1 must be written."""
    view = arena.tensor("cache", (3, 4), torch.float16)
    arena.scribble("cache", 1)
    arena.declare_cells("cache", (torch.tensor([1]), torch.arange(4)))
    arena.seal()
    return view


def resident_bytes() -> int:
    """Memory of this process that is backed by pages."""
    return int(Path("/proc/self/statm").read_text(encoding="utf-8").split()[1]) * resource.getpagesize()


def line_of(kernel: Any, snippet: str) -> str:
    """FILE:LINE of the only line of the kernel that holds `snippet`."""
    lines, first = inspect.getsourcelines(kernel.fn)
    (at,) = (at for at, line in enumerate(lines, first) if snippet in line)
    return f"test_stores.py:{at}"


def damage(arena: Arena) -> Damage:
    """What was stored into though it must not be, where nothing changed."""
    allocation = arena.allocations["cache"]
    assert allocation.changed() is None
    found = allocation.stored()
    assert found is not None
    return found


@triton.jit
def read_back(target, row, n: tl.constexpr):
    """Row 1 is written, and another row is written back as it was loaded."""
    i = tl.arange(0, n)
    tl.store(target + n + i, i.to(tl.float16))
    tl.store(target + row * n + i, tl.load(target + row * n + i))


def test_what_is_written_back(run: Run) -> None:
    """Every element, and the line of the store."""
    arena = Arena()

    run(read_back, (1,), cache(arena), 2, 4, arena=arena)

    found = damage(arena)
    assert (found.where, found.cells.tolist()) == ("cache[2, 0]", [8, 9, 10, 11])
    assert found.before == found.after
    assert found.line == line_of(read_back, "row * n + i, tl.load")


def test_what_must_or_may_be_written(run: Run) -> None:
    """Counts for nothing, whoever stored it, and how often."""
    arena = Arena()
    view = cache(arena)
    arena.permit_cells("cache", (torch.tensor([2]), torch.arange(4)))

    run(read_back, (1,), view, 2, 4, arena=arena)
    run(read_back, (1,), view, 1, 4, arena=arena)

    assert arena.allocations["cache"].stored() is None


def test_output_without_gaps_is_not_watched(run: Run) -> None:
    """Nothing of it is forbidden, so nothing is noted, which costs time; nor where nothing is stored."""
    arena = Arena()
    x, out = arena.tensor("x", (3, 4), torch.float16), arena.output("out", (3, 4), torch.float16)
    arena.seal()

    run(read_back, (1,), out, 2, 4, arena=arena)

    assert x.shape == out.shape
    assert [allocation.stores for allocation in arena] == [None, None]


def test_last_of_several_stores(run: Run) -> None:
    """Launches one after the other: the element's line is that of the last store into it."""
    arena = Arena()
    view = cache(arena)

    run(read_back, (1,), view, 2, 4, arena=arena)
    run(pair, (1,), view, 8, 1, tl.int16, arena=arena)

    found = damage(arena)
    assert found.cells.tolist() == [8, 9, 10, 11]
    assert found.line == line_of(pair, "tl.store")


@triton.jit
def pair(target, word, step, kind: tl.constexpr):
    """Two words are written back in another format."""
    i = word + tl.arange(0, 2) * step
    words = target.to(tl.pointer_type(kind))
    tl.store(words + i, tl.load(words + i))


@pytest.mark.parametrize(
    ("kind", "word", "step", "cells"),
    [
        (tl.int64, 0, 1, [0, 1, 2, 3]),
        (tl.float32, 2, 2, [8, 9]),
        (tl.int16, 4, 4, [8]),
        (tl.int8, 15, 2, [8]),
        (tl.int8, 7, 1, [3]),
    ],
)
def test_other_formats(run: Run, kind: tl.dtype, word: int, step: int, cells: list[int]) -> None:
    """An element counts where one of its bytes was written."""
    arena = Arena()

    run(pair, (1,), cache(arena), word, step, kind, arena=arena)

    found = damage(arena)
    assert found.cells.tolist() == cells
    assert found.line == line_of(pair, "tl.store")


@triton.jit
def through_a_descriptor(target, n: tl.constexpr):
    """Row 2 is written back as a block."""
    rows = tl.make_tensor_descriptor(target, [3, n], [n, 1], [1, n])
    rows.store([2, 0], rows.load([2, 0]))


def test_descriptor(run: Run) -> None:
    """A block is as much of a store."""
    arena = Arena()
    view = arena.tensor("cache", (3, 8), torch.float16)
    arena.scribble("cache", 1)
    arena.seal()

    run(through_a_descriptor, (1,), view, 8, arena=arena)

    found = damage(arena)
    assert found.cells.tolist() == list(range(16, 24))
    assert found.line == line_of(through_a_descriptor, "rows.store")


def test_hole_costs_address_space_only(run: Run) -> None:
    """What is noted of a page 2^31 elements away costs no more memory than that page."""
    far, page = 2**31, 1024
    arena = Arena()
    places = [(0, page), (far, far + page)]
    view = arena.tensor("cache", (2, page), torch.float16, strides=(far, 1), committed=places)
    arena.seal()
    run(pair, (1,), torch.zeros(2, dtype=torch.float16), 0, 1, tl.int8)  # compiles, which takes memory for good
    before = resident_bytes()

    run(pair, (1,), view, 0, 1, tl.int8, arena=arena)
    run(pair, (1,), view, 2 * far + 6, 1, tl.int8, arena=arena)

    assert damage(arena).cells.tolist() == [0, far + 3]
    assert resident_bytes() - before < 64 * 2**20


def test_more_lines_than_numbers() -> None:
    """Of very many stores the last ones share a number, which names none of them."""
    stores = Stores(300)

    for at in range(300):
        stores.last[at] = stores.number(f"k.py:{at}")

    assert [stores.line(at, 1) for at in (0, 253, 254, 299)] == ["k.py:0", "k.py:253", None, None]
    assert Stores(4).line(0, 4) is None
