"""What the user reads of known failures, word for word.

After a change on purpose: `pytest tests/snapshots --snapshot-update`, and read the diff.
"""

from __future__ import annotations

import io
import json
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from xml.dom import minidom

import pytest
import recorded
from ledgers import NOW, ROWS, WHO
from rich.console import Console
from syrupy.assertion import SnapshotAssertion
from toy.family import registry
from toy.strategies.scale import ScaleCase

from tridiff.harness import cli
from tridiff.harness import registry as registries
from tridiff.harness.api import Facet, Finding, Restriction
from tridiff.harness.ledger import NAME, files
from tridiff.harness.report import junit, markdown, recording, run_document, run_text, surface
from tridiff.harness.repro import as_json
from tridiff.harness.settings import Settings

WRONG = f"""[[failure]]
kernel = "scale_wrong"
status = "tolerated"
check = "mismatch"
when = {{ columns = {{ min = 2 }} }}
case = {{ columns = 2 }}
issue = "https://example.org/1"
{WHO}"""
"""Tolerates what is wrong with `scale_wrong`."""
PASSES = WRONG.replace('"scale_wrong"', '"scale"')
"""Tolerates what `scale` does not do."""
EVERYTHING = recorded.folded(
    [
        recorded.run(
            "scale",
            "scale_wrong",
            waived=[
                recorded.waived("00000001", status="quarantined", scope="where rows=3|4", issue=None),
                recorded.waived("00000002"),
                recorded.waived("00000003", kernel="scale_wrong", scope="nan line scale.py:3", reason=None, untried="why not"),
                recorded.waived("00000004", scope="poison line scale.py:4"),
                recorded.waived("00000005", kernel="scale_gone", status="quarantined", whole=True, scope="every case", days=1),
            ],
        ),
        recorded.case("tolerated", kind="replayed"),
        recorded.case(kind="replayed"),
        recorded.unexpected_pass(entry="00000004"),
        *[recorded.case("quarantined")] * 7,
        *[recorded.case("tolerated")] * 12,
        *[recorded.case(ratio=0.25)] * 30,
        *[recorded.case(kernel="scale_wrong")] * 3,
        recorded.end(seconds=60.0, exit=1),
    ]
)
"""A run with all that the ledger can do to one."""

Read = Callable[..., str]


