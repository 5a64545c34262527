"""A crew: some threads, each with an Examiner of its own, that share the items of a list; or this thread alone, without any."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import TypeVar

from tridiff.harness.runner.examiner import Examiner
from tridiff.harness.runner.interruption import Interruption

Item = TypeVar("Item")
_LOOK = 0.1
"""Seconds between two looks whether anything has ended."""


class Crew:
    """`examiner`: makes the Examiner of a thread; None: jobs run in this thread, without. `width`: how many threads.

    To be closed. Within `work` Ctrl-C raises KeyboardInterrupt once all threads have ended.
    """

    def __init__(self, examiner: Callable[[], Examiner] | None, width: int = 1) -> None:
        self._make = examiner
        self.width = width if examiner is not None else 1
        self._examiners: list[Examiner] = []
        self._stopping = threading.Event()
        self._lock = threading.Lock()
        self._errors: list[BaseException] = []
        self._interruption = Interruption()

    @property
    def is_stopping(self) -> bool:
        """Whether what a job finds does not count any more: its process may have been ended."""
        return self._stopping.is_set()

    def close(self) -> None:
        """End all processes."""
        for examiner in self._examiners:
            examiner.close()

    def check(self) -> None:
        """Raise KeyboardInterrupt if Ctrl-C was pressed; a job calls it between Cases."""
        self._interruption.check()

    def work(self, job: Callable[[Examiner | None, Item], None], items: Sequence[Item]) -> None:
        """`job(examiner, item)` for every item, in order but side by side. What a job raises is raised here, once all ended."""
        waiting = list(reversed(items))
        with self._interruption.watching():
            if self._make is None:
                while waiting:
                    self.check()
                    job(None, waiting.pop())
                return
            self._side_by_side(job, waiting)

    def _side_by_side(self, job: Callable[[Examiner | None, Item], None], waiting: list[Item]) -> None:
        while self._make is not None and len(self._examiners) < min(self.width, len(waiting)):
            self._examiners.append(self._make())

        threads = [
            threading.Thread(target=self._serve, args=(examiner, job, waiting), daemon=True) for examiner in self._examiners
        ]
        try:
            for thread in threads:
                thread.start()
            while any(thread.is_alive() for thread in threads) and not self._stopping.is_set():
                self.check()
                self._stopping.wait(_LOOK)
        except KeyboardInterrupt:
            self._stop(threads)
            raise
        if self._stopping.is_set():
            self._stop(threads)
            raise self._errors[0]

    def _serve(self, examiner: Examiner, job: Callable[[Examiner | None, Item], None], waiting: list[Item]) -> None:
        """Do one job after the other, until none waits."""
        while not self._stopping.is_set():
            with self._lock:
                if not waiting:
                    return
                item = waiting.pop()
            try:
                job(examiner, item)
            except BaseException as error:  # noqa: BLE001 - raised again by `work`
                if not self._stopping.is_set():
                    self._errors.append(error)
                    self._stopping.set()

    def _stop(self, threads: list[threading.Thread]) -> None:
        """End all threads: one that waits for a process is ended by the loss of it, also of one that it has just started."""
        self._stopping.set()
        while any(thread.is_alive() for thread in threads):
            self.close()
            for thread in threads:
                if thread.ident is not None:
                    thread.join(_LOOK)
