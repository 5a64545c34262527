"""Maximum and minimum of floats, where +0.0 is larger than -0.0, as hardware has it (NumPy leaves that open)."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from tridiff.harness.engines.cpu.formats import Array

Binary = Callable[[Array, Array], Array]

_WINS: dict[np.ufunc, np.bool_] = {np.fmax: np.False_, np.maximum: np.False_, np.fmin: np.True_, np.minimum: np.True_}
"""The sign bit of the zero that such a function prefers."""


def ordered(function: np.ufunc) -> Binary:
    """fmax, fmin (a NaN gives way) or maximum, minimum (a NaN stays), of two arrays."""
    sign = _WINS[function]

    def apply(x: Array, y: Array) -> Array:
        result: Array = function(x, y)
        return _in_order(result, sign, lambda: _has(x, sign) | _has(y, sign))

    return apply


def reduce(function: np.ufunc, x: Array, axis: int) -> Array:
    """`function.reduce`; of one of the functions above with zeros in order."""
    result = np.asarray(function.reduce(x, axis=axis))
    if function not in _WINS or x.dtype.kind != "f":
        return result
    sign = _WINS[function]
    return _in_order(result, sign, lambda: np.asarray(_has(x, sign).any(axis=axis)))


def _has(x: Array, sign: np.bool_) -> Array:
    """Where `x` is the zero with that sign bit."""
    return np.asarray((x == 0) & (np.signbit(x) == sign))


def _in_order(result: Array, sign: np.bool_, among_operands: Callable[[], Array]) -> Array:
    """Zeros of `result` get `sign` where such a zero is among the operands, and the other one elsewhere."""
    zero = result == 0
    if not zero.any():
        return result
    one = result.dtype.type(1)
    signs = np.where(among_operands() == sign, -one, one)
    return np.where(zero, np.copysign(result.dtype.type(0), signs), result)
