"""Records of a run: what is written, what survives, and what is read again."""

from __future__ import annotations

import errno
import io
import json
import re
import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import recorded
from toy.family import registry
from toy.strategies.scale import ScaleCase

from tridiff.harness.api import Clean, Infrastructure, Skipped, Unsupported
from tridiff.harness.engines.spec import EngineSpec, UsageError
from tridiff.harness.report import eventfile
from tridiff.harness.report.eventfile import EventFile, read
from tridiff.harness.report.recording import Recording, digest
from tridiff.harness.report.records import check
from tridiff.harness.report.run_document import run_document
from tridiff.harness.report.summary import Summary, findings_of, kernels_of
from tridiff.harness.runner.campaign import Budget
from tridiff.harness.runner.events import CaseDone, Event, KernelDone, WorkerDied
from tridiff.harness.runner.session import Session

SECOND = "scale-mismatch-00000000"


def session(**given: Any) -> Session:
    """A session of both toy kernels."""
    known = registry()
    return Session(list(known.kernels.values()), EngineSpec(), 3, Budget(examples=40), lambda _event: None, known, **given)


def recording_of(fuzzed: Session, path: Path) -> Recording:
    """Record what `fuzzed` does, to the end."""
    with EventFile(path) as file:
        made = Recording(fuzzed, file, folder=Path("out/findings"))
        fuzzed.listener = made.event
        fuzzed.run()
        made.end()
    return made


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Where the records of a test go."""
    return tmp_path / "e.jsonl"


@pytest.fixture
def made(path: Path) -> Iterator[Recording]:
    """The recording of a session that did nothing yet."""
    with EventFile(path) as file:
        yield Recording(session(), file, folder=Path("out"))


def written(path: Path) -> list[dict[str, Any]]:
    """The records in a file."""
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


# What is written


def test_records_of_a_run(path: Path) -> None:
    """All are well formed; one of the run is first, one of the sums last; a finding is seen before it is minimal."""
    recording_of(session(), path)

    records = written(path)
    assert [check(record) for record in records] == records
    assert [record["record"] for record in records if record["record"] != "case"] == [
        "run",
        "distribution",
        "finding",
        "finding",
        "distribution",
        "summary",
    ]
    assert [record["stage"] for record in records if record["record"] == "finding"] == ["seen", "minimal"]
    assert [entry["kernel"] for entry in records[0]["kernels"]] == ["scale", "scale_wrong"]
    assert records[0]["budget"] == {"examples": 40, "seconds": None, "shrink_seconds": 60.0}
    assert (records[-1]["exit"], records[-1]["totals"]["cases"], records[-1]["totals"]["findings"]) == (1, 40, 1)
    times = [record["seconds"] for record in records[1:]]
    assert times == sorted(times)


def test_sum_of_the_records_is_what_the_session_counted(path: Path) -> None:
    """What is derived from the file agrees with the session's own counts, and with the sum that was kept in memory."""
    fuzzed = session(first=lambda _kernel: [ScaleCase(rows=3), ScaleCase(columns=7)])

    sums = recording_of(fuzzed, path).summary

    (run,) = read(path).runs
    for name, tally in fuzzed.tallies.items():
        counts = run.kernels[name]
        for ours, theirs in (("examples", "cases"), *((same, same) for same in SAME)):
            assert getattr(tally, ours) == getattr(counts, theirs), (name, ours)
        assert {name: sum(words.values()) for name, words in counts.properties.items()} == dict.fromkeys(
            ("rows", "gap"), tally.judged
        )
    assert fuzzed.tallies["scale"].replayed == 2
    assert list(run.findings) == list(fuzzed.findings)
    assert run_document(run) == run_document(sums)
    assert run.end == sums.end


SAME = (
    "replayed",
    "shrink_runs",
    "clean",
    "inconclusive",
    "failing",
    "skipped",
    "unsupported",
    "worst_ratio",
    "specialisations",
    "hits",
    "reasons",
)


