"""Functions of the math dialect, and those of the vendors' libraries.

Functions of the vendors' libraries are computed in float64 and rounded: hardware differs by the ulps that its vendor documents.
"""

from __future__ import annotations

import re
from collections.abc import Callable

import numpy as np
import torch

from tridiff.harness.engines.cpu import formats, subnormals
from tridiff.harness.engines.cpu.formats import Array
from tridiff.harness.engines.cpu.machine import Lanes, Step
from tridiff.harness.engines.cpu.program import Bound, Builder

Function = Callable[..., Array]


def _of_torch(function: Callable[[torch.Tensor], torch.Tensor]) -> Function:
    """A function that NumPy lacks, of float64 arrays."""
    return lambda x: np.asarray(function(torch.from_numpy(np.ascontiguousarray(x, dtype=np.float64))).numpy())


def _round_half_away(x: Array) -> Array:
    # Not floor(|x| + 0.5): that sum rounds, for 0.49999999999999994 and from 2^52 on.
    whole = np.trunc(np.abs(x))
    return np.asarray(np.copysign(whole + (np.abs(x) - whole >= 0.5), x))


_REAL: dict[str, Function] = {
    "acos": np.arccos,
    "acosh": np.arccosh,
    "asin": np.arcsin,
    "asinh": np.arcsinh,
    "atan": np.arctan,
    "atan2": np.arctan2,
    "atanh": np.arctanh,
    "cbrt": np.cbrt,
    "ceil": np.ceil,
    "copysign": np.copysign,
    "cos": np.cos,
    "cosh": np.cosh,
    "erf": _of_torch(torch.special.erf),
    "erfc": _of_torch(torch.special.erfc),
    "erfcx": _of_torch(torch.special.erfcx),
    "erfinv": _of_torch(torch.special.erfinv),
    "exp": np.exp,
    "exp10": lambda x: np.power(10.0, x),
    "exp2": np.exp2,
    "expm1": np.expm1,
    "fabs": np.abs,
    "fdim": lambda x, y: np.where(np.isnan(x) | np.isnan(y), np.nan, np.where(x > y, x - y, 0.0)),
    "fdividef": np.divide,
    "floor": np.floor,
    "fmod": np.fmod,
    "hypot": np.hypot,
    "lgamma": _of_torch(torch.special.gammaln),
    "log": np.log,
    "log10": np.log10,
    "log1p": np.log1p,
    "log2": np.log2,
    "nearbyint": np.rint,
    "pow": np.power,
    "rcbrt": lambda x: 1.0 / np.cbrt(x),
    "rint": np.rint,
    "round": _round_half_away,
    "roundeven": np.rint,
    "rsqrt": lambda x: 1.0 / np.sqrt(x),
    "saturate": lambda x: np.clip(np.nan_to_num(x, nan=0.0, posinf=np.inf, neginf=-np.inf), 0.0, 1.0),
    "sin": np.sin,
    "sinh": np.sinh,
    "sqrt": np.sqrt,
    "tan": np.tan,
    "tanh": np.tanh,
    "trunc": np.trunc,
}
"""Functions of reals, by their name in C; they get float64 and their result is rounded."""

_PREDICATES: dict[str, Function] = {"isfinite": np.isfinite, "finite": np.isfinite, "isinf": np.isinf, "isnan": np.isnan}
_NVIDIA_FLOAT = {"isinff": "isinf", "isnanf": "isnan", "isinfd": "isinf", "isnand": "isnan", "isfinited": "isfinite"}
_NVIDIA_FLOAT |= {"finitef": "isfinite"}


def extern_name(symbol: str) -> str:
    """The C name of a vendor's function: `__ocml_tanh_f32`, `__nv_tanhf` and `__triton_hip_fast_tanhf` are tanh; else ""."""
    if match := re.fullmatch(r"__ocml_(?:native_)?(\w+)_f(?:16|32|64)", symbol):
        return match.group(1)
    if match := re.fullmatch(r"__(?:nv|triton_hip)_(?:fast_)?(\w+)", symbol):
        name = match.group(1)
        if name in _NVIDIA_FLOAT:
            return _NVIDIA_FLOAT[name]
        return name if name in _REAL or not name.endswith("f") else name.removesuffix("f")
    return ""


