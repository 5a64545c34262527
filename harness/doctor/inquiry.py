"""Asks a process of its own what `probe` can tell, and outlives whatever becomes of it: aborts, endless waits, garbage."""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from typing import IO, Any

from tridiff.harness.doctor.probe import SECTIONS, Facts, needs

SECONDS = {"torch": 120.0, "triton": 60.0, "engine": 120.0, "target": 60.0, "devices": 20.0}
"""How long a section may take. Usual: 2 s for torch, a tenth of a second for most others; a cold disk takes its time."""
OTHER_SECONDS = 30.0
_LAST_WORDS = 200
_PROBE = (
    "import json, sys; sys.path[:] = json.loads(sys.argv[1]); from tridiff.harness.doctor.probe import main; main(*sys.argv[2:])"
)


class _Ended(Exception):
    """The process gave no further answer; the message says why."""


def inquire(
    sections: Sequence[str] = SECTIONS, *, seconds: dict[str, float] | None = None, command: Sequence[str] = ()
) -> dict[str, Facts]:
    """The facts of each section. One that ends its process, or takes too long, gets a problem that says so.

    What does not need such a section is asked of another process. `seconds`, `command`: others than the usual, in tests.
    """
    known: dict[str, Facts] = {}
    left = list(sections)
    while left:
        with _Process(left, command or (sys.executable, "-c", _PROBE, json.dumps(sys.path))) as process:
            known.update(_read(process, left, {**SECONDS, **(seconds or {})}))
        broken = {section for section, facts in known.items() if "problem" in facts}
        known.update({section: {} for section in left if section not in known and broken.intersection(needs(section))})
        left = [section for section in left if section not in known]
    return {section: known[section] for section in sections}


def _read(process: _Process, sections: Sequence[str], seconds: dict[str, float]) -> dict[str, Facts]:
    """The facts of `sections`, in order, up to and including the one with which the process ended."""
    read: dict[str, Facts] = {}
    section = ""
    try:
        for section in sections:
            read[section] = process.facts(section, seconds.get(section.partition(":")[0], OTHER_SECONDS))
    except _Ended as ended:
        read[section] = {"problem": str(ended)}
    return read


class _Process:
    """A running probe."""

    def __init__(self, sections: Sequence[str], command: Sequence[str]) -> None:
        self._arguments = [*command]
        self._sections = sections
        self._buffer = b""
        self._closing = contextlib.ExitStack()

    def __enter__(self) -> _Process:  # noqa: PYI034 - nobody derives from it, and Self is Python 3.11's
        words: IO[bytes] = self._closing.enter_context(tempfile.TemporaryFile())
        self._words = words
        self._channel, other = os.pipe()
        self._closing.callback(os.close, self._channel)
        try:
            self._process = subprocess.Popen(  # noqa: S603 - the command is ours
                [*self._arguments, str(other), *self._sections],
                stdin=subprocess.DEVNULL,
                stdout=words,
                stderr=words,
                pass_fds=(other,),
                start_new_session=True,
            )
        finally:
            os.close(other)
        return self

    def __exit__(self, *_: object) -> None:
        self._end()
        self._closing.close()

    def _end(self) -> int | None:
        """Kill what is left; None for a process that even that does not end: a driver can hold it."""
        if self._process.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)
        with contextlib.suppress(subprocess.TimeoutExpired):
            return self._process.wait(timeout=2.0)
        return None

    def facts(self, section: str, seconds: float) -> Facts:
        """The next answer, which must be that of `section`. Raises `_Ended`."""
        line = self._line(time.monotonic() + seconds, seconds)
        try:
            answer: Any = json.loads(line)
            if answer["section"] == section and isinstance(answer["facts"], dict):
                return dict(answer["facts"])
        except (ValueError, KeyError, TypeError):
            pass
        raise _Ended(f"the answer makes no sense: {line[:_LAST_WORDS]!r}")

    def _line(self, deadline: float, seconds: float) -> bytes:
        while b"\n" not in self._buffer:
            ready, *_ = select.select([self._channel], [], [], max(0.0, deadline - time.monotonic()))
            if not ready:
                raise _Ended(f"no answer within {seconds:g} s")
            chunk = os.read(self._channel, 1 << 16)
            if not chunk:
                raise _Ended(self._epitaph())
            self._buffer += chunk
        line, _, self._buffer = self._buffer.partition(b"\n")
        return line

    def _epitaph(self) -> str:
        """How the process ended, and the last that it said."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(timeout=2.0)
        code = self._process.poll()
        how = "ended early" if code is None else f"exited with {code}" if code >= 0 else f"died of {_signal(-code)}"
        self._words.seek(0)
        words = [line.strip() for line in self._words.read().decode(errors="replace").splitlines() if line.strip()]
        return f"the process {how}" + (f": {words[-1][:_LAST_WORDS]}" if words else "")


def _signal(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
