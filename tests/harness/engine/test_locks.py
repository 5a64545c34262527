"""Kernels whose programs wait for others, and kernels that only look as if they did."""

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

from tridiff.harness.capture import capturing
from tridiff.harness.engines.cpu.errors import KernelError
from tridiff.harness.engines.cpu.ttir import compiled
from tridiff.harness.engines.spec import EngineSpec

Run = Callable[..., None]
SPEC = EngineSpec(max_steps=200)


def line_of(kernel: Any, text: str) -> str:
    """FILE:LINE of the line of a jit function that contains `text`."""
    lines, start = inspect.getsourcelines(kernel.fn)
    (at,) = [start + index for index, line in enumerate(lines) if text in line]
    return f"{Path(__file__).name}:{at}"


def waits(kernel: Any, *arguments: Any) -> bool:
    """Whether the engine runs the kernel's programs one after the other."""
    seen: list[bool] = []
    with capturing("gfx942", lambda launch: seen.append(compiled(launch.specialisation).waits), lambda _: None):
        kernel[(2,)](*arguments)
    return seen[0]


def words(*values: int) -> torch.Tensor:
    """An int32 tensor."""
    return torch.tensor(values, dtype=torch.int32)


# Locks. Every program appends its number to a log that the lock protects; `log[0]` is the length.


@triton.jit
def append(log, value):
    """A read, a change and a write that no other program may come between."""
    length = tl.load(log)
    tl.store(log + 1 + length, value)
    tl.store(log, length + 1)


@triton.jit
def lock_by_swap(lock, log):
    """A spin lock by compare-and-swap."""
    while tl.atomic_cas(lock, 0, 1) == 1:
        pass
    append(log, tl.program_id(0))
    tl.atomic_xchg(lock, 0)


@triton.jit
def lock_by_exchange(lock, log):
    """A spin lock by exchange."""
    while tl.atomic_xchg(lock, 1) == 1:
        pass
    append(log, tl.program_id(0))
    tl.atomic_xchg(lock, 0)


@triton.jit
def lock_by_or(lock, log):
    """A spin lock that tests and sets a bit."""
    while (tl.atomic_or(lock, 4) & 4) != 0:
        pass
    append(log, tl.program_id(0))
    tl.atomic_and(lock, ~4)


@triton.jit
def take_lock(lock):
    """A helper that waits."""
    while tl.atomic_cas(lock, 0, 1) == 1:
        pass


@triton.jit
def lock_in_helper(lock, log):
    """A spin lock in a nested helper."""
    take_lock(lock)
    append(log, tl.program_id(0))
    tl.atomic_xchg(lock, 0)


@triton.jit(noinline=True)
def take_lock_not_inlined(lock):
    """A function that waits and stays a function."""
    while tl.atomic_cas(lock, 0, 1) == 1:
        pass


@triton.jit
def lock_in_function(lock, log):
    """A spin lock in a function that is called."""
    take_lock_not_inlined(lock)
    append(log, tl.program_id(0))
    tl.atomic_xchg(lock, 0)


@triton.jit(noinline=True)
def try_lock(lock):
    """One attempt, in a function that stays one."""
    return tl.atomic_cas(lock, 0, 1)


@triton.jit
def loop_around_function(lock, log):
    """The loop here, the look at the lock in a function."""
    while try_lock(lock) == 1:
        pass
    append(log, tl.program_id(0))
    tl.atomic_xchg(lock, 0)


@triton.jit
def lock_within_loop(lock, log):
    """A lock taken several times by each program, in a loop of its own kind."""
    turn = 0
    while turn < 2:
        while tl.atomic_cas(lock, 0, 1) == 1:
            pass
        append(log, tl.program_id(0))
        tl.atomic_xchg(lock, 0)
        turn += 1


@triton.jit
def lock_by_ticket(lock, log):
    """A lock that is served in turn: lock[0] hands out tickets, lock[1] tells whose turn it is."""
    ticket = tl.atomic_add(lock, 1)
    while tl.atomic_add(lock + 1, 0) != ticket:
        pass
    append(log, tl.program_id(0))
    tl.atomic_add(lock + 1, 1)


LOCKS = [lock_by_swap, lock_by_exchange, lock_by_or, lock_in_helper, lock_in_function, loop_around_function, lock_by_ticket]


@pytest.mark.operations("scf.while", "tt.atomic_rmw")
@pytest.mark.parametrize("kernel", LOCKS, ids=lambda kernel: kernel.__name__)
def test_locks(run: Run, kernel: Any) -> None:
    """Every program gets the lock once, and what it protects is consistent."""
    lock, log = words(0, 0), torch.zeros(17, dtype=torch.int32)

    run(kernel, (16,), lock, log, spec=SPEC)

    assert waits(kernel, lock, log)
    assert log[0] == 16
    assert sorted(log[1:].tolist()) == list(range(16))


