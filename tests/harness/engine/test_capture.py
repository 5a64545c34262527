"""Capture: launches as in production, Triton's global state as before, scratch that is poisoned."""

# ruff: noqa: D103 - jit functions of a few lines
# mypy: allow-untyped-defs, allow-untyped-decorators

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
import triton
import triton.language as tl
from triton.runtime.driver import driver
from triton.runtime.jit import JITFunction

from tridiff.harness.api import Arena, Poison, Zone, pattern
from tridiff.harness.capture import Launch, capturing
from tridiff.harness.engines.cpu.engine import CpuEngine
from tridiff.harness.engines.cpu.errors import KernelError, UnsupportedOperation
from tridiff.harness.engines.spec import EngineSpec


@triton.jit
def scale(x, out, n, factor=3, bias=0.5, block: tl.constexpr = 4):
    """Scale and shift n elements."""
    i = tl.program_id(0) * block + tl.arange(0, block)
    tl.store(out + i, tl.load(x + i, mask=i < n) * factor + bias, mask=i < n)


@triton.jit
def add_one(x):
    tl.store(x, tl.load(x) + 1)


@triton.jit
def copy(x, out, block: tl.constexpr):
    i = tl.arange(0, block)
    tl.store(out + i, tl.load(x + i))


def state() -> tuple[Any, Any, Any]:
    """What a capture replaces."""
    return driver._active, JITFunction._do_compile, torch.utils._python_dispatch._get_current_dispatch_mode()


def ignore(_: object) -> None:
    """A receiver that drops what it gets."""


@pytest.fixture(autouse=True)
def _state_is_restored() -> Iterator[None]:
    """Whatever a test does, Triton and torch are afterwards as they were."""
    before = state()
    yield
    assert state() == before


def run(launcher: Callable[..., Any], arena: Arena | None = None, target: str = "gfx942", **inputs: Any) -> CpuEngine:
    """A launcher on the cpu engine."""
    engine = CpuEngine(EngineSpec(target=target))
    engine.run(launcher, inputs, arena or Arena())
    return engine


def test_state_inside() -> None:
    """Inside, Triton sees the target's driver, on the host."""
    before = state()

    with capturing("gfx942", ignore, ignore):
        target = driver.active.get_current_target()
        assert (target.backend, target.arch, target.warp_size) == ("hip", "gfx942", 64)
        assert driver.active.get_active_torch_device() == torch.device("cpu")
        assert state() != before

    assert state() == before


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_state_after_an_exception(error: type[BaseException]) -> None:
    """An exception leaves nothing behind, whichever it is."""
    before = state()

    with pytest.raises(error), capturing("gfx942", ignore, ignore):
        raise error

    assert state() == before


def test_nested_captures() -> None:
    """The innermost capture gets the launches and says the target; the outer one goes on afterwards."""
    outer: list[Launch] = []
    inner: list[Launch] = []
    x = torch.zeros(1)

    with capturing("gfx942", outer.append, ignore):
        add_one[(1,)](x)
        with capturing("sm_90", inner.append, ignore):
            add_one[(2,)](x)
            add_one[(3,)](x)
        add_one[(4,)](x)

    assert [launch.grid for launch in outer] == [(1, 1, 1), (4, 1, 1)]
    assert [launch.grid for launch in inner] == [(2, 1, 1), (3, 1, 1)]
    assert {launch.specialisation.target.backend for launch in outer} == {"hip"}
    assert {launch.specialisation.target.backend for launch in inner} == {"cuda"}


def test_specialisations_are_per_target() -> None:
    """One kernel has a specialisation per target, each compiled once."""
    seen: list[Launch] = []

    for target in ("gfx942", "gfx90a", "gfx942"):
        with capturing(target, seen.append, ignore):
            copy[(1,)](torch.zeros(4), torch.zeros(4), 4)

    first, second, third = (launch.specialisation for launch in seen)
    assert first is third
    assert first is not second
    assert first.name != second.name
    assert first.name.startswith("copy-")


