"""Bytes seen in other formats: a cache of bytes with halves, floats and indices in it, and pieces of wider tensors."""

# mypy: allow-untyped-defs, allow-untyped-decorators

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
import triton
import triton.language as tl
from hypothesis import given, settings
from hypothesis import strategies as st

from tridiff.harness.api import Arena
from tridiff.harness.engines.cpu import formats
from tridiff.harness.engines.cpu.errors import KernelError
from tridiff.harness.engines.cpu.formats import Array
from tridiff.harness.engines.cpu.memory import Memory, OutOfBounds, gather, scatter
from tridiff.harness.engines.cpu.ops_memory import accesses, viewed_as
from tridiff.harness.engines.cpu.values import MixedPointer, Pointer

Run = Callable[..., None]
FORMATS = {
    torch.float16: tl.float16,
    torch.bfloat16: tl.bfloat16,
    torch.float32: tl.float32,
    torch.float64: tl.float64,
    torch.int8: tl.int8,
    torch.int16: tl.int16,
    torch.int32: tl.int32,
    torch.int64: tl.int64,
}
CAST_FORMATS = [
    pytest.param(torch.float16, marks=pytest.mark.operations("tt.bitcast"), id="float16"),
    pytest.param(torch.int8, id="int8"),  # bytes already: Triton 3.8 has nothing to cast
    *(pytest.param(dtype, id=str(dtype)) for dtype in FORMATS if dtype not in {torch.float16, torch.int8}),
]


@triton.jit
def read_as(cache, out, start, step, size, kind: tl.constexpr, block: tl.constexpr):
    """Elements of another format, the first `start` bytes into a cache, `step` bytes apart."""
    i = tl.arange(0, block)
    pointers = (cache + start + i * step).to(tl.pointer_type(kind))
    tl.store(out + i, tl.load(pointers, mask=i < size, other=0))


@triton.jit
def read_run(cache, out, start, size, kind: tl.constexpr, block: tl.constexpr):
    """A row of elements of another format, the first `start` bytes into a cache."""
    i = tl.arange(0, block)
    tl.store(out + i, tl.load((cache + start).to(tl.pointer_type(kind)) + i, mask=i < size, other=0))


@triton.jit
def write_run(cache, values, start, size, kind: tl.constexpr, block: tl.constexpr):
    """Likewise for a store."""
    i = tl.arange(0, block)
    tl.store((cache + start).to(tl.pointer_type(kind)) + i, tl.load(values + i, mask=i < size), mask=i < size)


def random_bytes(count: int, seed: int = 0) -> torch.Tensor:
    """Bytes of any value."""
    return torch.randint(0, 256, (count,), dtype=torch.uint8, generator=torch.Generator().manual_seed(seed))


def same_bits(a: torch.Tensor, b: torch.Tensor) -> bool:
    """Whether two tensors hold the same values, NaN for NaN."""
    return a.dtype == b.dtype and torch.equal(torch.nan_to_num(a, nan=12.0), torch.nan_to_num(b, nan=12.0))


@pytest.mark.operations("tt.addptr", "tt.load")
@pytest.mark.parametrize("start", range(9))
@pytest.mark.parametrize("dtype", CAST_FORMATS)
def test_bytes_read_in_another_format(run: Run, dtype: torch.dtype, start: int) -> None:
    """Aligned or not, as rows and as lanes with a stride that keeps or changes the alignment."""
    cache, size = random_bytes(256), dtype.itemsize

    for step in (size, size + 1, 3):
        out = torch.zeros(16, dtype=dtype)
        run(read_as, (1,), cache, out, start, step, 13, FORMATS[dtype], 16)
        expected = torch.cat([cache[start + i * step :][:size].clone().view(dtype) for i in range(13)])
        assert same_bits(out[:13], expected)
        assert not out[13:].any()
    out = torch.zeros(16, dtype=dtype)
    run(read_run, (1,), cache, out, start, 13, FORMATS[dtype], 16)
    assert same_bits(out[:13], cache[start : start + 13 * size].clone().view(dtype))


@pytest.mark.operations("tt.store")
@pytest.mark.parametrize("start", [0, 1, 4, 7])
@pytest.mark.parametrize("dtype", CAST_FORMATS)
def test_bytes_written_in_another_format(run: Run, dtype: torch.dtype, start: int) -> None:
    """The bytes on both sides stay."""
    cache = random_bytes(64)
    values = torch.arange(4).to(dtype) - 2
    expected = cache.clone()
    expected[start : start + 3 * dtype.itemsize] = values[:3].view(torch.uint8)

    run(write_run, (1,), cache, values, start, 3, FORMATS[dtype], 4)

    assert torch.equal(cache, expected)


