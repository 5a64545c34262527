"""What the user reads, word for word.

After a change on purpose: `pytest tests/snapshots --snapshot-update`, and read the diff.
"""

from __future__ import annotations

import importlib.metadata
import io
import json
import re
from collections.abc import Callable
from pathlib import Path
from xml.dom import minidom

import pytest
import recorded
from rich.console import Console, RenderableType
from syrupy.assertion import SnapshotAssertion
from toy.family import registry
from toy.strategies.scale import ScaleCase

from tridiff.harness import cli
from tridiff.harness import registry as registries
from tridiff.harness.api import Finding
from tridiff.harness.engines.spec import EngineSpec
from tridiff.harness.report import document, junit, markdown, recording, run_document, run_text, text
from tridiff.harness.report.summary import Summary
from tridiff.harness.runner.prove import Proof

WIDTH = 120
TYPER = "0.29.2"
"""The release that laid out the help in the snapshots."""

FINDING = Finding(
    check="bounds",
    message="load from x out of bounds: 1 element past the end of x, by program (1, 0, 0)",
    line="scale.py:29",
    op="scale",
    kernel="scale",
    engine="cpu",
    target="gfx942",
    case=ScaleCase(rows=2, columns=3, factor=-0.5),
    subject="load from x",
)
SILENT = Finding(
    check="mismatch",
    message="out[0, 0] is 2, expected 1: 32 times the error bound 0.0312",
    line=None,
    op="scale",
    kernel="scale_wrong",
    engine="cpu",
    target="gfx1201",
    case=ScaleCase(),
    others=("poison", "poison"),
)
MANY = recorded.folded(
    [
        recorded.run("scale", "scale_wrong"),
        *[recorded.case(specialisations=["a", "b"], ratio=0.98765)] * 1123,
        *[recorded.case(conclusive=False)] * 60,
        *[recorded.case("found", signature=FINDING.signature())] * 10,
        *[recorded.case("skipped", reason="no address space for x: 9.0 GiB of torch.float32")] * 3,
        *[recorded.case("unsupported")] * 4,
        *[recorded.case(kind="shrinking")] * 300,
        recorded.finding(FINDING, file="out/findings/x.json", reproduce="tridiff repro out/findings/x.json", unwritten=None),
        *[recorded.case("found", kernel="scale_wrong", signature=SILENT.signature(), specialisations=[])] * 7,
        recorded.finding(SILENT),
        recorded.end(seconds=60.0),
    ]
)
"""A run with everything that is usual."""
TROUBLED = recorded.folded(
    [
        recorded.run("scale", "scale_wrong", shard="2/4"),
        *[recorded.case(kind="replayed")] * 3,
        *[recorded.case(ratio=0.25)] * 5,
        recorded.death(),
        recorded.death(confirming=True),
        recorded.case("infrastructure", reason="the process died of SIGSEGV", tail=["first\x1b[31m line", "last | ``` line"]),
        recorded.case("found", kernel="scale_wrong", signature=SILENT.signature()),
        recorded.finding(SILENT, stage="seen", shrunk=None),
    ]
)
"""A run that was killed while it shrank a finding, after the machine had failed it once."""


def shown(renderable: RenderableType, width: int = WIDTH) -> str:
    """The renderable on a plain console of `width` columns, without the blanks that fill its lines."""
    console = Console(file=io.StringIO(), width=width, color_system=None, legacy_windows=False)
    console.print(renderable, soft_wrap=not hasattr(renderable, "columns"))
    output = console.file
    assert isinstance(output, io.StringIO)
    return "\n".join(line.rstrip() for line in output.getvalue().splitlines())


def scrubbed(output: str) -> str:
    """Times, and what another release of Hypothesis may change, by placeholders; the table keeps its form."""
    output = re.sub(r"in \d+ s:", "in # s:", output)
    output = re.sub(r"hits: \d+", "hits: #", output)
    output = re.sub(r'"(seconds|shrink_runs|clean|failing|specialisations|hits|worst_ratio)": [\d.]+', r'"\1": #', output)
    return re.sub(r"(│ +\d+ │) +\d+\.\d │ +\d+ │ +\d\.\d{3} │", r"\1     #.# │     # │       #.### │", output)


