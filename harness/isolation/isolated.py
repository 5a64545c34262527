"""Isolated: an Examiner whose Cases run in a worker process, with a spare beside it, so that a death costs one Case."""

from __future__ import annotations

import atexit
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tridiff.harness.api import Finding, Found, Infrastructure, Outcome
from tridiff.harness.doctor.host import memory
from tridiff.harness.engines.spec import EngineSpec, UsageError
from tridiff.harness.isolation import deaths, messages
from tridiff.harness.isolation.process import Death, Setting, Worker
from tridiff.harness.registry import Registry
from tridiff.harness.runner.events import WorkerDied
from tridiff.harness.runner.examine import KernelRef

TIMEOUT = 60.0
"""Seconds that one Case may take."""
MOST_BYTES = 8 << 30
"""Bytes of memory that the process of a Case may need, where the machine has enough."""
SPARE_AFTER = 5.0
"""Seconds that a worker serves until a spare is started: in a run shorter than that, none is likely to be needed."""
MOST_NEEDED = 0.8
"""Share of the limit that a worker may need before it runs anything."""
LEAST_PATIENCE = 3.0
"""Seconds that a Case may take at least, also where all others took far less."""
PATIENCE = 10
"""A Case of a kernel that is known to hang may take this many times as long as the slowest that ended."""

_TRIES = 3
"""Worker processes that may die in a row for reasons of their own."""


class WorkerLost(RuntimeError):
    """A worker died before it could be asked anything: the machine's matter, or ours."""


class RemoteBug(RuntimeError):
    """tridiff itself raised in a worker; the message holds the traceback."""


@dataclass
class Limits:
    """`seconds` that one Case may take, and `most_bytes` of memory that its process may need."""

    seconds: float = TIMEOUT
    most_bytes: int = 0

    def __post_init__(self) -> None:
        """Without a limit of the user's, memory has the default one."""
        self.most_bytes = self.most_bytes or default_bytes()


