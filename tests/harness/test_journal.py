"""The journal of the Case in flight, and what a killed run leaves to the next one."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import misbehaving
import pytest
from toy.family import registry
from toy.strategies.scale import ScaleCase

from tridiff.harness import cli
from tridiff.harness.api import Clean
from tridiff.harness.engines.spec import EngineSpec, UsageError
from tridiff.harness.isolation import process
from tridiff.harness.isolation.journal import FOLDER, Journal
from tridiff.harness.runner.events import CaseDone
from tridiff.harness.runner.examine import KernelRef

REF = KernelRef(kernel="scale")
CASE = ScaleCase(rows=3, columns=9)


def abandoned(out: Path, case: ScaleCase = CASE, kernel: str = "scale") -> Path:
    """What a run leaves behind that is killed while `case` runs."""
    journal = Journal(out)
    journal.begin(KernelRef(kernel=kernel), EngineSpec(), ScaleCase(rows=999, columns=999, seed=10**9))
    journal.begin(KernelRef(kernel=kernel), EngineSpec(), case)
    os.close(journal._descriptor)
    return journal._path


def cases(journal: Journal, kernel: str = "scale", target: str = "gfx942") -> list[ScaleCase]:
    """What `journal` gives to a run of `kernel`."""
    return list(journal.cases(registry(), kernel, target))


def test_case_in_flight_comes_first(tmp_path: Path) -> None:
    """It is kept until it has run again, and then forgotten."""
    path = abandoned(tmp_path)

    with contextlib.closing(Journal(tmp_path)) as journal:
        assert cases(journal) == [CASE]
        journal.listen(CaseDone(kernel="scale", case=ScaleCase(), outcome=Clean(ratio=0.0), shrinking=False, replayed=True))
        journal.listen(CaseDone(kernel="scale", case=CASE, outcome=Clean(ratio=0.0), shrinking=False))
        assert path.exists()
        journal.listen(CaseDone(kernel="scale", case=CASE, outcome=Clean(ratio=0.0), shrinking=False, replayed=True))
        assert cases(journal) == []

    assert not (tmp_path / FOLDER).exists()


def test_other_kernels_and_targets_keep_theirs(tmp_path: Path) -> None:
    """A run that does not concern a case leaves it to one that does."""
    path = abandoned(tmp_path)

    with contextlib.closing(Journal(tmp_path)) as journal:
        assert cases(journal, kernel="scale_wrong") == cases(journal, target="sm_90") == []

    assert path.exists()


def test_run_that_ends_leaves_nothing(tmp_path: Path) -> None:
    """Nor does one that Ctrl-C ends, which closes its journal as well."""
    with contextlib.closing(Journal(tmp_path)) as journal:
        journal.begin(REF, EngineSpec(), CASE)

    assert not (tmp_path / FOLDER).exists()


def test_full_disk_does_not_end_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It costs the next run its first case at most."""

    def full(*_: object) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    with contextlib.closing(Journal(tmp_path)) as journal, monkeypatch.context() as patch:
        patch.setattr(os, "pwrite", full)
        journal.begin(REF, EngineSpec(), CASE)

    assert not (tmp_path / FOLDER).exists()


def test_run_under_way_is_left_alone(tmp_path: Path) -> None:
    """Two runs may share a folder, as xdist's workers do."""
    with contextlib.closing(Journal(tmp_path)) as one:
        one.begin(REF, EngineSpec(), CASE)
        with contextlib.closing(Journal(tmp_path)) as other:
            assert cases(other) == []
        assert one._path.exists()


@pytest.mark.parametrize(
    "content",
    [b"", b"\n", b"{", b"[]\n", b"\xff\n", b'{"schema": 0}\n', b'{"kernel": "scale"}\n'],
    ids=["empty", "no case yet", "torn", "a list", "no text", "another schema", "none"],
)
def test_what_cannot_be_read_is_deleted(tmp_path: Path, content: bytes) -> None:
    """A file that tells nothing is of no use to any run."""
    path = abandoned(tmp_path)
    path.write_bytes(content)

    with contextlib.closing(Journal(tmp_path)) as journal:
        assert cases(journal) == []

    assert not path.exists()


def test_case_that_is_not_legal_any_more(tmp_path: Path) -> None:
    """It is deleted."""
    path = abandoned(tmp_path)
    entry = json.loads(path.read_text(encoding="utf-8").splitlines()[0])
    path.write_text(json.dumps({**entry, "case": {**entry["case"], "rows": 0}}) + "\n", encoding="utf-8")

    with contextlib.closing(Journal(tmp_path)) as journal:
        assert cases(journal) == []

    assert not path.exists()


def test_folder_that_cannot_be_written(tmp_path: Path) -> None:
    """One line, with the folder and what to do."""
    (tmp_path / FOLDER).write_text("", encoding="utf-8")

    with pytest.raises(UsageError, match=rf"^cannot write to {tmp_path / FOLDER}: .*; choose another folder with --out$"):
        Journal(tmp_path)


def hanging_case(folder: Path) -> str:
    """What the journal says once a case hangs."""
    for _ in range(600):
        for path in folder.glob("*.json"):
            line = (path.read_text(encoding="utf-8").splitlines() or [""])[0]
            if line and json.loads(line)["kernel"] == "loops" and json.loads(line)["case"]["columns"] >= misbehaving.FROM:
                return line
        time.sleep(0.1)
    raise AssertionError(f"no case hangs, or none is in {folder}")


def test_killed_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """SIGKILL of a whole run loses nothing found; the next one begins with the case that was in flight.

    Real commands; their workers are the stand-in, which loads no torch.
    """
    monkeypatch.chdir(tmp_path)
    prelude = f"import sys; sys.path[:] = {sys.path!r}; from tridiff.harness.isolation import process; import misbehaving"
    options = ("--plugin", "toy.planted", "--out", "out")
    kernels = ("--kernel", "exits", "--kernel", "loops", "--max-examples", "60")
    run = subprocess.Popen(
        [
            sys.executable,
            "-c",
            f"{prelude}; process.BOOT = misbehaving.BOOT; from tridiff.harness.cli import main; main(sys.argv[1:])",
            *("fuzz", *kernels, *options, "--timeout", "600"),
        ],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
    )
    try:
        entry = json.loads(hanging_case(Path("out", FOLDER)))
    finally:
        run.send_signal(signal.SIGKILL)
        run.communicate()
    (found,) = Path("out/findings").glob("*.json")
    assert json.loads(found.read_text(encoding="utf-8"))["kernel"] == "exits"

    monkeypatch.setattr(process, "BOOT", misbehaving.BOOT)
    with pytest.raises(SystemExit) as left:
        cli.main(["fuzz", *options, "--kernel", "loops", "--max-examples", "1", "--timeout", "1", "--json"])

    document = json.loads(capsys.readouterr().out)
    (finding,) = document["findings"]
    assert left.value.code == cli.Exit.FINDINGS
    assert (finding["check"], finding["kernel"], finding["case"]["columns"]) == ("hang", "loops", misbehaving.FROM)
    assert entry["case"]["columns"] >= misbehaving.FROM
    assert document["kernels"][0]["cases"] == 1  # the replay is counted besides
    assert not Path("out", FOLDER).exists()
