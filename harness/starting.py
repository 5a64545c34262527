"""How a command starts: its registry, engine, worker processes and shard, with one line where the user asked for what cannot be.

torch and Triton are imported once they are known to be there; a worker can start before.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from tridiff.harness import config
from tridiff.harness.engines.spec import DEFAULT_TARGET, EngineSpec, UsageError, best_engine, check_engine, check_target

if TYPE_CHECKING:
    from tridiff.harness.isolation.process import Worker
    from tridiff.harness.registry import Registry
    from tridiff.harness.runner.examiner import Examiner
    from tridiff.harness.runner.shards import Shard
    from tridiff.harness.settings import Settings


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


def worker(named: list[str], target: str, *, off: bool) -> Worker | None:
    """A worker that starts while torch is loaded here; None where it is loaded. Ended with this process at the latest."""
    if off or "torch" in sys.modules:
        return None
    from tridiff.harness.isolation.process import Setting, Worker

    return Worker(Setting(tuple(named), check_target(target)))


@contextlib.contextmanager
def examining(
    worker: Worker | None, given: Settings, timeout: float | None, memory_limit: float | None, *, off: bool
) -> Iterator[Examiner | None]:
    """What examines Cases in worker processes, of which `worker` may be the first; None where that is `off`.

    The command line's limits count, else those of the settings.
    """
    if off:
        yield None
        return
    from tridiff.harness.isolation.isolated import Isolated
    from tridiff.harness.preparing import limits

    with contextlib.closing(Isolated(limits(given, timeout, memory_limit), worker)) as examiner:
        yield examiner


def spec(engine: str | None, target: str, given: Settings, timeout: float | None) -> EngineSpec:
    """The engine asked for, or the best one, for `target`; ready. Raises `UsageError` for unknown names.

    Its launches may take as long as a Case may, where that is longer than they usually may.
    """
    from tridiff.harness.preparing import limits, patient

    wanted = EngineSpec(name=check_engine(best_engine() if engine is None else engine), target=check_target(target))
    return ready(patient(wanted, limits(given, timeout, None)))


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
