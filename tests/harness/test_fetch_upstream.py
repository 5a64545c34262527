"""What `tools/fetch_upstream.py` unpacks, keeps and refuses; a wheel that a file stands for is "downloaded"."""

from __future__ import annotations

import subprocess
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import fetch_upstream
import pytest
from fetch_upstream import Unavailable, fetch, main, parsed

MEMBERS = {
    "painting/__init__.py": "",
    "painting/kernels/brush.py": "BRUSH = 1\n",
    "painting/_C.abi3.so": "binary",
    "painting/tuned.json": "{}",
    "painting-1.2.dist-info/METADATA": "Metadata-Version: 2.1\nName: Painting\nVersion: 1.2\n",
    "painting-1.2.dist-info/licenses/LICENSE": "Apache",
}


@pytest.fixture
def pip(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """The commands that were run: pip puts a wheel of `MEMBERS` where it is told to."""
    commands: list[list[str]] = []

    def run(command: list[str], **_: Any) -> subprocess.CompletedProcess[str]:
        commands.append(command)
        version = command[-1].partition("==")[2] or "1.2"
        folder = Path(command[command.index("--dest") + 1])
        with zipfile.ZipFile(folder / f"painting-{version}-py3-none-any.whl", "w") as wheel:
            for name, content in MEMBERS.items():
                wheel.writestr(name.replace("1.2", version), content.replace("1.2", version))
        return subprocess.CompletedProcess(command, 0, stderr="")

    monkeypatch.setattr(subprocess, "run", run)
    return commands


def failing(status: int, errors: str) -> Callable[..., subprocess.CompletedProcess[str]]:
    """A pip that ends so."""
    return lambda command, **_: subprocess.CompletedProcess(command, status, stderr=errors)


def files(folder: Path) -> list[str]:
    """All files below `folder`, by relative path."""
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def test_python_files_and_description_are_kept(pip: list[list[str]], tmp_path: Path) -> None:
    """What is compiled or data stays out, the licence comes along, and the wheel goes."""
    said = fetch("painting", tmp_path)

    assert said == f"painting 1.2: 4 files of a wheel of 0 MB are in {tmp_path / 'painting'}"
    assert files(tmp_path) == sorted(f"painting/{name}" for name in MEMBERS if not name.endswith((".so", ".json")))
    assert [path.name for path in tmp_path.iterdir()] == ["painting"]


@pytest.mark.parametrize(("requirement", "fetched"), [("Painting", 0), ("painting==1.2", 0), ("painting==1.3", 1)])
def test_what_is_there_is_not_fetched_again(pip: list[list[str]], tmp_path: Path, requirement: str, fetched: int) -> None:
    """The version that is there, or any where none is named, is kept; another one replaces it."""
    fetch("painting", tmp_path)

    said = fetch(requirement, tmp_path)

    assert len(pip) == 1 + fetched
    assert said.startswith("painting 1.3: " if fetched else f"{requirement.partition('==')[0]} 1.2 is in ")
    assert fetch_upstream.present(tmp_path / "painting", "painting") == ("1.3" if fetched else "1.2")
    assert len(list((tmp_path / "painting").glob("*.dist-info"))) == 1


def test_pip_is_told_no_index(pip: list[list[str]], tmp_path: Path) -> None:
    """Where packages come from is the user's configuration; what a package requires is not wanted, nor a source to build."""
    fetch("painting==1.2", tmp_path)

    (command,) = pip
    assert {"download", "--no-deps", "--only-binary=:all:"} <= set(command)
    assert not any(part.startswith(("-i", "--index", "--extra-index", "http")) for part in command)


@pytest.mark.parametrize(
    ("errors", "reason"),
    [
        ("ERROR: No matching distribution found for painting==9\n", "No matching distribution found for painting==9"),
        (
            "WARNING: Retrying (Retry(total=1)) after connection broken\nERROR: No matching distribution found for painting==9\n",
            "the package index does not answer; is there a network?",
        ),
    ],
)
def test_what_cannot_be_fetched(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path, errors: str, reason: str
) -> None:
    """No such release, or no network: one line, and what was there before stays."""
    (tmp_path / "painting").mkdir()
    monkeypatch.setattr(subprocess, "run", failing(1, errors))

    status = main(["painting==9", "--into", str(tmp_path)])

    assert (status, capsys.readouterr().err) == (2, f"tridiff: painting==9 cannot be fetched: {reason}\n")
    assert [path.name for path in tmp_path.iterdir()] == ["painting"]


def test_wheel_without_python(pip: list[list[str]], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A package of compiled extensions alone has nothing for an adapter."""
    monkeypatch.delitem(MEMBERS, "painting/__init__.py")
    monkeypatch.delitem(MEMBERS, "painting/kernels/brush.py")

    with pytest.raises(Unavailable, match=r"painting-1\.2-py3-none-any\.whl holds no Python files"):
        fetch("painting", tmp_path)

    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("requirement", ["", "painting>=1", "painting==", "-r", "a b", "painting==1;x", "../painting"])
def test_what_is_no_requirement(requirement: str) -> None:
    """It becomes part of a command and of a path, so it is read strictly."""
    with pytest.raises(Unavailable, match="write NAME or NAME==VERSION"):
        parsed(requirement)


def test_folder_is_named_as_wheels_are() -> None:
    """The adapters look for it so."""
    assert fetch_upstream.folder_of("AMD-aiter") == "amd_aiter"
