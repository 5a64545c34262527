"""A survey: what the compiler says of each Kernel for each target, over as many drawn Cases as its specialisations take.

Targets run side by side, each in a thread and with an Examiner of its own; what they tell is the same whoever is first. All
Cases of a target are drawn before a Finding is simplified, and a defect that several targets of a family have is simplified on
the first of them alone: a thread waits until those before it have drawn theirs.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

from tridiff.harness import blame
from tridiff.harness.api import COMPILER as CHECKS_OF_COMPILER
from tridiff.harness.api import OF_MACHINE_CODE, Clean, Domain, Finding, Found, Judged, Kernel, Op, target_family
from tridiff.harness.domains import contains, domain_of
from tridiff.harness.engines.spec import COMPILER, EngineSpec, UsageError
from tridiff.harness.ledger.waivers import NONE, Waiver, Waivers
from tridiff.harness.registry import Registry
from tridiff.harness.runner.campaign import HarnessBug
from tridiff.harness.runner.drawing import batches
from tridiff.harness.runner.events import FindingMinimal, FindingSeen, WorkerDied
from tridiff.harness.runner.examine import KernelRef
from tridiff.harness.runner.examiner import Examiner
from tridiff.harness.runner.interruption import Interruption
from tridiff.harness.runner.offered import simplest
from tridiff.harness.runner.simplifying import Simplification
from tridiff.harness.runner.surveyed import DEATHS, ENOUGH, NO_MORE_CASES, NOTHING_NEW, TIME, Failing, Row, Smallest

SPECIALISATIONS = 60
"""Distinct specialisations of a kernel that are compiled for a target, in the placement of production."""
MOST_DEATHS = 20
"""Cases of a kernel that may end the compiler's process for a target: each one costs a start of some seconds."""
SHRINK_SECONDS, FULL_SHRINK_SECONDS = 60.0, 300.0
"""Time to simplify one Finding: without and with code generation."""
SHRINK_RUNS = 200
"""Cases that may be tried to simplify one Finding."""
_LOOK = 0.1
"""Seconds between two looks whether anything has ended."""
_drawing = threading.Lock()
"""Held while Hypothesis draws: how it draws is set in one place for all threads."""


@dataclass(frozen=True, kw_only=True)
class CaseCompiled:
    """A Case was compiled in all its placements. `shrinking`: to simplify a Finding."""

    kernel: str
    target: str
    case: Any
    outcome: Judged
    shrinking: bool


@dataclass(frozen=True, kw_only=True)
class TargetDone:
    """All is known of a target."""

    target: str


Event = CaseCompiled | WorkerDied | FindingSeen | FindingMinimal | TargetDone


@dataclass(frozen=True, kw_only=True)
class Quota:
    """How long a survey lasts: until `specialisations` of each kernel and target, or `seconds` in all; None for no limit.

    Simplifying a Finding takes at most `shrink_seconds` and `shrink_runs`, which are not part of `seconds`.
    """

    specialisations: int | None = SPECIALISATIONS
    seconds: float | None = None
    shrink_seconds: float = SHRINK_SECONDS
    shrink_runs: int = SHRINK_RUNS


class _Stopped(BaseException):
    """Ends a thread, because another one failed or the user has had enough."""


