"""FP8 casts of a kernel that will not do for a target: wrong, or ones that its back end cannot compile."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from tridiff.harness.api import Failure
from tridiff.harness.engines.cpu.ir import Operation
from tridiff.harness.engines.cpu.mlir import parse
from tridiff.harness.targets.fp8_casts import FORBIDDEN, FORMATS, UNKNOWN, WRONG, Conversion, constant, conversion, installed

__all__ = ["Cast", "Conversion", "conversion", "conversions", "faults_of"]

_CASTS = {"tt.fp_to_fp", "arith.extf", "arith.truncf"}
_TOWARD_ZERO = 0
_SPELT = {"f32": "float32", "f16": "float16"}


class Cast(NamedTuple):
    """A conversion in a kernel. `line`: its author's, as FILE:LINE, "" if unknown. `toward_zero`: how it rounds."""

    source: str
    result: str
    line: str
    toward_zero: bool
    operation: str


def conversions(text: str) -> list[Cast]:
    """The casts to or from FP8 in a module in MLIR's generic form, TTIR or TTGIR, each line's once. Raises `ParseError`."""
    if "f8E" not in text:
        return []
    found = (_cast(operation) for operation in _walk(parse(text)) if operation.name in _CASTS)
    return list(dict.fromkeys(cast for cast in found if not {cast.source, cast.result}.isdisjoint(FORMATS)))


def _walk(operation: Operation) -> Iterator[Operation]:
    yield operation
    for region in operation.regions:
        for block in region.blocks:
            for inner in block.operations:
                yield from _walk(inner)


def _cast(operation: Operation) -> Cast:
    return Cast(
        source=operation.operand_types[0].element,
        result=operation.result_types[0].element,
        line=str(operation.location),
        toward_zero=operation.properties.get("rounding") == _TOWARD_ZERO,
        operation=operation.name,
    )


def faults_of(target: str, text: str, release: str | None = None) -> list[Failure]:
    """What is wrong with the FP8 casts of a module (see `conversions`) for `target`: `fp8_semantics` and `codegen`.

    Give it TTGIR rather than TTIR: there stand the casts, too, by which Triton's passes prepare operands of tl.dot. Nothing is
    said of what the front end refuses, which never gets as far as TTIR, nor of what is unknown.
    """
    release = release or installed()
    failures = (_failure(target, cast, release) for cast in conversions(text))
    return [failure for failure in failures if failure is not None]


def _failure(target: str, cast: Cast, release: str) -> Failure | None:
    found = _made_of(target, cast, release)
    subject = f"{cast.source} to {cast.result}{' toward zero' if cast.toward_zero else ''}"
    if found.kind == WRONG:
        what = f"is silently wrong on {target} with triton {release}: it compiles to {found.evidence.partition(':')[0]}"
        message = f"{subject} {what}, so that numbers come out {'twice' if found.factor > 1 else 'half'} as large"
        check = "fp8_semantics"
    elif found.kind == FORBIDDEN and found.stage != "refused":
        how = "the compiler aborts, and the process with it" if found.stage == "aborts" else "the back end fails"
        message = f"{subject} does not compile for {target} with triton {release}: {how} ({found.evidence})"
        check = "codegen"
    else:
        return None
    probed = "" if found.release == release else f" (known of triton {found.release}, the nearest that was probed)"
    return Failure(
        check=check, message=f"{message}{probed}; {_advice(target, cast, release)}", line=cast.line or None, subject=subject
    )


def _made_of(target: str, cast: Cast, release: str) -> Conversion:
    """Of a constant that no FP8 format has, the front end makes arith.truncf, not a cast of Triton's."""
    if cast.operation == "tt.fp_to_fp":
        return conversion(target, cast.source, cast.result, release, toward_zero=cast.toward_zero)
    if cast.operation == "arith.truncf" and cast.result in FORMATS:
        return constant(target, cast.result, release)
    return Conversion(kind=UNKNOWN)


def _advice(target: str, cast: Cast, release: str) -> str:
    """What to write instead: the first that is right on `target`."""

    def is_right(source: str, result: str) -> bool:
        return source == result or conversion(target, source, result, release).is_right or not {source, result} & set(FORMATS)

    if cast.toward_zero and is_right(cast.source, cast.result):
        return "leave out fp_downcast_rounding"
    if cast.operation == "arith.truncf":
        return "fill with a float32 number and convert that"
    for between in ("f32", "f16"):
        if between not in {cast.source, cast.result} and is_right(cast.source, between) and is_right(between, cast.result):
            return f"convert to {_SPELT[between]} first"
    return f"no way around it is known on {target}: use another format"
