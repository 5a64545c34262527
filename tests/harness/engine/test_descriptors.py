"""Tensor descriptors where Triton keeps them (NVIDIA sm_90 and newer) and where it rewrites them (AMD), and block pointers."""

# ruff: noqa: D103 - jit functions of a few lines
# mypy: allow-untyped-defs, allow-untyped-decorators

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
import triton
import triton.language as tl

from tridiff.harness.api import Arena, integers
from tridiff.harness.engines.cpu.errors import KernelError, UnsupportedOperation
from tridiff.harness.engines.spec import EngineSpec

Run = Callable[..., None]
KEPT = EngineSpec(target="sm_90")
REWRITTEN = EngineSpec(target="gfx942")
BOTH = pytest.mark.parametrize("spec", [KEPT, REWRITTEN], ids=lambda spec: spec.target)


def numbers(name: str, *shape: int) -> torch.Tensor:
    """int32 tensor of random integers in [-1000, 1000)."""
    return torch.from_numpy(integers(0, name, math.prod(shape), 2000) - 1000).to(torch.int32).reshape(shape)


def window(x: torch.Tensor, starts: tuple[int, ...], sizes: tuple[int, ...], padding: float = 0) -> torch.Tensor:
    """The block of `x` that begins at `starts`, element by element; `padding` outside."""
    result = torch.full(sizes, padding, dtype=x.dtype)
    for index in torch.cartesian_prod(*(torch.arange(size) for size in sizes)).reshape(-1, len(sizes)).tolist():
        place = tuple(start + i for start, i in zip(starts, index, strict=True))
        if all(0 <= at < size for at, size in zip(place, x.shape, strict=True)):
            result[tuple(index)] = x[place]
    return result


@triton.jit
def copy_tile(x, out, starts, rows, columns, padding: tl.constexpr, m: tl.constexpr, n: tl.constexpr):
    """Loads the block that begins where `starts` says, a pair per program."""
    p = tl.program_id(0)
    tensor = tl.make_tensor_descriptor(x, [rows, columns], [columns, 1], [m, n], padding_option=padding)
    tile = tensor.load([tl.load(starts + 2 * p), tl.load(starts + 2 * p + 1)])
    tl.store(out + (p * m + tl.arange(0, m)[:, None]) * n + tl.arange(0, n)[None, :], tile)


STARTS = [(0, 0), (3, 5), (8, 8), (-2, -3), (9, 0), (0, 13), (-4, 0), (10**9, 0), (0, -(2**31)), (2**31 - 1, 2**31 - 1)]


def copied(run: Run, x: torch.Tensor, spec: EngineSpec, padding: str) -> tuple[torch.Tensor, torch.Tensor]:
    """What the kernel loads at `STARTS`, and what it should."""
    starts, out = torch.tensor(STARTS, dtype=torch.int32), torch.full((len(STARTS), 4, 8), 77, dtype=x.dtype)
    run(copy_tile, (len(STARTS),), x, out, starts, *x.shape, padding, 4, 8, spec=spec)
    return out, torch.stack([window(x, at, (4, 8), math.nan if padding == "nan" else 0) for at in STARTS])


@pytest.mark.operations("tt.make_tensor_descriptor", "tt.descriptor_load")
def test_load(run: Run) -> None:
    """A block may begin before the tensor, reach beyond its end, or miss it altogether: zeros there."""
    actual, expected = copied(run, numbers("x", 9, 13), KEPT, "zero")

    assert torch.equal(actual, expected)


@pytest.mark.operations("tt.make_tensor_descriptor", "tt.descriptor_load")
def test_load_with_padding_of_nan(run: Run) -> None:
    """Outside the tensor, NaN."""
    actual, expected = copied(run, numbers("x", 9, 13).float(), KEPT, "nan")

    assert torch.equal(actual.isnan(), expected.isnan())
    assert torch.equal(actual.nan_to_num(), expected.nan_to_num())


