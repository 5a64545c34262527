"""Defects planted into the engine, each of which the random kernels must find."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any
from unittest import mock

import numpy as np

from tridiff.harness.engines.cpu import control, formats, memory, ops_arith, ops_reduce, ttir
from tridiff.harness.engines.cpu.machine import Lanes
from tridiff.harness.engines.cpu.program import Bound

Patch = Callable[[], Any]
"""Makes a context manager within which the engine has the defect."""


def _attribute(module: Any, name: str, change: Callable[[Any], Any]) -> Patch:
    return lambda: mock.patch.object(module, name, change(getattr(module, name)))


def _builder(operation: str, change: Callable[[Any], Any]) -> Patch:
    return lambda: mock.patch.dict(ttir.BUILDERS, {operation: change(ttir.BUILDERS[operation])})


def _as(operation: str) -> Callable[[Any], Any]:
    """Another operation's implementation."""
    return lambda _: ttir.BUILDERS[operation]


def _computed(function: Callable[..., Any]) -> Callable[[Any], Any]:
    return lambda _: ops_arith._binary(function)


def _with_property(name: str, change: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """The operation with one of its properties changed."""

    def changed(build: Any) -> Any:
        def apply(op: Bound) -> Any:
            properties = {**op.operation.properties, name: change(op.operation.properties[name])}
            return build(dataclasses.replace(op, operation=dataclasses.replace(op.operation, properties=properties)))

        return apply

    return changed


def _sides_swapped(build: Any) -> Any:
    return lambda op: build(dataclasses.replace(op, bodies=op.bodies[::-1]) if all(op.bodies) else op)


def _order_lost(merge: Any) -> Any:
    return lambda pieces, order, count: merge(pieces, np.sort(order), count)


def _first_lane_stays(scatter: Any) -> Any:
    def changed(target: Any, terms: Any, masks: Any, raw: Any, line: str) -> None:
        # Reversed along every lane axis: of lanes that share an address the first is then written last.
        rank = max(array.ndim for array in (*terms, raw))
        lanes = (slice(None), *(slice(None, None, -1),) * (rank - 1))
        scatter(target, [term[lanes] for term in terms], [mask[lanes] for mask in masks], raw[lanes], line)

    return changed


def _unmasked(scatter: Any) -> Any:
    return lambda target, terms, _masks, values, shape, **line: scatter(target, terms, [], values, shape, **line)


def _other_ignored(gather: Any) -> Any:
    return lambda target, terms, masks, _other, shape: gather(target, terms, masks, None, shape)


def _lost_in_branch(subset: Any) -> Any:
    """A branch sees the first programs in place of those that took it."""
    return lambda self, chosen, count, slots: subset(self, slice(0, count), count, slots)


def _unfused(_build: Any) -> Any:
    def build(op: Bound) -> Any:
        (a, b, c), (out,) = op.ins, op.outs
        finish = ops_arith._finisher(op.result.element)

        def run(lanes: Any) -> None:
            lanes.regs[out] = finish(finish(lanes.array(a) * lanes.array(b)) + lanes.array(c))

        return run

    return build


def _nearest_twice(_round: Any) -> Any:
    return lambda x, element: formats.ROUND[element](np.asarray(x, dtype=np.float32))


def _truncated(_round: Any) -> Any:
    return lambda x: (x.view(np.uint32) & np.uint32(0xFFFF0000)).view(np.float32)


def _plain(_round: Any) -> Any:
    return np.asarray


def _rounding(element: str, change: Callable[[Any], Any]) -> Patch:
    return lambda: mock.patch.dict(formats.ROUND, {element: change(formats.ROUND[element])})


def _floor(a: Any, b: Any) -> Any:
    return np.floor_divide(a, np.where(b == 0, 1, b).astype(b.dtype))


def _sign_of_divisor(a: Any, b: Any) -> Any:
    return np.remainder(a, np.where(b == 0, 1, b).astype(b.dtype))


DEFECTS: dict[str, Patch] = {
    "divergent values merged in the wrong order": _attribute(control, "_merge", _order_lost),
    "a store ignores its mask": _attribute(memory, "scatter", _unmasked),
    "integer quotient rounds down": _builder("arith.divsi", _computed(_floor)),
    "unsigned comparison is signed": _builder("arith.cmpi", _with_property("predicate", lambda p: p - 4 if p >= 6 else p)),
    "sides of if swapped": _builder("scf.if", _sides_swapped),
    "bf16 results not rounded": _rounding("bf16", _plain),
    "bf16 results truncated": _rounding("bf16", _truncated),
    "fp16 results not rounded": _rounding("f16", _plain),
    "remainder has the sign of the divisor": _builder("arith.remsi", _computed(_sign_of_divisor)),
    "logical shift is arithmetic": _builder("arith.shrui", _as("arith.shrsi")),
    "arithmetic shift is logical": _builder("arith.shrsi", _as("arith.shrui")),
    "zero extension is sign extension": _builder("arith.extui", _as("arith.extsi")),
    "unsigned maximum is signed": _builder("arith.maxui", _as("arith.maxsi")),
    "unsigned division is signed": _builder("arith.divui", _as("arith.divsi")),
    "unsigned to float is signed": _builder("arith.uitofp", _as("arith.sitofp")),
    "integers rounded twice on the way to 16-bit floats": _attribute(formats, "round_once", _nearest_twice),
    "fma rounds twice": _builder("math.fma", _unfused),
    "maximum propagates NaN": _builder("arith.maxnumf", _as("arith.maximumf")),
    "`other` of a masked load ignored": _attribute(memory, "gather", _other_ignored),
    "the first lane that shares an address stays": _attribute(memory, "_scatter_lanes", _first_lane_stays),
    "transposition does nothing": _builder("tt.trans", _with_property("order", sorted)),
    "unordered comparison is ordered": _builder("arith.cmpf", _with_property("predicate", lambda p: p - 7 if p >= 8 else p)),
    "axis of reduction ignored": _attribute(
        ops_reduce, "_spread", lambda spread: lambda x, a, n: np.sort(spread(x, a, n), axis=-1)
    ),
    "a branch reads other programs' values": _attribute(Lanes, "subset", _lost_in_branch),
    "program ids of the second axis ignored": _builder("tt.get_program_id", _with_property("axis", lambda _: 0)),
}


@contextmanager
def planted(name: str) -> Iterator[None]:
    """The engine with that defect."""
    with ExitStack() as stack:
        stack.enter_context(DEFECTS[name]())
        yield
