"""Reductions, scans, and functions applied lane by lane.

The order in which a reduction or a scan combines is unspecified in Triton: the combiner is taken to be associative, and for a
reduction commutative too. What a sum of floats gives here is one legal order's result.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from tridiff.harness.engines.cpu import extremes, formats
from tridiff.harness.engines.cpu.control import run_blocks
from tridiff.harness.engines.cpu.formats import Array
from tridiff.harness.engines.cpu.ir import Operation
from tridiff.harness.engines.cpu.machine import POSITION_SLOT, RESERVED_SLOTS, Lanes, Step
from tridiff.harness.engines.cpu.program import Body, Bound, Builder
from tridiff.harness.engines.cpu.values import dense, full, take

Combine = Callable[[Lanes, list[Array]], list[Array]]

_UFUNCS: dict[str, np.ufunc] = {
    "arith.addf": np.add,
    "arith.mulf": np.multiply,
    "arith.addi": np.add,
    "arith.muli": np.multiply,
    "arith.maxnumf": np.fmax,
    "arith.minnumf": np.fmin,
    "arith.maximumf": np.maximum,
    "arith.minimumf": np.minimum,
    "arith.maxsi": np.maximum,
    "arith.minsi": np.minimum,
    "arith.andi": np.bitwise_and,
    "arith.ori": np.bitwise_or,
    "arith.xori": np.bitwise_xor,
}
_ROUNDING = {"arith.addf", "arith.mulf"}
_EXTREMES = {np.fmax, np.fmin, np.maximum, np.minimum}
_FLOATS = {np.float32, np.float64}
_OF_BOOLEANS = {"arith.addi": np.bitwise_xor, "arith.muli": np.bitwise_and}


def _ufunc(op: Bound) -> np.ufunc | None:
    """NumPy's own function for a combiner of one operation on one value; None for any other, or where it must round."""
    block = op.operation.regions[0].blocks[0]
    if len(op.ins) != 1 or len(block.operations) != 2 or len(op.operation.regions[0].blocks) != 1:
        return None
    first, last = block.operations
    element = op.operand(0).element
    if set(first.operands) != {name for name, _ in block.arguments} or last.operands != first.results:
        return None
    if element in formats.ROUND and first.name in _ROUNDING:
        return None
    return _OF_BOOLEANS.get(first.name, _UFUNCS.get(first.name)) if element == "i1" else _UFUNCS.get(first.name)


def _combiner(op: Bound) -> Combine:
    """The operation's region as a function of arrays: the accumulated values, then the new ones."""
    blocks = op.bodies[0]
    straight = len(blocks) == 1 and not any(_inner(op.operation))
    return _straight(blocks) if straight else lambda lanes, operands: run_lanewise(blocks, lanes, operands)


def _inner(operation: Operation) -> Iterator[Operation]:
    """Operations in the region that are more than arithmetic: they have regions of their own, call, or ask who runs them."""
    for block in operation.regions[0].blocks:
        yield from (inner for inner in block.operations if inner.regions or inner.name in {"tt.call", "tt.get_program_id"})


def _straight(blocks: list[Body]) -> Combine:
    (body,) = blocks
    captured = body.reads - set(range(RESERVED_SLOTS))

    def combine(lanes: Lanes, operands: list[Array]) -> list[Array]:
        # Triton's passes move constants out of the region; a scalar that differs between programs would meet the wrong axis.
        if any(lanes.array(slot).shape[0] > 1 for slot in captured):
            return run_lanewise(blocks, lanes, operands)
        for slot, value in zip(body.arguments, operands, strict=True):
            lanes.regs[slot] = value
        body.run(lanes)
        results = [lanes.array(slot) for slot in body.passed]
        # A combiner that returns a constant has made it without axes.
        return [result if result.ndim == operands[0].ndim else np.broadcast_to(result, operands[0].shape) for result in results]

    return combine


def run_lanewise(blocks: list[Body], lanes: Lanes, operands: list[Array]) -> list[Array]:
    """A region of scalars run for every lane of the operands, as if each were a program: lanes may branch differently."""
    # All programs, even where the operands agree: the region may ask for the program id.
    programs = (lanes.count, *(1,) * (operands[0].ndim - 1))
    shape = np.broadcast_shapes(programs, *(operand.shape for operand in operands))
    count = int(np.prod(shape))
    owner = np.broadcast_to(np.arange(shape[0]).reshape(-1, *(1,) * (len(shape) - 1)), shape).ravel()
    reads = frozenset().union(*(body.reads for body in blocks))
    regs: list[Any] = [None] * len(lanes.regs)
    for slot in reads:
        if lanes.regs[slot] is not None:
            regs[slot] = take(lanes.regs[slot], owner)
    part = Lanes(regs, count, lanes.grid, lanes.budget, lanes.space)
    part.regs[POSITION_SLOT] = np.arange(count)
    for slot, operand in zip(blocks[0].arguments, operands, strict=True):
        part.regs[slot] = np.broadcast_to(operand, shape).ravel()
    results = [dense(value) for value in run_blocks(blocks, part)]
    return [np.broadcast_to(result, count).reshape(shape) for result in results]