@pytest.mark.parametrize(
    ("start", "size", "where"),
    [
        (0, 3, None),
        (2, 2, None),
        (3, 2, None),
        (10, 1, None),
        (-1, 1, "1 element before x"),
        (-4, 1, "4 elements before x"),
        (0, 4, "1 element past the end of x"),
        (11, 1, "1 element past the end of x"),
        (15, 1, "2 elements past the end of x"),
        (1, 4, "1 element past the end of x"),
    ],
)
@pytest.mark.parametrize("write", [False, True], ids=["load", "store"])
def test_bounds_of_a_view(run: Run, start: int, size: int, where: str | None, *, write: bool) -> None:
    """A word is legal where all its bytes are; the first byte outside is named. x has 14 bytes."""
    arena = Arena()
    x, out = arena.tensor("x", [14], torch.uint8).fill_(0), torch.zeros(4, dtype=torch.int32)
    kernel, message = (write_run, "store to x") if write else (read_run, "load from x")

    if where is None:
        run(kernel, (1,), x, out, start, size, tl.int32, 4, arena=arena)
        return
    with pytest.raises(KernelError) as caught:
        run(kernel, (1,), x, out, start, size, tl.int32, 4, arena=arena)
    assert caught.value.message == f"{message} out of bounds: {where}, by program (0, 0, 0)"


@triton.jit
def read_piece(x, out, at, kind: tl.constexpr):
    """One piece of a tensor of wider elements."""
    tl.store(out, tl.load(x.to(tl.pointer_type(kind)) + at))


@pytest.mark.operations("tt.bitcast", "tt.load")
@pytest.mark.parametrize(
    ("at", "where"), [(11, None), (-1, "1 element before x"), (12, "1 element past the end of x"), (16, "2 elements past")]
)
def test_bounds_of_pieces(run: Run, at: int, where: str | None) -> None:
    """Pieces are located by the elements that they are part of."""
    arena = Arena()
    x, out = arena.tensor("x", [3], torch.float32), torch.zeros(1, dtype=torch.int8)
    x.copy_(torch.tensor([1.5, -2.0, 3.25]))

    if where is None:
        run(read_piece, (1,), x, out, at, tl.int8, arena=arena)
        assert out.item() == x.view(torch.int8)[at]
        return
    with pytest.raises(KernelError, match=f"load from x out of bounds: {where}"):
        run(read_piece, (1,), x, out, at, tl.int8, arena=arena)


@triton.jit
def views_of_views(x, out, n: tl.constexpr):
    """Bytes to doubles, three further bytes, to words, and back to the bytes."""
    i = tl.arange(0, n)
    odd = (x.to(tl.pointer_type(tl.float64)) + 1).to(tl.pointer_type(tl.int8)) + 3
    words = (odd.to(tl.pointer_type(tl.int32)) + 1).to(tl.pointer_type(tl.int8))
    tl.store(out + i, tl.load(words + i - 15))


def test_views_of_views(run: Run) -> None:
    """However often bytes are seen in other formats, they are those bytes, the last and the first included."""
    x, out = random_bytes(16).view(torch.int8), torch.zeros(16, dtype=torch.int8)

    run(views_of_views, (1,), x, out, 16)
    assert torch.equal(out, x)

    x, out = random_bytes(15).view(torch.int8), torch.zeros(16, dtype=torch.int8)
    with pytest.raises(KernelError, match="element 15 of 15 of scratch x"):
        run(views_of_views, (1,), x, out, 16)


