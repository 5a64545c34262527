"""Known failures in a run: what an entry is about, what is not run, what costs nothing, and what is loud all the same."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import ledgers
import pytest
from ledgers import MISMATCH, ROWS, WHO, WHOLE
from pretended_compiler import WIDEST, Bench, Pretended, remembered
from pretended_compiler import finding as refused
from toy.family import registry
from toy.strategies.scale import ScaleCase

from tridiff.harness.api import Clean, Finding, Found, Outcome, Quarantined, Tolerated, Unsupported
from tridiff.harness.engines.spec import COMPILER, EngineSpec, UsageError
from tridiff.harness.ledger import confirming
from tridiff.harness.ledger.waivers import NONE, Waivers
from tridiff.harness.report import targets, targets_text, waived
from tridiff.harness.report.eventfile import EventFile, read
from tridiff.harness.report.recording import Recording
from tridiff.harness.report.run_text import closing
from tridiff.harness.report.verdict import Exit, verdict
from tridiff.harness.runner import campaign as module
from tridiff.harness.runner import surveying
from tridiff.harness.runner.campaign import Budget
from tridiff.harness.runner.events import CaseDone, Event, UnexpectedPass
from tridiff.harness.runner.examine import KernelRef
from tridiff.harness.runner.judging import Judging
from tridiff.harness.runner.session import Session
from tridiff.harness.starting import running

FOUND = Finding(
    check="mismatch",
    message="out[0, 3] is 2.5, expected 1: 32 times the error bound",
    line="scale.py:29",
    op="scale",
    kernel="scale",
    engine="cpu",
    target="gfx942",
    case=ScaleCase(columns=7),
)
MACHINE_CODE = "check codegen needs machine code: tridiff targets --full"
Kernel = Callable[[ScaleCase], Outcome]


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder, and the current one; Hypothesis, which would take most of the time, draws for surveys once."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(surveying, "batches", remembered)
    return tmp_path


def found(check: str, case: ScaleCase, **changed: Any) -> Found:
    """A Finding of the toy kernel."""
    return Found(finding=replace(FOUND, check=check, case=case, **changed))


def tolerating(narrowed: str, case: str = "{ columns = 7 }") -> str:
    """An entry that tolerates a mismatch of `scale`, narrowed by these lines; it must say in which cases."""
    when = "" if "when" in narrowed else "when = { rows = 1 }\n"
    return f'[[failure]]\nkernel = "scale"\nstatus = "tolerated"\ncheck = "mismatch"\ncase = {case}\n{when}{narrowed}\n{WHO}'


# What an entry is about


@pytest.mark.parametrize(
    ("narrowed", "changed", "forgiven"),
    [
        ("when = { columns = 7 }", {}, True),
        ("when = { columns = [3, 7] }", {}, True),
        ("when = { columns = { min = 7 } }", {}, True),
        ("when = { columns = { max = 7 } }", {"case": ScaleCase(columns=8)}, False),
        ("when = { columns = { min = 5, max = 9 } }", {"case": ScaleCase(columns=4)}, False),
        ("when = { columns = [3, 7] }", {"case": ScaleCase(columns=4)}, False),
        ("when = { columns = 7, rows = 1 }", {"case": ScaleCase(columns=7, rows=2)}, False),
        ("when = { columns = 7 }", {"kernel": "scale_wrong"}, False),
        ("when = { columns = 7 }", {"check": "nan"}, False),
        ("when = { columns = 7 }", {"others": ("poison",)}, False),
        ("when = { columns = 7 }", {"others": ("mismatch",)}, True),
        ('also = ["poison"]\nwhen = { columns = 7 }', {"others": ("poison", "mismatch")}, True),
        ('also = ["poison"]\nwhen = { columns = 7 }', {"others": ("poison", "nan")}, False),
        ('line = "scale.py:29"', {}, True),
        ('line = "scale.py:29"', {"line": "scale.py:30"}, False),
        ('line = "scale.py:29"', {"line": None}, False),
        ('message = "expected 7: 4 times the error"', {}, True),
        ('message = "is 3.25, expected 9"', {"message": "lse[2] is 1, expected 3: 5 times the error bound"}, True),
        ('message = "out[1, 1] is"', {"message": "lse[2] is 1, expected 3: 5 times the error bound"}, False),
        (f'signature = "{FOUND.signature()}"', {"case": ScaleCase(columns=99)}, True),
        (f'signature = "{FOUND.signature()}"', {"line": "scale.py:30"}, False),
        ('targets = ["gfx942"]\nline = "scale.py:29"', {}, True),
        ('targets = ["gfx950"]\nline = "scale.py:29"', {}, False),
    ],
)
def test_what_is_forgiven(narrowed: str, changed: dict[str, Any], *, forgiven: bool) -> None:
    """All that the entry says must hold, and nothing else may have fired."""
    known, outcome = ledgers.waivers(tolerating(narrowed)), Found(finding=replace(FOUND, **changed), specialisations=("a",))

    judged = known.judged(outcome)

    if forgiven:
        assert judged == Tolerated(entry=known.entries[0].key, finding=outcome.finding, specialisations=("a",))
    else:
        assert judged is outcome


def test_only_findings_are_forgiven() -> None:
    """Whatever else comes of a Case stays as it is."""
    known = ledgers.waivers(MISMATCH)

    for outcome in (Clean(ratio=0.5), Unsupported(reason="r")):
        assert known.judged(outcome) is outcome
    assert NONE.judged(Found(finding=FOUND)) == Found(finding=FOUND)


def test_what_is_quarantined() -> None:
    """Cases of the kernel with these fields; the whole kernel where there are none; what is tolerated runs."""
    known = ledgers.waivers(ROWS + WHOLE + MISMATCH)
    rows, whole, _ = known.entries

    assert known.quarantined("scale", ScaleCase(rows=4)) == Quarantined(entry=rows.key)
    assert known.quarantined("scale", ScaleCase(rows=2, columns=7)) is None
    assert known.quarantined("scale_wrong", ScaleCase()) == Quarantined(entry=whole.key)
    assert (known.whole("scale"), known.whole("scale_wrong")) == (None, whole)
    assert NONE.quarantined("scale", ScaleCase(rows=4)) is None


def test_kernels_that_are_left_out() -> None:
    """They do not run, and a run of them alone is refused."""
    kernels = [registry().kernel(name) for name in ("scale", "scale_wrong")]

    kept, left_out = running(kernels, ledgers.waivers(WHOLE))

    assert ([kernel.name for kernel in kept], [kernel.name for kernel in left_out]) == (["scale"], ["scale_wrong"])
    with pytest.raises(
        UsageError, match="so there is nothing to run: scale_wrong; with --no-known-failures they run all the same"
    ):
        running(kernels[1:], ledgers.waivers(WHOLE))


# In a fuzz run


class Played:
    """A session on a kernel that is a function of the Case, with what was run, told and recorded."""

    def __init__(
        self, known: Waivers, kernel: Kernel, monkeypatch: pytest.MonkeyPatch, examples: int = 60, **changed: Any
    ) -> None:
        self.events: list[Event] = []
        self.ran: list[ScaleCase] = []

        def examined(_ref: KernelRef, _spec: EngineSpec, case: ScaleCase, _known: Any) -> Outcome:
            self.ran.append(case)
            return kernel(case)

        monkeypatch.setattr(module, "examine", examined)
        toy = registry()
        self.session = Session([toy.kernel("scale")], EngineSpec(), 0, Budget(examples=examples), self.events.append, toy)
        self.session.waivers = known
        for name, value in changed.items():
            setattr(self.session, name, value)
        Path("events.jsonl").unlink(missing_ok=True)
        with EventFile(Path("events.jsonl")) as file, Recording(self.session, file, folder=Path("out")) as recording:

            def listen(event: Event) -> None:
                self.events.append(event)
                recording.event(event)

            self.session.listener = listen
            confirming.accompany(self.session)
            self.session.run()
        self.told = recording.summary
        (self.told_later,) = read(Path("events.jsonl")).runs

    @property
    def passes(self) -> list[UnexpectedPass]:
        """What was told of known failures that do not fail."""
        return [event for event in self.events if isinstance(event, UnexpectedPass)]


@pytest.fixture
def play(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Played]:
    """Runs a session."""
    return lambda text, kernel, **changed: Played(ledgers.waivers(text), kernel, monkeypatch, **changed)


Play = Callable[..., Played]


def wide(case: ScaleCase) -> Outcome:
    """A mismatch from 5 columns on."""
    return found("mismatch", case) if case.columns >= 5 else Clean(ratio=0.5)


def gaps(case: ScaleCase) -> Outcome:
    """The same, and a NaN in gaps."""
    return found("nan", case, line="scale.py:31") if case.gap > 1 else wide(case)


def test_tolerated_run(play: Play) -> None:
    """The known failure costs nothing and is counted; the records say the same later."""
    played = play(MISMATCH, wide)

    key = played.session.waivers.entries[0].key
    tally = played.session.tallies["scale"]
    assert played.ran[0] == ScaleCase(columns=5)
    assert (played.session.findings, played.passes, tally.failing) == ({}, [], 0)
    assert (tally.examples, tally.replayed) == (60, 1)
    assert tally.tolerated == {key: tally.judged - tally.clean}
    assert tally.tolerated[key] > 10
    assert not any(event.shrinking for event in played.events if isinstance(event, CaseDone))
    for summary in (played.told, played.told_later):
        assert summary.kernels["scale"].tolerated == tally.tolerated
        assert verdict(summary).code is Exit.CLEAN
        assert closing([summary]).endswith(f"no findings, {tally.tolerated[key]} cases tolerated")


def test_other_defects_stay_findings(play: Play) -> None:
    """Another check of the same kernel is hunted, made minimal and reported."""
    played = play(MISMATCH, gaps)

    (finding,) = played.session.findings.values()
    assert (finding.check, finding.case) == ("nan", ScaleCase(gap=2))
    assert played.session.tallies["scale"].tolerated
    assert verdict(played.told_later).code is Exit.FINDINGS


def test_same_defect_outside_the_condition(play: Play) -> None:
    """Its minimal case stays outside, although a smaller one with the same signature is tolerated."""
    text = MISMATCH.replace("{ min = 5 }", "{ min = 5, max = 9 }")

    played = play(text, wide)

    (finding,) = played.session.findings.values()
    assert finding.case == ScaleCase(columns=10)
    key = played.session.waivers.entries[0].key
    assert played.session.tallies["scale"].tolerated[key] > 0
    assert played.told.hits(finding.signature()) > 0


def test_further_check_on_the_same_case(play: Play) -> None:
    """What fires besides is not forgiven with it."""
    played = play(MISMATCH, lambda case: found("mismatch", case, others=("poison",)) if case.columns >= 12 else wide(case))

    (finding,) = played.session.findings.values()
    assert (finding.others, finding.case) == (("poison",), ScaleCase(columns=12))


def test_unexpected_pass(play: Play) -> None:
    """The case runs first; that it is clean is loud, and told later as well."""
    played = play(MISMATCH, lambda _case: Clean(ratio=0.25))

    key = played.session.waivers.entries[0].key
    how = "is clean, with an error ratio of 0.250"
    assert played.passes == [UnexpectedPass(kernel="scale", entry=key, case=ScaleCase(columns=5), how=how)]
    for summary in (played.told, played.told_later):
        assert verdict(summary).code is Exit.FINDINGS
        (line,) = waived.pass_lines([summary])
        assert line.startswith(
            f"scale: unexpected pass: the case {how}; the known failure does not fail any more: remove the entry"
        )
        assert list(waived.tolerated_lines([summary])) == []
        assert "no findings, 1 unexpected pass" in closing([summary])


@pytest.mark.parametrize("outcome", [Unsupported(reason="r"), found("nan", ScaleCase(columns=5))], ids=["unsupported", "found"])
def test_no_pass(play: Play, outcome: Outcome) -> None:
    """What could not be judged is no pass, and what fails otherwise is a finding."""
    played = play(MISMATCH, lambda case: outcome if case.columns == 5 else wide(case), examples=5)

    assert played.passes == []
    assert [finding.check for finding in played.session.findings.values()] == (["nan"] if isinstance(outcome, Found) else [])


def test_quarantined_cases_never_run(play: Play) -> None:
    """Not drawn, not replayed, not while a finding is made smaller; each is counted."""
    played = play(ROWS, gaps, first=lambda _kernel: [ScaleCase(rows=3), ScaleCase(rows=1)])

    tally, (entry,) = played.session.tallies["scale"], played.session.waivers.entries
    assert played.ran
    assert not any(case.rows in {3, 4} for case in played.ran)
    assert tally.quarantined[entry.key] > 10
    assert (tally.examples, tally.replayed) == (60, 2)
    assert tally.judged + tally.quarantined[entry.key] == 62
    assert {finding.check for finding in played.session.findings.values()} == {"mismatch", "nan"}
    assert f"{tally.quarantined[entry.key]} cases quarantined" in closing([played.told_later])


def test_nothing_left_of_a_kernel(play: Play) -> None:
    """No findings there is no good news."""
    played = play(ROWS.replace("[3, 4]", "{ min = 1 }"), gaps, examples=10)

    assert (played.ran, played.session.unjudged) == ([], ["scale"])
    assert verdict(played.told_later).code is Exit.USAGE


def test_all_is_tolerated(play: Play) -> None:
    """A kernel that was judged, if only to fail as known, proves something."""
    text = MISMATCH.replace("{ min = 5 }", "{ min = 1 }")

    played = play(text, lambda case: found("mismatch", case), examples=10)

    assert played.session.unjudged == []
    assert verdict(played.told_later).code is Exit.CLEAN


@pytest.mark.parametrize(
    ("entry", "changed", "reason"),
    [
        (MISMATCH, {}, None),
        (f'{MISMATCH}targets = ["gfx950"]\n', {}, "it is about gfx950"),
        (MISMATCH.replace("mismatch", "crash"), {}, "without worker processes the check crash would end the run"),
        (MISMATCH.replace("mismatch", "resources"), {}, "nothing is compiled for targets in this run"),
        (MISMATCH.replace("mismatch", "codegen"), {"verdicts": ("gfx942",)}, MACHINE_CODE),
        (MISMATCH.replace("mismatch", "resources"), {"verdicts": ("gfx942",)}, None),
        (f'{MISMATCH}targets = ["sm_90"]\n'.replace("mismatch", "compile"), {"verdicts": ("gfx942",)}, "it is about sm_90"),
    ],
)  # fmt: skip
def test_what_a_run_cannot_tell(play: Play, entry: str, changed: dict[str, Any], reason: str | None) -> None:
    """Then the case is not tried, nothing passes, and the report says why."""
    played = play(entry, lambda _case: Clean(ratio=0.5), examples=5, **changed)

    (told,) = played.told_later.run["waived"]
    assert told["untried"] == reason
    assert len(played.passes) == (reason is None)
    assert (played.ran[0] == ScaleCase(columns=5)) == (reason is None)
    if reason is not None:
        (line,) = waived.tolerated_lines([played.told_later])
        assert line.startswith(f"scale: tolerated: not tried: {reason}, ")


def test_case_that_the_target_does_not_have(play: Play) -> None:
    """It is not run, and that is said."""
    toy = registry()
    toy.ops["scale"] = replace(toy.ops["scale"], within=lambda case, _domain: case.columns < 5)

    played = play(MISMATCH, lambda _case: Clean(ratio=0.5), examples=5, registry=toy)

    assert played.told.run["waived"][0]["untried"] == "its case is none for the kernel on gfx942"
    assert played.passes == []


# Over several runs


def test_sum_of_runs(play: Play) -> None:
    """An entry is said once, with the cases of all runs."""
    first, second = play(MISMATCH + ROWS, wide).told_later, play(ROWS + MISMATCH, wide, examples=30).told_later
    tolerated, quarantined = (
        sum(sum(getattr(run.kernels["scale"], name).values()) for run in (first, second)) for name in ("tolerated", "quarantined")
    )

    (line,), (kept_away,) = waived.tolerated_lines([first, second]), waived.quarantine_lines([first, second])

    assert line.startswith(f"scale: tolerated: {tolerated} cases, mismatch where columns=5..: the tail is summed twice")
    assert line.endswith("(known-failures.toml entry 2, @kernels, until 2027-01-31, 70 days left)")
    assert kept_away.startswith(f"scale: quarantined: {quarantined} cases not run, where rows=3|4: ")


# Compiling besides


class _Fixed:
    """As much of an Examiner as `Judging` needs."""

    def __init__(self, kernel: Kernel) -> None:
        self.kernel = kernel

    def examine(self, _ref: Any, _spec: Any, case: Any, _registry: Any, **_: Any) -> Outcome:
        """What the kernel says."""
        return self.kernel(case)


def fixed(kernel: Kernel) -> Any:
    """An Examiner whose answer is the Case's."""
    return _Fixed(kernel)


