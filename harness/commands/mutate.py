"""The command `mutate`: hunts mutants of kernels and says which of them a fuzz run would have missed, and on which lines."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated

import typer

from tridiff.harness import starting
from tridiff.harness.engines.spec import DEFAULT_TARGET, UsageError, check_target
from tridiff.harness.options import (
    ConfigOption,
    EngineOption,
    JsonOption,
    KernelOption,
    MemoryOption,
    NoIsolationOption,
    OpOption,
    PluginOption,
    SeedOption,
    TargetOption,
    TimeoutOption,
    finite,
)
from tridiff.harness.report import consoles
from tridiff.harness.report.verdict import Verdict

if TYPE_CHECKING:
    from tridiff.harness.api import Kernel
    from tridiff.harness.isolation.isolated import Limits
    from tridiff.harness.isolation.process import Worker
    from tridiff.harness.registry import Registry
    from tridiff.harness.runner.examiner import Examiner

OnlyOption = Annotated[
    list[str] | None, typer.Option("--only", metavar="OPERATOR", help="Only mutants by this operator; repeatable.")
]
CasesOfAMutant = Annotated[int, typer.Option("--max-examples", metavar="N", min=1, help="Cases drawn per mutant.")]
MutantsOption = Annotated[
    int | None, typer.Option("--max-mutants", metavar="N", min=1, help="Mutants of a kernel to try [default: all].")
]
SecondsOption = Annotated[
    float | None,
    typer.Option("--seconds", metavar="S", min=1.0, callback=finite, help="Time to spend, in all [default: no limit]."),
]
WorkersOption = Annotated[
    int | None,
    typer.Option("--workers", metavar="N", min=1, help="Processes that run mutants side by side [default: a core each]."),
]
ScoreOption = Annotated[
    float | None,
    typer.Option("--min-score", metavar="P", min=0.0, max=100.0, help="Exit 1 where less than P percent are killed."),
]


def mutate(
    kernel: KernelOption = None,
    op: OpOption = None,
    only: OnlyOption = None,
    max_examples: CasesOfAMutant = 200,
    max_mutants: MutantsOption = None,
    seconds: SecondsOption = None,
    seed: SeedOption = 0,
    engine: EngineOption = None,
    target: TargetOption = None,
    plugin: PluginOption = None,
    config_file: ConfigOption = None,
    timeout: TimeoutOption = None,
    memory_limit: MemoryOption = None,
    workers: WorkersOption = None,
    no_isolation: NoIsolationOption = False,
    min_score: ScoreOption = None,
    as_json: JsonOption = False,
) -> Verdict:
    """Plant small defects in each kernel's source and say which of them a fuzz run would miss."""
    given = starting.settings(config_file)
    wanted = check_target(target or given.target or DEFAULT_TARGET)
    if no_isolation and workers is not None:
        raise UsageError("--workers and --no-isolation: without worker processes all mutants run in this one; give one of both")
    plugins = starting.plugins(given, plugin)
    crew_of = Starting(plugins, wanted, 1 if no_isolation else workers or starting.cores(), off=no_isolation)
    registry = starting.registry(plugins, wanted)
    from tridiff.harness.mutation.mutants import check_operators
    from tridiff.harness.preparing import limits
    from tridiff.harness.report.mutants import MutantsReport
    from tridiff.harness.runner.crew import Crew
    from tridiff.harness.runner.mutating import Mutating, Quota

    operators = check_operators(only or ())
    spec = starting.spec(engine, wanted, given, timeout)
    kernels = _runnable(registry.select(op or [], kernel or []), spec.name, named=bool(kernel))
    quota = Quota(examples=max_examples, mutants=max_mutants, seconds=None if seconds is None else seconds / len(kernels))
    most = limits(given, timeout, memory_limit)
    report = MutantsReport(consoles.stdout(), consoles.stderr(), as_json=as_json, min_score=min_score)
    with contextlib.closing(Crew(crew_of.examiner(most, registry), crew_of.width)) as crew:
        return report.run([Mutating(each, spec, seed, quota, registry, crew, report.listen, operators) for each in kernels])


def _runnable(kernels: list[Kernel], engine: str, *, named: bool) -> list[Kernel]:
    """Those of `kernels` that the engine can run; where they were `named`, all must be."""
    runnable = [kernel for kernel in kernels if engine in kernel.engines]
    others = ", ".join(kernel.name for kernel in kernels if kernel not in runnable)
    if others and (named or not runnable):
        raise UsageError(f"{others}: cannot run on engine {engine!r}, so no mutant can; choose other kernels")
    return runnable


class Starting:
    """The first worker processes, which load torch while this one does, and what makes an Examiner of each."""

    def __init__(self, plugins: list[str], target: str, width: int, *, off: bool) -> None:
        self.width = width
        self._off = off
        self._target = target
        started = (starting.worker(plugins, target, off=off) for _ in range(width))
        self._started: list[Worker] = [worker for worker in started if worker is not None]

    def examiner(self, most: Limits, registry: Registry) -> Callable[[], Examiner] | None:
        """Makes an Examiner whose processes hold `most`; None where Cases run in this process."""
        if self._off:
            return None
        from tridiff.harness.isolation.isolated import Isolated
        from tridiff.harness.isolation.process import Setting, Worker

        def make() -> Examiner:
            worker = self._started.pop() if self._started else Worker(Setting(registry.plugins, self._target))
            return Isolated(most, worker, spares_from=1)  # few mutants kill a process, and a start costs seconds of a core

        return make
