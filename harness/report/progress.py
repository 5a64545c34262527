"""Progress of a run: a live line on a terminal, a plain line every quarter of a minute elsewhere. Goes to standard error."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.status import Status

PLAIN_SECONDS = 15.0
"""Time between two lines where standard error is no terminal."""


class Progress:
    """Shows what `line` returns, at most some times a second."""

    def __init__(self, console: Console, line: Callable[[], str], status: Status | None) -> None:
        self._console = console
        self._line = line
        self._status = status
        self._next = time.monotonic() + (0.0 if status else PLAIN_SECONDS)

    def update(self) -> None:
        """Call after every case; cheap when it is too early to show anything."""
        now = time.monotonic()
        if now < self._next:
            return
        if self._status is not None:
            self._next = now + 0.2
            self._status.update(self._line())
        else:
            self._next = now + PLAIN_SECONDS
            self._console.print(self._line(), highlight=False, markup=False, soft_wrap=True)


@contextmanager
def progress(console: Console, line: Callable[[], str]) -> Iterator[Progress]:
    """A Progress on `console` (standard error) for the duration of the context."""
    if not console.is_terminal:
        yield Progress(console, line, None)
        return
    with console.status("starting", spinner="line") as status:
        yield Progress(console, line, status)
