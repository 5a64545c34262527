"""Draws typed expressions.

An expression may first emit statements (a mask that it uses twice, say) into the block that is being written. Whatever it
reads is in bounds and defined; see `strategy` for what is left out, and why.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, TypeVar

from hypothesis import strategies as st

from random_kernels.content import FLAVOURS
from random_kernels.elementwise import BINARY, TABLE, TERNARY, UNARY, takes
from random_kernels.features import Features
from random_kernels.numbers import FLOATS, INTEGERS, KINDS, bits, is_float, is_signed, limits
from random_kernels.promotion import promoted
from random_kernels.tree import Array, Helper, Let, Node, Scalar, Shape, Statement, numel

T = TypeVar("T")

Maker = Callable[[Shape, int], Node]
"""Draws an expression of a shape, with at most so many operations nested."""

REGION = 16
"""Elements of the largest tile, and so of the part of a scratch array that belongs to one program."""
MOST_INPUTS = 6
COMMON = ("add", "sub", "mul", "fma", "fma", "mod", "shl", "ashr", "lshr", "lt", "ge")
"""Drawn once more than the other operations of the table: they are what kernels are made of, or have many types."""
SHIFTS = {"shl", "ashr", "lshr"}
LITERAL_DIVISORS = {"floordiv_by", "mod_by"}


def literal(value: float, kind: str | None = None) -> Node:
    """A Python number."""
    return Node("literal", kind or ("int32" if isinstance(value, int) else "float32"), value=value)


def variable(name: str, kind: str = "int32", shape: Shape = ()) -> Node:
    """A reference to a variable."""
    return Node("variable", kind, shape, value=name)


def binary(op: str, a: Node, b: Node) -> Node:
    """An element-wise operation of two operands, with the type and shape that it has."""
    literals = [at for at, arg in enumerate((a, b)) if arg.op in {"literal", "constexpr"}]
    extra = {"literal": literals[0]} if literals else {}
    computed, kind = TABLE[op].rule(a.kind, b.kind, **extra)
    mask = bits(computed) - 1 if op in SHIFTS else None
    return Node(op, kind, broadcast_shape(a.shape, b.shape), (a, b), mask)


def broadcast_shape(a: Shape, b: Shape) -> Shape:
    """The shape of an element-wise operation; the shorter one is padded in front."""
    rank = max(len(a), len(b))
    return tuple(max(m, n) for m, n in zip((1,) * (rank - len(a)) + a, (1,) * (rank - len(b)) + b, strict=True))


def linear(shape: Shape) -> Node:
    """The row-major index of each element of a tile of rank 1 or 2."""
    if len(shape) == 1:
        return Node("arange", "int32", shape, value=0)
    rows = Node("expand", "int32", (shape[0], 1), (Node("arange", "int32", shape[:1], value=0),), 1)
    columns = Node("expand", "int32", (1, shape[1]), (Node("arange", "int32", shape[1:], value=0),), 0)
    return binary("add", binary("mul", rows, literal(shape[1])), columns)


class Expressions:
    """The state of a kernel being drawn: arguments, the variables in scope, and the block that statements go to."""

    def __init__(self, draw: Callable[[Any], Any], features: Features) -> None:
        self._draw = draw
        self.features = features
        self.grid: tuple[int, ...] = self.pick([(1,), (4,), (3,), (2, 2), (4,), (1, 2, 2), (2, 3), (8,)])
        self.extent: int = self.pick([4, 8, 16, 8, 2, 1])
        self.matrix: Shape = self.pick([(4, 4), (2, 4), (4, 4), (2, 8), (8, 2), (4, 1), (1, 4)])
        self.arrays: list[Array] = []
        self.scalars: list[Scalar] = []
        self.helpers: list[Helper] = []
        self.scope: list[Node] = [variable("pid")]
        self.block: list[Statement] = []
        self.is_helper = False
        self._names: dict[str, int] = {}

    @property
    def programs(self) -> int:
        """How many programs the grid has."""
        return numel(self.grid)

    @property
    def length(self) -> int:
        """Elements of an input array: a power of two that any program's own tile fits in."""
        return 64 if self.programs <= 4 else 128

    def pick(self, options: Sequence[T]) -> T:
        """One of the options; the first is the simplest."""
        choice: T = self._draw(st.sampled_from(options))
        return choice

    def integer(self, low: int, high: int) -> int:
        """An integer in [low, high]."""
        value: int = self._draw(st.integers(low, high))
        return value

    def chance(self, of: int) -> bool:
        """True once in `of` times."""
        return self.integer(1, of) == of

    def name(self, stem: str) -> str:
        """A name that no other variable or argument has."""
        self._names[stem] = self._names.get(stem, -1) + 1
        return f"{stem}{self._names[stem]}"

    def let(self, node: Node, stem: str = "v") -> Node:
        """A new variable that holds `node`."""
        name = self.name(stem)
        self.block.append(Let(name, node))
        reference = variable(name, node.kind, node.shape)
        self.scope.append(reference)
        return reference

    # Arguments

    def input_array(self, kinds: Sequence[str]) -> Array:
        """An input of one of the types: one that exists already, or a new one."""
        known = [array for array in self.arrays if not array.output and array.kind in kinds and array.flavour != "counts"]
        if known and (len(self.arrays) >= MOST_INPUTS or not self.chance(2)):
            return self.pick(known)
        array = Array(self.name("a"), self.pick(_weighted(kinds)), self.length, self.pick(FLAVOURS), self.integer(0, 999))
        self.arrays.append(array)
        return array

    def output_array(self, kind: str, length: int, flavour: str = "zeros") -> Array:
        """A new output."""
        array = Array(self.name("out"), kind, length, flavour, 0, output=True)
        self.arrays.append(array)
        return array

    def count(self) -> Node:
        """A small scalar: a number, an argument, or one that each program loads."""
        form = self.pick(["literal", "loaded", "loaded", "argument", "loaded", "constexpr", "default"])
        if form == "literal":
            return literal(self.integer(0, 4))
        if form != "loaded":
            scalar = Scalar(self.name("n"), self.integer(0, 4), constexpr=form == "constexpr", default=form == "default")
            self.scalars.append(scalar)
            return Node("constexpr" if form == "constexpr" else "variable", "int32", value=scalar.name)
        return self.loaded_count()

    def loaded_count(self) -> Node:
        """A small scalar of each program's own."""
        known = [array for array in self.arrays if array.flavour == "counts"]
        array = known[0] if known else Array(self.name("counts"), "int32", self.length, "counts", self.integer(0, 99))
        if not known:
            self.arrays.append(array)
        offset = self.integer(0, 3)
        index = binary("add", variable("pid"), literal(offset)) if offset else variable("pid")
        return Node("load", "int32", (), (index,), array.name)

    # Indices

    def own_index(self, shape: Shape, stride: int | None = None) -> Node:
        """Where the program's own tile lies: tile after tile, or one every `stride` elements."""
        pitch = stride or numel(shape)
        start = binary("mul", variable("pid"), literal(pitch)) if pitch > 1 else variable("pid")
        return binary("add", start, linear(shape)) if shape else start

    def any_index(self, shape: Shape, size: int, depth: int) -> Node:
        """Computed indices in [0, size), a power of two up to 128."""
        return binary("and", self.some_integer(shape, depth), literal(size - 1))

    # Conversions

    def convert(self, node: Node, kind: str) -> Node:
        """The expression in another type; floats become integers only where they fit."""
        if node.kind == kind:
            return node
        safe = is_float(node.kind) and kind in INTEGERS
        return Node("cast_safe" if safe else "cast", kind, node.shape, (node,))

    def of_kind(self, kind: str, shape: Shape, depth: int) -> Node:
        """An expression of the type."""
        return self.convert(self.expression(shape, depth), kind)

    def among(self, kinds: Sequence[str], shape: Shape, depth: int) -> Node:
        """An expression of one of the types."""
        if depth <= 0:
            return self.leaf(shape, kinds)
        node = self.expression(shape, depth)
        return node if node.kind in kinds else self.convert(node, self.pick(kinds))

    def some_integer(self, shape: Shape, depth: int) -> Node:
        """An expression of some integer type, no bool."""
        return self.among(INTEGERS, shape, depth)

    def condition(self, shape: Shape, depth: int) -> Node:
        """A bool."""
        node = self.expression(shape, depth)
        if node.kind == "int1":
            return node
        return binary(self.pick(["gt", "lt", "ge", "le", "ne", "eq"]), node, self.number(node.kind))

    def number(self, kind: str) -> Node:
        """A Python number that an operand of the type can be combined with."""
        if is_float(kind):
            return literal(self.pick([0, 1.0, 0.5, -1.5, 2, -3, 100.0]))
        if kind == "int1":
            return literal(1)
        low, high = limits(kind)
        return literal(self.pick([value for value in (0, 1, 2, 3, 7, 100, -1, -5, 1000) if low <= value <= high]))

    def full(self, kind: str, shape: Shape) -> Node:
        """A tile of one number."""
        value = self.number(kind).value
        return Node("full", kind, shape, value=float(value) if is_float(kind) else value)

    # Expressions

    def expression(self, shape: Shape, depth: int) -> Node:
        """An expression of any type."""
        if depth <= 0 or self.chance(5):
            return self.leaf(shape)
        return self.pick(self._makers(shape))(shape, depth - 1)

    def _makers(self, shape: Shape) -> list[Maker]:
        makers: list[Maker] = [*[self.tabled] * 7, self.with_number, self.cast, self.where, self.call]
        if shape:
            makers += [self.bit_pattern]
        if not self.is_helper:
            makers += [self.gathered, self.masked_load, self.poisoned_load]
        makers += {0: self._scalar_makers, 1: self._vector_makers, 2: self._matrix_makers}[len(shape)](shape)
        return makers

    def _scalar_makers(self, _shape: Shape) -> list[Maker]:
        return [self.reduced_whole, self.ternary]

    def _vector_makers(self, shape: Shape) -> list[Maker]:
        makers: list[Maker] = [self.reduced, self.reshaped, self.reduced, self.arg_extreme, self.reduced_exactly, self.ternary]
        makers += [self.scan] * self.features.scans + [self.sorted] * (self.features.sorts and shape[0] > 1)
        makers += [self.gathered_lanes] * self.features.gathers
        if self.features.joins:
            makers += [self.split_half, *([self.joined] if shape[0] > 1 else [])]
        return makers

    def _matrix_makers(self, shape: Shape) -> list[Maker]:
        makers: list[Maker] = [self.outer, self.trans, self.reshaped, self.dot, self.normalised, self.outer, self.broadcast]
        makers += [self.scan] * self.features.scans + [self.sorted] * (self.features.sorts and shape[1] > 1)
        return makers + [self.gathered_lanes] * self.features.gathers

    def leaf(self, shape: Shape, kinds: Sequence[str] = KINDS) -> Node:
        """A variable, a load of the program's own tile, or a constant, of one of the types."""
        known = [node for node in self.scope if node.shape == shape and node.kind in kinds]
        options = ["full"] if self.is_helper else ["load", "load", "load"]
        options += ["known", "known"] * (3 if self.is_helper else 1) if known else []
        options += ["arange"] if len(shape) == 1 and "int32" in kinds else ["full"]
        form = self.pick(options)
        if form == "known":
            return self.pick(known)
        if form == "arange":
            return Node("arange", "int32", shape, value=self.pick([0, shape[0]]))
        if form == "full":
            return self.full(self.pick(kinds), shape)
        array = self.input_array(kinds)
        return Node("load", array.kind, shape, (self.own_index(shape),), array.name)

    def tabled(self, shape: Shape, depth: int) -> Node:
        """Any operation of the table, each as likely as another, on operands that it is defined for."""
        op = self.pick([*TABLE, *COMMON])
        operation = TABLE[op]
        a = self.among([kind for kind in KINDS if takes(operation, kind)], shape, depth)
        if op in UNARY:
            return Node(op, a.kind, shape, (a,))
        if op in TERNARY:
            b, c = (self.among([a.kind], shape, depth - 1) for _ in range(2))
            return Node(op, a.kind, shape, (a, b, c))
        if op in LITERAL_DIVISORS:
            return binary(op, a, self._divisor(a.kind))
        groups = operation.groups if op not in {"ashr", "lshr"} else {"int"}
        kinds = [kind for kind in KINDS if takes(replace(operation, groups=frozenset(groups)), kind)]
        if operation.rule.__name__ in {"_dividing", "_true_dividing"} and not is_float(a.kind):
            kinds = [kind for kind in kinds if is_float(kind) or is_signed(kind) == is_signed(a.kind)]
        # Mostly one type, as in most kernels: what promotion does to a value hides what the operation did.
        b = self.among([a.kind] if a.kind in kinds and not self.chance(3) else kinds, self._operand_shape(shape), depth)
        return binary(op, a, b)

    def _divisor(self, kind: str) -> Node:
        low, high = limits(kind)
        return literal(self.pick([value for value in (2, 3, 7, 16, -1, -3, 100) if low <= value <= high]))

    def _either_order(self, a: Node, b: Node) -> tuple[Node, Node]:
        return (b, a) if self.chance(3) else (a, b)

    def _operand_shape(self, shape: Shape) -> Shape:
        """Of the second operand: mostly the same, sometimes one that is broadcast."""
        if not shape or not self.chance(4):
            return shape
        return () if len(shape) == 1 or self.chance(2) else shape[1:]

    def with_number(self, shape: Shape, depth: int) -> Node:
        """An operation with a Python number, on either side."""
        a = self.expression(shape, depth)
        divides = {*LITERAL_DIVISORS} | ({"truediv"} if a.kind == "int1" else set())
        kind = "int32" if a.kind == "int1" else a.kind
        allowed = [op for op, operation in BINARY.items() if operation.literal and op not in divides and takes(operation, kind)]
        return binary(self.pick(allowed), *self._either_order(a, self.number(a.kind)))

    def cast(self, shape: Shape, depth: int) -> Node:
        """A conversion to any type."""
        return self.convert(self.expression(shape, depth), self.pick(KINDS))

    def bit_pattern(self, shape: Shape, depth: int) -> Node:
        """The bits of a value as another type of the same width."""
        a = self.among([kind for kind in KINDS if kind != "int1"], shape, depth)
        kinds = [kind for kind in KINDS if bits(kind) == bits(a.kind) and kind != a.kind]
        if is_float(a.kind):
            return Node("bits", self.pick([kind for kind in kinds if kind in INTEGERS]), shape, (a,))
        return Node("bits", self.pick(kinds), shape, (a,))

    def where(self, shape: Shape, depth: int) -> Node:
        """A choice per element."""
        condition = self.condition(self._operand_shape(shape), depth)
        a, b = self.expression(shape, depth), self.expression(shape, depth)
        return Node("where", promoted(a.kind, b.kind), shape, (condition, a, b))

    def ternary(self, shape: Shape, depth: int) -> Node:
        """A choice of one of two expressions by a scalar."""
        a = self.expression(shape, depth)
        return Node("ternary", a.kind, shape, (self.condition((), depth), a, self.of_kind(a.kind, shape, depth)))

    def gathered(self, shape: Shape, depth: int) -> Node:
        """A load by computed indices."""
        array = self.input_array(KINDS)
        return Node("load", array.kind, shape, (self.any_index(shape, array.length, depth),), array.name)

    def masked_load(self, shape: Shape, depth: int) -> Node:
        """A load under a mask, with `other`; the mask may be all that keeps it in bounds."""
        array = self.input_array(KINDS)
        if self.chance(2):
            index = binary("add", self.own_index(shape), literal(self.pick([1, 20, 60, -3])))
            index = self.let(index, "i")
            mask = binary("and", binary("ge", index, literal(0)), binary("lt", index, literal(array.length)))
        else:
            index, mask = self.own_index(shape), self.condition(shape, depth)
        other = self.of_kind(array.kind, self._other_shape(shape), depth - 1)
        return Node("load", array.kind, shape, (index, mask, other), array.name)

    def _other_shape(self, shape: Shape) -> Shape:
        return () if self.chance(3) else shape

    def poisoned_load(self, shape: Shape, depth: int) -> Node:
        """A load under a mask without `other`, of which only what was loaded is used."""
        array = self.input_array(KINDS)
        mask = self.let(self.condition(shape, depth), "m")
        loaded = Node("load", array.kind, shape, (self.own_index(shape), mask), array.name)
        if self.chance(2):
            loaded = binary(self.pick(["add", "sub", "mul"]), loaded, self.number(array.kind))
        other = self.expression(shape, depth)
        return Node("where", promoted(loaded.kind, other.kind), shape, (mask, loaded, other))

    # Shapes and reductions

    def reduced(self, shape: Shape, depth: int) -> Node:
        """A vector from a matrix."""
        (extent,) = shape
        other = min(4, REGION // extent)
        axis = self.integer(0, 1)
        return self._reduction((extent, other) if axis else (other, extent), axis, shape, depth)

    def reduced_whole(self, _shape: Shape, depth: int) -> Node:
        """A scalar from a tile."""
        source, axis = self.pick([((self.extent,), 0), (self.matrix, None)])
        return self._reduction(source, axis, (), depth)

    def normalised(self, shape: Shape, depth: int) -> Node:
        """A reduction along an axis that is kept, broadcast again."""
        axis = self.integer(0, 1)
        kept = tuple(1 if at == axis else extent for at, extent in enumerate(shape))
        return Node("broadcast", (node := self._reduction(shape, axis, kept, depth)).kind, shape, (node,))

    def _reduction(self, source: Shape, axis: int | None, shape: Shape, depth: int) -> Node:
        arg = self.expression(source, depth)
        names = ["max", "min"] if is_float(arg.kind) else ["sum", "max", "min", "xor_sum", "and", "or"]
        names += ["prod"] if arg.kind in INTEGERS else []
        name = self.pick([name for name in names if axis is not None or name not in {"prod", "and", "or"}])
        return Node("reduce", _reduced_kind(name, arg.kind), shape, (arg,), (name, axis, len(shape) == len(source)))

    def reduced_exactly(self, shape: Shape, depth: int) -> Node:
        """A float sum of small integers, which every order gives exactly."""
        (extent,) = shape
        arg = self._small_floats((extent, min(4, REGION // extent)), self.pick([*FLOATS]), 7, depth)
        return Node("reduce", arg.kind, shape, (arg,), ("sum", 1, False))

    def _small_floats(self, shape: Shape, kind: str, most: int, depth: int) -> Node:
        return Node("cast", kind, shape, (binary("and", self.some_integer(shape, depth), literal(most)),))

    def extreme_source(self, shape: Shape, depth: int) -> Node:
        """A tile without NaN, of which the first extreme is well defined."""
        if self.chance(3):
            return self._small_floats(shape, self.pick([*FLOATS]), 7, depth)
        return self.some_integer(shape, depth)

    def arg_extreme(self, shape: Shape, depth: int) -> Node:
        """The first index of an extreme."""
        (extent,) = shape
        other = min(4, REGION // extent)
        axis = self.integer(0, 1)
        arg = self.extreme_source((extent, other) if axis else (other, extent), depth)
        return Node("arg_extreme", "int32", shape, (arg,), (self.pick(["argmax", "argmin"]), axis, False))

    def reshaped(self, shape: Shape, depth: int) -> Node:
        """The same elements in another shape."""
        size = numel(shape)
        options = [(size // rows, rows) for rows in (1, 2, 4) if size % rows == 0] if len(shape) == 1 else [(size,)]
        arg = self.expression(self.pick(options), depth)
        return Node("reshape", arg.kind, shape, (arg,))

    def outer(self, shape: Shape, depth: int) -> Node:
        """A column combined with a row."""
        column = self._expanded(self.expression(shape[:1], depth), 1)
        row = self._expanded(self.expression(shape[1:], depth), 0)
        allowed = [op for op in ("add", "sub", "mul", "lt", "eq", "minimum", "xor") if _both(op, column, row)]
        return binary(self.pick(allowed), *self._either_order(column, row))

    def _expanded(self, node: Node, axis: int) -> Node:
        shape = (*node.shape, 1) if axis else (1, *node.shape)
        return Node("expand", node.kind, shape, (node,), axis)

    def broadcast(self, shape: Shape, depth: int) -> Node:
        """A row or column repeated."""
        axis = self.integer(0, 1)
        node = self._expanded(self.expression((shape[1 - axis],), depth), axis)
        return Node("broadcast", node.kind, shape, (node,))

    def trans(self, shape: Shape, depth: int) -> Node:
        """The transpose of a matrix."""
        arg = self.expression(shape[::-1], depth)
        return Node("trans", arg.kind, shape, (arg,))

    def dot(self, shape: Shape, depth: int) -> Node:
        """A matrix product of small integers, exact in every precision and order."""
        kind = self.pick(["float32", "int8", "float16", "bfloat16"])
        inner = min(self.pick([2, 4]), REGION // max(shape))
        a = self._small_floats((shape[0], inner), kind, 3, depth - 1)
        b = self._small_floats((inner, shape[1]), kind, 3, depth - 1)
        result = "int32" if kind == "int8" else "float32"
        acc = [] if self.chance(2) else [self._small_floats(shape, result, 7, depth - 1)]
        return Node("dot", result, shape, (a, b, *acc), self.pick(["", "ieee"]) if kind == "float32" else "")

    # Calls

    def call(self, shape: Shape, depth: int) -> Node:
        """A call of a helper, which is drawn for the types of the arguments."""
        args = [self.expression(shape, depth) for _ in range(self.integer(1, 2))]
        if self.is_helper or len(self.helpers) >= 2:
            return args[0]
        parameters = tuple((f"x{at}", arg.kind, arg.shape) for at, arg in enumerate(args))
        body, result = self._helper_body(parameters, shape, depth)
        noinline = self.features.noinline and not shape  # Triton passes scalars only
        helper = Helper(self.name("helper"), parameters, body, result, noinline)
        self.helpers.append(helper)
        return Node("call", result.kind, shape, tuple(args), helper.name)

    def _helper_body(
        self, parameters: Sequence[tuple[str, str, Shape]], shape: Shape, depth: int
    ) -> tuple[tuple[Statement, ...], Node]:
        outer = self.scope, self.block
        self.scope, self.block, self.is_helper = [variable(*parameter) for parameter in parameters], [], True
        try:
            result = self.expression(shape, max(1, depth))
            return tuple(self.block), result
        finally:
            (self.scope, self.block), self.is_helper = outer, False

    # Behind flags

    def scan(self, shape: Shape, depth: int) -> Node:
        """A running sum or product of integers."""
        arg = self.some_integer(shape, depth)
        name = self.pick(["sum", "prod"])
        kind = _reduced_kind(name, arg.kind)
        return Node("scan", kind, shape, (arg,), (name, self.integer(0, len(shape) - 1), self.chance(2)))

    def joined(self, shape: Shape, depth: int) -> Node:
        """Two vectors, element by element in turn."""
        half = (shape[0] // 2,)
        a = self.expression(half, depth)
        pair = Node("join", a.kind, (*half, 2), (a, self.of_kind(a.kind, half, depth)))
        return Node("reshape", a.kind, shape, (pair,))

    def split_half(self, shape: Shape, depth: int) -> Node:
        """Every other element."""
        a = self.expression(shape, depth)
        pair = Node("join", a.kind, (*shape, 2), (a, self.of_kind(a.kind, shape, depth)))
        return Node("split", a.kind, shape, (pair,), self.integer(0, 1))

    def gathered_lanes(self, shape: Shape, depth: int) -> Node:
        """tl.gather of a tile by a tile."""
        axis = self.integer(0, len(shape) - 1)
        index = self.convert(self.any_index(shape, shape[axis], depth), "int32")
        arg = self.expression(shape, depth)
        return Node("gather", arg.kind, shape, (arg, index), axis)

    def sorted(self, shape: Shape, depth: int) -> Node:
        """Integers in order along the last axis."""
        arg = self.some_integer(shape, depth)
        return Node("sort", arg.kind, shape, (arg,), self.chance(2))


def _weighted(kinds: Sequence[str]) -> list[str]:
    """The types, with floats as likely as integers."""
    return [*kinds, *(kind for kind in kinds if is_float(kind)), *(kind for kind in kinds if is_float(kind))]


def _both(op: str, a: Node, b: Node) -> bool:
    return takes(BINARY[op], a.kind) and takes(BINARY[op], b.kind)


def _reduced_kind(name: str, kind: str) -> str:
    """Sums of narrow integers are 32 bits wide with the same sign, extremes of narrow values int32 or float32."""
    if name == "sum" and not is_float(kind) and bits(kind) < 32:
        return "int32" if is_signed(kind) else "uint32"
    if name in {"max", "min"} and bits(kind) < 32:
        return "float32" if is_float(kind) else "int32"
    return kind
