"""Pointers, loads and stores."""

from __future__ import annotations

import numpy as np

from tridiff.harness.engines.cpu import formats, memory
from tridiff.harness.engines.cpu.errors import KernelError
from tridiff.harness.engines.cpu.formats import Array
from tridiff.harness.engines.cpu.machine import Lanes, Step
from tridiff.harness.engines.cpu.memory import Memory, OutOfBounds
from tridiff.harness.engines.cpu.program import Bound, Builder
from tridiff.harness.engines.cpu.values import Mask, MixedPointer, Pointer, Sum, Value, combined, dense, pointing


def pointer_in(lanes: Lanes, slot: int) -> Pointer | MixedPointer:
    """The register, which holds pointers."""
    value = lanes.value(slot)
    if not isinstance(value, (Pointer, MixedPointer)):
        raise TypeError(f"expected pointers, found {type(value).__name__}")
    return value


def mask_terms(value: Value) -> list[Array]:
    """The arrays whose conjunction the mask is."""
    return value.terms if isinstance(value, Mask) else [dense(value)]


def accesses(pointer: Pointer | MixedPointer, masks: list[Array]) -> list[tuple[Memory, tuple[Array, ...], list[Array]]]:
    """Memory, terms of offsets and masks, for each memory that the pointers point into."""
    if isinstance(pointer, Pointer):
        return [(pointer.memory, pointer.terms, masks)]
    return [(memory, (pointer.offsets,), [*masks, meant]) for memory, meant in pointer.parts()]


def bounds_error(verb: str, error: OutOfBounds, op: Bound, lanes: Lanes) -> KernelError:
    """The finding for an access outside its tensor."""
    subject = f"{verb} {error.memory.name}"
    where = error.memory.locate(error.element)
    return KernelError("bounds", f"{subject} out of bounds: {where}, by {program(error.program, lanes)}", op.line, subject)


def program(index: int, lanes: Lanes) -> str:
    """`program (x, y, z)` of the entry `index` of the leading axis."""
    ids = (int(np.broadcast_to(lanes.regs[axis], lanes.count)[index]) for axis in range(3))
    return f"program ({', '.join(map(str, ids))})"


def _addptr(op: Bound) -> Step:
    (pointer, offset), (out,) = op.ins, op.outs

    def run(lanes: Lanes) -> None:
        by = lanes.value(offset)
        terms = by.exact_terms() if isinstance(by, Sum) else [dense(by).astype(np.int64, copy=False)]
        lanes.regs[out] = pointer_in(lanes, pointer).moved(terms)

    return run


def _load(op: Bound) -> Step:
    (out,) = op.outs
    sizes = op.operation.properties["operandSegmentSizes"]
    pointer = op.ins[0]
    mask = op.ins[1] if sizes[1] else None
    other = op.ins[1 + sizes[1]] if sizes[2] else None
    shape = op.result.shape
    _check_access(op)

    def run(lanes: Lanes) -> None:
        masks = mask_terms(lanes.value(mask)) if mask is not None else []
        value = lanes.array(other) if other is not None else None
        try:
            for part, terms, active in accesses(pointer_in(lanes, pointer), masks):
                value = memory.gather(part, terms, active, value, shape, poison=lanes.space.poison)
        except OutOfBounds as error:
            raise bounds_error("load from", error, op, lanes) from None
        lanes.regs[out] = value

    return run


def _store(op: Bound) -> Step:
    pointer, value = op.ins[:2]
    mask = op.ins[2] if len(op.ins) > 2 else None
    shape = op.operand(1).shape
    line = op.line
    _check_access(op)

    def run(lanes: Lanes) -> None:
        masks = mask_terms(lanes.value(mask)) if mask is not None else []
        try:
            for part, terms, active in accesses(pointer_in(lanes, pointer), masks):
                memory.scatter(part, terms, active, lanes.array(value), shape, line=line)
        except OutOfBounds as error:
            raise bounds_error("store to", error, op, lanes) from None

    return run


def _check_access(op: Bound) -> None:
    if op.operation.properties.get("boundaryCheck"):
        raise op.unsupported("a block pointer, which Triton's own passes rewrite")
    formats.compute_dtype(op.operand(0).element[1:])


def _int_to_ptr(op: Bound) -> Step:
    (a,), (out,) = op.ins, op.outs
    element = op.result.element[1:]
    formats.compute_dtype(element)

    def run(lanes: Lanes) -> None:
        lanes.regs[out] = lanes.space.pointer(lanes.array(a), element)

    return run


def _ptr_to_int(op: Bound) -> Step:
    (a,), (out,) = op.ins, op.outs
    target = formats.compute_dtype(op.result.element)

    def run(lanes: Lanes) -> None:
        lanes.regs[out] = pointer_in(lanes, a).addresses().astype(target, copy=False)

    return run


def bitcast_pointer(op: Bound) -> Step:
    """The same bytes in another format: booleans through pointers to int8, fp8 and scales out of a cache of bytes."""
    (a,), (out,) = op.ins, op.outs
    element = op.result.element[1:]
    formats.compute_dtype(element)

    def run(lanes: Lanes) -> None:
        lanes.regs[out] = viewed_as(pointer_in(lanes, a), element)

    return run


def viewed_as(pointer: Pointer | MixedPointer, element: str) -> Pointer | MixedPointer:
    """Pointers to `element` at the same addresses; as cheap terms where those are aligned to the new format."""
    if isinstance(pointer, Pointer):
        old, new = pointer.memory.itemsize, np.dtype(formats.MEMORY[element]).itemsize
        terms = [term * old for term in pointer.terms]
        if old % new == 0 or not any((term % new).any() for term in terms):
            start = np.full((1,) * terms[0].ndim, pointer.memory.start // new, dtype=np.int64)
            memory = pointer.memory.viewed_as(element, pointer.memory.start % new)
            return Pointer(memory, tuple(combined([*(term // new for term in terms), *([start] if start.any() else [])])))
        pointer = MixedPointer((pointer.memory,), np.zeros((1,) * terms[0].ndim, dtype=np.int64), pointer.offsets())
    return pointing(*pointer.places(), element)


BUILDERS: dict[str, Builder] = {
    "tt.addptr": _addptr,
    "tt.load": _load,
    "tt.store": _store,
    "tt.int_to_ptr": _int_to_ptr,
    "tt.ptr_to_int": _ptr_to_int,
}
