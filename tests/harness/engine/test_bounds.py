"""Exact bounds: every access outside its tensor is an error that says where, by which program, on which line."""

# mypy: allow-untyped-defs, allow-untyped-decorators

from __future__ import annotations

import inspect
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import triton
import triton.language as tl

from tridiff.harness.api import Arena
from tridiff.harness.engines.cpu import memory
from tridiff.harness.engines.cpu.errors import KernelError, UnsupportedOperation

Run = Callable[..., None]


@triton.jit
def load_one(x, target, at):
    """One element, `at` elements into the tensor."""
    value = tl.load(x + at)
    tl.store(target, value)


@triton.jit
def store_one(target, at):
    """Likewise for a store."""
    tl.store(target + at, 1.0)


def line_of(kernel: Any, text: str) -> str:
    """FILE:LINE of the line of a jit function that contains `text`."""
    lines, start = inspect.getsourcelines(kernel.fn)
    (at,) = [start + index for index, line in enumerate(lines) if text in line]
    return f"{Path(__file__).name}:{at}"


def staged() -> tuple[Arena, torch.Tensor, torch.Tensor]:
    """Two tensors with a gap in the first: x is [2, 3] with rows 5 apart."""
    arena = Arena()
    x = arena.tensor("x", [2, 3], torch.float32, strides=[5, 1])
    return arena, x, arena.output("y", [4], torch.float32)


@pytest.mark.parametrize(
    ("at", "where"),
    [(-1, "1 element before x"), (8, "1 element past the end of x"), (40, "33 elements past the end of x")],
)
def test_load_out_of_bounds(run: Run, at: int, where: str) -> None:
    """One element before or after the tensor is an error that says where, in which program and on which source line."""
    arena, x, y = staged()

    with pytest.raises(KernelError) as caught:
        run(load_one, (1,), x, y, at, arena=arena)

    assert caught.value.check == "bounds"
    assert caught.value.message == f"load from x out of bounds: {where}, by program (0, 0, 0)"
    assert caught.value.line == line_of(load_one, "tl.load")
    assert caught.value.subject == "load from x"


@pytest.mark.parametrize(("at", "where"), [(-1, "1 element before y"), (4, "1 element past the end of y")])
def test_store_out_of_bounds(run: Run, at: int, where: str) -> None:
    """Likewise for a store, which does not happen."""
    arena, _, y = staged()
    arena.seal()

    with pytest.raises(KernelError) as caught:
        run(store_one, (1,), y, at, arena=arena)

    assert caught.value.message == f"store to y out of bounds: {where}, by program (0, 0, 0)"
    assert caught.value.line == line_of(store_one, "tl.store")
    assert arena.allocations["y"].changed() is None


def test_another_live_tensor_is_out_of_bounds(run: Run) -> None:
    """An address inside another tensor of the same launch is as wrong as any: pointers know where they came from."""
    arena, x, y = staged()
    distance = (y.data_ptr() - x.data_ptr()) // 4

    with pytest.raises(KernelError, match="load from x out of bounds"):
        run(load_one, (1,), x, y, distance, arena=arena)


def test_gaps_are_within_bounds(run: Run) -> None:
    """The gap of a strided layout belongs to the tensor's memory: what is read there is poison."""
    arena, x, y = staged()

    run(load_one, (1,), x, y, 3, arena=arena)

    assert math.isnan(y[0])


def test_view_into_the_middle(run: Run) -> None:
    """A view's pointer begins where the view does, and may reach back to the beginning of its tensor."""
    arena, x, y = staged()
    x.copy_(torch.arange(6.0).reshape(2, 3))

    run(load_one, (1,), x[1:], y, -5, arena=arena)
    assert y[0] == 0.0
    with pytest.raises(KernelError, match="1 element before x"):
        run(load_one, (1,), x[1:], y, -6, arena=arena)


@triton.jit
def load_rows(x, target, first, n: tl.constexpr):
    """Rows of n elements; of all programs only (2, 1, 1) reads the row at `first`."""
    last = (tl.program_id(0) == 2) & (tl.program_id(1) == 1) & (tl.program_id(2) == 1)
    i = tl.arange(0, n)
    tl.store(target + i, tl.load(x + tl.where(last, first, 0) + i))


