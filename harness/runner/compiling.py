"""One Case through the compiler: the launcher runs unmodified, every launch is compiled for the target, and nothing is executed.

What a launch would have written is not there, so a launcher that reads it back may go another way than in production: what it
raises after its first launch is no Finding here. The cpu engine is what judges launchers.
"""

from __future__ import annotations

import traceback
from collections.abc import Iterator
from dataclasses import replace
from pathlib import PurePath
from types import ModuleType
from typing import Any

import torch
import triton
from triton.runtime.errors import OutOfResources

from tridiff.harness import blame
from tridiff.harness.api import (
    Arena,
    Clean,
    Compiled,
    Failure,
    Finding,
    Found,
    Kernel,
    Op,
    Outcome,
    StagingError,
    Unsupported,
    rank,
)
from tridiff.harness.capture import Launch, NotCompiled, Specialisation, capturing
from tridiff.harness.declarations import check_inputs
from tridiff.harness.engines.cpu.errors import UnsupportedOperation
from tridiff.harness.engines.spec import EngineSpec, UsageError
from tridiff.harness.registry import Registry
from tridiff.harness.runner.refusal import is_refusal
from tridiff.harness.targets import selftest, verdicts
from tridiff.harness.targets.parts import part
from tridiff.harness.targets.verdicts import Judgement

AS_DRAWN = "drawn"
"""The placement of Cases of an Op that declares none."""
_TRITON = PurePath(str(triton.__file__)).parent
_DROPPED = ("CompileTimeAssertionFailure", "PTXASError")
"""Besides OutOfResources, what makes Triton's autotuner go on without a configuration (`Autotuner._bench`, 3.6 to 3.9)."""


