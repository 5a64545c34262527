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

    `domain`: the arguments to try, in [low, high); None: all numbers from `least` on, 0.0 or the smallest normal one where
    gfx942 takes subnormal ones for zero (test_subnormals.py). `ulps`: 0 where IEEE 754 defines the
    result; 4 elsewhere, which NumPy's vector functions keep and GPUs exceed.
    """

    jit: Any
    exact: Callable[[torch.Tensor], torch.Tensor]
    special: dict[float, float]
    domain: tuple[float, float] | None = None
    ulps: float = 4.0
    least: float = 0.0


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
        domain=(-126.0, 127.9),
    ),
    "math.log": Function(jit=jit_log, exact=torch.log, special=POSITIVE | {0.0: -INF, 1.0: 0.0}),
    "math.log2": Function(jit=jit_log2, exact=torch.log2, special=POSITIVE | {0.0: -INF, 1.0: 0.0, 8.0: 3.0}),
    "math.sqrt": Function(jit=jit_sqrt, exact=torch.sqrt, special=POSITIVE | {0.0: 0.0, 9.0: 3.0}, ulps=0.0, least=2.0**-126),
    "tt.precise_sqrt": Function(jit=jit_precise_sqrt, exact=torch.sqrt, special=POSITIVE | {0.0: 0.0}, ulps=0.0),
    "math.rsqrt": Function(
        jit=jit_rsqrt, exact=torch.rsqrt, special={**POSITIVE, 0.0: INF, INF: 0.0, 4.0: 0.5}, ulps=0.0, least=2.0**-126
    ),
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
    """float32 arguments: spread evenly over the domain, or over all bit patterns of finite numbers from `least` on."""
    if function.domain is not None:
        return uniform(0, "math", [1 << 14], *function.domain)
    raw = words(0, "math", 1 << 14) % np.uint64(0x7F800000)
    x = torch.from_numpy(raw.astype(np.int32)).view(torch.float32)
    return x[x >= function.least]


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


@triton.jit
def jit_umulhi(a, b):
    return tl.umulhi(a, b)


@triton.jit
def jit_erf(x):
    return tl.erf(x)


@pytest.mark.operations("math.erf")
def test_erf(elementwise: Elementwise) -> None:
    """tl.erf."""
    x = uniform(0, "erf", [256], -4.0, 4.0)

    exact = torch.tensor([math.erf(item) for item in x.tolist()], dtype=torch.float64)
    assert error_in_ulps(elementwise(jit_erf, x), exact) <= 0.51


@pytest.mark.operations("tt.mulhiui")
@pytest.mark.parametrize(("dtype", "bits"), [(torch.int32, 32), (torch.int64, 64), (torch.uint32, 32)], ids=str)
def test_upper_half_of_a_product(elementwise: Elementwise, dtype: torch.dtype, bits: int) -> None:
    """Random numbers, and all pairs of those around the powers of two, as unsigned integers of Python."""
    edges = sorted({(base + step) % 2**bits for base in (0, 2 ** (bits // 2), 2 ** (bits - 1)) for step in (-2, -1, 0, 1, 2)})
    random = [int(item) % 2**bits for item in words(0, "mulhi", 400)]
    a = [x for x in edges for _ in edges] + random[:200]
    b = [y for _ in edges for y in edges] + random[200:]
    kind = np.dtype(f"u{bits // 8}")
    x, y = (torch.from_numpy(np.array(items, dtype=kind).view(f"i{bits // 8}")).view(dtype) for items in (a, b))

    result = elementwise(jit_umulhi, x, y)

    assert result.view(torch.int32 if bits == 32 else torch.int64).numpy().view(kind).tolist() == [
        i * j >> bits for i, j in zip(a, b, strict=True)
    ]


@triton.jit
def jit_approximate_division(x, y):
    return tl.fdiv(x, y, approx=True)


@pytest.mark.operations("tt.approx_divf", versions=">=3.9", reason="tl.fdiv has no approx before")
def test_approximate_division(elementwise: Elementwise) -> None:
    """Exact here, and at the special values what an exact division gives."""
    x, y = uniform(0, "x", [256], -50.0, 50.0), uniform(0, "y", [256], 0.5, 50.0)
    x[:4], y[:4] = torch.tensor([1.0, -1.0, 0.0, INF]), torch.tensor([0.0, INF, 0.0, 2.0])

    result = elementwise(jit_approximate_division, x, y)

    assert torch.equal(result.view(torch.int32)[4:], (x / y).view(torch.int32)[4:])
    assert [repr(item) for item in result[:4].tolist()] == ["inf", "-0.0", "nan", "inf"]
