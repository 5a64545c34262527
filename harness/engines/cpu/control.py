"""Control flow by compaction: programs that left a loop or branch are dropped, so bodies need no masks.

A loop whose programs take different numbers of steps runs them in order of descending trip count: those still running are
then always a prefix, and dropping the others is a slice.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from tridiff.harness.engines.cpu.errors import KernelError
from tridiff.harness.engines.cpu.formats import Array
from tridiff.harness.engines.cpu.machine import POSITION_SLOT, PROGRAM_ID_SLOTS, Lanes, Step
from tridiff.harness.engines.cpu.program import JUMPS, Body, Bound, Builder, Function
from tridiff.harness.engines.cpu.values import Value, merged, take

Pieces = list[tuple[list[Value], int]]


def build_if(op: Bound) -> Step:
    """scf.if: one side alone where all programs agree, else both, each for its programs."""
    condition = op.ins[0]
    sides = [bodies[0] if bodies else None for bodies in op.bodies]

    def run(lanes: Lanes) -> None:
        mask = lanes.array(condition)
        if mask.shape[0] == 1 or mask.all() or not mask.any():
            _assign(lanes, op.outs, _run_side(sides[0 if mask.flat[0] else 1], lanes))
            return
        chosen = [np.flatnonzero(mask), np.flatnonzero(~mask)]
        pieces: Pieces = []
        for side, programs in zip(sides, chosen, strict=True):
            part = lanes.subset(programs, len(programs), side.reads if side else ())
            pieces.append((_run_side(side, part), len(programs)))
        _assign(lanes, op.outs, _merge(pieces, np.concatenate(chosen), len(op.outs)))

    return run


def _run_side(side: Body | None, lanes: Lanes) -> list[Value]:
    if side is None:
        return []
    side.run(lanes)
    return [lanes.value(slot) for slot in side.passed]


def build_for(op: Bound) -> Step:
    """scf.for: (lower, upper, step, initial values); block arguments (induction variable, carried values)."""
    (body,) = op.bodies[0]
    line = op.line
    unsigned = bool(op.operation.properties.get("unsignedCmp", False))

    def run(lanes: Lanes) -> None:
        lower, upper, step = (lanes.array(slot) for slot in op.ins[:3])
        if unsigned and ((lower < 0).any() or (upper < 0).any()):
            raise op.unsupported("unsigned bounds of 2^31 and more")
        carried = [lanes.value(slot) for slot in op.ins[3:]]
        trips = _trip_counts(lower, upper, step, line)
        if trips.shape[0] == 1 or trips.min() == trips.max():
            results = _uniform_loop(body, lanes, lower, step, int(trips[0]), carried, line)
        else:
            results = _ragged_loop(body, lanes, lower, step, trips, carried, line)
        _assign(lanes, op.outs, results)

    return run


def _trip_counts(lower: Array, upper: Array, step: Array, line: str) -> Array:
    distance = upper.astype(np.int64) - lower.astype(np.int64)
    if ((step == 0) & (distance > 0)).any():
        raise KernelError("hang", "a loop has a step of 0", line)
    if (step < 0).any():
        raise KernelError("launch", "a loop has a negative step, which Triton does not define", line)
    # A step of 0 is harmless where there is nothing to do.
    pace = np.maximum(step, 1).astype(np.int64)
    trips = np.asarray(np.maximum(-(-distance // pace), 0))
    if (lower.astype(np.int64) + trips * pace > np.iinfo(lower.dtype).max).any():
        raise KernelError("hang", "a loop index wraps around before it reaches the upper bound", line)
    return trips


def _uniform_loop(
    body: Body, lanes: Lanes, lower: Array, step: Array, trips: int, carried: list[Value], line: str
) -> list[Value]:
    induction, *arguments = body.arguments
    current = lower
    for _ in range(trips):
        lanes.budget.tick(line)
        lanes.regs[induction] = current
        _assign(lanes, arguments, carried)
        body.run(lanes)
        carried = [lanes.value(slot) for slot in body.passed]
        current = current + step
    return carried


def _ragged_loop(
    body: Body, lanes: Lanes, lower: Array, step: Array, trips: Array, carried: list[Value], line: str
) -> list[Value]:
    induction, *arguments = body.arguments
    order = np.argsort(-trips, kind="stable")
    remaining = trips[order]
    part = lanes.subset(order, lanes.count, body.reads)
    carried = [take(value, order) for value in carried]
    current = np.broadcast_to(lower, trips.shape)[order]
    pace = np.broadcast_to(step, trips.shape)[order]
    pieces: Pieces = []
    for trip in range(int(remaining[0]) + 1):
        running = int(np.searchsorted(-remaining, -trip, side="left"))
        if running < part.count:
            pieces.append(([take(value, slice(running, None)) for value in carried], part.count - running))
            carried = [take(value, slice(0, running)) for value in carried]
            part = part.subset(slice(0, running), running, body.reads)
            current, pace = current[:running], pace[:running]
        if running == 0:
            break
        lanes.budget.tick(line)
        part.regs[induction] = current
        _assign(part, arguments, carried)
        body.run(part)
        carried = [part.value(slot) for slot in body.passed]
        current = current + pace
    pieces.reverse()
    return _merge(pieces, order, len(carried))


def build_while(op: Bound) -> Step:
    """scf.while: a `before` region that decides and forwards, an `after` region that computes the next arguments."""
    (before,), (after,) = op.bodies
    line = op.line
    reads = before.reads | after.reads

    def run(lanes: Lanes) -> None:
        programs = np.arange(lanes.count)
        part = lanes.subset(slice(None), lanes.count, reads)
        carried = [lanes.value(slot) for slot in op.ins]
        pieces: Pieces = []
        order: list[Array] = []
        while len(programs):
            lanes.budget.tick(line)
            _assign(part, before.arguments, carried)
            before.run(part)
            proceed = np.broadcast_to(part.array(before.passed[0]), (part.count,))
            forwarded = [part.value(slot) for slot in before.passed[1:]]
            if not proceed.all():
                done = np.flatnonzero(~proceed)
                pieces.append(([take(value, done) for value in forwarded], len(done)))
                order.append(programs[done])
                kept = np.flatnonzero(proceed)
                programs = programs[kept]
                part = part.subset(kept, len(kept), reads)
                forwarded = [take(value, kept) for value in forwarded]
                if not len(kept):
                    break
            _assign(part, after.arguments, forwarded)
            after.run(part)
            carried = [part.value(slot) for slot in after.passed]
        _assign(lanes, op.outs, _merge(pieces, np.concatenate(order), len(op.outs)))

    return run


def _assign(lanes: Lanes, slots: Iterable[int], values: Iterable[Value]) -> None:
    regs = lanes.regs
    for slot, value in zip(slots, values, strict=True):
        regs[slot] = value


def _merge(pieces: Pieces, order: Any, count: int) -> list[Value]:
    return [merged([(values[i], size) for values, size in pieces], order) for i in range(count)]


@dataclass(frozen=True)
class _Entry:
    """A block and the slots that it, or a block reachable from it, reads from outside itself."""

    body: Body
    live: frozenset[int]


def run_function(function: Function, lanes: Lanes) -> list[Value]:
    """Execute a function; its results, for the programs in the order in which they entered."""
    return run_blocks(function.blocks, lanes)


def run_blocks(blocks: Sequence[Body], lanes: Lanes) -> list[Value]:
    """Execute a control-flow graph; programs that branch differently part ways until they return."""
    if len(blocks) == 1:
        return _run_side(blocks[0], lanes)
    entries = _entries(tuple(blocks))
    pending = [(entries[blocks[0].label], lanes)]
    pieces: Pieces = []
    order: list[Array] = []
    while pending:
        entry, group = pending.pop()
        results = _run_side(entry.body, group)
        if entry.body.terminator.name in JUMPS:
            # Reversed, so that the first successor runs first.
            pending.extend(reversed(_leave(entry.body, group, entries)))
        elif results:
            pieces.append((results, group.count))
            order.append(group.array(POSITION_SLOT))
    if len(pieces) <= 1:
        return pieces[0][0] if pieces else []
    return _merge(pieces, np.concatenate(order), len(pieces[0][0]))


def build_call(op: Bound) -> Step:
    """tt.call: a function that is not inlined, with registers of its own."""
    callee = op.callee
    if callee is None:
        raise op.unsupported("a function that the module does not define")

    def run(lanes: Lanes) -> None:
        regs: list[Any] = [None] * callee.slots
        regs[:PROGRAM_ID_SLOTS] = lanes.regs[:PROGRAM_ID_SLOTS]
        regs[POSITION_SLOT] = np.arange(lanes.count)
        for slot, (parameter, _) in zip(op.ins, callee.arguments, strict=True):
            regs[parameter] = lanes.value(slot)
        lanes.budget.tick(op.line)
        _assign(lanes, op.outs, run_function(callee, Lanes(regs, lanes.count, lanes.grid, lanes.budget, lanes.space)))

    return run


def _leave(body: Body, lanes: Lanes, entries: dict[str, _Entry]) -> list[tuple[_Entry, Lanes]]:
    terminator = body.terminator
    lanes.budget.tick(body.line)
    if terminator.name == "cf.br":
        return [_enter(entries[terminator.successors[0]], lanes, body.passed)]
    mask = lanes.array(body.passed[0])
    count = terminator.properties["operandSegmentSizes"][1]
    passed = (body.passed[1 : 1 + count], body.passed[1 + count :])
    targets = [entries[label] for label in terminator.successors]
    if mask.shape[0] == 1 or mask.all() or not mask.any():
        side = 0 if mask.flat[0] else 1
        return [_enter(targets[side], lanes, passed[side])]
    groups = []
    for target, slots, chosen in zip(targets, passed, (np.flatnonzero(mask), np.flatnonzero(~mask)), strict=True):
        groups.append(_enter(target, lanes.subset(chosen, len(chosen), target.live.union(slots)), slots))
    return groups


def _enter(entry: _Entry, lanes: Lanes, passed: list[int]) -> tuple[_Entry, Lanes]:
    _assign(lanes, entry.body.arguments, [lanes.value(slot) for slot in passed])
    return entry, lanes


@functools.lru_cache(maxsize=4096)
def _entries(graph: tuple[Body, ...]) -> dict[str, _Entry]:
    blocks = {body.label: body for body in graph}
    entries = {}
    for label, body in blocks.items():
        seen, queue = {label}, [label]
        while queue:
            fresh = set(blocks[queue.pop()].terminator.successors) - seen
            seen |= fresh
            queue.extend(fresh)
        entries[label] = _Entry(body, frozenset().union(*(blocks[name].reads for name in seen)))
    return entries


BUILDERS: dict[str, Builder] = {"scf.if": build_if, "scf.for": build_for, "scf.while": build_while, "tt.call": build_call}
