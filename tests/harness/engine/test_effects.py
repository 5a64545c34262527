"""Assertions, assumptions, prints and barriers."""

# ruff: noqa: D103 - jit functions of a few lines
# mypy: allow-untyped-defs, allow-untyped-decorators

from __future__ import annotations

import inspect
import logging
from collections.abc import Callable
from typing import Any

import pytest
import torch
import triton
import triton.language as tl

from tridiff.harness.engines.cpu.errors import KernelError
from tridiff.harness.engines.spec import EngineSpec

Run = Callable[..., None]


def line_of(kernel: Any, text: str) -> str:
    """FILE:LINE of the first line of a kernel's source that contains `text`."""
    lines, start = inspect.getsourcelines(kernel.fn)
    return f"test_effects.py:{start + next(at for at, line in enumerate(lines) if text in line)}"


@triton.jit
def check_positive(x, out, n: tl.constexpr):
    i = tl.program_id(0) * n + tl.arange(0, n)
    value = tl.load(x + i)
    tl.device_assert(value > 0, "x [all of it] must be (strictly) positive, x > 0")
    tl.store(out + i, value)


@pytest.mark.operations("tt.assert")
def test_assertion(run: Run) -> None:
    """One lane of one program of many: the finding names the message, the line and the program."""
    x, out = torch.ones(8, 4, dtype=torch.int32), torch.zeros(8, 4, dtype=torch.int32)
    run(check_positive, (8,), x, out, 4, debug=True)
    assert torch.equal(out, x)
    x[5, 2] = 0

    with pytest.raises(KernelError) as error:
        run(check_positive, (8,), x, out, 4, debug=True)

    assert "'x [all of it] must be (strictly) positive, x > 0' fails, in program (5, 0, 0)" in error.value.message
    assert error.value.line == line_of(check_positive, "device_assert")
    assert "program" not in error.value.subject


def test_assertions_are_off_by_default(run: Run) -> None:
    """Without debug=True Triton drops them, as in production."""
    x, out = torch.zeros(4, dtype=torch.int32), torch.ones(4, dtype=torch.int32)

    run(check_positive, (1,), x, out, 4)

    assert out.tolist() == [0, 0, 0, 0]


@triton.jit
def check_in_loop(x, bounds):
    p = tl.program_id(0)
    for i in range(tl.load(bounds + p)):
        if i % 2 == 1:
            tl.device_assert(tl.load(x + p * 4 + i) >= 0, "negative")


@pytest.mark.operations("tt.assert")
def test_assertion_in_a_ragged_loop(run: Run) -> None:
    """Programs are reordered there, and half of the steps skipped; the right one is named."""
    bounds, x = torch.tensor([1, 4, 2, 3], dtype=torch.int32), torch.ones(4, 4, dtype=torch.int32)
    x[1, 0] = x[1, 2] = x[2, 3] = -1
    run(check_in_loop, (4,), x, bounds, debug=True)
    x[2, 1] = -1

    with pytest.raises(KernelError, match=r"program \(2, 0, 0\)"):
        run(check_in_loop, (4,), x, bounds, debug=True)


@triton.jit
def check_masked(x):
    value = tl.load(x + tl.program_id(0) * 4 + tl.arange(0, 4))
    tl.device_assert(value > 0, "masked", mask=tl.arange(0, 4) < 2)


@pytest.mark.operations("tt.assert")
def test_masked_assertion(run: Run) -> None:
    """Lanes that are masked off need not hold."""
    run(check_masked, (2,), torch.tensor([[1, 1, 0, 0], [1, 2, -1, 0]]), debug=True)

    with pytest.raises(KernelError, match=r"program \(1, 0, 0\)"):
        run(check_masked, (2,), torch.tensor([[1, 1, 0, 0], [1, 0, -1, 0]]), debug=True)


@triton.jit
def add(x, y, out):
    p = tl.program_id(0)
    tl.store(out + p, tl.load(x + p) + tl.load(y + p))


