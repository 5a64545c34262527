"""Pointers that come out of memory, out of a choice or out of arithmetic: each has the bounds of the tensor it points into."""

# mypy: allow-untyped-defs, allow-untyped-decorators

from __future__ import annotations

import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import triton
import triton.language as tl

from tridiff.harness.api import Arena
from tridiff.harness.engines.cpu.engine import CpuEngine
from tridiff.harness.engines.cpu.errors import KernelError
from tridiff.harness.engines.spec import EngineSpec

Run = Callable[..., None]
NULL, WILD = 0, 0x7A7A7A7A7A7A7A7A


def line_of(kernel: Any, text: str) -> str:
    """FILE:LINE of the line of a jit function that contains `text`."""
    lines, start = inspect.getsourcelines(kernel.fn)
    (at,) = [start + index for index, line in enumerate(lines) if text in line]
    return f"{Path(__file__).name}:{at}"


def addresses(*tensors: torch.Tensor, dtype: torch.dtype = torch.int64) -> torch.Tensor:
    """The table of pointers that a launcher builds."""
    return torch.tensor([tensor.data_ptr() for tensor in tensors], dtype=torch.int64).view(dtype)


def staged(*contents: torch.Tensor) -> tuple[Arena, list[torch.Tensor]]:
    """Tensors x0, x1, ... of a Case with these contents."""
    arena = Arena()
    return arena, [arena.tensor(f"x{at}", content.shape, content.dtype).copy_(content) for at, content in enumerate(contents)]


@triton.jit
def copy_table(table, out, size, block: tl.constexpr):
    """Program p copies the tensor that entry p of a table points to."""
    p = tl.program_id(0)
    source = tl.load(table + p).to(tl.pointer_type(tl.float32))
    i = tl.arange(0, block)
    tl.store(out + p * block + i, tl.load(source + i, mask=i < size, other=-1.0))


@triton.jit
def copy_lanes(table, out, at, count, block: tl.constexpr):
    """Lane i loads element `at` of the tensor that entry i of a table points to."""
    i = tl.arange(0, block)
    pointers = tl.load(table + i, mask=i < count).to(tl.pointer_type(tl.float32), bitcast=True)
    tl.store(out + i, tl.load(pointers + at, mask=i < count, other=-1.0))


@pytest.mark.operations("tt.int_to_ptr", "tt.addptr")
@pytest.mark.parametrize("dtype", [torch.int64, torch.uint64], ids=str)
def test_table_of_tensors_by_program(run: Run, dtype: torch.dtype) -> None:
    """As of the caches of layers, or of the matrices of a grouped product; rows shorter than the block are masked."""
    arena, layers = staged(*(torch.arange(4.0) + 10 * layer for layer in range(3)))
    out = torch.zeros(3, 4)

    run(copy_table, (3,), addresses(*layers, dtype=dtype), out, 3, 4, arena=arena)

    assert out.tolist() == [[0.0, 1.0, 2.0, -1.0], [10.0, 11.0, 12.0, -1.0], [20.0, 21.0, 22.0, -1.0]]


@pytest.mark.operations("tt.int_to_ptr", "tt.addptr")
def test_table_of_tensors_by_lane(run: Run) -> None:
    """Lanes may point into different tensors; those that are masked off hold anything: null, wild or poison."""
    arena, tensors = staged(*(torch.arange(4.0) + 10 * index for index in range(3)))
    table = torch.cat([addresses(*tensors, tensors[0]), torch.tensor([NULL, WILD, -1, 5])])
    out = torch.zeros(8)

    run(copy_lanes, (1,), table, out, 2, 4, 8, arena=arena)

    assert out.tolist() == [2.0, 12.0, 22.0, 2.0, -1.0, -1.0, -1.0, -1.0]


