"""One worker process, seen from the run: started by exec, asked, watched, ended.

Nothing here imports torch, so that a worker can be started before the run itself has loaded it.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import secrets
import select
import shutil
import signal
import struct
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import dataclass
from multiprocessing.connection import Connection, Pipe
from pathlib import Path
from typing import Any

from tridiff.harness.engines.spec import DEFAULT_TARGET
from tridiff.harness.targets import table

START_SECONDS = 180.0
"""Time that a worker may take to start: imports of torch and Triton on a busy machine."""
_POLL = 0.05
"""Seconds between two looks at the memory of a busy worker."""
_KEPT = 16 << 10
"""Bytes of standard error that are kept."""
_PIPE = 64 << 10
"""Bytes that a pipe holds at most (pipe(7))."""
_LINGER = 1000
"""Milliseconds after which the end of a worker is noticed that left a child which holds the pipe."""
_LARGEST = 16 << 20
"""Bytes of the largest answer; more is garbage that a kernel wrote into the connection."""
_HEADER = struct.Struct("!i")
"""What a Connection sends before each message: its length in bytes."""
_PAGE = os.sysconf("SC_PAGE_SIZE")
BOOT = (
    "import json, sys; setup = json.loads(sys.argv[1]); sys.path[:] = setup['path'];"
    " from tridiff.harness.isolation.worker import main; main(setup)"
)
"""What the interpreter of a worker runs: no more than finds the rest where the run found it."""


@dataclass(frozen=True, kw_only=True)
class Death:
    """How a worker ended, or why it was ended.

    `code`: as `subprocess` gives it: a negative signal number, or the exit code. `overtime`, `overweight`: we killed it because
    it took longer than these seconds, or needed more than these bytes. `garbled`: what it answered could not be read.
    `lines`: what it last wrote to standard error and standard output.
    """

    code: int
    overtime: float | None = None
    overweight: int | None = None
    garbled: bool = False
    lines: tuple[str, ...] = ()


@dataclass(frozen=True)
class Setting:
    """What a worker loads as it starts: `plugins`, for `target`."""

    plugins: tuple[str, ...] = ()
    target: str = DEFAULT_TARGET

    def serves(self, plugins: tuple[str, ...], target: str) -> bool:
        """Whether a Case can be sent there. A plug-in may decide things for a target while it is imported; our kernels do not."""
        return self.plugins == plugins and (self.target == target or not plugins)


class Worker:
    """A worker process; `answered` counts the Cases that it has examined, `needed` are the bytes that it took to get ready."""

    def __init__(self, setting: Setting) -> None:
        self.setting = setting
        self.answered = 0
        self._memory = -1
        self._ready = False
        self._surplus = False
        self.needed = 0
        self._folder = Path(tempfile.gettempdir(), f"tridiff-worker-{secrets.token_hex(8)}")  # made where it is needed
        ours, theirs = Pipe()
        self._connection: Connection = ours
        setup = {
            "descriptor": theirs.fileno(),
            "parent": os.getpid(),
            "path": _search_path(),
            "plugins": setting.plugins,
            "target": setting.target,
            "parts": [dataclasses.asdict(part) for part in table.added()],
            "folder": str(self._folder),
        }
        reading, writing = os.pipe()
        # A session of its own: Ctrl-C is for the run alone, and whatever the worker starts is ended with it.
        self._ended_as: int | None = None
        self._process = subprocess.Popen(  # noqa: S603 - our own interpreter and source
            [sys.executable, "-u", "-X", "faulthandler", "-c", BOOT, json.dumps(setup)],
            stdin=subprocess.DEVNULL,
            stdout=writing,
            stderr=writing,
            pass_fds=(theirs.fileno(),),
            start_new_session=True,
        )
        theirs.close()
        os.close(writing)
        self._tail = _Tail(reading)
        self._started = time.monotonic()

    @property
    def pid(self) -> int:
        """The id of the process."""
        return self._process.pid

    @property
    def resident(self) -> int:
        """Bytes of memory that it has in use (proc(5), statm); 0 where that is not known."""
        try:
            if self._memory < 0:
                self._memory = os.open(f"/proc/{self.pid}/statm", os.O_RDONLY | os.O_CLOEXEC)
            return int(os.pread(self._memory, 128, 0).split()[1]) * _PAGE
        except (OSError, ValueError, IndexError):
            return 0

    @property
    def is_ready(self) -> bool:
        """Whether it has said that it is ready, or something else; never waits."""
        return self._ready or self._connection.poll(0)

    def started(self) -> dict[str, Any] | Death:
        """Wait until it is ready. Returns what it says: {"ready": True}, or {"usage": message}."""
        if self._ready:
            return {"ready": True}
        answer = self._receive(self._started + START_SECONDS - time.monotonic(), None)
        self._ready = isinstance(answer, dict) and "ready" in answer
        self.needed = self.resident if self._ready else 0
        return answer

    def ask(self, request: dict[str, Any], *, seconds: float, most_bytes: int) -> dict[str, Any] | Death | None:
        """The answer to `request`, or how it died instead; None if it was dead, or in disorder, before it was asked.

        It is killed if it takes longer than `seconds` or needs more than `most_bytes`, or if this is interrupted.
        """
        self._tail.forget()
        # Dead, or it speaks without being asked.
        if self._process.poll() is not None or self._surplus or self._connection.poll(0):
            self.kill()
            return None
        try:
            self._connection.send_bytes(json.dumps(request).encode())
        except OSError:
            self.kill()
            return None
        try:
            answer = self._receive(seconds, most_bytes)
        except BaseException:
            self.kill()
            raise
        self.answered += 1
        return answer

    def kill(self) -> int:
        """End it and whatever it started; returns its exit code, or the negative number of the signal. May be called again."""
        if self._ended_as is not None:
            return self._ended_as
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.pid, signal.SIGKILL)
        self._ended_as = self._process.wait()
        if self._memory >= 0:
            os.close(self._memory)
            self._memory = -1
        self._connection.close()
        self._tail.close()
        shutil.rmtree(self._folder, ignore_errors=True)
        return self._ended_as

    def _receive(self, seconds: float, most_bytes: int | None) -> dict[str, Any] | Death:
        """The next message. Read piece by piece: one of which a part never comes must not keep us waiting."""
        deadline = time.monotonic() + seconds
        received, end = b"", _HEADER.size
        while len(received) < end:
            while not self._connection.poll(min(_POLL, max(0.0, deadline - time.monotonic()))):
                death = self._watched(deadline, seconds, most_bytes)
                if death is not None:
                    return death
            piece = self._read()
            if not piece:
                return self._gone()
            received += piece
            if len(received) >= _HEADER.size:
                length = _HEADER.unpack_from(received)[0]
                end = _HEADER.size + (length if 0 <= length <= _LARGEST else 0)  # nothing of that length is ours
        self._surplus = len(received) > end
        try:
            answer = json.loads(received[_HEADER.size : end])
        except ValueError:
            return self._ended(garbled=True)
        return answer if isinstance(answer, dict) else self._ended(garbled=True)

    def _watched(self, deadline: float, seconds: float, most_bytes: int | None) -> Death | None:
        """While there is no answer: how it ended, or had to be ended; None if it may go on."""
        if self._process.poll() is not None and not self._connection.poll(0):
            return self._gone()  # without a word: a child that it left behind holds the connection open
        if time.monotonic() >= deadline:
            return self._ended(overtime=seconds)
        if most_bytes is not None and self.resident > most_bytes:
            return self._ended(overweight=most_bytes)
        return None

    def _read(self) -> bytes:
        """What has come; nothing once the other end is closed."""
        try:
            return os.read(self._connection.fileno(), 1 << 16)
        except ConnectionError:
            return b""

    def _gone(self) -> Death:
        """It closed its end of the connection: it has died, or lives on without one, which is the same to us."""
        try:
            code = self._process.wait(timeout=5.0)
        except subprocess.TimeoutExpired:
            return self._ended(garbled=True)
        self.kill()  # what it started may live on
        return Death(code=code, lines=self._tail.lines())

    def _ended(self, *, overtime: float | None = None, overweight: int | None = None, garbled: bool = False) -> Death:
        if overtime is not None:
            self._ask_where()
        code = self.kill()
        return Death(code=code, overtime=overtime, overweight=overweight, garbled=garbled, lines=self._tail.lines())

    def _ask_where(self) -> None:
        """Let it write where it is: SIGABRT, whose handler (faulthandler) prints the Python stack, even out of a C loop."""
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, signal.SIGABRT)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(timeout=0.5)


def _search_path() -> list[str]:
    """Where the run looks for modules; what is no string there (a Path, say), Python passes over."""
    entries: list[Any] = list(sys.path)
    return [entry for entry in entries if isinstance(entry, str)]


class _Tail:
    """Drains a pipe in the background, so that nobody blocks on it, and keeps the end of what came."""

    def __init__(self, descriptor: int) -> None:
        os.set_blocking(descriptor, False)  # our end alone
        self._descriptor = descriptor
        self._kept = b""
        self._lock = threading.Lock()
        self._closed = False
        self._thread = threading.Thread(target=self._drain, daemon=True)
        self._thread.start()

    def _drain(self) -> None:
        waiting = select.poll()
        waiting.register(self._descriptor, select.POLLIN)
        while not self._closed:
            if waiting.poll(_LINGER) and not self._read():
                break
        with self._lock:
            os.close(self._descriptor)
            self._closed = True

    def _read(self) -> bool:
        """Keep the end of what is there; False once nothing can come any more."""
        with self._lock:
            try:
                chunk = os.read(self._descriptor, _PIPE)
            except BlockingIOError:
                return True
            self._kept = (self._kept + chunk)[-_KEPT:]
            return bool(chunk)

    def forget(self) -> None:
        """Drop what was written until now, also what nobody has read yet: it must not be taken for the next Case's."""
        with self._lock:
            if not self._closed:
                with contextlib.suppress(BlockingIOError):
                    os.read(self._descriptor, _PIPE)
            self._kept = b""

    def close(self) -> None:
        """Wait for the rest, for a while: a process that it started and that lives on keeps the pipe open."""
        self._thread.join(timeout=0.5)
        self._closed = True

    def lines(self) -> tuple[str, ...]:
        """The last lines, without those that are empty."""
        text = self._kept.decode("utf-8", "replace")
        return tuple(line.rstrip() for line in text.splitlines() if line.strip())
