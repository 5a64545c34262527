"""Hunts of mutants: which small defects of a kernel's source a fuzz run would have found.

The Cases are drawn once, as a fuzz run draws them, and the original runs them first: what it does not pass counts for nothing.
Then each mutant runs them until a check fires. Where a mutant's IR is the original's, it is not run: it would do the same.
"""

from __future__ import annotations

import itertools
import statistics
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, fields
from typing import Any

from tridiff.harness.api import Clean, Domain, Found, Kernel, Outcome
from tridiff.harness.engines.spec import EngineSpec, UsageError
from tridiff.harness.mutation.mutants import Mutant, mutants, sampled
from tridiff.harness.registry import Registry
from tridiff.harness.runner.campaign import HarnessBug
from tridiff.harness.runner.crew import Crew
from tridiff.harness.runner.drawing import batches
from tridiff.harness.runner.examiner import Examiner
from tridiff.harness.runner.mutant_hunt import KILLED, SURVIVED, Hunt, Hunting, Known, Trials

EXAMPLES = 200
"""Cases that a mutant may survive."""


@dataclass(frozen=True, kw_only=True)
class Progress:
    """Something was done: `what` is under way, of which `done` of `total` are."""

    kernel: str
    what: str
    done: int
    total: int


@dataclass(frozen=True, kw_only=True)
class Quota:
    """At most `examples` Cases a mutant, so many `mutants` of a kernel and so many `seconds` for it; None for no limit."""

    examples: int = EXAMPLES
    mutants: int | None = None
    seconds: float | None = None


