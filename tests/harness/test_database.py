"""The database: failing cases outlive a run, and what is clean or no case any more is forgotten."""

from __future__ import annotations

import io
import json
import socket
import zipfile
from collections.abc import Callable
from dataclasses import replace
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import pytest
from hypothesis.database import DirectoryBasedExampleDatabase, ExampleDatabase, InMemoryExampleDatabase
from toy.family import registry
from toy.strategies.scale import ScaleCase

from tridiff.harness.api import SCHEMA, Clean, Domain, Finding, Found, Kernel, Skipped
from tridiff.harness.database import Remembered, opened
from tridiff.harness.engines.spec import EngineSpec, UsageError
from tridiff.harness.registry import Registry
from tridiff.harness.runner.campaign import Budget
from tridiff.harness.runner.events import CaseDone, Event, FindingMinimal, FindingSeen
from tridiff.harness.runner.session import Session
from tridiff.harness.settings import GitHub, Store

KEY = json.dumps(["tridiff", SCHEMA, "scale", "scale", "gfx942"]).encode()
GITHUB = GitHub(owner="someone", repo="kernels", artifact="failing", directory=Path("downloads"))
SMALL, LARGE = ScaleCase(columns=2), ScaleCase(rows=3, columns=20, seed=5)
MISMATCH = Finding(
    check="mismatch",
    message="wrong",
    line=None,
    op="scale",
    kernel="scale",
    engine="cpu",
    target="gfx942",
    case=LARGE,
)


@pytest.fixture
def known() -> Registry:
    """The toy family; its Op has no cases of 999 rows on gfx942."""
    made = registry()
    made.ops["scale"] = replace(made.op("scale"), within=allowed)
    return made


def allowed(case: ScaleCase, domain: Domain) -> bool:
    """Whether the toy Op as changed here has such a case on this target."""
    return case.rows != 999 or domain.target != "gfx942"


@pytest.fixture
def store() -> ExampleDatabase:
    """An empty database."""
    return InMemoryExampleDatabase()


@pytest.fixture
def remembered(store: ExampleDatabase, known: Registry) -> Remembered:
    """What is remembered in `store`."""
    return Remembered(store, known, "gfx942")


@pytest.fixture
def kernel(known: Registry) -> Kernel:
    """The kernel whose cases these are."""
    return known.kernel("scale")


def seen(case: ScaleCase, check: str = "mismatch") -> FindingSeen:
    """The event of a finding as drawn."""
    return FindingSeen(finding=replace(MISMATCH, case=case, check=check), examples=1)


def minimal(case: ScaleCase, check: str = "mismatch") -> FindingMinimal:
    """The event of a finding at its smallest."""
    return FindingMinimal(finding=replace(MISMATCH, case=case, check=check), examples=1, shrunk=True)


# What is kept


def test_finding_is_remembered_at_once(remembered: Remembered, kernel: Kernel) -> None:
    """Whatever ends the run afterwards, the case is there."""
    remembered.listen(seen(LARGE))

    assert remembered.first(kernel) == [LARGE]


def test_smallest_case_takes_the_place(remembered: Remembered, kernel: Kernel) -> None:
    """A finding has one case in the end; another finding keeps its own."""
    for event in (seen(LARGE), seen(ScaleCase(gap=3), "bounds"), minimal(SMALL)):
        remembered.listen(event)

    assert remembered.first(kernel) == [ScaleCase(gap=3), SMALL] or remembered.first(kernel) == [SMALL, ScaleCase(gap=3)]


def test_case_that_is_minimal_already(remembered: Remembered, kernel: Kernel) -> None:
    """Nothing smaller was found: the case stays."""
    remembered.listen(seen(SMALL))
    remembered.listen(minimal(SMALL))

    assert remembered.first(kernel) == [SMALL]


def test_saved_before_deleted(known: Registry, kernel: Kernel) -> None:
    """At no time the database is without a case of the finding."""
    counts = []

    class Watched(InMemoryExampleDatabase):
        def delete(self, key: bytes, value: bytes) -> None:
            counts.append(len(list(self.fetch(key))))
            super().delete(key, value)

    remembered = Remembered(Watched(), known, "gfx942")
    remembered.listen(seen(LARGE))
    remembered.listen(minimal(SMALL))

    assert counts == [2]


def done(case: ScaleCase, outcome: Any, *, replayed: bool = True) -> CaseDone:
    """The event of an examined case."""
    return CaseDone(kernel="scale", case=case, outcome=outcome, shrinking=False, replayed=replayed)