def test_arguments_by_name() -> None:
    """Defaults are filled in, and integers equal to 1 become constants, as in production."""
    seen: list[Launch] = []
    x = torch.zeros(8)

    with capturing("gfx942", seen.append, ignore):
        scale[(2,)](x, x, 1, bias=2.5)
        scale[(2,)](x, x, 8, 1, block=8)

    assert [launch.arguments["n"] for launch in seen] == [1, 8]
    assert [launch.arguments["factor"] for launch in seen] == [3, 1]
    assert [launch.arguments["bias"] for launch in seen] == [2.5, 0.5]
    assert [launch.arguments["block"] for launch in seen] == [4, 8]
    assert [launch.specialisation.signature["n"] for launch in seen] == ["constexpr", "i32"]
    assert [launch.specialisation.signature["factor"] for launch in seen] == ["i32", "constexpr"]


@pytest.mark.parametrize(("n", "factor"), [(8, 3), (8, 1), (1, 3), (16, 16), (0, 0)])
def test_default_arguments_and_constants(n: int, factor: int) -> None:
    """Specialised or not, an integer argument has its value."""
    x, out = torch.arange(16.0), torch.full((16,), -1.0)

    def launcher() -> None:
        scale[lambda meta: (triton.cdiv(16, meta["block"]),)](x, out, n, factor)

    run(launcher)

    assert out[:n].tolist() == [value * factor + 0.5 for value in range(n)]
    assert out[n:].tolist() == [-1.0] * (16 - n)


def test_several_launches() -> None:
    """Launches happen in order, and the launcher's own torch code between them."""
    x = torch.tensor([1.0])

    def launcher(x: torch.Tensor) -> None:
        add_one[(1,)](x)
        x.mul_(10)
        for _ in range(3):
            add_one[(1,)](x)

    engine = run(launcher, x=x)

    assert x.item() == 23.0
    assert len(engine.specialisations) == 4
    assert len(set(engine.specialisations)) == 1


def test_one_and_two_dimensional_grids() -> None:
    """Missing axes of a grid are 1; a list is as good as a tuple."""
    seen: list[Launch] = []

    with capturing("gfx942", seen.append, ignore):
        for grid in ((3,), (3, 2), [3, 2, 5]):
            add_one[grid](torch.zeros(1))

    assert [launch.grid for launch in seen] == [(3, 1, 1), (3, 2, 1), (3, 2, 5)]


def test_pre_run_hooks_run() -> None:
    """Hooks that a launcher registered are called, as in production."""
    called = []
    add_one.add_pre_run_hook(lambda *_, **__: called.append(True))
    try:
        run(lambda: add_one[(1,)](torch.zeros(1)))
    finally:
        add_one.pre_run_hooks.clear()

    assert called == [True]


def clear(arguments: dict[str, Any]) -> None:
    """A configuration's pre-hook."""
    arguments["out"].zero_()


