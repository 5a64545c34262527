"""Branches, early returns and program ids: against the same algorithm in Python, program by program."""

# mypy: allow-untyped-defs, allow-untyped-decorators

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import triton
import triton.language as tl

from tridiff.harness.engines.cpu import engine

Run = Callable[..., None]


def ints(*values: int) -> torch.Tensor:
    """int32."""
    return torch.tensor(values, dtype=torch.int32)


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
    if tl.load(flags + p) > 0:  # noqa: SIM108 - the statement is what is tested
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
    if mode == "double":  # noqa: SIM108 - as above
        result = value * 2
    else:
        result = value - 1
    if result > 6:  # noqa: PLR1730 - as above
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
