"""Mutants of toy kernels, hunted: which of them are killed, and by what; which survive, are no mutants at all, or never lived."""

from __future__ import annotations

import contextlib
import time
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import misbehaving
import mutated_kernels
import pytest
from misbehaving import FROM
from mutated_kernels import _guarded, registry
from toy.strategies.scale import ScaleCase

from tridiff.harness.api import Clean, Finding, Found, Infrastructure, Kernel, Outcome, Program, Unsupported
from tridiff.harness.capture import Rewrite
from tridiff.harness.engines.spec import EngineSpec, UsageError
from tridiff.harness.isolation import process
from tridiff.harness.isolation.isolated import Isolated, Limits
from tridiff.harness.mutation.mutants import Mutant, check_operators, mutants, sampled
from tridiff.harness.report.mutants import verdict
from tridiff.harness.report.mutants_text import notes
from tridiff.harness.report.verdict import Exit
from tridiff.harness.runner import mutant_hunt
from tridiff.harness.runner import mutating as module
from tridiff.harness.runner.crew import Crew
from tridiff.harness.runner.examine import KernelRef, examine
from tridiff.harness.runner.examiner import Examiner
from tridiff.harness.runner.mutant_hunt import (
    EQUIVALENT,
    KILLED,
    MOST_REFUSED,
    STILLBORN,
    SURVIVED,
    UNSTEADY,
    Hunt,
    Hunting,
    Known,
    Trials,
)
from tridiff.harness.runner.mutating import Mutating, Progress, Quota, diverse

CASES = [ScaleCase(), ScaleCase(rows=2, columns=5, gap=1, factor=2.0), ScaleCase(columns=8, factor=-0.5)]
"""What is drawn here. Of one column, `guarded` is a program of no masks, which mutants of them leave as it is."""


@pytest.fixture(autouse=True)
def _drawn(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "batches", lambda *_, **__: iter([CASES]))


def mutating(kernel: str, *only: str, **quota: Any) -> Mutating:
    """A run in this process."""
    known = registry()
    return Mutating(known.kernel(kernel), EngineSpec(), 0, Quota(**quota), known, Crew(None), only=only)


# From a kernel to a score


def test_fates() -> None:
    """Each mutant has the fate that its change must have; what was changed afterwards is as before."""
    before = _guarded.src
    run = mutating("guarded", "alter_other", "drop_update", "drop_factor", "change_axis")

    run.run()

    fates = {(hunt.mutant.operator, hunt.mutant.before[0].strip()): hunt for hunt in run.hunts.values()}
    load, update, product, total = (
        "values = tl.load(x + row * stride + at, mask=live, other=0.0)",
        "values += 1.0",
        "return values * factor",
        "tl.store(total + row, tl.sum(tl.where(live, values, 0.0), axis=0))",
    )
    assert (fates["alter_other", load].fate, fates["alter_other", load].judged) == (SURVIVED, 2)
    assert (fates["drop_update", update].fate, fates["drop_update", update].judged) == (EQUIVALENT, 0)
    assert (fates["drop_factor", product].fate, fates["drop_factor", product].check) == (KILLED, "mismatch")
    assert fates["change_axis", total].fate == STILLBORN
    assert "invalid axis" in fates["change_axis", total].reason
    assert _guarded.src == before
    assert isinstance(examine(KernelRef(kernel="guarded"), EngineSpec(), CASES[1], registry()), Clean)


def test_score() -> None:
    """Of those that are neither equivalent nor stillborn; with how many cases it took."""
    run = mutating("guarded", "alter_other", "drop_update", "change_axis")

    run.run()

    assert {fate: len(run.by_fate(fate)) for fate in (KILLED, SURVIVED, EQUIVALENT, STILLBORN)} == {
        **{KILLED: 1, SURVIVED: 1},
        **{EQUIVALENT: 1, STILLBORN: 1},
    }
    assert run.score == 50.0
    assert run.examples_to_kill == (2, 2)


