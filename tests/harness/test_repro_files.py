"""Case files: what is written comes back, and whatever else a file may hold is refused in one line."""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from toy.family import registry
from toy.strategies.scale import ScaleCase

from tridiff.harness.api import SCHEMA, Finding
from tridiff.harness.engines.spec import EngineSpec, UsageError
from tridiff.harness.repro import Repro, as_json, prepare, read, write
from tridiff.harness.runner.examine import KernelRef

FINDING = Finding(
    check="mismatch",
    message="out[0, 0] is 2, expected 1",
    line="scale.py:7",
    op="scale",
    kernel="scale_wrong",
    engine="cpu",
    target="gfx1201",
    case=ScaleCase(rows=3, factor=-0.5),
)
CONTENT = as_json(FINDING)


def saved(folder: Path, content: Any) -> Path:
    """A file that holds `content`: text, bytes, or anything else as JSON."""
    path = folder / "case.json"
    data = content if isinstance(content, str | bytes) else json.dumps(content)
    path.write_bytes(data if isinstance(data, bytes) else data.encode())
    return path


def refused(path: Path) -> str:
    """What `read` says of a file that it refuses, without the file's name, which must come first."""
    with pytest.raises(UsageError) as caught:
        read(path, registry())
    message = str(caught.value)
    assert message.startswith(f"{path}: ")
    assert "\n" not in message
    return message.removeprefix(f"{path}: ")


def test_round_trip(tmp_path: Path) -> None:
    """A finding's file, named by its signature, says how to run the same Case on the same kernel."""
    path = write(tmp_path, FINDING)

    assert path == tmp_path / f"{FINDING.signature()}.json"
    assert read(path, registry()) == Repro(
        ref=KernelRef(kernel="scale_wrong"),
        spec=EngineSpec(name="cpu", target="gfx1201"),
        check="mismatch",
        case=ScaleCase(rows=3, factor=-0.5),
    )


@pytest.mark.parametrize(
    ("check", "full"),
    [("compile", False), ("resources", False), ("fp8_semantics", False), ("codegen", True), ("compile_time", True)],
)
def test_case_of_the_compiler(tmp_path: Path, check: str, full: bool) -> None:
    """It is compiled again, to machine code where its check needs that."""
    path = write(tmp_path, dataclasses.replace(FINDING, engine="compiler", check=check))

    assert read(path, registry()).spec == EngineSpec(name="compiler", target="gfx1201", full=full)


def test_form(tmp_path: Path) -> None:
    """The file is JSON that a person can read and edit."""
    text = write(tmp_path, FINDING).read_text(encoding="utf-8")

    assert json.loads(text) == {
        "schema": SCHEMA,
        "op": "scale",
        "kernel": "scale_wrong",
        "engine": "cpu",
        "target": "gfx1201",
        "check": "mismatch",
        "message": "out[0, 0] is 2, expected 1",
        "case": {"rows": 3, "columns": 1, "gap": 0, "factor": -0.5, "seed": 0, "preset": False},
    }
    assert text.startswith('{\n  "schema": 1,\n')
    assert text.endswith("}\n")


def test_minimal_finding_replaces_the_first(tmp_path: Path) -> None:
    """Both have one signature, so the file holds the smaller case in the end."""
    write(tmp_path, FINDING)
    path = write(tmp_path, dataclasses.replace(FINDING, case=ScaleCase(), message="smaller"))

    assert list(tmp_path.iterdir()) == [path]
    assert read(path, registry()).case == ScaleCase()


def test_message_may_be_left_out(tmp_path: Path) -> None:
    """It is for people; whoever writes a file by hand need not make one up."""
    content = {name: value for name, value in CONTENT.items() if name != "message"}

    assert read(saved(tmp_path, content), registry()).check == "mismatch"


