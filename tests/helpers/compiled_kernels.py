"""Launchers of the toy Op for the compiler's engine: what fits, what some part is too small for, and what Triton refuses."""

# ruff: noqa: ANN001, ANN201, D103 - arguments of jit functions have no Python type, nor have their results; a few lines each
# mypy: allow-untyped-defs, allow-untyped-decorators, allow-incomplete-defs

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from triton import Config
from triton.runtime.errors import OutOfResources

from tridiff.harness.api import Kernel
from tridiff.harness.registry import Registry, register_family
from tridiff.harness.targets.selftest_kernel import attend

WIDE = 512
"""Tokens of a tile of 128 KiB, which a loop holds in shared memory: more than any part has."""


class Refusal(Exception):
    """What the launchers of this module cannot do here."""


def registry() -> Registry:
    """The toy Op, with a Kernel for every launcher of this module."""
    made = Registry()
    register(made)
    return made


def register(made: Registry) -> None:
    """Likewise, as a plug-in."""
    register_family(made, "scale", "toy")
    for name in LAUNCHERS:
        made.register_kernel(Kernel(name=name, op="scale", module=__name__, launcher=name, unsupported=Refusal.__name__))


@triton.jit
def copied(x, out, block: tl.constexpr):
    at = tl.arange(0, block)
    tl.store(out + at, tl.load(x + at))


@triton.jit
def strided(x, out, stride, block: tl.constexpr):
    at = tl.arange(0, block)
    tl.store(out + at, tl.load(x + stride + at))


@triton.jit
def turned(x, out, rows: tl.constexpr, columns: tl.constexpr):
    """Goes through shared memory, as rows become columns."""
    i, j = tl.arange(0, rows), tl.arange(0, columns)
    tile = tl.load(x + i[:, None] * columns + j[None, :])
    tl.store(out + j[:, None] * rows + i[None, :], tl.trans(tile))


@triton.jit
def asserting(x, out, block: tl.constexpr, most: tl.constexpr):
    tl.static_assert(block <= most, "too large")
    at = tl.arange(0, block)
    tl.store(out + at, tl.load(x + at))


@triton.jit
def narrowed(x, out, block: tl.constexpr):
    at = tl.arange(0, block)
    tl.store(out + at, tl.load(x + at).to(tl.bfloat16))


def tuned(function: Any, *configs: Config) -> Any:
    """`function` with an autotuner of its own."""
    return triton.autotune(configs=list(configs), key=[])(function)


def of_tokens(*tokens: int) -> list[Config]:
    """Configurations of `attend`."""
    return [Config({"block_n": count}, num_stages=1) for count in tokens]


def attended(kernel: Any, x: Any, out: Any, **tokens: int) -> None:
    """Launch a form of `attend`, for bf16: Triton 3.9 takes seconds for the loops of float32, and for pipelined ones."""
    x, out = x.to(torch.bfloat16), out.to(torch.bfloat16)
    kernel[(1,)](x, x, x, out, 4 * WIDE, block_q=16, block_d=128, **tokens)


_tuned = tuned(attend, *of_tokens(16, WIDE))
_too_large = tuned(attend, *of_tokens(WIDE, 2 * WIDE))
_odd = tuned(copied, Config({"block": 16}), Config({"block": 24}))
_asserting = tuned(asserting, Config({"block": 16}), Config({"block": 64}))


def fits(*, x, out, **_: Any):
    copied[(1,)](x, out, 16)


def places(*, x, out, **_: Any):
    strided[(1,)](x, out, x.stride(0), 16)


def large(*, x, out, **_: Any):
    attended(attend, x, out, block_n=WIDE, num_stages=1)


def tunes(*, x, out, **_: Any):
    attended(_tuned, x, out)


def tunes_large(*, x, out, **_: Any):
    attended(_too_large, x, out)


def tunes_odd(*, x, out, **_: Any):
    _odd[(1,)](x, out)


def tunes_asserting(*, x, out, **_: Any):
    _asserting[(1,)](x, out, most=32)


def tunes_nothing(*, x, out, **_: Any):
    _asserting[(1,)](x, out, most=8)


def odd(*, x, out, **_: Any):
    copied[(1,)](x, out, 544)