@pytest.mark.parametrize("padding", ["zero", "nan"])
def test_rewritten_loads_agree(run: Run, padding: str) -> None:
    """What Triton makes of the descriptor for AMD loads the same."""
    kept, rewritten = (copied(run, numbers("x", 9, 13).float(), spec, padding)[0] for spec in (KEPT, REWRITTEN))

    assert torch.equal(kept.view(torch.int32), rewritten.view(torch.int32))


@triton.jit
def store_tile(x, out, starts, rows, columns, m: tl.constexpr, n: tl.constexpr):
    p = tl.program_id(0)
    tensor = tl.make_tensor_descriptor(out, [rows, columns], [columns, 1], [m, n])
    tile = tl.load(x + (p * m + tl.arange(0, m)[:, None]) * n + tl.arange(0, n)[None, :])
    tensor.store([tl.load(starts + 2 * p), tl.load(starts + 2 * p + 1)], tile)


@pytest.mark.operations("tt.make_tensor_descriptor", "tt.descriptor_store")
def test_store(run: Run) -> None:
    """What lies outside the tensor is not written; of blocks that overlap the later program's stays."""
    check_store(run, KEPT)


def test_rewritten_store(run: Run) -> None:
    """The same for AMD."""
    check_store(run, REWRITTEN)


def check_store(run: Run, spec: EngineSpec) -> None:
    """Four blocks into a tensor of 9 by 13, three of them over its edges."""
    starts = [(-2, -3), (6, 9), (2, 3), (3, 7)]
    x, out = numbers("tiles", 4, 4, 8), torch.full((9, 13), 5, dtype=torch.int32)
    expected = out.clone()
    for tile, (row, column) in zip(x, starts, strict=True):
        for i in range(4):
            for j in range(8):
                if 0 <= row + i < 9 and 0 <= column + j < 13:
                    expected[row + i, column + j] = tile[i, j]

    run(store_tile, (4,), x, out, torch.tensor(starts, dtype=torch.int32), 9, 13, 4, 8, spec=spec)

    assert torch.equal(out, expected)


@triton.jit
def copy_1d(x, out, size, n: tl.constexpr):
    tile = tl.make_tensor_descriptor(x, [size], [1], [n]).load([tl.program_id(0) * n - 3])
    tl.make_tensor_descriptor(out, [size], [1], [n]).store([tl.program_id(0) * n], tile)


@triton.jit
def copy_3d(x, out, a, b, c):
    source = tl.make_tensor_descriptor(x, [a, b, c], [b * c, c, 1], [2, 4, 8])
    target = tl.make_tensor_descriptor(out, [a, b, c], [b * c, c, 1], [2, 4, 8])
    target.store([tl.program_id(0), 0, 0], source.load([tl.program_id(0) - 1, 1, 2]))


@triton.jit
def copy_5d(x, out, a, b, c, d, e):
    source = tl.make_tensor_descriptor(x, [a, b, c, d, e], [b * c * d * e, c * d * e, d * e, e, 1], [1, 2, 2, 2, 4])
    target = tl.make_tensor_descriptor(out, [a, b, c, d, e], [b * c * d * e, c * d * e, d * e, e, 1], [1, 2, 2, 2, 4])
    target.store([tl.program_id(0), 0, 0, 0, 0], source.load([1 - tl.program_id(0), 1, -1, 0, 1]))


@BOTH
def test_ranks(run: Run, spec: EngineSpec) -> None:
    """One, three and five axes."""
    line, cube, penteract = numbers("1", 21), numbers("3", 3, 5, 11), numbers("5", 2, 3, 2, 2, 6)
    copies = [torch.zeros_like(x) for x in (line, cube, penteract)]

    run(copy_1d, (3,), line, copies[0], 21, 8, spec=spec)
    run(copy_3d, (2,), cube, copies[1], 3, 5, 11, spec=spec)
    run(copy_5d, (2,), penteract, copies[2], 2, 3, 2, 2, 6, spec=spec)

    expected = [torch.zeros_like(x) for x in (line, cube, penteract)]
    expected[0][3:] = line[:18]
    expected[1][:2, :4, :8] = window(cube, (-1, 1, 2), (2, 4, 8))
    expected[1][1:3, :4, :8] = window(cube, (0, 1, 2), (2, 4, 8))
    for p in range(2):
        expected[2][p, :2, :2, :2, :4] = window(penteract, (1 - p, 1, -1, 0, 1), (1, 2, 2, 2, 4))[0]
    assert all(torch.equal(copy, want) for copy, want in zip(copies, expected, strict=True))