@pytest.mark.parametrize("name", sorted(set(CONTENT) - {"message"}))
def test_missing_field(tmp_path: Path, name: str) -> None:
    """Every other field is needed, and named when it is missing."""
    message = refused(saved(tmp_path, {key: value for key, value in CONTENT.items() if key != name}))

    assert message == ("schema None: this tridiff reads schema 1" if name == "schema" else f"missing field {name}")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"schema": 2}, "schema 2: this tridiff reads schema 1"),
        ({"schema": "1"}, "schema '1': this tridiff reads schema 1"),
        ({"schema": True}, "schema True: this tridiff reads schema 1"),
        ({"schema": 1.0}, "schema 1.0: this tridiff reads schema 1"),
        ({"colour": 1, "age": 2}, "unknown field age, colour; fields: case, check, engine, kernel, message, op, schema, target"),
        ({"op": 5, "check": 6}, "op=5: must be a string"),
        ({"kernel": None}, "kernel=None: must be a string"),
        ({"engine": ["cpu"]}, "engine=['cpu']: must be a string"),
        ({"target": {}}, "target={}: must be a string"),
        ({"check": True}, "check=True: must be a string"),
        ({"op": "scael"}, "unknown op 'scael': did you mean 'scale'?; known: scale"),
        ({"kernel": "scale_wring"}, "unknown kernel 'scale_wring': did you mean 'scale_wrong'?; known: scale, scale_wrong"),
        ({"engine": "cpuu"}, "unknown engine 'cpuu': did you mean 'cpu'?; engines: cpu"),
        ({"engine": "gpu"}, "engine 'gpu' is not available yet: use --engine cpu, which needs no GPU"),
        ({"check": "mismatsch"}, "unknown check 'mismatsch'; checks: launch, crash, hang, "),
        ({"target": "gfx941"}, "unknown target 'gfx941': did you mean 'gfx94"),
        ({"case": []}, "a case must be a JSON object, got list"),
        ({"case": {"rows": 0}}, "rows=0: must be from 1 to 1000"),
        ({"case": {"rows": "1"}}, "rows='1': must be of type int"),
        ({"case": {"rows": 1, "row": 1}}, "unknown field 'row': ScaleCase has rows, columns"),
        ({"case": {"preset": 1}}, "preset=1: must be of type bool"),
        ({"case": {"factor": None}}, "factor=None: must be of type float"),
    ],
)
def test_wrong_field(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    """The file, the field, its value, and what is allowed or nearest."""
    assert refused(saved(tmp_path, {**CONTENT, **change})).startswith(message)


def test_kernel_of_another_op(tmp_path: Path) -> None:
    """Op and kernel must belong together."""
    known = registry()
    known.register_op(dataclasses.replace(known.op("scale"), name="other"), known.references["scale"])

    with pytest.raises(UsageError, match=r"kernel 'scale_wrong' implements 'scale', not 'other'$"):
        read(saved(tmp_path, {**CONTENT, "op": "other"}), known)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "not JSON: Expecting value in line 1"),
        ("{\n'a': 1}", "not JSON: Expecting property name enclosed in double quotes in line 2"),
        ("[1]", "a case file holds a JSON object, this one a list"),
        ("null", "a case file holds a JSON object, this one a NoneType"),
        (b"\xff\xfe{}", "cannot be read: 'utf-8' codec can't decode byte 0xff"),
        ('{"schema": ' + "1" * 5000 + "}", "not JSON that can be read: Exceeds the limit"),
        ("[" * 200_000, "not JSON that can be read: maximum recursion depth exceeded"),
        (json.dumps({**CONTENT, "case": {"factor": 1}}).replace(": 1}", ": NaN}"), "factor=nan: must be finite"),
        (json.dumps({**CONTENT, "case": {"factor": 1}}).replace(": 1}", f": 1{'0' * 400}}}"), "factor: must be finite"),
    ],
    ids=["empty", "quotes", "list", "null", "bytes", "digits", "depth", "nan", "huge"],
)
def test_file_that_holds_something_else(tmp_path: Path, text: str | bytes, message: str) -> None:
    """Whatever the file holds, the answer is one line."""
    assert refused(saved(tmp_path, text)).startswith(message)


def test_no_such_file(tmp_path: Path) -> None:
    """The message says what kind of file is wanted."""
    assert refused(tmp_path / "none.json") == "no such file; give the path of a case file that tridiff wrote"


def test_folder_instead_of_a_file(tmp_path: Path) -> None:
    """A folder cannot be read as a file."""
    assert refused(tmp_path).startswith("cannot be read: ")


def test_file_below_a_file(tmp_path: Path) -> None:
    """Neither can what lies below a regular file."""
    assert refused(saved(tmp_path, CONTENT) / "x.json").startswith("cannot be read: ")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_file_without_permission(tmp_path: Path) -> None:
    """A file that may not be read is said to be so."""
    path = saved(tmp_path, CONTENT)
    path.chmod(0)

    assert "Permission denied" in refused(path)


# Where findings go


def test_folder_is_made(tmp_path: Path) -> None:
    """Parents included; a second run finds it there, and no trace of the attempt to write is left."""
    folders = [prepare(tmp_path / "a" / "b") for _ in range(2)]

    assert folders == [tmp_path / "a" / "b" / "findings"] * 2
    assert list(folders[0].iterdir()) == []


def below_a_file(folder: Path) -> Path:
    """A path below a regular file."""
    return saved(folder, "") / "out"


def below_a_device(_folder: Path) -> Path:
    """A path below a device."""
    return Path("/dev/null/out")


def where_a_file_is(folder: Path) -> Path:
    """A folder in which `findings` is a file already."""
    (folder / "findings").touch()
    return folder


@pytest.mark.parametrize("place", [below_a_file, below_a_device, where_a_file_is])
def test_folder_that_cannot_be_made(tmp_path: Path, place: Callable[[Path], Path]) -> None:
    """Known before the work: where, why, and what to do."""
    folder = place(tmp_path)

    with pytest.raises(UsageError) as caught:
        prepare(folder)

    message = str(caught.value)
    assert message.startswith(f"cannot write to {folder / 'findings'}: ")
    assert message.endswith("; choose another folder with --out")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_folder_without_permission(tmp_path: Path) -> None:
    """A folder that may not be written to is found out likewise."""
    (tmp_path / "findings").mkdir()
    (tmp_path / "findings").chmod(0o500)

    with pytest.raises(UsageError, match="Permission denied"):
        prepare(tmp_path)
