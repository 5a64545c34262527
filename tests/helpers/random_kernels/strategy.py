"""The Hypothesis strategy of random kernels.

What is left out, and why:
- Transcendental functions: their last bits are the target's; tests/harness/engine/test_math.py bounds them.
- Out-of-range shifts, division by zero, floats that do not fit an integer type: undefined, so never drawn.
- The payload and sign of NaN: one NaN equals another, and bits of NaN are never looked at.
- Which zero an extreme of -0 and +0 is, and the sign of -x for zero: the printed form adds 0.0 (see `elementwise`).
- Float sums that flow on: their rounding depends on an unspecified order. Sums of small integers do flow on; others are stored
  and compared within a proven bound.
- argmax and argmin of NaN, and without tie_break_left: several answers are right.
- Order and shifts of booleans, negative loop steps: the engine says Unsupported, as Triton gives them no use.
- Data shared between programs, but for atomics: a race has no one result.
- float64, FP8, tiles of more than 16 elements or two axes, helpers that take pointers, Python numbers in tl.where and in
  extremes: not written yet; nothing stands against them.
- Scalar arguments as operands of arithmetic: Triton makes a constant of one that is 1, so its type would hang on its value. They
  are bounds of loops.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from hypothesis import strategies as st
from hypothesis.strategies import SearchStrategy

from random_kernels.expressions import REGION, Expressions, binary, linear, literal, variable
from random_kernels.features import ENABLED, Features
from random_kernels.numbers import INTEGERS, KINDS, is_float
from random_kernels.tree import (
    Advance,
    Array,
    Atomic,
    Expect,
    For,
    If,
    Kernel,
    Let,
    LetPair,
    LetPointer,
    Node,
    ReturnIf,
    Shape,
    Statement,
    Store,
    While,
    numel,
)

MOST_STATEMENTS = 3
DEPTH = 2
"""Nested operations; a new variable may have one more."""


def kernels(features: Features = ENABLED) -> SearchStrategy[Kernel]:
    """Random kernels, with the constructs of `features` too."""
    return _kernels(features)


@st.composite
def _kernels(draw: Callable[[Any], Any], features: Features) -> Kernel:
    return _Writer(draw, features).kernel()


class _Writer(Expressions):
    """Draws statements."""

    def __init__(self, draw: Callable[[Any], Any], features: Features) -> None:
        super().__init__(draw, features)
        self._assignable: list[Node] = []
        self._scratch: list[Array] = []
        self._loops = 0

    def kernel(self) -> Kernel:
        """The whole kernel."""
        for _ in range(self.integer(1, 6)):
            self.new_variable()
        for _ in range(self.integer(0, MOST_STATEMENTS)):
            self.pick(self._top_level())()
        self._observe()
        return Kernel(self.grid, tuple(self.arrays), tuple(self.scalars), tuple(self.helpers), tuple(self.block))

    def _top_level(self) -> list[Callable[[], None]]:
        makers = [self.new_variable, self.if_, self.for_, self.while_, self.scatter, self.pair, self.pointer_loop, self.return_if]
        makers += [self.rounded_sum, self.for_, self.new_variable, self.permuted_store]
        return makers + [self.atomic, self.atomic_own] * self.features.atomics

    def _inner(self) -> list[Callable[[], None]]:
        makers = [self.assign, self.assign, self.assign, self.scatter]
        if self._loops < 2:
            makers += [self.if_, self.for_, self.while_]
        return makers

    def _observe(self) -> None:
        for node in self._assignable:
            target = self.output_array(node.kind, self.programs * numel(node.shape))
            self.block.append(Expect(node.value, node.kind))
            self.block.append(Store(target.name, self.own_index(node.shape), node))

    def _shape(self) -> Shape:
        return self.pick([(self.extent,), self.matrix, (self.extent,), ()])

    def new_variable(self) -> None:
        """A variable that later statements may change, and whose last value is observed."""
        shape = self._shape()
        node = self.expression(shape, self.pick([1, 2, DEPTH + 1])) if self.chance(3) else self.tabled(shape, self.integer(0, 1))
        if node.op in {"variable", "literal"}:
            node = binary("add", node, literal(1))
        self._assignable.append(self.let(node))

    def pair(self) -> None:
        """An extreme and its index."""
        shape = self.matrix
        axis = self.integer(0, 1)
        arg = self.extreme_source(shape, DEPTH - 1)
        kind = "float32" if arg.kind == "bfloat16" else arg.kind
        name = self.pick(["max", "min"])
        names = self.name("v"), self.name("v")
        kept = (shape[1 - axis],)
        self.block.append(LetPair(names, Node("extreme_pair", kind, kept, (arg,), (name, axis))))
        references = [variable(names[0], kind, kept), variable(names[1], "int32", kept)]
        self.scope += references
        self._assignable += references

    def assign(self) -> None:
        """A new value for an old variable, which often depends on the old one."""
        target = self.pick(self._assignable)
        node = self.expression(target.shape, DEPTH - 1)
        if self.chance(2):
            node = binary(self.pick(["add", "sub", "mul"]), target, node)
        self.block.append(Let(target.value, self.convert(node, target.kind)))

    def _body(self, makers: Callable[[], list[Callable[[], None]]], extra: list[Node]) -> list[Statement]:
        outer_block, outer_scope = self.block, self.scope
        self.block, self.scope = [], [*self.scope, *extra]
        self._loops += 1
        try:
            for _ in range(self.integer(1, 2)):
                self.pick(makers())()
            return self.block
        finally:
            self.block, self.scope = outer_block, outer_scope
            self._loops -= 1

    def _scalar_condition(self) -> Node:
        node = self.condition((), 1)
        if self.chance(4):
            return binary(self.pick(["and", "or"]), node, self.condition((), 1))
        return node

    def if_(self) -> None:
        """One side or both."""
        condition = self._scalar_condition()
        then = self._body(self._inner, [])
        other = self._body(self._inner, []) if self.chance(2) else []
        self.block.append(If(condition, tuple(then), tuple(other)))

    def for_(self) -> None:
        """A loop with bounds of its own for every program, or for all."""
        low = literal(0) if self.chance(2) else literal(self.integer(0, 2))
        high = self.count()
        step = literal(self.integer(1, 3))
        static = high.op in {"literal", "constexpr"} and self.chance(4)
        if self.chance(5) and not static:
            step = binary("or", self.loaded_count(), literal(1))
        name = self.name("i")
        body = self._body(self._inner, [] if static else [variable(name)])
        self.block.append(For(name, low, high, step, tuple(body), static))

    def while_(self) -> None:
        """A loop that counts down, and may stop earlier."""
        counter = self.let(binary("add", self.count(), binary("and", variable("pid"), literal(1))), "left")
        condition = binary("gt", counter, literal(0))
        if self.chance(3):
            condition = binary("and", condition, self.condition((), 1))
        body = self._body(self._inner, [])
        body.append(Let(counter.value, binary("sub", counter, literal(self.pick([1, 2])))))
        self.block.append(While(condition, tuple(body)))

    def return_if(self) -> None:
        """An early end."""
        if self._loops:
            return
        self.block.append(ReturnIf(self._scalar_condition()))

    def scatter(self) -> None:
        """A store to the program's own part of a scratch array, by computed indices: the last lane wins. Then a load."""
        shape = self.pick([(self.extent,), self.matrix])
        value = self.expression(shape, DEPTH - 1)
        target = self._scratch_of(value.kind)
        mask = self.condition(shape, 1) if self.chance(2) else None
        self.block.append(Store(target.name, self._region_index(shape), value, mask))
        if self.chance(2) and not self._loops:
            index = self._region_index(shape)
            self._assignable.append(self.let(Node("load", target.kind, shape, (index,), target.name)))

    def _scratch_of(self, kind: str) -> Array:
        known = [array for array in self._scratch if array.kind == kind]
        if known:
            return known[0]
        array = self.output_array(kind, self.programs * REGION, "small")
        self._scratch.append(array)
        return array

    def _region_index(self, shape: Shape) -> Node:
        start = binary("mul", variable("pid"), literal(REGION))
        form = self.pick(["linear", "permuted", "any"])
        if form == "linear":
            return binary("add", start, linear(shape))
        if form == "any":
            return binary("add", start, self.any_index(shape, REGION, 1))
        moved = binary("add", binary("mul", linear(shape), literal(self.pick([3, 5, 7]))), literal(self.integer(0, 7)))
        return binary("add", start, binary("and", moved, literal(REGION - 1)))

    def permuted_store(self) -> None:
        """A store by a permutation of all programs' elements."""
        shape = self.pick([(self.extent,), self.matrix])
        total = self.programs * numel(shape)
        if total & (total - 1):
            return
        value = self.expression(shape, DEPTH - 1)
        target = self.output_array(value.kind, total)
        moved = binary("mul", self.own_index(shape), literal(self.pick([3, 5, 7])))
        mask = self.condition(shape, 1) if self.chance(3) else None
        self.block.append(Store(target.name, binary("and", moved, literal(total - 1)), value, mask))

    def pointer_loop(self) -> None:
        """A pointer that a loop carries, advanced by all programs or by some."""
        array = self.input_array(KINDS)
        shape = (self.extent,)
        name = self.name("p")
        index = binary("add", binary("mul", variable("pid"), literal(2)), linear(shape))
        loaded = Node("load_pointer", array.kind, shape, value=(name, array.name))
        target = self.let(self.full(array.kind, shape), "v")
        self._assignable.append(target)
        self.block.append(LetPointer(name, array.name, index))
        body: list[Statement] = []
        combine = binary(self.pick(["add", "sub", "xor" if not is_float(array.kind) else "mul"]), target, loaded)
        body.append(Let(target.value, self.convert(combine, array.kind)))
        advance = Advance(name, literal(self.integer(1, 3)))
        body.append(If(self._scalar_condition(), (advance,)) if self.chance(3) else advance)
        self.block.append(For(self.name("i"), literal(0), self.count(), literal(1), tuple(body)))

    def rounded_sum(self) -> None:
        """A float sum of unspecified order, stored at once."""
        shape = self.matrix
        axis = self.integer(0, 1)
        arg = self.among(["float32", "float16", "bfloat16"], shape, DEPTH - 1)
        kept = (shape[1 - axis],)
        target = self.output_array(arg.kind, self.programs * kept[0])
        self.block.append(Store(target.name, self.own_index(kept), Node("sum_rounded", arg.kind, kept, (arg,), ("sum", axis))))

    def atomic(self) -> None:
        """An update of cells that programs and lanes share; the old value is not used."""
        value = self._atomic_value()
        operation = self.pick(["add", "max", "min", "and", "or", "xor"])
        target = self.output_array(value.kind, 8, "small")
        mask = self.condition(value.shape, 1) if self.chance(2) else None
        index = self.any_index(value.shape, target.length, 1)
        self.block.append(Atomic(operation, target.name, index, value, mask))

    def atomic_own(self) -> None:
        """An update of cells of the program's own, whose old values are used."""
        value = self._atomic_value()
        operation = self.pick(["add", "max", "min", "and", "or", "xor", "xchg"])
        target = self.output_array(value.kind, self.programs * numel(value.shape), "small")
        result = variable(self.name("v"), value.kind, value.shape)
        self.block.append(Atomic(operation, target.name, self.own_index(value.shape), value, None, result.value))
        self.scope.append(result)
        self._assignable.append(result)

    def _atomic_value(self) -> Node:
        kinds = [kind for kind in INTEGERS if kind in {"int32", "uint32", "int64", "uint64"}]
        return self.among(kinds, (self.extent,), DEPTH - 1)