@dataclass
class Survey:
    """Compiles Cases of `kernels` for `targets`. State can be read while it runs, by a listener.

    `examiner`: makes the Examiner of a target, in the thread that will use and close it. `full`: to machine code, of which one
    specialisation may take `max_seconds`. `threads`: targets at a time. `unrunnable`: kernels left out, which are not
    Triton's. `waivers`: what is known to fail; `left_out`: kernels that are not compiled for that. `rows`: by kernel and target,
    in the order given. `smallest`: by target and signature, for the target on which a Finding is simplified.
    """

    kernels: list[Kernel]
    targets: tuple[str, ...]
    seed: int
    quota: Quota
    listener: Callable[[Event], None]
    registry: Registry
    examiner: Callable[[str], Examiner]
    full: bool = False
    max_seconds: float = EngineSpec().max_seconds
    threads: int = 1
    unrunnable: tuple[str, ...] = ()
    waivers: Waivers = NONE
    left_out: list[Kernel] = field(default_factory=list)
    rows: dict[tuple[str, str], Row] = field(default_factory=dict)
    smallest: dict[tuple[str, str], Smallest] = field(default_factory=dict)
    interrupted: bool = False
    elapsed: float = 0.0

    def __post_init__(self) -> None:
        """Lay out the rows."""
        for kernel in self.kernels:
            production = next(iter(self.registry.op(kernel.op).placements), None)
            for target in self.targets:
                self.rows[kernel.name, target] = Row(kernel.op, kernel.name, target, production)
        self._lock = threading.Lock()  # of rows, findings and the listener
        self._waiting = list(reversed(self.targets))
        self._stopping = threading.Event()
        self._drawn = {target: threading.Event() for target in self.targets}
        self._examiners: dict[str, Examiner] = {}
        self._errors: dict[str, BaseException] = {}
        self._interruption = Interruption()

    @property
    def width(self) -> int:
        """How many targets run at a time."""
        return max(1, min(len(self.targets), self.threads))

    @property
    def failing(self) -> list[Failing]:
        """Each defect once, in the order of the targets, and on each in the order found."""
        hits: dict[str, dict[str, int]] = {}
        first: dict[str, Smallest] = {}
        for target in self.targets:
            for row in (self.rows[kernel.name, target] for kernel in self.kernels):
                for signature, finding in row.findings.items():
                    hits.setdefault(signature, {})[target] = row.hits[signature]
                    first.setdefault(signature, self.smallest.get((target, signature), Smallest(finding=finding)))
        return [Failing(smallest=smallest, hits=hits[signature]) for signature, smallest in first.items()]

    def run(self) -> None:
        """Run to the end or to Ctrl-C; never raises KeyboardInterrupt. What is raised in a thread is raised here, once all ended.

        Raises `UsageError`, and `HarnessBug` where tridiff itself failed on a Case.
        """
        started = time.monotonic()
        threads = [threading.Thread(target=self._work, daemon=True) for _ in range(self.width)]
        try:
            with self._interruption.watching():
                self._watch(threads)
        except KeyboardInterrupt:
            self.interrupted = True
        finally:
            self.elapsed = time.monotonic() - started  # before the end, which a second Ctrl-C cuts short
            self._stop(threads)
        for target in self.targets:
            if target in self._errors and not self.interrupted:
                raise self._errors[target]

    def _watch(self, threads: list[threading.Thread]) -> None:
        for thread in threads:
            thread.start()
        while any(thread.is_alive() for thread in threads) and not self._stopping.is_set():
            self._interruption.check()
            self._stopping.wait(_LOOK)

    def _stop(self, threads: list[threading.Thread]) -> None:
        """End all threads. One that compiles is ended by the loss of its process, and so is one that has just started another."""
        self._stopping.set()
        while any(thread.is_alive() for thread in threads):
            for examiner in list(self._examiners.values()):
                examiner.close()
            for thread in threads:
                if thread.ident is not None:
                    thread.join(_LOOK)

    def _work(self) -> None:
        """Take one target after the other."""
        while not self._stopping.is_set():
            with self._lock:
                if not self._waiting:
                    return
                target = self._waiting.pop()
            try:
                _TargetSurvey(self, target).run()
            except BaseException as error:  # noqa: BLE001 - raised again by `run`
                if not self._stopping.is_set():
                    self._errors[target] = error
                    self._stopping.set()

    def share(self) -> float | None:
        """The time until which Cases may be drawn for a target that begins now; simplifying takes time besides."""
        if self.quota.seconds is None:
            return None
        rounds = -(-len(self.targets) // self.width)
        return time.monotonic() + self.quota.seconds / rounds

    @contextmanager
    def examining(self, target: str) -> Iterator[Examiner]:
        """The Examiner of `target`, ended with the context or by whoever stops the survey."""
        examiner = self.examiner(target)
        self._examiners[target] = examiner
        try:
            yield examiner
        finally:
            examiner.close()
            del self._examiners[target]

    def check(self) -> None:
        """Raise `_Stopped` where the survey is to end."""
        if self._stopping.is_set():
            raise _Stopped

    @contextmanager
    def telling(self) -> Iterator[Callable[[Event], None]]:
        """Within this context nobody else changes rows or tells anything; gives the listener."""
        with self._lock:
            yield self.listener

    def all_drawn(self, target: str) -> None:
        """Say that no more Cases of `target` will be drawn."""
        self._drawn[target].set()

    def theirs(self, target: str) -> set[str]:
        """Signatures of which targets of the same family, before `target` in the order asked for, have Findings to simplify."""
        signatures: set[str] = set()
        for other in self.targets[: self.targets.index(target)]:
            if target_family(other) == target_family(target):
                while not self._drawn[other].wait(_LOOK):
                    self.check()
                for kernel in self.kernels:
                    signatures.update(self.rows[kernel.name, other].findings)
        return signatures


class _TargetSurvey:
    """The part of a survey that is about one target; lives in one thread."""

    def __init__(self, survey: Survey, target: str) -> None:
        self._survey = survey
        self._target = target
        self._spec = EngineSpec(name=COMPILER, target=target, full=survey.full, max_seconds=survey.max_seconds)

    def run(self) -> None:
        survey = self._survey
        deadline = survey.share()
        with survey.examining(self._target) as self._examiner:
            for at, kernel in enumerate(survey.kernels):
                left = len(survey.kernels) - at
                until = None if deadline is None else time.monotonic() + (deadline - time.monotonic()) / left
                self._confirm_known(kernel)
                self._draw(kernel, self._row(kernel), until)
            survey.all_drawn(self._target)
            theirs = survey.theirs(self._target)
            for kernel in survey.kernels:
                row = self._row(kernel)
                for signature in [each for each in row.findings if each not in theirs]:
                    self._simplify(kernel, row, signature)
        with survey.telling() as tell:
            tell(TargetDone(target=self._target))

    def _confirm_known(self, kernel: Kernel) -> None:
        """Compile the Case of each tolerated entry: one that compiles is loud, and what fails otherwise is a failure like any."""
        op = self._survey.registry.op(kernel.op)
        for waiver in self._survey.waivers.tolerated(kernel.name):
            if self._shows(waiver) and self._contains(op, waiver.case, self._domain(kernel)):
                outcome = self._examined(kernel, self._spec, waiver.case, shrinking=False)
                if isinstance(outcome, Clean):
                    with self._survey.telling():
                        self._row(kernel).passes[waiver.entry.key] = "compiles"
                else:
                    self._add(kernel, self._row(kernel), waiver.case, outcome)

    def _shows(self, waiver: Waiver) -> bool:
        """Whether compiling for this target can tell what the entry is about."""
        entry = waiver.entry
        reached = entry.check in CHECKS_OF_COMPILER and (self._survey.full or entry.check not in OF_MACHINE_CODE)
        return reached and (not entry.targets or self._target in entry.targets)

    def _row(self, kernel: Kernel) -> Row:
        return self._survey.rows[kernel.name, self._target]

    def _draw(self, kernel: Kernel, row: Row, deadline: float | None) -> None:
        """Draw and compile until the budget is spent, or a batch tells nothing new."""
        source = batches(self._survey.registry, kernel.op, self._domain(kernel), seed=self._survey.seed)
        while not row.ended:
            with _drawing:
                batch = next(source, None)
            if batch is None:
                row.ended = NO_MORE_CASES
                return
            is_new = False
            for case in batch:
                row.ended = self._spent(row, deadline)
                if row.ended:
                    return
                is_new |= self._compile(kernel, row, case)
            row.ended = self._spent(row, deadline) or ("" if is_new else NOTHING_NEW)

    def _spent(self, row: Row, deadline: float | None) -> str:
        most = self._survey.quota.specialisations
        if most is not None and row.met >= most:
            return ENOUGH
        if row.deaths >= MOST_DEATHS:
            return DEATHS
        return TIME if row.cases and deadline is not None and time.monotonic() > deadline else ""

    def _compile(self, kernel: Kernel, row: Row, case: Any) -> bool:
        """Compile a drawn Case; whether it told anything new."""
        return self._add(kernel, row, case, self._examined(kernel, self._spec, case, shrinking=False))

    def _add(self, kernel: Kernel, row: Row, case: Any, outcome: Judged) -> bool:
        before = set(row.findings)
        with self._survey.telling() as tell:
            is_new = row.add(case, outcome)
            tell(CaseCompiled(kernel=kernel.name, target=self._target, case=case, outcome=outcome, shrinking=False))
            for signature in row.findings.keys() - before:
                with _blamed_on_us(case):
                    tell(FindingSeen(finding=row.findings[signature], examples=row.cases))
        return is_new

    def _examined(self, kernel: Kernel, spec: EngineSpec, case: Any, *, shrinking: bool) -> Judged:
        self._survey.check()
        waivers = self._survey.waivers
        if (kept_away := waivers.quarantined(kernel.name, case)) is not None:
            return kept_away
        with _blamed_on_us(case):
            outcome = self._examiner.examine(
                self._ref(kernel), spec, case, self._survey.registry, shrinking=shrinking, announce=self._announcing(kernel)
            )
        return waivers.judged(outcome)

    def _ref(self, kernel: Kernel) -> KernelRef:
        return KernelRef(kernel=kernel.name, plugins=self._survey.registry.plugins)

    def _announcing(self, kernel: Kernel) -> Callable[[WorkerDied], None]:
        row = self._row(kernel)

        def announce(event: WorkerDied) -> None:
            self._survey.check()  # then we ended it
            with self._survey.telling() as tell:
                row.deaths += not event.confirming and not row.ended
                tell(event)

        return announce

    def _simplify(self, kernel: Kernel, row: Row, signature: str) -> None:
        """Make the Case of a Finding smaller and tell of it, also where that is cut short."""
        first, op = row.findings[signature], self._survey.registry.op(kernel.op)
        spec = self._cheapest(kernel, row, first)
        domain = self._domain(kernel)
        with _drawing, blame.declared(self._survey.registry.source_of("op", op.name), f"strategy of {op.name}"):
            towards = simplest(op, domain)
        quota = self._survey.quota
        work = Simplification(
            finding=first,
            op=op,
            examined=lambda case: self._tried(kernel, row, spec, case),
            contains=lambda case: self._contains(op, case, domain),
            towards=towards,
            confirmed=lambda finding: self._confirmed(kernel, spec, finding),
            seconds=quota.shrink_seconds,
            runs=quota.shrink_runs,
        )
        try:
            work.run()
        finally:
            with self._survey.telling() as tell, _blamed_on_us(first.case):
                known = self._survey.smallest[self._target, signature] = work.smallest
                at = row.seen_at[signature]
                tell(FindingMinimal(finding=known.finding, examples=at, shrunk=bool(known.shrunk), why=known.why))

    def _cheapest(self, kernel: Kernel, row: Row, finding: Finding) -> EngineSpec:
        """How to compile: not to machine code where the same fails without, which is cheaper by far."""
        fast = replace(self._spec, full=False)
        if not self._spec.full:
            return fast
        outcome = self._tried(kernel, row, fast, finding.case)
        same = isinstance(outcome, Found) and outcome.finding.signature() == finding.signature()
        return fast if same else self._spec

    def _tried(self, kernel: Kernel, row: Row, spec: EngineSpec, case: Any) -> Judged:
        outcome = self._examined(kernel, spec, case, shrinking=True)
        with self._survey.telling() as tell:
            row.shrink_runs += 1
            tell(CaseCompiled(kernel=kernel.name, target=self._target, case=case, outcome=outcome, shrinking=True))
        return outcome

    def _domain(self, kernel: Kernel) -> Domain:
        return domain_of(kernel, self._target, whole=True)

    def _contains(self, op: Op, case: Any, domain: Domain) -> bool:
        with blame.declared(self._survey.registry.source_of("op", op.name), f"within of {op.name}"):
            return contains(op, case, domain)

    def _confirmed(self, kernel: Kernel, spec: EngineSpec, finding: Finding) -> Finding | None:
        with _blamed_on_us(finding.case):
            return self._examiner.confirmed(self._ref(kernel), spec, finding, self._survey.registry, self._announcing(kernel))


@contextmanager
def _blamed_on_us(case: Any) -> Iterator[None]:
    """Turns what an examination or a listener raises into a `HarnessBug` that names the Case, unless it is the user's matter."""
    try:
        yield
    except UsageError:
        raise
    except Exception as error:
        raise HarnessBug(case, error) from error