def _extern(op: Bound) -> Step:
    symbol = str(op.operation.properties.get("symbol", ""))
    name = extern_name(symbol)
    if name in _PREDICATES:
        return _predicate(op, _PREDICATES[name])
    if name not in _REAL or not op.result.is_float:
        raise op.unsupported(f"the external function {symbol!r}")
    return _real(op, subnormals.flushing(_REAL[name], symbol, op.result.element, op.target))


def _real(op: Bound, function: Function) -> Step:
    (out,) = op.outs
    element = op.result.element
    formats.check_arithmetic(element)
    target = formats.compute_dtype(element)

    def run(lanes: Lanes) -> None:
        exact = function(*(lanes.array(slot).astype(np.float64) for slot in op.ins))
        lanes.regs[out] = formats.round_once(exact, element) if element in formats.ROUND else exact.astype(target)

    return run


def _predicate(op: Bound, function: Function) -> Step:
    (a,), (out,) = op.ins, op.outs
    target = formats.compute_dtype(op.result.element)

    def run(lanes: Lanes) -> None:
        lanes.regs[out] = function(lanes.array(a)).astype(target)

    return run


def _in_double(name: str, function: Function) -> tuple[str, Builder]:
    """An operation that computes in float64."""
    return name, lambda op: _real(op, subnormals.flushing(function, name, op.result.element, op.target))


def _own(name: str, function: Function) -> tuple[str, Builder]:
    """An operation that computes in the format that its operand is held in, which NumPy is quicker at."""

    def build(op: Bound) -> Step:
        (a,), (out,) = op.ins, op.outs
        element = op.result.element
        formats.check_arithmetic(element)
        finish = formats.ROUND.get(element, np.asarray)
        apply = subnormals.flushing(function, name, element, op.target)

        def run(lanes: Lanes) -> None:
            lanes.regs[out] = finish(apply(lanes.array(a)))

        return run

    return name, build


def _rsqrt(x: Array) -> Array:
    return np.asarray((1.0 / np.sqrt(x.astype(np.float64))).astype(x.dtype))


def _mulhiui(op: Bound) -> Step:
    """The upper half of the product of unsigned integers."""
    (a, b), (out,) = op.ins, op.outs
    kind = np.dtype(formats.compute_dtype(op.result.element))
    half = np.uint64(4 * kind.itemsize)

    def run(lanes: Lanes) -> None:
        x, y = (lanes.array(slot).view(f"u{kind.itemsize}").astype(np.uint64) for slot in (a, b))
        if kind.itemsize < 8:
            high = x * y >> half * np.uint64(2)
        else:
            low_mask = np.uint64(0xFFFFFFFF)
            cross = (x >> half) * (y & low_mask) + ((x & low_mask) * (y & low_mask) >> half)
            other = (x & low_mask) * (y >> half) + (cross & low_mask)
            high = (x >> half) * (y >> half) + (cross >> half) + (other >> half)
        lanes.regs[out] = high.astype(f"u{kind.itemsize}").view(kind)

    return run


def _approximate_division(op: Bound) -> Step:
    """Exact here. NVIDIA's div.approx.f32 is within 2 ulp for divisors in [2^-126, 2^126] (PTX ISA), and 0 beyond them."""
    (a, b), (out,) = op.ins, op.outs
    finish = formats.ROUND.get(op.result.element, np.asarray)

    def run(lanes: Lanes) -> None:
        lanes.regs[out] = finish(np.divide(lanes.array(a), lanes.array(b)))

    return run


BUILDERS: dict[str, Builder] = {
    "tt.extern_elementwise": _extern,
    "tt.mulhiui": _mulhiui,
    "tt.approx_divf": _approximate_division,
    **dict([_in_double("math.erf", _REAL["erf"])]),
    **dict(
        _own(f"math.{name}", getattr(np, name)) for name in ("ceil", "cos", "exp", "exp2", "floor", "log", "log2", "sin", "sqrt")
    ),
    **dict([_own("math.rsqrt", _rsqrt)]),
}