@pytest.mark.parametrize(
    ("event", "expected"),
    [
        (
            CaseDone(kernel="scale", case=ScaleCase(), outcome=Skipped(reason="no room"), shrinking=False, replayed=True),
            {"kind": "replayed", "outcome": "skipped", "reason": "no room"},
        ),
        (
            CaseDone(kernel="scale", case=ScaleCase(), outcome=Unsupported(reason="tt.x", line="k:1"), shrinking=True),
            {"kind": "shrinking", "outcome": "unsupported", "reason": "tt.x", "line": "k:1"},
        ),
        (
            CaseDone(kernel="scale", case=ScaleCase(), outcome=Infrastructure(reason="died", tail=("a", "b")), shrinking=False),
            {"kind": "drawn", "outcome": "infrastructure", "reason": "died", "tail": ["a", "b"]},
        ),
        (
            CaseDone(kernel="scale", case=ScaleCase(), outcome=Clean(ratio=float("inf")), shrinking=False),
            {"outcome": "clean", "ratio": None, "case": digest(ScaleCase())},
        ),
        (
            WorkerDied(kernel="scale", case=ScaleCase(rows=2), how="SIGKILL", tail=("\udcff",), confirming=True),
            {"record": "worker_died", "how": "SIGKILL", "tail": ["\udcff"], "confirming": True},
        ),
    ],
)
def test_record_of_an_event(made: Recording, path: Path, event: Event, expected: dict[str, Any]) -> None:
    """Every event has its record, which says what the event says, whatever characters a process wrote."""
    made.event(event)

    record = written(path)[-1]
    assert check(record)
    assert {name: record[name] for name in expected} == expected


def test_what_the_judged_cases_of_a_kernel_were(made: Recording, path: Path) -> None:
    """Is written once its share has ended, or in the end; cases that were not judged have no words, and none is counted twice."""
    one, many = {"rows": "one", "gap": "none"}, {"rows": "several", "gap": "none"}
    for kernel, words in (("scale", one), ("scale", many), ("scale", many), ("scale", {}), ("scale_wrong", one)):
        outcome = Clean(ratio=0.5) if words else Skipped(reason="no room")
        made.event(CaseDone(kernel=kernel, case=ScaleCase(), outcome=outcome, shrinking=False, properties=words))
    made.event(KernelDone(kernel="scale"))
    made.end()

    records = [record for record in written(path) if record["record"] == "distribution"]
    assert [(record["kernel"], record["properties"]) for record in records] == [
        ("scale", {"rows": {"one": 1, "several": 2}, "gap": {"none": 3}}),
        ("scale_wrong", {"rows": {"one": 1}, "gap": {"none": 1}}),
    ]
    assert run_document(read(path).runs[0])["kernels"][0]["properties"] == {"rows": {"several": 2, "one": 1}, "gap": {"none": 3}}


def test_death_keeps_the_whole_case(made: Recording, path: Path) -> None:
    """The case that killed a worker can be run again from the record alone."""
    made.event(WorkerDied(kernel="scale", case=ScaleCase(rows=2), how="SIGKILL"))

    assert written(path)[-1]["case"] == {
        "rows": 2, "columns": 1, "gap": 0, "factor": 1.0, "seed": 0, "preset": False
    }  # fmt: skip
    assert made.summary.kernels["scale"].worker_deaths == 1


def test_cases_stay_small(made: Recording, path: Path) -> None:
    """A case costs some 200 bytes, whatever its size: its digest is written, by which cases can be told apart."""
    for rows in range(1, 301):
        outcome = Clean(ratio=0.005402828573496731, specialisations=("_attend_split-b73148e5", "_merge_splits-2d5917ca"))
        made.event(CaseDone(kernel="scale_wrong", case=ScaleCase(rows=rows), outcome=outcome, shrinking=False))

    first, *cases = path.read_bytes().splitlines(keepends=True)
    assert first.startswith(b'{"record":"run"')
    assert max(map(len, cases)) < 250
    assert len({json.loads(line)["case"] for line in cases}) == 300


# What survives


def test_file_grows_line_by_line(made: Recording, path: Path) -> None:
    """What was written can be read at once, by another process, while the run goes on."""
    made.event(CaseDone(kernel="scale", case=ScaleCase(), outcome=Clean(ratio=0.25), shrinking=False))

    (run,) = read(path).runs

    assert run.killed
    assert (run.kernels["scale"].cases, run.kernels["scale"].worst_ratio) == (1, 0.25)


def test_run_before_is_kept(tmp_path: Path) -> None:
    """A run begins a file of its own; of those before the last one alone stays."""
    path = tmp_path / "events.jsonl"
    for seed in range(4):
        file = eventfile.fresh(path)
        file.write(recorded.run(seed=seed))
        file.close()

    seeds = {found.name: read(found).runs[0].run["seed"] for found in tmp_path.iterdir()}

    assert seeds == {"events.jsonl": 3, "events.previous.jsonl": 2}


