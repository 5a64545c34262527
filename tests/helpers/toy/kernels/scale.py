"""The toy kernel `scale`, and one that is wrong from the start."""

from __future__ import annotations

import torch
import triton
import triton.language as tl

KERNELS = (
    {"name": "scale", "op": "scale", "launcher": "scale", "rounding": "rounding"},
    {"name": "scale_wrong", "op": "scale", "launcher": "scale_wrong"},
)


def scale(*, x: torch.Tensor, out: torch.Tensor, total: torch.Tensor, factor: float) -> None:
    """Write x * factor to `out` and the sum of each row of `x` to `total`."""
    rows, columns = x.shape
    _scale[(rows,)](x, out, total, factor, columns, x.stride(0), block=triton.next_power_of_2(columns))


def scale_wrong(*, x: torch.Tensor, out: torch.Tensor, total: torch.Tensor, factor: float) -> None:
    """Do likewise, with a factor that is too large from two columns on."""
    scale(x=x, out=out, total=total, factor=factor + 0.25 * (x.shape[1] > 1))


def rounding(*, x: torch.Tensor, **_: object) -> dict[str, int]:
    """Tell the reference how many additions a sum takes."""
    return {"additions": x.shape[1]}


@triton.jit
def _scale(x, out, total, factor, columns, stride, block: tl.constexpr):
    row = tl.program_id(0)
    at = tl.arange(0, block)
    live = at < columns
    values = tl.load(x + row * stride + at, mask=live, other=0.0)
    tl.store(out + row * stride + at, values * factor, mask=live)
    tl.store(total + row, tl.sum(values, axis=0))
