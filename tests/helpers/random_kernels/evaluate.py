"""The independent evaluation: one program after the other, one scalar after the other, memory as plain lists.

What a float sum is depends on an order that Triton leaves open, so it is an `Approximate`: the exact rational sum, and how far
any order of rounded additions may lie from it. A masked-off lane of a load without `other` is `None`, as is what is computed
from it; such a cell is not compared.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from fractions import Fraction
from functools import reduce
from typing import Any

from random_kernels import numbers
from random_kernels.content import content
from random_kernels.elementwise import TABLE
from random_kernels.numbers import FLOATS, Number, is_float, wrap
from random_kernels.printing import SAFE_RANGE
from random_kernels.tree import (
    Advance,
    Atomic,
    Expect,
    For,
    Helper,
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


@dataclass(frozen=True)
class Approximate:
    """A float result of unspecified rounding: within `bound` of `exact`; `None` for `exact` means anything."""

    exact: Fraction | None
    bound: Fraction = Fraction(0)


Lane = Number | Approximate | None
Lanes = list[Any]
"""The elements of a tile in row-major order."""


class _Returned(Exception):
    """The program ended early."""


def evaluate(kernel: Kernel) -> dict[str, Lanes]:
    """The final content of every output array, by name."""
    memory = {array.name: content(array) for array in kernel.arrays}
    for z, y, x in itertools.product(*(range(extent) for extent in reversed((*kernel.grid, 1, 1)[:3]))):
        _Program(kernel, memory, x + (*kernel.grid, 1, 1)[0] * (y + (*kernel.grid, 1, 1)[1] * z)).run()
    return {array.name: memory[array.name] for array in kernel.arrays if array.output}


def spread(lanes: Lanes, source: Shape, target: Shape) -> Lanes:
    """A tile broadcast to another shape; missing axes are added in front."""
    if source == target:
        return lanes
    padded = (1,) * (len(target) - len(source)) + source
    return [lanes[_flat([i if extent > 1 else 0 for i, extent in zip(at, padded, strict=True)], padded)] for at in _cells(target)]


def _cells(shape: Shape) -> list[tuple[int, ...]]:
    return list(itertools.product(*(range(extent) for extent in shape)))


def _flat(at: Sequence[int], shape: Shape) -> int:
    return reduce(lambda total, axis: total * shape[axis] + at[axis], range(len(shape)), 0)


class _Program:
    """One program instance: its variables, and the memory that all share."""

    def __init__(self, kernel: Kernel, memory: dict[str, Lanes], number: int) -> None:
        self._kernel = kernel
        self._memory = memory
        self._kinds = {array.name: array.kind for array in kernel.arrays}
        self._helpers = {helper.name: helper for helper in kernel.helpers}
        self._variables: dict[str, Any] = {"pid": [number], **{scalar.name: [scalar.value] for scalar in kernel.scalars}}

    def run(self) -> None:
        """Execute the kernel up to its end or its first return."""
        with suppress(_Returned):
            self._block(self._kernel.body)

    def _block(self, statements: Sequence[Statement]) -> None:
        for statement in statements:
            _STATEMENTS[type(statement)](self, statement)

    def _let(self, statement: Let) -> None:
        self._variables[statement.name] = self.node(statement.node)

    def _let_pair(self, statement: LetPair) -> None:
        for name, lanes in zip(statement.names, _extreme_with_index(self, statement.node), strict=True):
            self._variables[name] = lanes

    def _let_pointer(self, statement: LetPointer) -> None:
        self._variables[statement.name] = self.node(statement.index)

    def _advance(self, statement: Advance) -> None:
        (by,) = self.node(statement.by)
        self._variables[statement.name] = [cell + by for cell in self._variables[statement.name]]

    def _if(self, statement: If) -> None:
        (condition,) = self.node(statement.condition)
        self._block(statement.then if condition else statement.other)

    def _for(self, statement: For) -> None:
        low, high, step = (self.node(bound)[0] for bound in (statement.low, statement.high, statement.step))
        for index in range(low, high, step):
            self._variables[statement.name] = [index]
            self._block(statement.body)

    def _while(self, statement: While) -> None:
        while self.node(statement.condition)[0]:
            self._block(statement.body)

    def _store(self, statement: Store) -> None:
        cells = self._memory[statement.array]
        for index, value, active in self._access(statement.index, statement.value, statement.mask):
            if active:
                cells[index] = value

    def _access(self, index: Node, value: Node, mask: Node | None) -> list[tuple[int, Any, Any]]:
        shape = index.shape
        values = spread(self.node(value), value.shape, shape)
        masks = spread(self.node(mask), mask.shape, shape) if mask else [1] * numel(shape)
        return list(zip(self.node(index), values, masks, strict=True))

    def _atomic(self, statement: Atomic) -> None:
        cells, kind = self._memory[statement.array], self._kinds[statement.array]
        before = []
        for index, value, active in self._access(statement.index, statement.value, statement.mask):
            before.append(cells[index] if active else None)
            if active:
                cells[index] = ATOMICS[statement.operation](kind, cells[index], value)
        if statement.result:
            self._variables[statement.result] = before

    def _return_if(self, statement: ReturnIf) -> None:
        if self.node(statement.condition)[0]:
            raise _Returned

    def _expect(self, _statement: Expect) -> None:
        pass

    def node(self, node: Node) -> Lanes:
        """The elements of an expression."""
        if node.op in TABLE:
            return self._elementwise(node)
        return _NODES[node.op](self, node)

    def _elementwise(self, node: Node) -> Lanes:
        operation = TABLE[node.op]
        literal = [at for at, arg in enumerate(node.args) if arg.op in {"literal", "constexpr"}]
        extra = {"literal": literal[0]} if literal else {}
        kind, _ = operation.rule(*(arg.kind for arg in node.args), **extra)
        columns = [self._converted(arg, kind, node.shape) for arg in node.args]
        return [None if None in lanes else operation.apply(kind, *lanes) for lanes in zip(*columns, strict=True)]

    def _converted(self, arg: Node, kind: str, shape: Shape) -> Lanes:
        lanes = spread(self.node(arg), arg.shape, shape)
        return [None if lane is None else numbers.cast(arg.kind, kind, lane) for lane in lanes]

    def _variable(self, node: Node) -> Lanes:
        return list(self._variables[node.value])

    def _literal(self, node: Node) -> Lanes:
        return [node.value]

    def _full(self, node: Node) -> Lanes:
        return [node.value] * numel(node.shape)

    def _arange(self, node: Node) -> Lanes:
        return list(range(node.value, node.value + node.shape[0]))

    def _program_count(self, node: Node) -> Lanes:
        return [(*self._kernel.grid, 1, 1)[node.value]]

    def _cast(self, node: Node) -> Lanes:
        return self._converted(node.args[0], node.kind, node.shape)

    def _cast_safe(self, node: Node) -> Lanes:
        (arg,) = node.args
        low, high = SAFE_RANGE[arg.kind, node.kind]
        lanes = self.node(arg)
        return [None if lane is None else int(lane) if low <= lane <= high else 0 for lane in lanes]

    def _bits(self, node: Node) -> Lanes:
        (arg,) = node.args
        lanes = (lane if lane is None or lane == lane else 0.0 for lane in self.node(arg))  # noqa: PLR0124 - NaN
        return [None if lane is None else numbers.bitcast(arg.kind, node.kind, lane) for lane in lanes]

    def _where(self, node: Node) -> Lanes:
        condition, *sides = node.args
        chosen = spread(self.node(condition), condition.shape, node.shape)
        then, other = (self._converted(side, node.kind, node.shape) for side in sides)
        return [None if c is None else (a if c else b) for c, a, b in zip(chosen, then, other, strict=True)]

    def _ternary(self, node: Node) -> Lanes:
        condition, then, other = node.args
        return self.node(then if self.node(condition)[0] else other)

    def _load(self, node: Node) -> Lanes:
        index, *rest = node.args
        mask = rest[0] if rest else None
        other = rest[1] if len(rest) > 1 else None
        cells = self._memory[node.value]
        masks = spread(self.node(mask), mask.shape, node.shape) if mask else [1] * numel(node.shape)
        fill = self._converted(other, node.kind, node.shape) if other else [None] * numel(node.shape)
        return [cells[at] if active else rest for at, active, rest in zip(self.node(index), masks, fill, strict=True)]

    def _load_pointer(self, node: Node) -> Lanes:
        name, array = node.value
        return [self._memory[array][cell] for cell in self._variables[name]]

    def _expand(self, node: Node) -> Lanes:
        return self.node(node.args[0])

    def _broadcast(self, node: Node) -> Lanes:
        return spread(self.node(node.args[0]), node.args[0].shape, node.shape)

    def _trans(self, node: Node) -> Lanes:
        lanes, shape = self.node(node.args[0]), node.args[0].shape
        return [lanes[_flat(at[::-1], shape)] for at in _cells(node.shape)]

    def _dot(self, node: Node) -> Lanes:
        a, b, *acc = node.args
        x, y = self.node(a), self.node(b)
        depth, columns = a.shape[1], b.shape[1]
        start = self.node(acc[0]) if acc else [0] * numel(node.shape)
        sums = [
            start[i * columns + j] + sum(x[i * depth + k] * y[k * columns + j] for k in range(depth))
            for i, j in _cells(node.shape)
        ]
        return [float(total) for total in sums] if is_float(node.kind) else [wrap(node.kind, total) for total in sums]

    def _reduce(self, node: Node) -> Lanes:
        name, axis = node.value[:2]
        (arg,) = node.args
        lanes = self._converted(arg, node.kind, arg.shape)
        combine = COMBINE[name]
        results = [reduce(lambda a, b: combine(node.kind, a, b), line) for line in _lines(lanes, arg.shape, axis)]
        # As printed, where which zero is the greater one stays open; an axis of one has nothing to combine that would do it.
        return [result + 0.0 for result in results] if name in {"max", "min"} and is_float(node.kind) else results

    def _sum_rounded(self, node: Node) -> Lanes:
        (arg,) = node.args
        return [_any_order(node.kind, line) for line in _lines(self.node(arg), arg.shape, node.value[1])]

    def _arg_extreme(self, node: Node) -> Lanes:
        return _extreme_with_index(self, node)[1]

    def _call(self, node: Node) -> Lanes:
        helper: Helper = self._helpers[node.value]
        outer = self._variables
        inner = {name: self.node(arg) for (name, _, _), arg in zip(helper.parameters, node.args, strict=True)}
        self._variables = inner
        try:
            self._block(helper.body)
            return self.node(helper.result)
        finally:
            self._variables = outer

    def _scan(self, node: Node) -> Lanes:
        name, axis, reverse = node.value
        (arg,) = node.args
        lanes = self._converted(arg, node.kind, arg.shape)
        return _along(lanes, arg.shape, axis, lambda line: _running(node.kind, COMBINE[name], line, reverse=reverse))

    def _join(self, node: Node) -> Lanes:
        a, b = (self.node(arg) for arg in node.args)
        return [lane for pair in zip(a, b, strict=True) for lane in pair]

    def _split(self, node: Node) -> Lanes:
        """`node.value`: which of the two halves."""
        return self.node(node.args[0])[node.value :: 2]

    def _gather(self, node: Node) -> Lanes:
        source, index = node.args
        lanes, where = self.node(source), self.node(index)
        return [
            lanes[_flat([where[i] if axis == node.value else at[axis] for axis in range(len(at))], source.shape)]
            for i, at in enumerate(_cells(node.shape))
        ]

    def _sort(self, node: Node) -> Lanes:
        arg = node.args[0]
        return _along(self.node(arg), arg.shape, len(arg.shape) - 1, lambda line: sorted(line, reverse=node.value))


def _lines(lanes: Lanes, shape: Shape, axis: int | None) -> list[Lanes]:
    """The lines of a tile along an axis, in row-major order of the others; the whole tile for no axis."""
    if axis is None:
        return [lanes]
    outer, inner = numel(shape[:axis]), numel(shape[axis + 1 :])
    return [lanes[i * shape[axis] * inner + j :: inner][: shape[axis]] for i in range(outer) for j in range(inner)]


def _along(lanes: Lanes, shape: Shape, axis: int, change: Callable[[Lanes], Lanes]) -> Lanes:
    """`change` applied to every line along an axis."""
    outer, inner = numel(shape[:axis]), numel(shape[axis + 1 :])
    lines = [change(line) for line in _lines(lanes, shape, axis)]
    return [lines[i * inner + j][k] for i in range(outer) for k in range(shape[axis]) for j in range(inner)]


def _running(kind: str, combine: Callable[..., Any], line: Lanes, *, reverse: bool) -> Lanes:
    result = list(itertools.accumulate(line[::-1] if reverse else line, lambda a, b: combine(kind, a, b)))
    return result[::-1] if reverse else result


def _extreme_with_index(program: _Program, node: Node) -> tuple[Lanes, Lanes]:
    """The extreme and the first index of it, along an axis."""
    choose, axis = (max if node.value[0].endswith("max") else min), node.value[1]
    (arg,) = node.args
    values, indices = [], []
    for line in _lines(program.node(arg), arg.shape, axis):
        best = choose(line)
        values.append(numbers.cast(arg.kind, "float32", best) if arg.kind == "bfloat16" else best)
        indices.append(line.index(best))
    return values, indices


def _any_order(kind: str, line: Lanes) -> Approximate | float:
    """A sum of n floats in any order, each of n - 1 additions rounded to `kind`.

    |error| <= gamma * sum |x| with gamma = (n - 1) u / (1 - (n - 1) u), u half an ulp of 1 (Higham, "Accuracy and Stability of
    Numerical Algorithms", section 4.2); additions do not underflow inexactly. Where a partial sum may overflow, anything goes.
    """
    form = FLOATS[kind]
    if any(math.isnan(lane) for lane in line) or {math.inf, -math.inf} <= set(line):
        return math.nan
    finite = [Fraction(lane) for lane in line if math.isfinite(lane)]
    total = sum((abs(lane) for lane in finite), Fraction(0))
    if total > Fraction(2) ** (form.high - 1):
        return Approximate(None)
    infinite = [lane for lane in line if math.isinf(lane)]
    if infinite:
        return float(infinite[0])
    steps = (len(line) - 1) * Fraction(1, 2**form.precision)
    return Approximate(sum(finite, Fraction(0)), steps / (1 - steps) * total)


COMBINE: dict[str, Callable[..., Any]] = {
    "sum": TABLE["add"].apply,
    "prod": TABLE["mul"].apply,
    "max": TABLE["maximum"].apply,
    "min": TABLE["minimum"].apply,
    "and": TABLE["and"].apply,
    "or": TABLE["or"].apply,
    "xor_sum": TABLE["xor"].apply,
}
ATOMICS: dict[str, Callable[..., Any]] = {
    "add": TABLE["add"].apply,
    "max": TABLE["maximum"].apply,
    "min": TABLE["minimum"].apply,
    "and": TABLE["and"].apply,
    "or": TABLE["or"].apply,
    "xor": TABLE["xor"].apply,
    "xchg": lambda _kind, _before, value: value,
}

_STATEMENTS: dict[type, Callable[[_Program, Any], None]] = {
    Let: _Program._let,
    LetPair: _Program._let_pair,
    LetPointer: _Program._let_pointer,
    Advance: _Program._advance,
    If: _Program._if,
    For: _Program._for,
    While: _Program._while,
    Store: _Program._store,
    Atomic: _Program._atomic,
    ReturnIf: _Program._return_if,
    Expect: _Program._expect,
}
_NODES: dict[str, Callable[[_Program, Node], Lanes]] = {
    "variable": _Program._variable,
    "constexpr": _Program._variable,
    "literal": _Program._literal,
    "full": _Program._full,
    "arange": _Program._arange,
    "num_programs": _Program._program_count,
    "cast": _Program._cast,
    "cast_safe": _Program._cast_safe,
    "bits": _Program._bits,
    "where": _Program._where,
    "ternary": _Program._ternary,
    "load": _Program._load,
    "load_pointer": _Program._load_pointer,
    "expand": _Program._expand,
    "broadcast": _Program._broadcast,
    "trans": _Program._trans,
    "reshape": _Program._expand,
    "dot": _Program._dot,
    "reduce": _Program._reduce,
    "sum_rounded": _Program._sum_rounded,
    "arg_extreme": _Program._arg_extreme,
    "call": _Program._call,
    "scan": _Program._scan,
    "join": _Program._join,
    "split": _Program._split,
    "gather": _Program._gather,
    "sort": _Program._sort,
}
