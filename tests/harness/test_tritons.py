"""The tool that tests other Triton releases: what it installs, where, and what it makes of failures."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import tritons
from tritons import Result, Unavailable


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A checkout that pins two releases."""
    (tmp_path / tritons.PINNED).write_text("# releases\n3.6.0\n\n3.8.0  # the newest\n", encoding="utf-8")
    return tmp_path


def stub_pip(monkeypatch: pytest.MonkeyPatch, script: str) -> None:
    """Run `script` (Python) in place of pip; its arguments are the folder and the version."""

    def start(root: Path, version: str) -> subprocess.Popen[str]:
        command = [sys.executable, "-c", script, str(tritons._unfinished(root, version)), version]
        return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)

    monkeypatch.setattr(tritons, "_pip", start)


INSTALLS = "import pathlib, sys; folder = pathlib.Path(sys.argv[1]); folder.mkdir(); (folder / sys.argv[2]).touch()"


def test_pinned_versions(root: Path) -> None:
    """The file names versions, and may have comments."""
    assert tritons.pinned(root) == ["3.6.0", "3.8.0"]


@pytest.mark.parametrize("version", ["latest", "3", "../3.6.0", "3.6.0; rm", "-r x"])
def test_what_is_no_version(version: str) -> None:
    """Nothing else becomes the name of a folder."""
    with pytest.raises(Unavailable, match="is no version of triton"):
        tritons.checked(version)


def test_installation_is_kept(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each release has a folder of its own, which is used again, and nothing unfinished stays."""
    stub_pip(monkeypatch, INSTALLS)
    tritons.install(root, ["3.6.0", "3.8.0"])
    stub_pip(monkeypatch, "raise SystemExit('installed again')")

    tritons.install(root, ["3.6.0", "3.8.0"])

    assert [(tritons.place(root, version) / version).exists() for version in ("3.6.0", "3.8.0")] == [True, True]
    assert not list((root / tritons.FOLDER).glob("unfinished-*"))


def test_a_release_that_cannot_be_had(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its name and pip's reason are one line; what was installed beside it stays."""
    stub_pip(monkeypatch, f"import sys; sys.argv[2] == '3.6.0' and sys.exit('ERROR: a\\nERROR: No matching one'); {INSTALLS}")

    with pytest.raises(Unavailable, match=r"^triton 3\.6\.0 cannot be installed for \S+: No matching one$"):
        tritons.install(root, ["3.6.0", "3.8.0"])

    assert [tritons.place(root, version).exists() for version in ("3.6.0", "3.8.0")] == [False, True]


def test_what_an_interruption_left_is_removed(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder that was not finished does not count, and does not disturb."""
    tritons._unfinished(root, "3.6.0").mkdir(parents=True)
    stub_pip(monkeypatch, INSTALLS)

    tritons.install(root, ["3.6.0"])

    assert (tritons.place(root, "3.6.0") / "3.6.0").exists()
    assert not tritons._unfinished(root, "3.6.0").exists()


def stub_release(root: Path, version: str) -> None:
    """A release that is nothing but its version."""
    package = tritons.place(root, version) / "triton"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text(f"__version__ = {version!r}\n", encoding="utf-8")


TEST = """
import os, triton
import pytest

def test_version():
    assert triton.__version__ == os.environ["TRIDIFF_EXPECTED_TRITON"]

def test_other():
    assert triton.__version__ != "3.8.0"

@pytest.mark.skip
def test_skipped():
    pass
"""


def test_each_release_is_tested(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Each release, once, is the one that its tests import; one that fails shows pytest's output, and in the exit status."""
    for version in ("3.6.0", "3.8.0"):
        stub_release(root, version)
    for folder, test in zip(tritons.TESTS, (TEST, "def test_of_another_folder(): pass\n"), strict=True):
        (root / folder).mkdir(parents=True)
        (root / folder / f"test_{Path(folder).name}.py").write_text(test, encoding="utf-8")

    status = tritons.run(root, ["3.6.0", "3.8.0", "3.6.0"], cores=2)

    lines = capsys.readouterr().out.splitlines()
    assert status == 1
    assert lines[-3] == "summary"
    assert lines[-2].startswith("  triton 3.6.0: 3 passed, 0 failed, 1 skipped, ")
    assert lines[-1].startswith("  triton 3.8.0: 2 passed, 1 failed, 1 skipped, ")
    assert sum("test_other" in line and line.startswith("FAILED") for line in lines) == 1
    assert tritons.run(root, ["3.6.0"], cores=1) == 0


@pytest.mark.parametrize(
    ("cores", "expected"),
    [(1, [("ab", 1), ("c", 1)]), (2, [("abc", 1)]), (3, [("abc", 1)]), (16, [("abc", 5)])],
)
def test_releases_share_the_cores(cores: int, expected: list[tuple[str, int]]) -> None:
    """At most two releases a core are tested at a time, and those that are share all cores."""
    assert [("".join(together), workers) for together, workers in tritons.rounds("abc", cores)] == expected


def test_tests_that_do_not_run_are_a_failure(root: Path) -> None:
    """No tests, or none that finish, are no success."""
    stub_release(root, "3.6.0")

    assert tritons.run(root, ["3.6.0"], cores=1) == 1


@pytest.mark.parametrize(
    ("status", "counts", "good"),
    [(0, (3, 0, 1), True), (1, (3, 0, 0), False), (0, (3, 1, 0), False), (0, (0, 0, 4), False), (0, None, False)],
)
def test_what_is_good(status: int, counts: tuple[int, int, int] | None, good: bool) -> None:
    """Only tests that passed, without any that failed."""
    assert Result("3.6.0", status, counts, 1.0).is_good is good


def test_unreadable_reports(tmp_path: Path) -> None:
    """A report that is not there, or cut off, counts nothing."""
    (tmp_path / "cut.xml").write_text("<testsuites><testsuite", encoding="utf-8")

    assert tritons.counted(tmp_path / "none.xml") is None
    assert tritons.counted(tmp_path / "cut.xml") is None


def test_exit_status_of_a_release_that_cannot_be_had(
    root: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Exit status 2, with one line on standard error."""
    monkeypatch.setattr(tritons, "ROOT", root)
    monkeypatch.setattr(sys, "argv", ["tritons.py", "latest"])

    assert tritons.main() == 2
    assert capsys.readouterr().err == "tridiff: 'latest' is no version of triton: write it as 3.6.0\n"
