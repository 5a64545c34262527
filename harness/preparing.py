"""What a fuzz run needs before it begins, from settings and options: for the command line and for pytest."""

from __future__ import annotations

import functools
import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from hypothesis.database import ExampleDatabase

from tridiff.harness import case_lists, database
from tridiff.harness.api import Kernel, to_json
from tridiff.harness.domains import domain_of, outside
from tridiff.harness.engines.spec import EngineSpec, UsageError
from tridiff.harness.isolation.isolated import TIMEOUT, Limits
from tridiff.harness.runner.session import Session
from tridiff.harness.runner.shards import Shard
from tridiff.harness.settings import Plan, Settings, Store

COMPILE_SECONDS = 120.0
"""Seconds that one specialisation may take to machine code; the field has seen 500."""
SPECIALISATIONS_OF_A_CASE = 4
"""As many times as long may all those of a Case take together."""


def limits(given: Settings, timeout: float | None, memory_limit: float | None) -> Limits:
    """What one Case may take: `timeout` in seconds and `memory_limit` in GiB, else the settings', else the defaults."""
    most = memory_limit or given.memory_limit or 0.0
    return Limits(seconds=timeout or given.timeout or TIMEOUT, most_bytes=int(most * 2**30))


def patient(spec: EngineSpec, given: Limits) -> EngineSpec:
    """`spec`, whose launches may take as long as a Case may, where that is longer than they usually may."""
    return replace(spec, max_seconds=max(spec.max_seconds, given.seconds))


def compiling(given: Settings, timeout: float | None, memory_limit: float | None, *, full: bool) -> tuple[Limits, float]:
    """What one Case may take to compile, and the seconds that one specialisation of it may take.

    Code generation has a budget for each specialisation, `timeout` or `COMPILE_SECONDS`: beyond it check `compile_time` fires.
    A Case, of which there are several, has some times that.
    """
    known = limits(given, timeout, memory_limit)
    if not full:
        return known, known.seconds
    most = timeout or COMPILE_SECONDS
    return replace(known, seconds=SPECIALISATIONS_OF_A_CASE * most), most


@functools.lru_cache(maxsize=8)
def _opened(store: Store, warn: Callable[[str], None]) -> ExampleDatabase:
    """Once a process: a database on the network is asked once, and warns once."""
    return database.opened(store, warn)


def recall(
    plan: Plan, session: Session, parts: Sequence[Shard], warn: Callable[[str], None], shown: Callable[[Path], Path] = Path
) -> None:
    """Let `session` begin with its part of the remembered Cases and of the lists, and remember what it finds.

    `parts`: the shard of the run, and the shard of that. `shown`: a path as it is shown. Raises `UsageError` for a list that
    cannot be read.
    """
    lists = case_lists.read_all(map(shown, plan.cases), session.registry)

    def listed(kernel: Kernel) -> list[Any]:
        domain = domain_of(kernel, session.spec.target)
        cases = case_lists.cases_for(kernel, lists)
        return [case for case in cases if next(outside(session.registry.op(kernel.op), case, domain), None) is None]

    session.first = listed
    if lists and not any(map(listed, session.kernels)):
        names = ", ".join(kernel.name for kernel in session.kernels)
        message = f"no case of the lists is for {names}: {', '.join(str(given.path) for given in lists)}"
        if plan.profile.needs_cases:
            raise UsageError(f"{message}; profile {plan.profile.name} must not pass on what a seed happens to draw")
        warn(message)
    if plan.store is not None:
        database.Remembered(_opened(plan.store, warn), session.registry, session.spec.target).accompany(session)
    everything = session.first
    session.first = lambda kernel: [case for case in everything(kernel) if all(_takes(part, case) for part in parts)]


def _takes(part: Shard, case: Any) -> bool:
    """Whether the shard runs `case`: by the case alone, since a shard that starts later may find another database."""
    digest = hashlib.blake2b(f"{part.count}/{json.dumps(to_json(case), sort_keys=True)}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") % part.count == part.index
