"""Functions of the vendors' libraries, by what C's mathematical library says of them."""

# ruff: noqa: D103 - jit functions of a few lines
# mypy: allow-untyped-defs, allow-untyped-decorators

from __future__ import annotations

import math
import statistics
from collections.abc import Callable
from typing import Any

import pytest
import torch
import triton
import triton.language as tl
from triton.language.extra import cuda, hip, libdevice

from tridiff.harness.api import uniform
from tridiff.harness.engines.cpu.errors import UnsupportedOperation
from tridiff.harness.engines.cpu.ops_math import extern_name
from tridiff.harness.engines.spec import EngineSpec

Run = Callable[..., None]
NAN, INF = math.nan, math.inf
LIBRARIES: dict[str, Any] = {"sm_90": cuda.libdevice, "gfx942": hip.libdevice}
COUNT = 256


@triton.jit
def one(x, out, function: tl.constexpr, n: tl.constexpr):
    i = tl.program_id(0) * n + tl.arange(0, n)
    tl.store(out + i, function(tl.load(x + i)))


@triton.jit
def two(x, y, out, function: tl.constexpr, n: tl.constexpr):
    i = tl.program_id(0) * n + tl.arange(0, n)
    tl.store(out + i, function(tl.load(x + i), tl.load(y + i)))


def applied(run: Run, target: str, name: str, *inputs: torch.Tensor, dtype: torch.dtype | None = None) -> torch.Tensor:
    """The library's function of each element."""
    out = torch.zeros(inputs[0].shape, dtype=dtype or inputs[0].dtype)
    size = inputs[0].numel()
    kernel = one if len(inputs) == 1 else two
    run(kernel, (1,), *inputs, out, getattr(LIBRARIES[target], name), size, spec=EngineSpec(target=target))
    return out


def ratio(x: float, y: float) -> float:
    """X / y, as the approximate division of fast mathematics."""
    return x / y


def cube_root(x: float) -> float:
    """To an ulp or two of float64."""
    return math.copysign(math.exp(math.log(abs(x)) / 3), x)


def inverse_error_function(x: float) -> float:
    """From the quantiles of the normal distribution."""
    return statistics.NormalDist().inv_cdf((x + 1) / 2) / math.sqrt(2)


ONE: dict[str, tuple[Callable[[float], float], float, float]] = {
    "abs": (abs, -9.0, 9.0),
    "acos": (math.acos, -1.0, 1.0),
    "acosh": (math.acosh, 1.0, 1000.0),
    "asin": (math.asin, -1.0, 1.0),
    "asinh": (math.asinh, -1000.0, 1000.0),
    "atan": (math.atan, -100.0, 100.0),
    "atanh": (math.atanh, -0.999, 0.999),
    "cbrt": (cube_root, -1000.0, 1000.0),
    "ceil": (lambda x: float(math.ceil(x)), -50.0, 50.0),
    "cos": (math.cos, -100.0, 100.0),
    "cosh": (math.cosh, -80.0, 80.0),
    "erf": (math.erf, -4.0, 4.0),
    "erfc": (math.erfc, -4.0, 9.0),
    "erfcx": (lambda x: math.exp(x * x) * math.erfc(x), -5.0, 5.0),
    "erfinv": (inverse_error_function, -0.99, 0.99),
    "exp": (math.exp, -80.0, 80.0),
    "exp10": (lambda x: 10.0**x, -30.0, 30.0),
    "exp2": (lambda x: 2.0**x, -100.0, 100.0),
    "expm1": (math.expm1, -3.0, 3.0),
    "floor": (lambda x: float(math.floor(x)), -50.0, 50.0),
    "lgamma": (math.lgamma, 0.01, 0.9),
    "log": (math.log, 1e-30, 10.0),
    "log10": (math.log10, 1e-30, 10.0),
    "log1p": (math.log1p, -0.99, 100.0),
    "log2": (math.log2, 1e-30, 10.0),
    "nearbyint": (lambda x: float(round(x)), -50.0, 50.0),
    "rcbrt": (lambda x: 1 / cube_root(x), 0.01, 100.0),
    "rint": (lambda x: float(round(x)), -50.0, 50.0),
    "round": (lambda x: math.copysign(math.floor(abs(x) + 0.5), x), -50.0, 50.0),
    "rsqrt": (lambda x: 1 / math.sqrt(x), 1e-20, 100.0),
    "saturatef": (lambda x: min(max(x, 0.0), 1.0), -1.0, 2.0),
    "sin": (math.sin, -100.0, 100.0),
    "sinh": (math.sinh, -80.0, 80.0),
    "sqrt": (math.sqrt, 0.0, 1e10),
    "tan": (math.tan, -1.5, 1.5),
    "tanh": (math.tanh, -9.0, 9.0),
    "trunc": (lambda x: float(math.trunc(x)), -50.0, 50.0),
    "fast_cosf": (math.cos, -3.0, 3.0),
    "fast_exp10f": (lambda x: 10.0**x, -30.0, 30.0),
    "fast_expf": (math.exp, -80.0, 80.0),
    "fast_log10f": (math.log10, 1e-30, 10.0),
    "fast_log2f": (math.log2, 1e-30, 10.0),
    "fast_logf": (math.log, 1e-30, 10.0),
    "fast_sinf": (math.sin, -3.0, 3.0),
    "fast_tanf": (math.tan, -1.5, 1.5),
    "fast_tanhf": (math.tanh, -9.0, 9.0),
}
TWO: dict[str, tuple[Callable[[float, float], float], float, float]] = {
    "atan2": (math.atan2, -5.0, 5.0),
    "copysign": (math.copysign, -5.0, 5.0),
    "fast_dividef": (ratio, 0.1, 50.0),
    "fast_powf": (math.pow, 0.1, 20.0),
    "fdim": (lambda x, y: max(x - y, 0.0), -5.0, 5.0),
    "fmod": (math.fmod, -50.0, 50.0),
    "hypot": (math.hypot, -50.0, 50.0),
    "pow": (math.pow, 0.1, 20.0),
}


