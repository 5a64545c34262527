"""Surveys of targets: budgets, folding, simplifying, and an end that comes early; the compiler is a pretended one."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import misbehaving
import pytest
from pretended_compiler import COLUMN, WIDEST, Bench, Pretended, finding, known, remembered, specialised
from toy.strategies.scale import ScaleCase

from tridiff.harness.api import Domain, Found, Kernel
from tridiff.harness.engines.spec import COMPILER, EngineSpec, UsageError
from tridiff.harness.isolation import process
from tridiff.harness.isolation.isolated import Isolated, Limits
from tridiff.harness.isolation.process import Setting, Worker
from tridiff.harness.report import targets_text
from tridiff.harness.runner import surveying
from tridiff.harness.runner.campaign import INTERRUPTED, HarnessBug
from tridiff.harness.runner.events import FindingMinimal, FindingSeen, WorkerDied
from tridiff.harness.runner.simplifying import NOT_AGAIN, RUN_LIMIT
from tridiff.harness.runner.surveyed import DEATHS, ENOUGH, NOTHING_NEW, TIME, Row
from tridiff.harness.runner.surveying import MOST_DEATHS, CaseCompiled, Survey, TargetDone

MINIMAL = ScaleCase(columns=WIDEST + 1)
GFX9 = ("gfx90a", "gfx942")


@pytest.fixture(autouse=True)
def drawn_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Hypothesis would take most of the time."""
    monkeypatch.setattr(surveying, "batches", remembered)


@pytest.fixture
def bench() -> Bench:
    """Fresh."""
    return Bench()


@pytest.fixture
def default_handler() -> Iterator[None]:
    """A shell that starts pytest in the background makes it ignore Ctrl-C."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def told(survey: Survey) -> Any:
    """Everything that does not depend on the clock."""
    return {at: dataclasses.asdict(row) for at, row in survey.rows.items()}, survey.failing


def minimal(bench: Bench) -> list[FindingMinimal]:
    """What was said of minimal Findings."""
    return [event for event in bench.events if isinstance(event, FindingMinimal)]


# What is drawn


def test_rows_are_in_the_order_given(bench: Bench) -> None:
    """By kernel, then by target, whichever comes to its end first; examiners live in the thread that made them."""
    survey = bench.ran("large", "fits", threads=3, pauses={"gfx942": 0.01})

    assert list(survey.rows) == [(kernel, target) for kernel in ("large", "fits") for target in ("gfx942", "gfx950", "sm_90")]
    assert all(examiner.closed for examiner in bench.examiners.values())
    assert sorted(event.target for event in bench.events if isinstance(event, TargetDone)) == ["gfx942", "gfx950", "sm_90"]


def test_specialisations_are_counted_as_in_production(bench: Bench) -> None:
    """The budget is of distinct ones in the first placement; the others are compiled besides."""
    survey = bench.ran("fits", quota={"specialisations": 3}, targets=("gfx942",))

    row = survey.rows["fits", "gfx942"]
    assert (row.met, row.compiled, row.ended) == (3, 6, ENOUGH)
    assert {name: len(placed.names) for name, placed in row.placements.items()} == {"production": 3, "misaligned": 3}
    assert row.cases == row.clean == len(bench.examiners["gfx942"].asked) > 3


def test_figures_are_the_worst(bench: Bench) -> None:
    """By placement, without what the autotuner drops, and with what does not fit."""
    survey = bench.ran("autotuned", "large", targets=("gfx942",), quota={"specialisations": 100})

    tuned, large = (survey.rows[name, "gfx942"].placements for name in ("autotuned", "large"))
    assert (tuned["production"].shared, tuned["production"].shared_by) == (32 * 64, "_scale-32-a")
    assert (tuned["misaligned"].shared, tuned["production"].threads) == (32 * 64 + 512, 256)
    assert (survey.rows["autotuned", "gfx942"].dropped, tuned["production"].registers) == (6, {})
    assert large["production"].shared == 32 * COLUMN
    assert survey.rows["large", "gfx942"].failures == {"resources": {"_scale-32-a", "_scale-32-m"}}
    assert survey.rows["autotuned", "gfx942"].failures == {}


def test_failures_are_those_that_fail() -> None:
    """Not every specialisation of a failing case; the case itself where none is known to."""
    row, case = Row("scale", "large", "gfx942", "production"), ScaleCase()
    spec = EngineSpec(name=COMPILER)
    compiled = (specialised("fits", 1, spec), specialised("large", 1 << 20, spec))

    news = [
        row.add(case, Found(finding=finding("large", spec, case, check=check), compiled=compiled))
        for check in ("resources", "resources", "codegen", "codegen")
    ]

    assert row.failures == {"resources": {"large"}, "codegen": {case}}
    assert news == [True, False, True, False]
    assert (row.met, list(row.hits.values()), list(row.seen_at.values())) == (2, [2, 2], [1, 3])


def test_refused_specialisations_have_no_figures() -> None:
    """What Triton refuses got no allocation: 0 bytes would read as all of the part's memory left."""
    row, spec = Row("scale", "large", "sm_90", "production"), EngineSpec(name=COMPILER, target="sm_90")
    refused = dataclasses.replace(specialised("refused", 0, spec), threads=0, check="compile")

    row.add(ScaleCase(), Found(finding=finding("large", spec, ScaleCase(), check="compile"), compiled=(refused,)))

    assert (row.met, row.placements["production"].shared_by) == (1, "")
    assert list(targets_text._cells(row, full=False, wide=True))[3:5] == ["-", "-"]


