"""Loops of which every program has its own: against the same algorithm in Python, and loops that never end."""

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

from tridiff.harness.engines.cpu import engine
from tridiff.harness.engines.cpu.errors import KernelError
from tridiff.harness.engines.spec import EngineSpec

Run = Callable[..., None]


def ints(*values: int) -> torch.Tensor:
    """int32."""
    return torch.tensor(values, dtype=torch.int32)


def line_of(kernel: Any, text: str) -> str:
    """FILE:LINE of the line of a jit function that contains `text`."""
    lines, start = inspect.getsourcelines(kernel.fn)
    (at,) = [start + index for index, line in enumerate(lines) if text in line]
    return f"{Path(__file__).name}:{at}"


@triton.jit
def sum_range(lower, upper, step, out, last):
    """The sum over range(lower, upper, step), a digest that depends on the order, and the last index."""
    p = tl.program_id(0)
    total = 0
    digest = 7
    final = -1
    for i in range(tl.load(lower + p), tl.load(upper + p), tl.load(step + p)):
        total += i
        digest = digest * 31 + i
        final = i
    tl.store(out + p, total + digest)
    tl.store(last + p, final)


def python_sum_range(lower: int, upper: int, step: int) -> tuple[int, int]:
    """The same in Python."""
    total, digest, final = 0, 7, -1
    for i in range(lower, upper, step):
        total, digest, final = total + i, digest * 31 + i, i
    return (total + digest + 2**31) % 2**32 - 2**31, final


@pytest.mark.operations("scf.for", "scf.yield")
@pytest.mark.parametrize(
    ("lower", "upper", "step"),
    [
        ([0, 0, 0, 0], [5, 5, 5, 5], [1, 1, 1, 1]),
        ([0, 0, 0, 0, 0], [3, 0, 7, 1, 3], [1, 1, 1, 1, 1]),
        ([2, -5, 10, 0], [3, 6, 4, 11], [4, 3, 2, 5]),
        ([1, 2, 3], [1, 2, 3], [1, 1, 1]),
        ([0], [9], [2]),
        ([0, 0], [0, 4], [0, 1]),
        ([2147483640, 0], [2147483647, 3], [7, 1]),
    ],
)
def test_for(run: Run, lower: list[int], upper: list[int], step: list[int]) -> None:
    """Bounds and steps of every program's own: equal, ragged, empty, negative, next to the end of int32."""
    out, last = ints(*lower), ints(*lower)

    run(sum_range, (len(lower),), ints(*lower), ints(*upper), ints(*step), out, last)

    expected = [python_sum_range(a, b, max(s, 1)) for a, b, s in zip(lower, upper, step, strict=True)]
    assert list(zip(out.tolist(), last.tolist(), strict=True)) == expected


@triton.jit
def nested_loops(rows, columns, out, block: tl.constexpr):
    """A loop in a loop in a loop over a tensor, each with bounds of its own that depend on the outer ones."""
    p = tl.program_id(0)
    lanes = tl.arange(0, block)
    acc = tl.zeros([block], tl.int32)
    total = 0
    for i in range(tl.load(rows + p)):
        for j in range(i, tl.load(columns + p)):
            acc += lanes * j + p
            for k in range(j % 3):
                total += i * 100 + j * 10 + k
        acc = acc * 3 + i
    tl.store(out + p * block + lanes, acc + total)


@pytest.mark.parametrize("rows", [[3, 0, 2, 5, 1], [2, 2, 2, 2, 2]])
def test_nested_loops(run: Run, rows: list[int]) -> None:
    """Programs that leave an inner loop early wait for none and lose nothing."""
    columns = [4, 9, 0, 3, 6]
    out = torch.zeros(5, 4, dtype=torch.int32)
    expected = torch.zeros(5, 4, dtype=torch.int32)
    for p in range(5):
        acc, total = torch.zeros(4, dtype=torch.int32), 0
        for i in range(rows[p]):
            for j in range(i, columns[p]):
                acc += torch.arange(4, dtype=torch.int32) * j + p
                total += sum(i * 100 + j * 10 + k for k in range(j % 3))
            acc = acc * 3 + i
        expected[p] = acc + total

    run(nested_loops, (5,), ints(*rows), ints(*columns), out, 4)

    assert torch.equal(out, expected)


@triton.jit
def walk_pointers(x, lengths, out, block: tl.constexpr):
    """Carries a tensor of pointers, a scalar pointer, a mask and sums, which begin compact and become full."""
    p = tl.program_id(0)
    lanes = tl.arange(0, block)
    pointers = x + lanes
    single = x + p
    total = tl.zeros([block], tl.int32)
    offset = lanes * 0
    mask = lanes < block
    for _ in range(tl.load(lengths + p)):
        total += tl.load(pointers + offset, mask=mask, other=0) + tl.load(single)
        pointers += block + p
        single += 1
        offset = offset + p
        mask = mask & (lanes != p)
    tl.store(out + p * block + lanes, total)
    tl.store(single, -1, mask=tl.load(lengths + p) == 4)


