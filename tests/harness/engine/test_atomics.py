"""Atomic operations against one update after the other in plain Python."""

# mypy: allow-untyped-defs, allow-untyped-decorators

from __future__ import annotations

import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import triton
import triton.language as tl

from tridiff.harness.api import Arena, Poison
from tridiff.harness.engines.cpu import engine
from tridiff.harness.engines.cpu.errors import KernelError

Run = Callable[..., None]


def line_of(kernel: Any, text: str) -> str:
    """FILE:LINE of the line of a jit function that contains `text`."""
    lines, start = inspect.getsourcelines(kernel.fn)
    (at,) = [start + index for index, line in enumerate(lines) if text in line]
    return f"{Path(__file__).name}:{at}"


@triton.jit
def tensor_form(target, at, values, found, size, update: tl.constexpr, block: tl.constexpr):
    """One update per lane; each lane's finding is kept."""
    i = tl.program_id(0) * block + tl.arange(0, block)
    live = i < size
    result = update(target + tl.load(at + i, mask=live, other=-9), tl.load(values + i, mask=live, other=0), mask=live)
    tl.store(found + i, result, mask=live)


@triton.jit
def scalar_form(target, at, values, found, size, update: tl.constexpr):
    """One update per program."""
    p = tl.program_id(0)
    live = p < size
    result = update(target + tl.load(at + p, mask=live, other=-9), tl.load(values + p, mask=live, other=0), mask=live)
    tl.store(found + p, result, mask=live)


def in_order(start: torch.Tensor, at: torch.Tensor, values: torch.Tensor, update: Callable[[Any, Any], Any]) -> Any:
    """The cells afterwards and what every update found, by NumPy scalars in the dtype of the tensors (wrapping)."""
    cells, found = start.numpy().copy(), np.empty_like(values.numpy())
    with np.errstate(over="ignore"):
        for index, (cell, value) in enumerate(zip(at.tolist(), values.numpy(), strict=True)):
            found[index] = cells[cell]
            cells[cell] = update(cells[cell], value)
    return cells, found


INTEGER: dict[Any, Callable[[Any, Any], Any]] = {
    tl.atomic_add: lambda a, b: a + b,
    tl.atomic_and: lambda a, b: a & b,
    tl.atomic_or: lambda a, b: a | b,
    tl.atomic_xor: lambda a, b: a ^ b,
    tl.atomic_max: max,
    tl.atomic_min: min,
    tl.atomic_xchg: lambda _, b: b,
}
DTYPES = [torch.int32, torch.uint32, torch.int64, torch.uint64]


def integers(dtype: torch.dtype, count: int, seed: int) -> torch.Tensor:
    """Over the whole range, extremes included."""
    limits = np.iinfo(str(dtype).removeprefix("torch."))
    values = np.random.default_rng(seed).integers(limits.min, limits.max, count, dtype=limits.dtype, endpoint=True)
    values[:4] = limits.min, limits.max, 0, 1
    return torch.from_numpy(values)


@pytest.mark.operations("tt.atomic_rmw")
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("update", INTEGER, ids=lambda update: update.__name__)
def test_integers(run: Run, update: Any, dtype: torch.dtype) -> None:
    """Lanes of several programs that share cells; the last ones are masked off, and out of bounds."""
    start, values = integers(dtype, 5, 0), integers(dtype, 37, 1)
    at = torch.randint(0, 5, (37,), generator=torch.Generator().manual_seed(2))
    cells, finds = in_order(start, at, values, INTEGER[update])

    target, found = start.clone(), torch.zeros_like(values)
    run(tensor_form, (3,), target, at, values, found, 37, update, 16)
    assert np.array_equal(target.numpy(), cells)
    assert np.array_equal(found.numpy(), finds)

    target, found = start.clone(), torch.zeros_like(values)
    run(scalar_form, (40,), target, at, values, found, 37, update)
    assert np.array_equal(target.numpy(), cells)
    assert np.array_equal(found.numpy(), finds)


@pytest.mark.operations("tt.atomic_rmw")
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64], ids=str)
def test_float_sums_round_after_every_addition(run: Run, dtype: torch.dtype) -> None:
    """Halves are memory's precision: 256 ones on top of 256 (bf16) stay 256, as 1.0 is less than half a unit there."""
    generator = torch.Generator().manual_seed(0)
    values = (torch.randn(64, generator=generator) * 100).to(dtype)
    at = torch.randint(0, 3, (64,), generator=generator)
    start = torch.tensor([256.0, 2048.0, 2.0**24]).to(dtype)
    target, found = start.clone(), torch.zeros_like(values)
    expected, finds = start.clone(), torch.zeros_like(values)
    for index, cell in enumerate(at.tolist()):
        finds[index] = expected[cell]
        expected[cell] = expected[cell] + values[index]

    run(tensor_form, (4,), target, at, values, found, 64, tl.atomic_add, 16)

    assert torch.equal(target, expected)
    assert torch.equal(found, finds)


