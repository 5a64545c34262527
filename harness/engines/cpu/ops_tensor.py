"""Triton's own operations: programs, shapes, memory, dot and reduce."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from tridiff.harness.engines.cpu import formats, memory
from tridiff.harness.engines.cpu.errors import KernelError
from tridiff.harness.engines.cpu.formats import Array
from tridiff.harness.engines.cpu.machine import Lanes, Step
from tridiff.harness.engines.cpu.memory import OutOfBounds
from tridiff.harness.engines.cpu.program import Body, Bound, Builder
from tridiff.harness.engines.cpu.values import Mask, Pointer, Sum, Value, dense, full, mapped

_TF32, _IEEE = 0, 2
"""Values of the attribute inputPrecision (TF32, TF32x3, IEEE, BF16x3, BF16x6)."""


def _program_id(op: Bound) -> Step:
    (out,) = op.outs
    axis = op.operation.properties["axis"]

    def run(lanes: Lanes) -> None:
        lanes.regs[out] = lanes.regs[axis]

    return run


def _num_programs(op: Bound) -> Step:
    (out,) = op.outs
    axis = op.operation.properties["axis"]

    def run(lanes: Lanes) -> None:
        lanes.regs[out] = np.array([lanes.grid[axis]], dtype=np.int32)

    return run


def _make_range(op: Bound) -> Step:
    (out,) = op.outs
    start, stop = op.operation.properties["start"], op.operation.properties["end"]
    values = np.arange(start, stop, dtype=np.int32).reshape(1, -1)

    def run(lanes: Lanes) -> None:
        lanes.regs[out] = values

    return run


def _rearranged(change: Callable[[Array], Array], op: Bound) -> Step:
    (a,), (out,) = op.ins, op.outs

    def run(lanes: Lanes) -> None:
        lanes.regs[out] = mapped(lanes.value(a), change)

    return run


def _splat(op: Bound) -> Step:
    ones = (1,) * len(op.result.shape)
    return _rearranged(lambda array: array.reshape(array.shape[0], *ones), op)


def _unsplat(op: Bound) -> Step:
    return _rearranged(lambda array: array.reshape(array.shape[0]), op)


def _expand_dims(op: Bound) -> Step:
    axis = op.operation.properties["axis"] + 1
    return _rearranged(lambda array: np.expand_dims(array, axis), op)


def _broadcast(op: Bound) -> Step:
    return _rearranged(lambda array: array, op)


def _trans(op: Bound) -> Step:
    order = (0, *(axis + 1 for axis in op.operation.properties["order"]))
    return _rearranged(lambda array: array.transpose(order), op)


def _reshape(op: Bound) -> Step:
    """Row-major; with allow_reorder the compiler may choose another order, so the kernel must not depend on it."""
    (a,), (out,) = op.ins, op.outs
    source, target = op.operand(0).shape, op.result.shape

    def change(array: Array) -> Array:
        return full(array, source).reshape(array.shape[0], *target)

    def run(lanes: Lanes) -> None:
        lanes.regs[out] = mapped(lanes.value(a), change)

    return run


def _addptr(op: Bound) -> Step:
    (pointer, offset), (out,) = op.ins, op.outs

    def run(lanes: Lanes) -> None:
        base, by = lanes.value(pointer), lanes.value(offset)
        if not isinstance(base, Pointer):
            raise op.unsupported("a pointer that was loaded from memory")
        terms = by.exact_terms() if isinstance(by, Sum) else [dense(by).astype(np.int64, copy=False)]
        lanes.regs[out] = base.moved(terms)

    return run


def _mask_terms(value: Value) -> list[Array]:
    return value.terms if isinstance(value, Mask) else [dense(value)]


def _load(op: Bound) -> Step:
    (out,) = op.outs
    sizes = op.operation.properties["operandSegmentSizes"]
    pointer = op.ins[0]
    mask = op.ins[1] if sizes[1] else None
    other = op.ins[1 + sizes[1]] if sizes[2] else None
    shape = op.result.shape
    _check_access(op)

    def run(lanes: Lanes) -> None:
        target = lanes.value(pointer)
        if not isinstance(target, Pointer):
            raise op.unsupported("a load through a pointer that was loaded from memory")
        masks = _mask_terms(lanes.value(mask)) if mask is not None else []
        fill = lanes.array(other) if other is not None else None
        try:
            lanes.regs[out] = memory.gather(target.memory, target.terms, masks, fill, shape)
        except OutOfBounds as error:
            raise _bounds_error("load from", error, op, lanes) from None

    return run


def _store(op: Bound) -> Step:
    pointer, value = op.ins[:2]
    mask = op.ins[2] if len(op.ins) > 2 else None
    shape = op.operand(1).shape
    _check_access(op)

    def run(lanes: Lanes) -> None:
        target = lanes.value(pointer)
        if not isinstance(target, Pointer):
            raise op.unsupported("a store through a pointer that was loaded from memory")
        masks = _mask_terms(lanes.value(mask)) if mask is not None else []
        try:
            memory.scatter(target.memory, target.terms, masks, lanes.array(value), shape)
        except OutOfBounds as error:
            raise _bounds_error("store to", error, op, lanes) from None

    return run


def _check_access(op: Bound) -> None:
    if op.operation.properties.get("boundaryCheck"):
        raise op.unsupported("block pointers")
    formats.compute_dtype(op.operand(0).element[1:])


def _bounds_error(verb: str, error: OutOfBounds, op: Bound, lanes: Lanes) -> KernelError:
    where = error.memory.locate(error.element)
    program = ", ".join(str(int(np.broadcast_to(lanes.regs[axis], lanes.count)[error.program])) for axis in range(3))
    subject = f"{verb} {error.memory.name}"
    return KernelError("bounds", f"{subject} out of bounds: {where}, by program ({program})", op.line, subject)


def _dot(op: Bound) -> Step:
    a, b, c = op.ins
    (out,) = op.outs
    element = op.operand(0).element
    depth = op.operand(0).shape[-1]
    precision = op.operation.properties.get("inputPrecision", _IEEE)
    if element == "f32" and precision not in (_TF32, _IEEE):
        raise op.unsupported(f"inputPrecision {precision}")
    prepare = formats.truncate_tf32 if element == "f32" and precision == _TF32 else np.asarray
    widen = np.int32 if element.startswith("i") else formats.compute_dtype(element)
    finish = formats.ROUND.get(op.result.element, np.asarray)
    target = formats.compute_dtype(op.result.element)

    def run(lanes: Lanes) -> None:
        x = prepare(lanes.array(a).astype(widen, copy=False))
        y = prepare(lanes.array(b).astype(widen, copy=False))
        if x.shape[-1] != y.shape[-2]:
            x = np.broadcast_to(x, (*x.shape[:-1], depth))
            y = np.broadcast_to(y, (*y.shape[:-2], depth, y.shape[-1]))
        product = np.matmul(x, y)
        if x.shape[-1] != depth:
            product = product * product.dtype.type(depth)
        lanes.regs[out] = finish((product + lanes.array(c)).astype(target, copy=False))

    return run


_REDUCTIONS: dict[str, Callable[..., Array]] = {
    "arith.addf": np.add.reduce,
    "arith.addi": np.add.reduce,
    "arith.maxnumf": np.fmax.reduce,
    "arith.minnumf": np.fmin.reduce,
    "arith.maximumf": np.maximum.reduce,
    "arith.minimumf": np.minimum.reduce,
    "arith.maxsi": np.maximum.reduce,
    "arith.minsi": np.minimum.reduce,
    "arith.andi": np.bitwise_and.reduce,
    "arith.ori": np.bitwise_or.reduce,
    "arith.xori": np.bitwise_xor.reduce,
}


def _reduce(op: Bound) -> Step:
    """A known combiner of one value is NumPy's reduction (its order is unspecified); any other is a binary tree."""
    axis = op.operation.properties["axis"] + 1
    size = op.operand(0).shape[axis - 1]
    (body,) = op.bodies[0]
    if any(inner.regions for inner in op.operation.regions[0].blocks[0].operations):
        raise op.unsupported("a combiner with branches or loops")
    known = _known_combiner(op)
    if known is not None:
        return _reduce_known(op, axis, size, known)

    def run(lanes: Lanes) -> None:
        parts = [_spread(lanes.array(slot), axis, size) for slot in op.ins]
        for slot, value in zip(op.outs, _tree(parts, axis, body, lanes), strict=True):
            lanes.regs[slot] = value

    return run


