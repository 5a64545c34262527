"""A campaign: draws Cases of one Kernel, examines them, shrinks what fails, and goes on with what is left of the budget.

Hypothesis ends soon after a failure, so a campaign is a series of hunts. A hunt ends with its first new Finding, minimal;
later hunts treat that signature as known, count its hits, and look for others.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from typing import Any, NoReturn

import hypothesis
from hypothesis import Phase
from hypothesis.errors import Flaky
from hypothesis.strategies import SearchStrategy

from tridiff.harness import blame
from tridiff.harness.api import DEADLY, Clean, Domain, Finding, Found, Judged, Op, Outcome, Tolerated
from tridiff.harness.declarations import check_drawn, words_of
from tridiff.harness.domains import contains, domain_of
from tridiff.harness.engines.spec import EngineSpec, UsageError
from tridiff.harness.ledger.waivers import NONE, Waivers
from tridiff.harness.registry import Registry, builtin
from tridiff.harness.runner import targeting
from tridiff.harness.runner.events import CaseDone, FindingMinimal, FindingSeen, KernelDone, Listener
from tridiff.harness.runner.examine import KernelRef, examine
from tridiff.harness.runner.examiner import Examiner
from tridiff.harness.runner.minimise import minimised
from tridiff.harness.runner.offered import simplest, strategy_of
from tridiff.harness.runner.seeding import draws_by_seed_alone, plain_settings

ROUND = 400
"""Examples of one Hypothesis run; a new one starts from small cases again."""
PRESET_SHARE = 5
"""One in this many examples of a run is a preset, and they come first."""
BY_CHOICES = 40
"""Most Cases that Hypothesis may run to shrink one Finding; the fields of the Case need fewer for what is left."""
SHRINK_SECONDS = 60.0
"""Time to minimise one Finding."""
TIME_LIMIT, INTERRUPTED = "time limit", "interrupted"
"""Why a Finding is not fully shrunk; there are two more reasons."""
DEADLY_SHARE = 3
"""A Finding that costs a process each time it is made smaller has this many times as long, and fewer Cases are tried."""
_COSTLY = DEADLY | {"hang", "codegen", "compile_time"}


class BudgetSpent(BaseException):
    """Ends a hunt at once; not an Exception, so that Hypothesis does not take it for a failure."""


class HarnessBug(BaseException):
    """tridiff itself failed on a Case; not an Exception, so that Hypothesis does not shrink it as a kernel's failure."""

    def __init__(self, case: Any, error: Exception) -> None:
        super().__init__(f"tridiff failed on {case}: {type(error).__name__}: {error}")
        self.case = case


class _Failing(Exception):
    """A Case failed; one subclass per signature, since Hypothesis tells failures apart by type."""

    def __init__(self, finding: Finding) -> None:
        super().__init__(finding.message)
        self.finding = finding


@dataclass(frozen=True, kw_only=True)
class Budget:
    """How long a campaign lasts: `examples` drawn, or `seconds`, whichever ends first; None for no limit."""

    examples: int | None = None
    seconds: float | None = None
    shrink_seconds: float = SHRINK_SECONDS