def compiled(target: str, case: ScaleCase) -> Found:
    """What a compiler refuses."""
    return Found(finding=refused("scale", EngineSpec(name=COMPILER, target=target), case))


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("", "cpu"),
        (MISMATCH, "gfx942"),
        (MISMATCH + tolerating('targets = ["gfx942"]\nline = "scale.py:29"').replace('"mismatch"', '"resources"'), "gfx950"),
        (MISMATCH + tolerating('line = "scale.py:29"').replace('"mismatch"', '"resources"'), "cpu"),
    ],
    ids=["nothing", "engine", "one-target", "all"],
)
def test_tolerated_hides_no_verdict(text: str, told: str) -> None:
    """What the ledger forgives of the engine, or of one target, keeps nobody else from being asked."""
    known, case = ledgers.waivers(text), ScaleCase(columns=7)
    compilers = {target: fixed(partial(compiled, target)) for target in ("gfx942", "gfx950")}
    judging = Judging(fixed(wide), compilers, known)

    outcome = judging.examine(KernelRef(kernel="scale"), EngineSpec(), case, registry(), shrinking=False, announce=lambda _: None)

    assert isinstance(outcome, Found)
    assert (outcome.finding.target if outcome.finding.engine == COMPILER else outcome.finding.engine) == told
    assert isinstance(known.judged(outcome), Tolerated) == (text.count("[[failure]]") == 2 and told == "cpu")


