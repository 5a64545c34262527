"""The database: failing Cases that a later run examines first.

Hypothesis' databases serve as stores of bytes, through `save`, `fetch` and `delete` alone. The key says op, kernel and target;
a value is the JSON form of a Case, so it outlives a new release of Hypothesis, and a strategy that draws otherwise.
"""

from __future__ import annotations

import json
import socket
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

from hypothesis.database import (
    DirectoryBasedExampleDatabase,
    ExampleDatabase,
    GitHubArtifactDatabase,
    MultiplexedDatabase,
    ReadOnlyDatabase,
)

from tridiff.harness import config
from tridiff.harness.api import SCHEMA, Clean, Domain, Finding, Kernel, Op, from_json, to_json
from tridiff.harness.registry import Registry
from tridiff.harness.repro import writable
from tridiff.harness.runner.events import CaseDone, Event, FindingMinimal, FindingSeen
from tridiff.harness.runner.session import Session
from tridiff.harness.settings import GitHub, Store

PATIENCE = 20.0
"""Seconds that GitHub may leave us waiting for an answer."""

Warn = Callable[[str], None]


def opened(store: Store, warn: Warn) -> ExampleDatabase:
    """The database that `store` describes.

    An artifact that cannot be had is one line to `warn`, and is left out. Raises `UsageError` for an unwritable directory.
    """
    # What Hypothesis cannot write, it drops without a word.
    local = DirectoryBasedExampleDatabase(writable(store.directory, "set another database.directory in the settings"))
    if store.github is None:
        return local
    shared = _artifact(store.github, warn)
    return local if shared is None else MultiplexedDatabase(local, ReadOnlyDatabase(shared))


def _artifact(github: GitHub, warn: Warn) -> ExampleDatabase | None:
    """The artifact, downloaded now if need be; None if that fails, whatever the reason: the run can do without."""
    database = GitHubArtifactDatabase(
        github.owner,
        github.repo,
        artifact_name=github.artifact,
        cache_timeout=timedelta(hours=github.max_age),
        path=github.directory,
    )
    database.token = config.github_token()
    told: list[str] = []
    try:
        with _impatient(), warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            list(database.fetch(b""))
        told += [str(warning.message) for warning in caught]
    except Exception as error:  # noqa: BLE001 - a lost connection, an answer that is no JSON, a file that is no artifact
        told.append(f"{type(error).__name__}: {error}")
        return None
    finally:
        if told:
            hint = "" if database.token else "; there is no token in GITHUB_TOKEN"
            what = f"artifact {github.artifact} of {github.owner}/{github.repo}"
            warn(f"database.github: {what}: {' '.join(told[0].split())}{hint}; the run goes on without what could not be had")
    return database


@contextmanager
def _impatient() -> Iterator[None]:
    """Within this context a connection may keep us waiting for `PATIENCE` at most; Hypothesis sets no limit."""
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(PATIENCE)
    try:
        yield
    finally:
        socket.setdefaulttimeout(before)


class Remembered:
    """Failing Cases on one target: read before a kernel's campaign, written as findings are made. Listens to a session.

    What is clean now, and what is no legal Case any more, is forgotten.
    """

    def __init__(self, store: ExampleDatabase, registry: Registry, target: str) -> None:
        self._store = store
        self._registry = registry
        self._domain = Domain(target=target)
        self._kept: dict[str, bytes] = {}

    def accompany(self, session: Session) -> None:
        """Let `session` begin with what is remembered, before what it would begin with, and remember what it finds."""
        listener, first = session.listener, session.first

        def listen(event: Event) -> None:
            self.listen(event)  # first of all: nothing found is lost if the other one fails, or is killed
            listener(event)

        session.listener = listen
        session.first = lambda kernel: list(dict.fromkeys([*self.first(kernel), *first(kernel)]))

    def first(self, kernel: Kernel) -> list[Any]:
        """The remembered Cases of `kernel`, the shortest first."""
        key, op = self._key(kernel), self._registry.op(kernel.op)
        cases = []
        for value in sorted(self._store.fetch(key), key=lambda value: (len(value), value)):
            case = self._case(op, value)
            if case is None:
                self._store.delete(key, value)
            else:
                cases.append(case)
        return cases

    def listen(self, event: Event) -> None:
        """Remember a finding's Case at once, its smallest one in place of it, and forget what is clean."""
        match event:
            case FindingSeen() | FindingMinimal():
                self._keep(event.finding)
            case CaseDone(replayed=True, outcome=Clean()):
                self._store.delete(self._key(self._registry.kernel(event.kernel)), _value(event.case))

    def _keep(self, finding: Finding) -> None:
        """Save before deleting: whoever is killed in between has one Case too many."""
        key, value = self._key(self._registry.kernel(finding.kernel)), _value(finding.case)
        self._store.save(key, value)
        before = self._kept.get(finding.signature(), value)
        if before != value:
            self._store.delete(key, before)
        self._kept[finding.signature()] = value

    def _case(self, op: Op, value: bytes) -> Any:
        """The Case, or None for what cannot be read or is not legal (any more)."""
        try:
            case = from_json(op.case, json.loads(value))
        except (ValueError, TypeError, RecursionError):
            return None
        return case if op.within is None or op.within(case, self._domain) else None

    def _key(self, kernel: Kernel) -> bytes:
        """With the version of a Case's form: under another one, nothing is read that could be misread."""
        return json.dumps(["tridiff", SCHEMA, kernel.op, kernel.name, self._domain.target]).encode()


def _value(case: Any) -> bytes:
    return json.dumps(to_json(case), sort_keys=True, separators=(",", ":")).encode()
