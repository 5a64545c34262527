"""Which functions of float32 flush subnormal numbers to zeros of the same sign, and on which target.

Arithmetic keeps subnormals everywhere. NVIDIA's back end compiles libdevice with flushing (nvvm-reflect-ftz), and the
instructions that AMD's uses for some functions flush: docs/reference/number_formats.md has the evidence.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from tridiff.harness.engines.cpu.formats import Array
from tridiff.harness.engines.cpu.target import Target

Function = Callable[..., Array]

_SMALLEST_NORMAL = np.float32(2.0**-126)

_LIBDEVICE_INPUTS = (
    "asinf asinhf atanf atan2f atanhf ceilf erff expm1f fabsf fast_fdividef fast_log10f fast_log2f fast_logf fast_powf fast_sinf "
    "fast_tanf floorf fmodf hypotf log1pf rsqrtf saturatef sinf sinhf sqrtf tanf tanhf"
)
_LIBDEVICE_RESULTS = "exp2f fast_exp10f fast_expf fast_fdividef fast_powf"
_INPUTS = {
    "cuda": {"math.ceil", "math.erf", "math.floor", "math.rsqrt", "math.sin", "math.sqrt"}
    | {f"__nv_{name}" for name in _LIBDEVICE_INPUTS.split()},
    "hip": {"math.rsqrt", "math.sqrt"},
}
_RESULTS = {
    "cuda": {"math.exp2"} | {f"__nv_{name}" for name in _LIBDEVICE_RESULTS.split()},
    "hip": {"math.exp2", "__triton_hip_fast_expf"},
}


def flushed(x: Array) -> Array:
    """Subnormal numbers as zeros of their sign. float32, or float64 that holds float32's numbers."""
    return np.asarray(x * (np.abs(x) >= _SMALLEST_NORMAL))  # the product keeps the sign, and a NaN; np.where is slower


def flushing(function: Function, name: str, element: str, target: Target) -> Function:
    """`function` as the target computes it. `name`: of the operation (math.exp2), or of the external function."""
    if element != "f32":
        return function
    inputs, result = name in _INPUTS.get(target.backend, ()), name in _RESULTS.get(target.backend, ())

    def apply(*operands: Array) -> Array:
        value = function(*(flushed(x) for x in operands)) if inputs else function(*operands)
        return flushed(value) if result else value

    return apply if inputs or result else function