def test_tolerated_verdict_of_a_clean_case() -> None:
    """It is what is told where nothing else fails."""
    known = ledgers.waivers(tolerating('line = "scale.py:29"').replace('"mismatch"', '"resources"'))
    judging = Judging(fixed(lambda _case: Clean(ratio=0.5)), {"gfx942": fixed(lambda case: compiled("gfx942", case))}, known)

    outcome = judging.examine(
        KernelRef(kernel="scale"), EngineSpec(), ScaleCase(columns=7), registry(), shrinking=False, announce=lambda _: None
    )

    assert isinstance(known.judged(outcome), Tolerated)


# In a survey of targets


def surveyed(text: str, kernel: str = "large", **changed: Any) -> tuple[Bench, surveying.Survey]:
    """A survey with a ledger for this pretended kernel."""
    from pretended_compiler import known as pretended  # noqa: PLC0415 - the name means something else here

    from tridiff.harness.ledger.binding import bound  # noqa: PLC0415 - likewise

    bench, made = Bench(), pretended((kernel, "fits"))
    entries = bound(ledgers.read(text.replace('"scale"', f'"{kernel}"')), made)
    kernels, left_out = entries.split(made.kernels.values())
    for each in left_out:
        del made.kernels[each.name]
    survey = bench.survey(registry=made, waivers=entries, left_out=left_out, **changed)
    assert len(kernels) == len(survey.kernels)
    survey.run()
    return bench, survey