def test_a_most_of_mutants() -> None:
    """A limit takes a sample that depends on the seed, whatever the limit."""
    run = mutating("guarded", "drop_factor", mutants=2)

    run.run()

    assert len(run.hunts) == 2 < len(run.mutants)
    assert list(run.hunts) == [mutant.name for mutant in sampled(run.mutants, 0)[:2]]
    assert [mutant.name for mutant in sampled(run.mutants, 1)] != [mutant.name for mutant in sampled(run.mutants, 0)]


def test_time_runs_out() -> None:
    """What was not hunted to its end has no fate."""
    run = mutating("guarded", "drop_factor", seconds=0.0)

    run.run()

    assert (run.hunts, run.interrupted, run.score) == ({}, False, None)
    assert run.mutants


def test_time_runs_out_within_a_hunt(monkeypatch: pytest.MonkeyPatch) -> None:
    """Who was not killed by then may be a survivor: a score that is asked for is reached only where it does not matter."""
    run = mutating("guarded", "drop_factor")
    hunts = Hunting.run

    def cut(hunting: Hunting, examiner: Examiner | None) -> Hunt | None:
        return hunts(hunting, examiner) if run.hunts == {} else None

    monkeypatch.setattr(Hunting, "run", cut)
    run.run()

    assert (len(run.hunts), run.cut_short) == (1, len(run.mutants) - 1)
    assert run.score == 100.0
    assert run.least_score == pytest.approx(100.0 / len(run.mutants))
    assert verdict([run], 100.0).code == Exit.FINDINGS
    assert f"time ran out, before {run.cut_short} more were killed" in "".join(notes(run))


def test_interrupted() -> None:
    """Ctrl-C keeps what is known."""
    run = mutating("guarded", "drop_factor")

    def press(event: Progress) -> None:
        if event.what == "mutants":
            raise KeyboardInterrupt

    run.listener = press
    run.run()

    assert (run.interrupted, len(run.hunts)) == (True, 1)


def test_original_that_fails() -> None:
    """Cases that the original does not pass are left out; without any others there is nothing to tell."""
    run = mutating("scale_wrong", "drop_mask")
    run.run()

    assert run.left_out == {"found (mismatch)": 2}
    assert [known.case for known in run.cases] == [CASES[0]]

    with pytest.raises(UsageError, match=r"passes none of 1 cases \(found \(mismatch\) 1\)"):
        mutating("scale_wrong", examples=1)._meet(CASES[1:2])


def test_hidden_function() -> None:
    """A jit function that another process would not find is named, not mutated."""
    with pytest.raises(UsageError, match=r"mutated_kernels:_made\.<locals>\.inner"):
        mutating("made").run()

    found, hidden = mutants(["mutated_kernels:_times", "mutated_kernels:_made.<locals>.inner"])
    assert (len(found), hidden) == (2, ["mutated_kernels:_made.<locals>.inner"])


def test_names() -> None:
    """Operator, function, line of the file, and a number."""
    (first, second), _ = mutants(["mutated_kernels:_times"])
    line = _guarded.fn.__code__.co_firstlineno
    lines = Path(mutated_kernels.__file__).read_text(encoding="utf-8").splitlines()
    number = lines.index("    return values * factor") + 1

    assert line < number
    assert (first.name, second.name) == (f"drop_factor@_times:{number}#1", f"drop_factor@_times:{number}#2")
    assert (first.line, first.before, first.after) == (number, ("    return values * factor",), ("    return values",))
    assert first.file == "mutated_kernels.py"


def test_unknown_operator() -> None:
    """The nearest name is suggested."""
    with pytest.raises(UsageError, match="did you mean 'drop_mask'"):
        check_operators(["dropmask"])


