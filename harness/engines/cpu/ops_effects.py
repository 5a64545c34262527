"""Operations without a result: assertions, assumptions, prints and barriers."""

from __future__ import annotations

import logging

import numpy as np

from tridiff.harness.engines.cpu.errors import KernelError
from tridiff.harness.engines.cpu.machine import Lanes, Step
from tridiff.harness.engines.cpu.ops_memory import program
from tridiff.harness.engines.cpu.program import Bound, Builder

PRINTS = logging.getLogger("tridiff.print")
"""What kernels print with `tl.device_print`, a message per operation, at level INFO."""


def _assert(op: Bound) -> Step:
    message = f"the device assertion {op.operation.properties.get('message', '')!r} fails"
    return _demand(op, message)


def _assume(op: Bound) -> Step:
    # A compiler may do anything where an assumption is false, so this is never harmless.
    return _demand(op, "an assumption of the kernel (tl.assume) does not hold")


def _demand(op: Bound, message: str) -> Step:
    (condition,) = op.ins[:1]
    line = op.line

    def run(lanes: Lanes) -> None:
        holds = lanes.array(condition)
        if not holds.all():
            at = int(np.argwhere(~holds)[0][0])
            raise KernelError("launch", f"{message}, in {program(at, lanes)}", line, message)

    return run


def _print(op: Bound) -> Step:
    prefix = str(op.operation.properties.get("prefix", "")).strip()
    style = hex if op.operation.properties.get("hex") else str
    signed = op.operation.properties.get("isSigned", [])

    def run(lanes: Lanes) -> None:
        if not PRINTS.isEnabledFor(logging.INFO):
            return
        for index, slot in enumerate(op.ins):
            array = lanes.array(slot)
            if index < len(signed) and not signed[index] and array.dtype.kind == "i":
                array = array.view(f"u{array.dtype.itemsize}")
            PRINTS.info("%s: %s %s", op.line, prefix, [style(item) for item in array.ravel().tolist()])

    return run


def _nothing(_: Bound) -> Step:
    """Within a program all lanes run in step, so there is nothing to wait for."""
    return lambda _: None


BUILDERS: dict[str, Builder] = {
    "tt.assert": _assert,
    "tt.print": _print,
    "llvm.intr.assume": _assume,
    "gpu.barrier": _nothing,
    "ttg.barrier": _nothing,
    "tt.grid_dependency_launch_dependents": _nothing,
    "tt.grid_dependency_wait": _nothing,
}
