"""What the user reads of mutants, word for word; the Cases are given, and run in this process."""

from __future__ import annotations

import json
import re
from typing import Any

import mutated_kernels
import pytest
from syrupy.assertion import SnapshotAssertion
from toy.strategies.scale import ScaleCase

from tridiff.harness import cli, starting
from tridiff.harness.report.mutants import verdict
from tridiff.harness.report.verdict import Exit
from tridiff.harness.runner import mutating
from tridiff.harness.runner.crew import Crew

CASES = [ScaleCase(), ScaleCase(rows=2, columns=5, gap=1, factor=2.0), ScaleCase(columns=8, factor=-0.5)]
ONLY = ("--only", "alter_other", "--only", "drop_update", "--only", "drop_factor", "--only", "change_axis")
FEW = ("--only", "alter_other", "--only", "drop_store")


@pytest.fixture(autouse=True)
def _toy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(starting, "registry", lambda *_: mutated_kernels.registry())
    monkeypatch.setattr(mutating, "batches", lambda *_, **__: iter([CASES]))


def said(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    """Exit code, standard output and standard error of the command."""
    with pytest.raises(SystemExit) as caught:
        cli.main(["mutate", "--no-isolation", *arguments])
    captured = capsys.readouterr()
    return int(str(caught.value.code)), captured.out, captured.err


def scrubbed(output: str) -> str:
    """Without times and the version of Triton."""
    return re.sub(r"in \d+ s;", "in # s;", re.sub(r"Triton [^,]+,", "Triton #,", output))


def test_command(capsys: pytest.CaptureFixture[str], snapshot: SnapshotAssertion) -> None:
    """From the first line to the last: a low score is no failure unless somebody asks for more."""
    code, out, err = said(capsys, "--kernel", "guarded", *ONLY)

    assert (code, err) == (Exit.CLEAN, "")
    assert scrubbed(out) == snapshot


@pytest.mark.parametrize(("least", "expected"), [("66", Exit.CLEAN), ("67", Exit.FINDINGS)])
def test_least_score(capsys: pytest.CaptureFixture[str], least: str, expected: Exit) -> None:
    """Below the score asked for, a line says so."""
    code, out, err = said(capsys, "--kernel", "guarded", *FEW, "--min-score", least)

    assert "2 of 3 mutants killed (66.7 %)" in out
    assert code == expected
    assert err == (
        "" if expected is Exit.CLEAN else "tridiff: below --min-score 67, or not known to reach it: guarded (66.7 %)\n"
    )


def test_document(capsys: pytest.CaptureFixture[str], snapshot: SnapshotAssertion) -> None:
    """Everything in numbers, each mutant with its lines."""
    code, out, err = said(capsys, "--kernel", "guarded", *FEW, "--json")

    document: dict[str, Any] = json.loads(out)
    assert (code, err) == (Exit.CLEAN, "")
    assert document.pop("environment")["triton"]["version"] == document.pop("triton")
    assert document.pop("tridiff")
    assert document["kernels"][0].pop("seconds") > 0
    assert document == snapshot


def test_document_of_a_run_that_failed(capsys: pytest.CaptureFixture[str]) -> None:
    """Says what ended it, and what is known of the kernels before."""
    code, out, err = said(capsys, "--kernel", "guarded", "--kernel", "made", "--only", "drop_store", "--json")

    document = json.loads(out)
    assert code == Exit.USAGE
    assert document["error"] in err
    assert [kernel["tried"] for kernel in document["kernels"]] == [2, 0]


def test_a_sample(capsys: pytest.CaptureFixture[str]) -> None:
    """Says of how many mutants it is."""
    _, out, _ = said(capsys, "--kernel", "guarded", *FEW, "--max-mutants", "1")

    assert "guarded: 1 of 3 mutants were tried (a sample that depends on the seed alone)\n" in out


def test_interrupted(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """Ctrl-C shows what is known; it is no proof of a score, nor is another kernel begun."""
    done = iter(range(3))

    def check(_crew: Any) -> None:
        if next(done, None) is None:
            raise KeyboardInterrupt

    monkeypatch.setattr(Crew, "check", check)

    code, out, err = said(capsys, "--kernel", "guarded", "--kernel", "made", "--min-score", "0")

    assert code == Exit.FINDINGS
    assert "guarded: interrupted before a mutant was tried\n" in out
    assert "mutating made" not in out
    assert "guarded (no score)" in err


def test_verdict_without_a_wish() -> None:
    """Nobody asked for a score: whatever it is, the command did what it was to do."""
    assert verdict([], None).code is Exit.CLEAN


@pytest.mark.parametrize(
    "arguments",
    [
        ("--only", "dropmask"),
        ("--kernel", "garded"),
        ("--workers", "2"),
        ("--min-score", "101"),
        ("--max-mutants", "0"),
        ("--seconds", "inf"),
        ("--target", "gfx943"),
        ("--kernel", "scale_wrong", "--max-examples", "1", "--only", "narrow_integer"),
    ],
    ids=" ".join,
)
def test_error_line(capsys: pytest.CaptureFixture[str], snapshot: SnapshotAssertion, arguments: tuple[str, ...]) -> None:
    """The one line that says what is wrong and what to do."""
    code, _, err = said(capsys, *arguments)

    assert code == Exit.USAGE
    assert err == snapshot
