"""Functions that are not inlined, and kernels of several blocks: who gets which result, whatever the programs did before."""

# ruff: noqa: D103 - jit functions of a few lines
# mypy: allow-untyped-defs, allow-untyped-decorators

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import triton
import triton.language as tl

from tridiff.harness.engines.cpu.errors import KernelError, UnsupportedOperation
from tridiff.harness.engines.cpu.mlir import parse
from tridiff.harness.engines.cpu.program import Compiler
from tridiff.harness.engines.cpu.ttir import BUILDERS

Run = Callable[..., None]
PROGRAMS = 11


def ids() -> list[int]:
    """Ids of all programs."""
    return list(range(PROGRAMS))


def integers(*shape: int) -> torch.Tensor:
    """Zeros of int32."""
    return torch.zeros(*shape, dtype=torch.int32)


@triton.jit(noinline=True)
def collatz_class(n):
    """Several blocks: three ways out, one of them after a loop."""
    if n < 2:
        return -1
    if n % 3 == 0:
        return 1000 + n
    steps = 0
    while n != 1:
        n = tl.where(n % 2 == 0, n // 2, 3 * n + 1)
        steps += 1
    return steps


def collatz(n: int) -> int:
    """What `collatz_class` means."""
    if n < 2:
        return -1
    if n % 3 == 0:
        return 1000 + n
    steps = 0
    while n != 1:
        n, steps = (n // 2 if n % 2 == 0 else 3 * n + 1), steps + 1
    return steps


@triton.jit
def early_returns(out):
    p = tl.program_id(0)
    tl.store(out + p, collatz_class(p))


@pytest.mark.operations("tt.call", "cf.cond_br")
def test_early_returns(run: Run) -> None:
    """Programs that leave a function by different ways get their own results back."""
    out = integers(PROGRAMS)

    run(early_returns, (PROGRAMS,), out)

    assert out.tolist() == [collatz(p) for p in ids()]


@triton.jit
def called_in_branches(out):
    """Calls by half of the programs, in the other order, and a second call of the same function."""
    p = tl.program_id(0)
    result = p
    if p % 2 == 0:
        result = collatz_class(10 - p) * 2
    elif p > 4:
        result = collatz_class(p) + 1
    tl.store(out + p, result)


@pytest.mark.operations("tt.call")
def test_calls_in_divergent_branches(run: Run) -> None:
    """Results go to the programs that called, not to their places among all."""
    out = integers(PROGRAMS)

    run(called_in_branches, (PROGRAMS,), out)

    assert out.tolist() == [2 * collatz(10 - p) if p % 2 == 0 else collatz(p) + 1 if p > 4 else p for p in ids()]


@triton.jit
def called_in_ragged_loops(bounds, out):
    """The programs run their loop in the order of their bounds."""
    p = tl.program_id(0)
    total = p * 100000
    for i in range(tl.load(bounds + p)):
        total += collatz_class(p + i)
    tl.store(out + p, total)


@triton.jit
def called_in_while_loops(bounds, out):
    p = tl.program_id(0)
    left = tl.load(bounds + p)
    total = p * 100000
    while left > 0:
        left -= 1
        total += collatz_class(p + left)
    tl.store(out + p, total)


@pytest.mark.operations("tt.call")
@pytest.mark.parametrize("kernel", [called_in_ragged_loops, called_in_while_loops])
def test_calls_in_ragged_loops(run: Run, kernel: object) -> None:
    """Loops of different lengths that call: every program sums its own results."""
    bounds, out = torch.tensor([3, 0, 7, 1, 5, 5, 2, 9, 4, 0, 6], dtype=torch.int32), integers(PROGRAMS)

    run(kernel, (PROGRAMS,), bounds, out)

    assert out.tolist() == [p * 100000 + sum(collatz(p + i) for i in range(bounds[p])) for p in ids()]


@triton.jit(noinline=True)
def tile_and_pointer(x, y, p, n: tl.constexpr):
    """Results of several kinds: a tile, a pointer into one of two tensors, a scalar."""
    lanes = tl.arange(0, n)
    if p % 3 == 0:
        return lanes * p, x + p, p
    return lanes + p, y + 2 * p, -p


@triton.jit
def several_results(x, y, out, n: tl.constexpr):
    p = tl.program_id(0)
    tile, pointer, scalar = tile_and_pointer(x, y, p, n)
    tl.store(out + p * n + tl.arange(0, n), tile + tl.load(pointer) + scalar * 1000)


@pytest.mark.operations("tt.call")
def test_several_results(run: Run) -> None:
    """Tiles and pointers come back from whichever return they came from."""
    x, y, out = torch.arange(100, 120, dtype=torch.int32), torch.arange(500, 540, dtype=torch.int32), integers(PROGRAMS, 4)
    taken = [
        ([i * p for i in range(4)], 100 + p, p) if p % 3 == 0 else ([i + p for i in range(4)], 500 + 2 * p, -p) for p in ids()
    ]

    run(several_results, (PROGRAMS,), x, y, out, 4)

    assert out.tolist() == [[item + loaded + scalar * 1000 for item in tile] for tile, loaded, scalar in taken]


@triton.jit(noinline=True)
def mark(out, value):
    """No result, and an early return."""
    if value > 6:
        return
    tl.store(out + tl.program_id(0), value + 1)


@triton.jit(noinline=True)
def mark_even(out, p):
    if p % 2 == 0:
        mark(out, p)


@triton.jit
def nested(out):
    mark_even(out, tl.program_id(0))


@pytest.mark.operations("tt.call", "cf.cond_br")
def test_nested_calls_without_results(run: Run) -> None:
    """A function that calls another; the program id is known in all of them."""
    out = integers(PROGRAMS)

    run(nested, (PROGRAMS,), out)

    assert out.tolist() == [p + 1 if p % 2 == 0 and p <= 6 else 0 for p in ids()]


@triton.jit(noinline=True)
def clamp(value, low, high):
    if value < low:
        return low
    if value > high:
        return high
    return value


@triton.jit
def combine_clamped(a, b):
    return clamp(a + b, -20, 20)


@triton.jit
def calls_in_combiner(x, out, n: tl.constexpr):
    p = tl.program_id(0)
    tl.store(out + p, tl.reduce(tl.load(x + p * n + tl.arange(0, n)), 0, combine_clamped))


@pytest.mark.operations("tt.call", "tt.reduce")
def test_calls_in_a_combiner(run: Run) -> None:
    """Lanes that leave the function by different ways are put together again."""
    x, out = torch.full((PROGRAMS, 8), 1, dtype=torch.int32), integers(PROGRAMS)
    x += torch.arange(-5, PROGRAMS - 5, dtype=torch.int32)[:, None]

    run(calls_in_combiner, (PROGRAMS,), x, out, 8)

    assert out.tolist() == [max(-20, min(20, 8 * (p - 4))) for p in ids()]


@triton.jit
def branching_kernel(x, out):
    """The kernel itself has several blocks; programs part ways twice and meet no more."""
    p = tl.program_id(0)
    value = tl.load(x + p)
    if value < 0:
        return
    value += 10
    if value % 2 == 0:
        tl.store(out + p, value * p)
        return
    tl.store(out + p, -value * p)


@pytest.mark.operations("cf.cond_br")
def test_kernel_of_several_blocks(run: Run) -> None:
    """Each program stores what its own way computes."""
    x, out = torch.tensor([3, -1, 4, 1, -5, 9, 2, 6, -5, 3, 5], dtype=torch.int32), integers(PROGRAMS)

    run(branching_kernel, (PROGRAMS,), x, out)

    taken = [(p, value + 10) for p, value in enumerate(x.tolist())]
    assert out.tolist() == [0 if value < 10 else value * p if value % 2 == 0 else -value * p for p, value in taken]


@triton.jit(noinline=True)
def out_of_bounds(x, p):
    if p == 7:
        return tl.load(x + 100)
    return tl.load(x + p)


@triton.jit
def failing_call(x, out):
    p = tl.program_id(0)
    if p > 3:
        tl.store(out + p, out_of_bounds(x, p))


@pytest.mark.operations("tt.call")
def test_findings_inside_a_function_name_the_program(run: Run) -> None:
    """The program that fails is named by its id in the grid, although only some programs called, and one reached the load."""
    with pytest.raises(KernelError, match=r"program \(7, 0, 0\)"):
        run(failing_call, (PROGRAMS,), integers(PROGRAMS), integers(PROGRAMS))


@triton.jit(noinline=True)
def factorial(n):
    if n < 2:
        return n
    return n * factorial(n - 1)


@triton.jit
def recursive(out):
    tl.store(out, factorial(tl.program_id(0)))


def test_recursion_is_refused(run: Run) -> None:
    """Triton's front end has no recursion."""
    with pytest.raises(KernelError, match="refuses"):
        run(recursive, (1,), integers(1))


RECURSION = """
"builtin.module"() ({
  "tt.func"() <{function_type = (i32) -> (), sym_name = "k", sym_visibility = "public"}> ({
  ^bb0(%a: i32 loc(unknown)):
    "tt.call"(%a) <{callee = @f}> : (i32) -> () loc(#loc1)
    "tt.return"() : () -> () loc(#loc1)
  }) : () -> () loc(#loc1)
  "tt.func"() <{function_type = (i32) -> (), sym_name = "f", sym_visibility = "private"}> ({
  ^bb0(%b: i32 loc(unknown)):
    "tt.call"(%b) <{callee = @NAME}> : (i32) -> () loc(#loc2)
    "tt.return"() : () -> () loc(#loc1)
  }) : () -> () loc(#loc1)
}) : () -> () loc(#loc1)
#loc1 = loc("kernel.py":3:4)
#loc2 = loc("kernel.py":8:4)
"""


@pytest.mark.parametrize(("name", "what"), [("f", "the recursion of f"), ("g", "which the module does not define")])
def test_calls_that_cannot_be_followed(name: str, what: str) -> None:
    """A recursion, or a function that is not there, is refused with the line of the call."""
    with pytest.raises(UnsupportedOperation, match=what) as error:
        Compiler(BUILDERS).function(parse(RECURSION.replace("NAME", name)))

    assert error.value.line == "kernel.py:8"
