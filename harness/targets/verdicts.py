"""The verdict on one specialisation for one part: what it needs, and which checks of the compiler fire.

Fast verdicts are remembered by content: in this process, and on disk beside the IR that they follow from.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from functools import lru_cache
from typing import Any

from tridiff.harness.api import Failure
from tridiff.harness.capture import Specialisation
from tridiff.harness.engines.cpu import cache, fingerprint
from tridiff.harness.engines.cpu.mlir import ParseError
from tridiff.harness.engines.cpu.ttir import printed
from tridiff.harness.targets import allocations, fp8, fp8_casts, machine_code, pipeline
from tridiff.harness.targets.parts import Part
from tridiff.harness.targets.pipeline import RELEASE, Figures, Refused

FORMAT = "verdict-1"
"""Raised when verdicts are reached or stored in another way than before, so that old ones are not found."""
_FP8 = "f8E"
"""In the name of every FP8 format in MLIR."""
_log = logging.getLogger("tridiff")


@dataclass(frozen=True, kw_only=True)
class Judgement:
    """`figures`: None where Triton refused to compile. `failures`: the checks that fired. `registers`: see `api.Compiled`."""

    figures: Figures | None
    failures: tuple[Failure, ...]
    registers: tuple[tuple[str, int], ...] = ()


def fast(specialisation: Specialisation, part: Part) -> Judgement:
    """The verdict without generating code."""
    figures, failures = _known(specialisation, part.name)
    if figures is not None:
        failures = (*failures, *_excesses(specialisation, figures, part))
    return Judgement(figures=figures, failures=failures)


def full(specialisation: Specialisation, part: Part, budget: float) -> Judgement:
    """The verdict of the whole pipeline, and the fast one's on FP8. `budget`: seconds that it may take to compile.

    An abort of the code generator ends this process.
    """
    quick = fast(specialisation, part)
    if quick.figures is None:
        return quick
    try:
        found = machine_code.compiled(specialisation)
    except Refused as error:
        return Judgement(figures=quick.figures, failures=(*quick.failures, error.failure))
    # What the table knows to abort has not aborted.
    kept = [failure for failure in quick.failures if failure.check not in {"resources", "codegen"}]
    failures = (*kept, *_excesses(specialisation, found.figures, part), *_overtime(specialisation, found.seconds, budget))
    return Judgement(figures=found.figures, failures=failures, registers=found.registers)


def _overtime(specialisation: Specialisation, seconds: float, budget: float) -> Iterator[Failure]:
    if seconds > budget:
        name = specialisation.function.__name__
        message = f"{name} takes {seconds:.0f} s to compile, more than the {budget:.0f} s that it may ({RELEASE})"
        yield Failure(check="compile_time", message=message, line=_defined(specialisation), subject=name)


def _excesses(specialisation: Specialisation, figures: Figures, part: Part) -> Iterator[Failure]:
    """What the part does not have, in the order in which Triton complains at the launch."""
    name = specialisation.function.__name__
    if figures.shared > part.shared_bytes:
        share = _largest(specialisation)
        message = (
            f"{name} needs {figures.shared} bytes of shared memory (LDS), {part.name} has {part.shared_bytes} ({RELEASE})"
            + (f"; most of it is {share}" if share else "")
        )
        # The line of the largest buffer would make several defects of one, as that changes from case to case.
        yield Failure(check="resources", message=message, line=_defined(specialisation), subject=f"{name} shared memory")
    for what, needed, most in (
        ("columns of tensor memory", figures.tensor_memory, part.tensor_memory),
        ("threads", figures.threads, part.threads),
    ):
        if needed > most:
            message = f"{name} needs {needed} {what}, {part.name} has {most} ({RELEASE})"
            yield Failure(check="resources", message=message, line=_defined(specialisation), subject=f"{name} {what}")


_shares: dict[tuple[int, str], tuple[Any, allocations.Share | None]] = {}


def _largest(specialisation: Specialisation) -> allocations.Share | None:
    """The largest buffer; worked out once a process, as it takes another compilation."""
    function = specialisation.function
    key = (id(function), specialisation.name)
    if key not in _shares:
        found = pipeline.allocated(specialisation)
        _shares[key] = function, allocations.largest(printed(found.module), found.figures.shared)  # kept, so is its id
    return _shares[key][1]


def _defined(specialisation: Specialisation) -> str:
    """FILE:LINE of the jit function."""
    function = specialisation.function
    file = str(function.fn.__code__.co_filename).replace("\\", "/").rpartition("/")[2]
    return f"{file}:{function.starting_line_number}"


_verdicts: dict[str, tuple[Figures | None, tuple[Failure, ...]]] = {}


def _known(specialisation: Specialisation, target: str) -> tuple[Figures | None, tuple[Failure, ...]]:
    """What Triton says up to the allocation, whatever the part's limits are."""
    try:
        key = fingerprint.digest(f"{FORMAT} {_casts()} {target} {fingerprint.key_of(specialisation)}")
    except fingerprint.Unkeyable as error:
        _log.debug("verdict not remembered: %s", error)
        return _asked(specialisation, target)
    if key not in _verdicts:
        store = cache.store()
        stored = None if store is None else store.get(key)
        if stored is None:
            _verdicts[key] = _asked(specialisation, target)
            if store is not None:
                store.put(key, _written(*_verdicts[key]))
        else:
            _verdicts[key] = _read(stored)
    return _verdicts[key]


def _asked(specialisation: Specialisation, target: str) -> tuple[Figures | None, tuple[Failure, ...]]:
    try:
        found = pipeline.allocated(specialisation)
    except Refused as error:
        return None, (error.failure,)
    return found.figures, tuple(_wrong_casts(found, target))


def _wrong_casts(found: pipeline.Allocated, target: str) -> list[Failure]:
    """What the table of FP8 casts says of those that are left after Triton's passes, which bring in some of their own."""
    if _FP8 not in found.ttir:
        return []
    try:
        return fp8.faults_of(target, printed(found.module))
    except ParseError as error:  # an attribute of TTGIR that we cannot read, say
        _log.debug("FP8 casts are taken from TTIR: %s", error)
        return fp8.faults_of(target, found.ttir)


@lru_cache(maxsize=1)
def _casts() -> str:
    """A digest of the table of FP8 casts."""
    return fingerprint.digest(fp8_casts.DATA.read_bytes())


def _written(figures: Figures | None, failures: tuple[Failure, ...]) -> str:
    return json.dumps({"figures": asdict(figures) if figures else None, "failures": [asdict(failure) for failure in failures]})


def _read(text: str) -> tuple[Figures | None, tuple[Failure, ...]]:
    data: dict[str, Any] = json.loads(text)
    figures = None if data["figures"] is None else Figures(**data["figures"])
    return figures, tuple(Failure(**failure) for failure in data["failures"])