def test_nothing_new_ends_it(bench: Bench) -> None:
    """A batch of cases without a new specialisation: there are taken to be no more."""
    survey = bench.ran("fits", targets=("gfx942",), quota={"specialisations": 100})

    row = survey.rows["fits", "gfx942"]
    assert (row.met, row.ended) == (6, NOTHING_NEW)
    assert 50 < row.cases <= 150


def test_time_ends_it(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """Seconds are for all targets, in equal parts, of which each kernel has its own; what simplifying takes is not among them."""
    clock = [0.0]
    monkeypatch.setattr(surveying, "time", SimpleNamespace(monotonic=lambda: clock[0]))

    def tick(event: Any) -> None:
        clock[0] += isinstance(event, CaseCompiled) and (50 if event.shrinking else 1)

    quota = {"specialisations": None, "seconds": 60.5}
    survey = bench.ran("fits", "large", quota=quota, listener=tick)

    assert {row.ended for row in survey.rows.values()} == {TIME}
    assert [survey.rows["fits", target].cases for target in survey.targets] == [11, 11, 11]
    assert [survey.rows["large", target].cases for target in survey.targets] == [10, 10, 10]


def test_every_row_has_a_case(bench: Bench) -> None:
    """Also where time is over before it begins."""
    survey = bench.ran("fits", "large", quota={"specialisations": None, "seconds": 1e-9})

    assert [row.cases for row in survey.rows.values()] == [1] * 6


def test_outcomes_without_a_verdict(bench: Bench) -> None:
    """Refusals, what could not be staged, and infrastructure failures are counted with their reasons."""
    survey = bench.ran("refuses", "unstaged", "lost", targets=("gfx942", "sm_90"), quota={"specialisations": 2})

    refused, amd = survey.rows["refuses", "sm_90"], survey.rows["refuses", "gfx942"]
    assert refused.cases == refused.unsupported > 0 == refused.judged
    assert refused.reasons == {"unsupported": {"no negative factors here (scale.py:7)": refused.cases}}
    assert (amd.met, amd.clean + amd.unsupported) == (2, amd.cases)
    unstaged, lost = survey.rows["unstaged", "gfx942"], survey.rows["lost", "gfx942"]
    assert unstaged.reasons == {"skipped": {"no address space": unstaged.skipped}}
    assert lost.reasons == {"infrastructure": {"the process died of SIGSEGV": lost.infrastructure}}
    assert survey.failing == []


def test_domain_is_whole(bench: Bench) -> None:
    """Also what the target lacks is drawn: launchers must refuse it."""
    made = known(("fits",))
    op, domains = made.ops["scale"], list[Domain]()

    def strategy(domain: Domain) -> Any:
        domains.append(domain)
        return op.strategy(domain)

    made.ops["scale"] = dataclasses.replace(op, strategy=strategy)

    bench.ran(registry=made, targets=("gfx942",))

    assert {(domain.target, domain.whole) for domain in domains} == {("gfx942", True)}
    ((kernel, spec, _, _), *_) = bench.examiners["gfx942"].asked
    assert (kernel, spec.name, spec.target, spec.full) == ("fits", COMPILER, "gfx942", False)


def test_deaths_end_it(bench: Bench) -> None:
    """A kernel that ends one process after the other is not given all there are."""
    made = known(("aborts",))
    op = made.ops["scale"]
    made.ops["scale"] = dataclasses.replace(op, strategy=lambda domain: op.strategy(domain).map(wide), presets=op.strategy)

    survey = bench.ran(registry=made, targets=("gfx942",), full=True, quota={"specialisations": 1000})

    row = survey.rows["aborts", "gfx942"]
    assert (row.deaths, row.ended) == (MOST_DEATHS, DEATHS)
    assert len(row.failures["codegen"]) == MOST_DEATHS


def wide(case: ScaleCase) -> ScaleCase:
    """Too wide for `aborts`."""
    return dataclasses.replace(case, columns=case.columns + WIDEST, seed=case.seed)


# The same whoever is first


@pytest.mark.parametrize("full", [False, True])
def test_threads_change_nothing(full: bool) -> None:
    """Rows, Findings and their minimal Cases are those of one target after the other."""
    kernels = ("large", "aborts", "fits")
    targets = (*GFX9, "gfx1100", "sm_90", "gfx950")

    one, three = (
        Bench().ran(*kernels, targets=targets, threads=threads, pauses=pauses, full=full)
        for threads, pauses in ((1, {}), (3, {"gfx90a": 0.004, "gfx1100": 0.002}))
    )

    assert told(one) == told(three)
    assert one.width == 1
    assert three.width == 3


def test_seed_counts() -> None:
    """Another seed gives other cases; targets of one family have the same ones."""
    benches = Bench(), Bench()

    for seed, bench in enumerate(benches):
        bench.ran("fits", seed=seed, targets=("gfx942", "gfx950"))

    cases = [[case for *_, case, _ in bench.examiners[target].asked] for bench in benches for target in ("gfx942", "gfx950")]
    assert cases[0] == cases[1] != cases[2] == cases[3]


def test_failure_is_told_once_a_family(bench: Bench) -> None:
    """With all targets that have it; it is simplified on the first of them, though another one comes to it before."""
    survey = bench.ran("large", targets=(*GFX9, "gfx1100"), threads=3, pauses={"gfx90a": 0.01}, quota={"specialisations": 100})

    assert [list(failing.hits) for failing in survey.failing] == [["gfx90a", "gfx942"], ["gfx1100"]]
    assert [failing.smallest.finding.target for failing in survey.failing] == ["gfx90a", "gfx1100"]
    assert sorted(event.finding.target for event in minimal(bench)) == ["gfx1100", "gfx90a"]
    seen = [event.finding.target for event in bench.events if isinstance(event, FindingSeen)]
    assert sorted(seen) == ["gfx1100", "gfx90a", "gfx942"]
    assert {failing.hits["gfx90a"] for failing in survey.failing[:1]} == {survey.rows["large", "gfx90a"].failing}


# Simplifying


def test_finding_is_simplified(bench: Bench) -> None:
    """To the smallest case that still fails likewise; those runs are counted apart."""
    survey = bench.ran("large", targets=("gfx942",))

    (failing,) = survey.failing
    (event,) = minimal(bench)
    row = survey.rows["large", "gfx942"]
    assert failing.smallest.finding == event.finding
    assert (failing.smallest.finding.case, failing.smallest.shrunk, failing.smallest.why) == (MINIMAL, True, "")
    assert event.examples == row.seen_at[failing.signature] <= row.cases
    shrinking = [event for event in bench.events if isinstance(event, CaseCompiled) and event.shrinking]
    assert row.shrink_runs == len(shrinking) == sum(asked[3] for asked in bench.examiners["gfx942"].asked) > 0


def test_limit_of_runs(bench: Bench) -> None:
    """What it came to until then is shown, and said to be not fully shrunk."""
    survey = bench.ran("large", targets=("gfx942",), quota={"shrink_runs": 1})

    (failing,) = survey.failing
    assert (failing.smallest.shrunk, failing.smallest.why) == (False, RUN_LIMIT)
    assert survey.rows["large", "gfx942"].shrink_runs == 1


def test_limit_of_time(bench: Bench) -> None:
    """Likewise."""
    survey = bench.ran("large", targets=("gfx942",), quota={"shrink_seconds": -1.0})

    (failing,) = survey.failing
    assert (failing.smallest.shrunk, failing.smallest.why) == (False, "time limit")
    assert failing.smallest.finding == survey.rows["large", "gfx942"].findings[failing.signature]


def test_domain_is_kept_to(bench: Bench) -> None:
    """A case that the Op does not allow on the target is not compiled to make another one smaller."""
    made = known(("large",))
    domains = list[Domain]()

    def within(case: ScaleCase, domain: Domain) -> bool:
        domains.append(domain)
        return case.factor != 1.0 or case.gap > 0

    made.ops["scale"] = dataclasses.replace(made.ops["scale"], within=within)

    survey = bench.ran(registry=made, targets=("gfx942",), quota={"specialisations": 100})

    case = survey.failing[0].smallest.finding.case
    assert case.factor != 1.0 or case.gap
    assert all(domain.whole for domain in domains)
    tried = [case for *_, case, shrinking in bench.examiners["gfx942"].asked if shrinking]
    assert tried
    assert all(case.factor != 1.0 or case.gap for case in tried)


def test_machine_code_is_for_what_needs_it(bench: Bench) -> None:
    """Of a full survey, what fails without code generation is simplified without; what aborts there is not."""
    survey = bench.ran("large", "aborts", targets=("gfx942",), full=True, quota={"specialisations": 100})

    asked = bench.examiners["gfx942"].asked
    assert all(spec.full for _, spec, _, shrinking in asked if not shrinking)
    assert not any(spec.full for kernel, spec, _, shrinking in asked if shrinking and kernel == "large")
    assert [spec.full for kernel, spec, _, shrinking in asked if shrinking and kernel == "aborts"][:3] == [False, True, True]
    assert {failing.smallest.finding.case for failing in survey.failing} == {MINIMAL}
    assert survey.rows["large", "gfx942"].placements["production"].registers == {"vgpr": 128, "spills": 0}


def test_unconfirmed_death(bench: Bench) -> None:
    """Where the minimal case ends no fresh process, the case stays as it was found."""
    survey = bench.survey("aborts", targets=("gfx942",), full=True, quota={"specialisations": 100})
    make = survey.examiner

    def doubting(target: str) -> Any:
        examiner: Any = make(target)
        examiner.confirms = False
        return examiner

    survey.examiner = doubting
    survey.run()

    (failing,) = survey.failing
    assert (failing.smallest.shrunk, failing.smallest.why) == (False, NOT_AGAIN)
    assert failing.smallest.finding == survey.rows["aborts", "gfx942"].findings[failing.signature]


# An early end


@pytest.mark.usefixtures("default_handler")
def test_interrupt_keeps_what_was_found(bench: Bench) -> None:
    """Ctrl-C as a Finding is seen: it is shown as it was drawn, and nothing goes on."""

    def press(event: Any) -> None:
        if isinstance(event, FindingSeen):
            signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)
            time.sleep(0.3)

    survey = bench.ran("large", listener=press, threads=2)

    assert survey.interrupted
    (failing,) = survey.failing
    assert failing.smallest.shrunk is None
    assert all(examiner.closed for examiner in bench.examiners.values())
    assert "sm_90" not in bench.examiners


