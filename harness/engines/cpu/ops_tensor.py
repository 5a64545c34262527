"""Triton's own operations: programs and shapes."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from tridiff.harness.engines.cpu import formats
from tridiff.harness.engines.cpu.formats import Array
from tridiff.harness.engines.cpu.machine import Lanes, Step
from tridiff.harness.engines.cpu.memory import undefined
from tridiff.harness.engines.cpu.program import Bound, Builder
from tridiff.harness.engines.cpu.values import full, mapped


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
    (a, b), (out,) = op.ins, op.outs
    shape = op.operand(0).shape

    def run(lanes: Lanes) -> None:
        lanes.regs[out] = _stacked([lanes.array(a), lanes.array(b)], shape, len(shape) + 1)

    return run


def _stacked(parts: list[Array], shape: tuple[int, ...], axis: int) -> Array:
    programs = max(part.shape[0] for part in parts)
    return np.stack([np.broadcast_to(part, (programs, *shape)) for part in parts], axis=axis)


def _split(op: Bound) -> Step:
    """The two halves of a last axis of size two."""
    (a,) = op.ins
    shape = op.operand(0).shape

    def run(lanes: Lanes) -> None:
        whole = full(lanes.array(a), shape)
        for half, out in enumerate(op.outs):
            lanes.regs[out] = whole[..., half]

    return run


def _cat(op: Bound) -> Step:
    """One tensor after the other; Triton leaves the order of the result's elements open (can_reorder)."""
    (a, b), (out,) = op.ins, op.outs
    shape = op.operand(0).shape

    def run(lanes: Lanes) -> None:
        pair = _stacked([lanes.array(a), lanes.array(b)], shape, 1)
        lanes.regs[out] = pair.reshape(pair.shape[0], -1, *shape[1:])

    return run


def _gather(op: Bound) -> Step:
    """Elements picked along an axis; an index outside gives an undefined value."""
    (source, index), (out,) = op.ins, op.outs
    axis = op.operation.properties["axis"] + 1
    shapes = op.operand(0).shape, op.operand(1).shape
    element, size = op.operand(0).element, op.operand(0).shape[axis - 1]

    def run(lanes: Lanes) -> None:
        values, places = (full(lanes.array(slot), shape) for slot, shape in zip((source, index), shapes, strict=True))
        inside = (places >= 0) & (places < size)
        picked = np.take_along_axis(values, np.where(inside, places, 0).astype(np.int64), axis=axis)
        unknown = undefined(element, picked.ndim, lanes.space.poison)
        lanes.regs[out] = picked if inside.all() else np.where(inside, picked, unknown)

    return run


def _histogram(op: Bound) -> Step:
    """Counts of the values 0, 1, 2, ..., of active lanes.

    Of a value beyond the last bin only the low bits count: Triton's lowering looks at no others (HistogramOpToLLVM).
    """
    (out,) = op.outs
    shape, bins = op.operand(0).shape, op.result.shape[0]
    target = formats.compute_dtype(op.result.element)

    def run(lanes: Lanes) -> None:
        arrays = [lanes.array(slot) for slot in op.ins]
        programs = max(array.shape[0] for array in arrays)
        values, *active = (np.broadcast_to(array, (programs, *shape)).astype(np.int64) for array in arrays)
        flat = (values & (bins - 1)) + bins * np.arange(programs)[:, None]
        weights = active[0].ravel() if active else None
        counts = np.bincount(flat.ravel(), weights=weights, minlength=programs * bins)
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