@pytest.mark.parametrize("lengths", [[2, 0, 4, 1], [3, 3, 3, 3]])
def test_carried_values_of_every_kind(run: Run, lengths: list[int]) -> None:
    """Pointers, masks and offsets carried by a loop are each program's own when it ends."""
    x = torch.arange(0, 400, 4, dtype=torch.int32)
    expected = torch.zeros(4, 8, dtype=torch.int32)
    after = x.clone()
    for p, length in enumerate(lengths):
        for trip in range(length):
            for lane in range(8):
                seen = trip == 0 or lane != p
                expected[p, lane] += int(x[lane + trip * (8 + p) + trip * p]) * seen + int(x[p + trip])
        if length == 4:
            after[p + length] = -1
    out = torch.zeros(4, 8, dtype=torch.int32)

    run(walk_pointers, (4,), x, ints(*lengths), out, 8)

    assert torch.equal(out, expected)
    assert torch.equal(x, after)


@triton.jit
def narrow_mask(x, out, trips, block: tl.constexpr):
    """A mask that a long loop narrows again and again."""
    i = tl.arange(0, block)[:, None]
    j = tl.arange(0, block)[None, :]
    mask = (i < block) & (j < block)
    for trip in range(trips):
        mask = mask & (i != trip) & (j != trip + 2)
    tl.store(out + i * block + j, tl.load(x + i * block + j, mask=mask, other=-1))


def test_long_conjunctions(run: Run) -> None:
    """A mask that is narrowed 2000 times is the conjunction of all that."""
    x = torch.arange(16, dtype=torch.int32).reshape(4, 4)
    out = torch.zeros_like(x)

    run(narrow_mask, (1,), x, out, 2000, 4)

    assert out.tolist() == [[-1] * 4] * 4
    run(narrow_mask, (1,), x, out, 1, 4)
    assert out.tolist() == [[-1] * 4, [4, 5, -1, 7], [8, 9, -1, 11], [12, 13, -1, 15]]


@triton.jit
def collatz(x, out):
    """Steps to 1, with an `if` in a `while`."""
    p = tl.program_id(0)
    value = tl.load(x + p)
    steps = 0
    while value > 1:
        if value % 2 == 0:  # noqa: SIM108 - the statement is what is tested
            value = value // 2
        else:
            value = 3 * value + 1
        steps += 1
    tl.store(out + p, steps)


