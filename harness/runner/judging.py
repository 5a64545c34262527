"""Verdicts in a fuzz run: a Case that ran clean, or that the engine could not judge, is compiled, too, for the targets named."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping
from typing import Any

from tridiff.harness.api import Clean, Domain, Finding, Found, Infrastructure, Outcome, Unsupported
from tridiff.harness.engines.spec import COMPILER, EngineSpec
from tridiff.harness.registry import Registry
from tridiff.harness.runner.events import WorkerDied
from tridiff.harness.runner.examine import KernelRef
from tridiff.harness.runner.examiner import Examiner

PLACEMENT = "production"
"""In a fuzz run the one that counts; `tridiff targets` tries them all."""


class Judging:
    """Examines with `engine`, then compiles for each target of `compilers` what came out clean or unsupported.

    An engine refuses casts that go wrong on its target, whose verdict is then the only one.

    `compilers`: an Examiner for each target, whose process believes to be there. A Case that the Op does not allow on a target
    is not compiled for it.
    """

    def __init__(self, engine: Examiner, compilers: Mapping[str, Examiner]) -> None:
        self._engine = engine
        self._compilers = compilers

    def close(self) -> None:
        """End all processes."""
        with contextlib.ExitStack() as stack:
            for examiner in (self._engine, *self._compilers.values()):
                stack.callback(examiner.close)

    def examine(
        self,
        ref: KernelRef,
        spec: EngineSpec,
        case: Any,
        registry: Registry,
        *,
        shrinking: bool,
        announce: Callable[[WorkerDied], None],
    ) -> Outcome:
        """The engine's outcome; where that is clean or unsupported, the first Finding of a compiler if there is one."""
        outcome = self._engine.examine(ref, spec, case, registry, shrinking=shrinking, announce=announce)
        if not isinstance(outcome, Clean | Unsupported):
            return outcome
        within = registry.op(registry.kernel(ref.kernel).op).within
        for target, compiler in self._compilers.items():
            if within is None or within(case, Domain(target=target)):
                wanted = EngineSpec(name=COMPILER, target=target, placement=PLACEMENT)
                verdict = compiler.examine(ref, wanted, case, registry, shrinking=shrinking, announce=announce)
                if isinstance(verdict, Found | Infrastructure):
                    return verdict
        return outcome

    def confirmed(
        self,
        ref: KernelRef,
        spec: EngineSpec,
        finding: Finding,
        registry: Registry,
        announce: Callable[[WorkerDied], None],
    ) -> Finding | None:
        """See `Examiner`: whoever found it is asked again."""
        if finding.engine == COMPILER:
            wanted = EngineSpec(name=COMPILER, target=finding.target, placement=PLACEMENT)
            return self._compilers[finding.target].confirmed(ref, wanted, finding, registry, announce)
        return self._engine.confirmed(ref, spec, finding, registry, announce)
