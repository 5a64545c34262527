"""What the user reads of a survey of targets, word for word; the compiler is a pretended one."""

from __future__ import annotations

import io
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from pretended_compiler import Bench, Pretended, known
from rich.console import Console
from syrupy.assertion import SnapshotAssertion
from toy.strategies.scale import ScaleCase

from tridiff.harness import cli, starting
from tridiff.harness.api import SCHEMA
from tridiff.harness.commands import targets as command
from tridiff.harness.report import targets_document, targets_text
from tridiff.harness.report.targets import TargetsReport, verdict
from tridiff.harness.report.targets_text import CaseFile
from tridiff.harness.report.verdict import Exit
from tridiff.harness.runner import surveying
from tridiff.harness.runner.surveying import Survey

ENVIRONMENT = {"tridiff": {"version": "0.1.0"}, "triton": {"version": "3.7.1"}, "python": "3.11.7"}
FOLDER = Path("out/findings")
TARGETS = ("gfx90a", "gfx942", "gfx950", "sm_86")

CASES = [
    *[ScaleCase(columns=columns) for columns in (1, 2, 3, 5, 9)],
    ScaleCase(factor=-0.5, columns=18),
    *[ScaleCase(columns=columns, gap=3, rows=2) for columns in (16, 17, 20)],
]
"""What is drawn here: other releases of Hypothesis would draw other cases."""
QUOTA = {"specialisations": 100}