@pytest.mark.parametrize(
    ("address", "where"),
    [
        (NULL, "address 8, as from a null pointer"),
        (13, "address 21, as from a null pointer"),
        (WILD, "an address that belongs to no tensor"),
        (-64, "an address that belongs to no tensor"),
    ],
)
def test_wild_pointer_is_out_of_bounds(run: Run, address: int, where: str) -> None:
    """The finding says which program, and no address that another run would not show."""
    arena = Arena()
    x, y = arena.tensor("x", [4], torch.float32), arena.output("y", [8], torch.float32)
    table = torch.cat([addresses(x, x, x), torch.tensor([address])])

    with pytest.raises(KernelError) as caught:
        run(copy_lanes, (1,), table, y, 2, 4, 8, arena=arena)

    assert caught.value.message == f"load from no tensor out of bounds: {where}, by program (0, 0, 0)"
    assert (caught.value.check, caught.value.line) == ("bounds", line_of(copy_lanes, "tl.load(pointers + at"))


@pytest.mark.parametrize(("at", "where"), [(4, "1 element past the end of x"), (-1, "1 element before x")])
def test_pointer_from_memory_has_its_tensors_bounds(run: Run, at: int, where: str) -> None:
    """To the element: the red zone behind a tensor is not the tensor."""
    arena = Arena()
    x, y = arena.tensor("x", [4], torch.float32), arena.output("y", [8], torch.float32)

    with pytest.raises(KernelError, match=f"load from x out of bounds: {where}, by program"):
        run(copy_lanes, (1,), addresses(x), y, at, 1, 8, arena=arena)


def test_first_finding_does_not_depend_on_addresses(run: Run) -> None:
    """Of several tensors that are left at once, the first in the order of the Case is named, wherever they lie."""
    for order in ((0, 1, 2), (2, 1, 0), (1, 2, 0)):
        arena = Arena()
        # Of different sizes, so that the allocator places them in some order of its own.
        tensors = [arena.tensor(f"x{index}", [4 + 100_000 * order[index]], torch.float32) for index in range(3)]
        y = arena.output("y", [8], torch.float32)

        with pytest.raises(KernelError, match="load from x0 out of bounds: 1 element before x0"):
            run(copy_lanes, (1,), addresses(*reversed(tensors)), y, -1, 3, 8, arena=arena)


def test_pointer_into_a_hole(run: Run) -> None:
    """Address space without content is no more legal through a pointer from memory."""
    arena = Arena()
    x = arena.tensor("x", [64], torch.float32, committed=[(0, 8), (56, 64)])
    y = arena.output("y", [8], torch.float32)
    x[56:] = 7.0

    run(copy_lanes, (1,), addresses(x), y, 56, 1, 8, arena=arena)
    assert y[0] == 7.0
    with pytest.raises(KernelError, match=r"load from x out of bounds: x\[8\]"):
        run(copy_lanes, (1,), addresses(x), y, 8, 1, 8, arena=arena)


def test_spans_that_touch_are_one(run: Run) -> None:
    """Content that is declared page by page may be read across pages."""
    arena = Arena()
    x, y = arena.tensor("x", [8], torch.float32, committed=[(4, 8), (0, 4)]), arena.output("y", [8], torch.float32)
    x.copy_(torch.arange(8.0))

    run(copy_table, (1,), addresses(x), y, 8, 8, arena=arena)

    assert y.tolist() == list(range(8))


@triton.jit
def count_down(table, out, n: tl.constexpr):
    """The last n elements before the address in a table, backwards."""
    end = tl.load(table).to(tl.pointer_type(tl.float32))
    i = tl.arange(0, n)
    tl.store(out + i, tl.load(end - 1 - i))


def test_end_of_a_tensor_belongs_to_it() -> None:
    """A pointer to one past the last element may be made, and counted down from, but not followed."""
    seen = []

    def launcher() -> None:
        x = torch.arange(4.0)
        end, out = torch.tensor([x.data_ptr() + 16]), torch.zeros(4)
        count_down[(1,)](end, out, 4)
        seen.extend(out.tolist())

    CpuEngine(EngineSpec()).run(launcher, {}, Arena())
    assert seen == [3.0, 2.0, 1.0, 0.0]


