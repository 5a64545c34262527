"""The command `targets`: draws cases, compiles what they launch for each target, and shows what would not run there."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from rich.console import Console

from tridiff.harness import ledger, starting
from tridiff.harness.engines.spec import TARGETS, UsageError, check_target
from tridiff.harness.settings import Settings
from tridiff.harness.settings.model import OUT

if TYPE_CHECKING:
    from pathlib import Path

    from tridiff.harness.isolation.isolated import Limits
    from tridiff.harness.isolation.process import Worker
    from tridiff.harness.registry import Registry
    from tridiff.harness.report.verdict import Verdict
    from tridiff.harness.runner.examiner import Examiner
    from tridiff.harness.runner.surveying import Quota


@dataclass(frozen=True, kw_only=True)
class Request:
    """What the user asked for; see the options of the command."""

    ops: Sequence[str] = ()
    kernels: Sequence[str] = ()
    targets: Sequence[str] = ()
    specialisations: int | None = None
    seconds: float | None = None
    full: bool = False
    known_failures: Path | None = None
    no_known_failures: bool = False
    plugins: Sequence[str] = ()
    out: Path | None = None
    seed: int = 0
    timeout: float | None = None
    memory_limit: float | None = None
    as_json: bool = False


def targets(request: Request, given: Settings, out: Console, err: Console) -> Verdict:
    """Survey the targets; progress goes to `err`, the rest to `out`. Raises `UsageError` where that cannot be."""
    if request.specialisations is not None and request.seconds is not None:
        raise UsageError("--max-specialisations and --seconds: give one budget, not both")
    wanted = tuple(dict.fromkeys(map(check_target, request.targets or TARGETS)))
    known = ledger.read(given, request.known_failures, off=request.no_known_failures)
    plugins = starting.plugins(given, list(request.plugins))
    workers = _Workers(plugins, wanted)  # they load torch while we do
    registry = starting.registry(plugins, wanted[0])
    from tridiff.harness import repro
    from tridiff.harness.ledger.binding import bound
    from tridiff.harness.preparing import compiling
    from tridiff.harness.registry import runs_here
    from tridiff.harness.report.targets import TargetsReport
    from tridiff.harness.runner.surveying import Survey

    waivers = bound(known, registry)
    kernels, left_out = starting.running(registry.select(request.ops, request.kernels), waivers)
    unrunnable = [known.name for known in registry.chosen(request.ops, request.kernels) if not runs_here(known)]
    folder = repro.prepare(starting.short(request.out or given.out or OUT))
    limits, most_seconds = compiling(given, request.timeout, request.memory_limit, full=request.full)
    report = TargetsReport(out, err, folder, as_json=request.as_json)
    survey = Survey(
        kernels,
        wanted,
        request.seed,
        _quota(request),
        report.listen,
        registry,
        lambda target: workers.examiner(target, limits, registry),
        full=request.full,
        max_seconds=most_seconds,
        threads=starting.cores(),
        waivers=waivers,
        left_out=left_out,
        unrunnable=tuple(unrunnable),
    )
    return report.run(survey)


def _quota(request: Request) -> Quota:
    from tridiff.harness.runner.surveying import FULL_SHRINK_SECONDS, SHRINK_SECONDS, SPECIALISATIONS, Quota

    default = SPECIALISATIONS if request.seconds is None else None
    return Quota(
        specialisations=request.specialisations or default,
        seconds=request.seconds,
        shrink_seconds=FULL_SHRINK_SECONDS if request.full else SHRINK_SECONDS,
    )


class _Workers:
    """The first workers, one for each target that begins at once; they start before the run itself has loaded torch."""

    def __init__(self, plugins: list[str], targets: tuple[str, ...]) -> None:
        width = min(starting.cores(), len(targets))
        started = {target: starting.worker(plugins, target, off=False) for target in targets[:width]}
        self._started: dict[str, Worker] = {target: worker for target, worker in started.items() if worker is not None}

    def examiner(self, target: str, limits: Limits, registry: Registry) -> Examiner:
        """An Examiner whose processes are bound to `target`; of others, those that this thread starts end with it."""
        from tridiff.harness.isolation.isolated import Isolated
        from tridiff.harness.isolation.process import Setting, Worker

        worker = self._started.pop(target, None) or Worker(Setting(registry.plugins, target))
        return Isolated(limits, worker, spares_from=1)  # most targets see no death, and a start costs seconds of a core