def twice(*, x, out, **_: Any):
    """One launch that is refused by the front end, and one that is too large."""
    attended(attend, x, out, block_n=WIDE, num_stages=1)
    copied[(1,)](x, out, 544)


def crowded(*, x, out, **_: Any):
    copied[(1,)](x, out, 16, num_warps=32)


def warms(*, x, out, **_: Any):
    """Compiles ahead what Triton refuses, and never launches it."""
    copied.warmup(x, out, 544, grid=(1,))


def warms_large(*, x, out, **_: Any):
    """Compiles ahead what does not fit, and launches what does."""
    x, out = x.to(torch.bfloat16), out.to(torch.bfloat16)
    attend.warmup(x, x, x, out, 4 * WIDE, block_q=16, block_d=128, block_n=WIDE, num_stages=1, grid=(1,))
    copied[(1,)](x, out, 16)


def warms_and_launches(*, x, out, **_: Any):
    """Launches what it compiled ahead, as `CompiledKernel` has it: with constants."""
    copied.warmup(x, out, 16, grid=(1,))[(1, 1, 1)](x, out, 16)


def smaller(*, x, out, **_: Any):
    """Takes a smaller tile where the large one does not fit."""
    try:
        attended(attend, x, out, block_n=WIDE, num_stages=1)
    except OutOfResources:
        attended(attend, x, out, block_n=16, num_stages=1)


def smaller_odd(*, x, out, **_: Any):
    """Likewise, but the smaller one does not compile."""
    try:
        attended(attend, x, out, block_n=WIDE, num_stages=1)
    except OutOfResources:
        copied[(1,)](x, out, 544)


def unknown_option(*, x, out, **_: Any):
    """A second launch with an option that no back end has."""
    copied[(1,)](x, out, 16)
    copied[(1,)](x, out, 16, warps=4)


def raises_before(**_: Any):
    raise ZeroDivisionError("before")


def raises_after(*, x, out, **_: Any):
    copied[(1,)](x, out, 16)
    raise ZeroDivisionError("after")


def exits(**_: Any):
    raise SystemExit(3)


def refuses(*, x, **_: Any):
    if x.shape[0] > 1:
        raise Refusal("one row, please")
    copied[(1,)](x, x, 16)


def moody(*, x, out, **_: Any):
    """Refuses several rows, and of one makes what Triton refuses."""
    if x.shape[0] > 1:
        raise Refusal("one row, please")
    copied[(1,)](x, out, 544)


def refuses_after_large(*, x, out, **_: Any):
    attended(attend, x, out, block_n=WIDE, num_stages=1)
    raise Refusal("no more")


def asks(*, x, out, **_: Any):
    """What follows from the machine code, which is not there."""
    kernel = copied[(1,)](x, out, 16)
    assert kernel.n_regs > 0


def asks_device(*, x, out, **_: Any):
    """A figure of the GPU that the table of parts does not have, before the first launch."""
    if torch.cuda.get_device_properties(0).L2_cache_size > 0:
        copied[(1,)](x, out, 16)


def reads_scratch(*, x, out, **_: Any):
    """A size that a kernel would have left in memory."""
    used = torch.full((4096,), 7, dtype=torch.int32)
    del used
    left = torch.empty(4096, dtype=torch.int32)
    copied[(1,)](x, out, 16 if int(left.sum()) == 0 else 24)


def narrows(**_: Any):
    """A cast that Triton 3.6 and 3.7 compile for gfx942 alone: elsewhere on AMD they abort, or get it wrong."""
    codes = torch.zeros(16, dtype=torch.uint8).view(torch.float8_e4m3fnuz)
    narrowed[(1,)](codes, torch.zeros(16, dtype=torch.bfloat16), 16)


LAUNCHERS = (
    "fits",
    "places",
    "large",
    "tunes",
    "tunes_large",
    "tunes_odd",
    "tunes_asserting",
    "tunes_nothing",
    "odd",
    "twice",
    "crowded",
    "warms",
    "warms_large",
    "warms_and_launches",
    "smaller",
    "smaller_odd",
    "unknown_option",
    "raises_before",
    "raises_after",
    "exits",
    "refuses",
    "refuses_after_large",
    "asks",
    "asks_device",
    "reads_scratch",
    "narrows",
)
"""Names of the Kernels, and of their launchers."""