def offered(table: dict[str, Any]) -> list[Any]:
    """(target, name) of all functions of `table` that a library has."""
    return [pytest.param(target, name) for target, library in LIBRARIES.items() for name in table if hasattr(library, name)]


def assert_within_an_ulp(actual: torch.Tensor, exact: list[float]) -> None:
    """Each result is the exact one rounded to float32, or a neighbour of that."""
    near = torch.tensor(exact, dtype=torch.float64).float().abs()
    ulp = (torch.nextafter(near, torch.tensor(INF)) - near).double()
    assert ((actual.double() - torch.tensor(exact, dtype=torch.float64)).abs() <= ulp).all()


@pytest.mark.operations("tt.extern_elementwise")
@pytest.mark.parametrize(("target", "name"), offered(ONE))
def test_functions_of_one_number(run: Run, target: str, name: str) -> None:
    """Within an ulp of what C's library gives in float64; the order of everything is kept."""
    function, low, high = ONE[name]
    x = uniform(0, name, [COUNT], low, high)

    result = applied(run, target, name, x)

    assert_within_an_ulp(result, [function(item) for item in x.tolist()])


@pytest.mark.operations("tt.extern_elementwise")
@pytest.mark.parametrize(("target", "name"), offered(TWO))
def test_functions_of_two_numbers(run: Run, target: str, name: str) -> None:
    """The same for two operands, which do not commute."""
    function, low, high = TWO[name]
    x, y = uniform(0, name, [COUNT], low, high), uniform(1, name, [COUNT], low, high)

    result = applied(run, target, name, x, y)

    assert_within_an_ulp(result, [function(a, b) for a, b in zip(x.tolist(), y.tolist(), strict=True)])