@dataclass
class Campaign:
    """Fuzzes one Kernel. `run` returns the minimal Findings, by signature.

    `accept`: which Findings count; the others are examined and ignored. `stop_at_first`: end with the first Finding.
    `models`: draw presets of these alone, and nothing else. `first`: Cases to examine before any is drawn; they are not
    part of the budget, and left out where the Op does not allow them on this target. `whole`: see `Domain`. `examiner`: runs
    the Cases; None: this process does. `begin`: called before a Case runs. `waivers`: what is known to fail.
    """

    ref: KernelRef
    spec: EngineSpec
    seed: int
    budget: Budget
    listener: Listener
    registry: Registry = field(default_factory=builtin)
    accept: Callable[[Finding], bool] = lambda _finding: True
    stop_at_first: bool = False
    models: tuple[str, ...] = ()
    first: Sequence[Any] = ()
    whole: bool = False
    examiner: Examiner | None = None
    begin: Callable[[KernelRef, EngineSpec, Any], None] = lambda _ref, _spec, _case: None
    waivers: Waivers = NONE
    findings: dict[str, Finding] = field(default_factory=dict)
    examples: int = 0
    _rounds: int = 0
    _general_rounds: int = 0

    def run(self) -> dict[str, Finding]:
        """Draw and examine until the budget is spent. KeyboardInterrupt passes through; `findings` keeps what was found."""
        started = time.monotonic()
        deadline = None if self.budget.seconds is None else started + self.budget.seconds
        self._replay(deadline)
        presets = self._strategy("presets", self.domain)
        if self.models:
            self._hunt_all(presets, self.budget.examples, deadline, by_choices=False)
            self.listener(KernelDone(kernel=self.ref.kernel))
            return self.findings
        general = self._strategy("strategy", self.domain)
        # Hypothesis could only shrink towards another preset, at great cost: the Case's fields know the way out.
        share = _fraction(started, deadline, PRESET_SHARE)
        if not presets.is_empty:
            self._hunt_all(presets, self._preset_examples(), share, by_choices=False)
        self._hunt_all(general, self.budget.examples, deadline, by_choices=True)
        self.listener(KernelDone(kernel=self.ref.kernel))
        return self.findings

    @property
    def op(self) -> Op:
        """The Op that the Kernel implements."""
        return self.registry.op(self.registry.kernel(self.ref.kernel).op)

    def contains(self, case: Any) -> bool:
        """Whether the Op allows `case` on this campaign's target, and the Kernel's domain does."""
        with self.declared("within"):
            return contains(self.op, case, self.domain)

    @property
    def domain(self) -> Domain:
        """What is drawn from: the Op on the target, as far as the Kernel supports it."""
        kernel = self.registry.kernel(self.ref.kernel)
        return domain_of(kernel, self.spec.target, models=self.models, whole=self.whole)

    def simplest(self) -> Any:
        """The simplest Case in the domain."""
        with self.declared("strategy"):
            return simplest(self.op, self.domain)

    def _strategy(self, part: str, domain: Domain) -> SearchStrategy[Any]:
        with self.declared(part):
            return strategy_of(self.op, part, domain)

    def declared(self, part: str) -> AbstractContextManager[None]:
        """Within this context, what is raised is the fault of whoever declared the Op."""
        return blame.declared(self.registry.source_of("op", self.op.name), f"{part} of {self.op.name}")

    def _replay(self, deadline: float | None) -> None:
        for case in self.first:
            if _past(deadline) or (self.stop_at_first and self.findings):
                return
            if self.contains(case):
                with _usage_errors_as_they_are():
                    _Hunt(self, 1, deadline, by_choices=False).replay(case)

    def _preset_examples(self) -> int | None:
        return None if self.budget.examples is None else self.budget.examples // PRESET_SHARE

    def _hunt_all(self, strategy: SearchStrategy[Any], until: int | None, deadline: float | None, *, by_choices: bool) -> None:
        """Hunt until `until` examples were drawn in all, or the deadline. `by_choices`: whether Hypothesis shrinks as well."""
        while not (_past(deadline) or (until is not None and self.examples >= until)):
            if self.stop_at_first and self.findings:
                return
            count = ROUND if until is None else min(ROUND, until - self.examples)
            self._hunt(strategy, count, deadline, by_choices=by_choices)

    def _hunt(self, strategy: SearchStrategy[Any], count: int, deadline: float | None, *, by_choices: bool) -> None:
        """One hunt, with a seed of its own."""
        self._rounds += 1
        self._general_rounds += by_choices
        hunt = _Hunt(self, count, deadline, by_choices=by_choices)
        hunt.climbs = by_choices and targeting.climbs(self.op, self._general_rounds)
        # Of what leaves a hunt, only what was raised while drawing is no HarnessBug.
        with _usage_errors_as_they_are(), self.declared("the strategy"):
            hunt.go(strategy, _derived(self.seed, self.ref, self._rounds))

    def outcome(self, case: Any, *, shrinking: bool) -> Judged:
        """Examine a Case, unless it is quarantined. What is tolerated is not `Found`, so no hunt aims at it or ends in it."""
        return self.waivers.quarantined(self.ref.kernel, case) or self.waivers.judged(self._run(case, shrinking=shrinking))

    def _run(self, case: Any, *, shrinking: bool) -> Outcome:
        self.begin(self.ref, self.spec, case)
        if self.examiner is None:
            return examine(self.ref, self.spec, case, self.registry)
        return self.examiner.examine(self.ref, self.spec, case, self.registry, shrinking=shrinking, announce=self.listener)

    def confirmed(self, finding: Finding) -> Finding | None:
        """`finding`, after what killed a process did so again in a fresh one; None if it did not."""
        if self.examiner is None:
            return finding
        return self.examiner.confirmed(self.ref, self.spec, finding, self.registry, self.listener)

    def report(self, case: Any, outcome: Judged, *, shrinking: bool, replayed: bool = False) -> None:
        """Count and announce an examined Case."""
        self.examples += not (shrinking or replayed)
        words = {} if shrinking or not isinstance(outcome, Clean | Found | Tolerated) else self._words(case)
        kinds = {"shrinking": shrinking, "replayed": replayed}
        self.listener(CaseDone(kernel=self.ref.kernel, case=case, outcome=outcome, properties=words, **kinds))

    def _words(self, case: Any) -> dict[str, str]:
        with self.declared("properties"):
            return words_of(self.op, case)