@pytest.mark.parametrize("make", [torch.empty, torch.zeros, lambda n: torch.full((n,), 2.0), lambda n: (torch.ones(n) + 1)[:]])
def test_launchers_own_tensors_are_known(make: Callable[[int], torch.Tensor]) -> None:
    """However the launcher made it: a kernel that only gets its address may use it, within its bounds."""
    seen = []

    def launcher(size: int) -> None:
        workspace = make(4)
        table, out = addresses(workspace), torch.zeros(8)
        workspace.fill_(3.0)
        copy_table[(1,)](table, out, size, 8)
        seen.extend(out.tolist())

    CpuEngine(EngineSpec()).run(launcher, {"size": 4}, Arena())
    assert seen == [3.0] * 4 + [-1.0] * 4
    with pytest.raises(KernelError, match="load from scratch out of bounds: element 4 of 4 of scratch, by program"):
        CpuEngine(EngineSpec()).run(launcher, {"size": 5}, Arena())


def test_argument_is_named_by_its_parameter() -> None:
    """A tensor that is an argument too keeps that name when it is reached by its address."""

    def launcher() -> None:
        out = torch.zeros(8)
        copy_table[(1,)](addresses(out), out, 16, 16)

    with pytest.raises(KernelError, match="load from scratch out out of bounds: element 8 of 8 of scratch out"):
        CpuEngine(EngineSpec()).run(launcher, {}, Arena())


@triton.jit
def round_trip(table, out, n: tl.constexpr):
    """Integer to pointer to integer."""
    i = tl.arange(0, n)
    tl.store(out + i, tl.load(table + i).to(tl.pointer_type(tl.float64)).to(tl.int64))


@pytest.mark.operations("tt.int_to_ptr", "tt.ptr_to_int")
def test_round_trip_keeps_every_bit(run: Run) -> None:
    """Of addresses of tensors, aligned or not, and of others."""
    x = torch.zeros(8)
    at = x.data_ptr()
    table = torch.tensor([at, at + 1, at + 7, at + 32, at - 3, NULL, 13, WILD, -1, -9, 2**63 - 1, -(2**63), 8, 1, at + 8, 3])
    out = torch.zeros(16, dtype=torch.int64)

    run(round_trip, (1,), table, out, 16)

    assert torch.equal(out, table)


@triton.jit
def arithmetic(x, y, out, n: tl.constexpr):
    """Differences and alignment of addresses."""
    i = tl.arange(0, n)
    low = x.to(tl.int64)
    tl.store(out + i, (x + i).to(tl.int64) - low)
    tl.store(out + n + i, (x + i).to(tl.int64) % 16)
    chosen = tl.where(i % 2 == 0, x + i, y + 2 * i)
    tl.store(out + 2 * n + i, chosen.to(tl.int64) - low)
    back = (low + 4 * (n - 1 - i)).to(tl.pointer_type(tl.float32))
    tl.store(out + 3 * n + i, tl.load(back).to(tl.int64))


@pytest.mark.operations("tt.ptr_to_int", "tt.int_to_ptr", "tt.addptr")
def test_arithmetic_on_addresses(run: Run) -> None:
    """Pointers are 64-bit addresses in bytes, those into several tensors at once too; a sum of them leads back."""
    x, y = torch.arange(64.0)[4:], torch.arange(64.0)
    out = torch.zeros(4, 8, dtype=torch.int64)

    run(arithmetic, (1,), x, y, out, 8)

    lanes = torch.arange(8)
    between = y.data_ptr() - x.data_ptr()
    assert torch.equal(out[0], 4 * lanes)
    assert torch.equal(out[1], (x.data_ptr() + 4 * lanes) % 16)
    assert torch.equal(out[2], torch.where(lanes % 2 == 0, 4 * lanes, between + 8 * lanes))
    assert torch.equal(out[3], 4 + 7 - lanes)


@triton.jit
def unsigned_offset(x, offsets, out):
    """An unsigned offset beyond the signed range."""
    tl.store(out, (x + tl.load(offsets)).to(tl.int64) - x.to(tl.int64))


@pytest.mark.operations("tt.ptr_to_int", "tt.addptr")
def test_unsigned_offsets_are_extended_with_zeros(run: Run) -> None:
    """They only ever lead forwards."""
    out = torch.zeros(1, dtype=torch.int64)

    run(unsigned_offset, (1,), torch.zeros(1), torch.tensor([2**32 - 1]).to(torch.uint32), out)

    assert out.item() == 4 * (2**32 - 1)
