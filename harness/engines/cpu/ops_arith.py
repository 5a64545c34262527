"""Element-wise operations of the dialects arith and math, and Triton's precise variants."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from tridiff.harness.engines.cpu import extremes, formats, fp8
from tridiff.harness.engines.cpu.formats import Array
from tridiff.harness.engines.cpu.machine import Lanes, Step
from tridiff.harness.engines.cpu.memory import undefined
from tridiff.harness.engines.cpu.program import Bound, Builder
from tridiff.harness.engines.cpu.values import Mask, MixedPointer, Pointer, Sum, Value, chosen_pointer, combined, dense, grows

Unary = Callable[[Array], Array]
Binary = Callable[[Array, Array], Array]


def _unary(function: Unary) -> Builder:
    def build(op: Bound) -> Step:
        (a,), (out,) = op.ins, op.outs
        finish = _finisher(op.result.element)

        def run(lanes: Lanes) -> None:
            lanes.regs[out] = finish(function(lanes.array(a)))

        return run

    return build


def _binary(function: Binary) -> Builder:
    def build(op: Bound) -> Step:
        (a, b), (out,) = op.ins, op.outs
        finish = _finisher(op.result.element)

        def run(lanes: Lanes) -> None:
            lanes.regs[out] = finish(function(lanes.array(a), lanes.array(b)))

        return run

    return build


def _finisher(element: str) -> Unary:
    """Rounds a float result to its format; checks that there is arithmetic on it."""
    formats.check_arithmetic(element)
    return formats.ROUND.get(element, _same)


def _same(x: Array) -> Array:
    return x


def unsigned(function: Binary) -> Binary:
    """`function` of the same bits read as unsigned integers; booleans as they are."""

    def apply(a: Array, b: Array) -> Array:
        kind = f"u{a.dtype.itemsize}"
        if a.dtype == np.bool_:
            return function(a, b)
        return np.asarray(function(a.view(kind), b.view(kind)).view(a.dtype))

    return apply


def _division(function: Binary) -> Builder:
    """`function` of integers. A division by zero is undefined: it gives the poison of the run, as a masked-off load does."""

    def build(op: Bound) -> Step:
        (a, b), (out,) = op.ins, op.outs
        element = op.result.element

        def run(lanes: Lanes) -> None:
            x, y = lanes.array(a), lanes.array(b)
            zero = y == 0
            if not zero.any():
                lanes.regs[out] = function(x, y)
                return
            quotient = function(x, np.where(zero, y.dtype.type(1), y))
            lanes.regs[out] = np.where(zero, undefined(element, quotient.ndim, lanes.space.poison), quotient)

        return run

    return not_bool(build)


def _divide(a: Array, b: Array) -> Array:
    """Quotient rounded toward zero, as C and the hardware do; wraps for INT_MIN / -1."""
    quotient = a // b
    return np.asarray((quotient + ((a % b != 0) & ((a < 0) != (b < 0)))).astype(a.dtype))


def _remainder_float(op: Bound) -> Step:
    """C's fmod, but for NVIDIA, whose back end emits x - trunc(x / y) y, in float32 for halves, with an fma: it is inexact.

    A divisor that is infinite gives x.
    """
    if op.target.backend != "cuda":
        return _binary(np.fmod)(op)
    if op.result.element == "f64":
        raise op.unsupported("float64 on NVIDIA")

    def remainder(x: Array, y: Array) -> Array:
        quotient = np.trunc(x / y).astype(np.float64)
        # The product is exact in float64, and the sum is rounded to odd there: one rounding in all, as of an fma.
        fused = formats.add_to_odd(-quotient * y.astype(np.float64), x.astype(np.float64))
        return np.where(np.isinf(y), x, fused.astype(np.float32))

    return _binary(remainder)(op)


def _shift_right_logical(a: Array, b: Array) -> Array:
    kind = f"u{a.dtype.itemsize}"
    return np.asarray(np.right_shift(a.view(kind), b.view(kind)).view(a.dtype))


def _add_int(op: Bound) -> Step:
    """Keeps a sum of differently shaped terms lazy, so that a load can see its rows."""
    (a, b), (out,) = op.ins, op.outs
    formats.compute_dtype(op.result.element)

    def run(lanes: Lanes) -> None:
        lanes.regs[out] = _add(lanes.value(a), lanes.value(b))

    return run


def _add(a: Value, b: Value) -> Value:
    if isinstance(a, np.ndarray) and isinstance(b, np.ndarray) and (a.dtype == np.bool_ or not grows(a, b)):
        return a ^ b if a.dtype == np.bool_ else a + b
    terms = combined([*_terms(a), *_terms(b)])
    return terms[0] if len(terms) == 1 else Sum(terms)


def _terms(value: Value) -> list[Array]:
    return value.terms if isinstance(value, Sum) else [dense(value)]


def _and(op: Bound) -> Step:
    """Keeps a conjunction of differently shaped masks lazy."""
    (a, b), (out,) = op.ins, op.outs
    is_mask = op.result.element == "i1"

    def run(lanes: Lanes) -> None:
        x, y = lanes.value(a), lanes.value(b)
        if is_mask and (isinstance(x, Mask) or isinstance(y, Mask) or grows(dense(x), dense(y))):
            terms = combined([*_conjuncts(x), *_conjuncts(y)], np.logical_and)
            lanes.regs[out] = terms[0] if len(terms) == 1 else Mask(terms)
        else:
            lanes.regs[out] = dense(x) & dense(y)

    return run


def _conjuncts(value: Value) -> list[Array]:
    return value.terms if isinstance(value, Mask) else [dense(value)]


_CMPI: list[Binary] = [np.equal, np.not_equal, np.less, np.less_equal, np.greater, np.greater_equal]
_CMPI_UNSIGNED: list[Binary] = [np.less, np.less_equal, np.greater, np.greater_equal]


def _compare_int(op: Bound) -> Step:
    """Predicates by MLIR's numbering: eq ne slt sle sgt sge ult ule ugt uge."""
    (a, b), (out,) = op.ins, op.outs
    predicate = op.operation.properties["predicate"]
    if op.operand(0).is_pointer:
        raise op.unsupported("comparison of pointers")
    unsigned = predicate >= len(_CMPI)
    if op.operand(0).element == "i1" and 2 <= predicate < len(_CMPI):
        raise op.unsupported("signed order of booleans")
    function = _CMPI_UNSIGNED[predicate - len(_CMPI)] if predicate >= len(_CMPI) else _CMPI[predicate]

    def run(lanes: Lanes) -> None:
        x, y = lanes.array(a), lanes.array(b)
        if unsigned and x.dtype != np.bool_:
            kind = f"u{x.dtype.itemsize}"
            x, y = x.view(kind), y.view(kind)
        lanes.regs[out] = function(x, y)

    return run


