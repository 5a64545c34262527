"""Campaigns: what is drawn, how long, what is found and kept. The kernel is a function of the Case, so that they are fast."""

from __future__ import annotations

import dataclasses
import itertools
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from hypothesis.errors import Flaky
from hypothesis.strategies import SearchStrategy
from toy.family import registry
from toy.strategies.scale import ScaleCase, cases

from tridiff.harness.api import Clean, Domain, Finding, Found, Outcome, Skipped, Unsupported
from tridiff.harness.engines.spec import EngineSpec, UsageError
from tridiff.harness.registry import Registry
from tridiff.harness.runner import campaign as module
from tridiff.harness.runner.campaign import Budget, Campaign, HarnessBug
from tridiff.harness.runner.events import CaseDone, Event, FindingMinimal, FindingSeen, KernelDone, Tally
from tridiff.harness.runner.examine import KernelRef
from tridiff.harness.runner.prove import prove, prove_fault
from tridiff.harness.runner.session import Session

Kernel = Callable[[ScaleCase], Outcome]


def found(check: str, case: ScaleCase, subject: str = "") -> Found:
    """A Finding of the toy kernel."""
    return Found(
        finding=Finding(
            check=check, message=f"{check} at {case.columns}", line=None, op="scale", kernel="scale", engine="cpu",
            target="gfx942", case=case, subject=subject,
        )
    )  # fmt: skip


def clean(_case: ScaleCase) -> Outcome:
    """A kernel without defects."""
    return Clean(ratio=0.5)


def slow(seconds: float) -> Kernel:
    """A kernel without defects that takes its time."""

    def kernel(case: ScaleCase) -> Outcome:
        time.sleep(seconds)
        return clean(case)

    return kernel


def two_defects(case: ScaleCase) -> Outcome:
    """A kernel with a mismatch from 5 columns on, and a NaN in gaps."""
    if case.gap > 1:
        return found("nan", case)
    return found("mismatch", case) if case.columns >= 5 else Clean(ratio=0.5)


@dataclass
class Stage:
    """Stands in for `examine`: runs `kernel` and keeps the cases that it was given, in order."""

    kernel: Kernel = clean
    cases: list[ScaleCase] = field(default_factory=list)

    def examine(self, _ref: KernelRef, _spec: EngineSpec, case: ScaleCase, _known: Registry) -> Outcome:
        """Run the kernel."""
        self.cases.append(case)
        return self.kernel(case)


@pytest.fixture
def stage(monkeypatch: pytest.MonkeyPatch) -> Stage:
    """A stage on which every campaign of the test plays."""
    made = Stage()
    monkeypatch.setattr(module, "examine", made.examine)
    return made


def campaign(budget: Budget, events: list[Event], *, seed: int = 0, fault: str | None = None) -> Campaign:
    """A campaign on the toy kernel whose events are collected."""
    return Campaign(KernelRef(kernel="scale", fault=fault), EngineSpec(), seed, budget, events.append, registry())


def drawn(events: list[Event]) -> int:
    """The number of examples that were drawn, without those of shrinking."""
    return sum(isinstance(event, CaseDone) and not event.shrinking for event in events)


# Determinism


def test_same_seed_same_run(stage: Stage) -> None:
    """Cases, their order, events and findings are equal from run to run."""
    stage.kernel = two_defects
    runs = []
    for _ in range(2):
        stage.cases, events = [], list[Event]()
        findings = campaign(Budget(examples=150), events, seed=3).run()
        runs.append((stage.cases, events, findings))

    assert runs[0] == runs[1]


def test_seeds_differ(stage: Stage) -> None:
    """Another seed draws other cases."""
    runs = []
    for seed in (0, 1, -1):
        stage.cases = []
        campaign(Budget(examples=60), [], seed=seed).run()
        runs.append(tuple(stage.cases))

    assert len(set(runs)) == 3


