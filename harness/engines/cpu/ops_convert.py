"""Conversions between number formats, and between a number and its bits."""

from __future__ import annotations

import numpy as np

from tridiff.harness.engines.cpu import formats, fp8, fp8_lowering
from tridiff.harness.engines.cpu.errors import KernelError
from tridiff.harness.engines.cpu.formats import Array
from tridiff.harness.engines.cpu.fp8_lowering import Conversion
from tridiff.harness.engines.cpu.machine import Lanes, Step
from tridiff.harness.engines.cpu.ops_arith import not_bool
from tridiff.harness.engines.cpu.ops_memory import bitcast_pointer
from tridiff.harness.engines.cpu.program import Bound, Builder
from tridiff.harness.engines.cpu.target import Target

_TOWARD_ZERO = 0
"""Value of the property `rounding` of tt.fp_to_fp; 1 is to nearest even."""


def _mapped(op: Bound, function: Conversion) -> Step:
    (a,), (out,) = op.ins, op.outs

    def run(lanes: Lanes) -> None:
        lanes.regs[out] = function(lanes.array(a))

    return run


def _convert(op: Bound) -> Step:
    """Extensions and truncations of floats, and conversions of signed integers to floats: one rounding to nearest even."""
    source, element = op.operand(0).element, op.result.element
    formats.check_arithmetic(source)
    formats.check_arithmetic(element)
    target = formats.compute_dtype(element)
    if source in {"f64", "i64", "i32"} and element in formats.ROUND:
        return _mapped(op, _clamping(op, lambda x: formats.round_once(x, element)))
    finish = formats.ROUND.get(element, np.asarray)
    return _mapped(op, _clamping(op, lambda x: finish(x.astype(target, copy=False))))


def _clamping(op: Bound, function: Conversion) -> Conversion:
    """`function`, whose finite inputs give finite fp16 results where the target's mode bit says so."""
    if op.result.element != "f16" or not op.target.clamps_f16:
        return function

    def clamped(x: Array) -> Array:
        result = function(x)
        over = np.isinf(result) & np.isfinite(x)
        return np.where(over, np.copysign(np.float32(65504), result), result)

    return clamped


def _fp_to_fp(op: Bound) -> Step:
    """Conversions that FP8 has a part in, or that round in a way that was asked for."""
    source, element = op.operand(0).element, op.result.element
    rounding = "rtz" if op.operation.properties.get("rounding") == _TOWARD_ZERO else "rtne"
    try:
        if element in fp8.FORMATS:
            return _mapped(op, fp8_lowering.encoder(source, element, rounding, op.target))
        if source in fp8.FORMATS:
            return _mapped(op, fp8_lowering.decoder(source, element, op.target))
    except KernelError as error:
        raise KernelError(error.check, error.message, op.line, error.subject) from None
    if rounding == "rtne":
        return _convert(op)
    if source != "f32" or element not in {"bf16", "f16"}:
        raise op.unsupported(f"from {source} to {element} toward zero")
    nvidia = op.target.backend == "cuda"
    if element == "bf16":
        return _mapped(op, _bf16_toward_zero_nvidia if nvidia else _bf16_toward_zero)
    nan = fp8_lowering.CANONICAL if nvidia else fp8_lowering.QUIET
    return _mapped(op, lambda x: fp8_lowering.half_toward_zero(x, nan).view(np.float16).astype(np.float32))


def _bf16_toward_zero(x: Array) -> Array:
    """The upper half of the bits: a NaN whose fraction is all in the lower half becomes infinite."""
    return np.asarray((x.view(np.uint32) & np.uint32(0xFFFF0000)).view(np.float32))


def _bf16_toward_zero_nvidia(x: Array) -> Array:
    canonical = np.array([0x7FFF0000], np.uint32).view(np.float32)
    return np.where(np.isnan(x), canonical, _bf16_toward_zero(x))


def _unsigned_to_float(op: Bound) -> Step:
    element = op.result.element
    formats.check_arithmetic(element)
    target = formats.compute_dtype(element)

    def convert(x: Array) -> Array:
        x = x if x.dtype == np.bool_ else x.view(f"u{x.dtype.itemsize}")
        return formats.round_once(x, element) if element in formats.ROUND else x.astype(target)

    return _mapped(op, _clamping(op, convert))


def _float_to_int(op: Bound) -> Step:
    """Toward zero, to the integer that the target's instruction makes, of which the lower bits are kept.

    That instruction saturates, and makes 0 of NaN; 64 bits on AMD are a sequence that is taken to do so too. NVIDIA's makes
    the sign bit alone of NaN where the integer has 64 bits or the float has (PTX ISA, cvt).
    """
    signed = op.operation.name == "arith.fptosi"
    element = op.result.element
    if element == "i1":
        raise op.unsupported("conversion to i1")
    made = np.dtype(_made_integer(element, op.target, signed=signed))
    limits, kept = np.iinfo(made), np.dtype(formats.COMPUTE[element])
    lowest, highest = made.type(limits.min), made.type(limits.max)
    sign_of_nan = op.target.backend == "cuda" and (limits.bits == 64 or op.operand(0).element == "f64")
    of_nan = np.array([1 << limits.bits - 1 if sign_of_nan else 0], np.uint64).astype(made)

    def convert(values: Array) -> Array:
        x = np.trunc(np.nan_to_num(values.astype(np.float64), nan=0.0, posinf=np.inf, neginf=-np.inf))
        inside = (x > float(limits.min) - 1) & (x < float(limits.max) + (0 if limits.bits == 64 else 1))
        integers = np.where(inside, np.where(inside, x, 0).astype(made), np.where(x > 0, highest, lowest))
        return np.where(np.isnan(values), of_nan, integers).astype(kept)

    return _mapped(op, convert)


def _made_integer(element: str, target: Target, *, signed: bool) -> str:
    """NumPy's name of the integer that the instruction makes, read from the assembly that Triton 3.7 emits.

    AMD: v_cvt_i32_f32 also for int8, int16 and uint8. NVIDIA: cvt.rzi.s16 for int8, .u16 for uint8. Not modelled: what was
    fp16 before AMD's compiler sees it becomes 16 bits, not 32, on its way to 8 or 16, which differs beyond 32767.
    """
    width = int(element.removeprefix("i"))
    if target.backend == "cuda":
        return f"{'i' if signed else 'u'}{max(width // 8, 2)}"
    return f"{'i' if signed or width == 8 else 'u'}{max(width // 8, 4)}"


def _bitcast(op: Bound) -> Step:
    (a,), (out,) = op.ins, op.outs
    source, target = op.operand(0).element, op.result.element
    if op.result.is_pointer:
        return bitcast_pointer(op)
    stored = formats.MEMORY.get(target)
    if stored is None or source not in formats.MEMORY or "i1" in {source, target}:
        raise op.unsupported(f"from {source} to {target}")

    def run(lanes: Lanes) -> None:
        raw = np.ascontiguousarray(formats.encode(lanes.array(a), source))
        lanes.regs[out] = formats.decode(raw.view(stored), target)

    return run


BUILDERS: dict[str, Builder] = {
    "arith.extf": _convert,
    "arith.truncf": _convert,
    "arith.sitofp": not_bool(_convert),
    "arith.uitofp": _unsigned_to_float,
    "arith.fptosi": _float_to_int,
    "arith.fptoui": _float_to_int,
    "tt.bitcast": _bitcast,
    "tt.fp_to_fp": _fp_to_fp,
}