_ORDERED: dict[int, Binary] = {1: np.equal, 2: np.greater, 3: np.greater_equal, 4: np.less, 5: np.less_equal, 6: np.not_equal}


def _compare_float(op: Bound) -> Step:
    """Predicates by MLIR's numbering: 0 false, 1-6 ordered, 7 ord, 8-13 unordered, 14 uno, 15 true."""
    (a, b), (out,) = op.ins, op.outs
    predicate = op.operation.properties["predicate"]
    formats.check_arithmetic(op.operand(0).element)

    def run(lanes: Lanes) -> None:
        lanes.regs[out] = _float_predicate(predicate, lanes.array(a), lanes.array(b))

    return run


def _float_predicate(predicate: int, x: Array, y: Array) -> Array:
    unordered = np.isnan(x) | np.isnan(y)
    if predicate in (0, 15):
        return np.full(unordered.shape, predicate == 15)
    if predicate in (7, 14):
        return unordered if predicate == 14 else ~unordered
    if predicate in _ORDERED:
        return _ORDERED[predicate](x, y) & ~unordered
    return _ORDERED[predicate - 7](x, y) | unordered


def _select(op: Bound) -> Step:
    condition, a, b = op.ins
    (out,) = op.outs
    # Triton turns an `if` that only chooses between tensors into a select with a scalar condition.
    axes = (1,) * (len(op.result.shape) - len(op.operand(0).shape))

    def run(lanes: Lanes) -> None:
        mask, x, y = lanes.array(condition), lanes.value(a), lanes.value(b)
        mask = mask.reshape(*mask.shape, *axes)
        if isinstance(x, (Pointer, MixedPointer)) and isinstance(y, (Pointer, MixedPointer)):
            lanes.regs[out] = chosen_pointer(mask, x, y)
        else:
            lanes.regs[out] = np.where(mask, dense(x), dense(y))

    return run


def _constant(op: Bound) -> Step:
    (out,) = op.outs
    element, shape = op.result.element, op.result.shape
    # A bf16 is printed with as many digits as tell it from its neighbours, which is not its value.
    finish = formats.ROUND.get(element, _same)
    value = op.operation.properties["value"]
    content = formats.constant(value[0] if isinstance(value, tuple) else value, element)
    array = finish(np.asarray(content, dtype=formats.compute_dtype(element)))
    array = array.reshape((1, *shape) if array.ndim else (1,) * (1 + len(shape)))

    def run(lanes: Lanes) -> None:
        lanes.regs[out] = array

    return run


def _extend_signed(op: Bound) -> Step:
    (a,), (out,) = op.ins, op.outs
    target = formats.compute_dtype(op.result.element)
    is_bool = op.operand(0).element == "i1"

    def run(lanes: Lanes) -> None:
        value = lanes.value(a)
        if isinstance(value, Sum) and target == np.int64:
            lanes.regs[out] = Sum(value.exact_terms())
        else:
            x = dense(value).astype(target)
            lanes.regs[out] = -x if is_bool else x

    return run


