"""`tridiff report`: the same again from the file of events, wherever it is read; and the rule of the exit codes."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import recorded
from junitparser import Error, Failure, JUnitXml, Skipped
from toy.family import registry
from toy.strategies.scale import ScaleCase

from tridiff.harness import cli
from tridiff.harness import registry as registries
from tridiff.harness.api import Clean, Finding, Infrastructure, Outcome, Unsupported
from tridiff.harness.report import outputs
from tridiff.harness.report.eventfile import EventFile
from tridiff.harness.report.figures import ratio
from tridiff.harness.report.junit import junit
from tridiff.harness.report.markdown import MOST_FINDINGS, markdown
from tridiff.harness.report.run_text import finding_block, printable
from tridiff.harness.report.summary import Summary
from tridiff.harness.report.verdict import Exit, verdict, verdict_of
from tridiff.harness.runner import campaign

FINDING = Finding(
    check="bounds",
    message="load from x_1[0] | <b>out</b> of bounds",
    line="scale.py:29",
    op="scale",
    kernel="scale",
    engine="cpu",
    target="gfx942",
    case=ScaleCase(rows=2),
)
KILLED = "the run did not come to its end: it was killed, or is still going on"


@dataclass(frozen=True)
class Result:
    """What a command left behind."""

    code: int
    out: str
    err: str


Invoke = Callable[..., Result]


@pytest.fixture
def invoke(capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Invoke:
    """Runs a command on the toy family, in an empty folder."""
    monkeypatch.setattr(registries, "builtin", registry)
    monkeypatch.chdir(tmp_path)

    def run(*arguments: object) -> Result:
        with pytest.raises(SystemExit) as left:
            cli.main([*map(str, arguments), *(["--no-isolation"] if arguments[0] == "fuzz" else [])])
        captured = capsys.readouterr()
        assert isinstance(left.value.code, int)
        return Result(left.value.code, captured.out, captured.err)

    return run


def kept(*records: dict[str, Any]) -> Path:
    """A file of `records`."""
    path = Path("events.jsonl")
    with EventFile(path) as file:
        for record in records:
            file.write(record)
    return path


def examined(*outcomes: Outcome) -> Callable[..., Outcome]:
    """Stand in for examinations, with these outcomes; the last one stays."""
    left = iter(outcomes)

    def examine(*_: object) -> Outcome:
        return next(left, outcomes[-1])

    return examine


# The same again


@pytest.mark.parametrize("form", [(), ("--json",)], ids=["text", "json"])
def test_report_says_what_the_run_said(invoke: Invoke, form: tuple[str, ...]) -> None:
    """Text, document, JUnit XML, Markdown and exit code of a run with a finding are those that its events give."""
    files = ("--junit", "a/run.xml", "--markdown", "a/run.md")
    live = invoke("fuzz", "--max-examples", 20, *files, *form)
    written = [Path(name).read_text(encoding="utf-8") for name in files[1::2]]

    again = invoke("report", "tridiff-out/events.jsonl", *files, *form)

    assert again == live
    assert live.code == Exit.FINDINGS
    assert [Path(name).read_text(encoding="utf-8") for name in files[1::2]] == written
    assert "FINDING scale-mismatch-" in live.out or "--json" in form
    assert "tridiff repro tridiff-out/findings/scale-mismatch-" in written[0]
    assert "tridiff repro tridiff-out/findings/scale-mismatch-" in written[1]


LOST = Infrastructure(reason="the process died of SIGSEGV", tail=("segmentation fault",))


@pytest.mark.parametrize(
    ("outcomes", "code", "complaint"),
    [
        ([Clean(ratio=0.5)], Exit.CLEAN, ""),
        ([LOST, Clean(ratio=0.5)], Exit.HARNESS, "1 case ended in infrastructure failures"),
        ([LOST], Exit.HARNESS, "5 cases ended in infrastructure failures"),
        ([Unsupported(reason="tt.scan")], Exit.USAGE, "no case of scale could be judged: the run above says why"),
    ],
)
def test_run_without_findings(
    invoke: Invoke, monkeypatch: pytest.MonkeyPatch, outcomes: list[Outcome], code: Exit, complaint: str
) -> None:
    """What proves nothing is no success; one line says why, during the run and later."""
    monkeypatch.setattr(campaign, "examine", examined(*outcomes))

    live = invoke("fuzz", "--kernel", "scale", "--max-examples", 5)

    assert (live.code, live.err) == (code, f"tridiff: {complaint}\n" if complaint else "")
    assert ("INFRASTRUCTURE scale\n" in live.out) is (LOST in outcomes)
    assert ("  last words: segmentation fault\n" in live.out) is (LOST in outcomes)
    assert invoke("report", "tridiff-out/events.jsonl") == live


def test_run_that_failed(invoke: Invoke, monkeypatch: pytest.MonkeyPatch) -> None:
    """A defect of tridiff ends the run with its code, and the report repeats both."""
    monkeypatch.setattr(campaign, "examine", lambda *_: 1 // 0)
    live = invoke("fuzz", "--kernel", "scale", "--max-examples", 5)

    again = invoke("report", "tridiff-out/events.jsonl")

    assert again.code == live.code == Exit.HARNESS
    assert again.out == live.out
    assert again.err.startswith("tridiff: the run failed: tridiff failed on ScaleCase(")
    assert "\nfailed: 0 cases in " in again.out


def test_run_that_was_killed(invoke: Invoke) -> None:
    """Without its last record a run is said to have been killed; what it found is shown, and nothing else is a success."""
    start = [recorded.run(), recorded.case()]
    torn = kept(*start).read_bytes()[:-20]
    without = invoke("report", "events.jsonl")
    Path("events.jsonl").write_bytes(torn)
    cut = invoke("report", "events.jsonl")
    Path("events.jsonl").unlink()
    kept(*start, recorded.finding(FINDING, stage="seen", shrunk=None))
    found = invoke("report", "events.jsonl")

    assert (without.code, without.err) == (Exit.HARNESS, f"tridiff: {KILLED}\n")
    assert "\nkilled, or still going on: 1 case in 1 s: no findings\n" in without.out
    assert cut.err == f"tridiff: events.jsonl: the last line is not whole, and was left out\ntridiff: {KILLED}\n"
    assert "killed, or still going on: 0 cases in 0 s" in cut.out
    assert (found.code, found.err) == (Exit.FINDINGS, "")
    assert "  case as drawn, not shrunk (the run ended first): rows=2\n" in found.out


def test_malformed_file(invoke: Invoke) -> None:
    """One line with file and line number; exit 2; nothing on standard output."""
    kept(recorded.run(), recorded.case(kind="dealt"))

    result = invoke("report", "events.jsonl")

    assert result == Result(Exit.USAGE, "", "tridiff: events.jsonl:2: kind='dealt': must be one of drawn, replayed, shrinking\n")


def test_sum_of_several_files(invoke: Invoke) -> None:
    """The shards of a run are shown as one, findings once; the document lists them all."""
    shards = []
    for number in (1, 2):
        hit = recorded.case("found", signature=FINDING.signature())
        kept(recorded.run(shard=f"{number}/2", seed=number), recorded.case(), hit, recorded.finding(FINDING), recorded.end())
        shards.append(Path("events.jsonl").rename(f"events-{number}.jsonl"))

    text, document = invoke("report", *shards), json.loads(invoke("report", *shards, "--json").out)

    assert text.out.startswith("2 runs: fuzzing scale on engine cpu, target gfx942, seed 1, 2\n")
    assert text.out.count("FINDING ") == 1
    assert "  hits: 2 drawn cases\n" in text.out
    assert "\n4 cases in 18 s: 1 finding, case files in out/findings\n" in text.out
    assert [run["shard"] for run in document["runs"]] == ["1/2", "2/2"]


PRELUDE = """
import sys
class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {"torch", "triton", "numpy", "hypothesis"}:
            raise ModuleNotFoundError(name)