Read = Callable[..., str]


@pytest.fixture
def read(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Read:
    """Runs a command on the toy family, in an empty folder, and gives what it printed: standard output, then standard error."""
    known = registry()
    known.faults["scale"] = known.faults["scale"][:2]
    monkeypatch.setattr(registries, "builtin", lambda: known)
    monkeypatch.setattr(recording, "environment", lambda: recorded.ENVIRONMENT)
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.chdir(tmp_path)

    def run(*arguments: str) -> str:
        with pytest.raises(SystemExit):
            cli.main([*arguments, *(["--no-isolation"] if arguments[0] in {"fuzz", "prove", "repro"} else [])])
        captured = capsys.readouterr()
        return scrubbed(captured.out + captured.err)

    return run


def test_finding(snapshot: SnapshotAssertion) -> None:
    """A finding with everything that one can have."""
    assert shown(text.finding_text(FINDING, file=Path("out/findings/x.json"), hits=10)) == snapshot


def test_finding_that_is_not_fully_shrunk(snapshot: SnapshotAssertion) -> None:
    """A finding without line, file or further hits, whose case is the default one, and which ran out of time."""
    assert shown(text.finding_text(SILENT, file=None, shrunk=False)) == snapshot


def test_fuzz_table(snapshot: SnapshotAssertion) -> None:
    """The closing table, and why cases were not judged."""
    reasons = {name: counts.reasons for name, counts in MANY.kernels.items()}

    assert "\n".join([shown(run_text.fuzz_table([MANY])), *run_text.reasons_text(reasons)]) == snapshot


def test_fuzz_table_in_a_narrow_terminal() -> None:
    """At 80 columns some columns are left out, and no heading or number is cut."""
    said = shown(run_text.fitting_table(Console(width=80), [MANY]), 80)

    assert "\u2026" not in said
    assert max(map(len, said.splitlines())) <= 80
    for heading in ("kernel", "cases", "worst", "inconcl.", "judged", "findings"):
        assert heading in said


def test_speed_is_of_the_time_that_a_kernel_had() -> None:
    """What the other kernels of the run took does not make it slower."""
    cases = [recorded.case(seconds=1.0), recorded.case(seconds=2.0), recorded.case(kernel="scale_wrong", seconds=42.0)]
    run = recorded.folded([recorded.run("scale", "scale_wrong", "late"), *cases, recorded.end(seconds=60.0)])

    assert [run_text.speed(counts) for counts in run.kernels.values()] == [1.0, 0.025, 0.0]


def test_names_of_kernels_are_not_folded() -> None:
    """The Op, which the kernel implies, is left out where a name would otherwise be folded, and only there."""
    name = "their_" + "long_" * 10 + "name"
    run = recorded.folded([recorded.run(name), recorded.case(kernel=name), recorded.end(seconds=1.0)])

    wide, narrower = (shown(run_text.fitting_table(Console(width=width), [run]), width) for width in (150, 140))

    assert all(name in said and "cases/s" in said for said in (wide, narrower))
    assert ("\u2503 op " in wide, "\u2503 op " in narrower) == (True, False)


@pytest.mark.parametrize(
    ("columns", "shown_columns"), [(80, ["op", "from", "module"]), (60, ["op", "from"]), (45, ["op"]), (36, [])]
)
def test_list_in_a_narrow_terminal(columns: int, shown_columns: list[str]) -> None:
    """Names of kernels are whole in any terminal that has room for them; what is least needed goes first."""
    known = registry()

    said = shown(text.fitting_list(Console(width=columns), known, known.kernels.values(), {}), columns)

    assert max(map(len, said.splitlines())) <= columns
    assert all(name in said for name in known.kernels)
    assert [heading for heading in ("op", "from", "module") if f" {heading} " in said.splitlines()[1]] == shown_columns


@pytest.mark.parametrize("runs", [[MANY], [TROUBLED], [MANY, TROUBLED]], ids=["many", "troubled", "both"])
def test_forms_of_a_run(snapshot: SnapshotAssertion, runs: list[Summary]) -> None:
    """A usual run, one that was killed, and their sum: as text, as a document, as JUnit XML and as Markdown."""
    console = Console(file=io.StringIO(), width=WIDTH, color_system=None, legacy_windows=False)

    run_text.show(console, runs)

    output = console.file
    assert isinstance(output, io.StringIO)
    assert f"{run_text.headline(runs)}\n{output.getvalue()}" == snapshot(name="text")
    assert json.dumps(run_document.runs_document(runs), indent=2) == snapshot(name="json")
    assert minidom.parseString(junit.junit(runs)).toprettyxml(indent=" ") == snapshot(name="junit")  # noqa: S318 - ours
    assert markdown.markdown(runs) == snapshot(name="markdown")


def test_prove_table(snapshot: SnapshotAssertion) -> None:
    """A fault that was caught, one whose case is not fully shrunk, and one that was missed."""
    faults = registry().faults["scale"]
    proofs = [
        Proof(fault=faults[3], finding=FINDING, examples=12, strays=0),
        Proof(fault=faults[7], finding=SILENT, examples=1, strays=2, shrunk=False),
        Proof(fault=faults[9], finding=None, examples=200, strays=0),
    ]

    assert shown(text.prove_table(proofs)) == snapshot
    assert json.dumps(document.prove_document(proofs, EngineSpec(), 7, 200, interrupted=True), indent=2) == snapshot(name="json")


def test_clean_run(read: Read, snapshot: SnapshotAssertion) -> None:
    """A run without findings, from the first line to the last."""
    assert read("fuzz", "--kernel", "scale", "--max-examples", "20") == snapshot


def test_run_with_a_finding(read: Read, snapshot: SnapshotAssertion) -> None:
    """A run with a finding, from the first line to the last, and the same as a document."""
    assert read("fuzz", "--max-examples", "20") == snapshot
    assert read("fuzz", "--max-examples", "20", "--json") == snapshot(name="json")


def test_prove(read: Read, snapshot: SnapshotAssertion) -> None:
    """Faults that are all caught."""
    assert read("prove", "--kernel", "scale", "--max-examples", "20") == snapshot


def test_list(read: Read, snapshot: SnapshotAssertion) -> None:
    """What there is, as text and as a document."""
    assert read("list") == snapshot
    assert read("list", "--json") == snapshot(name="json")


@pytest.mark.parametrize(
    "arguments",
    [
        ("fuzz", "--kernel", "scael"),
        ("fuzz", "--op", "attention"),
        ("fuzz", "--engine", "gpu"),
        ("fuzz", "--target", "gfx943"),
        ("fuzz", "--out", "/dev/null/x"),
        ("fuzz", "--junit", "/dev/null/x.xml"),
        ("fuzz", "--markdown", "/dev/null/x.md"),
        ("repro", "none.json"),
        ("report", "none.jsonl"),
    ],
    ids=" ".join,
)
def test_error_line(read: Read, snapshot: SnapshotAssertion, arguments: tuple[str, ...]) -> None:
    """The one line that says what is wrong and what to do."""
    assert read(*arguments) == snapshot


@pytest.mark.skipif(importlib.metadata.version("typer") != TYPER, reason=f"the help was laid out by typer {TYPER}")
@pytest.mark.parametrize("command", ["", "fuzz", "targets", "report", "prove", "repro", "cases", "waived", "list", "doctor"])
def test_help(read: Read, snapshot: SnapshotAssertion, command: str) -> None:
    """The help of every command, on a terminal of 80 columns."""
    output = read(*command.split(), "--help")

    assert (
        re.sub(r"^Usage: .*? (?=\[OPTIONS\]|fuzz|targets|report|prove|repro|cases|waived|list|doctor)", "Usage: tridiff ", output)
        == snapshot
    )