def test_diverse_cases_first() -> None:
    """Those with most that is new come first; of several, the one drawn first."""
    known = [Known(case=ScaleCase(columns=columns), programs=(), whole=True) for columns in (1, 1, 2)]
    rich = Known(case=ScaleCase(rows=2, gap=2), programs=(Program(name="s", digest="d"),), whole=True)

    ordered = diverse([*known, rich])

    assert ordered == [rich, known[2], known[0], known[1]]


# One mutant, and whatever may become of it


MUTANT = Mutant(
    name="m",
    operator="drop_mask",
    function="f",
    file="f.py",
    line=1,
    before=("a",),
    after=("b",),
    rewrite=Rewrite(function="m:f", source="b", replaces="a"),
)
ORIGINAL = {f"s{at}": f"d{at}" for at in range(40)}


def program(at: int, digest: str = "", refused: str = "") -> Program:
    """The program of one specialisation."""
    return Program(name=f"s{at}", digest="" if refused else digest or f"d{at}", refused=refused)


def known(*numbers: int, whole: bool = True) -> Known:
    """A Case with these specialisations of the original; its columns are the first of them, plus 1."""
    return Known(case=ScaleCase(columns=numbers[0] + 1), programs=tuple(map(program, numbers)), whole=whole)


def read(*programs: Program, whole: bool = True) -> Clean:
    """What the reader says."""
    return Clean(ratio=0.0, conclusive=whole, programs=programs)


def found(check: str) -> Found:
    """What the engine says."""
    where: dict[str, Any] = {"op": "scale", "kernel": "k", "engine": "cpu", "target": "gfx942", "case": ScaleCase()}
    return Found(finding=Finding(check=check, message=f"{check}!", line=None, **where))


@dataclass
class Scripted:
    """Trials with outcomes by columns; `asked`: what was run or read, in order."""

    readings: dict[int, Outcome | Exception]
    outcomes: dict[int, Outcome | Exception]
    asked: list[str] = field(default_factory=list)

    def read(self, _examiner: Examiner | None, case: ScaleCase, _rewrite: Rewrite | None) -> Outcome:
        """What the reader says of a Case."""
        return self._said("read", self.readings, case)

    def run(self, _examiner: Examiner | None, case: ScaleCase, _rewrite: Rewrite | None) -> Outcome:
        """What the engine says of it."""
        return self._said("run", self.outcomes, case)

    def _said(self, what: str, script: dict[int, Outcome | Exception], case: ScaleCase) -> Outcome:
        self.asked.append(f"{what} {case.columns}")
        said = script[case.columns]
        if isinstance(said, Exception):
            raise said
        return said


CLEAN = Clean(ratio=0.0)
Script = dict[int, Outcome | Exception]


def hunted(cases: list[Known], readings: Script, outcomes: Script) -> tuple[Hunt, list[str]]:
    """What becomes of the mutant, and what was asked."""
    trials: Any = Scripted(readings, outcomes)
    hunt = Hunting(trials, cases, ORIGINAL, MUTANT).run(None)
    assert hunt is not None
    return hunt, trials.asked


def test_same_program_is_not_run() -> None:
    """Nor read again, where its specialisations are known."""
    hunt, asked = hunted([known(0, 1), known(1), known(2)], {1: read(program(0), program(1)), 3: read(program(2))}, {})

    assert (hunt.fate, hunt.judged, hunt.examples) == (EQUIVALENT, 0, 3)
    assert asked == ["read 1", "read 3"]


def test_one_of_two_kernels_differs() -> None:
    """A Case is run if any program that it launches is another one."""
    script: Script = {1: read(program(0), program(1, "x"))}
    hunt, asked = hunted([known(0, 1), known(1)], script, {1: CLEAN, 2: found("nan")})

    assert (hunt.fate, hunt.check, hunt.message, hunt.examples, hunt.judged) == (KILLED, "nan", "nan!", 2, 2)
    assert asked == ["read 1", "run 1", "run 2", "run 2"]