@contextmanager
def disk_full_beyond(size: int) -> Iterator[None]:
    """Within this context the kernel cuts every file of this process off at `size` bytes, as on a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_full_disk_costs_records_and_no_more(path: Path) -> None:
    """Lines that do not fit are counted and leave no part behind; once there is room, writing goes on."""
    with EventFile(path) as file:
        file.write(recorded.run())
        with disk_full_beyond(path.stat().st_size + 10):
            file.write(recorded.case(ratio=0.7))
            file.write(recorded.case(ratio=0.8))
        file.write(recorded.case(ratio=0.2))
        file.write(recorded.end(lost=file.lost))

    (run,) = read(path).runs
    assert file.complaint == f"{path} is incomplete: 2 records could not be written: File too large"
    assert (run.kernels["scale"].cases, run.kernels["scale"].worst_ratio, run.lost) == (1, 0.2, 2)


def test_file_says_what_it_lacks(made: Recording, path: Path) -> None:
    """Its last record counts the lost ones; the sum in memory lacks none."""
    with disk_full_beyond(path.stat().st_size + 10):
        made.event(CaseDone(kernel="scale", case=ScaleCase(), outcome=Clean(ratio=0.5), shrinking=False))
    made.end()

    (run,) = read(path).runs

    assert (run.lost, run.kernels["scale"].cases, run.end and run.end["totals"]["cases"]) == (1, 0, 1)
    assert (made.summary.lost, made.summary.kernels["scale"].cases) == (0, 1)


class Broken(io.RawIOBase):
    """A file on which every operation fails once a few bytes were written."""

    def write(self, line: Any, /) -> int:
        """Raise."""
        raise OSError(errno.ENOSPC, f"No space left on device for {len(line)} bytes")

    def truncate(self, size: int | None = None, /) -> int:
        """Raise."""
        raise OSError(errno.EIO, f"Input/output error at {size}")


def test_file_that_cannot_be_repaired_is_given_up(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where part of a line cannot be cut off again nothing is written behind it; nothing is raised either."""
    with EventFile(path) as file:
        assert file._file is not None
        file._file.close()
        monkeypatch.setattr(file, "_file", Broken())
        for _ in range(3):
            file.write(recorded.case())

    assert file.complaint is not None
    assert re.search(r"3 records could not be written: No space left on device for \d+ bytes$", file.complaint)


def test_file_that_cannot_be_opened(tmp_path: Path) -> None:
    """It takes records, and says in the end that none of them was written, and why."""
    with EventFile(tmp_path / "none" / "e.jsonl") as file:
        file.write(recorded.run())
        file.write(recorded.end())

    assert file.complaint == f"{file.path} is incomplete: 2 records could not be written: No such file or directory"


# What is read again


def lines(*records: dict[str, Any]) -> bytes:
    """Records as a file has them."""
    return b"".join(json.dumps(record).encode() + b"\n" for record in records)


def test_torn_last_line(path: Path) -> None:
    """The line in flight when a run was killed is left out, and said to be."""
    path.write_bytes(lines(recorded.run(), recorded.case()) + lines(recorded.case())[:-9])

    reading = read(path)

    assert reading.torn
    assert reading.runs[0].kernels["scale"].cases == 1
    assert reading.runs[0].killed


def test_whole_last_line_without_its_end(path: Path) -> None:
    """A last record that lacks only its newline counts."""
    path.write_bytes(lines(recorded.run(), recorded.end())[:-1])

    reading = read(path)

    assert not reading.torn
    assert not reading.runs[0].killed


def test_several_runs_in_a_file(path: Path) -> None:
    """Each record `run` begins another one, also where the one before was killed."""
    path.write_bytes(lines(recorded.run(seed=1), recorded.case(), recorded.run(seed=2), recorded.case(), recorded.end()))

    runs = read(path).runs

    assert [(run.run["seed"], run.kernels["scale"].cases, run.killed) for run in runs] == [(1, 1, True), (2, 1, False)]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", ": holds no record of a run; give the path of a file events.jsonl that tridiff wrote"),
        (lines(recorded.run()) + b'{"a" 1}\n', ":2: not JSON: Expecting ':' delimiter at column 6; give the path of a "),
        (lines(recorded.run()) + b'"\xff"\n', ":2: not JSON: "),
        (lines(recorded.run()) + b"[]\n", ":2: must be a JSON object, not a list"),
        (lines(recorded.case()), ":1: the record case belongs to no run"),
        (lines(recorded.run(), recorded.end(), recorded.case()), ":3: the record case belongs to no run"),
        (lines(recorded.run(schema=2)), ":1: schema 2: this tridiff reads schema 1"),
        (lines(recorded.run(schema=True)), ":1: schema True: this tridiff reads schema 1"),
        (lines({"schema": 1, "op": "scale"}), ":1: record=None: must be one of run, case, finding, unexpected_pass, "),
        (lines(recorded.run(), recorded.distribution(rows=1)), ":2: rows of properties: must be an object of counts by word"),
        (lines(recorded.run(), recorded.distribution(rows={"one": "1"})), ":2: rows of properties: must be an object of counts"),
        (lines(recorded.run(seed="x")), ":1: seed of run is a string: must be an integer"),
        (lines(recorded.run(seed=True)), ":1: seed of run is true or false: must be an integer"),
        (lines(recorded.run(shard=3)), ":1: shard of run is an integer: must be a string or null"),
        (lines(recorded.run(kernels=["scale"])), ":1: kernels of run: must be objects"),
        (lines(recorded.run(kernels=[{"op": "scale"}])), ":1: kernels of run without the field kernel"),
        (lines(recorded.run(), recorded.case(kernel="other")), ":2: the kernel other is none of the run's: scale"),
        (lines(recorded.run(), recorded.case("fine")), ":2: outcome='fine': must be one of clean, found, "),
        (lines(recorded.run(), recorded.case(kind="dealt")), ":2: kind='dealt': must be one of drawn, replayed, shrinking"),
        (lines(recorded.run(), recorded.case(ratio="0.5")), ":2: ratio of case that is clean is a string: must be a number or "),
        (lines(recorded.run(), recorded.end(exit=7)), ":2: exit=7: must be one of 0, 1, 2, 3"),
        (lines(recorded.run(), {**recorded.death(), "case": "0123"}), ":2: case of worker_died is a string: must be an object"),
    ],
)  # fmt: skip
def test_malformed_file(path: Path, content: bytes, message: str) -> None:
    """One line that names the file, the line, and what is wrong there."""
    path.write_bytes(content)

    with pytest.raises(UsageError) as refused:
        read(path)

    assert str(refused.value).startswith(f"{path}{message}")