def _extend_unsigned(op: Bound) -> Step:
    (a,), (out,) = op.ins, op.outs
    target = formats.compute_dtype(op.result.element)

    def run(lanes: Lanes) -> None:
        x = lanes.array(a)
        lanes.regs[out] = (x if x.dtype == np.bool_ else x.view(f"u{x.dtype.itemsize}")).astype(target)

    return run


def _truncate_int(op: Bound) -> Step:
    (a,), (out,) = op.ins, op.outs
    element = op.result.element
    target = formats.compute_dtype(element)

    def run(lanes: Lanes) -> None:
        x = lanes.array(a)
        lanes.regs[out] = (x & x.dtype.type(1)).astype(np.bool_) if element == "i1" else x.astype(target)

    return run


def _fma(op: Bound) -> Step:
    (a, b, c), (out,) = op.ins, op.outs
    element = op.result.element
    if element == "f64":
        raise op.unsupported("float64")
    target = formats.compute_dtype(element)

    def run(lanes: Lanes) -> None:
        x, y, z = (lanes.array(slot).astype(np.float64) for slot in (a, b, c))
        fused = formats.add_to_odd(x * y, z)  # the product is exact in float64
        lanes.regs[out] = formats.round_once(fused, element) if element in formats.ROUND else fused.astype(target)

    return run


def _clamp(op: Bound) -> Step:
    (x, low, high), (out,) = op.ins, op.outs
    propagate = op.operation.properties.get("propagateNan") == 0xFFFF
    bigger, smaller = (extremes.ordered(f) for f in ((np.maximum, np.minimum) if propagate else (np.fmax, np.fmin)))
    formats.check_arithmetic(op.result.element)

    def run(lanes: Lanes) -> None:
        lanes.regs[out] = smaller(bigger(lanes.array(x), lanes.array(low)), lanes.array(high))

    return run


def not_bool(build: Builder) -> Builder:
    """For operations that read the sign of their operand: of an i1 that would be its only bit, and no kernel means that."""

    def checked(op: Bound) -> Step:
        if op.operand(0).element == "i1":
            raise op.unsupported("on booleans")
        return build(op)

    return checked


def _absolute(op: Bound) -> Step:
    """The sign bit goes; of a FNUZ format's NaN, which is nothing but that bit, zero is left."""
    if op.result.element in fp8.FORMATS:
        return _bits_of_fp8(op)
    return _unary(np.abs)(op)


def _bits_of_fp8(op: Bound) -> Step:
    (a,), (out,) = op.ins, op.outs

    def run(lanes: Lanes) -> None:
        lanes.regs[out] = lanes.array(a) & np.uint8(0x7F)

    return run


def _or(a: Array, b: Array) -> Array:
    return np.asarray(a | b)


def _subtract(a: Array, b: Array) -> Array:
    return np.asarray(a ^ b if a.dtype == np.bool_ else a - b)


def _multiply(a: Array, b: Array) -> Array:
    return np.asarray(a & b if a.dtype == np.bool_ else a * b)


BUILDERS: dict[str, Builder] = {
    "arith.constant": _constant,
    "arith.addi": _add_int,
    "arith.subi": _binary(_subtract),
    "arith.muli": _binary(_multiply),
    "arith.divsi": _division(_divide),
    "arith.remsi": _division(np.fmod),
    "arith.divui": _division(unsigned(np.floor_divide)),
    "arith.remui": _division(unsigned(np.remainder)),
    "arith.maxsi": not_bool(_binary(np.maximum)),
    "arith.minsi": not_bool(_binary(np.minimum)),
    "arith.maxui": _binary(unsigned(np.maximum)),
    "arith.minui": _binary(unsigned(np.minimum)),
    "arith.andi": _and,
    "arith.ori": _binary(_or),
    "arith.xori": _binary(np.bitwise_xor),
    "arith.shli": not_bool(_binary(np.left_shift)),
    "arith.shrsi": not_bool(_binary(np.right_shift)),
    "arith.shrui": not_bool(_binary(_shift_right_logical)),
    "arith.addf": _binary(np.add),
    "arith.subf": _binary(np.subtract),
    "arith.mulf": _binary(np.multiply),
    "arith.divf": _binary(np.divide),
    "arith.remf": _remainder_float,
    "arith.negf": _unary(np.negative),
    "arith.maxnumf": _binary(extremes.ordered(np.fmax)),
    "arith.minnumf": _binary(extremes.ordered(np.fmin)),
    "arith.maximumf": _binary(extremes.ordered(np.maximum)),
    "arith.minimumf": _binary(extremes.ordered(np.minimum)),
    "arith.cmpi": _compare_int,
    "arith.cmpf": _compare_float,
    "arith.select": _select,
    "arith.extsi": _extend_signed,
    "arith.extui": _extend_unsigned,
    "arith.trunci": _truncate_int,
    "tt.precise_divf": _binary(np.divide),
    "tt.precise_sqrt": _unary(np.sqrt),
    "tt.clampf": _clamp,
    "math.absf": _absolute,
    "math.absi": not_bool(_unary(np.abs)),
    "math.fma": _fma,
}
