"""What Triton learns of a pointer: its alignment and the size of its storage, as an Op asks the Arena for them."""

# ruff: noqa: D103 - jit functions of a few lines
# mypy: allow-untyped-defs, allow-untyped-decorators

from __future__ import annotations

import re
from typing import Any

import pytest
import torch
import triton
import triton.language as tl
from launching import attributes, captured, run

from tridiff.harness.api import Arena
from tridiff.harness.engines.cpu.errors import KernelError

# What a pointer is known to be


ALIGNED, SMALL = "tt.divisibility", "tt.pointer_range"
TWO_GIB = 2**31

PLACEMENTS: dict[str, tuple[torch.dtype, dict[str, int], set[str]]] = {
    "as allocated": (torch.float16, {}, {ALIGNED, SMALL}),
    "8-byte aligned": (torch.float16, {"lead": 4}, {SMALL}),
    "2-byte aligned": (torch.float16, {"lead": 1}, {SMALL}),
    "16-byte aligned slice": (torch.float16, {"lead": 8}, {ALIGNED, SMALL}),
    "4-byte aligned": (torch.float32, {"lead": 3}, {SMALL}),
    "byte aligned": (torch.int8, {"lead": 15}, {SMALL}),
    "largest that is small": (torch.float16, {"storage_bytes": TWO_GIB - 2}, {ALIGNED, SMALL}),
    "2 GiB": (torch.float16, {"storage_bytes": TWO_GIB}, {ALIGNED}),
    "2 GiB of bytes, less one": (torch.int8, {"storage_bytes": TWO_GIB - 1}, {ALIGNED, SMALL}),
    "5 GiB, misaligned": (torch.float16, {"lead": 2, "storage_bytes": 5 << 30}, set()),
}


@pytest.mark.parametrize("target", ["gfx942", "sm_90"])
@pytest.mark.parametrize(("dtype", "placement", "expected"), PLACEMENTS.values(), ids=PLACEMENTS)
def test_alignment_and_storage_reach_triton(
    target: str, dtype: torch.dtype, placement: dict[str, Any], expected: set[str]
) -> None:
    """16-byte alignment on every target, a storage below 2 GiB on AMD alone."""
    arena = Arena()
    x, out = arena.tensor("x", (4,), dtype, **placement), arena.output("out", (4,), torch.float32)

    (launch,) = captured(lambda: copy[(1,)](x, out), target)

    expected = expected if target == "gfx942" else expected - {SMALL}
    assert attributes(launch)["x"] == expected
    assert attributes(launch)["out"] == ({ALIGNED, SMALL} if target == "gfx942" else {ALIGNED})


@triton.jit
def copy(x, out):
    i = tl.arange(0, 4)
    tl.store(out + i, tl.load(x + i).to(tl.float32))


@pytest.mark.parametrize("placement", [{"lead": 3}, {"storage_bytes": 3 << 30}, {"lead": 1, "storage_bytes": 3 << 30}])
def test_kernels_run_on_any_placement(placement: dict[str, Any]) -> None:
    """With the same values and damage to nothing."""
    arena = Arena()
    x = arena.tensor("x", (4,), torch.float16, **placement)
    out = arena.output("out", (4,), torch.float32, **placement)
    x.copy_(torch.arange(4))
    arena.seal()

    run(lambda: copy[(1,)](x, out), arena=arena)

    assert out.tolist() == [0.0, 1.0, 2.0, 3.0]
    assert [allocation.changed() for allocation in arena] == [None, None]


@pytest.mark.parametrize(
    ("offset", "where"), [(-1, "1 element before x"), (1, "1 element past the end of x"), (10**9, "999999997 elements past")]
)
def test_extra_storage_is_out_of_bounds(offset: int, where: str) -> None:
    """Neither what leads to a view nor what lies behind it may be touched."""
    arena = Arena()
    x = arena.tensor("x", (4,), torch.float16, lead=3, storage_bytes=3 << 30)
    arena.seal()

    with pytest.raises(KernelError, match=f"load from x out of bounds: .*{re.escape(where)}") as caught:
        run(lambda: offset_copy[(1,)](x, offset, torch.zeros(4)), arena=arena)

    assert caught.value.check == "bounds"


@triton.jit
def offset_copy(x, offset, out):
    i = tl.arange(0, 4)
    tl.store(out + i, tl.load(x + i + offset).to(tl.float32))