SPECIAL: dict[str, dict[float, float]] = {
    "acos": {2.0: NAN, 1.0: 0.0, NAN: NAN},
    "atan": {INF: math.pi / 2, -0.0: -0.0},
    "cbrt": {-8.0: -2.0, -INF: -INF, -0.0: -0.0},
    "erf": {INF: 1.0, -INF: -1.0, -0.0: -0.0, NAN: NAN},
    "erfinv": {1.0: INF, -1.0: -INF, 1.5: NAN},
    "exp": {INF: INF, -INF: 0.0, 100.0: INF, NAN: NAN},
    "expm1": {-INF: -1.0, -0.0: -0.0},
    "lgamma": {1.0: 0.0, 0.0: INF, -1.0: INF, INF: INF},
    "log": {0.0: -INF, -1.0: NAN, INF: INF},
    "log1p": {-1.0: -INF, -2.0: NAN, -0.0: -0.0},
    "nearbyint": {0.5: 0.0, 1.5: 2.0, 2.5: 2.0, -0.5: -0.0, INF: INF, NAN: NAN, 8388609.0: 8388609.0},
    "rint": {0.5: 0.0, 1.5: 2.0, -1.5: -2.0, -2.5: -2.0, -0.25: -0.0, -INF: -INF, NAN: NAN},
    "round": {0.5: 1.0, 1.5: 2.0, 2.5: 3.0, -0.5: -1.0, -2.5: -3.0, -0.25: -0.0, 0.49999997: 0.0, INF: INF, NAN: NAN},
    "rsqrt": {0.0: INF, INF: 0.0, -1.0: NAN},
    "saturatef": {NAN: 0.0, INF: 1.0, -INF: 0.0},
    "tanh": {INF: 1.0, -INF: -1.0, -0.0: -0.0, NAN: NAN},
    "trunc": {-0.5: -0.0, -1.5: -1.0, INF: INF, NAN: NAN},
}


@pytest.mark.parametrize(("target", "name"), offered(SPECIAL))
def test_special_values(run: Run, target: str, name: str) -> None:
    """Ties, zeros with their sign, infinities and NaN."""
    cases = list(SPECIAL[name].items())
    x = torch.tensor([key for key, _ in cases] + [1.0] * (16 - len(cases)))

    result = applied(run, target, name, x)

    rounded = torch.tensor([value for _, value in cases]).tolist()
    assert [repr(item) for item in result[: len(cases)].tolist()] == [repr(item) for item in rounded]


@pytest.mark.parametrize(
    ("name", "x", "y", "expected"),
    [
        (
            "pow",
            [0.0, 1.0, -2.0, -2.0, INF, NAN, 2.0, -0.0],
            [0.0, NAN, 3.0, 0.5, -1.0, 0.0, INF, 3.0],
            [1, 1, -8, NAN, 0, 1, INF, -0.0],
        ),
        (
            "fmod",
            [5.5, -5.5, 5.0, INF, -0.0, 1.0, NAN, 7.0],
            [2.0, 2.0, 0.0, 1.0, 1.0, INF, 1.0, -4.0],
            [1.5, -1.5, NAN, NAN, -0.0, 1, NAN, 3],
        ),
        ("atan2", [0.0, -0.0, 0.0, 1.0], [1.0, 1.0, -1.0, 0.0], [0.0, -0.0, math.pi, math.pi / 2]),
        ("fdim", [1.0, 3.0, NAN, NAN], [2.0, 1.0, 1.0, 1.0], [0.0, 2.0, NAN, NAN]),
        ("fdim", [1.0, INF, -INF, INF], [NAN, INF, -INF, -INF], [NAN, 0.0, 0.0, INF]),
        ("copysign", [1.0, -2.0, NAN, INF], [-0.0, 0.0, 1.0, -1.0], [-1.0, 2.0, NAN, -INF]),
    ],
)
def test_special_pairs(run: Run, name: str, x: list[float], y: list[float], expected: list[float]) -> None:
    """As Annex F of the C standard has them."""
    result = applied(run, "sm_90", name, torch.tensor(x), torch.tensor(y))

    assert [repr(item) for item in result.tolist()] == [
        repr(item) for item in torch.tensor(expected, dtype=torch.float32).tolist()
    ]


@pytest.mark.parametrize("target", LIBRARIES)
def test_float64(run: Run, target: str) -> None:
    """float64 in, float64 out, not by way of float32."""
    x = uniform(0, "f64", [64], -2.0, 2.0).double() / 3

    tanh = applied(run, target, "tanh", x)

    torch.testing.assert_close(tanh, torch.tensor([math.tanh(item) for item in x.tolist()]).double(), rtol=0, atol=1e-7)
    assert (tanh - torch.tensor([math.tanh(item) for item in x.tolist()], dtype=torch.float64)).abs().max() < 2.0**-51


def test_round_of_float64(run: Run) -> None:
    """The number below one half goes to zero, and odd numbers beyond 2^52 stay."""
    x = torch.tensor([0.49999999999999994, 2.0**52 + 1, -(2.0**52 + 3), 2.5], dtype=torch.float64)

    assert applied(run, "sm_90", "round", x).tolist() == [0.0, 2.0**52 + 1, -(2.0**52 + 3), 3.0]


