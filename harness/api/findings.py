"""Checks by name, Findings with stable signatures, and the Outcome of examining one Case."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from typing import Any

from tridiff.harness.api.messages import normalised

CHECKS = {
    "launch": "the launcher or Triton's front end raised on a legal case",
    "crash": "the process that ran the kernel died: a signal, an abort, an exit",
    "hang": "the kernel exceeded its step or time budget",
    "memory": "the process that ran the kernel needed more memory than it may have",
    "assertion": "a device assertion or an assumption (tl.assume) of the kernel does not hold",
    "bounds": "a load or store fell outside the tensor that its pointer came from",
    "corruption": "memory that the Op does not declare as written has changed, or a kernel wrote it back as it was",
    "unwritten": "an element that must be written still holds its poison",
    "nan": "an output is NaN or infinite where the reference is finite",
    "mismatch": "an output differs from the reference by more than the error bound",
    "poison": "the result depends on bytes that must not influence it",
    "compile": "the compiler (Triton's) refuses the kernel for the target",
    "codegen": "the code generator for the target aborts or fails",
    "resources": "the kernel needs more shared memory (LDS), threads or tensor memory than the target has",
    "fp8_semantics": "an FP8 conversion compiles for the target to instructions that compute something else",
    "compile_time": "the kernel takes too long to compile for the target",
}
"""Every check with one sentence, in order of precedence: the first that fires names the Finding."""

COMPILER = frozenset({"compile", "codegen", "resources", "fp8_semantics", "compile_time"})
"""Checks of the engine `compiler`, which compiles launches for a target and runs nothing."""

OF_MACHINE_CODE = frozenset({"codegen", "compile_time"})
"""Those of them that need compiling all the way to machine code."""

DEADLY = frozenset({"crash", "memory"})
"""Checks that only a process can fire which watches another one: without worker processes they are not to be had."""

_PRECEDENCE = {name: rank for rank, name in enumerate(CHECKS)}


def rank(check: str) -> int:
    """Place of `check` in the order of precedence."""
    return _PRECEDENCE[check]


@dataclass(frozen=True, kw_only=True)
class Failure:
    """One check that fired: `message` is a sentence, `line` the kernel's source line as FILE:LINE where known.

    `subject`: the part of the message that tells one defect from another of the same check and line; "" if nothing does.
    """

    check: str
    message: str
    line: str | None = None
    subject: str = ""


@dataclass(frozen=True, kw_only=True)
class Finding:
    """A failed check with the Case that shows it.

    `others` names the further checks that fired on the same Case. `tail`: what a process that died of it last wrote. Two
    Findings with one `signature()` are one defect.
    """

    check: str
    message: str
    line: str | None
    op: str
    kernel: str
    engine: str
    target: str
    case: Any
    subject: str = ""
    others: tuple[str, ...] = ()
    tail: tuple[str, ...] = ()

    def signature(self) -> str:
        """`OP-CHECK-DIGEST`, stable under the element, numbers, shapes and dtypes, which vary from case to case."""
        parts = (self.op, self.kernel, self.check, target_family(self.target), self.line or "", normalised(self.subject))
        digest = hashlib.blake2b("\x1f".join(parts).encode(), digest_size=4).hexdigest()
        return f"{self.op}-{self.check}-{digest}"


def target_family(target: str) -> str:
    """`gfx942` -> `gfx9`, `gfx1201` -> `gfx12`, `sm_90` -> `sm`."""
    match = re.fullmatch(r"gfx(\d+)[0-9a-f]{2}", target)
    return f"gfx{match.group(1)}" if match else target.partition("_")[0]


@dataclass(frozen=True, kw_only=True)
class Compiled:
    """What compiling one specialisation for a target told.

    `name`: the specialisation's, with a digest. `function`: the jit function's. `placement`: see `Op.placements`. `config`: the
    autotuner's configuration, "" without one; `dropped`: why the autotuner would leave that out, "" where it may run.
    `shared`: bytes of shared memory (LDS); `threads` of a program, 0 where it did not get as far as an allocation;
    `tensor_memory`: columns. `registers`: from the object file, where code was generated: ("vgpr", 184), ("spills", 0), ...
    `check`: the one that fired, "" if none did.
    """

    name: str
    function: str
    placement: str
    config: str = ""
    dropped: str = ""
    shared: int = 0
    threads: int = 0
    tensor_memory: int = 0
    registers: tuple[tuple[str, int], ...] = ()
    check: str = ""


@dataclass(frozen=True, kw_only=True)
class Program:
    """What one specialisation is compiled to.

    `name`: the specialisation's. `digest`: of its IR without locations; two programs of one digest are the same. "" where
    Triton refuses it, for the reason `refused`. `functions`: the jit functions that it consists of, MODULE:NAME each.
    """

    name: str
    digest: str
    refused: str = ""
    functions: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Clean:
    """No check fired. `ratio`: the largest |output - reference| / bound. `conclusive`: see `Verdict`.

    `compiled`: what the engine `compiler` learnt, `programs`: what the engine `reader` did; then nothing ran, and `ratio` is 0.
    """

    ratio: float
    conclusive: bool = True
    specialisations: tuple[str, ...] = ()
    compiled: tuple[Compiled, ...] = ()
    programs: tuple[Program, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Found:
    """One Finding; the checks that fired besides it are named in `finding.others`. `compiled`: see `Clean`."""

    finding: Finding
    specialisations: tuple[str, ...] = ()
    compiled: tuple[Compiled, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Skipped:
    """The machine could not stage the Case (out of address space, say); `reason` is one sentence."""

    reason: str


@dataclass(frozen=True, kw_only=True)
class Unsupported:
    """The engine does not implement what the kernel uses, or the launcher refuses the Case with its `Kernel.unsupported`.

    `reason` names the operation, or says what the launcher says; `line`: the source line.
    """

    reason: str
    line: str | None = None


@dataclass(frozen=True, kw_only=True)
class Infrastructure:
    """The process that ran the Case died, and did not when the Case was run again alone: the machine's matter, or ours.

    `reason`: how it died, one sentence. `tail`: the last lines that it wrote to standard error.
    """

    reason: str
    tail: tuple[str, ...] = ()


Outcome = Clean | Found | Skipped | Unsupported | Infrastructure
"""What examining a Case gives."""


@dataclass(frozen=True, kw_only=True)
class Quarantined:
    """The Case was not run: the ledger of known failures keeps it away from the Kernel. `entry`: the key of its entry there."""

    entry: str


@dataclass(frozen=True, kw_only=True)
class Tolerated:
    """What would be `Found`, had the ledger of known failures no `entry` (a key) that forgives it. No Finding of the run."""

    entry: str
    finding: Finding
    specialisations: tuple[str, ...] = ()
    compiled: tuple[Compiled, ...] = ()


Judged = Outcome | Quarantined | Tolerated
"""What a run makes of a Case: its Outcome, or what the ledger of known failures says instead."""