@dataclass
class Mutating:
    """Hunts the mutants of one Kernel. State can be read while it runs.

    `only`: the operators; none for all. `cases`: those that the original passes, in the order in which a mutant meets them, the
    most diverse first. `left_out`: the others, by what became of the original; `unsteady`: how many of them it fails, and passes
    when they run again. `mutants`: all there are, `chosen`: those to be tried, of which a time limit or Ctrl-C may leave some.
    `cut_short`: how many had survived so far when time ran out. `hidden`: functions that cannot be mutated. `hunts`: by mutant's
    name.
    """

    kernel: Kernel
    spec: EngineSpec
    seed: int
    quota: Quota
    registry: Registry
    crew: Crew
    listener: Callable[[Progress], None] = lambda _progress: None
    only: tuple[str, ...] = ()
    cases: list[Known] = field(default_factory=list)
    left_out: dict[str, int] = field(default_factory=dict)
    mutants: list[Mutant] = field(default_factory=list)
    chosen: list[Mutant] = field(default_factory=list)
    hidden: list[str] = field(default_factory=list)
    hunts: dict[str, Hunt] = field(default_factory=dict)
    unsteady: int = 0
    cut_short: int = 0
    interrupted: bool = False
    elapsed: float = 0.0
    _digests: dict[str, str] = field(default_factory=dict)
    _deadline: float | None = None

    def run(self) -> None:
        """Run to the end, to the deadline or to Ctrl-C; never raises KeyboardInterrupt.

        Raises `UsageError` where the original passes no Case, or launches nothing that can be mutated.
        """
        started = time.monotonic()
        self._deadline = None if self.quota.seconds is None else started + self.quota.seconds
        try:
            self._meet(self._drawn())
            self._choose()
            self.crew.work(self._try, self.chosen)
        except KeyboardInterrupt:
            self.interrupted = True
        self.elapsed = time.monotonic() - started

    def by_fate(self, fate: str) -> list[Hunt]:
        """Hunts that ended so, in the order of the source."""
        return [hunt for mutant in self.mutants if (hunt := self.hunts.get(mutant.name)) is not None and hunt.fate == fate]

    @property
    def score(self) -> float | None:
        """The share that was killed, in percent, of what can be; None where nothing can."""
        killed, survived = len(self.by_fate(KILLED)), len(self.by_fate(SURVIVED))
        return 100.0 * killed / (killed + survived) if killed + survived else None

    @property
    def least_score(self) -> float | None:
        """The score if all that were cut short had survived: they were hunted longest, so they are no fair sample of the rest."""
        killed, others = len(self.by_fate(KILLED)), len(self.by_fate(SURVIVED)) + self.cut_short
        return 100.0 * killed / (killed + others) if killed + others else None

    @property
    def examples_to_kill(self) -> tuple[float, int] | None:
        """The median, and the most; None where nothing was killed."""
        counts = [hunt.examples for hunt in self.by_fate(KILLED)]
        return (statistics.median(counts), max(counts)) if counts else None

    # The original -----------------------------------------------------------------------------------------------------

    def _drawn(self) -> list[Any]:
        domain = Domain(target=self.spec.target, limits=self.kernel.limits)
        drawn = batches(self.registry, self.kernel.op, domain, seed=self.seed)
        return list(itertools.islice(itertools.chain.from_iterable(drawn), self.quota.examples))

    def _meet(self, cases: Sequence[Any]) -> None:
        """Let the original run all Cases, and learn what it launches."""
        known: dict[int, Known] = {}
        done = itertools.count(1)

        def meet(examiner: Examiner | None, at: int) -> None:
            case = cases[at]
            try:
                outcome = self._trials.run(examiner, case, None)
                if isinstance(outcome, Clean):
                    known[at] = _known(case, self._trials.read(examiner, case, None))
                elif not self.crew.is_stopping:
                    kind = type(outcome).__name__.lower() + (f" ({outcome.finding.check})" if isinstance(outcome, Found) else "")
                    self.left_out[kind] = self.left_out.get(kind, 0) + 1
                    if isinstance(outcome, Found) and isinstance(self._trials.run(examiner, case, None), Clean):
                        self.unsteady += 1
            except UsageError:
                raise
            except Exception as error:
                raise HarnessBug(case, error) from error
            self._tell("the original's cases", next(done), len(cases))

        self.crew.work(meet, range(len(cases)))
        self._digests = {program.name: program.digest for each in known.values() for program in each.programs}
        self.cases = diverse([known[at] for at in sorted(known)])
        if not self.cases:
            why = ", ".join(f"{kind} {count}" for kind, count in self.left_out.items())
            raise UsageError(
                f"kernel {self.kernel.name!r} passes none of {len(cases)} cases ({why}): nothing can be told of mutants"
            )

    def _choose(self) -> None:
        functions = dict.fromkeys(name for each in self.cases for program in each.programs for name in program.functions)
        self.mutants, self.hidden = mutants(functions, self.only, self.registry.module)
        if not self.mutants:
            where = ", ".join(functions) or "no jit function at all"
            raise UsageError(f"kernel {self.kernel.name!r} launches nothing that can be mutated so: it launches {where}")
        self.chosen = sampled(self.mutants, self.seed)[: self.quota.mutants]

    # Mutants ----------------------------------------------------------------------------------------------------------

    def _try(self, examiner: Examiner | None, mutant: Mutant) -> None:
        if self._is_over():
            return
        hunt = self._hunting(mutant).run(examiner)
        if hunt is not None and not self.crew.is_stopping:
            self.hunts[mutant.name] = hunt
        self.cut_short += hunt is None
        self._tell("mutants", len(self.hunts), len(self.chosen))

    def _hunting(self, mutant: Mutant) -> Hunting:
        return Hunting(self._trials, self.cases, self._digests, mutant, self._is_over)

    @property
    def _trials(self) -> Trials:
        return Trials(self.kernel, self.spec, self.registry)

    def _is_over(self) -> bool:
        self.crew.check()
        return self.crew.is_stopping or (self._deadline is not None and time.monotonic() > self._deadline)

    def _tell(self, what: str, done: int, total: int) -> None:
        self.listener(Progress(kernel=self.kernel.name, what=what, done=done, total=total))


def _known(case: Any, read: Outcome) -> Known:
    programs, whole = (read.programs, read.conclusive) if isinstance(read, Clean) else ((), False)
    return Known(case=case, programs=programs, whole=whole)


def diverse(cases: Iterable[Known]) -> list[Known]:
    """`cases` with those first that have most of what none before them had: specialisations, and values of fields."""
    waiting = [(each, _traits(each)) for each in cases]
    ordered: list[Known] = []
    met: set[Any] = set()
    while waiting:
        best = max(range(len(waiting)), key=lambda at: (len(waiting[at][1] - met), -at))
        known, traits = waiting.pop(best)
        ordered.append(known)
        met |= traits
    return ordered


def _traits(known: Known) -> set[Any]:
    values = {(each.name, repr(getattr(known.case, each.name))) for each in fields(known.case)}
    return values | {program.name for program in known.programs}
