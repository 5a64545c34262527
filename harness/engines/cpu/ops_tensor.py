"""Triton's own operations: programs and shapes."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from tridiff.harness.api import Poison
from tridiff.harness.engines.cpu import formats
from tridiff.harness.engines.cpu.formats import Array
from tridiff.harness.engines.cpu.machine import Lanes, Step
from tridiff.harness.engines.cpu.memory import undefined
from tridiff.harness.engines.cpu.program import Bound, Builder
from tridiff.harness.engines.cpu.values import MixedPointer, Pointer, Value, dense, full, mapped, unified


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


def _join(op: Bound) -> Step:
    """Two tensors side by side along a new last axis."""
    shape = op.operand(0).shape
    return _together(op, lambda parts: _stacked(parts, shape, len(shape) + 1))


def _together(op: Bound, change: Callable[[list[Array]], Array]) -> Step:
    """One value of several, which may be pointers."""
    (out,) = op.outs

    def run(lanes: Lanes) -> None:
        lanes.regs[out] = _changed([lanes.value(slot) for slot in op.ins], change)

    return run


def _changed(values: Sequence[Value], change: Callable[[list[Array]], Array]) -> Value:
    pointers = [value for value in values if isinstance(value, (Pointer, MixedPointer))]
    if not pointers:
        return change([dense(value) for value in values])
    memories, mixed = unified(pointers)
    offsets = change([pointer.offsets for pointer in mixed])
    if len(memories) == 1:
        return Pointer(memories[0], (offsets,))
    return MixedPointer(memories, change([pointer.which for pointer in mixed]), offsets)


def _stacked(parts: list[Array], shape: tuple[int, ...], axis: int) -> Array:
    programs = max(part.shape[0] for part in parts)
    return np.stack([np.broadcast_to(part, (programs, *shape)) for part in parts], axis=axis)


def _split(op: Bound) -> Step:
    """The two halves of a last axis of size two."""
    (a,) = op.ins

    def run(lanes: Lanes) -> None:
        for half, out in enumerate(op.outs):
            lanes.regs[out] = mapped(lanes.value(a), _half(half))

    return run


def _half(half: int) -> Callable[[Array], Array]:
    return lambda array: array[..., half if array.shape[-1] > 1 else 0]


def _cat(op: Bound) -> Step:
    """One tensor after the other; Triton leaves the order of the result's elements open (can_reorder)."""
    shape = op.operand(0).shape

    def change(parts: list[Array]) -> Array:
        pair = _stacked(parts, shape, 1)
        return pair.reshape(pair.shape[0], -1, *shape[1:])

    return _together(op, change)


def _gather(op: Bound) -> Step:
    """Elements picked along an axis; an index outside gives an undefined value.

    Narrow indices count as unsigned: Triton's lowering extends them with zeros (GatherOpToLLVM).
    """
    (source, index), (out,) = op.ins, op.outs
    axis = op.operation.properties["axis"] + 1
    shapes = op.operand(0).shape, op.operand(1).shape
    element, size = op.operand(0).element, op.operand(0).shape[axis - 1]

    def run(lanes: Lanes) -> None:
        places = full(_unsigned(lanes.array(index)), shapes[1])
        inside = places < size
        safe = np.where(inside, places, 0).astype(np.int64)
        picked = mapped(lanes.value(source), lambda values: np.take_along_axis(full(values, shapes[0]), safe, axis=axis))
        if not inside.all():
            if not isinstance(picked, np.ndarray):
                picked = dense(picked)
            picked = np.where(inside, picked, undefined(element, picked.ndim, lanes.space.poison))
        lanes.regs[out] = picked

    return run


def _unsigned(array: Array) -> Array:
    return array.view(f"u{array.dtype.itemsize}") if array.dtype.kind == "i" else array.astype(np.uint8)


def _histogram(op: Bound) -> Step:
    """Counts of the values 0, 1, 2, ..., of active lanes.

    What a value beyond the last bin does is undefined. The code that Triton generates looks at the low bits of the value alone
    (for AMD; for NVIDIA up to 3.7), and for a wavefront of 64 at more bits than few bins have; or it drops the value (for
    NVIDIA from 3.8). So under one poison it is counted by its low bits, under the other dropped.
    """
    (out,) = op.outs
    shape, bins = op.operand(0).shape, op.result.shape[0]
    target = formats.compute_dtype(op.result.element)

    def run(lanes: Lanes) -> None:
        values = _unsigned(lanes.array(op.ins[0]))
        active = lanes.array(op.ins[1]) if len(op.ins) > 1 else np.ones((1, 1), np.bool_)
        if lanes.space.poison is Poison.QUIET:
            active = active & (values < bins)
        programs = max(values.shape[0], active.shape[0])
        bin_of = (values & values.dtype.type(bins - 1 & np.iinfo(values.dtype).max)).astype(np.int64)
        flat = np.broadcast_to(bin_of + bins * np.arange(programs)[:, None], (programs, *shape))
        counts = np.bincount(flat[np.broadcast_to(active, flat.shape)], minlength=programs * bins)
        lanes.regs[out] = counts.reshape(programs, bins).astype(target)

    return run


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
    "tt.join": _join,
    "tt.split": _split,
    "tt.cat": _cat,
    "tt.gather": _gather,
    "tt.histogram": _histogram,
}
