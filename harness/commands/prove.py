"""The command `prove`: plants known defects in each kernel, and shows that the expected check catches every one."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from rich.console import Console

from tridiff.harness import starting
from tridiff.harness.engines.spec import DEFAULT_TARGET, EngineSpec, UsageError
from tridiff.harness.report.verdict import Exit
from tridiff.harness.settings import Settings

if TYPE_CHECKING:
    from tridiff.harness.api import Fault, Kernel
    from tridiff.harness.registry import Registry
    from tridiff.harness.runner.events import Event
    from tridiff.harness.runner.examiner import Examiner
    from tridiff.harness.runner.prove import Proof


@dataclass(frozen=True, kw_only=True)
class Request:
    """What the user asked for; see the options of the command."""

    max_examples: int
    ops: Sequence[str] = ()
    kernels: Sequence[str] = ()
    engine: str | None = None
    target: str | None = None
    seed: int = 0
    plugins: Sequence[str] = ()
    timeout: float | None = None
    memory_limit: float | None = None
    no_isolation: bool = False
    as_json: bool = False


def prove(request: Request, given: Settings, out: Console, err: Console) -> Exit:
    """Prove all faults; progress goes to `err`, the rest to `out`. Raises `UsageError` where there is none."""
    off, limits = request.no_isolation, (request.timeout, request.memory_limit)
    target = request.target or given.target or DEFAULT_TARGET
    plugins = starting.plugins(given, list(request.plugins))
    worker = starting.worker(plugins, target, off=off)
    registry = starting.registry(plugins, target)
    spec = starting.spec(request.engine, target, given, request.timeout)
    kernels = registry.select(request.ops, request.kernels)
    untried = _without_deadly(registry, kernels) if off else []
    if not any(registry.faults.get(known.name) for known in kernels):
        raise UsageError(f"no fault is registered for {', '.join(known.name for known in kernels)}: nothing could be proven")
    with starting.examining(worker, given, *limits, off=off) as examiner:
        proofs, interrupted = _proven(request, registry, kernels, spec, examiner, err)
    if request.as_json:
        from tridiff.harness.report import document

        found = document.prove_document(
            proofs, spec, request.seed, request.max_examples, registry.plugins, interrupted=interrupted
        )
        out.print_json(json.dumps(found))
    else:
        _show(out, proofs, request.max_examples, untried, interrupted=interrupted)
    return Exit.CLEAN if not interrupted and all(proof.caught for proof in proofs) else Exit.FINDINGS


def _show(out: Console, proofs: list[Proof], examples: int, untried: list[str], *, interrupted: bool) -> None:
    from tridiff.harness.report import text

    out.print(text.prove_table(proofs))
    missed = [proof.fault.name for proof in proofs if not proof.caught]
    _say(out, f"{len(proofs) - len(missed)} of {len(proofs)} faults caught within {examples} examples each")
    if missed:
        _say(out, f"missed: {', '.join(missed)}")
    if untried:
        _say(out, f"not tried, because they would end this process: {', '.join(untried)}")
    if interrupted:
        _say(out, "interrupted: the faults above are those tried so far")


def _without_deadly(registry: Registry, kernels: list[Kernel]) -> list[str]:
    """Drop from `registry` the faults that end the process they run in, and return their names."""
    from tridiff.harness.api import DEADLY

    names = []
    for kernel in kernels:
        faults = registry.faults.get(kernel.name, [])
        names += [fault.name for fault in faults if fault.checks <= DEADLY]
        registry.faults[kernel.name] = [fault for fault in faults if not fault.checks <= DEADLY]
    return names


def _proven(
    request: Request, registry: Registry, kernels: list[Kernel], spec: EngineSpec, examiner: Examiner | None, err: Console
) -> tuple[list[Proof], bool]:
    """The proofs, and whether Ctrl-C ended them."""
    from tridiff.harness.report.progress import progress
    from tridiff.harness.runner.events import CaseDone
    from tridiff.harness.runner.interruption import Interruption
    from tridiff.harness.runner.prove import prove as prove_faults

    proofs: list[Proof] = []
    current = [""]
    total = sum(len(registry.faults.get(kernel.name, [])) for kernel in kernels)

    interruption = Interruption()

    def announce(fault: Fault) -> None:
        current[0] = fault.name

    def listen(event: Event) -> None:
        shown.update()
        if isinstance(event, CaseDone):
            interruption.check()

    with progress(err, lambda: f"fault {len(proofs) + 1} of {total}: {current[0]}") as shown:
        results = prove_faults(
            kernels,
            spec,
            seed=request.seed,
            examples=request.max_examples,
            listener=listen,
            announce=announce,
            registry=registry,
            examiner=examiner,
        )
        try:
            with interruption.watching():
                proofs.extend(results)
        except KeyboardInterrupt:
            return proofs, True
    return proofs, False


def _say(out: Console, line: str) -> None:
    out.print(line, markup=False, soft_wrap=True)
