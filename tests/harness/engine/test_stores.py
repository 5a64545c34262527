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
from tridiff.harness.engines.cpu.errors import KernelError
from tridiff.harness.engines.spec import EngineSpec

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
    """Nothing of it is forbidden, so nothing is noted, which costs time; nor where nothing is stored, or nobody asks."""
    arena, other = Arena(), Arena(notes_stores=False)
    x, out = arena.tensor("x", (3, 4), torch.float16), arena.output("out", (3, 4), torch.float16)
    arena.seal()

    run(copied, (1,), x, out, 4, arena=arena)
    run(read_back, (1,), cache(other), 2, 4, arena=other)

    assert [allocation.stores for allocation in (*arena, *other)] == [None, None, None]


@triton.jit
def copied(source, target, n: tl.constexpr):
    """Loads from one tensor, stores into another, and stores nothing into the first."""
    i = tl.arange(0, n)
    tl.store(target + i, tl.load(source + i))
    tl.store(source + i, i.to(tl.float16), mask=i < 0)


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


@pytest.mark.operations("tt.descriptor_store")
def test_descriptor(run: Run) -> None:
    """A block is as much of a store."""
    arena = Arena()
    view = arena.tensor("cache", (3, 8), torch.float16)
    arena.scribble("cache", 1)
    arena.seal()

    run(through_a_descriptor, (1,), view, 8, arena=arena, spec=EngineSpec(target="sm_90"))

    found = damage(arena)
    assert found.cells.tolist() == list(range(16, 24))
    assert found.line == line_of(through_a_descriptor, "rows.store")


def spread(pages: int, step: int) -> tuple[Arena, torch.Tensor]:
    """A sealed cache of pages of 64 bytes that lie `step` elements apart, and memory for these alone."""
    arena = Arena()
    committed = [(page * step, page * step + 32) for page in range(pages)]
    view = arena.tensor("cache", (pages, 32), torch.float16, strides=(step, 1), committed=committed)
    arena.seal()
    return arena, view


def test_far_pages_take_little_memory(run: Run) -> None:
    """What is noted of pages megabytes apart takes no megabytes for each of them."""
    pages, step = 128, 2**24
    arena, view = spread(pages, step)
    run(one_of_each_page, (pages,), view, step, arena=arena)  # compiles, which takes memory for good
    arena, view = spread(pages, step)
    before = resident_bytes()

    run(one_of_each_page, (pages,), view, step, arena=arena)

    assert damage(arena).cells.tolist() == [page * step for page in range(pages)]
    assert resident_bytes() - before < 64 * 2**20


@triton.jit
def one_of_each_page(target, step):
    """The first element of a page is written back."""
    place = target + tl.program_id(0).to(tl.int64) * step
    tl.store(place, tl.load(place))


@pytest.mark.parametrize("lead", [1, 2, 3, 5])
@pytest.mark.parametrize("kind", [tl.int32, tl.int64])
def test_words_off_alignment(run: Run, lead: int, kind: tl.dtype) -> None:
    """Bytes of a cache that begins anywhere, written in words: exactly those of the words."""
    arena = Arena()
    arena.tensor("cache", (40,), torch.uint8, lead=lead)
    arena.scribble("cache", 1)
    arena.seal()
    size = kind.primitive_bitwidth // 8

    run(pair, (1,), arena.allocations["cache"].view[2:], 1, 2, kind, arena=arena)

    first = 2 + size
    assert damage(arena).cells.tolist() == [*range(first, first + size), *range(first + 2 * size, first + 3 * size)]


@triton.jit
def into_two(cache, scratch, n: tl.constexpr):
    """Pointers of which some go into each of two tensors."""
    i = tl.arange(0, n)
    places = tl.where(i % 2 == 0, cache + i, scratch + i)
    tl.store(places, tl.load(places))


def test_pointers_into_several_tensors(run: Run) -> None:
    """Each is noted where it goes."""
    arena = Arena()

    run(into_two, (1,), cache(arena), torch.zeros(8, dtype=torch.float16), 4, arena=arena)

    assert damage(arena).cells.tolist() == [0, 2]
    assert damage(arena).line == line_of(into_two, "tl.store")


