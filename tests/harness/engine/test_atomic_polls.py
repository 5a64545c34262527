"""Atomic loads, stores and waits, which Triton has from 3.9 on."""

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

from tridiff.harness.api import Arena, Poison
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


@triton.jit
def load_and_store(x, out, size, n: tl.constexpr):
    """Rows copied by atomic accesses."""
    i = tl.program_id(0) * n + tl.arange(0, n)
    tl.atomic_store(out + i, tl.atomic_load(x + i, mask=i < size), mask=i < size + 1)


@pytest.mark.operations("tt.atomic_load", "tt.atomic_store", versions=">=3.9")
@pytest.mark.parametrize("dtype", [torch.int32, torch.int64, torch.float32, torch.float16, torch.bfloat16], ids=str)
def test_loads_and_stores(run: Run, dtype: torch.dtype) -> None:
    """Masked-off lanes load poison and store nothing."""
    results = []
    for poison in Poison:
        x, out = torch.arange(8).to(dtype), torch.full((8,), -1).to(dtype)
        run(load_and_store, (2,), x, out, 5, 4, arena=Arena(poison))
        assert out[:5].tolist() == [0, 1, 2, 3, 4]
        assert out[6:].tolist() == [-1, -1]
        results.append(out[5].item())

    assert results[0] != results[1]


@pytest.mark.operations("tt.atomic_load", "tt.atomic_store", versions=">=3.9")
def test_bounds(run: Run) -> None:
    """As for any access."""
    arena = Arena()
    x, out = arena.tensor("x", [8], torch.int32), arena.output("out", [5], torch.int32)

    with pytest.raises(KernelError, match=r"access to x out of bounds: 1 element past the end of x, by program \(2, 0, 0\)"):
        run(load_and_store, (3,), x, torch.zeros(12, dtype=torch.int32), 9, 4, arena=arena)
    with pytest.raises(KernelError, match=r"access to out out of bounds: 1 element past the end of out, by program \(1, 0, 0\)"):
        run(load_and_store, (2,), x, out, 5, 4, arena=arena)


@triton.jit
def wait_by_loads(flags, values, offset):
    """Program p waits for program p + offset, where there is one."""
    p = tl.program_id(0)
    other = p + offset
    total = p
    if (other >= 0) & (other < tl.num_programs(0)):
        while tl.atomic_load(flags + other) == 0:
            pass
        total += tl.load(values + other)
    tl.store(values + p, total)
    tl.atomic_store(flags + p, 1)


@triton.jit
def wait_by_poll(flags, values, offset):
    """Likewise, by a wait that is one operation."""
    p = tl.program_id(0)
    other = p + offset
    total = p
    if (other >= 0) & (other < tl.num_programs(0)):
        tl.atomic_poll(flags + other, 1)
        total += tl.load(values + other)
    tl.store(values + p, total)
    tl.atomic_store(flags + p, 1)


@pytest.mark.parametrize(
    "kernel",
    [
        pytest.param(wait_by_loads, marks=pytest.mark.operations("tt.atomic_load", versions=">=3.9"), id="loads"),
        pytest.param(wait_by_poll, marks=pytest.mark.operations("tt.atomic_poll", versions=">=3.9"), id="poll"),
    ],
)
def test_waits(run: Run, kernel: Any) -> None:
    """For an earlier program it works, for a later one it is a hang with its line."""
    flags, values = torch.zeros(9, dtype=torch.int32), torch.zeros(9, dtype=torch.int32)

    run(kernel, (9,), flags, values, -1, spec=SPEC)
    assert values.tolist() == [p * (p + 1) // 2 for p in range(9)]
    assert waits(kernel, flags, values, -1)
    with pytest.raises(KernelError) as caught:
        run(kernel, (9,), torch.zeros_like(flags), values, 1, spec=SPEC)
    assert (caught.value.check, caught.value.line) == ("hang", line_of(kernel, "flags + other"))


@triton.jit
def poll_for_a_while(flags, out):
    """A wait that gives up."""
    p = tl.program_id(0)
    tl.store(out + p, tl.atomic_poll(flags + p, 1, timeout_ns=10).to(tl.int32))


@pytest.mark.operations("tt.atomic_poll", versions=">=3.9")
def test_poll_with_a_timeout(run: Run) -> None:
    """It tells whether the value was there."""
    out = torch.full((3,), -1, dtype=torch.int32)

    run(poll_for_a_while, (3,), torch.tensor([1, 0, 2], dtype=torch.int32), out)

    assert out.tolist() == [1, 0, 0]