@pytest.mark.parametrize(
    ("event", "stays"),
    [
        (done(SMALL, Clean(ratio=0.5, conclusive=True)), False),
        (done(LARGE, Clean(ratio=0.5, conclusive=True)), True),
        (done(SMALL, Clean(ratio=0.5, conclusive=True), replayed=False), True),
        (done(SMALL, Found(finding=MISMATCH)), True),
        (done(SMALL, Skipped(reason="no memory")), True),
    ],
)
def test_clean_case_is_forgotten(remembered: Remembered, kernel: Kernel, event: CaseDone, *, stays: bool) -> None:
    """Only a case that was run again and is clean; one that could not be judged stays."""
    remembered.listen(seen(SMALL))

    remembered.listen(event)

    assert remembered.first(kernel) == ([SMALL] if stays else [])


@pytest.mark.parametrize(
    "value",
    [
        b"",
        b"\xff",
        b"[1, 2]",
        b"{",
        b"[" * 100_000,
        b'{"rows": "two"}',
        b'{"rows": 5000}',
        b'{"colour": 1}',
        b'{"rows": 999}',
        b'{"rows": ' + b"9" * 5000 + b"}",
    ],
)
def test_what_is_no_case_is_forgotten(store: ExampleDatabase, remembered: Remembered, kernel: Kernel, value: bytes) -> None:
    """Neither what cannot be read, nor what its class or the target does not allow (any more)."""
    store.save(KEY, value)
    store.save(KEY, b'{"rows": 2}')

    assert remembered.first(kernel) == [ScaleCase(rows=2)]
    assert list(store.fetch(KEY)) == [b'{"rows": 2}']


def test_kernels_and_targets_are_apart(store: ExampleDatabase, known: Registry, remembered: Remembered) -> None:
    """What fails for one kernel on one target says nothing of another."""
    remembered.listen(seen(SMALL))

    assert remembered.first(known.kernel("scale_wrong")) == []
    assert Remembered(store, known, "gfx950").first(known.kernel("scale")) == []
    assert Remembered(store, known, "gfx942").first(known.kernel("scale")) == [SMALL]


def test_order(remembered: Remembered, kernel: Kernel) -> None:
    """The shortest first, whatever the order in which the file system has them."""
    for number in (100, 3, 20, 10):
        remembered.listen(seen(ScaleCase(columns=number), f"check{number}"))

    assert [case.columns for case in remembered.first(kernel)] == [3, 10, 20, 100]


# Runs


def test_second_run_begins_with_what_the_first_found(known: Registry, store: ExampleDatabase) -> None:
    """The failing case comes before other given ones and fails again, smaller; a repair empties the store."""
    events: list[Event] = []

    def session(kernel: str) -> Session:
        made = Session([known.kernel(kernel)], EngineSpec(), 0, Budget(examples=1), events.append, known)
        made.first = lambda _kernel: [ScaleCase(seed=3)]
        Remembered(store, known, "gfx942").accompany(made)
        return made

    Remembered(store, known, "gfx942").listen(
        FindingSeen(finding=replace(MISMATCH, kernel="scale_wrong", case=LARGE), examples=1)
    )
    broken = session("scale_wrong")
    broken.run()
    replayed = [event.case for event in events if isinstance(event, CaseDone) and event.replayed]
    (left,) = Remembered(store, known, "gfx942").first(known.kernel("scale_wrong"))
    known.kernels["scale_wrong"] = replace(known.kernel("scale_wrong"), launcher="scale")
    repaired = session("scale_wrong")
    repaired.run()

    assert replayed == [LARGE, ScaleCase(seed=3)]
    assert [finding.case for finding in broken.findings.values()] == [left] == [SMALL]
    assert repaired.findings == {}
    assert Remembered(store, known, "gfx942").first(known.kernel("scale_wrong")) == []


# Where


