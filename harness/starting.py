"""How a command starts: its registry, engine, worker processes and shard, with one line where the user asked for what cannot be.

torch and Triton are imported once they are known to be there; a worker can start before.
"""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from tridiff.harness import config
from tridiff.harness import settings as files
from tridiff.harness.engines.spec import (
    COMPILER,
    DEFAULT_TARGET,
    DEFAULT_TARGETS,
    EngineSpec,
    UsageError,
    backend_of,
    best_engine,
    check_engine,
    check_target,
)
from tridiff.harness.targets import table

if TYPE_CHECKING:
    from tridiff.harness.api import Kernel
    from tridiff.harness.isolation.isolated import Limits
    from tridiff.harness.isolation.process import Worker
    from tridiff.harness.ledger.waivers import Waivers
    from tridiff.harness.registry import Registry
    from tridiff.harness.runner.examiner import Examiner
    from tridiff.harness.runner.shards import Shard
    from tridiff.harness.settings import Settings


def settings(file: Path | None) -> Settings:
    """The settings of `file`, else of the nearest one; the targets that they add are known while the command runs."""
    given = files.read(file)
    table.add(given.targets)
    return given


def registry(plugins: list[str] | None, target: str = DEFAULT_TARGET) -> Registry:
    """The built-in families and the plug-ins, after checking that torch and triton are there."""
    config.require_packages()
    from tridiff.harness.plugins import load

    with contextlib.redirect_stdout(sys.stderr):  # what a plug-in prints while it is imported must not spoil a document
        return load(plugins or [], target=check_target(target))


def plugins(given: Settings, named: list[str] | None) -> list[str]:
    """The plug-ins of the settings, then those of the command line."""
    return list(dict.fromkeys([*(str(short(Path(name))) for name in given.plugins), *(named or [])]))


def short(path: Path) -> Path:
    """`path` as it is shown and kept in commands: relative to the current folder where it lies below."""
    here = Path.cwd()
    return path.relative_to(here) if path.is_relative_to(here) else path


def running(kernels: list[Kernel], known: Waivers) -> tuple[list[Kernel], list[Kernel]]:
    """The kernels to run, and those that the ledger keeps from running. Raises `UsageError` where none is left."""
    kept, left_out = known.split(kernels)
    if not kept:
        names = ", ".join(kernel.name for kernel in left_out)
        raise UsageError(f"quarantined, so there is nothing to run: {names}; with --no-known-failures they run all the same")
    return kept, left_out


def worker(named: list[str], target: str, *, off: bool) -> Worker | None:
    """A worker that starts while torch is loaded here; None where it is loaded. Ended with this process at the latest."""
    if off or "torch" in sys.modules:
        return None
    from tridiff.harness.isolation.process import Setting, Worker

    return Worker(Setting(tuple(named), check_target(target)))


def cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0))


@contextlib.contextmanager
def examining(
    worker: Worker | None,
    given: Settings,
    timeout: float | None,
    memory_limit: float | None,
    *,
    off: bool,
    most: Limits | None = None,
) -> Iterator[Examiner | None]:
    """What examines Cases in worker processes, of which `worker` may be the first; None where that is `off`.

    The limits are `most`, where they are known, else the command line's, else those of the settings.
    """
    if off:
        yield None
        return
    from tridiff.harness.isolation.isolated import Isolated
    from tridiff.harness.preparing import limits

    with contextlib.closing(Isolated(most or limits(given, timeout, memory_limit), worker)) as examiner:
        yield examiner


def verdict_targets(executed: str, named: Sequence[str], given: Settings, *, off: bool) -> tuple[str, ...]:
    """The targets for which a fuzz run compiles: those named, or else the one of the settings, or else `DEFAULT_TARGETS`.

    Raises `UsageError` for targets of two platforms: a Case is drawn for one.
    """
    platform = backend_of(check_target(executed))[0]
    for name in named:
        if backend_of(check_target(name))[0] != platform:
            raise UsageError(
                f"--target {name}: its cases are not those of {executed}; fuzz them in a run of their own, or try both with "
                "tridiff targets"
            )
    if off:
        return ()
    return tuple(dict.fromkeys(named)) or (DEFAULT_TARGETS if given.target is None else (executed,))


def compilers(named: list[str], verdicts: Sequence[str], executed: str) -> dict[str, Worker]:
    """Workers for `verdicts` on other targets than the one that is executed, whose own worker compiles for it as well."""
    from tridiff.harness.isolation.process import Setting, Worker

    return {target: Worker(Setting(tuple(named), target)) for target in verdicts if target != executed}


@contextlib.contextmanager
def judging(
    worker: Worker | None,
    compilers: Mapping[str, Worker],
    verdicts: Sequence[str],
    given: Settings,
    timeout: float | None,
    memory_limit: float | None,
    *,
    off: bool,
    waivers: Waivers | None = None,
) -> Iterator[Examiner | None]:
    """`examining`; and what is clean is compiled for `verdicts`, in `compilers` or where it ran."""
    with contextlib.ExitStack() as stack:
        engine = stack.enter_context(examining(worker, given, timeout, memory_limit, off=off))
        if engine is None or not verdicts:
            yield engine
            return
        others = {
            target: stack.enter_context(examining(started, given, timeout, memory_limit, off=False))
            for target, started in compilers.items()
        }
        from tridiff.harness.ledger.waivers import NONE
        from tridiff.harness.runner.judging import Judging

        yield Judging(engine, {target: others.get(target) or engine for target in verdicts}, waivers or NONE)


def spec(engine: str | None, target: str, given: Settings, timeout: float | None) -> EngineSpec:
    """The engine asked for, or the best one, for `target`; ready. Raises `UsageError` for unknown names.

    Its launches may take as long as a Case may, where that is longer than they usually may.
    """
    from tridiff.harness.preparing import limits, patient

    wanted = EngineSpec(name=check_engine(best_engine() if engine is None else engine), target=check_target(target))
    return ready(patient(wanted, limits(given, timeout, None)))


def again(spec: EngineSpec, given: Settings, timeout: float | None, memory_limit: float | None) -> tuple[EngineSpec, Limits]:
    """`spec` of a case file, ready, and what its Case may take: as in the run that wrote the file."""
    from tridiff.harness.preparing import compiling, limits, patient

    if spec.name == COMPILER:
        most, seconds = compiling(given, timeout, memory_limit, full=spec.full)
        return replace(spec, max_seconds=seconds), most
    known = limits(given, timeout, memory_limit)
    return ready(patient(spec, known)), known


def ready(spec: EngineSpec) -> EngineSpec:
    """`spec`, after its engine has seen that it can work with this Triton; an error then is the machine's, not tridiff's."""
    from tridiff.harness.engines.cpu.engine import CpuEngine

    CpuEngine(spec)
    return spec


def shard(given: str | None) -> Shard:
    """The part of the run that `--shard` says. Raises `UsageError` where that is no I/N."""
    from tridiff.harness.runner.shards import WHOLE, Shard

    try:
        return WHOLE if given is None else Shard.parsed(given)
    except UsageError as error:
        raise UsageError(f"--shard {error}") from None


def examples(shard: Shard, examples: int | None, kernels: int) -> int | None:
    """The shard's share of `examples`; a shard that had less than one for each of the `kernels` would draw more than that."""
    share = None if examples is None else shard.share(examples)
    if share is not None and share < kernels and shard.count > 1:
        raise UsageError(
            f"--max-examples {examples}: shard {shard} has {share}, fewer than there are kernels ({kernels}): "
            f"at least {kernels * shard.count} are needed"
        )
    return share