RESOURCES = tolerating(f"when = {{ columns = {{ min = {WIDEST + 1} }} }}", f"{{ columns = {WIDEST + 1} }}").replace(
    '"mismatch"', '"resources"'
)


def test_survey_with_a_tolerated_failure() -> None:
    """It is counted and said, and is no failure; its case comes first."""
    bench, survey = surveyed(RESOURCES, targets=("gfx942",))

    row, (entry,) = survey.rows["large", "gfx942"], survey.waivers.entries
    assert next(case for kernel, _, case, _ in bench.examiners["gfx942"].asked if kernel == "large").columns == WIDEST + 1
    assert survey.failing == []
    assert row.tolerated[entry.key] > 0
    assert row.failing == 0
    assert targets.verdict(survey).code is Exit.CLEAN
    (line,) = targets_text.known(survey)
    assert line.startswith(f"large: tolerated: {row.tolerated[entry.key]} case")
    assert f"no failures, {row.tolerated[entry.key]} case" in targets_text.closing(survey, Path("out"))


def test_survey_of_what_passes() -> None:
    """On gfx950, which has more LDS, the case compiles: the entry is too wide, and that is loud."""
    _, survey = surveyed(RESOURCES, targets=("gfx942", "gfx950"))
    _, narrow = surveyed(RESOURCES.replace("check =", 'targets = ["gfx942"]\ncheck ='), targets=("gfx942", "gfx950"))

    key = survey.waivers.entries[0].key
    assert (survey.rows["large", "gfx942"].passes, survey.rows["large", "gfx950"].passes) == ({}, {key: "compiles"})
    assert targets.verdict(survey).code is Exit.FINDINGS
    assert any("unexpected pass: the case compiles for gfx950; " in line for line in targets_text.known(survey))
    assert targets.verdict(narrow).code is Exit.CLEAN


