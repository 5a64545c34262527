"""What a fuzz run needs before it begins, from settings and options: for the command line and for pytest."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from tridiff.harness import case_lists, database
from tridiff.harness.api import Kernel
from tridiff.harness.isolation.isolated import TIMEOUT, Limits
from tridiff.harness.runner.session import Session
from tridiff.harness.runner.shards import Shard
from tridiff.harness.settings import Plan, Settings


def limits(given: Settings, timeout: float | None, memory_limit: float | None) -> Limits:
    """What one Case may take: `timeout` in seconds and `memory_limit` in GiB, else the settings', else the defaults."""
    most = memory_limit or given.memory_limit or 0.0
    return Limits(seconds=timeout or given.timeout or TIMEOUT, most_bytes=int(most * 2**30))


def recall(
    plan: Plan, session: Session, parts: Sequence[Shard], warn: Callable[[str], None], shown: Callable[[Path], Path] = Path
) -> None:
    """Let `session` begin with its part of the remembered Cases and of the lists, and remember what it finds.

    `parts`: the shard of the run, and the shard of that. `shown`: a path as it is shown. Raises `UsageError` for a list that
    cannot be read.
    """
    lists = case_lists.read_all(map(shown, plan.cases), session.registry)

    def listed(kernel: Kernel) -> list[Any]:
        return case_lists.cases_for(kernel, lists)

    session.first = listed
    if lists and not any(map(listed, session.kernels)):
        names = ", ".join(kernel.name for kernel in session.kernels)
        warn(f"no case of the lists is for {names}: {', '.join(str(given.path) for given in lists)}")
    if plan.store is not None:
        database.Remembered(database.opened(plan.store, warn), session.registry, session.spec.target).accompany(session)
    everything = session.first

    def ours(kernel: Kernel) -> Sequence[Any]:
        cases = everything(kernel)
        for part in parts:
            cases = cases[part.index :: part.count]
        return cases

    session.first = ours