@pytest.mark.parametrize("path", ["rows", "lanes"])
def test_message_names_the_program_and_the_first_element(run: Run, path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a row that leaves the tensor the first element outside is named, and the program by its three ids."""
    if path == "lanes":
        monkeypatch.setattr(memory, "_as_rows", lambda *_: None)
    arena = Arena()
    x, y = arena.tensor("x", [10], torch.float32), arena.output("y", [4], torch.float32)

    with pytest.raises(KernelError, match=r"^load from x out of bounds: 1 element past the end of x, by program \(2, 1, 1\)$"):
        run(load_rows, (3, 2, 2), x, y, 8, 4, arena=arena)


@triton.jit
def divergent_load(x, target):
    """Odd programs load past the end."""
    p = tl.program_id(0)
    if p % 2 == 1:
        tl.store(target, tl.load(x + p))


def test_message_names_the_program_inside_a_branch(run: Run) -> None:
    """Programs are named by their own ids where only some of them are running."""
    arena = Arena()
    x, y = arena.tensor("x", [5], torch.float32), arena.output("y", [1], torch.float32)

    with pytest.raises(KernelError, match=r"by program \(5, 0, 0\)"):
        run(divergent_load, (8,), x, y, arena=arena)


@triton.jit
def helper_load(pointers):
    """A helper whose line is to be named, not its caller's."""
    return tl.load(pointers)


@triton.jit
def load_through_helper(x, target, n: tl.constexpr):
    """Loads through a helper."""
    i = tl.arange(0, n)
    tl.store(target + i, helper_load(x + i))


def test_line_is_the_helpers(run: Run) -> None:
    """The innermost line of the user's code is named."""
    arena = Arena()
    x, y = arena.tensor("x", [5], torch.float32), arena.output("y", [8], torch.float32)

    with pytest.raises(KernelError) as caught:
        run(load_through_helper, (1,), x, y, 8, arena=arena)

    assert caught.value.line == line_of(helper_load, "tl.load")


@triton.jit
def load_first_two(x, target, block: tl.constexpr):
    """Lanes that are masked off point past the end."""
    i = tl.arange(0, block)
    tl.store(target + i, tl.load(x + i, mask=i < 2))


def test_masked_lanes_may_point_anywhere(run: Run) -> None:
    """What is masked off is not dereferenced."""
    arena = Arena()
    x, y = arena.tensor("x", [3], torch.float32), arena.output("y", [8], torch.float32)
    x.fill_(1.0)

    run(load_first_two, (1,), x[:2], y, 8, arena=arena)

    assert y[:2].tolist() == [1.0, 1.0]


def test_empty_tensor(run: Run) -> None:
    """A tensor without elements has none to load."""
    arena = Arena()
    x, y = arena.tensor("x", [0], torch.float32), arena.output("y", [1], torch.float32)

    with pytest.raises(KernelError, match="1 element past the end of x"):
        run(load_one, (1,), x, y, 0, arena=arena)


def test_launcher_scratch_has_bounds(run: Run) -> None:
    """So has a tensor that the launcher made itself."""
    scratch = torch.zeros(6)

    with pytest.raises(KernelError, match="store to scratch target out of bounds: element 6 of 6 of scratch target"):
        run(store_one, (1,), scratch, 6)


@triton.jit
def load_page_64(x, target, page, stride, n: tl.constexpr):
    """A row of a page, its offset in 64 bits."""
    i = tl.arange(0, n)
    tl.store(target + i, tl.load(x + page.to(tl.int64) * stride + i))


@triton.jit
def load_page_32(x, target, page, stride, n: tl.constexpr):
    """The same with an offset that wraps in 32 bits."""
    i = tl.arange(0, n)
    tl.store(target + i, tl.load(x + page * stride + i))


PAGES, STRIDE = 70, 2**25


def far_tensor() -> tuple[Arena, torch.Tensor, torch.Tensor]:
    """70 pages of 2^25 elements; only the first and the last one have content."""
    arena = Arena()
    spans = [(0, 64), ((PAGES - 1) * STRIDE, (PAGES - 1) * STRIDE + 64)]
    x = arena.tensor("x", [PAGES, 64], torch.float16, strides=[STRIDE, 1], committed=spans)
    x[0], x[PAGES - 1] = torch.arange(64), torch.arange(100, 164)
    return arena, x, arena.output("y", [64], torch.float16)


def test_offsets_beyond_31_bits(run: Run) -> None:
    """A page more than 2^31 elements away is read where it lies."""
    arena, x, y = far_tensor()

    run(load_page_64, (1,), x, y, PAGES - 1, STRIDE, 64, arena=arena)

    assert y.tolist() == list(range(100, 164))


def test_offsets_wrap_in_32_bits(run: Run) -> None:
    """A product of two 32-bit integers wraps, as on the device: the address lies before the tensor."""
    arena, x, y = far_tensor()
    wrapped = (PAGES - 1) * STRIDE - 2**32

    with pytest.raises(KernelError, match=f"load from x out of bounds: {-wrapped} elements before x"):
        run(load_page_32, (1,), x, y, PAGES - 1, STRIDE, 64, arena=arena)


@triton.jit
def load_sum_32(x, target, n: tl.constexpr):
    """Two offsets whose sum wraps in 32 bits; the second term keeps them apart until the address is formed."""
    i = tl.arange(0, n)[:, None]
    j = tl.arange(0, n)[None, :]
    tl.store(target + i * n + j, tl.load(x + ((i + 2147483647) + (j + 1))))


def test_sums_wrap_in_32_bits(run: Run) -> None:
    """Sums that are kept as terms wrap like any other."""
    arena = Arena()
    x, y = arena.tensor("x", [8], torch.float32), arena.output("y", [4], torch.float32)

    with pytest.raises(KernelError, match=f"{2**31} elements before x"):
        run(load_sum_32, (1,), x, y, 2, arena=arena)


@pytest.mark.parametrize("page", [2, 34, 68])
def test_holes_are_out_of_bounds(run: Run, page: int) -> None:
    """Pages without content are not to be touched."""
    arena, x, y = far_tensor()

    with pytest.raises(KernelError, match=rf"load from x out of bounds: .*x\[{page}, 0\]"):
        run(load_page_64, (1,), x, y, page, STRIDE, 64, arena=arena)


def test_run_into_a_hole_is_out_of_bounds(run: Run) -> None:
    """A row that begins in the content and ends in the hole."""
    arena, x, y = far_tensor()

    with pytest.raises(KernelError, match="1 element into the gap after x\\[0, 63\\]"):
        run(load_page_64, (1,), x[:, 1:], y, 0, STRIDE, 64, arena=arena)


@triton.jit
def load_pointer(x, target):
    """An address that comes out of memory."""
    pointer = tl.load(x).to(tl.pointer_type(tl.float32))
    tl.store(target, tl.load(pointer))


@triton.jit
def choose_tensor(x, y, target):
    """Programs that differ in the tensor they read."""
    p = tl.program_id(0)
    tl.store(target + p, tl.load(tl.where(p == 0, x, y)))


def test_choice_of_tensor(run: Run) -> None:
    """A pointer into one of two tensors is followed, also where programs differ, and its bounds are those of its tensor."""
    source = torch.tensor([3.0, 4.0])
    target = torch.zeros(2)

    run(choose_tensor, (2,), source[:1], source[1:], target)

    assert target.tolist() == [3.0, 4.0]


def test_null_pointer(run: Run) -> None:
    """An address that belongs to no tensor may be held; an access through it is out of bounds."""
    with pytest.raises(KernelError, match="load from no tensor out of bounds: address 0, as from a null pointer") as caught:
        run(load_pointer, (1,), torch.zeros(1, dtype=torch.int64), torch.zeros(1))

    assert (caught.value.check, caught.value.line) == ("bounds", line_of(load_pointer, "tl.load(pointer)"))


class _Wrapped:
    """What Triton takes for a tensor because it has a dtype and an address."""

    dtype = torch.float32

    def __init__(self, tensor: torch.Tensor) -> None:
        self._tensor = tensor

    def data_ptr(self) -> int:
        return self._tensor.data_ptr()


def test_pointer_arguments_are_tensors(run: Run) -> None:
    """An address without bounds cannot be checked."""
    with pytest.raises(UnsupportedOperation, match="the pointer argument x is a _Wrapped"):
        run(load_one, (1,), _Wrapped(torch.zeros(4)), torch.zeros(1), 0)