@pytest.fixture
def read(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Read:
    """Runs a command on the toy family, with this ledger in an otherwise empty folder, and gives its code and what it printed."""
    known = registry()
    known.ops["scale"] = replace(
        known.ops["scale"], facets={name: Facet(description=name, of=lambda case: case.rows) for name in ("rows", "columns")}
    )
    known.kernels["scale_wrong"] = replace(
        known.kernels["scale_wrong"],
        domain=(
            Restriction(facet="rows", allowed=range(1, 101), reason="its header says so"),
            Restriction(facet="columns", allowed=(8, 16), reason="asserts it at its beginning"),
        ),
    )
    monkeypatch.setattr(registries, "builtin", lambda: known)
    monkeypatch.setattr(recording, "environment", lambda: recorded.ENVIRONMENT)
    monkeypatch.setattr(files, "today", lambda: NOW)
    monkeypatch.setenv("COLUMNS", "120")
    monkeypatch.chdir(tmp_path)

    def run(ledger: str, *arguments: str) -> str:
        if arguments[0] == "waived":
            known.kernels["scale_hip"] = replace(known.kernels["scale"], name="scale_hip", engines=("gpu",))
        else:
            known.kernels["scale_wrong"] = replace(known.kernels["scale_wrong"], domain=())
        (tmp_path / NAME).write_text(ledger, encoding="utf-8")
        with pytest.raises(SystemExit) as ended:
            cli.main([*arguments, *(["--no-isolation"] if arguments[0] in {"fuzz", "repro"} else [])])
        captured = capsys.readouterr()
        return f"exit {ended.value.code}\n{scrubbed(captured.out + captured.err)}"

    return run


def scrubbed(output: str) -> str:
    """Times, counts, and what another release of Hypothesis may change, by placeholders."""
    output = re.sub(r"in \d+ s:", "in # s:", output)
    output = re.sub(r"\b\d+ cases? (tolerated|quarantined|not run)", r"# cases \1", output)
    output = re.sub(r"cases: \d+ cases", "cases: # cases", output)
    return re.sub(r"(│ +\d+ │) +\d+\.\d │ +\d+ │ +\d\.\d{3} │", r"\1     #.# │     # │       #.### │", output)


def test_listing(read: Read, snapshot: SnapshotAssertion) -> None:
    """Entries, one of them for a kernel that is not known here, one that expires soon; domains; and what cannot run here."""
    soon = ROWS.replace("rows = [3, 4]", "rows = 2").replace("2027-01-31", "2026-11-30")
    ledger = WRONG + ROWS + soon + f'[[failure]]\nkernel = "theirs"\nstatus = "quarantined"\n{WHO}'

    assert read(ledger, "waived") == snapshot
    assert read(ledger, "waived", "--json") == snapshot(name="json")


def test_listing_of_nothing(read: Read, snapshot: SnapshotAssertion) -> None:
    """Of an empty ledger, the restrictions of kernels are left."""
    assert read("", "waived") == snapshot


def test_listing_in_a_narrow_terminal(tmp_path: Path) -> None:
    """At 80 columns an entry is a block, of which no word is folded."""
    (tmp_path / NAME).write_text(WRONG, encoding="utf-8")
    console = Console(file=io.StringIO(), width=80, color_system=None, legacy_windows=False)

    surface.show(console, files.read(Settings(), tmp_path / NAME, now=NOW), registry())

    output = console.file
    assert isinstance(output, io.StringIO)
    assert "entry 1: scale_wrong\n  status: tolerated\n" in output.getvalue()
    assert "\n  owner: @kernels\n  expires: 2027-01-31, 70 days left\n" in output.getvalue()


def test_run(read: Read, snapshot: SnapshotAssertion) -> None:
    """A tolerated failure and quarantined cases, from the first line to the last."""
    assert read(WRONG + ROWS, "fuzz", "--max-examples", "20") == snapshot


def test_run_without_a_kernel(read: Read, snapshot: SnapshotAssertion) -> None:
    """A kernel that is quarantined as a whole, and one whose known failure does not fail."""
    whole = ROWS.replace('"scale"', '"scale_wrong"').replace("when = { rows = [3, 4] }\n", "")

    assert read(PASSES + whole, "fuzz", "--max-examples", "10") == snapshot
    assert read(PASSES + whole, "fuzz", "--kernel", "scale_wrong") == snapshot(name="nothing left")
    assert read("[", "fuzz", "--no-known-failures", "--kernel", "scale", "--max-examples", "5").startswith("exit 0\n")


def test_repro(read: Read, snapshot: SnapshotAssertion) -> None:
    """It says that a case is known, whatever comes of it."""
    finding = Finding(
        check="mismatch", message="m", line=None, op="scale", kernel="scale_wrong", engine="cpu", target="gfx942",
        case=ScaleCase(columns=2),
    )  # fmt: skip
    for name, known in (("wrong", finding), ("right", replace(finding, kernel="scale"))):
        Path(f"{name}.json").write_text(json.dumps(as_json(known)), encoding="utf-8")

    assert read(WRONG + ROWS.replace("[3, 4]", "1"), "repro", "wrong.json") == snapshot(name="tolerated")
    assert read(PASSES, "repro", "right.json") == snapshot(name="fixed")
    assert read(ROWS.replace("[3, 4]", "1"), "repro", "right.json") == snapshot(name="quarantined")


@pytest.mark.parametrize("command", ["fuzz", "targets", "waived", "repro none.json"])
def test_ledger_that_is_wrong(read: Read, command: str) -> None:
    """One line and exit code 2, in every command that reads it."""
    said = read(ROWS.replace("2027-01-31", "2026-11-20"), *command.split())

    assert said.startswith(f"exit 2\ntridiff: {NAME}: entry 1 (scale): expired on 2026-11-20, 2 days ago: look whether ")
    assert said.count("\n") == 2


def test_forms_of_a_run(snapshot: SnapshotAssertion) -> None:
    """As text, as a document, as JUnit XML and as Markdown."""
    console = Console(file=io.StringIO(), width=120, color_system=None, legacy_windows=False)

    run_text.show(console, [EVERYTHING])

    output = console.file
    assert isinstance(output, io.StringIO)
    assert output.getvalue() == snapshot(name="text")
    document = run_document.runs_document([EVERYTHING])
    assert json.dumps({name: document[name] for name in ("kernels", "waived")}, indent=2) == snapshot(name="json")
    assert minidom.parseString(junit.junit([EVERYTHING])).toprettyxml(indent=" ") == snapshot(name="junit")  # noqa: S318 - ours
    assert markdown.markdown([EVERYTHING]) == snapshot(name="markdown")


def test_tolerated_is_dim() -> None:
    """So that findings stand out."""
    console = Console(file=io.StringIO(), width=120, force_terminal=True, color_system="standard", legacy_windows=False)

    run_text.show(console, [EVERYTHING])

    output = console.file
    assert isinstance(output, io.StringIO)
    assert "\x1b[2mTOLERATED scale" in output.getvalue()
    assert "\x1b[1;31mUNEXPECTED PASS scale" in output.getvalue()