@pytest.mark.operations("scf.while", "scf.condition", "scf.if")
@pytest.mark.parametrize("starts", [[1, 2, 3, 7, 27, 0, 6], [1, 1], [27]])
def test_while(run: Run, starts: list[int]) -> None:
    """Every program goes round as often as it must, some not at all."""
    out = ints(*starts)

    def steps(value: int) -> int:
        return 0 if value <= 1 else 1 + steps(value // 2 if value % 2 == 0 else 3 * value + 1)

    run(collatz, (len(starts),), ints(*starts), out)

    assert out.tolist() == [steps(value) for value in starts]


@triton.jit
def search(x, sizes, out, block: tl.constexpr):
    """A `while` over tiles that ends when a tile holds a negative number; carries tensors and pointers."""
    p = tl.program_id(0)
    lanes = tl.arange(0, block)
    pointers = x + p * 16 + lanes
    seen = tl.zeros([block], tl.int32)
    remaining = tl.load(sizes + p)
    searching = remaining > 0
    while searching:
        tile = tl.load(pointers, mask=lanes < remaining, other=0)
        seen += tile
        pointers += block
        remaining -= block
        searching = (tl.min(tile, 0) >= 0) & (remaining > 0)
    tl.store(out + p * block + lanes, seen)


def test_while_with_tensors(run: Run) -> None:
    """Tensors carried by a `while` are those of the turn after which the program left."""
    x = torch.arange(64, dtype=torch.int32).reshape(4, 16)
    x[1, 5], x[2, 0] = -100, -100
    sizes = [16, 16, 3, 0]
    expected = torch.zeros(4, 4, dtype=torch.int32)
    for p, size in enumerate(sizes):
        for start in range(0, size, 4):
            tile = torch.where(torch.arange(start, start + 4) < size, x[p, start : start + 4], 0)
            expected[p] += tile
            if tile.min() < 0:
                break
    out = torch.zeros(4, 4, dtype=torch.int32)

    run(search, (4,), x, ints(*sizes), out, 4)

    assert torch.equal(out, expected)


@triton.jit
def endless(x, out):
    """Never ends for the program whose number is negative."""
    p = tl.program_id(0)
    value = tl.load(x + p)
    while value != 0:
        value -= tl.where(value > 0, 1, 0)
    tl.store(out + p, value)


@triton.jit
def long_loop(out, trips):
    """Ends, but late."""
    total = 0
    for i in range(trips):
        total += i * tl.load(out)
    tl.store(out, total)


def test_endless_while_is_a_hang(run: Run) -> None:
    """One program that never leaves is a hang, with the line of the loop."""
    out = ints(0, 0, 0)
    run(endless, (3,), ints(3, 0, 900), out, spec=EngineSpec(max_steps=1000))

    with pytest.raises(KernelError, match="a program took more than 1000 loop steps") as caught:
        run(endless, (3,), ints(3, 0, -1), out, spec=EngineSpec(max_steps=1000))

    assert caught.value.check == "hang"
    assert caught.value.line == line_of(endless, "while")


def test_step_of_zero_is_a_hang(run: Run) -> None:
    """A loop that would run, by nothing at a time; one that would not run is harmless."""
    with pytest.raises(KernelError, match="a loop has a step of 0") as caught:
        run(sum_range, (2,), ints(0, 0), ints(4, 4), ints(1, 0), ints(0, 0), ints(0, 0))

    assert caught.value.check == "hang"
    assert caught.value.line == line_of(sum_range, "for i")


def test_wrapping_index_is_a_hang(run: Run) -> None:
    """After 2147483644 comes -2147483648, which is below the upper bound again; a GPU goes round for ever."""
    with pytest.raises(KernelError, match="a loop index wraps around") as caught:
        run(sum_range, (2,), ints(0, 2147483640), ints(4, 2147483647), ints(1, 4), ints(0, 0), ints(0, 0))

    assert caught.value.check == "hang"
    assert caught.value.line == line_of(sum_range, "for i")


def test_negative_step_is_refused(run: Run) -> None:
    """What a negative step that is not a constant does, Triton leaves open."""
    with pytest.raises(KernelError, match="negative step"):
        run(sum_range, (1,), ints(4), ints(0), ints(-1), ints(0), ints(0))


def test_steps_are_those_of_one_program(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """Many programs with short loops, in many chunks, are no hang."""
    monkeypatch.setattr(engine, "MAX_CHUNK", 1)
    out = ints(*[0] * 50)

    run(collatz, (50,), ints(*[27] * 50), out, spec=EngineSpec(max_steps=120))

    assert out.tolist() == [111] * 50


def test_too_much_time_is_a_hang(run: Run) -> None:
    """The time limit holds also where the steps would be allowed."""
    with pytest.raises(KernelError, match=r"the kernel ran for more than 0.05 s") as caught:
        run(long_loop, (1,), ints(1), 10**8, spec=EngineSpec(max_steps=10**9, max_seconds=0.05))

    assert caught.value.check == "hang"
    assert caught.value.line == line_of(long_loop, "for i")


@triton.jit
def downwards(out, n: tl.constexpr):
    """A constant negative step, which Triton turns round."""
    digest = 0
    for i in range(n, 0, -2):
        digest = digest * 10 + i
    tl.store(out, digest)


def test_constant_negative_step(run: Run) -> None:
    """range(7, 0, -2) counts down."""
    out = ints(0)

    run(downwards, (1,), out, 7)

    assert out.tolist() == [7531]


@triton.jit
def unsigned_loop(bounds, out):
    """A loop over unsigned integers."""
    digest = 0
    for i in range(tl.load(bounds), tl.load(bounds + 1)):
        digest = digest * 10 + i.to(tl.int32)
    tl.store(out, digest)


def test_unsigned_bounds(run: Run) -> None:
    """Unsigned bounds count, but Triton compares them as signed: a loop up to 2^31 + 5 does not run."""
    out = ints(0)

    run(unsigned_loop, (1,), torch.tensor([3, 7], dtype=torch.uint32), out)
    assert out.tolist() == [3456]
    run(unsigned_loop, (1,), torch.tensor([3, 2**31 + 5], dtype=torch.uint32), out)
    assert out.tolist() == [0]


@pytest.mark.parametrize("chunk", [1, 2, 3])
def test_chunks_do_not_change_results(run: Run, chunk: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Programs do not depend on which others run beside them."""
    monkeypatch.setattr(engine, "MAX_CHUNK", chunk)
    out = ints(*[0] * 7)

    run(collatz, (7,), ints(1, 2, 3, 7, 27, 0, 6), out)

    assert out.tolist() == [0, 1, 7, 16, 111, 0, 8]


def test_empty_grid(run: Run) -> None:
    """Without programs nothing happens."""
    out = ints(5)

    run(collatz, (0,), ints(3), out)

    assert out.tolist() == [5]