@pytest.fixture
def warnings_of() -> list[str]:
    """What was warned of."""
    return []


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder, and the current one; no token in the environment, and no network."""
    monkeypatch.chdir(tmp_path)
    for name in ("GITHUB_TOKEN", "GH_TOKEN"):
        monkeypatch.delenv(name, raising=False)

    def unreachable(*_: object, **__: object) -> None:
        raise OSError("no network here")

    monkeypatch.setattr(socket, "create_connection", unreachable)
    return tmp_path


def test_directory(folder: Path, known: Registry, kernel: Kernel, warnings_of: list[str]) -> None:
    """Cases are files below the directory, which another process reads."""
    store = Store(directory=folder / "a/b")
    Remembered(opened(store, warnings_of.append), known, "gfx942").listen(seen(SMALL))

    assert Remembered(opened(store, warnings_of.append), known, "gfx942").first(kernel) == [SMALL]
    assert [path for path in (folder / "a/b").rglob("*") if b'"columns":2' in (path.read_bytes() if path.is_file() else b"")]
    assert warnings_of == []


def test_directory_that_cannot_be_written(warnings_of: list[str]) -> None:
    """Hypothesis would drop every case without a word."""
    with pytest.raises(UsageError, match=r"^cannot write to /dev/null/x: Not a directory; set another database\.directory in "):
        opened(Store(directory=Path("/dev/null/x")), warnings_of.append)


def artifact(cases: list[ScaleCase], known: Registry, name: str | None = None) -> Path:
    """A download of an artifact with these cases, as GitHub would give it, where downloads of `GITHUB` are kept."""
    source = DirectoryBasedExampleDatabase("uploaded")
    for case in cases:
        Remembered(source, known, "gfx942").listen(seen(case))
    assert GITHUB.directory is not None
    GITHUB.directory.mkdir()
    file = GITHUB.directory / f"{name or datetime.now(timezone.utc).isoformat().replace(':', '_')}.zip"
    with zipfile.ZipFile(file, "w") as archive:
        for path in Path("uploaded").rglob("*"):
            archive.write(path, path.relative_to("uploaded"))
    return file


def test_artifact_is_read(folder: Path, known: Registry, kernel: Kernel, warnings_of: list[str]) -> None:
    """Cases of the artifact come besides those of the directory; to it nothing is written, and nothing deleted in it."""
    file = artifact([SMALL], known)
    before = file.read_bytes()
    remembered = Remembered(opened(Store(directory=Path("local"), github=GITHUB), warnings_of.append), known, "gfx942")

    remembered.listen(seen(LARGE))
    first = remembered.first(kernel)
    for case in first:
        remembered.listen(done(case, Clean(ratio=0.1, conclusive=True)))

    assert first == [SMALL, LARGE]
    assert remembered.first(kernel) == [SMALL]
    assert file.read_bytes() == before
    assert warnings_of == []


def test_without_network(folder: Path, known: Registry, kernel: Kernel, warnings_of: list[str]) -> None:
    """One line says so, and that there is no token; the local part works."""
    remembered = Remembered(opened(Store(directory=Path("local"), github=GITHUB), warnings_of.append), known, "gfx942")

    remembered.listen(seen(SMALL))

    assert remembered.first(kernel) == [SMALL]
    (line,) = warnings_of
    assert line == (
        "database.github: artifact failing of someone/kernels: Could not connect to GitHub to get the latest artifact.; "
        "there is no token in GITHUB_TOKEN; the run goes on without what could not be had"
    )
    assert socket.getdefaulttimeout() is None


Damage = Callable[[Path], object]


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda file: file.write_bytes(b"no archive"), "The downloaded artifact from GitHub is invalid. "),
        (lambda file: file.rename(file.parent / "mine.zip"), "ValueError: Invalid isoformat string: 'mine'; "),
        (lambda file: file.rename(file.parent / "2020-01-01T00_00_00+00_00.zip"), "Could not connect to GitHub "),
    ],
)
def test_artifact_that_is_no_good(
    folder: Path, known: Registry, kernel: Kernel, warnings_of: list[str], damage: Damage, message: str
) -> None:
    """One line, whatever is wrong; an old download is still read where there is no new one."""
    file = artifact([SMALL], known)
    damage(file)

    remembered = Remembered(opened(Store(directory=Path("local"), github=GITHUB), warnings_of.append), known, "gfx942")

    assert remembered.first(kernel) == ([SMALL] if "connect" in message else [])
    (line,) = warnings_of
    assert line.startswith(f"database.github: artifact failing of someone/kernels: {message}")


def test_token_comes_from_the_environment(folder: Path, monkeypatch: pytest.MonkeyPatch, warnings_of: list[str]) -> None:
    """With a token the line does not ask for one; GH_TOKEN serves where GITHUB_TOKEN is not set."""
    monkeypatch.setenv("GH_TOKEN", "secret")

    opened(Store(directory=Path("local"), github=GITHUB), warnings_of.append)

    (line,) = warnings_of
    assert "token" not in line
    assert "secret" not in line


def test_answer_that_makes_no_sense(folder: Path, monkeypatch: pytest.MonkeyPatch, warnings_of: list[str]) -> None:
    """A proxy's page in place of GitHub's list is one line as well, and the token goes where it belongs."""
    sent = []

    def answer(request: Any, *_: object, **__: object) -> io.BytesIO:
        sent.append((request.full_url, request.unredirected_hdrs["Authorization"], socket.getdefaulttimeout()))
        return io.BytesIO(b"<html>")

    monkeypatch.setenv("GITHUB_TOKEN", "secret")
    monkeypatch.setattr("urllib.request.urlopen", answer)

    opened(Store(directory=Path("local"), github=GITHUB), warnings_of.append)

    (line,) = warnings_of
    assert line.startswith("database.github: artifact failing of someone/kernels: JSONDecodeError: ")
    assert sent == [("https://api.github.com/repos/someone/kernels/actions/artifacts", "Bearer secret", 20.0)]