def test_killed_by_chance() -> None:
    """A check that does not fire again has killed nothing; one that ended a process was seen twice before."""
    trials: Any = Scripted({1: read(program(0, "x"))}, {1: found("nan")})
    outcomes = iter([found("nan"), CLEAN])
    trials.run = lambda *_: next(outcomes)
    hunt = Hunting(trials, [known(0)], ORIGINAL, MUTANT).run(None)
    deadly, asked = hunted([known(0)], {1: read(program(0, "x"))}, {1: found("crash")})

    assert hunt is not None
    assert (hunt.fate, hunt.judged, hunt.reason) == (SURVIVED, 1, UNSTEADY)
    assert (deadly.fate, asked) == (KILLED, ["read 1", "run 1"])


def test_original_that_fails_by_chance(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is said, and a score is not taken for granted."""
    run = mutating("guarded", "drop_factor")
    failed: list[Any] = []

    def examined(ref: KernelRef, spec: EngineSpec, case: Any, known: Any) -> Outcome:
        if ref.rewrite is None and case == CASES[0] and not failed:
            failed.append(case)
            return found("nan")
        return examine(ref, spec, case, known)

    monkeypatch.setattr(mutant_hunt, "examine", examined)
    run.run()

    assert (run.unsteady, run.left_out, len(run.cases)) == (1, {"found (nan)": 1}, 2)
    assert any("fails 1 case only sometimes" in line for line in notes(run))
    assert run.score is not None
    assert verdict([run], run.score).code == Exit.FINDINGS
    assert verdict([replace(run, unsteady=0)], run.score).code == Exit.CLEAN


def test_refused_everywhere() -> None:
    """What Triton refuses wherever it is another program was never alive."""
    script: Script = {1: read(program(0)), 2: read(program(1, refused="no"))}
    hunt, _ = hunted([known(0), known(1)], script, {})

    assert (hunt.fate, hunt.reason) == (STILLBORN, "no")


def test_refused_so_often() -> None:
    """After many refusals nobody asks any more."""
    cases = [known(at) for at in range(40)]
    hunt, asked = hunted(cases, {at + 1: read(program(at, refused="no")) for at in range(40)}, {})

    assert hunt.fate == STILLBORN
    assert len(asked) == MOST_REFUSED


@pytest.mark.parametrize("first", [1, 2])
def test_refused_for_some_inputs(first: int) -> None:
    """What runs for some and is refused for others is a defect that a fuzz run shows, whichever comes first."""
    runs, fails = known(first % 2), known((first + 1) % 2)
    cases = [runs, fails] if first == 1 else [fails, runs]
    readings: Script = {2: read(program(1, "x")), 1: read(program(0, refused="no"))}
    hunt, _ = hunted(cases, readings, {2: CLEAN})

    assert (hunt.fate, hunt.check, hunt.message) == (KILLED, "launch", "no")
    assert hunt.examples == next(at for at, each in enumerate(cases, 1) if each.case.columns == 1)


def test_compiler_dies() -> None:
    """A process that dies as it compiles is a refusal, no feat of the cases."""
    hunt, asked = hunted([known(0)], {1: found("crash")}, {})

    assert (hunt.fate, hunt.reason, asked) == (STILLBORN, "crash!", ["read 1"])


@pytest.mark.parametrize(
    ("said", "reason"),
    [
        (Unsupported(reason="op x"), "op x"),
        (Infrastructure(reason="died once"), "died once"),
        (ValueError("bug\nmore"), "ValueError: bug"),
    ],
    ids=["unsupported", "infrastructure", "bug"],
)
def test_unjudged(said: Outcome | Exception, reason: str) -> None:
    """What could not be judged has not been killed, and it is said why."""
    hunt, _ = hunted([known(0)], {1: read(program(0, "x"))}, {1: said})

    assert (hunt.fate, hunt.judged, hunt.reason) == (SURVIVED, 0, reason)


@pytest.mark.parametrize(
    "reading", [read(program(0), whole=False), Infrastructure(reason="?"), ValueError("?")], ids=["part", "died", "bug"]
)
def test_program_not_known(reading: Outcome | Exception) -> None:
    """Where not all of it could be read, the Case is run, and nothing is taken to be equivalent."""
    hunt, asked = hunted([known(0)], {1: reading}, {1: CLEAN})

    assert (hunt.fate, hunt.judged, asked) == (SURVIVED, 1, ["read 1", "run 1"])


def test_original_not_known() -> None:
    """Likewise where the original's could not."""
    hunt, _ = hunted([known(0, whole=False)], {1: read(program(0))}, {1: CLEAN})

    assert (hunt.fate, hunt.judged) == (SURVIVED, 1)


def test_users_fault() -> None:
    """What the user has to mend ends the run."""
    with pytest.raises(UsageError, match="plug-in"):
        hunted([known(0)], {1: UsageError("plug-in")}, {})


def test_abort_in_a_worker(monkeypatch: pytest.MonkeyPatch) -> None:
    """A mutant that ends its process is killed, by the check that says so; the worker is a stand-in."""
    monkeypatch.setattr(process, "BOOT", misbehaving.BOOT)
    toys = registry()
    kernel = Kernel(name="aborts", op="scale", module="toy.kernels.scale", launcher="scale")
    toys.register_kernel(kernel)
    cases = [Known(case=ScaleCase(columns=columns), programs=(), whole=False) for columns in (FROM - 1, FROM)]

    with contextlib.closing(Isolated(Limits(seconds=5.0, most_bytes=300 << 20))) as examiner:
        hunt = Hunting(Trials(kernel, EngineSpec(), toys), cases, {}, MUTANT).run(examiner)

    assert hunt is not None
    assert (hunt.fate, hunt.check, hunt.examples) == (KILLED, "crash", 2)


# A crew


@dataclass
class Idle:
    """An Examiner that only knows whether it was closed."""

    closed: int = 0

    def close(self) -> None:
        """Count."""
        self.closed += 1


def crew(width: int) -> tuple[Crew, list[Any]]:
    """A crew of threads and its examiners."""
    made: list[Any] = []

    def make() -> Any:
        made.append(Idle())
        return made[-1]

    return Crew(make, width), made


def test_crew_does_everything_once() -> None:
    """Whoever does it, with an Examiner of its own, as many as there is work for."""
    known, made = crew(3)
    done: list[tuple[int, int]] = []

    known.work(lambda examiner, item: done.append((made.index(examiner), item)), range(20))
    known.work(lambda _examiner, item: done.append((0, item)), [20])
    known.close()

    assert sorted(item for _, item in done) == list(range(21))
    assert [examiner.closed for examiner in made] == [1] * 3
    assert len(crew(3)[1]) == 0


@pytest.mark.parametrize("error", [ValueError("no"), UsageError("mend it")], ids=["bug", "usage"])
def test_crew_passes_errors_on(error: Exception) -> None:
    """What a job raises ends all, and is raised where the work was given."""
    known, made = crew(2)

    def job(_examiner: Examiner | None, item: int) -> None:
        if item == 3:
            raise error

    with pytest.raises(type(error), match=str(error)):
        known.work(job, range(100))

    assert known.is_stopping
    assert made


def test_crew_is_interrupted(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ctrl-C ends the processes for which the threads wait."""
    known, made = crew(2)

    def check() -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(known, "check", check)

    def job(_examiner: Examiner | None, _item: int) -> None:
        while not any(examiner.closed for examiner in made):
            time.sleep(0.01)

    with pytest.raises(KeyboardInterrupt):
        known.work(job, range(10))

    assert all(examiner.closed for examiner in made)


def test_other_mutants_have_other_rewrites() -> None:
    """What a worker keeps for one mutant is not taken for another's."""
    assert len({replace(MUTANT.rewrite, source=source) for source in ("b", "c", "b")}) == 2
