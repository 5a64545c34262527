"""Verdicts in a fuzz run: a Case that ran clean, or that the engine could not judge, is compiled, too, for the targets named."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping
from typing import Any

from tridiff.harness.api import Clean, Finding, Found, Infrastructure, Outcome, Tolerated, Unsupported
from tridiff.harness.domains import contains, domain_of
from tridiff.harness.engines.spec import COMPILER, EngineSpec
from tridiff.harness.ledger.waivers import NONE, Waivers
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
    is not compiled for it. `waivers`: a Finding that they forgive hides none of the compilers', nor does one for another target.
    """

    def __init__(self, engine: Examiner, compilers: Mapping[str, Examiner], waivers: Waivers = NONE) -> None:
        self._engine = engine
        self._compilers = compilers
        self.waivers = waivers

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
        """The engine's outcome; where that is clean, unsupported or forgiven, the first Finding of a compiler if there is one."""
        outcome = self._engine.examine(ref, spec, case, registry, shrinking=shrinking, announce=announce)
        if not isinstance(self.waivers.judged(outcome), Clean | Unsupported | Tolerated):
            return outcome
        kernel = registry.kernel(ref.kernel)
        for target, compiler in self._compilers.items():
            if contains(registry.op(kernel.op), case, domain_of(kernel, target)):
                wanted = EngineSpec(name=COMPILER, target=target, placement=PLACEMENT)
                verdict = compiler.examine(ref, wanted, case, registry, shrinking=shrinking, announce=announce)
                if isinstance(self.waivers.judged(verdict), Found | Infrastructure):
                    return verdict
                if isinstance(verdict, Found) and not isinstance(outcome, Found):
                    outcome = verdict  # forgiven: told where nothing else fails
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