@triton.jit
def packed_token(cache, out, slot, stride, n: tl.constexpr):
    """A token of a packed cache: n fp16 values, n/2 signed bytes with an fp32 scale before them, an index of 64 bits."""
    i = tl.arange(0, n)
    token = cache + slot * stride
    half = token.to(tl.pointer_type(tl.float16))
    scale = tl.load((token + 2 * n).to(tl.pointer_type(tl.float32)))
    quantised = tl.load((token + 2 * n + 4 + i // 2).to(tl.pointer_type(tl.int8)))
    index = tl.load((token + 2 * n + 4 + n // 2).to(tl.pointer_type(tl.int64)))
    tl.store(out + i, tl.load(half + i).to(tl.float32) + scale * quantised.to(tl.float32) + index.to(tl.float32))


@pytest.mark.operations("tt.bitcast", "tt.load")
def test_packed_cache(run: Run) -> None:
    """One tensor of bytes that holds four formats."""
    n, stride = 8, 40
    rng = np.random.default_rng(0)
    kind = np.dtype([("half", "<f2", n), ("scale", "<f4"), ("quantised", "i1", n // 2), ("index", "<i8"), ("rest", "V8")])
    tokens = np.zeros(3, dtype=kind)
    tokens["half"], tokens["scale"] = rng.integers(-8, 8, (3, n)), [0.5, 0.25, 2.0]
    tokens["quantised"], tokens["index"] = rng.integers(-128, 128, (3, n // 2)), [7, 8, 9]
    out = torch.zeros(n)

    run(packed_token, (1,), torch.from_numpy(tokens.view(np.uint8)), out, 2, stride, n)

    token = tokens[2]
    assert kind.itemsize == stride
    assert out.tolist() == [token["half"][i] + 2.0 * token["quantised"][i // 2] + 9 for i in range(n)]


# Against NumPy

ELEMENTS = ("i8", "i16", "i32", "i64", "f16", "bf16", "f32", "f64")
BYTES = 61


def pointer_at(storage: Memory, element: str, steps: list[tuple[str, int]], lanes: Array) -> Pointer | MixedPointer:
    """Pointers to `element`, after views in other formats and steps in them; `lanes` are offsets in bytes."""
    pointer: Pointer | MixedPointer = Pointer(storage, (np.zeros((1, 1), dtype=np.int64), lanes))
    for kind, step in steps:
        pointer = viewed_as(pointer, kind).moved([np.full((1, 1), step, dtype=np.int64)])
    return viewed_as(pointer, element)


def load_all(pointer: Pointer | MixedPointer, mask: Array, fill: Array) -> Array:
    """What lanes where `mask` holds find, in one array; elsewhere `fill`."""
    for part, terms, masks in accesses(pointer, [mask]):
        fill = gather(part, terms, masks, fill, mask.shape[1:])
    return np.broadcast_to(fill, mask.shape)


@pytest.mark.installed_triton("arrays of NumPy in and out: no kernel is compiled")
@settings(max_examples=200, deadline=None)
@given(data=st.data(), element=st.sampled_from(ELEMENTS), stored=st.sampled_from(("i8", "i16", "i32", "i64")))
def test_views_equal_numpys(data: st.DataObject, element: str, stored: str) -> None:
    """Loads and stores of random formats, offsets, strides and masks, over storage of any item size with a hole in it."""
    kind = np.dtype(formats.MEMORY[element])
    size, unit = kind.itemsize, np.dtype(formats.MEMORY[stored]).itemsize
    content = np.random.default_rng(data.draw(st.integers(0, 99))).integers(0, 256, BYTES // unit * unit).astype(np.uint8)
    cells = content.copy().view(formats.MEMORY[stored])
    split = data.draw(st.integers(0, len(cells)))
    spans = np.array([[0, split], [min(split + 1, len(cells)), len(cells)]])
    storage = Memory("x", stored, cells, 0, spans[:, 0], spans[:, 1], lambda cell: f"x[{cell}]", address=4096)
    steps = data.draw(st.lists(st.tuples(st.sampled_from(ELEMENTS), st.integers(-2, 3)), max_size=3))
    start, stride = data.draw(st.integers(0, BYTES)), data.draw(st.sampled_from((size, 1, 2, 3, -size, 5, 8)))
    lanes = (start + stride * np.arange(6)).reshape(1, 6)
    mask = np.array(data.draw(st.lists(st.booleans(), min_size=6, max_size=6))).reshape(1, 6)

    pointer = pointer_at(storage.viewed_as("i8"), element, steps, lanes)

    at = lanes.ravel() + sum(np.dtype(formats.MEMORY[step]).itemsize * count for step, count in steps)
    assert (pointer.addresses().ravel() == 4096 + at).all()
    legal = np.repeat([any(low <= cell < high for low, high in spans) for cell in range(len(cells))], unit)
    inside = np.array([low >= 0 and low + size <= len(content) and legal[low : low + size].all() for low in at])
    blank = np.zeros((1, 6), dtype=formats.compute_dtype(element))
    if (mask.ravel() & ~inside).any():
        with pytest.raises(OutOfBounds):
            load_all(pointer, mask, blank)
        return
    expected = blank.copy()
    for lane in np.flatnonzero(mask):
        expected[0, lane] = formats.decode(content[at[lane] : at[lane] + size].copy().view(kind), element)[0]
    np.testing.assert_array_equal(load_all(pointer, mask, blank), expected)

    if abs(stride) < size:
        return  # lanes overlap, and which of them stays is open
    values = np.arange(1, 7).reshape(1, 6).astype(blank.dtype)
    for part, terms, masks in accesses(pointer, [mask]):
        scatter(part, terms, masks, values, (6,))
    for lane in np.flatnonzero(mask):
        content[at[lane] : at[lane] + size] = formats.encode(values[:, lane], element).view(np.uint8)
    np.testing.assert_array_equal(cells.view(np.uint8), content)
