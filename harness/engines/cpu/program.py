"""Compiles a parsed function to steps: every SSA value gets a register, every operation a closure over its registers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from tridiff.harness.engines.cpu.errors import UnsupportedOperation
from tridiff.harness.engines.cpu.ir import Block, Location, Operation, Region, Type
from tridiff.harness.engines.cpu.liveness import last_uses, live_bytes, used_elsewhere
from tridiff.harness.engines.cpu.machine import RESERVED_SLOTS, Lanes, Step
from tridiff.harness.engines.cpu.target import Target
from tridiff.harness.engines.cpu.waits import callee_name, waits

JUMPS = {"cf.br", "cf.cond_br"}
TERMINATORS = {
    *JUMPS,
    "scf.yield",
    "scf.condition",
    "tt.map_elementwise.return",
    "tt.reduce.return",
    "tt.return",
    "tt.scan.return",
}


@dataclass(eq=False)
class Body:
    """A compiled block: argument slots, steps, and its terminator with the slots it passes on.

    `reads`: the slots that it needs from outside. `lines`: where each step comes from.
    """

    label: str
    arguments: list[int]
    steps: list[Step]
    terminator: Operation
    passed: list[int]
    reads: frozenset[int]
    lines: list[Location]
    line: str = field(init=False)

    def __post_init__(self) -> None:
        """Spell out the terminator's source line once: control flow asks for it at every jump."""
        self.line = str(self.terminator.location)

    def run(self, lanes: Lanes) -> None:
        """All steps, in order, for all programs of `lanes`."""
        at = 0
        try:
            for at, step in enumerate(self.steps):  # noqa: B007 - read when a step raises
                step(lanes)
        except UnsupportedOperation as error:
            error.line = error.line or str(self.lines[at])
            raise


@dataclass(eq=False)
class Bound:
    """An operation with its registers, as the tables of operations get it. `callee`: the function that a tt.call means."""

    operation: Operation
    ins: list[int]
    outs: list[int]
    bodies: list[list[Body]]
    target: Target
    callee: Function | None = None

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
    """A compiled kernel. `live`: bytes that one program keeps alive at most, estimated. `slots`: number of registers.

    `waits`: a loop of it may wait for another program (a lock, a flag), so programs must run one after the other: in lockstep
    the holder of a lock would wait for those that wait for it.
    """

    name: str
    blocks: list[Body]
    arguments: list[tuple[int, Type]]
    slots: int
    live: int
    waits: bool = False


@dataclass
class Compiler:
    """Turns operations into steps by the tables it is given; an operation in no table raises `UnsupportedOperation`."""

    builders: dict[str, Builder]
    target: Target = field(default_factory=Target)

    def function(self, module: Operation) -> Function:
        """The module's kernel, with the functions that it calls. Raises `UnsupportedOperation`, with the source line."""
        operations = [op for op in module.regions[0].blocks[0].operations if op.name == "tt.func"]
        functions = {str(op.properties["sym_name"]): op for op in operations}
        public = [name for name, op in functions.items() if op.properties.get("sym_visibility") == "public"]
        kernels = public or list(functions)
        if len(kernels) != 1:
            raise UnsupportedOperation(f"a module of {len(kernels)} kernels")
        return _Functions(self.builders, self.target, functions).get(kernels[0])


@dataclass
class _Functions:
    """The functions of a module, each compiled when first asked for. `open`: names of those that are being compiled."""

    builders: dict[str, Builder]
    target: Target
    operations: dict[str, Operation]
    open: list[str] = field(default_factory=list)
    _compiled: dict[str, Function] = field(default_factory=dict)

    def get(self, name: str) -> Function:
        if name not in self._compiled:
            self.open.append(name)
            self._compiled[name] = _FunctionCompiler(self).function(self.operations[name])
            self.open.pop()
        return self._compiled[name]


@dataclass
class _FunctionCompiler:
    """Compiles one function: its registers are its own."""

    functions: _Functions
    _slots: dict[str, int] = field(default_factory=dict)
    _next: int = RESERVED_SLOTS
    _callees: int = 0
    _tensors: set[str] = field(default_factory=set)

    def function(self, operation: Operation) -> Function:
        entry = operation.regions[0].blocks[0]
        blocks = self._region(operation.regions[0])
        return Function(
            name=str(operation.properties["sym_name"]),
            blocks=blocks,
            arguments=[(self._slot(name), kind) for name, kind in entry.arguments],
            slots=self._next,
            live=live_bytes(operation) + self._callees,
            waits=waits(operation, self.functions.operations),
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
        return [self._block(block, used_elsewhere(region, block)) for block in region.blocks]

    def _block(self, block: Block, kept: set[str]) -> Body:
        *operations, last = block.operations
        if last.name not in TERMINATORS:
            raise UnsupportedOperation(f"a block that ends in {last.name}", str(last.location))
        bounds = [self._bind(operation) for operation in operations]
        passed = [self._slot(name) for name in last.operands]
        arguments = [self._slot(name) for name, _ in block.arguments]
        reads = {*range(RESERVED_SLOTS), *passed}
        for bound in bounds:
            reads.update(bound.ins, *(body.reads for bodies in bound.bodies for body in bodies))
        inner = {*arguments, *(slot for bound in bounds for slot in bound.outs)}
        steps, lines = self._steps(bounds, last_uses(block, kept))
        return Body(block.label, arguments, steps, last, passed, frozenset(reads - inner), lines)

    def _steps(self, bounds: list[Bound], dying: list[list[str]]) -> tuple[list[Step], list[Location]]:
        """A step an operation, and one more where tensors are not needed any longer: their memory serves the next.

        With where each step comes from.
        """
        steps: list[Step] = []
        lines: list[Location] = []
        for bound, names in zip(bounds, dying, strict=False):  # the terminator, which has no step, ends the block anyway
            steps.append(self._step(bound))
            slots = [self._slots[name] for name in names if name in self._tensors]
            if slots:
                steps.append(_drop(slots))
            lines += [bound.operation.location] * (len(steps) - len(lines))
        return steps, lines

    def _bind(self, operation: Operation) -> Bound:
        self._tensors.update(name for name, kind in zip(operation.results, operation.result_types, strict=True) if kind.shape)
        bodies = [self._region(region) for region in operation.regions]
        ins = [self._slot(name) for name in operation.operands]
        outs = [self._slot(name) for name in operation.results]
        return Bound(operation, ins, outs, bodies, self.functions.target, self._callee(operation))

    def _callee(self, operation: Operation) -> Function | None:
        if operation.name != "tt.call":
            return None
        name = callee_name(operation)
        if name not in self.functions.operations:
            raise UnsupportedOperation(f"a call of {name}, which the module does not define", str(operation.location))
        if name in self.functions.open:
            raise UnsupportedOperation(f"the recursion of {name}", str(operation.location))
        callee = self.functions.get(name)
        self._callees = max(self._callees, callee.live)
        return callee

    def _step(self, bound: Bound) -> Step:
        builder = self.functions.builders.get(bound.operation.name)
        if builder is None:
            raise UnsupportedOperation(f"the operation {bound.operation.name}", bound.line)
        try:
            return builder(bound)
        except UnsupportedOperation as error:
            raise UnsupportedOperation(error.what, error.line or bound.line) from error


def _drop(slots: list[int]) -> Step:
    def run(lanes: Lanes) -> None:
        regs = lanes.regs
        for slot in slots:
            regs[slot] = None

    return run
