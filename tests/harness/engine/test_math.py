"""Functions of the dialect math: exact special values, and accuracy in units in the last place."""

# ruff: noqa: D103 - jit functions of one line that stand for a function
# mypy: allow-untyped-defs, allow-untyped-decorators

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
import triton
import triton.language as tl

from tridiff.harness.api import uniform, words

Elementwise = Callable[..., torch.Tensor]
NAN, INF = math.nan, math.inf


@triton.jit
def jit_exp(x):
    return tl.exp(x)


@triton.jit
def jit_exp2(x):
    return tl.exp2(x)


@triton.jit
def jit_log(x):
    return tl.log(x)


@triton.jit
def jit_log2(x):
    return tl.log2(x)


@triton.jit
def jit_sqrt(x):
    return tl.sqrt(x)


@triton.jit
def jit_precise_sqrt(x):
    return tl.sqrt_rn(x)


@triton.jit
def jit_rsqrt(x):
    return tl.rsqrt(x)


@triton.jit
def jit_sin(x):
    return tl.sin(x)


@triton.jit
def jit_cos(x):
    return tl.cos(x)


@triton.jit
def jit_floor(x):
    return tl.floor(x)


@triton.jit
def jit_ceil(x):
    return tl.ceil(x)


@dataclass(frozen=True, kw_only=True)
class Function:
    """A jit function with its meaning: torch's function in float64, results at special values, domain and error in ulps.

    `domain`: the arguments to try, in [low, high); None: all non-negative numbers. `ulps`: 0 where IEEE 754 defines the
    result; 4 elsewhere, which NumPy's vector functions keep and GPUs exceed.
    """

    jit: Any
    exact: Callable[[torch.Tensor], torch.Tensor]
    special: dict[float, float]
    domain: tuple[float, float] | None = None
    ulps: float = 4.0


POSITIVE = {NAN: NAN, INF: INF, -1.0: NAN, -INF: NAN}
FUNCTIONS = {
    "math.exp": Function(
        jit=jit_exp,
        exact=torch.exp,
        special={0.0: 1.0, INF: INF, -INF: 0.0, NAN: NAN, 89.0: INF, -110.0: 0.0},
        domain=(-104.0, 88.7),
    ),
    "math.exp2": Function(
        jit=jit_exp2,
        exact=torch.exp2,
        special={0.0: 1.0, 10.0: 1024.0, INF: INF, -INF: 0.0, NAN: NAN, 128.0: INF, -160.0: 0.0},
        domain=(-150.0, 127.9),
    ),
    "math.log": Function(jit=jit_log, exact=torch.log, special=POSITIVE | {0.0: -INF, 1.0: 0.0}),
    "math.log2": Function(jit=jit_log2, exact=torch.log2, special=POSITIVE | {0.0: -INF, 1.0: 0.0, 8.0: 3.0}),
    "math.sqrt": Function(jit=jit_sqrt, exact=torch.sqrt, special=POSITIVE | {0.0: 0.0, 9.0: 3.0}, ulps=0.0),
    "tt.precise_sqrt": Function(jit=jit_precise_sqrt, exact=torch.sqrt, special=POSITIVE | {0.0: 0.0}, ulps=0.0),
    "math.rsqrt": Function(jit=jit_rsqrt, exact=torch.rsqrt, special={**POSITIVE, 0.0: INF, INF: 0.0, 4.0: 0.5}, ulps=0.0),
    "math.sin": Function(jit=jit_sin, exact=torch.sin, special={0.0: 0.0, INF: NAN, NAN: NAN}, domain=(-1000.0, 1000.0)),
    "math.cos": Function(jit=jit_cos, exact=torch.cos, special={0.0: 1.0, INF: NAN, NAN: NAN}, domain=(-1000.0, 1000.0)),
    "math.floor": Function(
        jit=jit_floor, exact=torch.floor, special={-0.5: -1.0, 2.0: 2.0, INF: INF, NAN: NAN}, domain=(-1e4, 1e4), ulps=0.0
    ),
    "math.ceil": Function(
        jit=jit_ceil, exact=torch.ceil, special={0.5: 1.0, -2.0: -2.0, -INF: -INF, NAN: NAN}, domain=(-1e4, 1e4), ulps=0.0
    ),
}
PARAMETERS = [pytest.param(function, marks=pytest.mark.operations(name), id=name) for name, function in FUNCTIONS.items()]


def arguments(function: Function) -> torch.Tensor:
    """float32 arguments: spread evenly over the domain, or over all bit patterns of non-negative finite numbers."""
    if function.domain is not None:
        return uniform(0, "math", [1 << 14], *function.domain)
    raw = words(0, "math", 1 << 14) % np.uint64(0x7F800000)
    return torch.from_numpy(raw.astype(np.int32)).view(torch.float32)


def error_in_ulps(actual: torch.Tensor, exact: torch.Tensor) -> float:
    """The largest distance from the float64 result, in units of the last place of the float32 next to it."""
    near = exact.to(torch.float32).abs()
    ulp = (torch.nextafter(near, torch.tensor(INF)) - near).double()
    return float(((actual.double() - exact).abs() / ulp).max())


@pytest.mark.parametrize("function", PARAMETERS)
def test_special_values(elementwise: Elementwise, function: Function) -> None:
    """Zeros, infinities, NaN and the ends of the range give what C's functions give."""
    result = elementwise(function.jit, torch.tensor(list(function.special)))

    assert [repr(value) for value in result.tolist()] == [repr(value) for value in function.special.values()]


@pytest.mark.parametrize("function", PARAMETERS)
def test_accuracy(elementwise: Elementwise, function: Function) -> None:
    """Results are as near to the exact ones as the function promises: half an ulp and what it may err."""
    x = arguments(function)

    result = elementwise(function.jit, x)

    assert error_in_ulps(result, function.exact(x.double())) <= 0.5 + function.ulps


AT_NEGATIVE_ZERO = {"math.exp": 1.0, "math.exp2": 1.0, "math.cos": 1.0, "math.rsqrt": -INF, "math.log": -INF, "math.log2": -INF}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_negative_zero(elementwise: Elementwise, name: str) -> None:
    """Roots, sines and roundings of -0.0 are -0.0."""
    result = elementwise(FUNCTIONS[name].jit, torch.tensor([-0.0]))

    assert repr(result.item()) == repr(AT_NEGATIVE_ZERO.get(name, -0.0))


@pytest.mark.parametrize("name", ["math.exp", "math.exp2", "math.log", "math.log2", "math.sqrt", "math.sin", "math.cos"])
def test_float64(elementwise: Elementwise, name: str) -> None:
    """float64 arguments are computed in float64."""
    function = FUNCTIONS[name]
    x = arguments(function).double().clamp(1e-30, 80.0)

    result = elementwise(function.jit, x)

    # torch's float64 is no exact reference: both may err by an ulp or two.
    torch.testing.assert_close(result, function.exact(x), rtol=2.0**-50, atol=2.0**-52)


def test_division_as_scaling(elementwise: Elementwise) -> None:
    """The tanh of a soft cap, composed of the above, saturates without overflow."""
    x = torch.tensor([-1e4, -1.0, 0.0, 1.0, 1e4])

    result = elementwise(jit_soft_cap, x)

    torch.testing.assert_close(result, 30.0 * torch.tanh(x / 30.0), rtol=1e-5, atol=1e-5)


@triton.jit
def jit_soft_cap(x):
    return 30.0 * (2.0 / (1.0 + tl.exp(-2.0 * x / 30.0)) - 1.0)