@triton.autotune(configs=[triton.Config({"block": 4}, pre_hook=clear), triton.Config({"block": 8})], key=[])
@triton.heuristics({"offset": lambda arguments: arguments["block"] // 4})
@triton.jit
def tuned(out, block: tl.constexpr, offset: tl.constexpr):
    i = tl.arange(0, block)
    tl.store(out + i, tl.load(out + i) + offset)


def test_autotuned_kernels_take_their_first_configuration() -> None:
    """Nothing is timed, and the kernel runs once; its pre-hook and heuristics count."""
    out = torch.full((8,), 5.0)

    engine = run(lambda: tuned[(1,)](out))

    assert out.tolist() == [1.0] * 4 + [0.0] * 4
    assert len(engine.specialisations) == 1


def test_what_a_launcher_raises_comes_through() -> None:
    """A launcher's own exception is not ours to change."""

    def launcher() -> None:
        raise ZeroDivisionError("of the launcher")

    with pytest.raises(ZeroDivisionError, match="of the launcher"):
        run(launcher)


ALLOCATIONS: dict[str, Callable[[], torch.Tensor]] = {
    "empty": lambda: torch.empty(4),
    "empty_like": lambda: torch.empty_like(torch.zeros(4)),
    "empty_strided": lambda: torch.empty_strided((2, 2), (2, 1)),
    "new_empty": lambda: torch.zeros(1).new_empty(4),
    "new_empty_strided": lambda: torch.zeros(1).new_empty_strided((2, 2), (1, 2)),
    "empty_permuted": lambda: torch.empty_permuted((2, 2), (1, 0)),
    "legacy": lambda: torch.Tensor(4),
}


@pytest.mark.parametrize("poison", Poison)
@pytest.mark.parametrize("allocate", ALLOCATIONS.values(), ids=ALLOCATIONS)
def test_scratch_is_poisoned(allocate: Callable[[], torch.Tensor], poison: Poison) -> None:
    """Whatever a launcher allocates without content holds the arena's poison for scratch."""
    held = []

    run(lambda: held.append(allocate()), Arena(poison))

    assert set(held[0].flatten().view(torch.int32).tolist()) == {pattern(torch.float32, poison, Zone.SCRATCH)}


@pytest.mark.parametrize("dtype", [torch.bool, torch.int8, torch.int64, torch.bfloat16, torch.float8_e4m3fnuz, torch.float64])
def test_scratch_of_every_dtype_is_poisoned(dtype: torch.dtype) -> None:
    """In the pattern of its own format; an empty tensor has nothing to poison."""
    held: list[torch.Tensor] = []

    run(lambda: held.extend([torch.empty(3, dtype=dtype), torch.empty(0, dtype=dtype)]))

    raw = {1: torch.int8, 2: torch.int16, 8: torch.int64}[dtype.itemsize]
    assert set(held[0].view(raw).tolist()) == {pattern(dtype, Poison.LOUD, Zone.SCRATCH)}
    assert held[1].numel() == 0


def test_other_allocations_are_not_poisoned() -> None:
    """Tensors with content keep it."""
    held: list[torch.Tensor] = []

    run(lambda: held.extend([torch.zeros(3), torch.ones(3), torch.full((3,), 2.0), torch.arange(3), torch.tensor([4.0])]))

    assert [tensor.tolist() for tensor in held] == [[0, 0, 0], [1, 1, 1], [2, 2, 2], [0, 1, 2], [4]]


def test_nothing_is_poisoned_outside() -> None:
    """After a capture, torch.empty is torch's again: nobody is told of it."""
    told: list[torch.Tensor] = []
    with capturing("gfx942", ignore, told.append):
        torch.empty(1)

    torch.empty(1)

    assert len(told) == 1


def test_poisoned_scratch_reaches_the_kernel() -> None:
    """A kernel that reads scratch nobody wrote reads NaN."""
    out = torch.zeros(4)

    def launcher() -> None:
        copy[(1,)](torch.empty(4), out, 4)

    run(launcher)

    assert out.isnan().all()


def test_scratch_out_of_bounds() -> None:
    """Scratch has bounds like any tensor."""

    def launcher() -> None:
        copy[(1,)](torch.zeros(8), torch.empty(7), 8)

    with pytest.raises(KernelError, match="store to scratch out out of bounds: element 7 of 7 of scratch out"):
        run(launcher)


@triton.jit
def refused(x, block: tl.constexpr):
    """Shapes that do not fit."""
    i = tl.arange(0, block)
    tl.store(x + i, i[:, None] + tl.arange(0, 2 * block)[None, :])


def test_front_end_errors_are_launch_failures() -> None:
    """What Triton's front end refuses is the kernel's fault, on its line."""
    with pytest.raises(KernelError, match="Triton refuses the kernel: ") as caught:
        run(lambda: refused[(1,)](torch.zeros(8), 4))

    assert caught.value.check == "launch"
    assert caught.value.line == f"test_capture.py:{refused.starting_line_number + 4}"


@triton.jit
def assembly(x):
    i = tl.arange(0, 4)
    result = tl.inline_asm_elementwise("v_mov_b32 $0, $1", "=v,v", [tl.load(x + i)], dtype=tl.float32, is_pure=True, pack=1)
    tl.store(x + i, result)


@triton.jit
def library(x):
    i = tl.arange(0, 4)
    tl.store(x + i, tl.extra.hip.libdevice.j0(tl.load(x + i)))


UNSUPPORTED = {
    "tt.elementwise_inline_asm": assembly,
    "tt.extern_elementwise": library,
}


@pytest.mark.parametrize(("name", "kernel"), UNSUPPORTED.items(), ids=UNSUPPORTED)
def test_unsupported_operations_are_named(name: str, kernel: Any) -> None:
    """An operation that is not implemented is named with its line, and nothing has been executed."""
    x = torch.arange(4.0)

    with pytest.raises(UnsupportedOperation, match=name) as caught:
        run(lambda: kernel[(1,)](x))

    assert caught.value.line == f"test_capture.py:{kernel.starting_line_number + 3}"
    assert x.tolist() == [0.0, 1.0, 2.0, 3.0]
