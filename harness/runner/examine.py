"""examine: one Case on one Kernel with one engine, through every check. Names and plain data in, an Outcome out."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, replace
from types import ModuleType
from typing import Any

import torch

from tridiff.harness import blame
from tridiff.harness.api import (
    Arena,
    Clean,
    Damage,
    Failure,
    Finding,
    Found,
    Kernel,
    Op,
    Outcome,
    Poison,
    Skipped,
    StagingError,
    Unsupported,
    Verdict,
    rank,
    to_json,
)
from tridiff.harness.capture import Elsewhere, Rewrite, rewritten, seeded, targeting
from tridiff.harness.checks.memory import Said, check_memory
from tridiff.harness.checks.values import check_poison, check_values, worst_ratio
from tridiff.harness.declarations import Malformed, check_inputs, check_judged
from tridiff.harness.engines.cpu.engine import CpuEngine
from tridiff.harness.engines.cpu.errors import KernelError, UnsupportedOperation
from tridiff.harness.engines.cpu.ttir import FrontEndDrift
from tridiff.harness.engines.spec import COMPILER, READER, EngineSpec, UsageError
from tridiff.harness.faults import load
from tridiff.harness.plugins import loaded
from tridiff.harness.registry import Registry
from tridiff.harness.runner.compiling import Compilation
from tridiff.harness.runner.reading import Reading
from tridiff.harness.runner.refusal import is_refusal


@dataclass(frozen=True, kw_only=True)
class KernelRef:
    """A Kernel by name, or its twin with one Fault; `plugins`: what to load besides the built-in families to find it.

    `rewrite`: another source for one of its jit functions.
    """

    kernel: str
    fault: str | None = None
    plugins: tuple[str, ...] = ()
    rewrite: Rewrite | None = None


def examine(ref: KernelRef, spec: EngineSpec, case: Any, registry: Registry | None = None) -> Outcome:
    """Run `case` and apply every check; never raises for what a kernel does.

    The kernel runs twice, over memory that differs only in its poison: the first run is checked, the second must give the
    same bits. The reference sees the second run's inputs before the kernel does. Raises `UsageError` for unknown names, and
    where what a plug-in declares fails: what builds the inputs, the reference, where the kernel rounds, the patch of a fault.

    `registry`: what `ref.plugins` load, where the caller has it already.
    """
    known = registry or loaded(ref.plugins, spec.target)
    kernel = known.kernel(ref.kernel)
    fault = None if ref.fault is None else known.fault(ref.kernel, ref.fault)
    with blame.declared(known.source_of("fault", ref.kernel, ref.fault or ""), f"fault {ref.fault}"):
        module = load(kernel, fault, spec.target)
    kinds: dict[str, type[Compilation | Reading]] = {COMPILER: Compilation, READER: Reading}
    try:
        with rewritten(ref.rewrite, known.module):
            return kinds.get(spec.name, _Examination)(known, kernel, module, spec, case).outcome()
    except Elsewhere as error:
        raise UsageError(str(error)) from error
    except _Refusal as refusal:
        return Unsupported(reason=str(refusal), line=refusal.line)
    except StagingError as error:
        return Skipped(reason=str(error))
    except MemoryError as error:
        return Skipped(reason=f"not enough memory: {error}")
    except UnsupportedOperation as error:
        return Unsupported(reason=error.what, line=error.line)


class _Refusal(Exception):
    """The launcher refuses the Case. `line`: where, FILE:LINE."""

    def __init__(self, error: BaseException) -> None:
        super().__init__(str(error) or blame.summary(error))
        self.line = blame.line(error)


class _Examination:
    def __init__(self, known: Registry, kernel: Kernel, module: ModuleType, spec: EngineSpec, case: Any) -> None:
        self._known = known
        self._kernel = kernel
        self._op: Op = known.op(kernel.op)
        self._module = module
        self._spec = spec
        self._case = case
        self._engine = CpuEngine(spec)
        self._declares: tuple[str, ...] = ()
        self._choose = seeded(json.dumps(to_json(case), sort_keys=True))  # one Case, one choice of configurations

    def outcome(self) -> Outcome:
        loud, inputs = self._staged(Poison.LOUD)
        failure = self._run(inputs, loud)
        if failure is not None:
            return self._found([failure])
        quiet, inputs_again = self._staged(Poison.QUIET)
        outputs = _written(loud)
        verdict = self._judged(inputs_again, outputs, quiet)
        failures = [*check_values(verdict, outputs), *self._second_run(inputs_again, quiet, loud)]
        failures.extend(check_memory(loud, quiet, self._victim(inputs)))
        return self._found(failures) if failures else self._clean(verdict, outputs)

    def _staged(self, poison: Poison) -> tuple[Arena, dict[str, Any]]:
        arena = Arena(poison, notes_stores=poison is Poison.LOUD)  # of the second run nobody asks
        with self._declared("build"):
            inputs = self._op.build(self._case, arena)
            check_inputs(self._op, inputs)
            self._declares = arena.written()
        for name in self._declares:
            if self._kernel.outputs is not None and name not in self._kernel.outputs:
                arena.forbid_writes(name)
        arena.seal()
        return arena, inputs

    def _declared(self, part: str) -> AbstractContextManager[None]:
        """Within this context, what is raised is the fault of whoever declared the Op."""
        return blame.declared(self._known.source_of("op", self._op.name), f"{part} of {self._op.name}", self._case)

    def _judged(self, inputs: Mapping[str, Any], outputs: Mapping[str, torch.Tensor], arena: Arena) -> Verdict:
        rounding = self._rounding(inputs)
        with self._declared("the reference"), self._understood(rounding):
            verdict = self._known.judge(self._op.name, inputs, rounding)
            check_judged(self._op.name, verdict, self._declares, arena)
        return replace(verdict, outputs={name: verdict.outputs[name] for name in outputs})

    @contextmanager
    def _understood(self, rounding: Mapping[str, Any]) -> Iterator[None]:
        """Within this context, what a built-in reference says of the `rounding` of a plug-in's kernel is the plug-in's matter."""
        try:
            yield
        except (KeyError, ValueError) as error:
            kernel, source = self._kernel, self._known.source_of("kernel", self._kernel.name)
            ours = {None, blame.BUILT_IN}
            if source in ours or self._known.source_of("op", kernel.op) not in ours or isinstance(error, Malformed):
                raise
            says = f"{dict(rounding)} of kernel {kernel.name!r}" + ("" if kernel.rounding else ", which declares none")
            what = f"the reference of {kernel.op} cannot use the rounding {says}: {blame.summary(error)}"
            raise UsageError(f"plug-in {source}: {what}") from error

    def _rounding(self, inputs: Mapping[str, Any]) -> Mapping[str, Any]:
        if self._kernel.rounding is None:
            return {}
        source = self._known.source_of("kernel", self._kernel.name)
        with (
            targeting(self._spec.target),  # what a kernel rounds to by default may hang on the GPU
            blame.declared(source, f"{self._kernel.rounding} of kernel {self._kernel.name}", self._case),
        ):
            answer: Mapping[str, Any] = getattr(self._module, self._kernel.rounding)(**inputs)
        return answer

    def _run(self, inputs: Mapping[str, Any], arena: Arena) -> Failure | None:
        """Launch the kernel; whatever it or its launcher raises is a Failure, what we or an adapter raise is not."""
        launcher = getattr(self._module, self._kernel.launcher)
        try:
            self._engine.run(launcher, inputs, arena, self._choose)
        except KernelError as error:
            return Failure(check=error.check, message=error.message, line=error.line, subject=error.subject)
        except (UnsupportedOperation, FrontEndDrift, UsageError):
            raise
        except MemoryError as error:
            if blame.is_ours(error):
                raise
            message = f"the launcher ran out of memory: {blame.summary(error)}"
            return Failure(check="memory", message=message, line=blame.line(error))
        except BaseException as error:
            # One of the launcher's own kinds is its defect as any other: in a worker it would end the process without a line.
            if isinstance(error, (KeyboardInterrupt, GeneratorExit)) or blame.is_ours(error):
                raise
            if is_refusal(error, self._kernel, self._module):
                raise _Refusal(error) from error
            message = blame.summary(error)
            return Failure(check="launch", message=message, line=blame.line(error), subject=message)
        return None

    def _victim(self, inputs: dict[str, Any]) -> Said | None:
        """What the Op says of memory that was overwritten; the finding itself gives its elements."""
        victim = self._op.victim
        if victim is None:
            return None

        def said(damage: Damage) -> str:
            with self._declared("victim"):
                return victim(inputs, damage.tensor, damage.cells, is_changed=damage.is_changed)

        return said

    def _second_run(self, inputs: Mapping[str, Any], quiet: Arena, loud: Arena) -> list[Failure]:
        failure = self._run(inputs, quiet)
        if failure is None:
            return list(check_poison(loud, quiet))
        message = f"with finite poison instead of NaN the kernel fails: {failure.message}"
        return [Failure(check="poison", message=message, line=failure.line)]

    def _found(self, failures: list[Failure]) -> Found:
        first, *others = sorted(failures, key=lambda failure: rank(failure.check))
        finding = Finding(
            check=first.check,
            message=first.message,
            line=first.line,
            op=self._kernel.op,
            kernel=self._kernel.name,
            engine=self._spec.name,
            target=self._spec.target,
            case=self._case,
            subject=first.subject,
            others=tuple(failure.check for failure in others),
        )
        return Found(finding=finding, specialisations=self._names())

    def _clean(self, verdict: Verdict, outputs: Mapping[str, torch.Tensor]) -> Clean:
        return Clean(ratio=worst_ratio(verdict, outputs), conclusive=verdict.conclusive, specialisations=self._names())

    def _names(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(self._engine.specialisations))


def _written(arena: Arena) -> dict[str, torch.Tensor]:
    return {name: arena.allocations[name].view for name in arena.written()}
