"""Lists of cases: written, read strictly, and run before anything is drawn."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import strategies as st
from toy.family import registry
from toy.strategies.scale import ScaleCase

from tridiff.harness import repro
from tridiff.harness.api import Domain, Finding
from tridiff.harness.case_lists import CaseList, cases_for, read, read_all, written
from tridiff.harness.engines.spec import UsageError
from tridiff.harness.registry import Registry
from tridiff.harness.runner.drawing import drawn

HEADER = '{"schema": 1, "op": "scale", "target": "gfx942"}\n'
CASES = (ScaleCase(rows=2), ScaleCase(columns=7, factor=-0.5))
FINDING = Finding(
    check="mismatch",
    message="wrong",
    line=None,
    op="scale",
    kernel="scale_wrong",
    engine="cpu",
    target="sm_90",
    case=ScaleCase(columns=3),
)


@pytest.fixture
def known(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Registry:
    """The toy family, whose Op has no cases with a gap on gfx942; in an empty folder."""
    monkeypatch.chdir(tmp_path)
    made = registry()
    made.ops["scale"] = replace(made.op("scale"), within=allowed)
    return made


def allowed(case: ScaleCase, domain: Domain) -> bool:
    """Whether the toy Op as changed here has such a case on this target."""
    return not case.gap or domain.target != "gfx942"


# Files


def test_written_is_read(known: Registry) -> None:
    """A list means what it meant when it was written; every field is in the file, whatever the defaults."""
    path = Path("list.jsonl")
    path.write_text(written("scale", "gfx942", CASES), encoding="utf-8")

    found = read(path, known)

    assert found == CaseList(path=path, op="scale", target="gfx942", cases=CASES)
    assert all(set(json.loads(line)) == set(ScaleCase.__dataclass_fields__) for line in path.read_text("utf-8").splitlines()[1:])


def test_case_file_of_a_finding(known: Registry) -> None:
    """A list of one, for the kernel that failed alone."""
    path = repro.write(Path(), FINDING)

    found = read(path, known)

    assert found == CaseList(path=path, op="scale", target="sm_90", cases=(FINDING.case,), kernel="scale_wrong")
    assert cases_for(known.kernel("scale"), [found]) == []
    assert cases_for(known.kernel("scale_wrong"), [found]) == [FINDING.case]


def test_folder(known: Registry) -> None:
    """All lists below a folder, by name, and nothing else that lies there; each case once."""
    Path("lists/more").mkdir(parents=True)
    Path("lists/b.jsonl").write_text(written("scale", "gfx942", CASES), encoding="utf-8")
    Path("lists/more/a.jsonl").write_text(written("scale", "sm_90", CASES[:1]), encoding="utf-8")
    Path("lists/notes.txt").write_text("mine", encoding="utf-8")
    repro.write(Path("lists"), FINDING)

    found = read_all([Path("lists"), Path("lists/b.jsonl")], known)

    assert sorted((given.path.name, len(given.cases)) for given in found[:-1]) == [
        ("a.jsonl", 1),
        ("b.jsonl", 2),
        (f"{FINDING.signature()}.json", 1),
    ]
    assert [given.path for given in found[:-1]] == sorted(given.path for given in found[:-1])
    assert cases_for(known.kernel("scale"), found) == list(CASES)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "empty; the first line of a list says schema, op and target"),
        ("{", "line 1: not JSON: Expecting property name enclosed in double quotes at column 2"),
        ("[" * 100_000, "line 1: not JSON that can be read: "),
        ("[]", "line 1: must be an object with schema, op and target, and nothing else"),
        ('{"schema": 1, "op": "scale"}', "line 1: must be an object with schema, op and target, and nothing else"),
        (HEADER.replace("}", ', "kernel": "scale"}'), "line 1: must be an object with schema, op and target, and nothing else"),
        (HEADER.replace("1", "2"), "line 1: schema 2: this tridiff reads schema 1"),
        (HEADER.replace("1", "true"), "line 1: schema True: this tridiff reads schema 1"),
        (HEADER.replace('"scale"', "3"), "line 1: op=3: must be a string"),
        (HEADER.replace("scale", "scael"), "line 1: unknown op 'scael': did you mean 'scale'?; known: scale; if it comes "),
        (HEADER.replace("gfx942", "gfx924"), "line 1: unknown target 'gfx924': did you mean 'gfx942'?; targets: gfx90a, "),
        (HEADER, "no cases after the first line; `tridiff cases --op scale` makes a list"),
        (HEADER + "{}\n\n{}\n", "line 3: not JSON: Expecting value at column 1"),
        (HEADER + '{"row": 1}\n', "line 2: unknown field 'row': ScaleCase has rows, columns, "),
        (HEADER + '{"rows": 1}\n{"rows": true}\n', "line 3: rows=True: must be of type int"),
        (HEADER + '{"rows": 0}\n', "line 2: rows=0: must be from 1 to 1000"),
        (HEADER + '{"gap": 1}\n', "line 2: not a case of scale on gfx942; remove it, or put it into another list"),
        (HEADER + '{"rows": 1}\n{}\n', "line 3: the same case as in line 2; remove one of them"),
    ],
)  # fmt: skip
def test_damaged_list(known: Registry, content: str, message: str) -> None:
    """One line with the file, the line and what is wrong: a case that is passed over in silence would be taken for clean."""
    Path("list.jsonl").write_text(content, encoding="utf-8")

    with pytest.raises(UsageError) as caught:
        read(Path("list.jsonl"), known)

    assert str(caught.value).startswith(f"list.jsonl: {message}")
    assert "\n" not in str(caught.value)


def test_what_cannot_be_read(known: Registry) -> None:
    """Files that are not there, folders without lists, and what is no text."""
    Path("empty").mkdir()
    Path("bytes.jsonl").write_bytes(b"\xff")
    Path("folder.jsonl/x").mkdir(parents=True)
    messages = {
        "none.jsonl": "none.jsonl: no such file; give a list of cases that `tridiff cases` wrote, or a folder of them",
        "empty": "empty: no list of cases in this folder (*.jsonl, or *.json of findings)",
        "bytes.jsonl": "bytes.jsonl: cannot be read: 'utf-8' codec",
        "none.json": "none.json: no such file; give the path of a case file",
    }

    for name, message in messages.items():
        with pytest.raises(UsageError) as caught:
            read_all([Path(name)], known)
        assert str(caught.value).startswith(message)


# Drawing


def test_drawn_cases(known: Registry) -> None:
    """As many distinct cases as asked for, a fifth of them presets, which come first; the same for the same seed alone."""
    plain = registry()
    first, again, other = (drawn(plain, "scale", "gfx942", count=100, seed=seed) for seed in (3, 3, 4))

    assert len(first) == len(set(first)) == 100
    assert [case.preset for case in first] == [True] * 20 + [False] * 80
    assert first == again
    assert len(set(first) & set(other)) < 50


def test_few_cases_in_all(known: Registry) -> None:
    """Where there are no more, there are fewer."""
    few = st.builds(ScaleCase, rows=st.integers(1, 3))
    known.ops["scale"] = replace(known.op("scale"), strategy=lambda _: few, presets=lambda _: few)

    found = drawn(known, "scale", "gfx942", count=10, seed=0)

    assert sorted(case.rows for case in found) == [1, 2, 3]


def test_unknown_op(known: Registry) -> None:
    """The nearest one is suggested."""
    with pytest.raises(UsageError, match=r"^unknown op 'scael': did you mean 'scale'\?"):
        drawn(known, "scael", "gfx942", count=1, seed=0)
