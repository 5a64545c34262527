"""One mutant among the Cases: whether it is another program at all, whether Triton compiles it, and which check fires first."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from tridiff.harness.api import DEADLY, Clean, Finding, Found, Infrastructure, Kernel, Outcome, Program
from tridiff.harness.capture import Rewrite
from tridiff.harness.engines.spec import READER, EngineSpec, UsageError
from tridiff.harness.mutation.mutants import Mutant
from tridiff.harness.registry import Registry
from tridiff.harness.runner.examine import KernelRef, examine
from tridiff.harness.runner.examiner import Examiner

MOST_REFUSED = 20
"""Specialisations of a mutant that Triton refuses before the others are taken to be refused, too."""
UNSTEADY = "a check fired, and not when the case ran again"
_CONFIRMED = DEADLY | {"hang"}
"""Checks whose Findings were seen in a fresh process as well."""
KILLED, SURVIVED, EQUIVALENT, STILLBORN = "killed", "survived", "equivalent", "stillborn"
"""What becomes of a mutant. Equivalent: its IR is the original's in all that is drawn. Stillborn: where it is not, Triton refuses
it; that is no merit of a fuzz run."""


@dataclass(frozen=True, kw_only=True)
class Hunt:
    """What became of a mutant.

    `check`: the one that killed it, `message`: what that said. `examples`: Cases up to that one, or all. `judged`: how many of
    them ran a program that is not the original's. `reason`: why it does not compile, or why Cases could not be judged.
    """

    mutant: Mutant
    fate: str
    check: str = ""
    message: str = ""
    examples: int = 0
    judged: int = 0
    reason: str = ""


@dataclass(frozen=True, kw_only=True)
class Known:
    """A Case that the original passes, and its programs. `whole`: these are all, whatever a kernel computes."""

    case: Any
    programs: tuple[Program, ...]
    whole: bool


@dataclass(frozen=True)
class Trials:
    """Runs Cases of one Kernel, the original's or a mutant's."""

    kernel: Kernel
    spec: EngineSpec
    registry: Registry

    def run(self, examiner: Examiner | None, case: Any, rewrite: Rewrite | None, spec: EngineSpec | None = None) -> Outcome:
        """What becomes of a Case."""
        ref = KernelRef(kernel=self.kernel.name, plugins=self.registry.plugins, rewrite=rewrite)
        what = (ref, spec or self.spec, case, self.registry)
        if examiner is None:
            return examine(*what)
        return examiner.examine(*what, shrinking=False, announce=lambda _death: None)

    def read(self, examiner: Examiner | None, case: Any, rewrite: Rewrite | None) -> Outcome:
        """The programs that are launched for a Case, in a `Clean`; `Found` where the process dies as it compiles them."""
        return self.run(examiner, case, rewrite, replace(self.spec, name=READER))


class Hunting:
    """Hunts one mutant among `cases`. `digests`: of the original's IR, by specialisation. `is_over`: whether time ran out.

    `_same`: by specialisation, whether the mutant's IR is the original's; None where Triton refuses it.
    """

    def __init__(
        self,
        trials: Trials,
        cases: Sequence[Known],
        digests: Mapping[str, str],
        mutant: Mutant,
        is_over: Callable[[], bool] = lambda: False,
    ) -> None:
        self._trials = trials
        self._cases = cases
        self._digests = digests
        self._mutant = mutant
        self._is_over = is_over
        self._examiner: Examiner | None = None
        self._same: dict[str, bool | None] = {}
        self._unsure = False
        self._judged = 0
        self._refused_at = 0
        self._refusal = ""
        self._unjudged = ""

    def run(self, examiner: Examiner | None) -> Hunt | None:
        """Up to the first Finding that a second run shows as well, or to the last Case; None where time ran out."""
        self._examiner = examiner
        for at, known in enumerate(self._cases, 1):
            if self._is_over():
                return None
            if not self._differs(known, at):
                if self._is_hopeless():
                    break
                continue
            outcome = self._tried(self._trials.run, known.case)
            if isinstance(outcome, Found):
                self._judged += 1
                if self._is_steady(known.case, outcome.finding):
                    return self._ended(KILLED, at, check=outcome.finding.check, message=outcome.finding.message)
                self._unjudged = self._unjudged or UNSTEADY
            elif isinstance(outcome, Clean):
                self._judged += 1
            else:
                self._unjudged = self._unjudged or outcome.reason
        return self._survivor()

    def _is_steady(self, case: Any, finding: Finding) -> bool:
        """Whether `case` fails so again: of a kernel that fails by chance, nothing is the mutant's doing."""
        if finding.check in _CONFIRMED:
            return True
        again = self._tried(self._trials.run, case)
        return isinstance(again, Found) and again.finding.signature() == finding.signature()

    def _survivor(self) -> Hunt:
        count = len(self._cases)
        if self._unsure or False in self._same.values():
            if self._refused_at:  # in some specialisations it runs, so that it compiles is no matter of course
                return self._ended(KILLED, self._refused_at, check="launch", message=self._refusal)
            return self._ended(SURVIVED, count)
        if self._refused_at:
            return self._ended(STILLBORN, count)
        return self._ended(EQUIVALENT, count)

    def _ended(self, fate: str, at: int, *, check: str = "", message: str = "") -> Hunt:
        reason = self._refusal if fate == STILLBORN else self._unjudged if fate == SURVIVED else ""
        return Hunt(mutant=self._mutant, fate=fate, check=check, message=message, examples=at, judged=self._judged, reason=reason)

    def _differs(self, known: Known, at: int) -> bool:
        """Whether to run the Case: it launches another program than the original, or may do so, and Triton refuses none."""
        names = [program.name for program in known.programs]
        if not known.whole or any(name not in self._same for name in names):
            whole = self._learn(known) and known.whole
            self._unsure = self._unsure or not whole
        else:
            whole = True
        fates = [self._same.get(name, False) for name in names]
        if None in fates:
            self._refused_at = self._refused_at or at
            return False
        return not (whole and all(fates))

    def _learn(self, known: Known) -> bool:
        """Compare the programs of a Case with the original's. Returns whether these are all."""
        read = self._tried(self._trials.read, known.case)
        if isinstance(read, Found):  # the original's are compiled, so it is of these that the compiler dies
            programs = tuple(replace(program, refused=read.finding.message) for program in known.programs)
        else:
            programs = read.programs if isinstance(read, Clean) else ()
        for program in programs:
            self._same[program.name] = None if program.refused else program.digest == self._digests.get(program.name)
            self._refusal = self._refusal or program.refused
        return isinstance(read, Found) or (isinstance(read, Clean) and read.conclusive)

    def _is_hopeless(self) -> bool:
        """Whether so much of it is refused, and nothing else has another program, that the rest will be as well."""
        fates = list(self._same.values())
        return not self._unsure and False not in fates and fates.count(None) >= MOST_REFUSED

    def _tried(self, what: Callable[[Examiner | None, Any, Rewrite | None], Outcome], case: Any) -> Outcome:
        try:
            return what(self._examiner, case, self._mutant.rewrite)
        except UsageError:
            raise
        except Exception as error:  # noqa: BLE001 - tridiff fails on the mutant: no verdict, and no reason to stop
            return Infrastructure(reason=f"{type(error).__name__}: {error}".partition("\n")[0])