@triton.jit
def add_ones(target, n: tl.constexpr):
    """Add one to the same cell n times, from every program."""
    tl.atomic_add(target + tl.zeros([n], tl.int32), tl.full([n], 1.0, tl.float32).to(target.dtype.element_ty))


@pytest.mark.operations("tt.atomic_rmw")
@pytest.mark.parametrize(
    ("dtype", "stuck"), [(torch.bfloat16, 256.0), (torch.float16, 2048.0), (torch.float32, 2.0**24)], ids=str
)
def test_additions_get_stuck(run: Run, dtype: torch.dtype, stuck: float) -> None:
    """Ones that are added one by one vanish where the sum's unit is two: a tie, to the even neighbour."""
    target = torch.tensor([stuck - 2]).to(dtype)

    run(add_ones, (3,), target, 64)

    assert target.item() == stuck


SPECIAL = [0.0, -0.0, 1.5, -1.5, float("inf"), -float("inf"), 1e-40, -1e-40, 3e38]


@pytest.mark.operations("tt.atomic_rmw", "tt.bitcast")
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("update", [tl.atomic_max, tl.atomic_min], ids=lambda update: update.__name__)
def test_float_extremes(run: Run, update: Any, dtype: torch.dtype) -> None:
    """As Triton lowers them, to integer operations by the value's sign: every pair, with -0.0 below 0.0."""
    pairs = [(a, b) for a in SPECIAL for b in SPECIAL]
    start, values = (torch.tensor(column, dtype=dtype) for column in zip(*pairs, strict=True))
    target, found = start.clone(), torch.zeros_like(values)

    run(tensor_form, (6,), target, torch.arange(81), values, found, 81, update, 16)

    pick = max if update is tl.atomic_max else min
    # -0.0 counts as the smaller one.
    expected = torch.tensor([pick(pair, key=lambda x: (x, np.copysign(1.0, x))) for pair in pairs], dtype=dtype)
    assert torch.equal(target, expected)
    assert torch.equal(torch.signbit(target), torch.signbit(expected))
    assert torch.equal(found, start)


def test_float_maximum_with_nan(run: Run) -> None:
    """A positive NaN is the largest pattern: once there it stays, as on the device, where integers are compared."""
    target, found = torch.tensor([1.0, float("nan"), float("nan")]), torch.zeros(3)

    run(tensor_form, (1,), target, torch.arange(3), torch.tensor([float("nan"), 2.0, -2.0]), found, 3, tl.atomic_max, 4)

    assert target.isnan().tolist() == [True, True, True]


@triton.jit
def swap(target, at, expected, values, found, n: tl.constexpr):
    """Compare-and-swap of every lane."""
    i = tl.program_id(0) * n + tl.arange(0, n)
    result = tl.atomic_cas(target + tl.load(at + i), tl.load(expected + i), tl.load(values + i))
    tl.store(found + i, result)


@pytest.mark.operations("tt.atomic_cas")
@pytest.mark.parametrize("dtype", [*DTYPES, torch.float32, torch.float16, torch.float64, torch.int16], ids=str)
def test_compare_and_swap(run: Run, dtype: torch.dtype) -> None:
    """A cell is replaced where it holds what is expected, so chains of swaps work in order."""
    generator = torch.Generator().manual_seed(3)
    at, expected, values = (torch.randint(0, 4, (64,), generator=generator) for _ in range(3))
    target, found = torch.arange(4).to(dtype), torch.zeros(64, dtype=dtype)
    cells, finds = in_order(
        torch.arange(4), at, torch.arange(64), lambda old, lane: values[lane] if old == expected[lane] else old
    )

    run(swap, (4,), target, at, expected.to(dtype), values.to(dtype), found, 16)

    assert target.tolist() == cells.tolist()
    assert found.tolist() == finds.tolist()


@pytest.mark.operations("tt.atomic_cas")
def test_compare_and_swap_compares_bits(run: Run) -> None:
    """-0.0 is not 0.0, and a NaN is itself."""
    nan = float("nan")
    target, found = torch.tensor([0.0, -0.0, nan, nan]), torch.zeros(4)

    run(swap, (1,), target, torch.arange(4), torch.tensor([-0.0, -0.0, nan, 1.0]), torch.full((4,), 5.0), found, 4)

    assert target[:3].tolist() == [0.0, 5.0, 5.0]
    assert not torch.signbit(target[0])
    assert target[3].isnan()


@triton.jit
def tickets(counter, by_program, by_lane, n: tl.constexpr):
    """A ticket for every program, then for every lane."""
    p = tl.program_id(0)
    tl.store(by_program + p, tl.atomic_add(counter, 1))
    i = tl.arange(0, n)
    tl.store(by_lane + p * n + i, tl.atomic_add(counter + 1 + tl.zeros([n], tl.int32), 1))