class Compilation:
    """Compiles what `kernel` launches for one Case, in every placement, or in `spec.placement` alone."""

    def __init__(self, known: Registry, kernel: Kernel, module: ModuleType, spec: EngineSpec, case: Any) -> None:
        self._known = known
        self._kernel = kernel
        self._op: Op = known.op(kernel.op)
        self._module = module
        self._spec = spec
        self._case = case
        self._part = part(spec.target)
        self._compiled: dict[tuple[str, str], Compiled] = {}
        self._failures: list[Failure] = []
        self._placement = AS_DRAWN
        self._launched = self._raising = False
        selftest.ensure(spec.target)

    def outcome(self) -> Outcome:
        """What the compiler says. Raises `StagingError` where the Case cannot be staged."""
        refusals: list[Outcome] = []
        unstaged: Exception | None = None
        for name, case in self._placed():  # all of them: what fails in one counts, whatever comes of the others
            self._placement = name
            try:
                refusal = self._tried(case)
            except (StagingError, MemoryError) as error:
                unstaged = unstaged or error
                continue
            refusals += [refusal] if refusal is not None else []
        if not self._failures and unstaged is not None:
            raise unstaged
        if not self._failures and refusals:
            return refusals[0]
        compiled = tuple(self._compiled.values())
        names = tuple(dict.fromkeys(entry.name for entry in compiled))
        if not self._failures:
            return Clean(ratio=0.0, specialisations=names, compiled=compiled)
        return Found(finding=self._finding(), specialisations=names, compiled=compiled)

    def _placed(self) -> Iterator[tuple[str, Any]]:
        """The Case in each placement; of placements that make no difference to it the first."""
        seen: set[Any] = set()
        for name, place in (self._op.placements or {AS_DRAWN: lambda case: case}).items():
            if self._spec.placement and self._op.placements and name != self._spec.placement:
                continue
            with blame.declared(self._known.source_of("op", self._op.name), f"placement {name} of {self._op.name}", self._case):
                case = place(self._case)
            if case not in seen:
                seen.add(case)
                yield name, case

    def _tried(self, case: Any) -> Outcome | None:
        """Compile all that the launcher launches; where that is too much once more, as it may have a way around."""
        failures, compiled = list(self._failures), dict(self._compiled)
        refusal = self._capture(case)
        found, needed = self._failures[len(failures) :], self._compiled
        if not found or any(failure.check != "resources" for failure in found):
            return refusal
        self._failures, self._compiled, self._raising = list(failures), compiled, True
        try:
            goes_on = self._capture(case) is None and len(self._failures) == len(failures)
        finally:
            self._raising = False
        if not goes_on:
            self._failures, self._compiled = [*failures, *found], needed
        return None if goes_on else refusal

    def _capture(self, case: Any) -> Outcome | None:
        """Run the launcher; keeps what is found. An Outcome where there is no verdict."""
        self._launched = False
        arena = Arena()
        with blame.declared(self._known.source_of("op", self._op.name), f"build of {self._op.name}", case):
            inputs = self._op.build(case, arena)
            check_inputs(self._op, inputs)
        launcher = getattr(self._module, self._kernel.launcher)
        capture = capturing(self._spec.target, self._launch, _cleared, prepare=self._prepare, warm=self._warm, every=True)
        try:
            with capture:
                launcher(**inputs)
        except (UnsupportedOperation, StagingError, NotCompiled) as error:
            return Unsupported(reason=str(error))
        except OutOfResources as error:
            self._fail(Failure(check="resources", message=str(error), line=blame.line(error), subject=f"launch {error.name}"))
        except BaseException as error:  # noqa: BLE001 - a launcher may raise what it likes, and what is ours is raised again
            return self._raised(error)
        return None

    def _raised(self, error: BaseException) -> Outcome | None:
        if isinstance(error, (KeyboardInterrupt, GeneratorExit, UsageError)) or blame.is_ours(error):
            raise error
        summary, line = blame.summary(error), blame.line(error)
        if is_refusal(error, self._kernel, self._module):
            return Unsupported(reason=str(error) or summary, line=line)
        if self._launched and not _is_of_triton(error):
            return Unsupported(
                reason=f"after a launch that was compiled and not executed the launcher raised {summary}", line=line
            )
        self._fail(Failure(check="launch", message=summary, line=line, subject=summary))
        return None

    def _judged(self, specialisation: Specialisation) -> Judgement:
        if self._spec.full:
            return verdicts.full(specialisation, self._part, self._spec.max_seconds)
        return verdicts.fast(specialisation, self._part)

    def _launch(self, launch: Launch) -> None:
        """What production would launch. Raises what production would, once that is to be tried."""
        self._launched = True
        judgement = self._judged(launch.specialisation)
        if self._raising and judgement.failures and all(failure.check == "resources" for failure in judgement.failures):
            self._keep(launch, judgement, dropped=judgement.failures[0].message)
            raise OutOfResources(0, 0, judgement.failures[0].message)
        for failure in judgement.failures:
            self._fail(failure)
        self._keep(launch, judgement)

    def _warm(self, specialisation: Specialisation) -> None:
        """What production compiles ahead, and may never launch: it need not fit."""
        self._launched = True
        judgement = self._judged(specialisation)
        failures = tuple(failure for failure in judgement.failures if failure.check != "resources")
        for failure in failures:
            self._fail(failure)
        self._keep(Launch(specialisation, (0, 0, 0), {}), replace(judgement, failures=failures))

    def _prepare(self, launch: Launch) -> None:
        """What production's autotuner would time. Raises what makes it drop a configuration that cannot be launched."""
        judgement = self._judged(launch.specialisation)
        if not judgement.failures:
            self._keep(launch, judgement)
            return
        if all(_is_dropped(failure) for failure in judgement.failures):
            self._keep(launch, judgement, dropped=judgement.failures[0].message)
        else:  # production would raise
            for failure in judgement.failures:
                self._fail(failure)
            self._keep(launch, judgement)
        raise OutOfResources(0, 0, judgement.failures[0].message)

    def _keep(self, launch: Launch, judgement: Judgement, dropped: str = "") -> None:
        figures = judgement.figures
        entry = Compiled(
            name=launch.specialisation.name,
            function=launch.specialisation.function.__name__,
            placement=self._placement,
            config=launch.config or "",
            dropped=dropped,
            shared=figures.shared if figures else 0,
            threads=figures.threads if figures else 0,
            tensor_memory=figures.tensor_memory if figures else 0,
            registers=judgement.registers,
            check="" if dropped or not judgement.failures else min((f.check for f in judgement.failures), key=rank),
        )
        known = self._compiled.get((entry.name, entry.config))
        # One that was dropped and is launched all the same is the last that was left.
        if known is None or known.dropped:
            self._compiled[entry.name, entry.config] = entry

    def _fail(self, failure: Failure) -> None:
        self._failures.append(failure)

    def _finding(self) -> Finding:
        first, *others = sorted(self._failures, key=lambda failure: rank(failure.check))  # stable: production's come first
        return Finding(
            check=first.check,
            message=first.message,
            line=first.line,
            op=self._kernel.op,
            kernel=self._kernel.name,
            engine=self._spec.name,
            target=self._spec.target,
            case=self._case,
            subject=first.subject,
            others=tuple(dict.fromkeys(failure.check for failure in others if failure.check != first.check)),
        )


def _is_of_triton(error: BaseException) -> bool:
    """Whether Triton itself raised it: an option that it does not know, say, whatever a kernel would have written."""
    frames = traceback.extract_tb(error.__traceback__)
    return bool(frames) and PurePath(frames[-1].filename).is_relative_to(_TRITON)


def _is_dropped(failure: Failure) -> bool:
    """Whether production's autotuner would go on without the configuration."""
    return failure.check == "resources" or failure.subject.startswith(_DROPPED)


def _cleared(tensor: torch.Tensor) -> None:
    """Zeroes for what a launcher allocates and no kernel will fill: another launcher's sizes may depend on it."""
    tensor.zero_()