@triton.jit
def reduced_rank(x, out, heads, rows):
    """The reshape is merged into the load by Triton's own passes: a block of three axes, a tile of two."""
    p = tl.program_id(0)
    tensor = tl.make_tensor_descriptor(x, [heads, rows, 8], [rows * 8, 8, 1], [1, 4, 8])
    tile = tl.reshape(tensor.load([p, 1, 0]), [4, 8])
    tl.store(out + (p * 4 + tl.arange(0, 4)[:, None]) * 8 + tl.arange(0, 8)[None, :], tile * 2)


@BOTH
def test_load_of_fewer_axes(run: Run, spec: EngineSpec) -> None:
    """The tile of a head as a matrix, rows beyond the last one zero."""
    x, out = numbers("heads", 3, 4, 8), torch.ones(3, 4, 8, dtype=torch.int32)

    run(reduced_rank, (3,), x, out, 3, 4, spec=spec)

    assert torch.equal(out, torch.cat([2 * x[:, 1:], torch.zeros(3, 1, 8, dtype=torch.int32)], 1))


@triton.jit
def reduce_into(x, out, rows, columns, kind: tl.constexpr):
    """Every program combines its tile with the same block, which reaches beyond the tensor."""
    tensor = tl.make_tensor_descriptor(out, [rows, columns], [columns, 1], [4, 8])
    tile = tl.load(x + (tl.program_id(0) * 4 + tl.arange(0, 4)[:, None]) * 8 + tl.arange(0, 8)[None, :])
    if kind == "add":
        tensor.atomic_add([1, 2], tile)
    elif kind == "min":
        tensor.atomic_min([1, 2], tile)
    elif kind == "max":
        tensor.atomic_max([1, 2], tile)
    elif kind == "and":
        tensor.atomic_and([1, 2], tile)
    elif kind == "or":
        tensor.atomic_or([1, 2], tile)
    else:
        tensor.atomic_xor([1, 2], tile)


KINDS: dict[str, Callable[[int, int], int]] = {
    "add": lambda a, b: a + b,
    "min": min,
    "max": max,
    "and": lambda a, b: a & b,
    "or": lambda a, b: a | b,
    "xor": lambda a, b: a ^ b,
}


def reduced(run: Run, kind: str, dtype: torch.dtype, spec: EngineSpec) -> tuple[torch.Tensor, torch.Tensor]:
    """A tensor of 3 by 9 after three programs, and as Python computes it."""
    x, out = numbers("updates", 3, 4, 8).to(dtype), numbers("start", 3, 9).to(dtype)
    rows = out.tolist()
    for tile in x.tolist():
        for i in range(2):
            for j in range(7):
                rows[1 + i][2 + j] = KINDS[kind](rows[1 + i][2 + j], tile[i][j])
    run(reduce_into, (3,), x, out, 3, 9, kind, spec=spec)
    limit = 2**32 if dtype == torch.uint32 else 2**62
    return out, torch.tensor([[value % limit if dtype == torch.uint32 else value for value in row] for row in rows], dtype=dtype)


@pytest.mark.operations("tt.descriptor_reduce")
@pytest.mark.parametrize("dtype", [torch.int32, torch.uint32], ids=str)
@pytest.mark.parametrize("kind", KINDS)
def test_reductions_into_memory(run: Run, kind: str, dtype: torch.dtype) -> None:
    """Every kind, over the edge of the tensor; unsigned integers are ordered as such."""
    actual, expected = reduced(run, kind, dtype, KEPT)

    assert actual.tolist() == expected.tolist()


