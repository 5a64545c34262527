"""Tensor descriptors, which Triton keeps for NVIDIA parts with a TMA unit (sm_90 and newer) and rewrites for all others.

A descriptor names a tensor: base, shape, strides in elements. Its loads and stores move a block; what lies outside the shape
is filled on a load and left alone on a store.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

import numpy as np

from tridiff.harness.engines.cpu import formats, memory
from tridiff.harness.engines.cpu.formats import Array
from tridiff.harness.engines.cpu.machine import Lanes, Step
from tridiff.harness.engines.cpu.memory import OutOfBounds, active_cells
from tridiff.harness.engines.cpu.ops_arith import unsigned
from tridiff.harness.engines.cpu.ops_atomic import Update, in_turn
from tridiff.harness.engines.cpu.ops_memory import bounds_error, pointer_in
from tridiff.harness.engines.cpu.program import Bound, Builder
from tridiff.harness.engines.cpu.values import Descriptor, Pointer, full

Places = Callable[[Lanes], list[Array]]

_PAD_NAN = 2


def _make(op: Bound) -> Step:
    (out,) = op.outs
    rank = (len(op.ins) - 1) // 2
    fill_nan = op.operation.properties.get("padding", 1) == _PAD_NAN

    def run(lanes: Lanes) -> None:
        base = pointer_in(lanes, op.ins[0])
        if not isinstance(base, Pointer):
            raise op.unsupported("a descriptor of different tensors in different programs")
        numbers = [lanes.array(slot).astype(np.int64) for slot in op.ins[1:]]
        lanes.regs[out] = Descriptor(base, tuple(numbers[:rank]), tuple(numbers[rank:]), fill_nan)

    return run


def _described(lanes: Lanes, slot: int, op: Bound) -> Descriptor:
    value = lanes.regs[slot]
    if not isinstance(value, Descriptor):
        raise op.unsupported("a descriptor made on the host")
    return value


def _block(descriptor: Descriptor, places: Sequence[Array], shape: tuple[int, ...]) -> tuple[list[Array], list[Array]]:
    """Terms of element offsets, and masks of what lies inside, of a block whose coordinates are `places`, one an axis."""
    terms = [_axes(term, 0, len(shape)) for term in descriptor.pointer.terms]
    masks = []
    for axis, place in enumerate(places):
        size, stride = (_axes(numbers[axis], 0, len(shape)) for numbers in (descriptor.shape, descriptor.strides))
        terms.append(place * stride)
        masks.append((place >= 0) & (place < size))
    return terms, masks


def _axes(array: Array, before: int, after: int) -> Array:
    return array.reshape(array.shape[0], *(1,) * before, *array.shape[1:], *(1,) * after)


def _places(lanes: Lanes, slots: Sequence[int], shape: tuple[int, ...]) -> list[Array]:
    """Coordinates of a block that starts at the scalars in `slots`."""
    result = []
    for axis, (slot, size) in enumerate(zip(slots, shape, strict=True)):
        steps = np.arange(size, dtype=np.int64).reshape(1, *(1,) * axis, size, *(1,) * (len(shape) - axis - 1))
        result.append(_axes(lanes.array(slot).astype(np.int64), 0, len(shape)) + steps)
    return result


def _rows(lanes: Lanes, rows: int, column: int, shape: tuple[int, ...]) -> list[Array]:
    """Coordinates of the rows that a gather or scatter names (a tensor), from a column (a scalar) on."""
    steps = np.arange(shape[1], dtype=np.int64).reshape(1, 1, -1)
    return [_axes(lanes.array(rows).astype(np.int64), 0, 1), _axes(lanes.array(column).astype(np.int64), 0, 2) + steps]


def _load(op: Bound) -> Step:
    shape = _block_shape(op)
    return _loaded(op, shape, lambda lanes: _places(lanes, op.ins[1:], shape))


def _block_shape(op: Bound) -> tuple[int, ...]:
    """Shape of the blocks of a descriptor, `!tt.tensordesc<tensor<1x8xf32>>` up to 3.7, `!tt.tensordesc<1x8xf32>` later."""
    match = re.search(r"<((?:\d+x)+)", op.operand(0).element)
    if match is None:
        raise op.unsupported(f"the type {op.operand(0).element}")
    return tuple(int(size) for size in match.group(1).split("x")[:-1])


def _gather(op: Bound) -> Step:
    shape = op.result.shape
    return _loaded(op, shape, lambda lanes: _rows(lanes, op.ins[1], op.ins[2], shape))


def _loaded(op: Bound, shape: tuple[int, ...], places: Places) -> Step:
    (out,) = op.outs
    kind = formats.compute_dtype(op.result.element)
    target = op.result.shape  # without leading axes of size one, where Triton has merged a reshape into the load

    def run(lanes: Lanes) -> None:
        descriptor = _described(lanes, op.ins[0], op)
        terms, masks = _block(descriptor, places(lanes), shape)
        padding = np.nan if descriptor.fill_nan and op.result.is_float else 0
        fill = np.full((1,) * (1 + len(shape)), padding, dtype=kind)
        try:
            loaded = memory.gather(descriptor.pointer.memory, terms, masks, fill, shape)
        except OutOfBounds as error:
            raise bounds_error("load from", error, op, lanes) from None
        lanes.regs[out] = loaded if shape == target else full(loaded, shape).reshape(loaded.shape[0], *target)

    return run


def _store(op: Bound) -> Step:
    shape = op.operand(1).shape
    return _stored(op, 1, shape, lambda lanes: _places(lanes, op.ins[2:], shape))


def _scatter(op: Bound) -> Step:
    shape = op.operand(3).shape
    return _stored(op, 3, shape, lambda lanes: _rows(lanes, op.ins[1], op.ins[2], shape))


def _stored(op: Bound, value: int, shape: tuple[int, ...], places: Places) -> Step:
    line = op.line

    def run(lanes: Lanes) -> None:
        descriptor = _described(lanes, op.ins[0], op)
        terms, masks = _block(descriptor, places(lanes), shape)
        try:
            memory.scatter(descriptor.pointer.memory, terms, masks, lanes.array(op.ins[value]), shape, line=line)
        except OutOfBounds as error:
            raise bounds_error("store to", error, op, lanes) from None

    return run


_UPDATES: dict[int, Update] = {
    1: np.add,
    2: np.minimum,
    3: np.maximum,
    6: np.bitwise_and,
    7: np.bitwise_or,
    8: np.bitwise_xor,
}
"""By the attribute kind: add, min, max, and, or, xor (4 and 5, inc and dec, have no name in the language)."""


def _reduce(op: Bound) -> Step:
    """Combines a block with memory, element by element, atomically."""
    shape = op.operand(1).shape
    kind = op.operation.properties["kind"]
    if kind not in _UPDATES:
        raise op.unsupported(f"kind {kind}")
    formats.check_arithmetic(op.operand(1).element)
    # Which integers are unsigned is known from the descriptor alone.
    update = unsigned(_UPDATES[kind]) if re.search(r"xui\d+>", op.operand(0).element) else _UPDATES[kind]
    line = op.line

    def run(lanes: Lanes) -> None:
        descriptor = _described(lanes, op.ins[0], op)
        full_shape = (lanes.count, *shape)
        terms, masks = _block(descriptor, _places(lanes, op.ins[2:], shape), shape)
        values = np.broadcast_to(lanes.array(op.ins[1]), full_shape)
        try:
            cells, where = active_cells(descriptor.pointer.memory, terms, masks, full_shape)
        except OutOfBounds as error:
            raise bounds_error("atomic access to", error, op, lanes) from None
        memory, chosen = descriptor.pointer.memory, [values[where]]
        in_turn(memory, cells, chosen, lambda old, operands: update(old, operands[0]), line=line)

    return run


BUILDERS: dict[str, Builder] = {
    "tt.make_tensor_descriptor": _make,
    "tt.descriptor_load": _load,
    "tt.descriptor_store": _store,
    "tt.descriptor_gather": _gather,
    "tt.descriptor_scatter": _scatter,
    "tt.descriptor_reduce": _reduce,
}
