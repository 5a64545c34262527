"""Journal: the Case in flight, on disk before it runs, so that the run after one that was killed begins with it.

A file for each process that runs Cases, locked while it lives (flock(2)): a file that can be locked was left by a run that did
not end by itself. The lock goes with the process however it dies, and tells apart processes of two containers with one id.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import secrets
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tridiff.harness.api import SCHEMA, CaseError, from_json, to_json
from tridiff.harness.engines.spec import EngineSpec, UsageError
from tridiff.harness.registry import Registry
from tridiff.harness.runner.events import CaseDone, Event
from tridiff.harness.runner.examine import KernelRef
from tridiff.harness.runner.session import Session

FOLDER = "in-flight"


@dataclass
class Journal:
    """Writes the Case in flight to FOLDER below `out`. Raises `UsageError` where that cannot be written.

    `left`: the files of runs that were killed; each is deleted once its Case has been replayed, or is of no use.
    """

    out: Path
    left: dict[Path, dict[str, Any]] = field(default_factory=dict)
    _descriptor: int = -1
    _path: Path = Path()

    def __post_init__(self) -> None:
        """Take over what was left, and open a file of our own."""
        folder = self.out / FOLDER
        try:
            try:
                self._open(folder)
            except FileNotFoundError:  # another run has ended, and the folder with it
                self._open(folder)
        except OSError as error:
            raise UsageError(f"cannot write to {folder}: {error.strerror}; choose another folder with --out") from error

    def _open(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.left = dict(_left(folder))
        name = secrets.token_hex(8)
        self._path = folder / f"{name}.new"  # until it is locked: another run must not take it for a dead one's
        self._descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644)
        fcntl.flock(self._descriptor, fcntl.LOCK_EX)
        self._path = self._path.rename(folder / f"{name}.json")

    def accompany(self, session: Session) -> None:
        """Let `session` begin with what was in flight, and write down what it runs."""
        listener, first = session.listener, session.first

        def listen(event: Event) -> None:
            self.listen(event)
            listener(event)

        session.listener, session.begin = listen, self.begin
        session.first = lambda kernel: [*self.cases(session.registry, kernel.name, session.spec.target), *first(kernel)]

    def begin(self, ref: KernelRef, spec: EngineSpec, case: Any) -> None:
        """Write down that `case` runs from now on, in one line: what is left of a longer one before is behind it.

        A disk that is full, or gone, must not end the run.
        """
        entry = {"schema": SCHEMA, "kernel": ref.kernel, "engine": spec.name, "target": spec.target, "case": to_json(case)}
        line = json.dumps(entry).encode() + b"\n"
        with contextlib.suppress(OSError):
            os.pwrite(self._descriptor, line, 0)

    def close(self) -> None:
        """Forget the Case: this run ends by itself."""
        if self._descriptor >= 0:
            with contextlib.suppress(OSError):
                self._path.unlink()
                self._path.parent.rmdir()  # unless there are others in it
            os.close(self._descriptor)
            self._descriptor = -1

    def cases(self, known: Registry, kernel: str, target: str) -> list[Any]:
        """The Cases that were in flight on `kernel` and `target` when runs were killed, as far as they are legal today."""
        found = []
        for path, entry in list(self.left.items()):
            if (entry.get("kernel"), entry.get("target")) != (kernel, target):
                continue
            try:
                found.append(from_json(known.op(known.kernel(kernel).op).case, entry.get("case")))
            except CaseError:
                self._drop(path)
        return found

    def listen(self, event: Event) -> None:
        """Delete the file of what was in flight and has been run again."""
        if isinstance(event, CaseDone) and event.replayed:
            for path, entry in list(self.left.items()):
                if entry.get("kernel") == event.kernel and entry.get("case") == to_json(event.case):
                    self._drop(path)

    def _drop(self, path: Path) -> None:
        del self.left[path]
        with contextlib.suppress(OSError):
            path.unlink()


def _left(folder: Path) -> Iterator[tuple[Path, dict[str, Any]]]:
    """The files that nobody holds, with their entries; what cannot be read, or never ran a Case, is deleted."""
    for path in sorted(folder.glob("*.json")):
        try:
            descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC)
        except OSError:
            continue
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            yield path, _entry(os.read(descriptor, 1 << 20))
        except BlockingIOError:
            continue  # that run is under way
        except (ValueError, IndexError, OSError):
            with contextlib.suppress(OSError):
                path.unlink()
        finally:
            os.close(descriptor)


def _entry(content: bytes) -> dict[str, Any]:
    """What the first line of a journal says. Raises ValueError and IndexError where it is none."""
    entry = json.loads(content.splitlines()[0])
    if not isinstance(entry, dict) or entry.get("schema") != SCHEMA:
        raise ValueError(content)
    return entry
