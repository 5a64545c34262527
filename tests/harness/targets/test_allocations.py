"""What takes the most of the shared memory: by the name that the kernel gives it, its form, and its lines."""

# ruff: noqa: ANN001, ANN201 - arguments of jit functions have no Python type, nor have their results
# mypy: allow-untyped-defs, allow-incomplete-defs, allow-untyped-decorators

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import triton
import triton.language as tl
from compiled_kernels import copied
from launching import captured
from verdict_samples import tiled

from tridiff.harness.capture import Specialisation
from tridiff.harness.engines.cpu.ttir import printed
from tridiff.harness.targets import allocations, pipeline
from tridiff.harness.targets.allocations import Share, largest

FLOATS = torch.zeros(64)


@triton.jit
def helped(x, out, rows: tl.constexpr, columns: tl.constexpr):
    """Two tiles go through shared memory, the larger one in a helper."""
    i, j = tl.arange(0, rows), tl.arange(0, columns)
    tl.store(
        out + i[None, :] * 16 + tl.arange(0, 16)[:, None], tl.trans(tl.load(x + i[:, None] * 16 + tl.arange(0, 16)[None, :]))
    )
    flip(x, out, i, j, rows, columns)


@triton.jit
def flip(x, out, i, j, rows: tl.constexpr, columns: tl.constexpr):
    """Rows to columns."""
    turned_tile = tl.trans(tl.load(x + i[:, None] * columns + j[None, :]))
    tl.store(out + j[:, None] * rows + i[None, :], turned_tile)


def share(kernel: Any, *arguments: Any, target: str = "gfx942", **options: Any) -> Share | None:
    """The largest share of a launch."""
    launch = captured(lambda: kernel[(1,)](*arguments, **options), target)[0]
    return largest_of(launch.specialisation)


def largest_of(specialisation: Specialisation) -> Share | None:
    """The largest share of what is allocated."""
    found = pipeline.allocated(specialisation)
    return largest(printed(found.module), found.figures.shared)


def line(snippet: str) -> str:
    """FILE:LINE of the first line of this file that has `snippet`."""
    source = Path(__file__).read_text(encoding="utf-8").splitlines()
    return f"{Path(__file__).name}:{next(at for at, text in enumerate(source, 1) if snippet in text)}"


def test_buffer_of_a_pipelined_loop() -> None:
    """One of the two buffers of keys or values; the bytes are those of its form."""
    found = largest_of(tiled("gfx942", 16, 64, 64))

    assert found is not None
    assert found.form.endswith("64x64xbf16")
    assert found.size == 64 * 64 * 2
    assert (found.line or "").startswith("selftest_kernel.py:")
    assert str(found).endswith(f"64x64xbf16, {found.size} bytes ({found.line})")


def test_tile_of_a_helper() -> None:
    """The larger of two, with the lines from the call to where it is."""
    found = share(helped, FLOATS, FLOATS, 16, 64)

    assert found is not None
    assert found.size == 16 * 64 * 4
    assert f" ({line('    flip(x, out')} > {found.line})" in str(found)
    assert found.line in {line("turned_tile = tl.trans"), line("tl.store(out + j[:, None] * rows + i[None, :], turned")}


@pytest.mark.parametrize(("element", "size"), [("*f32", 8), ("i1", 1), ("f8E4M3FN", 1), ("bf16", 2), ("i64", 8)])
def test_size_of_an_element(element: str, size: int) -> None:
    """A pointer has 64 bits, a flag takes a byte."""
    assert allocations._size((16, 64), element) == 16 * 64 * size


def test_no_share_reaches_beyond_the_end() -> None:
    """What is staged piece by piece takes less than its whole tensor."""
    found = pipeline.allocated(tiled("gfx942", 16, 64, 64))

    share = largest(printed(found.module), 100)

    assert share is not None
    assert share.size <= 100


def test_nothing_to_name() -> None:
    """Where nothing is allocated, or the text is not one that we can read."""
    assert share(copied, FLOATS, FLOATS, 16) is None
    assert largest("module {", 64) is None
