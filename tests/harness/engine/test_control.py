"""Control flow where programs part ways: every kernel against the same algorithm in Python, program by program."""

# ruff: noqa: ANN001, ANN202 - jit functions carry no types
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


# --------------------------------------------------------------------------------------------------------------- loops


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
        ([2147483640, 0], [2147483647, 3], [4, 1]),
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
def collatz(x, out):
    """Steps to 1, with an `if` in a `while`."""
    p = tl.program_id(0)
    value = tl.load(x + p)
    steps = 0
    while value > 1:
        if value % 2 == 0:
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


# ------------------------------------------------------------------------------------------------------------ branches


@triton.jit
def branches(x, out, side, block: tl.constexpr):
    """Branches with and without results, nested; on the way, stores that only some programs make."""
    p = tl.program_id(0)
    lanes = tl.arange(0, block)
    value = tl.load(x + p)
    acc = tl.zeros([block], tl.int32)
    if value > 0:
        acc += lanes
        if value > 10:
            tl.store(side + p, value)
            acc = acc * 2
        elif value == 5:
            acc -= p
    else:
        acc = acc - value
    if value == 7:
        tl.store(side + p, 700)
    tl.store(out + p * block + lanes, acc)


@pytest.mark.operations("scf.if")
@pytest.mark.parametrize("values", [[0, 5, 20, 7, -3, 1], [20, 30], [-1, -2], [7]])
def test_branches(run: Run, values: list[int]) -> None:
    """Each program takes its own sides, whether all agree or not."""
    lanes = torch.arange(4, dtype=torch.int32)
    expected, side = [], []
    for p, value in enumerate(values):
        acc = lanes * 2 if value > 10 else lanes - p if value == 5 else lanes if value > 0 else lanes * 0 - value
        expected.append(acc.tolist())
        side.append(700 if value == 7 else value if value > 10 else -1)
    out, marks = torch.zeros(len(values), 4, dtype=torch.int32), torch.full((len(values),), -1, dtype=torch.int32)

    run(branches, (len(values),), ints(*values), out, marks, 4)

    assert out.tolist() == expected
    assert marks.tolist() == side


@triton.jit
def choose_tile(x, y, flags, out, block: tl.constexpr):
    """An `if` that only chooses between tensors, which Triton turns into a select with a scalar condition."""
    p = tl.program_id(0)
    lanes = tl.arange(0, block)
    a = tl.load(x + lanes)
    b = tl.load(y + lanes)
    if tl.load(flags + p) > 0:
        chosen = a
    else:
        chosen = b
    tl.store(out + p * block + lanes, chosen)


@pytest.mark.operations("arith.select")
@pytest.mark.parametrize("flags", [[1], [0], [1, 0, 1, 1], [0, 1, 0]])  # four flags: as many programs as lanes
def test_choice_by_scalar(run: Run, flags: list[int]) -> None:
    """The condition belongs to the program, not to the lane."""
    x, y = ints(1, 2, 3, 4), ints(-1, -2, -3, -4)
    out = torch.zeros(len(flags), 4, dtype=torch.int32)

    run(choose_tile, (len(flags),), x, y, ints(*flags), out, 4)

    assert out.tolist() == [(x if flag else y).tolist() for flag in flags]


@triton.jit
def choose_pointer(x, flags, out, block: tl.constexpr):
    """Pointers chosen by an `if`, one side moved, from one tensor."""
    p = tl.program_id(0)
    lanes = tl.arange(0, block)
    pointers = x + lanes
    if tl.load(flags + p) > 0:
        pointers = pointers + 10 * p
        tl.store(out + p * block + lanes, lanes * 0)
    tl.store(out + p * block + lanes, tl.load(pointers) + p)


def test_choice_of_pointers(run: Run) -> None:
    """Programs go on with the pointers of their own side."""
    out = torch.zeros(4, 4, dtype=torch.int32)

    run(choose_pointer, (4,), torch.arange(40, dtype=torch.int32), ints(0, 1, 0, 1), out, 4)

    assert out.tolist() == [[lane + 10 * p * (p % 2) + p for lane in range(4)] for p in range(4)]


@triton.jit
def early_returns(x, out):
    """Two early returns, and values that are computed between them."""
    p = tl.program_id(0)
    value = tl.load(x + p)
    if value == 0:
        return
    doubled = value * 2
    other = tl.load(x + p) + 7
    if doubled > 4:
        tl.store(out + p, -2)
        return
    tl.store(out + p, doubled + other)


