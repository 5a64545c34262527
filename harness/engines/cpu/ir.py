"""The parsed form of a TTIR module: functions, regions, blocks, operations, types, and source lines."""

from __future__ import annotations

import functools
import re
from dataclasses import dataclass, field
from pathlib import PurePath
from typing import Any


@dataclass(frozen=True)
class Type:
    """An MLIR type as far as the executor cares.

    `element`: `f32`, `bf16`, `i1`, `i32`, ... or, for a pointer, the pointee with `*` in front. `shape`: () for a scalar.
    """

    element: str
    shape: tuple[int, ...] = ()

    @property
    def is_pointer(self) -> bool:
        """Whether values of this type are (tensors of) pointers."""
        return self.element.startswith("*")

    @property
    def is_float(self) -> bool:
        """Whether the element is a floating-point type."""
        return self.element.startswith(("f", "bf"))


@dataclass(frozen=True)
class Frame:
    """One source position: `file` and `line` as the compiler recorded them."""

    file: str
    line: int


@dataclass(frozen=True)
class Location:
    """Call chain of source positions, innermost first; empty when unknown."""

    frames: tuple[Frame, ...] = ()

    def __str__(self) -> str:
        """`FILE:LINE` of the innermost frame that is the user's, not Triton's own library; `` when unknown."""
        return _spelt(self.frames)


@functools.lru_cache(maxsize=65536)
def _spelt(frames: tuple[Frame, ...]) -> str:
    for frame in frames:
        if not re.search(r"[/\\]triton[/\\]language[/\\]", frame.file):
            return f"{PurePath(frame.file).name}:{frame.line}"
    return f"{PurePath(frames[0].file).name}:{frames[0].line}" if frames else ""


@dataclass(eq=False)
class Operation:
    """One operation: SSA names in and out, their types, properties, nested regions and CFG successors."""

    name: str
    results: list[str]
    operands: list[str]
    operand_types: list[Type]
    result_types: list[Type]
    properties: dict[str, Any]
    location: Location
    regions: list[Region] = field(default_factory=list)
    successors: list[str] = field(default_factory=list)


@dataclass(eq=False)
class Block:
    """A basic block: label, arguments and operations."""

    label: str
    arguments: list[tuple[str, Type]]
    operations: list[Operation] = field(default_factory=list)


@dataclass(eq=False)
class Region:
    """A list of blocks; the first is the entry."""

    blocks: list[Block]
