"""Which kernels wait for other programs: spin locks, flags and semaphores, whose programs cannot run in lockstep."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from tridiff.harness.engines.cpu.ir import Operation, Region


def callee_name(operation: Operation) -> str:
    """The name of the function that a tt.call means."""
    return str(operation.properties["callee"]).removeprefix("@").strip('"')


def waits(function: Operation, functions: Mapping[str, Operation]) -> bool:
    """Whether a loop of `function`, or of one that it calls, may spin until another program writes something.

    In doubt it does: programs that run one after the other are slow, those that wait in lockstep never end.
    """
    return _Search(functions, _Names.of(function)).within(function, loop=None)


@dataclass(frozen=True)
class _Names:
    """Of one function: the values that are a constant zero, and those that something reads."""

    zeros: frozenset[str]
    used: frozenset[str]

    @classmethod
    def of(cls, function: Operation) -> _Names:
        operations = list(_nested(function))
        zeros = {op.results[0] for op in operations if op.name == "arith.constant" and _is_zero(op.properties["value"])}
        return cls(frozenset(zeros), frozenset(name for op in operations for name in op.operands))


def _is_zero(value: object) -> bool:
    content = value[0] if isinstance(value, tuple) else value  # (content, type) of a tensor
    try:
        return float(str(content)) == 0.0
    except ValueError:
        return False


@dataclass(frozen=True)
class _Search:
    functions: Mapping[str, Operation]
    names: _Names

    def within(self, operation: Operation, loop: frozenset[str] | None) -> bool:
        """`loop`: the names defined within the innermost loop around the operation, None outside of loops."""
        if operation.name == "tt.atomic_poll" or (loop is not None and self._looks_at_others(operation, loop)):
            return True
        if operation.name == "tt.call" and callee_name(operation) in self.functions:
            callee = self.functions[callee_name(operation)]
            return _Search(self.functions, _Names.of(callee)).within(callee, loop=None if loop is None else frozenset())
        for region in operation.regions:
            inner = frozenset(_defined(operation)) if operation.name == "scf.while" else loop
            inner = frozenset() if _jumps_back(region) else inner
            if any(self.within(op, inner) for block in region.blocks for op in block.operations):
                return True
        return False

    def _looks_at_others(self, operation: Operation, loop: frozenset[str]) -> bool:
        """Whether an operation in a loop reads what another program may change meanwhile, to go by it."""
        if not self.names.used.intersection(operation.results):
            return False
        if operation.name == "tt.load":
            return bool(operation.properties.get("isVolatile", False))
        if operation.name == "tt.atomic_cas":
            # What was found, and what follows from it: a retry, which fails only if another program got on. Else a lock.
            return not loop.issuperset(operation.operands[1:3])
        if operation.name == "tt.atomic_rmw":
            # Adding hands out tickets; adding nothing is a load, and the others test what they set.
            return operation.properties["atomic_rmw_op"] not in _ADDITIONS or operation.operands[1] in self.names.zeros
        return operation.name == "tt.atomic_load"


_ADDITIONS = {4, 5}
"""Of integers and of floats, by the attribute atomic_rmw_op."""


def _nested(operation: Operation) -> Iterator[Operation]:
    for region in operation.regions:
        for block in region.blocks:
            for inner in block.operations:
                yield inner
                yield from _nested(inner)


def _defined(operation: Operation) -> Iterator[str]:
    """The names of all results and block arguments within."""
    for region in operation.regions:
        for block in region.blocks:
            yield from (name for name, _ in block.arguments)
            for inner in block.operations:
                yield from inner.results
                yield from _defined(inner)


def _jumps_back(region: Region) -> bool:
    """Whether a block of `region` may branch to itself or to one before it."""
    place = {block.label: index for index, block in enumerate(region.blocks)}
    return any(
        place.get(label, index + 1) <= index
        for index, block in enumerate(region.blocks)
        for label in block.operations[-1].successors
    )