def _known_combiner(op: Bound) -> Callable[..., Array] | None:
    operations = op.operation.regions[0].blocks[0].operations
    rounded = op.operand(0).element in formats.ROUND
    if len(op.ins) != 1 or len(operations) != 2 or (rounded and operations[0].name == "arith.addf"):
        return None
    first, last = operations
    arguments = {name for name, _ in op.operation.regions[0].blocks[0].arguments}
    if set(first.operands) != arguments or last.operands != first.results:
        return None
    if first.name == "arith.addi" and op.operand(0).element == "i1":
        return np.bitwise_xor.reduce
    return _REDUCTIONS.get(first.name)


def _reduce_known(op: Bound, axis: int, size: int, function: Callable[..., Array]) -> Step:
    (a,), (out,) = op.ins, op.outs
    target = formats.compute_dtype(op.result.element)

    def run(lanes: Lanes) -> None:
        lanes.regs[out] = function(_spread(lanes.array(a), axis, size), axis=axis).astype(target, copy=False)

    return run


def _spread(array: Array, axis: int, size: int) -> Array:
    if array.shape[axis] == size:
        return array
    return np.broadcast_to(array, (*array.shape[:axis], size, *array.shape[axis + 1 :]))


def _tree(parts: list[Array], axis: int, body: Body, lanes: Lanes) -> list[Array]:
    """Combine the first half with the second until one is left; sizes are powers of two in Triton."""
    while parts[0].shape[axis] > 1:
        half = parts[0].shape[axis] // 2
        parts = [part.swapaxes(0, axis) for part in parts]
        operands = [part[:half].swapaxes(0, axis) for part in parts] + [part[half:].swapaxes(0, axis) for part in parts]
        for slot, value in zip(body.arguments, operands, strict=True):
            lanes.regs[slot] = value
        body.run(lanes)
        parts = [lanes.array(slot) for slot in body.passed]
    return [part.squeeze(axis) for part in parts]


BUILDERS: dict[str, Builder] = {
    "tt.get_program_id": _program_id,
    "tt.get_num_programs": _num_programs,
    "tt.make_range": _make_range,
    "tt.splat": _splat,
    "tt.unsplat": _unsplat,
    "tt.expand_dims": _expand_dims,
    "tt.broadcast": _broadcast,
    "tt.trans": _trans,
    "tt.reshape": _reshape,
    "tt.addptr": _addptr,
    "tt.load": _load,
    "tt.store": _store,
    "tt.dot": _dot,
    "tt.reduce": _reduce,
}
