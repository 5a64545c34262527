"""prove: a check that never failed has not been tested; so every Fault is hunted until an expected check catches it.

A Fault whose checks are those of the compiler is compiled for the target where it shows, and not run.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace

from tridiff.harness.api import COMPILER as COMPILER_CHECKS
from tridiff.harness.api import Fault, Finding, Kernel
from tridiff.harness.engines.spec import COMPILER, EngineSpec
from tridiff.harness.registry import Registry, builtin
from tridiff.harness.runner.campaign import Budget, Campaign
from tridiff.harness.runner.events import Event, FindingMinimal, FindingSeen, Listener
from tridiff.harness.runner.examine import KernelRef
from tridiff.harness.runner.examiner import Examiner

EXAMPLES = 200
"""A Fault must be caught within this many drawn examples."""
COMPILE_SECONDS = 3.0
"""What a Fault of `compile_time` must exceed: to wait for as long as a user's budget allows would prove no more."""
COMPILE_SHRINK_SECONDS = 1.0
"""Time to simplify its Finding, of which every step takes seconds."""


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
    """One `Proof` for each Fault of `kernels`, in the order of `in_turn`; `announce` is called as each one starts."""
    known = registry or builtin()
    for fault in in_turn((fault for kernel in kernels for fault in known.faults.get(kernel.name, [])), spec):
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


def in_turn(faults: Iterable[Fault], spec: EngineSpec) -> list[Fault]:
    """`faults` in their order, but target by target: a worker process serves one alone, and starting another takes seconds."""
    groups: dict[tuple[str, str], list[Fault]] = {}
    for fault in faults:
        hunted = spec_for(fault, spec)
        groups.setdefault((hunted.target, hunted.name), []).append(fault)
    return [fault for key in sorted(groups, key=lambda key: key[0] != spec.target) for fault in groups[key]]


def spec_for(fault: Fault, spec: EngineSpec) -> EngineSpec:
    """The engine and target by which `fault` is hunted: `spec`'s, or the compiler for a target of the Fault's own.

    The whole pipeline is only for what takes its time there: that is seconds for every Case.
    """
    if not fault.checks <= COMPILER_CHECKS:
        return spec
    compiling = replace(spec, name=COMPILER, target=fault.target or spec.target)
    if "compile_time" not in fault.checks:
        return compiling
    return replace(compiling, full=True, max_seconds=min(spec.max_seconds, COMPILE_SECONDS))


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
    """Hunt one Fault until an expected check catches it; one of the compiler's over the whole domain, refusals included."""
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
    hunted = spec_for(fault, spec)
    campaign = Campaign(
        KernelRef(kernel=fault.kernel, fault=fault.name, plugins=known.plugins),
        hunted,
        seed,
        Budget(examples=examples, shrink_seconds=COMPILE_SHRINK_SECONDS if hunted.full else shrink_seconds),
        watch,
        known,
        accept=expected,
        stop_at_first=True,
        whole=hunted.name == COMPILER,
        examiner=examiner,
    )
    findings = list(campaign.run().values())
    if findings:
        return Proof(fault=fault, finding=findings[0], examples=seen[0], strays=strays, shrunk=shrunk[-1])
    return Proof(fault=fault, finding=None, examples=campaign.examples, strays=strays)