@pytest.mark.usefixtures("default_handler")
def test_interrupt_while_simplifying(bench: Bench) -> None:
    """The smallest case until then is told, and that it may not be the smallest there is."""

    def press(event: Any) -> None:
        if isinstance(event, CaseCompiled) and event.shrinking:
            signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)
            time.sleep(0.3)

    survey = bench.ran("large", listener=press, targets=("gfx942",))

    assert survey.interrupted
    assert [(event.shrunk, event.why) for event in minimal(bench)] == [(False, INTERRUPTED)]
    assert [failing.smallest.why for failing in survey.failing] == [INTERRUPTED]


class Ended(Pretended):
    """Presses Ctrl-C, and is ended by what follows: its process dies, as an abort would have it."""

    def examine(self, ref: Any, spec: Any, case: Any, *_: Any, announce: Any, **__: Any) -> Any:
        """Tell of a death, once closed."""
        signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)
        while not self.closed:
            time.sleep(0.01)
        announce(WorkerDied(kernel=ref.kernel, case=case, how="killed by SIGKILL"))
        return Found(finding=finding(ref.kernel, spec, case, check="memory"))


@pytest.mark.usefixtures("default_handler")
def test_death_that_we_caused_is_no_failure(bench: Bench) -> None:
    """Ctrl-C ends processes, which says nothing of a kernel."""
    survey = bench.ran("fits", targets=("gfx942",), examiner=lambda _: Ended())

    assert survey.interrupted
    assert survey.failing == []
    assert bench.events == []
    assert survey.rows["fits", "gfx942"].cases == 0