PREDICATES = {
    "isnan": [0, 1, 0, 0],
    "isinf": [0, 0, 1, 1],
    "finitef": [1, 0, 0, 0],
}


@pytest.mark.operations("tt.extern_elementwise")
@pytest.mark.parametrize(("target", "name"), offered(PREDICATES))
def test_predicates(run: Run, target: str, name: str) -> None:
    """NaN and infinities by name."""
    x = torch.tensor([1.0, NAN, INF, -INF])

    assert applied(run, target, name, x, dtype=torch.int32).tolist() == PREDICATES[name]


@pytest.mark.parametrize(("target", "name"), [*offered({"isnan": 0, "isinf": 0}), pytest.param("sm_90", "isfinited")])
def test_predicates_of_float64(run: Run, target: str, name: str) -> None:
    """The same of float64."""
    x = torch.tensor([1.0, NAN, INF, -INF], dtype=torch.float64)
    expected = PREDICATES.get(name, PREDICATES["finitef"])

    assert applied(run, target, name, x, dtype=torch.int32).tolist() == expected


@triton.jit
def by_target(x, out, n: tl.constexpr):
    i = tl.arange(0, n)
    tl.store(out + i, libdevice.tanh(tl.load(x + i)))


@pytest.mark.operations("tt.extern_elementwise")
@pytest.mark.parametrize("target", LIBRARIES)
def test_library_of_the_target(run: Run, target: str) -> None:
    """`tl.extra.libdevice` means the target's own library."""
    x = uniform(0, "x", [32], -3.0, 3.0)
    out = torch.zeros(32)

    run(by_target, (1,), x, out, 32, spec=EngineSpec(target=target))

    assert_within_an_ulp(out, [math.tanh(item) for item in x.tolist()])


@pytest.mark.parametrize(("target", "name"), offered({"j0": 0, "cyl_bessel_i0": 0, "tgamma": 0, "nextafter": 0, "llrint": 0}))
def test_unknown_functions(run: Run, target: str, name: str) -> None:
    """What is not implemented is refused, by its symbol and line."""
    x = torch.ones(4)

    with pytest.raises(UnsupportedOperation, match="external function") as error:
        applied(run, target, name, *[x] * (2 if name == "nextafter" else 1))

    assert (error.value.line or "").startswith("test_externs.py:")


def test_integer_functions_are_refused(run: Run) -> None:
    """Functions of integers are none of reals: the absolute value of a large int64 is not taken in float64."""
    with pytest.raises(UnsupportedOperation, match="__nv_clz"):
        applied(run, "sm_90", "clz", torch.ones(4, dtype=torch.int32))
    with pytest.raises(UnsupportedOperation, match="__nv_llabs"):
        applied(run, "sm_90", "abs", torch.ones(4, dtype=torch.int64))


@pytest.mark.parametrize(
    ("symbol", "name"),
    [
        ("__nv_erf", "erf"),
        ("__nv_erff", "erf"),
        ("__nv_isinfd", "isinf"),
        ("__nv_fast_fdividef", "fdividef"),
        ("__ocml_native_exp_f32", "exp"),
        ("__ocml_tanh_f64", "tanh"),
        ("__ocml_tanh_2f16", ""),
        ("__triton_hip_fast_tanhf", "tanh"),
        ("tanhf", ""),
        ("my__nv_tanhf", ""),
    ],
)
def test_names(symbol: str, name: str) -> None:
    """The vendors' spellings of C's names, and nothing else."""
    assert extern_name(symbol) == name


@triton.jit
def assembly(x, out):
    i = tl.arange(0, 4)
    value = tl.load(x + i)
    tl.store(out + i, tl.inline_asm_elementwise("mov.b32 $0, $1;", "=r,r", [value], tl.int32, is_pure=True, pack=1))


def test_inline_assembly(run: Run) -> None:
    """Inline assembly is refused, with its line."""
    x = torch.zeros(4, dtype=torch.int32)

    with pytest.raises(UnsupportedOperation, match="elementwise_inline_asm") as error:
        run(assembly, (1,), x, x, spec=EngineSpec(target="sm_90"))

    assert (error.value.line or "").startswith("test_externs.py:")
