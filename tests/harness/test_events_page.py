"""`docs/reference/events.md` names every field of every record, and its examples are what a run writes."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import recorded
from toy.family import registry
from toy.strategies.scale import ScaleCase

from tridiff.harness.api import Clean, Finding, Found, Infrastructure, Judged, Quarantined, Skipped, Tolerated, Unsupported
from tridiff.harness.engines.spec import EngineSpec
from tridiff.harness.report.eventfile import EventFile
from tridiff.harness.report.recording import Recording
from tridiff.harness.report.records import FORMS, KERNEL, OUTCOMES, REPRO, WAIVED, Types, check
from tridiff.harness.report.verdict import verdict
from tridiff.harness.runner.campaign import Budget
from tridiff.harness.runner.events import CaseDone, FindingMinimal, UnexpectedPass, WorkerDied
from tridiff.harness.runner.session import Session

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "reference" / "events.md").read_text(encoding="utf-8")
TYPES = {str: "string", int: "integer", float: "number", bool: "true or false", list: "list", dict: "object", type(None): "null"}
FINDING = Finding(
    check="mismatch", message="", line=None, op="scale", kernel="scale_wrong", engine="cpu", target="gfx942", case=ScaleCase()
)
OUTCOME: dict[str, Judged] = {
    "clean": Clean(ratio=0.5),
    "found": Found(finding=FINDING),
    "skipped": Skipped(reason="r"),
    "unsupported": Unsupported(reason="r"),
    "infrastructure": Infrastructure(reason="r"),
    "quarantined": Quarantined(entry="e"),
    "tolerated": Tolerated(entry="e", finding=FINDING),
}


def section(record: str) -> str:
    """What the page says of a record."""
    return PAGE.partition(f"\n## `{record}`\n")[2].partition("\n## ")[0]


def rows(text: str, columns: int) -> list[list[str]]:
    """The rows of those tables of `text` that have `columns`, without their headings."""
    lines = [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines() if line.startswith("|")]
    return [line for line in lines if len(line) == columns and line[0].startswith("`")]


def examples(text: str = PAGE) -> list[dict[str, Any]]:
    """The records that `text` shows."""
    return [json.loads(line) for line in re.findall(r'^\{"record".*\}$', text, re.MULTILINE)]


def spelt(types: Types) -> str:
    """Types as the page spells them; an integer is a number."""
    return " or ".join(TYPES[kind] for kind in types if not (kind is int and float in types))


@pytest.fixture
def real(tmp_path: Path) -> list[dict[str, Any]]:
    """One of each record, as a run writes it."""
    known = registry()
    session = Session([*known.kernels.values()], EngineSpec(), 0, Budget(examples=1), lambda _event: None, known)
    path = tmp_path / "events.jsonl"
    with EventFile(path) as file, Recording(session, file, folder=tmp_path) as made:
        for outcome in OUTCOME.values():
            made.event(CaseDone(kernel="scale", case=ScaleCase(), outcome=outcome, shrinking=False))
        made.event(FindingMinimal(finding=FINDING, examples=1, shrunk=True), path=path)
        made.event(UnexpectedPass(kernel="scale", entry="e", case=ScaleCase(), how="h"))
        made.event(WorkerDied(kernel="scale", case=ScaleCase(), how="h"))
        words = {"rows": "one", "gap": "none"}
        made.event(CaseDone(kernel="scale", case=ScaleCase(), outcome=Clean(ratio=0.5), shrinking=True, properties=words))
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


@pytest.mark.parametrize("record", FORMS)
def test_fields(record: str) -> None:
    """Every field has a row with its type, and there is no other row."""
    told = {field.strip("`"): kind for field, kind, _ in rows(section(record), 3)}

    assert told.pop("record") == "string"
    assert told == {field: spelt(types) for field, types in FORMS[record].items()}


def test_fields_by_outcome() -> None:
    """Likewise for the fields that a case has by its outcome."""
    told = {
        (outcome, field.strip("`")): kind
        for outcomes, field, kind, _ in rows(section("case"), 4)
        for outcome in re.findall(r"\w+", outcomes)
    }

    assert told == {(name, field): spelt(types) for name, form in OUTCOMES.items() for field, types in form.items()}


def test_fields_of_objects(real: list[dict[str, Any]]) -> None:
    """What objects within records hold is named as well."""
    for record, field, names in (
        ("run", "kernels", KERNEL),
        ("run", "waived", WAIVED),
        ("finding", "repro", REPRO),
        ("run", "budget", real[0]["budget"]),
        ("summary", "totals", real[-1]["totals"]),
    ):
        (text,) = [meaning for name, _, meaning in rows(section(record), 3) if name == f"`{field}`"]
        assert set(names) <= set(re.findall(r"`(\w+)`", text)), field
    parts = {part for names, _ in rows(section("run"), 2) for part in re.findall(r"`(\w+)`", names)}
    assert parts == set(real[0]["environment"])


def test_examples_are_records() -> None:
    """All are well formed; together they are a run, and the last one says what that comes to."""
    shown = sorted(examples(), key=lambda record: record.get("seconds", 0.0))

    run = recorded.folded(shown)

    assert [check(record) for record in shown] == shown
    assert run.end is not None
    assert run.end["totals"] == run.totals()
    assert run.end["exit"] == verdict(run).code


def test_examples_look_as_a_run_writes_them(real: list[dict[str, Any]]) -> None:
    """The same fields in the same order, for every record and outcome."""

    def forms(records: list[dict[str, Any]]) -> dict[tuple[str, str], list[str]]:
        return {(record["record"], record.get("outcome", "")): list(record) for record in records}

    shown = forms(examples())

    assert set(shown) == {(record, "") for record in FORMS if record != "case"} | {("case", outcome) for outcome in OUTCOMES}
    assert forms(real) == shown
    assert list(real[0]["environment"]) == list(examples(section("run"))[0]["environment"])