@pytest.mark.operations("tt.atomic_cas", "scf.while")
def test_lock_within_a_loop(run: Run) -> None:
    """Whatever is around it, a lock is a lock; and every program has steps of its own."""
    log = torch.zeros(9, dtype=torch.int32)

    run(lock_within_loop, (4,), words(0), log, spec=EngineSpec(max_steps=8))

    assert log[0] == 8
    assert sorted(log[1:].tolist()) == [0, 0, 1, 1, 2, 2, 3, 3]


# Flags


@triton.jit
def await_load(flags, values, offset):
    """Program p waits for the flag of program p + offset, where there is one, and adds to what that one left."""
    p = tl.program_id(0)
    other = p + offset
    total = p
    if (other >= 0) & (other < tl.num_programs(0)):
        while tl.load(flags + other, volatile=True) == 0:
            pass
        total += tl.load(values + other)
    tl.store(values + p, total)
    tl.atomic_xchg(flags + p, 1)


@triton.jit
def await_exchange(flags, values, offset):
    """Likewise, by exchanges."""
    p = tl.program_id(0)
    other = p + offset
    total = p
    if (other >= 0) & (other < tl.num_programs(0)):
        while tl.atomic_xchg(flags + other, 0) == 0:
            pass
        total += tl.load(values + other)
    tl.store(values + p, total)
    tl.atomic_xchg(flags + p, 1)


@triton.jit
def await_addition(flags, values, offset):
    """Likewise, by additions of nothing."""
    p = tl.program_id(0)
    other = p + offset
    total = p
    if (other >= 0) & (other < tl.num_programs(0)):
        while tl.atomic_add(flags + other, 0) == 0:
            pass
        total += tl.load(values + other)
    tl.store(values + p, total)
    tl.atomic_add(flags + p, 1)


@triton.jit
def await_row(flags, values, offset):
    """Likewise, for a row of flags at once."""
    p = tl.program_id(0)
    other = p + offset
    i = tl.arange(0, 2)
    total = p
    if (other >= 0) & (other < tl.num_programs(0)):
        while tl.sum(tl.where(i < 1, tl.atomic_add(flags + other + i, tl.zeros([2], tl.int32), mask=i < 1), 0)) == 0:
            pass
        total += tl.load(values + other)
    tl.store(values + p, total)
    tl.atomic_add(flags + p, 1)


FLAGS = [await_load, await_exchange, await_addition, await_row]