@pytest.mark.operations("tt.assert")
def test_overflow_is_sanitised(run: Run) -> None:
    """With debug and sanitize_overflow Triton checks additions; without, they wrap."""
    x, y = torch.tensor([1, 2**31 - 1], dtype=torch.int32), torch.tensor([2**31 - 2, 1], dtype=torch.int32)
    out = torch.zeros(2, dtype=torch.int32)

    with pytest.raises(KernelError, match=r"overflow.*program \(1, 0, 0\)") as error:
        run(add, (2,), x, y, out, debug=True, sanitize_overflow=True)

    assert error.value.line == line_of(add, "tl.store")
    run(add, (2,), x, y, out)
    assert out.tolist() == [2**31 - 1, -(2**31)]


@triton.jit
def assume_aligned(x, out):
    p = tl.program_id(0)
    stride = tl.load(x + p)
    tl.assume(stride % 16 == 0)
    tl.store(out + p, stride)


@pytest.mark.operations("llvm.intr.assume")
def test_assumption(run: Run) -> None:
    """An assumption that does not hold is a finding, with line and program."""
    out = torch.zeros(3, dtype=torch.int32)
    run(assume_aligned, (3,), torch.tensor([16, 0, 320], dtype=torch.int32), out)
    assert out.tolist() == [16, 0, 320]

    with pytest.raises(KernelError, match=r"tl.assume.*program \(2, 0, 0\)") as error:
        run(assume_aligned, (3,), torch.tensor([16, 0, 24], dtype=torch.int32), out)

    assert error.value.line == line_of(assume_aligned, "tl.assume")


@triton.jit
def show(x, y, flags):
    p = tl.program_id(0)
    lanes = tl.arange(0, 4)
    tl.device_print("only text")
    tl.device_print("pair", tl.load(x + p * 4 + lanes), p)
    tl.device_print("bits", tl.load(x + lanes), hex=True)
    tl.device_print("flags", tl.load(flags + tl.arange(0, 2)) != 0)
    tl.device_print("same", tl.zeros([2, 2], tl.float32) + 0.1)
    tl.device_print("where", y + p + tl.arange(0, 2))


def printed(caplog: pytest.LogCaptureFixture) -> list[str]:
    """What the kernel printed, without the lines."""
    records = [record for record in caplog.records if record.name == "tridiff.print"]
    assert all(record.getMessage().startswith("test_effects.py:") for record in records)
    return [record.getMessage().partition(": ")[2] for record in records]


@pytest.mark.operations("tt.print")
def test_print(run: Run, caplog: pytest.LogCaptureFixture) -> None:
    """A message per program: text alone, several operands, bit patterns, booleans, uniform values, pointers by tensor."""
    caplog.set_level(logging.INFO, "tridiff.print")
    x, y = torch.tensor([[1, -2, 3, 4], [5, 6, -7, 8]], dtype=torch.int32), torch.zeros(4)

    run(show, (2,), x, y, torch.tensor([0, 1], dtype=torch.int32))

    assert [line for line in printed(caplog) if line.startswith("program (1, 0, 0)")] == [
        "program (1, 0, 0): only text",
        "program (1, 0, 0): pair: [5, 6, -7, 8] [1]",
        "program (1, 0, 0): bits: [0x00000001, 0xfffffffe, 0x00000003, 0x00000004]",
        "program (1, 0, 0): flags: [False, True]",
        "program (1, 0, 0): same: [0.1, 0.1, 0.1, 0.1]",
        "program (1, 0, 0): where: [scratch y[1], scratch y[2]]",
    ]
    assert len(printed(caplog)) == 12


@triton.jit
def show_one(x, hex: tl.constexpr):  # noqa: A002 - as device_print calls it
    tl.device_print("value", tl.load(x), hex=hex)


