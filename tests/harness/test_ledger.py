"""The ledger of known failures: which file counts, what it may say, and how one line names what is wrong in it."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from datetime import date, timedelta
from pathlib import Path

import ledgers
import pytest
from jsonschema import Draft202012Validator
from ledgers import MISMATCH, NOW, ROWS, WHOLE
from toy.family import registry
from toy.strategies.scale import ScaleCase

from tridiff.harness import ledger
from tridiff.harness.api import CHECKS, Finding
from tridiff.harness.engines.spec import UsageError
from tridiff.harness.ledger import files
from tridiff.harness.ledger.binding import bound
from tridiff.harness.repro import as_json
from tridiff.harness.settings import Settings

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs/reference/known-failures.md"
FOUND = Finding(
    check="mismatch", message="m", line=None, op="scale", kernel="scale", engine="cpu", target="gfx942", case=ScaleCase(columns=7)
)


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder, and the current one."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def said(text: str) -> str:
    """The one line that is said of a ledger with this text, without the name of the file."""
    with pytest.raises(UsageError) as caught:
        ledgers.waivers(text)
    assert "\n" not in str(caught.value)
    file, _, what = str(caught.value).partition(": ")
    assert file == ledger.NAME
    return what


def test_entries(folder: Path) -> None:
    """What three tables say, in order, with the days that are left."""
    known = ledgers.read(MISMATCH + ROWS + WHOLE)

    first, second, third = known.entries
    assert known.file == ledger.NAME
    assert (first.number, first.status, first.check, first.when, first.case) == (
        1, "tolerated", "mismatch", {"columns": {"min": 5}}, {"columns": 5},
    )  # fmt: skip
    assert (first.owner, first.expires, first.days) == ("@kernels", date(2027, 1, 31), 70)
    assert (second.number, second.whole, second.when) == (2, False, {"rows": [3, 4]})
    assert (third.number, third.whole, third.kernel) == (3, True, "scale_wrong")
    assert [entry.described() for entry in known.entries] == ["mismatch where columns=5..", "where rows=3|4", "every case"]
    assert len({entry.key for entry in known.entries}) == 3


def test_key_says_what_is_waived() -> None:
    """Another reason, date or place does not change it; another condition does."""
    (first,) = ledgers.read(ROWS).entries
    _, second = ledgers.read(WHOLE + ROWS.replace("2027-01-31", "2027-02-01").replace("tail", "head")).entries
    (third,) = ledgers.read(ROWS.replace("[3, 4]", "[4]")).entries

    assert first.key == second.key != third.key


# Which file


def test_nearest_file(folder: Path) -> None:
    """Beside the settings, else from the current folder upwards; one that is named comes first."""
    for place, entries in (("", WHOLE), ("inner", ROWS), ("other", MISMATCH)):
        (folder / place).mkdir(exist_ok=True)
        (folder / place / ledger.NAME).write_text(entries, encoding="utf-8")
    (folder / "inner/deep").mkdir()

    def kind(given: Settings, file: Path | None = None) -> list[str]:
        known = ledger.read(given, file, start=folder / "inner/deep", now=NOW)
        return [] if known is None else [entry.described() for entry in known.entries]

    assert kind(Settings()) == ["where rows=3|4"]
    assert kind(Settings(file=folder / "tridiff.toml")) == ["every case"]
    assert kind(Settings(file=folder / "none/tridiff.toml")) == ["where rows=3|4"]
    assert kind(Settings(known_failures=folder / ledger.NAME)) == ["every case"]
    assert kind(Settings(known_failures=folder / ledger.NAME), Path("other", ledger.NAME)) == ["mismatch where columns=5.."]


def test_no_file(folder: Path) -> None:
    """Without one nothing is waived; nor where none is wanted, whatever it holds."""
    without = ledger.read(Settings(), start=folder)
    (folder / ledger.NAME).write_text("[", encoding="utf-8")

    assert without is None
    assert ledger.read(Settings(known_failures=folder / ledger.NAME), off=True) is None


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (
            None,
            "no such file; give the path of a ledger of known failures with --known-failures, or go without: --no-known-failures",
        ),
        (b"owner = \xff", "not UTF-8 at byte 8; save it as UTF-8"),
        (b"[[failure]", "not TOML: "),
        (b"failure = 3", "failure: must be tables, each begun by a line [[failure]]"),
        (b"failure = [3]", "failure: must be tables, each begun by a line [[failure]]"),
        (b"[[failures]]", "failures: unknown key; every known failure is a table [[failure]]"),
    ],
)
def test_file_that_cannot_be_read(content: bytes | None, message: str) -> None:
    """One line with the file and what is wrong."""
    if content is not None:
        Path("known.toml").write_bytes(content)

    with pytest.raises(UsageError) as caught:
        ledger.read(Settings(), Path("known.toml"))

    assert str(caught.value).startswith(f"known.toml: {message}")


def test_both_options() -> None:
    """A ledger, and none, is not to be guessed."""
    with pytest.raises(UsageError, match="give one of them"):
        ledger.read(Settings(), Path("known.toml"), off=True)


# What an entry may say


@pytest.mark.parametrize(
    ("before", "after", "message"),
    [
        ('kernel = "scale"\n', "", "entry 1: kernel: missing: must be the name of a kernel"),
        ('kernel = "scale"', "kernel = 3", "entry 1: kernel: 3: must be the name of a kernel"),
        ('"tolerated"', '"ignored"', "entry 1 (scale): status: 'ignored': must be one of quarantined, tolerated"),
        ('owner = "@kernels"\n', "", 'entry 1 (scale): owner: missing: must be "Name <mail>" or "@handle"'),
        ('"@kernels"', '"somebody"', "entry 1 (scale): owner: 'somebody': must be \"Name <mail>\" or \"@handle\""),
        ("owner", "onwer", "entry 1 (scale): onwer: unknown key: did you mean 'owner'?; keys: kernel, status, "),
        ("expires = 2027-01-31\n", "", "entry 1 (scale): expires: missing: must be a date: 2027-03-01, say"),
        ("2027-01-31", "2027-01-31T10:00:00", "entry 1 (scale): expires: '2027-01-31T10:00:00': must be a date: "),
        ("2027-01-31", '"soon"', "entry 1 (scale): expires: 'soon': must be a date: 2027-03-01, say"),
        ("2027-01-31", '"2027-02-31"', "entry 1 (scale): expires: 2027-02-31: day is out of range for month"),
        (
            "2027-01-31",
            "2026-11-20",
            "entry 1 (scale): expired on 2026-11-20, 2 days ago: look whether it still fails, then remove the",
        ),
        ("2027-01-31", "2027-11-24", "entry 1 (scale): expires: 2027-11-24: must be at most 366 days ahead"),
        ('"mismatch"', '"mismtach"', "entry 1 (scale): check: 'mismtach': must be one of launch, "),
        ('"mismatch"', '"mismtach"', "did you mean 'mismatch'?"),
        ('check = "mismatch"\n', "", "entry 1 (scale): check: missing: what is tolerated needs a check, and the minimal "),
        ("case = { columns = 5 }\n", "", "entry 1 (scale): case: missing: what is tolerated needs a check, and the minimal "),
        (
            "when = { columns = { min = 5 } }\n",
            "",
            "entry 1 (scale): forgives every mismatch: say which one with signature, message, line or when",
        ),
        ("when = { columns = { min = 5 } }\n", 'message = "times the"\n', "entry 1 (scale): when: missing: one mismatch "),
        ("{ min = 5 }", "{ min = 9, max = 5 }", "entry 1 (scale): when.columns: {'min': 9, 'max': 5}: no number lies in "),
        ("{ min = 5 }", "{ min = nan }", "entry 1 (scale): when.columns: {'min': nan}: no number lies in this range"),
        ("when =", 'also = ["mismatch"]\nwhen =', "entry 1 (scale): also: mismatch is the check itself; name those that fire "),
        ("when =", 'also = ["nann"]\nwhen =', "entry 1 (scale): also[0]: 'nann': must be one of launch, "),
        ("when =", 'message = "short"\nwhen =', "entry 1 (scale): message: 'short': must be a part of a message, of at least 8 "),
        (
            "when =",
            'message = "12.5, 13.75"\nwhen =',
            "entry 1 (scale): message: '12.5, 13.75': fits any message; give a part with words in it",
        ),
        ("when =", 'line = "scale.py"\nwhen =', "entry 1 (scale): line: 'scale.py': must be a source line, FILE:LINE"),
        ("when =", 'signature = "scale-mismatch"\nwhen =', "entry 1 (scale): signature: 'scale-mismatch': must be the "),
        ("when =", 'targets = ["mi300"]\nwhen =', "entry 1 (scale): targets[0]: 'mi300': must be a GPU architecture"),
        ("{ columns = { min = 5 } }", "{}", "entry 1 (scale): when: {}: must be a table of fields of a case"),
        ("{ min = 5 }", "{ least = 5 }", "entry 1 (scale): when.columns: {'least': 5}: must be a value, a list of values, or a "),
        ("{ columns = { min", "{ colums = { min", "entry 1 (scale): when: unknown field 'colums': ScaleCase has rows, columns, "),
        ("{ min = 5 }", '"many"', "entry 1 (scale): when: columns='many': must be of type int"),
        ("{ columns = { min = 5 } }", "{ preset = { min = 0 } }", "entry 1 (scale): when: preset: a range is for fields "),
        ("{ columns = 5 }", "{ column = 5 }", "entry 1 (scale): case: unknown field 'column': ScaleCase has "),
        ("{ columns = 5 }", "{ columns = 0 }", "entry 1 (scale): case: columns=0: must be from 1 to 1000"),
        ("{ columns = 5 }", "{ columns = 4 }", "entry 1 (scale): case: its fields are not those of `when`; one of them is wrong"),
        ("{ columns = 5 }", '"none.json"', "entry 1 (scale): case: "),
        ("{ columns = 5 }", "5", "entry 1 (scale): case: 5: must be the path of a case file, or a table of fields of a case"),
    ],
)  # fmt: skip
def test_malformed_entry(before: str, after: str, message: str) -> None:
    """One line with the entry, the key, the value and what is allowed."""
    assert before in MISMATCH

    assert message in said(MISMATCH.replace(before, after, 1))


@pytest.mark.parametrize("key", ["check", "also", "signature", "message", "line", "targets"])
def test_quarantine_tells_no_findings_apart(key: str) -> None:
    """What never runs has none."""
    value = {"check": '"mismatch"', "also": '["nan"]', "signature": '"scale-nan-00000000"', "line": '"scale.py:3"'}
    given = value.get(key, '["gfx942"]' if key == "targets" else '"out of bounds"')

    message = said(f"{ROWS}{key} = {given}\n")

    assert message == f"entry 1 (scale): {key}: what is quarantined never runs, so no finding is told from another; remove it"


def test_reason_or_issue() -> None:
    """One of them is needed; a reason has some length, an issue is a link."""
    without = ROWS.replace('reason = "the tail is summed twice, see the issue"\n', "")
    linked = ledgers.read(f'{without}issue = "https://example.org/1"\n').entries[0]

    assert said(without) == "entry 1 (scale): without a reason: write one, or link the issue"
    assert (
        said(f'{without}reason = "broken"\n') == "entry 1 (scale): reason: 'broken': must be a reason of at least 20 characters"
    )
    assert said(f'{without}issue = "#17"\n') == "entry 1 (scale): issue: '#17': must be the link of an issue, https://..."
    assert (linked.issue, linked.reason) == ("https://example.org/1", "")


@pytest.mark.parametrize("owner", ["@handle", "@org/team-a", "Ada Lovelace <ada@example.org>"])
def test_owner(owner: str) -> None:
    """A handle, a team, or a name with a mail."""
    assert ledgers.read(ROWS.replace("@kernels", owner)).entries[0].owner == owner


def test_same_entry_twice() -> None:
    """Also with another reason: which one would count is not to be guessed."""
    assert said(WHOLE + ROWS + ROWS.replace("tail", "head")) == "entry 3 (scale): waives the same as entry 2; remove one of them"


def test_tolerated_case_in_quarantine() -> None:
    """It would never run, so that nobody would see it pass."""
    case = MISMATCH.replace("case = { columns = 5 }", "case = { columns = 5, rows = 3 }")

    assert said(case + ROWS) == "entry 1 (scale): case: entry 2 quarantines it, so it never runs; remove one of the entries"


def test_expiry() -> None:
    """The last day counts, the one after it does not; so far ahead, and no further."""
    last = date(2027, 1, 31)

    def days(now: date) -> int:
        Path("known.toml").write_text(ROWS, encoding="utf-8")
        known = ledger.read(Settings(), Path("known.toml"), now=now)
        assert known is not None
        return known.entries[0].days

    assert days(last) == 0
    assert days(last - timedelta(days=366)) == 366
    for now, what in (
        (last + timedelta(days=1), "expired on 2027-01-31, 1 day ago"),
        (last - timedelta(days=367), "at most 366"),
    ):
        with pytest.raises(UsageError, match=what):
            days(now)


def test_today_is_a_date_of_utc() -> None:
    """What counts where no date is given."""
    assert abs(files.today() - date.today()) <= timedelta(days=1)  # noqa: DTZ011 - within a day, wherever


# Cases


def test_case_file(folder: Path) -> None:
    """Relative to the ledger; its kernel and check must be those of the entry."""
    (folder / "cases").mkdir()
    (folder / "cases/a.json").write_text(json.dumps(as_json(FOUND)), encoding="utf-8")
    text = MISMATCH.replace("{ columns = 5 }", '"cases/a.json"')
    Path("elsewhere").mkdir()

    (waiver,) = ledgers.waivers(text).waivers

    assert waiver.case == ScaleCase(columns=7)
    (folder / "cases/a.json").write_text(json.dumps(as_json(replace(FOUND, check="nan"))), encoding="utf-8")
    assert said(text).endswith("cases/a.json is of check nan, the entry of mismatch")
    (folder / "cases/a.json").write_text(json.dumps(as_json(replace(FOUND, kernel="scale_wrong"))), encoding="utf-8")
    assert said(text).endswith("cases/a.json is of kernel scale_wrong")


def test_kernel_that_is_not_registered() -> None:
    """Its entry is kept, unchecked: a ledger is for all machines of a project."""
    known = bound(ledgers.read(ROWS.replace('"scale"', '"theirs"').replace("rows", "splits")), registry())

    assert [entry.kernel for entry in known.entries] == ["theirs"]
    assert known.waivers == ()


# The schema, and the page


def test_schema_is_one_and_knows_every_check() -> None:
    """Editors use it; each value has a title, from which messages are made."""
    schema = json.loads(ledger.SCHEMA_FILE.read_text(encoding="utf-8"))
    Draft202012Validator.check_schema(schema)
    fields = schema["$defs"]["failure"]["properties"]

    assert fields["check"]["enum"] == fields["also"]["items"]["enum"] == list(CHECKS)
    assert all(field["title"] and field["description"] for field in fields.values())
    assert set(fields) == {name for name in ledger.Entry.__dataclass_fields__ if name not in {"file", "number", "days"}}


def test_page_names_every_key_and_its_examples_are_accepted() -> None:
    """`docs/reference/known-failures.md`."""
    text = PAGE.read_text(encoding="utf-8")
    fields = json.loads(ledger.SCHEMA_FILE.read_text(encoding="utf-8"))["$defs"]["failure"]["properties"]

    examples = re.findall(r"```toml\n(.*?)```", text, re.DOTALL)

    assert [name for name in fields if f"| `{name}` |" not in text] == []
    assert len(examples) >= 1
    for example in examples:
        assert len(ledgers.read(example).entries) == example.count("[[failure]]")