@pytest.mark.operations("scf.while")
@pytest.mark.parametrize("kernel", FLAGS, ids=lambda kernel: kernel.__name__)
def test_wait_for_an_earlier_program(run: Run, kernel: Any) -> None:
    """A chain of programs, each of which needs the one before it."""
    values = torch.zeros(12, dtype=torch.int32)

    run(kernel, (12,), torch.zeros(12, dtype=torch.int32), values, -1, spec=SPEC)

    assert waits(kernel, values, values, -1)
    assert values.tolist() == [p * (p + 1) // 2 for p in range(12)]


@pytest.mark.parametrize("kernel", FLAGS, ids=lambda kernel: kernel.__name__)
def test_wait_for_a_later_program_hangs(run: Run, kernel: Any) -> None:
    """Nothing promises that the later program runs before the earlier one ends; the loop's line is named."""
    flags, values = torch.zeros(12, dtype=torch.int32), torch.zeros(12, dtype=torch.int32)

    with pytest.raises(KernelError, match="a program took more than 200 loop steps") as caught:
        run(kernel, (12,), flags, values, 1, spec=SPEC)

    assert (caught.value.check, caught.value.line) == ("hang", line_of(kernel, "while tl."))


@triton.jit
def last_one_sums(counter, partial, total, n: tl.constexpr):
    """Every program leaves a partial sum; the last to finish adds them all up."""
    p = tl.program_id(0)
    tl.store(partial + p, p * p)
    if tl.atomic_add(counter, 1) == tl.num_programs(0) - 1:
        i = tl.arange(0, n)
        tl.store(total, tl.sum(tl.load(partial + i, mask=i < tl.num_programs(0), other=0)))


@pytest.mark.operations("tt.atomic_rmw", "scf.if")
def test_last_program_sees_the_others(run: Run) -> None:
    """A semaphore of finished programs: no program waits, the last one finds what all others stored."""
    total = words(-1)

    run(last_one_sums, (11,), words(0), torch.full((11,), -1, dtype=torch.int32), total, 16)

    assert total.item() == sum(p * p for p in range(11))
    assert not waits(last_one_sums, words(0), words(0), words(0), 16)


# Loops that do not wait


@triton.jit
def work_queue(counter, done, owner, size):
    """A persistent kernel: programs take the next tile until there is none."""
    tile = tl.atomic_add(counter, 1)
    while tile < size:
        tl.atomic_add(done + tile, 1)
        tl.store(owner + tile, tl.program_id(0))
        tile = tl.atomic_add(counter, 1)


@pytest.mark.operations("tt.atomic_rmw", "scf.while")
def test_work_queue(run: Run) -> None:
    """Each tile is done exactly once, and the work is spread over the programs."""
    done, owner = torch.zeros(50, dtype=torch.int32), torch.full((50,), -1, dtype=torch.int32)

    run(work_queue, (4,), words(0), done, owner, 50, spec=SPEC)

    assert not waits(work_queue, words(0), done, owner, 50)
    assert done.tolist() == [1] * 50
    assert set(owner.tolist()) == {0, 1, 2, 3}


@triton.jit
def maximum_by_swap(target, x):
    """The maximum of floats by compare-and-swap, tried again until nothing came between."""
    value = tl.load(x + tl.program_id(0))
    bits = target.to(tl.pointer_type(tl.int32))
    old = tl.load(bits)
    trying = value > old.to(tl.float32, bitcast=True)
    while trying:
        larger = tl.maximum(old.to(tl.float32, bitcast=True), value).to(tl.int32, bitcast=True)
        found = tl.atomic_cas(bits, old, larger)
        trying = found != old
        old = found


@pytest.mark.operations("tt.atomic_cas", "scf.while", "tt.bitcast")
def test_retries_do_not_wait(run: Run) -> None:
    """A retry fails only because another program got on, so programs may run in lockstep."""
    x, target = torch.randn(40, generator=torch.Generator().manual_seed(0)), torch.tensor([-9.0])

    run(maximum_by_swap, (40,), target, x, spec=SPEC)

    assert target[0] == x.max()
    assert not waits(maximum_by_swap, target, x)


@triton.jit
def collatz(x, out):
    """A while loop over data, with a load in it that nobody else changes, and additions whose result is not used."""
    p = tl.program_id(0)
    n = tl.load(x + p)
    while n != 1:
        n = tl.where(n % 2 == 0, n // 2, n * tl.load(x + 8) + 1)
        tl.atomic_add(out + p, 1)
        tl.atomic_max(out + 8, n)
        tl.atomic_add(out + 9, 0)


def test_loops_over_data_do_not_wait(run: Run) -> None:
    """Loads of plain memory and updates whose result is not used tell a program nothing about others."""
    x, out = words(1, 2, 3, 6, 7, 9, 27, 16, 3), torch.zeros(10, dtype=torch.int32)

    run(collatz, (8,), x, out, spec=SPEC)

    assert out[:9].tolist() == [0, 1, 7, 8, 16, 19, 111, 4, 9232]
    assert not waits(collatz, x, out)


@triton.jit
def counted_swaps(target, found):
    """Compare-and-swaps in a loop of fixed length."""
    for step in range(3):
        tl.store(found + 3 * tl.program_id(0) + step, tl.atomic_cas(target, 0, 1))


def test_counted_loops_do_not_wait(run: Run) -> None:
    """A loop that ends by itself cannot wait."""
    found = torch.full((6,), -1, dtype=torch.int32)

    run(counted_swaps, (2,), words(0), found)

    assert sorted(found.tolist()) == [0, 1, 1, 1, 1, 1]
    assert not waits(counted_swaps, words(0), found)


@triton.jit
def once(lock, out):
    """One look at a lock, without a loop, through a volatile load and a swap."""
    tl.store(out, tl.load(lock, volatile=True) + tl.atomic_cas(lock, 0, 1))


def test_one_look_does_not_wait() -> None:
    """Without a loop there is no waiting."""
    assert not waits(once, words(0), words(0))


@triton.jit
def top_two(x, best, size):
    """The two largest numbers, by a chain of maxima of which each passes on what it displaced."""
    p = tl.program_id(0)
    displaced = tl.load(x + p)
    for rank in range(2):
        found = tl.atomic_max(best + rank, displaced)
        displaced = tl.minimum(found, displaced)


@pytest.mark.operations("tt.atomic_rmw", "scf.for")
def test_top_numbers_by_atomics(run: Run) -> None:
    """What one cell gives up is offered to the next."""
    x, best = torch.randperm(60, generator=torch.Generator().manual_seed(1)).int(), torch.full((2,), -1, dtype=torch.int32)

    run(top_two, (60,), x, best, 60)

    assert best.tolist() == [59, 58]