def test_seed_means_the_same_whatever_is_loaded(stage: Stage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Hypothesis would mix constants of local source into the draws, so every fault's twin would change the cases."""
    campaign(Budget(examples=100), []).run()
    before, stage.cases = stage.cases, []

    (tmp_path / "module_of_many_constants.py").write_text(f"CONSTANTS = {list(range(2, 200))}\n", encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    __import__("module_of_many_constants")
    campaign(Budget(examples=100), []).run()
    monkeypatch.delitem(sys.modules, "module_of_many_constants")

    assert stage.cases == before


# Budget


@pytest.mark.parametrize("examples", [1, 4, 5, 7, 99, 401, 950])
@pytest.mark.parametrize("kernel", [clean, two_defects], ids=["clean", "faulty"])
def test_example_budget_is_exact(stage: Stage, kernel: Kernel, examples: int) -> None:
    """As many examples are drawn as were asked for, findings or not, across rounds; shrinking is not counted."""
    stage.kernel = kernel
    events: list[Event] = []
    run = campaign(Budget(examples=examples), events)

    run.run()

    assert drawn(events) == run.examples == examples


def test_models_alone(stage: Stage) -> None:
    """Where models are named, only presets are drawn, and the domain names the models."""
    known = registry()
    asked: list[Domain] = []

    def presets(domain: Domain) -> SearchStrategy[ScaleCase]:
        asked.append(domain)
        return registry().op("scale").presets(domain)

    known.ops["scale"] = dataclasses.replace(known.op("scale"), presets=presets)
    Campaign(KernelRef(kernel="scale"), EngineSpec(), 0, Budget(examples=20), lambda _event: None, known, models=("Toy",)).run()

    assert [case.preset for case in stage.cases] == [True] * 20
    assert asked == [Domain(target="gfx942", models=("Toy",))]


def test_presets_come_first(stage: Stage) -> None:
    """One fifth of the examples are presets, and nothing else is drawn before them."""
    campaign(Budget(examples=50), []).run()

    assert [case.preset for case in stage.cases] == [True] * 10 + [False] * 40


def test_time_budget(stage: Stage) -> None:
    """A campaign without an example budget ends about when its time does, and spends a fifth of it on presets."""
    stage.kernel = slow(0.002)
    started = time.monotonic()

    campaign(Budget(seconds=1.0), []).run()

    assert 1.0 <= time.monotonic() - started < 4.0
    assert 0.02 < sum(case.preset for case in stage.cases) / len(stage.cases) < 0.6


def test_the_first_limit_counts(stage: Stage) -> None:
    """With both limits the run ends at whichever comes first."""
    assert campaign(Budget(examples=20, seconds=600.0), []).run() == {}
    assert len(stage.cases) == 20

    stage.kernel = slow(0.01)
    events: list[Event] = []
    campaign(Budget(examples=10**6, seconds=0.2), events).run()

    assert 1 <= drawn(events) < 60


def test_kernel_done_comes_last(stage: Stage) -> None:
    """The end of a kernel's share is announced once, after everything else."""
    events: list[Event] = []

    campaign(Budget(examples=12), events).run()

    assert events[-1] == KernelDone(kernel="scale")
    assert len(stage.cases) == 12
    assert [type(event) for event in events[:-1]] == [CaseDone] * 12


# Findings


def test_two_defects_in_one_run(stage: Stage) -> None:
    """Both are found, each minimal, seen before it is minimal; later hits are counted and not reported again."""
    stage.kernel = two_defects
    events: list[Event] = []

    findings = campaign(Budget(examples=200), events).run()

    tally = Tally()
    for event in events:
        if isinstance(event, CaseDone):
            tally.add(event)
    minimal = {finding.check: finding.case for finding in findings.values()}
    seen = [event.finding.signature() for event in events if isinstance(event, FindingSeen)]
    assert minimal == {"nan": ScaleCase(gap=2), "mismatch": ScaleCase(columns=5)}
    assert sorted(seen) == sorted(findings)
    assert tally.examples == 200
    assert tally.failing == sum(tally.hits.values())
    assert set(tally.hits) == set(findings)
    assert all(hits > 20 for hits in tally.hits.values())


def test_finding_is_seen_before_it_is_minimal(stage: Stage) -> None:
    """The Case as drawn is announced at once, with the number of examples; the last minimal one is what is kept."""
    stage.kernel = lambda case: found("mismatch", case) if case.columns > 9 and not case.preset else Clean(ratio=0.1)
    events: list[Event] = []

    findings = campaign(Budget(examples=200), events).run()

    seen = next(event for event in events if isinstance(event, FindingSeen))
    minimal = [event for event in events if isinstance(event, FindingMinimal)]
    assert events.index(minimal[0]) > events.index(seen)
    assert minimal[0].examples == seen.examples == drawn(events[: events.index(seen)])
    assert seen.finding.case.columns >= 10
    assert [event.shrunk for event in minimal] == [True]
    assert findings == {minimal[0].finding.signature(): minimal[0].finding}
    assert minimal[0].finding.case == ScaleCase(columns=10)


def test_shrinking_keeps_to_its_defect(stage: Stage) -> None:
    """A smaller case of another defect is no smaller case of this one."""

    def kernel(case: ScaleCase) -> Outcome:
        if case.rows >= 3:
            return found("mismatch", case, subject="the big one")
        return found("mismatch", case, subject="the small one")

    stage.kernel = kernel

    findings = campaign(Budget(examples=120), []).run()

    assert {finding.subject: finding.case for finding in findings.values()} == {
        "the small one": ScaleCase(),
        "the big one": ScaleCase(rows=3),
    }


def test_finding_of_a_preset_loses_the_model(stage: Stage) -> None:
    """What fails with a real model's dimensions is shown without them where it can be, and minimised once."""
    stage.kernel = lambda case: found("mismatch", case) if case.columns >= 7 else Clean(ratio=0.1)
    events: list[Event] = []

    findings = campaign(Budget(examples=25), events).run()

    minimal = [event.finding.case for event in events if isinstance(event, FindingMinimal)]
    assert minimal == [ScaleCase(columns=7)]
    assert [finding.case for finding in findings.values()] == [ScaleCase(columns=7)]
    assert drawn(events) == 25


def test_finding_of_presets_alone_stays_one(stage: Stage) -> None:
    """Where no other case shows it, what makes it a preset is kept, and nothing else of it."""
    stage.kernel = lambda case: found("mismatch", case) if case.preset else Clean(ratio=0.1)

    findings = campaign(Budget(examples=25), []).run()

    assert [finding.case for finding in findings.values()] == [ScaleCase(preset=True)]


def test_what_choices_cannot_reach_is_reached_by_fields(stage: Stage) -> None:
    """Columns and rows that become simple only one after the other, or in steps that the pool of choices has not."""
    stage.kernel = lambda case: found("mismatch", case) if case.columns % 4 == 3 or case.factor < 0 else Clean(ratio=0.1)

    findings = campaign(Budget(examples=40), []).run()

    assert [finding.case for finding in findings.values()] in ([ScaleCase(columns=3)], [ScaleCase(factor=-0.5)])


def test_fields_are_simplified_within_the_domain(stage: Stage) -> None:
    """A case that the Op does not allow on the target is not run."""
    known = registry()
    known.ops["scale"] = dataclasses.replace(
        known.op("scale"), within=lambda case, domain: case.preset or domain.target != "gfx942"
    )
    stage.kernel = lambda case: found("mismatch", case) if case.preset else Clean(ratio=0.1)
    run = Campaign(KernelRef(kernel="scale"), EngineSpec(), 0, Budget(examples=5), lambda _event: None, known)

    run._hunt(known.op("scale").presets(Domain(target="gfx942")), 5, None, by_choices=False)

    assert [finding.case for finding in run.findings.values()] == [ScaleCase(preset=True)]
    assert all(case.preset for case in stage.cases)


@pytest.mark.parametrize("error", [KeyboardInterrupt, LookupError])
def test_what_interrupts_the_last_simplification_loses_nothing(stage: Stage, error: type[BaseException]) -> None:
    """Ctrl-C, or a defect of ours, while fields are simplified: the finding stays, and is said to be not fully shrunk."""

    def kernel(case: ScaleCase) -> Outcome:
        if case.columns == 1:
            raise error
        return found("mismatch", case)

    stage.kernel = kernel
    events: list[Event] = []
    run = campaign(Budget(examples=5), events)

    with pytest.raises((KeyboardInterrupt, HarnessBug)):
        run.run()

    assert [finding.check for finding in run.findings.values()] == ["mismatch"]
    assert [(event.shrunk, event.why) for event in events if isinstance(event, FindingMinimal)] == [(False, "interrupted")]


def test_kernel_that_always_fails(stage: Stage) -> None:
    """One defect is one finding, however many cases show it, and the budget is spent nevertheless."""
    stage.kernel = lambda case: found("launch", case)
    events: list[Event] = []

    findings = campaign(Budget(examples=70), events).run()

    assert [finding.case for finding in findings.values()] == [ScaleCase()]
    assert len([event for event in events if isinstance(event, FindingSeen)]) == 1
    assert drawn(events) == 70


def test_shrinking_has_a_time_limit(stage: Stage) -> None:
    """When it is over, the smallest case so far is kept, and said to be not fully shrunk."""

    def kernel(case: ScaleCase) -> Outcome:
        time.sleep(0.02 if case.columns > 9 else 0.0)
        return found("mismatch", case) if case.columns > 9 else Clean(ratio=0.1)

    stage.kernel = kernel
    events: list[Event] = []

    findings = campaign(Budget(examples=40, shrink_seconds=0.0), events).run()

    minimal = [event for event in events if isinstance(event, FindingMinimal)]
    seen = [event for event in events if isinstance(event, FindingSeen)]
    assert [(event.shrunk, event.why) for event in minimal] == [(False, "time limit")] * len(minimal)
    assert [finding.check for finding in findings.values()] == ["mismatch"]
    assert minimal[0].finding.case == seen[0].finding.case
    assert drawn(events) == 40


def test_findings_may_be_filtered(stage: Stage) -> None:
    """What is not accepted is examined and ignored."""
    stage.kernel = two_defects
    run = campaign(Budget(examples=100), [])
    run.accept = lambda finding: finding.check == "nan"

    run.run()

    assert [finding.check for finding in run.findings.values()] == ["nan"]
    assert run.examples == 100


def test_stop_at_first(stage: Stage) -> None:
    """One minimal finding ends the run."""
    stage.kernel = two_defects
    run = campaign(Budget(examples=100), [])
    run.stop_at_first = True

    run.run()

    assert len(run.findings) == 1
    assert run.examples < 100


# Interruption and bugs


class Interrupting:
    """A listener that raises when the `at`-th event of a kind arrives."""

    def __init__(self, kind: type[Event], at: int = 1, error: BaseException | None = None) -> None:
        self.kind = kind
        self.left = at
        self.error = error or KeyboardInterrupt()
        self.events: list[Event] = []

    def __call__(self, event: Event) -> None:
        """Collect the event, or raise."""
        self.events.append(event)
        self.left -= isinstance(event, self.kind)
        if self.left == 0:
            self.left = -1
            raise self.error


def session(listener: Callable[[Event], None], examples: int = 100, kernels: int = 1) -> Session:
    """A session on the first toy kernels."""
    known = registry()
    return Session(known.select([], [])[:kernels], EngineSpec(), 0, Budget(examples=examples), listener, known)


def test_session_counts(stage: Stage) -> None:
    """Every kernel gets its share of the budget and a tally."""
    stage.kernel = two_defects
    run = session(lambda _event: None, examples=40, kernels=2)

    run.run()

    assert {name: tally.examples for name, tally in run.tallies.items()} == {"scale": 20, "scale_wrong": 20}
    assert not run.interrupted
    assert run.elapsed > 0.0


@pytest.mark.parametrize(("examples", "shares"), [(41, [21, 20]), (2, [1, 1]), (1, [1, 1])])
def test_session_divides_its_budget(stage: Stage, examples: int, shares: list[int]) -> None:
    """All examples are used, the remainder by the first kernels; no kernel goes without."""
    run = session(lambda _event: None, examples=examples, kernels=2)

    run.run()

    assert [tally.examples for tally in run.tallies.values()] == shares
    assert len(stage.cases) == sum(shares)


def test_ctrl_c_between_cases(stage: Stage) -> None:
    """The session ends, says that it was interrupted, and keeps what it has."""
    run = session(Interrupting(CaseDone, at=25))

    run.run()

    assert run.interrupted
    assert run.tallies["scale"].examples == len(stage.cases) == 25


@pytest.mark.parametrize("at", [1, 2, 5])
def test_ctrl_c_while_shrinking_keeps_the_finding(stage: Stage, at: int) -> None:
    """The smallest case so far is kept as a finding that is not fully shrunk."""
    stage.kernel = lambda case: found("mismatch", case) if case.columns > 9 and not case.preset else Clean(ratio=0.1)
    listener = Interrupting(CaseDone, at=10**6)

    def listen(event: Event) -> None:
        if isinstance(event, FindingSeen):
            listener.left = at
        listener(event)

    run = session(listen)
    run.run()

    (minimal,) = (event for event in listener.events if isinstance(event, FindingMinimal))
    assert run.interrupted
    assert not minimal.shrunk
    assert list(run.findings.values()) == [minimal.finding]
    assert minimal.finding.case.columns > 9


@dataclass
class Dying:
    """An examiner whose processes die from 5 columns on; Ctrl-C comes at the `at`-th Case that is smaller, or as it confirms."""

    at: int | None

    def examine(
        self,
        _ref: KernelRef,
        _spec: EngineSpec,
        case: ScaleCase,
        _known: Registry,
        *,
        shrinking: bool,
        announce: object,  # noqa: ARG002 - the name is given
    ) -> Outcome:
        """Run a Case."""
        if shrinking and self.at is not None:
            self.at -= 1
            if self.at == 0:
                raise KeyboardInterrupt
        return found("crash", case) if case.columns >= 5 else clean(case)

    def confirmed(self, *_: object) -> Finding | None:
        """Replay the smallest Case."""
        raise KeyboardInterrupt

    def close(self) -> None:
        """Nothing is open."""


@pytest.mark.parametrize("at", [2, None])
def test_ctrl_c_before_a_death_is_confirmed(at: int | None) -> None:
    """What was not replayed alone is not reported: the Case is that which was found, and said to be not fully shrunk."""
    bad = ScaleCase(rows=3, columns=9, gap=1)
    events: list[Event] = []
    run = campaign(Budget(examples=5), events)
    run.examiner, run.first = Dying(at), [bad]

    with pytest.raises(KeyboardInterrupt):
        run.run()

    assert [finding.case for finding in run.findings.values()] == [bad]
    assert [(event.finding.case, event.shrunk) for event in events if isinstance(event, FindingMinimal)] == [(bad, False)]


def test_ctrl_c_after_a_finding_keeps_it(stage: Stage) -> None:
    """What was minimal before stays."""
    stage.kernel = lambda case: found("mismatch", case) if case.columns > 9 else Clean(ratio=0.1)
    run = session(Interrupting(KernelDone))

    run.run()

    assert run.interrupted
    assert [finding.case for finding in run.findings.values()] == [ScaleCase(columns=10)]


def test_harness_bug_names_the_case(stage: Stage) -> None:
    """What examination itself raises ends the run at once, with the Case and the cause, and is not shrunk."""

    def kernel(case: ScaleCase) -> Outcome:
        if case.columns > 3:
            raise ZeroDivisionError("division by zero")
        return Clean(ratio=0.1)

    stage.kernel = kernel

    with pytest.raises(HarnessBug) as caught:
        campaign(Budget(examples=100), []).run()

    assert caught.value.case == stage.cases[-1]
    assert str(caught.value) == f"tridiff failed on {stage.cases[-1]}: ZeroDivisionError: division by zero"
    assert isinstance(caught.value.__cause__, ZeroDivisionError)
    assert sum(case.columns > 3 for case in stage.cases) == 1


@pytest.mark.parametrize("kind", [CaseDone, FindingSeen])
def test_bug_of_a_listener_is_not_swallowed(stage: Stage, kind: type[Event]) -> None:
    """Hypothesis would take it for a flaky failure of the kernel."""
    stage.kernel = lambda case: found("mismatch", case)

    with pytest.raises(HarnessBug, match=r"tridiff failed on ScaleCase.*OSError: disk full") as caught:
        session(Interrupting(kind, error=OSError("disk full"))).run()

    assert isinstance(caught.value.__cause__, OSError)


def test_harness_bug_while_shrinking_keeps_the_finding(stage: Stage) -> None:
    """The finding was seen before the bug, and is reported beside it."""

    def kernel(case: ScaleCase) -> Outcome:
        if len(stage.cases) > 30:
            raise ZeroDivisionError
        return found("mismatch", case) if case.columns > 9 and len(stage.cases) > 27 else Clean(ratio=0.1)

    stage.kernel = kernel
    run = session(lambda _event: None)

    with pytest.raises(HarnessBug):
        run.run()

    assert [finding.check for finding in run.findings.values()] == ["mismatch"]


def test_mistake_of_the_user_is_no_bug_of_ours(stage: Stage) -> None:
    """Whether the Case was drawn, or is remembered or listed."""

    def broken(case: ScaleCase) -> Outcome:
        raise UsageError(f"plug-in x.py: build of scale raised with {case.columns}")

    stage.kernel = broken
    run = campaign(Budget(examples=5), [])
    run.first = [ScaleCase(columns=9)]

    with pytest.raises(UsageError, match=r"^plug-in x\.py: build of scale raised with 9$"):
        run.run()
    run.first = []
    with pytest.raises(UsageError, match=r"^plug-in x\.py: build of scale raised"):
        run.run()


def test_mistake_in_what_an_op_allows(stage: Stage) -> None:
    """It is told like any other mistake of a plug-in; a finding that was being simplified is kept."""

    def within(case: ScaleCase, _domain: Domain) -> bool:
        return case.columns == 8 or bool(1 / (case.columns - 1))

    known = registry()
    known.ops["scale"] = dataclasses.replace(known.op("scale"), within=within)
    known._sources["op", "scale"] = "x.py"
    stage.kernel = lambda case: found("mismatch", case)
    events: list[Event] = []
    run = Campaign(
        KernelRef(kernel="scale"), EngineSpec(), 0, Budget(examples=5), events.append, known, first=[ScaleCase(columns=8)]
    )

    with pytest.raises(UsageError, match=r"^plug-in x\.py: within of scale raised ZeroDivisionError"):
        run.run()

    assert [event.shrunk for event in events if isinstance(event, FindingMinimal)] == [False]


def test_bug_of_a_strategy_is_not_swallowed(stage: Stage) -> None:
    """A strategy that raises is our bug as well."""
    known = registry()

    def broken(case: ScaleCase) -> ScaleCase:
        if case.columns > 3:
            raise LookupError(case.columns)
        return case

    known.ops["scale"] = dataclasses.replace(known.op("scale"), strategy=lambda domain: cases(domain).map(broken))
    run = Campaign(KernelRef(kernel="scale"), EngineSpec(), 0, Budget(examples=100), lambda _event: None, known)

    with pytest.raises(LookupError):
        run.run()
    assert run.findings == {}
    assert stage.cases


def unsteady(domain: Domain) -> SearchStrategy[ScaleCase]:
    """A strategy that never gives the same case twice."""
    counter = itertools.count()
    return cases(domain).map(lambda case: dataclasses.replace(case, seed=next(counter)))


def test_strategy_that_fails_once_is_not_swallowed(stage: Stage) -> None:
    """Hypothesis calls it flaky; without a finding there is nothing that could be kept."""
    known = registry()
    raised: list[bool] = []

    def broken(case: ScaleCase) -> ScaleCase:
        if case.columns > 3 and not raised:
            raised.append(True)
            raise LookupError
        return case

    known.ops["scale"] = dataclasses.replace(known.op("scale"), strategy=lambda domain: cases(domain).map(broken))

    with pytest.raises(Flaky):
        Campaign(KernelRef(kernel="scale"), EngineSpec(), 0, Budget(examples=100), lambda _event: None, known).run()
    assert stage.cases


def test_finding_that_cannot_be_repeated_is_kept(stage: Stage) -> None:
    """What was seen once is reported as drawn, and as not fully shrunk."""
    known = registry()
    known.ops["scale"] = dataclasses.replace(known.op("scale"), strategy=unsteady)
    failed: list[ScaleCase] = []

    def kernel(case: ScaleCase) -> Outcome:
        if case.columns > 9 and not case.preset and not failed:
            failed.append(case)
            return found("mismatch", case)
        return clean(case)

    stage.kernel = kernel
    events: list[Event] = []

    findings = Campaign(KernelRef(kernel="scale"), EngineSpec(), 0, Budget(examples=100), events.append, known).run()

    assert [finding.case for finding in findings.values()] == failed
    assert [event.shrunk for event in events if isinstance(event, FindingMinimal)] == [False]


# Outcomes that are not judged


def test_tally_of_cases_not_judged() -> None:
    """Skipped and unsupported cases are counted by reason, with the line where there is one; shrinking counts apart."""
    tally = Tally()
    outcomes: list[Outcome] = [
        Skipped(reason="too large"),
        Unsupported(reason="tt.scan", line="k.py:7"),
        Unsupported(reason="tt.scan", line="k.py:7"),
        Unsupported(reason="tt.sort"),
        Clean(ratio=0.25, conclusive=False, specialisations=("a", "b")),
        Clean(ratio=0.125, specialisations=("b",)),
    ]

    for outcome in outcomes:
        tally.add(CaseDone(kernel="scale", case=None, outcome=outcome, shrinking=False))
    tally.add(CaseDone(kernel="scale", case=None, outcome=Clean(ratio=0.75, specialisations=("c",)), shrinking=True))

    assert (tally.examples, tally.shrink_runs) == (6, 1)
    assert (tally.clean, tally.inconclusive, tally.skipped, tally.unsupported, tally.failing) == (2, 1, 1, 3, 0)
    assert tally.worst_ratio == 0.25
    assert tally.specialisations == {"a", "b", "c"}
    assert tally.reasons == {"too large": 1, "tt.scan (k.py:7)": 2, "tt.sort": 1}


# Prove, with the real examination


@pytest.mark.parametrize(
    ("name", "minimal"),
    [
        ("load_unmasked", ScaleCase(columns=3)),
        ("gap_written", ScaleCase(rows=2, gap=1)),
        ("factor_off", ScaleCase()),
        ("gap_summed_unless_nan", ScaleCase(rows=2, columns=3, gap=1)),
        ("launcher_raises", ScaleCase(columns=3)),
    ],
)
def test_prove_catches(name: str, minimal: ScaleCase) -> None:
    """A fault is caught by the check that it names, at the latest soon after the presets, and its case is minimal."""
    known = registry()
    fault = known.fault("scale", name)

    proof = prove_fault(fault, EngineSpec(max_steps=100), registry=known)

    assert proof.caught
    assert proof.finding is not None
    assert proof.finding.check in fault.checks
    assert proof.finding.case == minimal
    assert 1 <= proof.examples <= 60
    assert proof.shrunk


def test_prove_misses() -> None:
    """A fault that no case shows is missed after the whole budget."""
    known = registry()

    proof = prove_fault(known.fault("scale", "assembly_used"), EngineSpec(), examples=30, registry=known)

    assert not proof.caught
    assert (proof.finding, proof.examples, proof.strays) == (None, 30, 0)


def test_prove_is_strict_about_the_check(stage: Stage) -> None:
    """A fault that only another check sees is missed, and the strays are counted."""
    known = registry()
    stage.kernel = lambda case: found("nan", case) if case.columns % 2 else Clean(ratio=0.1)

    proof = prove_fault(known.fault("scale", "factor_off"), EngineSpec(), examples=50, registry=known)

    assert not proof.caught
    assert proof.examples == 50
    assert proof.strays == sum(case.columns % 2 for case in stage.cases)


def test_prove_ends_with_the_first_catch(stage: Stage) -> None:
    """Once an expected check has fired, no further example is drawn, whatever else the fault breaks."""
    known = registry()
    stage.kernel = lambda case: found("mismatch", case, subject="odd" if case.columns % 2 else "even")
    events: list[Event] = []

    proof = prove_fault(known.fault("scale", "factor_off"), EngineSpec(), listener=events.append, registry=known)

    assert proof.examples == drawn(events) == 1
    assert proof.finding is not None
    assert [event.finding.subject for event in events if isinstance(event, FindingSeen)] == [proof.finding.subject]


def test_prove_says_what_is_not_fully_shrunk(stage: Stage) -> None:
    """Without time to shrink, the case as drawn is shown as what it is."""
    known = registry()
    stage.kernel = lambda case: found("mismatch", case) if case.columns > 9 else Clean(ratio=0.1)

    proof = prove_fault(known.fault("scale", "factor_off"), EngineSpec(), shrink_seconds=0.0, registry=known)

    assert proof.caught
    assert not proof.shrunk


def test_prove_takes_every_fault_in_order(stage: Stage) -> None:
    """Each is announced before it is hunted; a kernel without faults adds nothing."""
    known = registry()
    stage.kernel = lambda case: found("bounds", case)
    announced: list[str] = []

    proofs = []
    for proof in prove(
        known.select([], []), EngineSpec(), examples=3, registry=known, announce=lambda f: announced.append(f.name)
    ):
        proofs.append(proof)
        assert announced[-1] == proof.fault.name

    assert announced == [fault.name for fault in known.faults["scale"]]
    assert [proof.fault.name for proof in proofs if proof.caught] == ["load_unmasked"]