@pytest.mark.operations("cf.cond_br", "tt.return")
@pytest.mark.parametrize("values", [[0, 1, 5, 2, 3], [0, 0], [1, 2], [9], [0]])
def test_early_return(run: Run, values: list[int]) -> None:
    """Programs that returned do nothing more; the others go on with values computed since."""
    out = torch.full((len(values),), -1, dtype=torch.int32)

    run(early_returns, (len(values),), ints(*values), out)

    assert out.tolist() == [-1 if v == 0 else -2 if v > 2 else 3 * v + 7 for v in values]


@triton.jit
def return_or_join(x, out, block: tl.constexpr):
    """One side returns, the other falls through with a changed tensor; a loop and a branch follow."""
    p = tl.program_id(0)
    lanes = tl.arange(0, block)
    value = tl.load(x + p)
    acc = lanes + value
    if value < 2:
        acc = acc * 10
        if value == 1:
            tl.store(out + p * block + lanes, acc)
            return
        acc += 1
    for i in range(value):
        acc += i
    if value > 3:
        acc = -acc
    tl.store(out + p * block + lanes, acc)


@pytest.mark.operations("cf.br", "cf.cond_br")
@pytest.mark.parametrize("values", [[0, 1, 2, 3, 4, 5], [1, 1], [0, 0, 0], [5]])
def test_return_inside_a_branch(run: Run, values: list[int]) -> None:
    """Blocks with arguments are entered by each program with its own."""
    out = torch.zeros(len(values), 4, dtype=torch.int32)

    run(return_or_join, (len(values),), ints(*values), out, 4)

    def result(value: int, lane: int) -> int:
        acc = lane + value
        if value < 2:
            acc = acc * 10 + (value != 1)
        if value != 1:
            acc += sum(range(value))
        return -acc if value > 3 else acc

    assert out.tolist() == [[result(value, lane) for lane in range(4)] for value in values]


@triton.jit
def helper(value, mode: tl.constexpr):
    """Branches on a constant at compile time, and on a value at run time."""
    if mode == "double":
        result = value * 2
    else:
        result = value - 1
    if result > 6:
        result = 6
    return result


@triton.jit
def with_helpers(x, out, mode: tl.constexpr):
    """Calls helpers, unrolled."""
    p = tl.program_id(0)
    value = tl.load(x + p)
    for _ in tl.static_range(3):
        value = helper(value, mode)
    tl.store(out + p, value)


@pytest.mark.parametrize(("mode", "expected"), [("double", [0, 6, 6, -24]), ("decrement", [-3, -2, 4, -6])])
def test_helpers_and_constants(run: Run, mode: str, expected: list[int]) -> None:
    """Helper functions are inlined, and branches on constants decided, by Triton."""
    out = ints(0, 0, 0, 0)

    run(with_helpers, (4,), ints(0, 1, 8, -3), out, mode)

    assert out.tolist() == expected


@triton.jit
def one_element(x, out):
    """Branches on a tensor of one element."""
    p = tl.program_id(0)
    tile = tl.load(x + p + tl.arange(0, 1))
    if (tile > 2).item():
        tl.store(out + p, 1)
    else:
        tl.store(out + p, tl.sum(tile, 0) - 10)


@pytest.mark.operations("tt.unsplat")
def test_condition_of_one_element(run: Run) -> None:
    """A tensor of one element is as good as a scalar."""
    out = ints(0, 0, 0, 0)

    run(one_element, (4,), ints(1, 2, 3, 4), out)

    assert out.tolist() == [-9, -8, 1, 1]


# -------------------------------------------------------------------------------------------------------------- programs


@triton.jit
def identify(out):
    """Writes the three ids and the grid's sizes."""
    x, y, z = tl.program_id(0), tl.program_id(1), tl.program_id(2)
    at = (z * tl.num_programs(1) + y) * tl.num_programs(0) + x
    tl.store(out + at * 4, x)
    tl.store(out + at * 4 + 1, y)
    tl.store(out + at * 4 + 2, z)
    tl.store(out + at * 4 + 3, tl.num_programs(2))


@pytest.mark.operations("tt.get_program_id", "tt.get_num_programs")
@pytest.mark.parametrize("chunk", [1, 5, 4096])
def test_program_ids(run: Run, chunk: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every program of a three-dimensional grid runs once, however the grid is cut into chunks."""
    monkeypatch.setattr(engine, "MAX_CHUNK", chunk)
    out = torch.full((2, 4, 3, 4), -1, dtype=torch.int32)

    run(identify, (3, 4, 2), out)

    assert out.tolist() == [[[[x, y, z, 2] for x in range(3)] for y in range(4)] for z in range(2)]


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


# ---------------------------------------------------------------------------------------------------------------- hangs


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