def default_bytes() -> int:
    """`MOST_BYTES`, or half of the memory of the machine, or of this control group, where that is less."""
    return min(MOST_BYTES, memory(Path("/")) // 2 or MOST_BYTES)


class Isolated:
    """Examines in a worker process; to be closed.

    A death is replayed alone, in a fresh process, before it counts as the kernel's; one of a kind that was confirmed is not.
    `started`: a worker that was started early, while the run itself still loads. `spares_from`: deaths after which there is a
    spare; 0 where one is to stand ready before.
    """

    def __init__(self, limits: Limits | None = None, started: Worker | None = None, *, spares_from: int = 0) -> None:
        self.limits = limits or Limits()
        self._spares_from = spares_from
        self._setting = started.setting if started else Setting()
        self._worker: Worker | None = None
        self._spares: list[Worker] = [started] if started else []
        self._since = 0.0
        self._deaths = 0
        self._slowest = 0.0
        self._hangs: set[KernelRef] = set()
        self._known: set[tuple[KernelRef, str]] = set()
        self._alone: set[tuple[KernelRef, str, Any]] = set()
        atexit.register(self.close)

    def close(self) -> None:
        """End all processes; the next Case would start new ones."""
        workers = [*self._spares, *([self._worker] if self._worker else [])]
        self._spares, self._worker = [], None
        for worker in workers:
            worker.kill()

    def examine(
        self,
        ref: KernelRef,
        spec: EngineSpec,
        case: Any,
        registry: Registry,
        *,
        shrinking: bool,
        announce: Callable[[WorkerDied], None],
    ) -> Outcome:
        """See `runner.examiner.Examiner`."""
        self._serve(ref, spec)
        request = _Request(ref, spec, case, registry)
        answer = self._asked(request, self._patience(ref))
        if not isinstance(answer, Death):
            return request.outcome(answer)
        announce(request.died(answer, confirming=False))
        finding = request.finding(answer)
        if shrinking or (ref, finding.signature()) in self._known:
            return Found(finding=finding)
        return self._replayed(request, answer, announce)

    def confirmed(
        self, ref: KernelRef, spec: EngineSpec, finding: Finding, registry: Registry, announce: Callable[[WorkerDied], None]
    ) -> Finding | None:
        """See `runner.examiner.Examiner`."""
        signature = finding.signature()
        if (ref, signature) not in self._known or (ref, signature, finding.case) in self._alone:
            return finding
        request = _Request(ref, spec, finding.case, registry)
        answer = self._asked_alone(request)
        if not isinstance(answer, Death):
            return None
        announce(request.died(answer, confirming=True))
        again = request.finding(answer)
        return again if again.signature() == signature else None

    def _replayed(self, request: _Request, death: Death, announce: Callable[[WorkerDied], None]) -> Outcome:
        """What a death is worth: a Finding if it happens again in a fresh process, `Infrastructure` if nothing does."""
        again = self._asked_alone(request)
        if not isinstance(again, Death):
            outcome = request.outcome(again)
            return outcome if isinstance(outcome, Found) else _infrastructure(death)
        announce(request.died(again, confirming=True))
        if deaths.is_ours(again):
            return _infrastructure(again)
        finding = request.finding(again)
        self._known.add((request.ref, finding.signature()))
        if again.overtime is not None:
            self._hangs.add(request.ref)
        return Found(finding=finding)

    def _asked_alone(self, request: _Request) -> dict[str, Any] | Death:
        """What a process says that has examined nothing before, with all the time that a Case may take."""
        return self._asked(request, self.limits.seconds, fresh=True)

    def _asked(self, request: _Request, seconds: float, *, fresh: bool = False) -> dict[str, Any] | Death:
        """Ask the worker; one that is dead is replaced, whether it died of this Case or before it was asked."""
        for _ in range(_TRIES):
            worker = self._taken(fresh=fresh)
            began = time.monotonic()
            unused = worker.answered == 0
            answer = worker.ask(request.body, seconds=seconds, most_bytes=self.limits.most_bytes)
            if answer is None:
                self._worker = None
                continue
            if isinstance(answer, Death):
                self._worker = None
                self._deaths += 1
                if unused and seconds >= self.limits.seconds:
                    self._alone.add((request.ref, request.finding(answer).signature(), request.case))
                self._start_spares()
                return answer
            self._slowest = max(self._slowest, time.monotonic() - began)
            self._rest(worker)
            return answer
        raise WorkerLost(f"{_TRIES} worker processes in a row died before they could be asked anything")

    def _patience(self, ref: KernelRef) -> float:
        """Seconds for a Case: less where the kernel is known to hang, or every hit would cost the whole time."""
        if ref not in self._hangs:
            return self.limits.seconds
        return min(self.limits.seconds, max(LEAST_PATIENCE, PATIENCE * self._slowest))

    def _serve(self, ref: KernelRef, spec: EngineSpec) -> None:
        """Workers that loaded other plug-ins are of no use."""
        if not self._setting.serves(ref.plugins, spec.target):
            self.close()
            self._setting = Setting(plugins=ref.plugins, target=spec.target)

    def _take(self, *, fresh: bool) -> Worker:
        """The worker; a spare, or a new one, where there is none. `fresh`: one that has examined nothing yet."""
        if self._worker is not None and fresh and self._worker.answered:
            self._spares.append(self._worker)  # it is good for other Cases
            self._worker = None
        if self._worker is None:
            fit = [spare for spare in self._spares if not (fresh and spare.answered)]
            # One that has examined Cases is warm; of the others, one that is ready.
            best = max(fit, key=lambda spare: (spare.answered, spare.is_ready), default=None) or self._start_spare()
            self._worker = best
            self._spares.remove(best)
            self._since = time.monotonic()
        return self._worker

    def _taken(self, *, fresh: bool) -> Worker:
        """`_take`, once it is ready. One that something else ended while it started is replaced; it may have waited for long.

        Raises `WorkerLost` where none starts, and `UsageError` where its plug-ins cannot be loaded.
        """
        left = _TRIES
        while True:
            left -= 1
            worker = self._take(fresh=fresh)
            answer = worker.started()
            if isinstance(answer, Death):
                self._worker = None
                if left and answer.code < 0 and answer.overtime is None:
                    continue
                raise WorkerLost(
                    f"a worker process ended with code {answer.code} while it started: {deaths.last_words(answer)}; "
                    "--no-isolation does without"
                )
            if "usage" in answer:
                self._worker = None
                worker.kill()
                raise UsageError(answer["usage"])
            self._check_room(worker)
            return worker

    def _check_room(self, worker: Worker) -> None:
        """Raise `UsageError` where the limit of memory leaves a worker next to nothing for Cases."""
        if worker.needed > MOST_NEEDED * self.limits.most_bytes:
            self._worker = None
            worker.kill()
            limit, needed = (f"{size / 2**30:.3g} GiB" for size in (self.limits.most_bytes, worker.needed))
            raise UsageError(f"the memory limit is {limit}, and a process needs {needed} before it runs a case: raise the limit")

    def _rest(self, worker: Worker) -> None:
        """After an answer: time for a spare, or for another worker where this one has used half of what it may grow by."""
        if worker.resident > (worker.needed + self.limits.most_bytes) // 2:
            worker.kill()
            self._worker = None
            self._start_spares()
        elif not self._spares and self._deaths >= self._spares_from and time.monotonic() - self._since > SPARE_AFTER:
            self._start_spares()

    def _start_spares(self) -> None:
        """One spare; two once processes die, since shrinking will take some more."""
        wanted = 2 if self._deaths and (os.cpu_count() or 1) > 1 else 1
        while len(self._spares) < wanted:
            self._start_spare()

    def _start_spare(self) -> Worker:
        worker = Worker(self._setting)
        self._spares.append(worker)
        return worker


class _Request:
    """One Case, and what becomes of it."""

    def __init__(self, ref: KernelRef, spec: EngineSpec, case: Any, registry: Registry) -> None:
        self.ref = ref
        self.spec = spec
        self.case = case
        self.op = registry.kernel(ref.kernel).op
        self.body = messages.request(ref, spec, case)

    def outcome(self, answer: dict[str, Any]) -> Outcome:
        """What the worker found. Raises `UsageError` and `RemoteBug` as `examine` would there."""
        if "usage" in answer:
            raise UsageError(answer["usage"])
        if "bug" in answer:
            raise RemoteBug(f"{answer['bug']}\n{answer['traceback']}")
        return messages.decoded(answer, self.case)

    def finding(self, death: Death) -> Finding:
        """What `death` says of the kernel."""
        return deaths.finding_of(death, op=self.op, kernel=self.ref.kernel, spec=self.spec, case=self.case)

    def died(self, death: Death, *, confirming: bool) -> WorkerDied:
        """The event that tells of it."""
        how, tail = deaths.described(death), deaths.tail(death)
        return WorkerDied(kernel=self.ref.kernel, case=self.case, how=how, tail=tail, confirming=confirming)


def _infrastructure(death: Death) -> Infrastructure:
    return Infrastructure(reason=deaths.described(death), tail=deaths.tail(death))
