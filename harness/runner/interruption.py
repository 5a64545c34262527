"""Ctrl-C that cannot get lost.

Python raises KeyboardInterrupt wherever the program happens to be; inside a callback of C code, of the garbage collector or
of a finaliser, say, it is printed and dropped, and the run would go on. So the signal is remembered as well.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


class Interruption:
    """Whether Ctrl-C was pressed within `watching`."""

    def __init__(self) -> None:
        self._requested = False

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Remember SIGINT within this context, and handle it as before; without effect outside the main thread."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before = signal.getsignal(signal.SIGINT)

        def remember(number: int, frame: FrameType | None) -> None:
            self._requested = True
            if callable(before):
                before(number, frame)

        if before is not signal.SIG_IGN:
            signal.signal(signal.SIGINT, remember)
        try:
            yield
        finally:
            signal.signal(signal.SIGINT, before)

    def check(self) -> None:
        """Raise KeyboardInterrupt if Ctrl-C was pressed; call between cases."""
        if self._requested:
            raise KeyboardInterrupt