def test_fields_of_a_later_version_are_welcome() -> None:
    """A field that this version does not know changes nothing."""
    assert check(recorded.case(colour="red")) == recorded.case(colour="red")


# Sums of several runs


def found(signature: str = SECOND, **changed: Any) -> dict[str, Any]:
    """A finding of `scale` by its signature."""
    repro = {
        "op": "scale",
        "kernel": "scale",
        "engine": "cpu",
        "target": "gfx942",
        "check": "mismatch",
        "message": "",
        "case": {},
    }
    nothing: dict[str, Any] = {
        "line": None,
        "others": [],
        "tail": [],
        "differing": {},
        "file": None,
        "unwritten": None,
        "reproduce": None,
    }
    known = {
        "record": "finding",
        "seconds": 2.0,
        "stage": "minimal",
        "signature": signature,
        "examples": 1,
        "shrunk": True,
        "why": None,
    }
    return {**known, "meaning": "", **nothing, "repro": repro, **changed}


def shard(*records: dict[str, Any]) -> Summary:
    """A run that came to its end."""
    return recorded.folded([recorded.run(), *records, recorded.end()])


def test_counts_over_runs() -> None:
    """Counts add up, the worst ratio is the worst, and what is known by name is counted once."""
    death = recorded.case("infrastructure")
    runs = [
        shard(recorded.case(ratio=0.2), recorded.case("skipped"), death, recorded.death()),
        shard(recorded.case(ratio=0.9, specialisations=["a", "b"]), recorded.case("skipped"), death),
    ]

    counts = kernels_of(runs)["scale"]

    assert (counts.cases, counts.clean, counts.skipped, counts.in_infrastructure, counts.worker_deaths) == (6, 2, 2, 2, 1)
    assert (counts.worst_ratio, counts.specialisations) == (0.9, {"a", "b"})
    assert counts.reasons == {"no address space": 2}
    assert counts.infrastructure["died of SIGSEGV"].tail == ("last words",)
    assert runs[0].kernels["scale"].cases == 3


def test_distributions_over_runs() -> None:
    """Shards add up, word by word; no run is changed by that."""
    runs = [
        shard(recorded.distribution(rows={"one": 1, "several": 2})),
        shard(recorded.distribution(rows={"several": 3}, gap={"none": 3}), recorded.distribution(rows={"several": 1})),
    ]

    counts = kernels_of(runs)["scale"]

    assert counts.properties == {"rows": {"one": 1, "several": 6}, "gap": {"none": 3}}
    assert [run.kernels["scale"].properties["rows"] for run in runs] == [{"one": 1, "several": 2}, {"several": 4}]


def test_findings_over_runs() -> None:
    """One defect is one finding, with its hits in all; a minimal case stands for one that is not, whichever came first."""
    seen, cut = found(stage="seen", shrunk=None), found(shrunk=False)
    minimal = found(differing={"rows": 2})
    hit = recorded.case("found")

    for order in ([seen, cut, minimal], [minimal, cut, seen], [cut, minimal, seen]):
        known = findings_of([shard(hit, record) for record in order])
        assert list(known) == [SECOND]
        assert known[SECOND] == (minimal, 3)
