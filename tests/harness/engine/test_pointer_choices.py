"""Pointers of which programs or lanes hold different ones: chosen, carried by loops and branches, and seen in other formats."""

# mypy: allow-untyped-defs, allow-untyped-decorators

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import triton
import triton.language as tl

from tridiff.harness.api import Arena
from tridiff.harness.engines.cpu.errors import KernelError

Run = Callable[..., None]


@triton.jit
def where_lanes(x, y, out, n: tl.constexpr):
    """Even lanes load from x, odd ones from y; the sums go back to where they came from."""
    i = tl.arange(0, n)
    p = tl.program_id(0)
    pointers = tl.where(i % 2 == 0, x, y) + p * n + i
    values = tl.load(pointers)
    tl.store(out + p * n + i, values)
    tl.store(pointers, values + 100, mask=i % 4 < 2)


@pytest.mark.operations("tt.addptr", "arith.select", "tt.load", "tt.store")
def test_choice_by_lane(run: Run) -> None:
    """Loads and stores of lanes that point into different tensors, some of them masked off."""
    x, y, out = torch.arange(16.0), torch.arange(16.0) + 1000, torch.zeros(16)

    run(where_lanes, (2,), x, y, out, 8)

    i = torch.arange(16)
    assert torch.equal(out, torch.where(i % 2 == 0, i, 1000 + i).float())
    assert torch.equal(x, i + 100.0 * (i % 4 == 0))
    assert torch.equal(y, 1000 + i + 100.0 * (i % 4 == 1))


@triton.jit
def by_branch(x, y, z, out, n: tl.constexpr):
    """Programs of three kinds point into three tensors; then all of them look 2 elements further."""
    p = tl.program_id(0)
    source = x
    if p % 3 == 1:
        source = y + 1
    elif p % 3 == 2:
        source = z + 2
    i = tl.arange(0, n)
    rows = source + 2 + (i[:, None] * n + i[None, :])
    tl.store(out + p * n * n + i[:, None] * n + i[None, :], tl.load(rows, mask=i[:, None] < 3, other=-1))


@pytest.mark.operations("scf.if", "tt.addptr", "tt.load")
def test_choice_by_branch(run: Run) -> None:
    """Two-dimensional accesses through a pointer that differs by program."""
    tensors = [torch.arange(32, dtype=torch.int32) + 100 * index for index in range(3)]
    out = torch.zeros(7, 4, 4, dtype=torch.int32)

    run(by_branch, (7,), *tensors, out, 4)

    for p in range(7):
        start = 100 * (p % 3) + (p % 3) + 2
        expected = torch.arange(start, start + 16).reshape(4, 4)
        expected[3] = -1
        assert torch.equal(out[p], expected.int())


@triton.jit
def ragged(x, y, lengths, out, turn):
    """Program p takes lengths[p] steps, from one tensor to the other and on, at every turn-th step."""
    p = tl.program_id(0)
    here, there = x, y
    total = 0.0
    for step in range(tl.load(lengths + p)):
        total += tl.load(here)
        here += 1
        there += 1
        if step % turn == turn - 1:
            here, there = there, here
    tl.store(out + p, total)
    tl.store(out + tl.num_programs(0) + p, tl.load(here))