def test_second_interrupt_keeps_the_time(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ctrl-C while threads are being ended: how long the survey took is known, where its summary said 0 s."""
    survey = bench.survey("fits", targets=("gfx942",))
    end = survey._stop

    def pressed_again(threads: list[threading.Thread]) -> None:
        end(threads)
        raise KeyboardInterrupt

    monkeypatch.setattr(survey, "_stop", pressed_again)
    with pytest.raises(KeyboardInterrupt):
        survey.run()

    assert survey.elapsed > 0.0


class Broken(Pretended):
    """Raises at the second Case."""

    error: Exception = RuntimeError("no such pass")

    def examine(self, *given: Any, **named: Any) -> Any:
        """Raise, later."""
        if self.asked:
            raise self.error
        return super().examine(*given, **named)


@pytest.mark.parametrize(
    ("error", "raised", "message"),
    [
        (RuntimeError("no such pass"), HarnessBug, r"tridiff failed on ScaleCase\(.*\): RuntimeError: no such pass"),
        (UsageError("plug-in x.py: raised"), UsageError, r"plug-in x\.py: raised"),
    ],
)
def test_error_ends_the_survey(bench: Bench, error: Exception, raised: type[BaseException], message: str) -> None:
    """It is raised where the survey was begun, once all threads have ended; what was found stays."""
    survey = bench.survey("large", targets=("gfx942", "gfx950", "gfx1100"), threads=2, pauses={"gfx942": 0.02})
    make = survey.examiner

    def broken(target: str) -> Any:
        examiner = Broken() if target == "gfx950" else make(target)
        if isinstance(examiner, Broken):
            examiner.error = error
        return examiner

    survey.examiner = broken

    with pytest.raises(raised, match=message):
        survey.run()

    assert bench.examiners["gfx942"].closed
    assert survey.rows["large", "gfx950"].cases == 1
    assert not [event for event in bench.events if isinstance(event, TargetDone)]


# In worker processes


@pytest.fixture
def isolated(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Isolated]:
    """Makes examiners with workers that load no torch."""
    monkeypatch.setattr(process, "BOOT", misbehaving.BOOT)

    def made(target: str) -> Isolated:
        return Isolated(Limits(seconds=20.0, most_bytes=300 << 20), Worker(Setting(("toy.planted",), target)))

    return made


def with_behaviour(name: str) -> Any:
    """A registry with the kernel of `misbehaving` of that name."""
    made = known(())
    made.register_kernel(Kernel(name=name, op="scale", module="toy.kernels.scale", launcher="scale"))
    made.plugins = ("toy.planted",)
    return made


def test_death_is_a_failure(bench: Bench, isolated: Callable[[str], Isolated], monkeypatch: pytest.MonkeyPatch) -> None:
    """An abort of the compiler is simplified like any other Finding, and was seen in two processes at least."""
    monkeypatch.setattr(surveying, "MOST_DEATHS", 2)

    survey = bench.ran(
        registry=with_behaviour("aborts"), targets=("gfx942",), examiner=isolated, full=True, quota={"specialisations": None}
    )

    (failing,) = survey.failing
    smallest = failing.smallest.finding
    assert (smallest.check, smallest.case, failing.smallest.shrunk) == ("codegen", ScaleCase(columns=misbehaving.FROM), True)
    assert "LLVM ERROR: Cannot select" in smallest.message
    row = survey.rows["aborts", "gfx942"]
    assert row.failing == len(row.failures["codegen"]) == row.deaths == 2
    assert {event.confirming for event in bench.events if isinstance(event, WorkerDied)} == {False, True}


@pytest.mark.usefixtures("default_handler")
def test_interrupt_ends_workers_at_once(bench: Bench, isolated: Callable[[str], Isolated]) -> None:
    """Also one that is busy and would be for long."""
    pids: list[int] = []

    def watched(target: str) -> Isolated:
        examiner = isolated(target)
        pids.extend(spare.pid for spare in examiner._spares)
        return examiner

    threading.Timer(1.0, lambda: signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)).start()
    survey = bench.survey(registry=with_behaviour("loops"), examiner=watched, threads=2)
    survey.run()

    assert survey.interrupted
    assert survey.elapsed < 15.0
    assert survey.failing == []
    assert len(pids) == 2
    for pid in pids:
        with pytest.raises(ProcessLookupError), contextlib.suppress(PermissionError):
            os.kill(pid, 0)
