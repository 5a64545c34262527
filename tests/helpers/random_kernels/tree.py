"""The abstract syntax of a random kernel: typed expressions and statements, arguments, helpers.

Every node carries its element type and shape, so that the printer and the evaluator need no inference, and neither knows
of the other. Shapes are tuples of powers of two; () is a scalar.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

Shape = tuple[int, ...]


@dataclass(frozen=True)
class Node:
    """An expression: `op` names it, `value` is what it has besides operands (a literal, a name, an axis ...)."""

    op: str
    kind: str
    shape: Shape = ()
    args: tuple[Node, ...] = ()
    value: Any = None

    def walk(self) -> Iterator[Node]:
        """This node and all below."""
        yield self
        for arg in self.args:
            yield from arg.walk()


@dataclass(frozen=True)
class Let:
    """`name = node`, a new variable or an old one of the same type and shape."""

    name: str
    node: Node


@dataclass(frozen=True)
class LetPair:
    """`names = node` for a node of two results; both have its shape, the second is int32."""

    names: tuple[str, str]
    node: Node


@dataclass(frozen=True)
class LetPointer:
    """`name = array + index`."""

    name: str
    array: str
    index: Node


@dataclass(frozen=True)
class Advance:
    """`name += by` of a pointer variable."""

    name: str
    by: Node


@dataclass(frozen=True)
class If:
    """Both sides assign to existing variables only."""

    condition: Node
    then: tuple[Statement, ...]
    other: tuple[Statement, ...] = ()


@dataclass(frozen=True)
class For:
    """`for name in range(low, high, step)`; `static` unrolls it at compile time."""

    name: str
    low: Node
    high: Node
    step: Node
    body: tuple[Statement, ...]
    static: bool = False


@dataclass(frozen=True)
class While:
    """`while condition: body`; the body counts down a variable that the condition reads."""

    condition: Node
    body: tuple[Statement, ...]


@dataclass(frozen=True)
class Store:
    """`tl.store(array + index, value, mask)`; `pointer` is used in place of `array + index` where it is given."""

    array: str
    index: Node
    value: Node
    mask: Node | None = None


@dataclass(frozen=True)
class Atomic:
    """`tl.atomic_<operation>(array + index, value, mask)`, with the old value in `result` where it is given."""

    operation: str
    array: str
    index: Node
    value: Node
    mask: Node | None = None
    result: str | None = None


@dataclass(frozen=True)
class ReturnIf:
    """`if condition: return`, at the top level only."""

    condition: Node


@dataclass(frozen=True)
class Expect:
    """`tl.static_assert(name.dtype == kind)`: the front end's type rules are those of `promotion`."""

    name: str
    kind: str


Statement = Let | LetPair | LetPointer | Advance | If | For | While | Store | Atomic | ReturnIf | Expect


@dataclass(frozen=True)
class Array:
    """A tensor argument of `length` elements, whose content follows from `flavour` and `seed`."""

    name: str
    kind: str
    length: int
    flavour: str = "zeros"
    seed: int = 0
    output: bool = False


@dataclass(frozen=True)
class Scalar:
    """An integer argument. `constexpr`: a compile-time constant. `default`: left to the parameter's default value."""

    name: str
    value: int
    constexpr: bool = False
    default: bool = False


@dataclass(frozen=True)
class Helper:
    """A jit function of its own: `parameters` are (name, type, shape); it returns `result`."""

    name: str
    parameters: tuple[tuple[str, str, Shape], ...]
    body: tuple[Statement, ...]
    result: Node
    noinline: bool = False


@dataclass(frozen=True, repr=False)
class Kernel:
    """A launch: the kernel, its grid and its arguments."""

    grid: tuple[int, ...]
    arrays: tuple[Array, ...]
    scalars: tuple[Scalar, ...]
    helpers: tuple[Helper, ...]
    body: tuple[Statement, ...] = field(default=())

    def _repr_pretty_(self, printer: Any, _cycle: object) -> None:
        """What Hypothesis prints of an example: the source is in the error's message."""
        printer.text(repr(self))

    def __repr__(self) -> str:
        return f"<kernel of {len(self.body)} statements, grid {self.grid}>"

    @property
    def programs(self) -> int:
        """How many programs the grid has."""
        count = 1
        for extent in self.grid:
            count *= extent
        return count


def numel(shape: Shape) -> int:
    """How many elements a tile has."""
    count = 1
    for extent in shape:
        count *= extent
    return count
