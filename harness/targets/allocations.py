"""What takes the most of a program's shared memory: read from the module that Triton's allocation leaves behind."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass

from tridiff.harness.engines.cpu.ir import Location, Operation, Type
from tridiff.harness.engines.cpu.mlir import ParseError, parse

_OFFSET = "allocation.offset"
_BUFFER = re.compile(r"!ttg\.memdesc<(?P<shape>(?:\d+x)+)(?P<element>\w+)[,>]")
_POINTER_BITS = 64
_MADE_UP = re.compile(r"_?\d*$")


@dataclass(frozen=True, kw_only=True)
class Share:
    """The largest buffer: what the kernel calls it ("" where it has no name), its form, its bytes at least, and where."""

    name: str
    form: str
    size: int
    location: Location

    @property
    def line(self) -> str | None:
        """The kernel author's innermost line."""
        return str(self.location) or None

    def __str__(self) -> str:
        """In words, with the lines from the outermost call to the innermost."""
        calls = [str(Location((frame,))) for frame in reversed(self.location.frames)]
        place = f" ({' > '.join(calls)})" if calls else ""
        return f"{self.name + ', ' if self.name else ''}{self.form}, {self.size} bytes{place}"


def largest(text: str, shared: int) -> Share | None:
    """The largest share in a module in MLIR's generic form that has `shared` bytes in all.

    None where nothing is allocated, or the text cannot be read. What is staged for a conversion or a reduction takes as much as
    its operand, unless that goes piece by piece: no share reaches beyond the end.
    """
    try:
        module = parse(text)
    except ParseError:
        return None
    return max(_shares(module, shared), key=lambda share: share.size, default=None)


def _shares(operation: Operation, shared: int) -> Iterator[Share]:
    if _OFFSET in operation.properties:
        room = shared - operation.properties[_OFFSET]
        for kind in _staged(operation):
            size = min(_size(*kind), room)
            yield Share(name=_name(operation), form=_form(*kind), size=size, location=operation.location)
    for region in operation.regions:
        for block in region.blocks:
            for inner in block.operations:
                yield from _shares(inner, shared)


def _staged(operation: Operation) -> Iterator[tuple[tuple[int, ...], str]]:
    """(shape, element) of the buffer that the operation returns; else of the tensors that it stages."""
    buffers = [match for kind in operation.result_types if (match := _BUFFER.match(kind.element))]
    for match in buffers:
        yield tuple(map(int, match["shape"].rstrip("x").split("x"))), match["element"]
    if not buffers:
        yield from ((kind.shape, kind.element) for kind in operation.operand_types if kind.shape)


def _name(operation: Operation) -> str:
    """Triton names a value after the variable that it is assigned to, and numbers those of one name."""
    return _MADE_UP.sub("", operation.results[0].removeprefix("%")) if operation.results else ""


def _form(shape: tuple[int, ...], element: str) -> str:
    return "x".join([*map(str, shape), element])


def _size(shape: tuple[int, ...], element: str) -> int:
    return math.prod(shape) * _bits(Type(element)) // 8


def _bits(kind: Type) -> int:
    if kind.is_pointer:
        return _POINTER_BITS
    match = re.search(r"\d+", kind.element)
    return max(8, int(match[0])) if match else 8