def walk(x: torch.Tensor, y: torch.Tensor, length: int, turn: int) -> tuple[float, float]:
    """What a program of `ragged` computes."""
    total, tensors = 0.0, [x, y]
    for step in range(length):
        total += float(tensors[step // turn % 2][step])
    return total, float(tensors[length // turn % 2][length])


@pytest.mark.operations("scf.for", "tt.load", "tt.addptr")
def test_pointers_carried_by_a_ragged_loop(run: Run) -> None:
    """Programs leave a loop at different steps, with pointers into different tensors."""
    x, y = torch.arange(16.0), torch.arange(16.0) + 100
    lengths = [5, 0, 9, 1, 4, 12, 5, 2]
    out = torch.zeros(2, 8)

    run(ragged, (8,), x, y, torch.tensor(lengths, dtype=torch.int32), out, 2)

    assert list(map(tuple, out.T.tolist())) == [walk(x, y, length, 2) for length in lengths]


def test_ragged_loop_leaves_its_tensor(run: Run) -> None:
    """The tensor that is left is the one that the pointer had come to, and the program the one whose loop was too long."""
    arena = Arena()
    x, y = (arena.tensor(name, [8], torch.float32).fill_(1.0) for name in "xy")
    out = arena.output("out", [2, 4], torch.float32)

    with pytest.raises(KernelError, match=r"load from y out of bounds: 1 element past the end of y, by program \(2, 0, 0\)"):
        run(ragged, (4,), x, y, torch.tensor([1, 5, 7 + 3, 2], dtype=torch.int32), out, 7, arena=arena)


@triton.jit
def follow(table, out, steps):
    """A list of addresses, each at the first entry of the node before it; the value is the second one."""
    p = tl.program_id(0)
    node = tl.load(table + p)
    total = node * 0
    while node != 0:
        pointer = node.to(tl.pointer_type(tl.int64))
        total += tl.load(pointer + 1)
        node = tl.load(pointer)
    tl.store(out + p, total)


@pytest.mark.operations("tt.int_to_ptr", "scf.while", "tt.load")
def test_linked_lists(run: Run) -> None:
    """Every program follows its own chain of tensors to the null at its end."""
    arena = Arena()
    nodes = [arena.tensor(f"node{at}", [2], torch.int64) for at in range(5)]
    for at, node in enumerate(nodes):
        following = nodes[at + 1].data_ptr() if at + 1 < len(nodes) else 0
        node.copy_(torch.tensor([following, 10**at]))
    table = torch.tensor([nodes[3].data_ptr(), 0, nodes[0].data_ptr()])
    out = torch.full((3,), -1)

    run(follow, (3,), table, out, 0, arena=arena)

    assert out.tolist() == [11000, 0, 11111]


@triton.jit
def carried_while(x, y, limits, out):
    """A pointer that a while loop carries: back and forth between tensors until a value exceeds the program's limit."""
    p = tl.program_id(0)
    limit = tl.load(limits + p)
    pointer, other = x, y
    while tl.load(pointer) <= limit:
        pointer, other = other, pointer + 1
    tl.store(out + p, tl.load(pointer))
    tl.atomic_add(pointer, 1000)


@pytest.mark.operations("scf.while", "tt.load", "tt.atomic_rmw")
def test_pointers_carried_by_a_while_loop(run: Run) -> None:
    """And an atomic operation through what it ends with."""
    x = torch.arange(0, 16, 2, dtype=torch.int32)
    y = torch.arange(1, 17, 2, dtype=torch.int32)
    out = torch.zeros(4, dtype=torch.int32)

    run(carried_while, (4,), x, y, torch.tensor([4, 9, 4, 0], dtype=torch.int32), out)

    assert out.tolist() == [5, 10, 5, 1]
    assert x.tolist() == [0, 2, 4, 6, 8, 1010, 12, 14]
    assert y.tolist() == [1001, 3, 2005, 7, 9, 11, 13, 15]


@triton.jit
def atomics_by_lane(x, y, out, n: tl.constexpr):
    """Lanes count in one of two tensors."""
    i = tl.arange(0, n)
    found = tl.atomic_add(tl.where(i % 3 == 0, x, y) + i % 2, i + 1, mask=i < n - 1)
    tl.store(out + i, found, mask=i < n - 1)


@pytest.mark.operations("tt.atomic_rmw", "arith.select")
def test_atomics_through_a_choice(run: Run) -> None:
    """Every lane adds to the tensor that it points into, and finds what the lanes before it left there."""
    x, y, out = (torch.zeros(size, dtype=torch.int32) for size in (2, 2, 8))

    run(atomics_by_lane, (1,), x, y, out, 8)

    assert (x.tolist(), y.tolist()) == ([1 + 7, 4], [3 + 5, 2 + 6])
    assert out[:7].tolist() == [0, 0, 0, 0, 3, 2, 1]


@triton.jit
def views_of_choice(x, y, out, n: tl.constexpr):
    """The halves of what lanes find in one of two tensors, one of them at an odd half."""
    i = tl.arange(0, n)
    words = tl.where(i % 2 == 0, x, y) + i
    halves = words.to(tl.pointer_type(tl.int16)) + tl.where(i < n // 2, 0, 1)
    tl.store(out + i, tl.load(halves))
    straddling = (words.to(tl.pointer_type(tl.int16)) + i % 2).to(tl.pointer_type(tl.int32))
    tl.store(out + n + i, tl.load(straddling, mask=i < n - 1, other=0))


@pytest.mark.operations("tt.bitcast", "tt.load")
def test_views_through_a_choice(run: Run) -> None:
    """A format of another size, of pointers into several tensors, aligned and not."""
    x, y = (torch.randint(-(2**31), 2**31, (8,), generator=torch.Generator().manual_seed(seed)).int() for seed in (1, 2))
    out = torch.zeros(2, 8, dtype=torch.int32)

    run(views_of_choice, (1,), x, y, out, 8)

    halves = torch.stack([x.view(torch.int16), y.view(torch.int16)])
    for i in range(8):
        row = halves[i % 2]
        assert out[0, i] == row[2 * i + (i >= 4)]
        assert out[1, i] == (0 if i == 7 else row[2 * i + i % 2 : 2 * i + i % 2 + 2].clone().view(torch.int32).item())


@triton.jit
def stores_by_choice(x, y, n: tl.constexpr):
    """Every lane stores bytes into one of two tensors of words."""
    i = tl.arange(0, n)
    pieces = tl.where(i % 2 == 0, x, y).to(tl.pointer_type(tl.int8)) + i
    tl.store(pieces, i.to(tl.int8))


@pytest.mark.operations("tt.bitcast", "tt.store")
def test_stores_of_pieces_through_a_choice(run: Run) -> None:
    """Bytes that no lane stores keep their value."""
    x, y = torch.full((2,), -1, dtype=torch.int32), torch.full((2,), -1, dtype=torch.int32)

    run(stores_by_choice, (1,), x, y, 8)

    assert x.view(torch.int8).tolist() == [0, -1, 2, -1, 4, -1, 6, -1]
    assert y.view(torch.int8).tolist() == [-1, 1, -1, 3, -1, 5, -1, 7]


@pytest.mark.parametrize("load", [True, False], ids=["load", "store"])
def test_bounds_through_a_choice(run: Run, *, load: bool) -> None:
    """One lane of one program past the end of one of the tensors."""
    arena = Arena()
    x, y = arena.output("x", [16], torch.float32).fill_(0.0), arena.output("y", [15], torch.float32).fill_(0.0)
    verb = "load from" if load else "store to"

    with pytest.raises(KernelError, match=rf"{verb} y out of bounds: 1 element past the end of y, by program \(1, 0, 0\)"):
        run(where_lanes if load else store_lanes, (2,), x, y, torch.zeros(16), 8, arena=arena)


@triton.jit
def store_lanes(x, y, out, n: tl.constexpr):
    """Odd lanes store into y, even ones into x."""
    i = tl.arange(0, n)
    tl.store(tl.where(i % 2 == 0, x, y) + tl.program_id(0) * n + i, 1.0)