@pytest.mark.parametrize(
    "shared", [lambda view: torch.from_numpy(view.numpy()), torch.utils.dlpack.from_dlpack, lambda view: view[1:]]
)
def test_memory_seen_through_another_tensor(run: Run, shared: Callable[[torch.Tensor], torch.Tensor]) -> None:
    """A launcher may pass a cache on as something else: it is the same memory, with the same bounds."""
    arena = Arena()
    seen = shared(cache(arena))
    row = 2 - (3 - seen.shape[0])

    run(read_back_alone, (1,), seen, row, 4, arena=arena)

    assert damage(arena).cells.tolist() == [8, 9, 10, 11]
    with pytest.raises(KernelError, match=r"load from cache out of bounds: 1 element past the end of cache"):
        run(read_back_alone, (1,), seen, row + 1, 4, arena=arena)


@triton.jit
def read_back_alone(target, row, n: tl.constexpr):
    """A row is written back as it was loaded."""
    i = row * n + tl.arange(0, n)
    tl.store(target + i, tl.load(target + i))


# Atomic operations


@triton.jit
def exchanged(target, n: tl.constexpr):
    """Row 2 is written back, whatever is there by now."""
    i = 2 * n + tl.arange(0, n)
    tl.atomic_xchg(target + i, tl.load(target + i))


def integers(arena: Arena) -> torch.Tensor:
    """A sealed cache [3, 4] of int32."""
    view = arena.tensor("cache", (3, 4), torch.int32)
    arena.scribble("cache", 1)
    arena.seal()
    return view


def test_exchange_is_a_store(run: Run) -> None:
    """What another program writes before it is lost."""
    arena = Arena()

    run(exchanged, (1,), integers(arena), 4, arena=arena)

    assert damage(arena).cells.tolist() == [8, 9, 10, 11]
    assert damage(arena).line == line_of(exchanged, "tl.atomic_xchg")


@triton.jit
def added(target, amount, back, n: tl.constexpr):
    """Row 0 is added to; where `back`, it is written back before."""
    i = tl.arange(0, n)
    if back:
        tl.store(target + i, tl.load(target + i))
    tl.atomic_add(target + i, amount)


def test_update_that_changes_nothing_is_none(run: Run) -> None:
    """It loses nobody's data; that of a store before it is noted still."""
    arena, other = Arena(), Arena()

    run(added, (1,), integers(arena), 0, 0, 4, arena=arena)
    run(added, (1,), integers(other), 0, 1, 4, arena=other)

    assert arena.allocations["cache"].stored() is None
    assert damage(other).line == line_of(added, "tl.store")


def test_lock_that_is_released(run: Run) -> None:
    """What updates change and undo is as it was for everybody."""
    arena = Arena()
    view = integers(arena)

    run(added, (1,), view, 1, 0, 4, arena=arena)
    run(added, (1,), view, -1, 0, 4, arena=arena)

    assert arena.allocations["cache"].changed() is None
    assert arena.allocations["cache"].stored() is None


@pytest.mark.parametrize("back", [0, 1])
def test_update_that_changes_something(run: Run, back: int) -> None:
    """Is told by its line, be there a harmless store before it or not."""
    arena = Arena()

    run(added, (1,), integers(arena), 7, back, 4, arena=arena)

    found = arena.allocations["cache"].changed()
    assert found is not None
    assert found.line == line_of(added, "tl.atomic_add")


def test_more_lines_than_numbers() -> None:
    """Of very many stores the last ones share a number, which names none of them."""
    stores = Stores(300)

    for at in range(300):
        stores.last[at] = stores.number(f"k.py:{at}")

    assert [stores.line(at) for at in (0, 253, 254, 299)] == ["k.py:0", "k.py:253", None, None]
    assert stores.stored(0, 75, 4).all()
    assert Stores(4).line(0) is None