@pytest.mark.parametrize(
    ("kind", "dtype"), [("add", torch.int32), ("max", torch.int32), ("min", torch.uint32), ("add", torch.float32)]
)
def test_rewritten_reductions(run: Run, kind: str, dtype: torch.dtype) -> None:
    """The atomics that Triton makes of them for AMD give the same."""
    actual, expected = reduced(run, kind, dtype, REWRITTEN)

    assert actual.tolist() == expected.tolist()


@triton.jit
def move_rows(x, out, sources, targets, rows, columns):
    """Gathers eight rows from a column on, and scatters them elsewhere."""
    lanes = tl.program_id(0) * 8 + tl.arange(0, 8)
    tile = tl.make_tensor_descriptor(x, [rows, columns], [columns, 1], [1, 8]).gather(tl.load(sources + lanes), 3)
    tl.make_tensor_descriptor(out, [rows, columns], [columns, 1], [1, 8]).scatter(tile, tl.load(targets + lanes), 1)


def check_moved_rows(run: Run, spec: EngineSpec) -> None:
    """Rows out of range are zeros when gathered, and lost when scattered; so are columns beyond the end."""
    x, out = numbers("rows", 9, 10), torch.full((9, 10), 7, dtype=torch.int32)
    sources = torch.tensor([0, 8, 9, -1, 5, 5, 100, 2, 1, 2, 3, 4, -7, 6, 7, 8], dtype=torch.int32)
    targets = torch.tensor([8, 0, 1, 2, 9, 3, -1, 500, 4, 5, 6, 7, 0, -3, 11, 12], dtype=torch.int32)
    expected = out.clone()
    for source, target in zip(sources.tolist(), targets.tolist(), strict=True):
        if 0 <= target < 9:
            expected[target, 1:9] = window(x, (source, 3), (1, 8))[0]

    run(move_rows, (2,), x, out, sources, targets, 9, 10, spec=spec)

    assert torch.equal(out, expected)


@pytest.mark.operations("tt.descriptor_gather", "tt.descriptor_scatter")
def test_gather_and_scatter(run: Run) -> None:
    """Rows by number, kept as descriptors for NVIDIA's sm_100."""
    check_moved_rows(run, EngineSpec(target="sm_100"))


def test_rewritten_gather_and_scatter(run: Run) -> None:
    """The same for AMD."""
    check_moved_rows(run, REWRITTEN)


@BOTH
@pytest.mark.parametrize("kernel", [copy_tile, store_tile], ids=["load", "store"])
def test_shapes_beyond_the_tensor(run: Run, kernel: Any, spec: EngineSpec) -> None:
    """A descriptor that claims more rows than there are is no excuse: the first element beyond the tensor is named."""
    arena = Arena()
    x = arena.tensor("x", [8, 8], torch.int32)
    other = torch.zeros(32, dtype=torch.int32)
    starts = torch.tensor([[6, 0]], dtype=torch.int32)
    arguments = (x, other, starts, 12, 8, "zero", 4, 8) if kernel is copy_tile else (other, x, starts, 12, 8, 4, 8)

    with pytest.raises(KernelError, match=r"x out of bounds.*program \(0, 0, 0\)") as error:
        run(kernel, (1,), *arguments, arena=arena, spec=spec)

    assert error.value.check == "bounds"


@triton.jit
def descriptor_by_program(x, y, out):
    base = x
    if tl.program_id(0) == 1:
        base = y
    tile = tl.make_tensor_descriptor(base, [8], [1], [8]).load([0])
    tl.store(out + tl.program_id(0) * 8 + tl.arange(0, 8), tile)


def test_descriptors_of_several_tensors_are_refused(run: Run) -> None:
    """Not implemented, and said so, with the line."""
    with pytest.raises(UnsupportedOperation, match="different tensors") as error:
        run(descriptor_by_program, (2,), numbers("x", 8), numbers("y", 8), numbers("o", 16), spec=KEPT)

    assert (error.value.line or "").startswith("test_descriptors.py:")
