"""Atomic operations: one after the other, programs in lockstep order and the lanes of a program row by row.

That is one legal interleaving, and sequentially consistent: the orderings and scopes (relaxed, acquire, release; gpu, cta,
system) allow more, never less, so they are accepted and need nothing. The sum of several atomic additions of floats depends
on their order, which is unspecified.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np

from tridiff.harness.engines.cpu import formats
from tridiff.harness.engines.cpu.errors import KernelError
from tridiff.harness.engines.cpu.formats import Array
from tridiff.harness.engines.cpu.machine import Lanes, Step
from tridiff.harness.engines.cpu.memory import Memory, OutOfBounds, active_cells, undefined
from tridiff.harness.engines.cpu.ops_arith import unsigned
from tridiff.harness.engines.cpu.ops_memory import accesses, bounds_error, mask_terms, pointer_in
from tridiff.harness.engines.cpu.program import Bound, Builder

Update = Callable[[Array, Array], Array]
"""New content from the old content and the operand, both in compute representation."""


_UPDATES: dict[int, Update] = {
    1: np.bitwise_and,
    2: np.bitwise_or,
    3: np.bitwise_xor,
    4: np.add,
    5: np.add,
    6: np.maximum,
    7: np.minimum,
    8: unsigned(np.maximum),
    9: unsigned(np.minimum),
    10: lambda _, value: value,
}
"""By the attribute atomic_rmw_op: and, or, xor, add, fadd, max, min, umax, umin, xchg."""
_SIGNED_ORDER = {6, 7}
_EXCHANGE = 10
"""Stores its operand, whatever it finds."""


def _atomic_rmw(op: Bound) -> Step:
    pointer, value, *mask = op.ins
    kind = op.operation.properties["atomic_rmw_op"]
    if kind not in _UPDATES:
        raise op.unsupported(f"atomic_rmw_op {kind}")
    if kind in _SIGNED_ORDER and op.result.is_float:
        raise op.unsupported("signed order of floats")
    formats.check_arithmetic(op.result.element)
    update = _UPDATES[kind]
    return _atomic(op, pointer, [value], mask, lambda old, operands: update(old, operands[0]), stores=kind == _EXCHANGE)


def _atomic_cas(op: Bound) -> Step:
    pointer, expected, value = op.ins
    element = op.result.element

    def update(old: Array, operands: list[Array]) -> Array:
        # Bits are compared, not numbers: -0.0 is not 0.0, and a NaN equals itself.
        same = formats.encode(old, element).view(_BITS[element]) == formats.encode(operands[0], element).view(_BITS[element])
        return np.where(same, operands[1], old)

    if element not in _BITS:
        raise op.unsupported(f"of {element}")
    return _atomic(op, pointer, [expected, value], [], update)


_BITS = {element: f"u{np.dtype(stored).itemsize}" for element, stored in formats.MEMORY.items() if element != "index"}


def _atomic_load(op: Bound) -> Step:
    pointer, *mask = op.ins
    return _atomic(op, pointer, [], mask, lambda old, _: old)


def _atomic_store(op: Bound) -> Step:
    pointer, value, *mask = op.ins
    return _atomic(op, pointer, [value], mask, lambda _, operands: operands[0], stores=True)


def _atomic_poll(op: Bound) -> Step:
    """A wait for a value: programs run one after the other here, so it is there at once or never."""
    pointer, expected, *timeout = op.ins
    found = _atomic(op, pointer, [], [], lambda old, _: old)

    def run(lanes: Lanes) -> None:
        found(lanes)
        met = lanes.array(op.outs[0]) == lanes.array(expected)
        if not timeout and not met.all():
            raise KernelError("hang", "a program waits for a value that no program before it has written", op.line)
        lanes.regs[op.outs[0]] = met

    return run


def _atomic(
    op: Bound,
    pointer: int,
    slots: list[int],
    mask: list[int],
    update: Callable[[Array, list[Array]], Array],
    *,
    stores: bool = False,
) -> Step:
    """Every active lane replaces its cell by `update`; the result, if it has one, is what each lane found there.

    `stores`: the new content does not depend on the old.
    """
    line = op.line
    element = op.operand(0).element[1:]
    shape = op.operand(0).shape
    kind = formats.compute_dtype(element)

    def run(lanes: Lanes) -> None:
        full_shape = (lanes.count, *shape)
        operands = [np.broadcast_to(lanes.array(slot), full_shape) for slot in slots]
        masks = [term for slot in mask for term in mask_terms(lanes.value(slot))]
        result = np.empty(full_shape, dtype=kind)
        result[...] = undefined(element, len(full_shape), lanes.space.poison)
        try:
            for memory, terms, active in accesses(pointer_in(lanes, pointer), masks):
                cells, where = active_cells(memory, terms, active, full_shape)
                chosen = [operand[where] for operand in operands]
                result[where] = in_turn(memory, cells, chosen, update, line=line, stores=stores)
        except OutOfBounds as error:
            raise bounds_error("atomic access to", error, op, lanes) from None
        for out in op.outs:
            lanes.regs[out] = result

    return run


def in_turn(
    memory: Memory,
    cells: Array,
    operands: list[Array],
    update: Callable[[Array, list[Array]], Array],
    *,
    line: str,
    stores: bool = False,
) -> Array:
    """Update the cells (one-dimensional) one after the other; what each lane found. `line`, `stores`: see `_atomic`."""
    found = np.empty(cells.shape, dtype=formats.compute_dtype(memory.element))
    finish = formats.ROUND.get(memory.element, np.asarray)
    for lanes in _rounds(cells):
        at = cells[lanes]
        old = formats.decode(memory.cells[at], memory.element)
        found[lanes] = old
        new = formats.encode(finish(update(old, [operand[lanes] for operand in operands])), memory.element)
        memory.note(at if stores else at[memory.cells[at] != new], 1, line, is_update=not stores)
        memory.cells[at] = new
    return found


def _rounds(cells: Array) -> Iterator[Array]:
    """The lanes in rounds in which no cell occurs twice: the k-th access of every cell is in round k."""
    order = np.argsort(cells, kind="stable")
    ordered = cells[order]
    first = np.flatnonzero(np.concatenate([[True], ordered[1:] != ordered[:-1]])) if len(cells) else np.empty(0, dtype=np.intp)
    counts = np.diff(np.append(first, len(cells)))
    turn = np.arange(len(cells)) - np.repeat(first, counts)
    if turn.any():
        by_turn = np.argsort(turn, kind="stable")
        sizes = np.bincount(turn)
        yield from np.split(order[by_turn], np.cumsum(sizes)[:-1])
    else:
        yield order


BUILDERS: dict[str, Builder] = {
    "tt.atomic_rmw": _atomic_rmw,
    "tt.atomic_cas": _atomic_cas,
    "tt.atomic_load": _atomic_load,
    "tt.atomic_store": _atomic_store,
    "tt.atomic_poll": _atomic_poll,
}