@pytest.mark.operations("tt.print")
@pytest.mark.parametrize(
    ("value", "dtype", "decimal", "bits"),
    [
        (-1, torch.int8, "-1", "0xff"),
        (255, torch.uint8, "255", "0xff"),
        (2**32 - 1, torch.uint32, "4294967295", "0xffffffff"),
        (-(2**63), torch.int64, "-9223372036854775808", "0x8000000000000000"),
        (1.5, torch.float32, "1.5", "0x3fc00000"),
        (-1.5, torch.bfloat16, "-1.5", "0xbfc0"),
        (1.0, torch.float16, "1.0", "0x3c00"),
    ],
)
def test_print_formats(
    run: Run, caplog: pytest.LogCaptureFixture, value: float, dtype: torch.dtype, decimal: str, bits: str
) -> None:
    """Signed and unsigned integers, floats, and the bits of all of them."""
    caplog.set_level(logging.INFO, "tridiff.print")
    x = torch.tensor([value], dtype=dtype)

    run(show_one, (1,), x, hex=False)
    run(show_one, (1,), x, hex=True)

    assert printed(caplog) == [f"program (0, 0, 0): value: [{text}]" for text in (decimal, bits)]


def test_nothing_is_printed_unasked(run: Run, caplog: pytest.LogCaptureFixture) -> None:
    """Below level INFO nothing is even formatted."""
    caplog.set_level(logging.WARNING, "tridiff.print")

    run(show_one, (1,), torch.tensor([1]), hex=False)

    assert printed(caplog) == []


@triton.jit
def show_steps(bounds):
    p = tl.program_id(0)
    for i in range(tl.load(bounds + p)):
        tl.device_print("step", i)


@pytest.mark.operations("tt.print")
def test_print_in_a_ragged_loop(run: Run, caplog: pytest.LogCaptureFixture) -> None:
    """Every program prints its own steps, in order."""
    caplog.set_level(logging.INFO, "tridiff.print")

    run(show_steps, (3,), torch.tensor([1, 0, 3], dtype=torch.int32))

    assert sorted(printed(caplog)) == [f"program ({p}, 0, 0): step: [{i}]" for p, i in [(0, 0), (2, 0), (2, 1), (2, 2)]]


@triton.jit
def through_memory(x):
    """Every lane reads what its neighbour wrote before the barrier."""
    i = tl.arange(0, 8)
    tl.store(x + i, i * i)
    tl.debug_barrier()
    tl.store(x + i, tl.load(x + (i + 1) % 8))


def check_barrier(run: Run) -> None:
    """A barrier orders the accesses of a program."""
    x = torch.zeros(8, dtype=torch.int32)

    run(through_memory, (1,), x)

    assert x.tolist() == [((i + 1) % 8) ** 2 for i in range(8)]


@pytest.mark.operations("gpu.barrier", versions="<3.7", reason="later ones print ttg.barrier")
def test_barrier_as_the_dialect_gpu_has_it(run: Run) -> None:
    """tl.debug_barrier up to Triton 3.6."""
    check_barrier(run)


@pytest.mark.operations("ttg.barrier", versions=">=3.7", reason="earlier ones print gpu.barrier")
def test_barrier_as_triton_has_it(run: Run) -> None:
    """tl.debug_barrier from Triton 3.7 on."""
    check_barrier(run)


@triton.jit
def dependent(x):
    """Of launches that may overlap: this one reads what the one before wrote."""
    tl.extra.cuda.gdc_wait()
    tl.store(x, tl.load(x) + 1.0)
    tl.extra.cuda.gdc_launch_dependents()


@pytest.mark.operations(
    "tt.grid_dependency_wait",
    "tt.grid_dependency_launch_dependents",
    versions=">=3.9",
    reason="earlier ones print inline assembly",
)
def test_dependent_launches(run: Run) -> None:
    """Launches run one after the other, so there is nothing to wait for."""
    x = torch.zeros(1)

    run(dependent, (1,), x, spec=EngineSpec(target="sm_90"))
    run(dependent, (1,), x, spec=EngineSpec(target="sm_90"))

    assert x.item() == 2.0
