"""Which functions take a subnormal float32 for a zero, or give a zero for it, by target."""

# ruff: noqa: D103 - jit functions of one line that stand for a function
# mypy: allow-untyped-defs, allow-untyped-decorators

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
import triton
import triton.language as tl

from tridiff.harness.engines.spec import EngineSpec

INF = math.inf
TINY = torch.tensor(1e-40).item()
"""A subnormal float32."""


@triton.jit
def apply(x, out, function: tl.constexpr):
    tl.store(out, function(tl.load(x)))


@triton.jit
def exp(x):
    return tl.exp(x)


@triton.jit
def exp2(x):
    return tl.exp2(x)


@triton.jit
def log2(x):
    return tl.log2(x)


@triton.jit
def sqrt(x):
    return tl.sqrt(x)


@triton.jit
def sqrt_rn(x):
    return tl.sqrt_rn(x)


@triton.jit
def rsqrt(x):
    return tl.rsqrt(x)


@triton.jit
def sin(x):
    return tl.sin(x)


@triton.jit
def erf(x):
    return tl.erf(x)


@triton.jit
def floor(x):
    return tl.floor(x)


@triton.jit
def ceil(x):
    return tl.ceil(x)


@triton.jit
def halve(x):
    return x * 0.5


@triton.jit
def magnitude(x):
    return tl.abs(x)


@triton.jit
def cuda_tanh(x):
    return tl.extra.cuda.libdevice.tanh(x)


@triton.jit
def cuda_exp(x):
    return tl.extra.cuda.libdevice.exp(x)


@triton.jit
def cuda_exp2(x):
    return tl.extra.cuda.libdevice.exp2(x)


@triton.jit
def cuda_fast_exp(x):
    return tl.extra.cuda.libdevice.fast_expf(x)


@triton.jit
def cuda_fast_divide(x):
    return tl.extra.cuda.libdevice.fast_dividef(x, 1e20)


@triton.jit
def hip_tanh(x):
    return tl.extra.hip.libdevice.tanh(x)


@triton.jit
def hip_exp2(x):
    return tl.extra.hip.libdevice.exp2(x)


@triton.jit
def hip_fast_exp(x):
    return tl.extra.hip.libdevice.fast_expf(x)


# (function, argument, result on sm_90, result on gfx942); a smallest normal number is 2^-126.
CASES = [
    (exp, -88.0, math.exp(-88), math.exp(-88)),
    (exp2, -126.0, 2.0**-126, 2.0**-126),
    (exp2, -127.0, 0.0, 0.0),
    (log2, 2.0**-130, -130.0, -130.0),
    (sqrt, TINY, 0.0, 0.0),
    (sqrt, -TINY, -0.0, -0.0),
    (sqrt, 2.0**-126, 2.0**-63, 2.0**-63),
    (sqrt_rn, 2.0**-130, 2.0**-65, 2.0**-65),
    (rsqrt, TINY, INF, INF),
    (rsqrt, -TINY, -INF, -INF),
    (sin, -TINY, -0.0, -TINY),
    (erf, -TINY, -0.0, -1.1283791670955126 * TINY),
    (floor, -TINY, -0.0, -1.0),
    (ceil, TINY, 0.0, 1.0),
    (halve, TINY, TINY / 2, TINY / 2),
    (magnitude, -TINY, TINY, TINY),
]
EXTERNALS = [
    ("sm_90", cuda_tanh, -TINY, -0.0),
    ("sm_90", cuda_exp, -88.0, math.exp(-88)),
    ("sm_90", cuda_exp2, -127.0, 0.0),
    ("sm_90", cuda_fast_exp, -88.0, 0.0),
    ("sm_90", cuda_fast_divide, 1e-19, 0.0),
    ("sm_90", cuda_fast_divide, TINY * 1e2, 0.0),
    ("gfx942", hip_tanh, -TINY, -TINY),
    ("gfx942", hip_exp2, -127.0, 2.0**-127),
    ("gfx942", hip_fast_exp, -88.0, 0.0),
]
EVERYWHERE = [
    (target, function, x, result)
    for function, x, *both in CASES
    for target, result in zip(("sm_90", "gfx942"), both, strict=True)
]


@pytest.mark.parametrize(("target", "function", "x", "wanted"), [*EVERYWHERE, *EXTERNALS])
def test_subnormals(run: Callable[..., None], target: str, function: Any, x: float, wanted: float) -> None:
    """Kept or flushed, sign and all, as docs/reference/number_formats.md says."""
    out = torch.full((1,), 7.0)

    run(apply, (1,), torch.tensor([x]), out, function, spec=EngineSpec(target=target))

    # NumPy's exp errs by up to 2.52 units in the last place, which is 2^-149 here.
    slack = 2.52 * 2.0**-149 if 0 < abs(wanted) < 2.0**-126 else 0.0
    assert math.copysign(1.0, out.item()) == math.copysign(1.0, wanted)
    assert out.item() == wanted or abs(out.item() - wanted) <= slack


@pytest.mark.parametrize("target", ["sm_90", "gfx942"])
def test_float64_is_not_flushed(run: Callable[..., None], target: str) -> None:
    """Neither its subnormal numbers nor what would be one as float32."""
    for x in (1e-310, 1e-40):
        out = torch.zeros(1, dtype=torch.float64)

        run(apply, (1,), torch.tensor([x], dtype=torch.float64), out, sqrt, spec=EngineSpec(target=target))

        assert out.item() == math.sqrt(x)