@pytest.mark.operations("tt.atomic_rmw")
def test_tickets_are_unique(run: Run) -> None:
    """A pointer on which all programs agree is still updated once for each: every number is handed out exactly once."""
    counter = torch.tensor([100, 0], dtype=torch.int32)
    by_program, by_lane = torch.zeros(33, dtype=torch.int32), torch.zeros(33 * 8, dtype=torch.int32)

    run(tickets, (33,), counter, by_program, by_lane, 8)

    assert counter.tolist() == [133, 33 * 8]
    assert sorted(by_program.tolist()) == list(range(100, 133))
    assert sorted(by_lane.tolist()) == list(range(33 * 8))


@triton.jit
def orderings(counter, sem: tl.constexpr, scope: tl.constexpr):
    """An update of every kind, with an ordering."""
    tl.atomic_add(counter, 1, sem=sem, scope=scope)
    tl.atomic_max(counter + 1, 7, sem=sem, scope=scope)
    tl.atomic_cas(counter + 2, 0, 5, sem=sem, scope=scope)
    tl.atomic_xchg(counter + 3, 9, sem=sem, scope=scope)


@pytest.mark.operations("tt.atomic_rmw", "tt.atomic_cas")
@pytest.mark.parametrize("scope", ["gpu", "cta", "sys"])
@pytest.mark.parametrize("sem", ["relaxed", "acquire", "release", "acq_rel"])
def test_orderings(run: Run, sem: str, scope: str) -> None:
    """All of them are accepted."""
    counter = torch.zeros(4, dtype=torch.int32)

    run(orderings, (3,), counter, sem, scope)

    assert counter.tolist() == [3, 7, 5, 9]


@pytest.mark.parametrize(("at", "where"), [(-1, "1 element before x"), (4, "1 element past the end of x")])
def test_out_of_bounds(run: Run, at: int, where: str) -> None:
    """The program and the line of the update are named, and nothing has happened."""
    arena = Arena()
    x = arena.tensor("x", [4], torch.int32).fill_(0)
    arena.seal()
    cells, values = torch.tensor([0, 1, 2, 3, 0, at]), torch.ones(6, dtype=torch.int32)

    with pytest.raises(KernelError) as caught:
        run(tensor_form, (3,), x, cells, values, torch.zeros(6, dtype=torch.int32), 6, tl.atomic_add, 2, arena=arena)

    assert caught.value.message == f"atomic access to x out of bounds: {where}, by program (2, 0, 0)"
    assert (caught.value.check, caught.value.line) == ("bounds", line_of(tensor_form, "result = update"))
    assert x.tolist() == [0, 0, 0, 0]


@triton.jit
def masked_results(target, out, n: tl.constexpr):
    """What masked-off lanes hold."""
    i = tl.arange(0, n)
    tl.store(out + i, tl.atomic_add(target + i, 1, mask=i < 1))


@pytest.mark.parametrize("dtype", [torch.int32, torch.float32], ids=str)
def test_results_of_masked_off_lanes_are_poison(run: Run, dtype: torch.dtype) -> None:
    """They differ between the two runs of a check, and are no plausible value."""
    results = []
    for poison in Poison:
        target, out = torch.full((2,), 4).to(dtype), torch.zeros(2, dtype=dtype)
        run(masked_results, (1,), target, out, 2, arena=Arena(poison))
        assert target.tolist() == [5, 4]
        assert out[0] == 4
        results.append(out[1].item())

    assert results[0] != results[1]
    assert all(result not in {0, 4, 5} for result in results)


@triton.jit
def histogram_and_sum(x, bins, total, extremes, size, block: tl.constexpr):
    """Counts, a wrapping sum, and extremes of all lanes of all programs."""
    i = tl.program_id(0) * block + tl.arange(0, block)
    values = tl.load(x + i, mask=i < size, other=0)
    tl.atomic_add(bins + (values & 7), 1, mask=i < size)
    tl.atomic_add(total, tl.sum(values))
    tl.atomic_max(extremes, tl.max(values))
    tl.atomic_min(extremes + 1, tl.min(values))


@pytest.mark.operations("tt.atomic_rmw")
@pytest.mark.parametrize(("elements", "most"), [(1 << 20, 4096), (512, 4096), (1 << 20, 1), (1 << 20, 3)])
def test_integers_do_not_depend_on_chunks(run: Run, elements: int, most: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither on how many programs run at a time nor on their number."""
    monkeypatch.setattr(engine, "LIVE_BYTES", elements)
    monkeypatch.setattr(engine, "MAX_CHUNK", most)
    x = integers(torch.int32, 300, 5)
    bins, total = torch.zeros(8, dtype=torch.int32), torch.zeros(1, dtype=torch.int32)
    extremes = torch.zeros(2, dtype=torch.int32)

    run(histogram_and_sum, (10,), x, bins, total, extremes, 300, 32)

    assert bins.tolist() == torch.bincount(x & 7, minlength=8).tolist()
    assert total.item() == (int(x.sum()) + 2**31) % 2**32 - 2**31
    assert extremes.tolist() == [int(x.max()), int(x.min())]
