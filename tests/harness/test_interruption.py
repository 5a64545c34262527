"""Ctrl-C is remembered where Python drops it."""

from __future__ import annotations

import signal
import sys
import threading
from collections.abc import Iterator

import pytest

from tridiff.harness.runner.interruption import Interruption


@pytest.fixture(autouse=True)
def default_handler() -> Iterator[None]:
    """A shell that starts pytest in the background makes it ignore the signal."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


class Swallowing:
    """An object whose finaliser is interrupted: Python prints the exception and goes on."""

    def __del__(self) -> None:
        """Press Ctrl-C."""
        signal.raise_signal(signal.SIGINT)


def test_swallowed_interrupt_is_raised_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """A KeyboardInterrupt that a finaliser dropped ends the run at the next check."""
    dropped: list[object] = []
    monkeypatch.setattr(sys, "unraisablehook", lambda args: dropped.append(args.exc_type))
    interruption = Interruption()

    with interruption.watching():
        victim: Swallowing | None = Swallowing()
        interruption.check()
        del victim

    assert dropped == [KeyboardInterrupt]
    with pytest.raises(KeyboardInterrupt):
        interruption.check()


def test_handler_is_restored() -> None:
    """Outside the context the signal is handled as before, also after an interrupt."""
    before = signal.getsignal(signal.SIGINT)
    interruption = Interruption()

    with pytest.raises(KeyboardInterrupt), interruption.watching():
        signal.raise_signal(signal.SIGINT)

    assert signal.getsignal(signal.SIGINT) is before


def test_other_threads_are_left_alone() -> None:
    """Python sets signal handlers in the main thread only; elsewhere the context does nothing."""
    before = signal.getsignal(signal.SIGINT)
    seen: list[object] = []

    def work() -> None:
        with Interruption().watching():
            seen.append(signal.getsignal(signal.SIGINT))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()

    assert seen == [before]
