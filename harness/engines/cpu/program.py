"""Compiles a parsed function to steps: every SSA value gets a register, every operation a closure over its registers."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from tridiff.harness.engines.cpu.errors import UnsupportedOperation
from tridiff.harness.engines.cpu.ir import Block, Operation, Region, Type
from tridiff.harness.engines.cpu.machine import PROGRAM_ID_SLOTS, Lanes, Step

TERMINATORS = {"scf.yield", "scf.condition", "tt.reduce.return", "tt.return", "cf.br", "cf.cond_br"}


@dataclass(eq=False)
class Body:
    """A compiled block: argument slots, steps, and its terminator with the slots it passes on.

    `reads`: the slots that it needs from outside.
    """

    label: str
    arguments: list[int]
    steps: list[Step]
    terminator: Operation
    passed: list[int]
    reads: frozenset[int]
    line: str = field(init=False)

    def __post_init__(self) -> None:
        """Spell out the terminator's source line once: control flow asks for it at every jump."""
        self.line = str(self.terminator.location)

    def run(self, lanes: Lanes) -> None:
        """All steps, in order, for all programs of `lanes`."""
        for step in self.steps:
            step(lanes)


@dataclass(eq=False)
class Bound:
    """An operation with its registers, as the tables of operations get it."""

    operation: Operation
    ins: list[int]
    outs: list[int]
    bodies: list[list[Body]]

    @property
    def result(self) -> Type:
        """Type of the first result."""
        return self.operation.result_types[0]

    @property
    def line(self) -> str:
        """FILE:LINE of the operation."""
        return str(self.operation.location)

    def operand(self, index: int) -> Type:
        """Type of an operand."""
        return self.operation.operand_types[index]

    def unsupported(self, what: str) -> UnsupportedOperation:
        """The error to raise for a form of this operation that is not implemented."""
        return UnsupportedOperation(f"{self.operation.name}: {what}", self.line)


Builder = Callable[[Bound], Step]


@dataclass(eq=False)
class Function:
    """A compiled kernel. `largest`: elements of its largest tensor. `slots`: number of registers."""

    name: str
    blocks: list[Body]
    arguments: list[tuple[int, Type]]
    slots: int
    largest: int


@dataclass
class Compiler:
    """Turns operations into steps by the tables it is given; an operation in no table raises `UnsupportedOperation`."""

    builders: dict[str, Builder]
    _slots: dict[str, int] = field(default_factory=dict)
    _next: int = PROGRAM_ID_SLOTS
    _largest: int = 1

    def function(self, module: Operation) -> Function:
        """The module's only function. Raises `UnsupportedOperation`, with the source line."""
        functions = [op for op in module.regions[0].blocks[0].operations if op.name == "tt.func"]
        if len(functions) != 1:
            raise UnsupportedOperation(f"a module of {len(functions)} functions (noinline calls)")
        (operation,) = functions
        entry = operation.regions[0].blocks[0]
        blocks = self._region(operation.regions[0])
        return Function(
            name=str(operation.properties["sym_name"]),
            blocks=blocks,
            arguments=[(self._slot(name), kind) for name, kind in entry.arguments],
            slots=self._next,
            largest=self._largest,
        )

    def _slot(self, name: str) -> int:
        if name not in self._slots:
            self._slots[name] = self._next
            self._next += 1
        return self._slots[name]

    def _region(self, region: Region) -> list[Body]:
        for block in region.blocks:
            for name, _ in block.arguments:
                self._slot(name)
        return [self._block(block) for block in region.blocks]

    def _block(self, block: Block) -> Body:
        *operations, last = block.operations
        if last.name not in TERMINATORS:
            raise UnsupportedOperation(f"a block that ends in {last.name}", str(last.location))
        bounds = [self._bind(operation) for operation in operations]
        passed = [self._slot(name) for name in last.operands]
        arguments = [self._slot(name) for name, _ in block.arguments]
        reads = {*range(PROGRAM_ID_SLOTS), *passed}
        for bound in bounds:
            reads.update(bound.ins, *(body.reads for bodies in bound.bodies for body in bodies))
        inner = {*arguments, *(slot for bound in bounds for slot in bound.outs)}
        return Body(block.label, arguments, [self._step(bound) for bound in bounds], last, passed, frozenset(reads - inner))

    def _bind(self, operation: Operation) -> Bound:
        for kind in operation.result_types:
            self._largest = max(self._largest, _elements(kind.shape))
        bodies = [self._region(region) for region in operation.regions]
        ins = [self._slot(name) for name in operation.operands]
        return Bound(operation, ins, [self._slot(name) for name in operation.results], bodies)

    def _step(self, bound: Bound) -> Step:
        builder = self.builders.get(bound.operation.name)
        if builder is None:
            raise UnsupportedOperation(f"the operation {bound.operation.name}", bound.line)
        try:
            return builder(bound)
        except UnsupportedOperation as error:
            raise UnsupportedOperation(error.what, error.line or bound.line) from error


def _elements(shape: Iterable[int]) -> int:
    count = 1
    for size in shape:
        count *= size
    return count
