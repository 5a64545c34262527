"""Block pointers, which Triton up to 3.8 has and rewrites to loads and stores by its own passes."""

# ruff: noqa: D103 - jit functions of a few lines
# mypy: allow-untyped-defs, allow-untyped-decorators

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
import triton
import triton.language as tl

from tridiff.harness.api import Arena
from tridiff.harness.engines.cpu.errors import KernelError

Run = Callable[..., None]
pytestmark = [
    pytest.mark.filterwarnings("ignore:tl.make_block_ptr is deprecated"),
    pytest.mark.skipif(
        tuple(int(part) for part in triton.__version__.split(".")[:2]) >= (3, 9), reason="Triton 3.9 has no block pointers"
    ),
]


@triton.jit
def copy_transposed(x, out, rows, columns, padding: tl.constexpr, m: tl.constexpr, n: tl.constexpr):
    """Walks along the columns by `advance`, reading the transposed tensor through swapped strides and order."""
    p = tl.program_id(0)
    source = tl.make_block_ptr(x, (columns, rows), (1, columns), (0, p * m), (n, m), (0, 1))
    target = tl.make_block_ptr(out, (rows, columns), (columns, 1), (p * m, 0), (m, n), (1, 0))
    for _ in range(tl.cdiv(columns, n)):
        tile = tl.load(source, boundary_check=(0, 1), padding_option=padding)
        tl.store(target, tl.trans(tile) * 2, boundary_check=(0, 1))
        source = tl.advance(source, (n, 0))
        target = tl.advance(target, (0, n))


def test_walk_over_the_edges(run: Run) -> None:
    """Sizes that are no multiples of the block: nothing outside is read or written."""
    arena = Arena()
    x = arena.tensor("x", [7, 13], torch.float32)
    x.copy_(torch.arange(91.0).reshape(7, 13))
    out = arena.output("out", [7, 13], torch.float32)
    arena.seal()

    run(copy_transposed, (2,), x, out, 7, 13, "zero", 4, 8, arena=arena)

    assert torch.equal(out, 2 * x)
    assert arena.allocations["out"].changed() is None


@triton.jit
def sum_padded(x, out, size, padding: tl.constexpr, check: tl.constexpr):
    block = tl.make_block_ptr(x, (size,), (1,), (4,), (8,), (0,))
    if check:
        tl.store(out + tl.arange(0, 8), tl.load(block, boundary_check=(0,), padding_option=padding))
    else:
        tl.store(out + tl.arange(0, 8), tl.load(block))


@pytest.mark.parametrize(("padding", "value"), [("zero", 0.0), ("nan", math.nan)])
def test_padding(run: Run, padding: str, value: float) -> None:
    """What lies beyond the end is zero or NaN, as asked."""
    x, out = torch.arange(10.0), torch.zeros(8)

    run(sum_padded, (1,), x, out, 10, padding, check=True)

    assert [repr(item) for item in out.tolist()] == [repr(item) for item in [4.0, 5.0, 6.0, 7.0, 8.0, 9.0, value, value]]


def test_no_check(run: Run) -> None:
    """Without a boundary check the block reads beyond the tensor, which is found."""
    with pytest.raises(KernelError, match="out of bounds") as error:
        run(sum_padded, (1,), torch.arange(10.0), torch.zeros(8), 10, "zero", check=False)

    assert error.value.check == "bounds"
