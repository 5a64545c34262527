"""How many bytes a program keeps alive at once, estimated from its IR: what the number of programs in a chunk is chosen by.

An estimate, as values are held compact: what is equal for all programs, or along an axis, has size one there, and pointers
and their offsets stay sums of small terms. So an extent is carried along: which axes of a value vary, and whether programs
differ. A wrong estimate costs memory or speed, never a result.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from tridiff.harness.engines.cpu.errors import UnsupportedOperation
from tridiff.harness.engines.cpu.formats import compute_dtype
from tridiff.harness.engines.cpu.ir import Block, Operation, Region, Type

_UNIFORM = {"arith.constant", "tt.get_num_programs", "tt.make_range"}
_COMPACT = {
    "arith.constant",
    "tt.splat",
    "tt.broadcast",
    "tt.expand_dims",
    "tt.addptr",
    "tt.get_program_id",
    "tt.get_num_programs",
}
"""Operations whose result takes no memory of its own worth counting, being a view or a list of terms."""
_ADDRESS = 8


@dataclass(frozen=True)
class Extent:
    """Size along each axis as the value is held; `varies`: whether programs differ."""

    axes: tuple[int, ...]
    varies: bool

    @property
    def elements(self) -> int:
        """Elements for each program, none where all programs share them."""
        return math.prod(self.axes) if self.varies else 0


def live_bytes(function: Operation) -> int:
    """The peak over the operations of `function` of bytes alive in a program, at least one."""
    estimate = _Estimate()
    return max(1, estimate.region(function.regions[0]))


def last_uses(block: Block, kept: set[str]) -> list[list[str]]:
    """For each operation of `block`, the values that the block computes and nothing needs after it; never those of `kept`."""
    defined = {name for operation in block.operations for name in operation.results} - kept
    seen: set[str] = set()
    dying: list[list[str]] = []
    for operation in reversed(block.operations):
        fresh = (used(operation) | set(operation.results)) & defined - seen
        seen |= fresh
        dying.append(sorted(fresh))
    return dying[::-1]


def used_elsewhere(region: Region, block: Block) -> set[str]:
    """The values that the other blocks of `region` read."""
    return {name for other in region.blocks if other is not block for operation in other.operations for name in used(operation)}


def used(operation: Operation) -> set[str]:
    """The values that `operation` and the regions in it read."""
    names = set(operation.operands)
    for region in operation.regions:
        for block in region.blocks:
            for inner in block.operations:
                names |= used(inner)
    return names


class _Estimate:
    """Extents and sizes by value name, filled as the operations are walked."""

    def __init__(self) -> None:
        self._extents: dict[str, Extent] = {}
        self._bytes: dict[str, int] = {}

    def region(self, region: Region) -> int:
        """The peak inside `region`; its blocks' arguments are taken to have their full size."""
        # Which blocks run after which is not followed: what each keeps alive is taken to live side by side.
        return sum(self._block(block, used_elsewhere(region, block)) for block in region.blocks)

    def _block(self, block: Block, kept: set[str]) -> int:
        live = 0
        for name, kind in block.arguments:
            self._extents.setdefault(name, Extent(kind.shape, varies=True))
            live += self._set(name, kind, counted=not kind.is_pointer)
        peak = live
        for operation, dying in zip(block.operations, last_uses(block, kept), strict=True):
            inside, made = self._operation(operation)
            peak = max(peak, live + inside + made)
            live += made - sum(self._bytes.get(name, 0) for name in dying)
        return max(peak, live)

    def _operation(self, operation: Operation) -> tuple[int, int]:
        """(bytes alive only while it runs, bytes of its results)."""
        extent = self._result(operation)
        inside = max((self.region(region) for region in operation.regions), default=0)
        if operation.name in {"tt.load", "tt.store"}:
            kind = (operation.result_types or operation.operand_types[1:])[0]
            inside = _item_size(kind) * (extent if operation.results else self._joined(operation.operands)).elements
        counted = operation.name not in _COMPACT
        made = 0
        for name, kind in zip(operation.results, operation.result_types, strict=True):
            self._extents[name] = extent if len(extent.axes) == len(kind.shape) else Extent(kind.shape, extent.varies)
            made += self._set(name, kind, counted=counted and not kind.is_pointer)
        return inside, made

    def _set(self, name: str, kind: Type, *, counted: bool) -> int:
        self._bytes[name] = self._extents[name].elements * _item_size(kind) if counted else 0
        return self._bytes[name]

    def _result(self, operation: Operation) -> Extent:
        shape = operation.result_types[0].shape if operation.result_types else ()
        inputs = [self._extents[name] for name in operation.operands if name in self._extents]
        varies = operation.name not in _UNIFORM and (
            not inputs or operation.name == "tt.load" or any(one.varies for one in inputs)
        )
        if operation.name in {"arith.constant", "tt.splat"}:
            return Extent((1,) * len(shape), varies)
        if operation.name == "tt.expand_dims" and inputs:
            axis = operation.properties["axis"]
            return Extent((*inputs[0].axes[:axis], 1, *inputs[0].axes[axis:]), varies)
        if operation.name == "tt.broadcast" and inputs:
            return Extent(inputs[0].axes, varies)
        if not operation.regions and operation.name.startswith(("arith.", "math.", "tt.load", "tt.addptr", "tt.fp_to_fp")):
            joined = self._joined(operation.operands)
            if len(joined.axes) == len(shape):
                return Extent(joined.axes, varies)
        return Extent(shape, varies)

    def _joined(self, names: Iterable[str]) -> Extent:
        extents = [self._extents[name] for name in names if name in self._extents]
        rank = max((len(one.axes) for one in extents), default=0)
        alike = [one for one in extents if len(one.axes) == rank]
        axes = tuple(max(sizes) for sizes in zip(*(one.axes for one in alike), strict=True))
        return Extent(axes, any(one.varies for one in extents))


def _item_size(kind: Type) -> int:
    try:
        return int(np.dtype(compute_dtype(kind.element)).itemsize)
    except (UnsupportedOperation, LookupError):
        return _ADDRESS