class _Hunt:
    """One Hypothesis run: up to its first new Finding, which it minimises, `by_choices` (Hypothesis) and by its fields."""

    def __init__(self, campaign: Campaign, count: int, deadline: float | None, *, by_choices: bool) -> None:
        self._campaign = campaign
        self._count = count
        self._deadline = deadline
        self._by_choices = by_choices
        self.climbs = False
        self._drawn = 0
        self._tried = 0
        self._outcomes: dict[Any, Judged] = {}
        self._target: str | None = None
        self._first: Finding | None = None
        self._best: Finding | None = None
        self._deadly = False
        self._most_by_choices = BY_CHOICES
        self._shrink_seconds = campaign.budget.shrink_seconds
        self._at = 0
        self._shrink_deadline = 0.0
        self._why = ""

    def go(self, strategy: SearchStrategy[Any], seed: int) -> None:
        """Run; on a new Finding, store its minimal form in the campaign and announce it."""

        @hypothesis.seed(seed)
        @hypothesis.settings(plain_settings(), max_examples=self._count, phases=self._phases())
        @hypothesis.given(strategy)
        def test(case: Any) -> None:
            self._visit(case)

        try:
            with draws_by_seed_alone():
                test()
        except _Failing as failing:
            self._best = failing.finding
        except Flaky:
            if self._best is None:
                raise
            self._why = "the kernel does not always fail"
        except BudgetSpent:
            pass
        except (KeyboardInterrupt, HarnessBug):
            self._why = INTERRUPTED
            self._conclude()
            raise
        self._finish()

    def replay(self, case: Any) -> None:
        """Examine one Case that was not drawn; on a new Finding, do as `go` does."""
        outcome = self._examined(case, shrinking=False, replayed=True)
        if isinstance(outcome, Found) and self._is_wanted(outcome.finding):
            self._aim(outcome.finding)
            self._finish()

    def _finish(self) -> None:
        try:
            self._minimise()
            self._confirm()
        except BaseException:
            self._why = INTERRUPTED
            if self._deadly:
                self._best = self._first  # of anything smaller, no fresh process has died
            raise
        finally:
            self._conclude()

    def _phases(self) -> tuple[Phase, ...]:
        shrinking = (Phase.shrink,) if self._by_choices else ()
        return (Phase.generate, *((Phase.target,) if self.climbs else ()), *shrinking)

    def _visit(self, case: Any) -> None:
        check_drawn(self._campaign.op, case, self._campaign.domain)
        if self._target is not None:
            self._shrink(case)
            return
        if _past(self._deadline) or self._drawn >= self._count:
            raise BudgetSpent
        outcome = self._examined(case, shrinking=False)
        self._drawn += 1
        if isinstance(outcome, Found) and self._is_wanted(outcome.finding):
            self._aim(outcome.finding)
            _fail(outcome.finding)
        if self.climbs:
            with self._campaign.declared("score"):
                targeting.report(self._campaign.op, case, outcome)

    def _aim(self, finding: Finding) -> None:
        """From now on this hunt minimises `finding`."""
        self._target = finding.signature()
        self._first = self._best = finding
        self._at = self._campaign.examples
        self._deadly = finding.check in _COSTLY and self._campaign.examiner is not None
        if self._deadly:
            self._most_by_choices = 0
            self._shrink_seconds *= DEADLY_SHARE
        self._shrink_deadline = time.monotonic() + self._shrink_seconds
        with _blamed_on_us(finding.case):
            self._campaign.listener(FindingSeen(finding=finding, examples=self._at))

    def _shrink(self, case: Any) -> None:
        if case not in self._outcomes:
            if time.monotonic() > self._shrink_deadline:
                self._why = TIME_LIMIT
                return
            if self._tried >= self._most_by_choices:
                return
            self._tried += 1
        outcome = self._examined(case, shrinking=True)
        if isinstance(outcome, Found) and outcome.finding.signature() == self._target:
            self._best = outcome.finding
            _fail(outcome.finding)

    def _minimise(self) -> None:
        """Simplify the Finding's Case by its fields; what time Hypothesis took does not count."""
        if self._best is None:
            return
        deadline = time.monotonic() + self._shrink_seconds

        def fails(case: Any) -> bool:
            if case not in self._outcomes and time.monotonic() > deadline:
                self._why = TIME_LIMIT
                return False
            if not self._campaign.contains(case):
                return False
            outcome = self._examined(case, shrinking=True)
            if not (isinstance(outcome, Found) and outcome.finding.signature() == self._target):
                return False
            self._best = outcome.finding
            return True

        minimised(self._best.case, fails, self._campaign.op.compile_time, self._campaign.simplest())

    def _confirm(self) -> None:
        """Go back to the Case as it was found, where the minimal one kills no fresh process."""
        if self._best is None or self._first is None or self._best is self._first:
            return
        with _blamed_on_us(self._best.case):
            again = self._campaign.confirmed(self._best)
        if again is None:
            self._why = "what is smaller killed no fresh process"
        self._best = again or self._first

    def _examined(self, case: Any, *, shrinking: bool, replayed: bool = False) -> Judged:
        if case not in self._outcomes:
            campaign = self._campaign
            with _blamed_on_us(case):
                self._outcomes[case] = campaign.outcome(case, shrinking=shrinking)
                campaign.report(case, self._outcomes[case], shrinking=shrinking, replayed=replayed)
        return self._outcomes[case]

    def _is_wanted(self, finding: Finding) -> bool:
        return finding.signature() not in self._campaign.findings and self._campaign.accept(finding)

    def _conclude(self) -> None:
        if self._best is None:
            return
        self._campaign.findings[self._best.signature()] = self._best
        event = FindingMinimal(finding=self._best, examples=self._at, shrunk=not self._why, why=self._why)
        self._campaign.listener(event)


