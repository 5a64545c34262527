"""Maximum and minimum of floats, where +0.0 is larger than -0.0, as hardware has it (NumPy leaves that open)."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from tridiff.harness.engines.cpu.formats import Array

Binary = Callable[[Array, Array], Array]

_WINS: dict[np.ufunc, bool] = {np.fmax: False, np.maximum: False, np.fmin: True, np.minimum: True}
"""The sign bit of the zero that such a function prefers."""


def ordered(function: np.ufunc) -> Binary:
    """fmax, fmin (a NaN gives way) or maximum, minimum (a NaN stays), of two arrays."""
    wins = _WINS[function]

    def apply(x: Array, y: Array) -> Array:
        result: Array = function(x, y)
        zero = result == 0
        if not zero.any():
            return result
        return np.where(zero, _zero(result, _preferred(x, wins) | _preferred(y, wins), wins), result)

    return apply


def reduce(function: np.ufunc, x: Array, axis: int) -> Array:
    """`function.reduce`; of one of the functions above with zeros in order."""
    result = np.asarray(function.reduce(x, axis=axis))
    if function not in _WINS or x.dtype.kind != "f":
        return result
    zero = result == 0
    if not zero.any():
        return result
    return np.where(zero, _zero(result, _preferred(x, _WINS[function]).any(axis=axis), _WINS[function]), result)


def _preferred(x: Array, wins: bool) -> Array:
    return np.asarray((x == 0) & (np.signbit(x) == wins))


def _zero(result: Array, preferred: Array, wins: bool) -> Array:
    """Zeros with the sign bit `wins` where one of them is among the operands."""
    return np.copysign(np.zeros_like(result), np.where(preferred == wins, -1, 1).astype(result.dtype))
