"""A plug-in with kernels of the toy Op that are right, for mutants whose fates are known beforehand."""

# ruff: noqa: ANN001, ANN202 - arguments of jit functions have no Python type, nor have their results
# mypy: allow-untyped-defs, allow-untyped-decorators, allow-incomplete-defs

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from toy.kernels import scale as toy

from tridiff.harness.api import Kernel
from tridiff.harness.registry import Registry, register_family

rounding = toy.rounding


def guarded(*, x: torch.Tensor, out: torch.Tensor, total: torch.Tensor, factor: float) -> None:
    """Write x * factor to `out` and the sum of each row of `x` to `total`."""
    rows, columns = x.shape
    block = triton.next_power_of_2(columns)
    _guarded[(rows,)](x, out, total, factor, columns, x.stride(0), block=block, is_shifted=False)


@triton.jit
def _guarded(x, out, total, factor, columns, stride, block: tl.constexpr, is_shifted: tl.constexpr):
    """What is loaded where a lane is not live goes nowhere, so that `other` does not matter."""
    row = tl.program_id(0)
    at = tl.arange(0, block)
    live = at < columns
    values = tl.load(x + row * stride + at, mask=live, other=0.0)
    if is_shifted:
        values += 1.0
    tl.store(out + row * stride + at, _times(values, factor), mask=live)
    tl.store(total + row, tl.sum(tl.where(live, values, 0.0), axis=0))


@triton.jit
def _times(values, factor):
    return values * factor


def made(**inputs: Any) -> None:
    """Do likewise, with a jit function that no module holds."""
    _made()(**inputs)


def _made() -> Any:
    @triton.jit
    def inner(x, out, total, factor, columns, stride, block: tl.constexpr):
        at = tl.arange(0, block)
        values = tl.load(x + tl.program_id(0) * stride + at, mask=at < columns, other=0.0)
        tl.store(out + tl.program_id(0) * stride + at, values * factor, mask=at < columns)
        tl.store(total + tl.program_id(0), tl.sum(values, axis=0))

    def launch(*, x: torch.Tensor, out: torch.Tensor, total: torch.Tensor, factor: float) -> None:
        block = triton.next_power_of_2(x.shape[1])
        inner[(x.shape[0],)](x, out, total, factor, x.shape[1], x.stride(0), block=block)

    return launch


def register(registry: Registry) -> None:
    """Register the Op and the kernels."""
    register_family(registry, "scale", "toy")
    for name in ("guarded", "made"):
        registry.register_kernel(Kernel(name=name, op="scale", module=__name__, launcher=name, rounding="rounding"))


def registry() -> Registry:
    """A registry of these alone."""
    fresh = Registry()
    register(fresh)
    return fresh