sys.meta_path.insert(0, Blocker())
from tridiff.harness.cli import main
main(sys.argv[1:])
"""


def test_report_needs_no_torch(invoke: Invoke) -> None:
    """A job that collects results reads them without torch, Triton and the kernels, in every form."""
    assert invoke("list").code == Exit.CLEAN
    path = kept(recorded.run(), recorded.case(), recorded.finding(FINDING), recorded.end())
    command = [sys.executable, "-c", PRELUDE, "report", str(path), "--junit", "run.xml", "--markdown", "run.md"]

    done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=60)

    assert (done.returncode, done.stderr) == (Exit.FINDINGS, "")
    assert "FINDING scale-bounds-" in done.stdout
    assert Path("run.xml").stat().st_size > 0
    assert Path("run.md").stat().st_size > 0


# Exit codes


def run_of(*records: dict[str, Any]) -> Summary:
    """The sum of a run that came to its end, unless the records say otherwise."""
    return recorded.folded([recorded.run("scale", "scale_wrong"), *records])


UNJUDGED = recorded.case("unsupported")
DIED = recorded.case("infrastructure")
FOUND = recorded.finding(FINDING)
END = recorded.end()
FAILED = recorded.end(exit=3, error="out of ideas")
MISUSED = recorded.end(exit=2, error="the strategy is wrong")


@pytest.mark.parametrize(
    ("records", "code", "complaint"),
    [
        ([END], Exit.CLEAN, None),
        ([recorded.case(), END], Exit.CLEAN, None),
        ([recorded.case(), UNJUDGED, END], Exit.CLEAN, None),
        ([recorded.case("found"), END], Exit.CLEAN, None),
        ([FOUND, DIED, UNJUDGED, END], Exit.FINDINGS, None),
        ([FOUND], Exit.FINDINGS, None),
        ([recorded.case(), DIED, DIED, END], Exit.HARNESS, "2 cases ended in infrastructure failures"),
        ([recorded.case(kind="shrinking", outcome="infrastructure", reason="r", tail=[]), END], Exit.CLEAN, None),
        ([recorded.case()], Exit.HARNESS, KILLED),
        ([UNJUDGED, END], Exit.USAGE, "no case of scale could be judged: the run above says why"),
        ([FAILED], Exit.HARNESS, "the run failed: out of ideas"),
        ([FOUND, MISUSED], Exit.USAGE, "the run failed: the strategy is wrong"),
        ([recorded.case(), recorded.end(interrupted=True)], Exit.CLEAN, None),
    ],
)
def test_verdict(records: list[dict[str, Any]], code: Exit, complaint: str | None) -> None:
    """Findings are 1; without any, infrastructure failures and a run cut off are 3, and nothing judged is 2."""
    known = verdict(run_of(*records))

    assert (known.code, known.complaint) == (code, complaint)


@pytest.mark.parametrize(
    ("runs", "code"),
    [
        ([[END], [END]], Exit.CLEAN),
        ([[END], [UNJUDGED, END]], Exit.USAGE),
        ([[UNJUDGED, END], [DIED, END], [END]], Exit.HARNESS),
        ([[FAILED], [END], [FOUND, END]], Exit.FINDINGS),
    ],
)
def test_verdict_of_several(runs: list[list[dict[str, Any]]], code: Exit) -> None:
    """Findings of one run come before the failure of another, and either before success."""
    assert verdict_of([run_of(*records) for records in runs]).code == code


# Forms


def results(run: Summary) -> Iterator[tuple[str, list[type]]]:
    """The names of the test cases in JUnit XML, each with the kinds of its results; read as CI systems do."""
    for suite in JUnitXml.fromstring(junit([run])):
        for test in suite:
            yield test.name, [type(result) for result in test.result]


@pytest.mark.parametrize(
    ("records", "expected"),
    [
        ([recorded.case(), END], [[], []]),
        ([FOUND, recorded.finding(FINDING, signature="another"), END], [[Failure, Failure], []]),
        ([FOUND, DIED, END], [[Failure, Error], []]),
        ([UNJUDGED, END], [[Skipped], []]),
        ([UNJUDGED, recorded.case(), END], [[], []]),
        ([recorded.case(), recorded.case(kernel="scale_wrong")], [[], [Error]]),
        ([UNJUDGED], [[Error], []]),
        ([FAILED], [[Error], []]),
    ],
)
def test_junit_results(records: list[dict[str, Any]], expected: list[list[type]]) -> None:
    """Findings are failures, infrastructure and what ended a run early are errors, a kernel that was not judged is skipped."""
    known = dict(results(run_of(*records)))

    assert known == {"scale": expected[0], "scale_wrong": expected[1]}


def test_junit_of_a_shard() -> None:
    """The test cases of shards differ in name, so that no system takes one for a repetition of another."""
    run = recorded.folded([recorded.run(shard="2/4"), END])

    assert dict(results(run)) == {"scale[2/4]": []}


def test_words_of_a_dead_process() -> None:
    """Bytes that XML cannot hold, terminal sequences and fences of Markdown do no harm."""
    tail = ["\x00\x1b[2J\ud800\ufffe", "````", "</failure>]]>"]
    run = run_of(recorded.case("infrastructure", tail=tail), END)

    (suite,) = JUnitXml.fromstring(junit([run]))
    text = markdown([run])

    (error,) = next(iter(suite)).result
    assert error.text.splitlines() == ["\ufffd\ufffd[2J\ufffd\ufffd", "````", "</failure>]]>"]
    assert text.count("\n`````\n") == 2
    assert printable("a\tb\x1b[31m\n\u00e9") == "a\ufffdb\ufffd[31m\n\u00e9"
    assert text.encode()


def test_markdown_is_escaped() -> None:
    """Names and messages are shown as they are: no cell, tag, link or heading begins in them."""
    run = recorded.folded([recorded.run(folder="a|b_c<d>"), recorded.case("skipped", reason="[x](y) `z` *w*"), FOUND, END])

    text = markdown([run])

    assert r"case files in a\|b\_c\<d\>" in text
    assert r"not judged: \[x\](y) \`z\` \*w\*" in text
    assert "\nload from x_1[0] | <b>out</b> of bounds\n" in text  # inside a block of code


def test_markdown_says_what_the_cases_were() -> None:
    """Folded away, the most frequent word first; of several runs the sum."""
    run = run_of(recorded.distribution(layout_class={"a|b": 1, "packed": 2}), END)

    text = markdown([run, run])

    assert "<details><summary>cases of scale</summary>\n\n| property | cases |\n|---|---|\n" in text
    assert "\n| layout\\_class | packed: 4, a\\|b: 2 |\n\n</details>\n" in text
    assert "cases of scale" not in markdown([run_of(END)])


def test_markdown_stays_below_githubs_limit() -> None:
    """1 MiB is the most that GitHub shows of a step; what is left out is counted."""
    many = [recorded.finding(FINDING, signature=f"s{number}") for number in range(MOST_FINDINGS + 7)]
    for record in many:
        record["repro"] = {**record["repro"], "message": "x" * 30_000}
        record["differing"] = {"model": "y" * 30_000}

    text = markdown([run_of(*many, END)])

    assert len(text.encode()) < 2**20
    assert "\nand 7 more findings, see the events\n" in text


def test_case_files_that_cannot_be_written(invoke: Invoke, monkeypatch: pytest.MonkeyPatch) -> None:
    """The run goes on, the finding says why it has no file, and the record holds the case."""
    from tridiff.harness import repro  # noqa: PLC0415 - the name is the command's, above

    def full(*_: object) -> Path:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(repro, "write", full)

    result = invoke("fuzz", "--kernel", "scale_wrong", "--max-examples", 20)

    records = [json.loads(line) for line in Path("tridiff-out/events.jsonl").read_text(encoding="utf-8").splitlines()]
    (minimal,) = [record for record in records if record.get("stage") == "minimal"]
    assert result.code == Exit.FINDINGS
    assert "  no case file: No space left on device\n" in result.out
    assert minimal["repro"]["case"]["columns"] == 2
    assert re.search(r"\n20 cases in \d+ s: 1 finding, ", result.out)


def test_events_that_cannot_be_written(invoke: Invoke, monkeypatch: pytest.MonkeyPatch) -> None:
    """A disk that is full for the records costs one line at the end, and neither the run nor its verdict."""

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(EventFile, "_append", full)

    result = invoke("fuzz", "--kernel", "scale", "--max-examples", 5)

    message = "tridiff: tridiff-out/events.jsonl is incomplete: 8 records could not be written: No space left on device\n"
    assert (result.code, result.err) == (Exit.CLEAN, message)
    assert "\n5 cases in " in result.out


def test_output_that_cannot_be_written_in_the_end(invoke: Invoke, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file that was asked for and is missing is an error, but hides no finding."""

    def full(_runs: object) -> bytes:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(outputs, "junit", full)
    live = invoke("fuzz", "--kernel", "scale", "--max-examples", 2, "--junit", "x.xml")
    clean = invoke("report", "tridiff-out/events.jsonl", "--junit", "x.xml")
    kept(recorded.run(), FOUND, END)

    found = invoke("report", "events.jsonl", "--junit", "x.xml")

    line = "tridiff: --junit x.xml: could not be written: No space left on device\n"
    assert (live.code, live.err) == (Exit.USAGE, line)
    assert (clean.code, clean.err) == (Exit.USAGE, line)
    assert (found.code, found.err) == (Exit.FINDINGS, line)


def test_finding_without_a_file_has_no_command() -> None:
    """What could not be written cannot be run again by name."""
    text = finding_block(recorded.finding(FINDING), hits=1).plain

    assert "reproduce" not in text
    assert text.endswith("  no case file: No space left on device\n")


@pytest.mark.parametrize(
    ("value", "shown"), [(0.0, "0.000"), (0.5, "0.500"), (0.99961, "0.999"), (1.0, "1.000"), (1.0004, "1.000"), (7.25, "7.250")]
)
def test_ratio_is_not_rounded_up_to_a_finding(value: float, shown: str) -> None:
    """Below the bound is below 1, as it is read."""
    assert ratio(value) == shown