def _reduce(op: Bound) -> Step:
    """A known combiner of one value is NumPy's reduction; any other is a binary tree."""
    axis = op.operation.properties["axis"] + 1
    shape = op.operand(0).shape
    function = _ufunc(op)
    if function is not None:
        return _reduce_known(op, axis, shape[axis - 1], function)
    combine = _combiner(op)

    def run(lanes: Lanes) -> None:
        parts = [_spread(lanes.array(slot), axis, shape[axis - 1]) for slot in op.ins]
        for slot, value in zip(op.outs, _tree(parts, axis, combine, lanes), strict=True):
            lanes.regs[slot] = value

    return run


def _reduce_known(op: Bound, axis: int, size: int, function: np.ufunc) -> Step:
    (a,), (out,) = op.ins, op.outs
    target = formats.compute_dtype(op.result.element)

    def run(lanes: Lanes) -> None:
        lanes.regs[out] = extremes.reduce(function, _spread(lanes.array(a), axis, size), axis).astype(target, copy=False)

    return run


def _spread(array: Array, axis: int, size: int) -> Array:
    if array.shape[axis] == size:
        return array
    return np.broadcast_to(array, (*array.shape[:axis], size, *array.shape[axis + 1 :]))


def _tree(parts: list[Array], axis: int, combine: Combine, lanes: Lanes) -> list[Array]:
    """Combine the first half with the second until one is left; sizes are powers of two in Triton."""
    while parts[0].shape[axis] > 1:
        half = parts[0].shape[axis] // 2
        parts = [part.swapaxes(0, axis) for part in parts]
        operands = [part[:half].swapaxes(0, axis) for part in parts] + [part[half:].swapaxes(0, axis) for part in parts]
        parts = combine(lanes, operands)
    return [part.squeeze(axis) for part in parts]


def _scan(op: Bound) -> Step:
    """An inclusive scan; `reverse` scans from the last element to the first."""
    axis = op.operation.properties["axis"] + 1
    backwards = bool(op.operation.properties.get("reverse", False))
    shapes = [op.operand(index).shape for index in range(len(op.ins))]
    elements = [kind.element for kind in op.operation.result_types]
    function = _ufunc(op)
    combine = _combiner(op)
    if function in _EXTREMES and formats.compute_dtype(elements[0]) in _FLOATS:
        function = None  # NumPy leaves the order of zeros open

    def run(lanes: Lanes) -> None:
        parts = [full(lanes.array(slot), shape) for slot, shape in zip(op.ins, shapes, strict=True)]
        parts = [np.flip(part, axis) for part in parts] if backwards else parts
        if function is not None:
            results = [function.accumulate(parts[0], axis=axis, dtype=parts[0].dtype)]
        else:
            results = _prefixes(parts, axis, combine, lanes)
        for slot, result, element in zip(op.outs, results, elements, strict=True):
            kind = formats.compute_dtype(element)
            lanes.regs[slot] = (np.flip(result, axis) if backwards else result).astype(kind, copy=False)

    return run


def _prefixes(parts: list[Array], axis: int, combine: Combine, lanes: Lanes) -> list[Array]:
    """All prefixes in log2(n) steps: after step k each element combines the 2^k up to it (Hillis and Steele, 1986)."""
    # All programs, even where the operands agree: the combiner may depend on the program.
    parts = [np.moveaxis(np.broadcast_to(part, (lanes.count, *part.shape[1:])), axis, 0).copy() for part in parts]
    size, distance = parts[0].shape[0], 1
    while distance < size:
        earlier = [np.moveaxis(part[:-distance], 0, axis) for part in parts]
        later = [np.moveaxis(part[distance:], 0, axis) for part in parts]
        for part, value in zip(parts, combine(lanes, [*earlier, *later]), strict=True):
            part[distance:] = np.moveaxis(value, axis, 0)
        distance *= 2
    return [np.moveaxis(part, 0, axis) for part in parts]


def _map_elementwise(op: Bound) -> Step:
    """A scalar function of each lane; with `pack` of p it sees p neighbouring lanes of the last axis at once."""
    pack = int(op.operation.properties.get("pack", 1))
    shape = op.operand(0).shape
    blocks = op.bodies[0]

    def run(lanes: Lanes) -> None:
        operands: list[Array] = []
        for slot in op.ins:
            flat = full(lanes.array(slot), shape).reshape(-1, int(np.prod(shape)) // pack, pack)
            operands += [flat[..., lane] for lane in range(pack)]
        results = run_lanewise(blocks, lanes, operands)
        for index, slot in enumerate(op.outs):
            packed = np.stack(results[index * pack : (index + 1) * pack], axis=-1)
            lanes.regs[slot] = packed.reshape(packed.shape[0], *shape)

    return run


BUILDERS: dict[str, Builder] = {"tt.reduce": _reduce, "tt.scan": _scan, "tt.map_elementwise": _map_elementwise}
