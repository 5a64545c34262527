"""prove: a check that never failed has not been tested; so every Fault is hunted until an expected check catches it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from tridiff.harness.api import Fault, Finding, Kernel
from tridiff.harness.engines.spec import EngineSpec
from tridiff.harness.registry import Registry, builtin
from tridiff.harness.runner.campaign import Budget, Campaign
from tridiff.harness.runner.events import Event, FindingMinimal, FindingSeen, Listener
from tridiff.harness.runner.examine import KernelRef
from tridiff.harness.runner.examiner import Examiner

EXAMPLES = 200
"""A Fault must be caught within this many drawn examples."""


@dataclass(frozen=True, kw_only=True)
class Proof:
    """What became of one Fault.

    `finding`: the minimal Finding by an expected check, or None if it was missed; `examples`: how many were drawn up to it
    (counted before shrinking), or in all; `strays`: how many examples failed with a check that was not expected; `shrunk`:
    False where time ran out before the Finding was minimal.
    """

    fault: Fault
    finding: Finding | None
    examples: int
    strays: int
    shrunk: bool = True

    @property
    def caught(self) -> bool:
        """Whether an expected check fired."""
        return self.finding is not None


def prove(
    kernels: list[Kernel],
    spec: EngineSpec,
    *,
    seed: int = 0,
    examples: int = EXAMPLES,
    listener: Listener = lambda _event: None,
    announce: Callable[[Fault], None] = lambda _fault: None,
    registry: Registry | None = None,
    examiner: Examiner | None = None,
) -> Iterator[Proof]:
    """One `Proof` for each Fault of `kernels`, in order; `announce` is called as each one starts."""
    known = registry or builtin()
    for kernel in kernels:
        for fault in known.faults.get(kernel.name, []):
            announce(fault)
            yield prove_fault(
                fault,
                spec,
                seed=seed,
                examples=examples,
                listener=listener,
                registry=known,
                examiner=examiner,
            )


def prove_fault(
    fault: Fault,
    spec: EngineSpec,
    *,
    seed: int = 0,
    examples: int = EXAMPLES,
    shrink_seconds: float = 20.0,
    listener: Listener = lambda _event: None,
    registry: Registry | None = None,
    examiner: Examiner | None = None,
) -> Proof:
    """Hunt one Fault until an expected check catches it."""
    seen: list[int] = []
    shrunk: list[bool] = []
    strays = 0

    def watch(event: Event) -> None:
        if isinstance(event, FindingSeen):
            seen.append(event.examples)
        if isinstance(event, FindingMinimal):
            shrunk.append(event.shrunk)
        listener(event)

    def expected(finding: Finding) -> bool:
        nonlocal strays
        strays += finding.check not in fault.checks
        return finding.check in fault.checks

    known = registry or builtin()
    campaign = Campaign(
        KernelRef(kernel=fault.kernel, fault=fault.name, plugins=known.plugins),
        spec,
        seed,
        Budget(examples=examples, shrink_seconds=shrink_seconds),
        watch,
        known,
        accept=expected,
        stop_at_first=True,
        examiner=examiner,
    )
    findings = list(campaign.run().values())
    if findings:
        return Proof(fault=fault, finding=findings[0], examples=seen[0], strays=strays, shrunk=shrunk[-1])
    return Proof(fault=fault, finding=None, examples=campaign.examples, strays=strays)