@contextmanager
def _blamed_on_us(case: Any) -> Iterator[None]:
    """Turns what an examination or a listener raises into a `HarnessBug`: as an Exception Hypothesis would shrink it."""
    try:
        yield
    except Exception as error:
        raise HarnessBug(case, error) from error


@contextmanager
def _usage_errors_as_they_are() -> Iterator[None]:
    """Turns a `HarnessBug` back where it was the user's matter, a plug-in that is wrong, say."""
    try:
        yield
    except HarnessBug as bug:
        if isinstance(bug.__cause__, UsageError):
            raise bug.__cause__ from None
        raise


_types: dict[str, type[_Failing]] = {}


def _fail(finding: Finding) -> NoReturn:
    """The one line that raises: Hypothesis takes failures raised at two lines for two bugs."""
    signature = finding.signature()
    kind = _types.setdefault(signature, type("Failing", (_Failing,), {"__doc__": signature}))
    raise kind(finding)


def _derived(seed: int, ref: KernelRef, part: int) -> int:
    digest = hashlib.blake2b(f"{seed}/{ref.kernel}/{part}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little")


def _past(deadline: float | None) -> bool:
    return deadline is not None and time.monotonic() > deadline


def _fraction(started: float, deadline: float | None, share: int) -> float | None:
    return None if deadline is None else started + (deadline - started) / share