def test_survey_of_another_failure() -> None:
    """A failure outside the condition is one, and its minimal case stays outside."""
    text = RESOURCES.replace(f"min = {WIDEST + 1}", f"min = {WIDEST + 1}, max = {WIDEST + 1}")

    _, survey = surveyed(text, targets=("gfx942",), quota={"specialisations": 100})

    (failing,) = survey.failing
    assert failing.smallest.finding.case == ScaleCase(columns=WIDEST + 2)
    assert targets.verdict(survey).code is Exit.FINDINGS


def test_survey_without_what_is_quarantined() -> None:
    """Cases are not compiled, kernels left out; both are said."""
    bench, survey = surveyed(ROWS + WHOLE.replace("scale_wrong", "fits"), targets=("gfx942",))

    row, asked = survey.rows["large", "gfx942"], bench.examiners["gfx942"].asked
    cases, whole = targets_text.known(survey)
    assert asked
    assert not any(case.rows in {3, 4} or kernel == "fits" for kernel, _, case, _ in asked)
    count = sum(row.quarantined.values())
    assert count > 0
    assert cases.startswith(f"large: quarantined: {count} case")
    assert whole.startswith("fits: quarantined: not compiled: the tail")
    assert "1 kernel quarantined" in targets_text.closing(survey, Path("out"))
    assert isinstance(bench.examiners["gfx942"], Pretended)
