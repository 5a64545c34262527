"""Operations without a result: assertions, assumptions, prints and barriers."""

from __future__ import annotations

import logging
from collections.abc import Iterator

import numpy as np

from tridiff.harness.engines.cpu import formats
from tridiff.harness.engines.cpu.errors import KernelError
from tridiff.harness.engines.cpu.formats import Array
from tridiff.harness.engines.cpu.machine import Lanes, Step
from tridiff.harness.engines.cpu.ops_memory import program
from tridiff.harness.engines.cpu.program import Bound, Builder
from tridiff.harness.engines.cpu.values import MixedPointer, Pointer, Value, dense, unified

PRINTS = logging.getLogger("tridiff.print")
"""What kernels print with `tl.device_print`, a message per program, at level INFO."""


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
            raise KernelError("assertion", f"{message}, in {program(at, lanes)}", line, message)

    return run


def _print(op: Bound) -> Step:
    """A message per program: line, program, prefix, and the elements of each operand in row order."""
    line = op.line
    prefix = str(op.operation.properties.get("prefix", "")).strip()

    def run(lanes: Lanes) -> None:
        if not PRINTS.isEnabledFor(logging.INFO):
            return
        texts = [np.broadcast_to(text, (lanes.count, *text.shape[1:])) for text in _texts(op, lanes)]
        for index in range(lanes.count):
            items = " ".join(f"[{', '.join(text[index].ravel())}]" for text in texts)
            PRINTS.info("%s", f"{line}: {program(index, lanes)}: {prefix} {items}".rstrip())

    return run


def _texts(op: Bound, lanes: Lanes) -> Iterator[Array]:
    """Each operand as an array of strings, of its full shape but for the programs."""
    properties = op.operation.properties
    signed = properties.get("isSigned", [])
    for index, slot in enumerate(op.ins):
        kind = op.operand(index)
        value = lanes.value(slot)
        if kind.is_pointer:
            text = _places(value)
        elif properties.get("hex"):
            text = _bits(dense(value), kind.element)
        else:
            text = _numbers(dense(value), unsigned=index < len(signed) and not signed[index])
        yield np.broadcast_to(text, (text.shape[0], *kind.shape))


def _numbers(array: Array, *, unsigned: bool) -> Array:
    return (array.view(f"u{array.dtype.itemsize}") if unsigned and array.dtype.kind == "i" else array).astype(np.str_)


def _bits(array: Array, element: str) -> Array:
    """Bit patterns, as wide as the format."""
    raw = formats.encode(array, element)
    digits = 1 if element == "i1" else 2 * raw.dtype.itemsize
    items = raw.view(f"u{raw.dtype.itemsize}").ravel().tolist()
    return np.array([f"0x{item:0{digits}x}" for item in items], dtype=np.str_).reshape(raw.shape)


def _places(value: Value) -> Array:
    """Pointers as tensor and element: real addresses change from run to run."""
    if not isinstance(value, (Pointer, MixedPointer)):
        raise TypeError(f"expected pointers, found {type(value).__name__}")
    memories, (pointers,) = unified([value])
    which, offsets = np.broadcast_arrays(pointers.which, pointers.offsets)
    text = [f"{memories[one].name}[{offset}]" for one, offset in zip(which.flat, offsets.flat, strict=True)]
    return np.array(text, dtype=np.str_).reshape(offsets.shape)


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