def listed(*_: Any, **__: Any) -> Iterator[list[ScaleCase]]:
    """In place of what is drawn."""
    return iter([CASES])


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same on every machine."""
    monkeypatch.setattr(surveying, "batches", listed)
    for module in (targets_text, targets_document):
        monkeypatch.setattr(module, "environment", lambda: ENVIRONMENT)


@pytest.fixture(scope="module")
def surveys() -> dict[bool, Survey]:
    """One with fast verdicts and one with full ones, with everything that is usual."""
    made = {}
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(surveying, "batches", listed)
        for full in (False, True):
            made[full] = Bench().ran("large", "autotuned", "refuses", "aborts", targets=TARGETS, full=full, quota=QUOTA)
            made[full].elapsed = 12.3
    return made


def files(survey: Survey) -> dict[str, CaseFile]:
    """A case file for every failure but the last."""
    found = {each.signature: CaseFile(path=FOLDER / f"{each.signature}.json") for each in survey.failing}
    return found | {survey.failing[-1].signature: CaseFile(unwritten="No space left on device")}


def shown(survey: Survey, width: int) -> str:
    """The whole of it on a plain console of `width` columns."""
    console = Console(file=io.StringIO(), width=width, color_system=None, legacy_windows=False)
    console.print(targets_text.headline(survey), markup=False, soft_wrap=True)
    targets_text.show(console, survey, files(survey), FOLDER)
    output = console.file
    assert isinstance(output, io.StringIO)
    return "\n".join(line.rstrip() for line in output.getvalue().splitlines())


@pytest.mark.parametrize("width", [132, 80])
@pytest.mark.parametrize("full", [False, True], ids=["fast", "full"])
def test_text(surveys: dict[bool, Survey], snapshot: SnapshotAssertion, full: bool, width: int) -> None:
    """The matrix, each failure once, what was refused, and the last line."""
    said = shown(surveys[full], width)

    assert said == snapshot
    table = [line for line in said.splitlines() if line[:1] in "┏┃┡│└"]
    assert max(map(len, table)) <= width
    assert not any("\N{HORIZONTAL ELLIPSIS}" in line for line in table)


def test_document(snapshot: SnapshotAssertion) -> None:
    """All numbers, by placement."""
    survey = Bench().ran("large", "autotuned", "unstaged", targets=("gfx942",), full=True)
    survey.elapsed = 12.3

    assert json.dumps(targets_document.survey_document(survey, files(survey), error="no"), indent=1) == snapshot


@pytest.mark.parametrize(
    ("kernels", "code", "complaint"),
    [
        (("fits",), Exit.CLEAN, None),
        (("fits", "large"), Exit.FINDINGS, None),
        (("fits", "lost"), Exit.HARNESS, r"\d+ cases ended in infrastructure failures"),
        (("large", "lost"), Exit.FINDINGS, None),
        (("fits", "unstaged"), Exit.USAGE, "nothing of unstaged was compiled on any target: the run above says why"),
        (("refuses",), Exit.CLEAN, None),  # on one of two targets
    ],
)
def test_verdict(kernels: tuple[str, ...], code: Exit, complaint: str | None) -> None:
    """What a survey comes to, and why."""
    survey = Bench().ran(*kernels, targets=("gfx942", "sm_86"))

    known = verdict(survey)

    assert known.code is code
    assert (known.complaint is None) == (complaint is None)
    assert complaint is None or re.fullmatch(complaint, known.complaint or "")


def test_verdict_of_what_did_not_begin() -> None:
    """What Ctrl-C left out is no complaint; a kernel of which all was refused is one."""
    survey = Bench().survey("fits")
    survey.interrupted = True

    assert verdict(survey).code is Exit.CLEAN
    assert verdict(Bench().ran("refuses", targets=("sm_86",))).code is Exit.USAGE


@pytest.mark.parametrize("slow", ["gfx90a", "gfx942"])
def test_case_files(tmp_path: Path, slow: str) -> None:
    """A failure has a file as soon as it is seen, which is of the first target that has it, and in the end minimal."""
    seen: list[str] = []
    console = Console(file=io.StringIO(), width=80)
    report = TargetsReport(console, console, tmp_path)

    def listen(event: Any) -> None:
        report.listen(event)
        seen.extend(path.read_text(encoding="utf-8") for path in tmp_path.glob("*.json"))

    survey = Bench().survey("large", targets=("gfx90a", "gfx942"), threads=2, pauses={slow: 0.05}, listener=listen)
    known = report.run(survey)

    (path,) = tmp_path.glob("*.json")
    content = json.loads(path.read_text(encoding="utf-8"))
    assert known.code is Exit.FINDINGS
    assert (content["schema"], content["engine"], content["target"], content["case"]["columns"]) == (
        SCHEMA,
        "compiler",
        "gfx90a",
        17,
    )
    assert json.loads(seen[0])["target"] != slow


def test_error_shows_what_was_found(tmp_path: Path) -> None:
    """As a document, too, which names it."""
    output = io.StringIO()
    report = TargetsReport(Console(file=output, width=200), Console(file=io.StringIO()), tmp_path, as_json=True)

    def fail(target: str) -> Pretended:
        if target == "sm_90":
            raise RuntimeError("no process")
        return Pretended()

    with pytest.raises(RuntimeError, match="no process"):
        report.run(Bench().survey("large", examiner=fail))

    document = json.loads(output.getvalue())
    assert (document["error"], document["findings"][0]["targets"]) == ("no process", ["gfx942"])


# The command


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[Pretended]:
    """The command on toy kernels, in an empty folder; the examiners that it made."""
    made: list[Pretended] = []

    def examiner(*_: Any) -> Pretended:
        made.append(Pretended())
        return made[-1]

    monkeypatch.setattr(starting, "registry", lambda *_: known(("fits", "large")))
    monkeypatch.setattr(command._Workers, "examiner", examiner)
    monkeypatch.chdir(tmp_path)
    return made


def said(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    """Exit code, standard output and standard error of the command."""
    with pytest.raises(SystemExit) as caught:
        cli.main(["targets", *arguments])
    captured = capsys.readouterr()
    return int(str(caught.value.code)), captured.out, captured.err


@pytest.mark.usefixtures("asked")
def test_command(capsys: pytest.CaptureFixture[str], snapshot: SnapshotAssertion) -> None:
    """From the first line to the last."""
    code, out, err = said(capsys, "--target", "gfx942", "--target", "gfx1201", "--max-specialisations", "6", "--seed", "3")

    assert code == Exit.FINDINGS
    assert err == ""
    assert re.sub(r"in \d+ s:", "in # s:", out) == snapshot


def test_command_has_all_targets(capsys: pytest.CaptureFixture[str], asked: list[Pretended]) -> None:
    """Without any named, all that are known; --full and --timeout reach the compiler."""
    code, out, _ = said(capsys, "--kernel", "fits", "--max-specialisations", "1", "--full", "--timeout", "7", "--json")

    document = json.loads(out)
    assert code == Exit.CLEAN
    assert len(document["targets"]) == len(document["rows"]) == len(asked) == 12
    assert (document["full"], document["budget"]) == (True, {"specialisations": 1, "seconds": None})
    assert {(spec.full, spec.max_seconds) for examiner in asked for _, spec, _, _ in examiner.asked} == {(True, 7.0)}


@pytest.mark.usefixtures("asked")
@pytest.mark.parametrize(
    "arguments",
    [
        ("--target", "gfx943"),
        ("--kernel", "fitz"),
        ("--max-specialisations", "5", "--seconds", "5"),
        ("--max-specialisations", "0"),
        ("--out", "/dev/null/x"),
    ],
    ids=" ".join,
)
def test_error_line(capsys: pytest.CaptureFixture[str], snapshot: SnapshotAssertion, arguments: tuple[str, ...]) -> None:
    """The one line that says what is wrong and what to do."""
    code, out, err = said(capsys, *arguments)

    assert (code, out) == (Exit.USAGE, "")
    assert err == snapshot
