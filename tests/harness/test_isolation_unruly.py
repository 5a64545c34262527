"""Worker processes: kernels that fork, that answer in part, that write where the answer goes; and processes that others end.

The worker is a stand-in that loads no torch and starts at once, as in `test_isolation.py`.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import misbehaving
import pytest
from toy.family import registry
from toy.strategies.scale import ScaleCase

from tridiff.harness import cli
from tridiff.harness.api import Clean, Finding, Found, Kernel, Outcome
from tridiff.harness.engines.spec import EngineSpec
from tridiff.harness.isolation import process, worker
from tridiff.harness.isolation.isolated import Isolated, Limits, WorkerLost
from tridiff.harness.isolation.process import Death, Setting, Worker
from tridiff.harness.registry import Registry
from tridiff.harness.runner.events import WorkerDied
from tridiff.harness.runner.examine import KernelRef

BAD = ScaleCase(columns=misbehaving.FROM)
GOOD = ScaleCase(columns=16)


def known() -> Registry:
    """The toy Op with a kernel for everything unruly."""
    made = registry()
    for name in (*misbehaving.BEHAVIOURS, *misbehaving.UNRULY, "counts"):
        made.register_kernel(Kernel(name=name, op="scale", module="toy.kernels.scale", launcher="scale"))
    return made


@pytest.fixture(autouse=True)
def stand_in(monkeypatch: pytest.MonkeyPatch) -> None:
    """Workers start without torch."""
    monkeypatch.setattr(process, "BOOT", misbehaving.BOOT)


@pytest.fixture
def examiner() -> Iterator[Isolated]:
    """Workers that are ended with the test."""
    with contextlib.closing(Isolated(Limits(seconds=2.0, most_bytes=300 << 20))) as made:
        yield made


def examined(
    examiner: Isolated, kernel: str, case: ScaleCase, *, fault: str | None = None, died: list[WorkerDied] | None = None
) -> Outcome:
    """The outcome of a Case; `died` collects what is announced."""
    announced: list[WorkerDied] = [] if died is None else died
    ref = KernelRef(kernel=kernel, fault=fault)
    return examiner.examine(ref, EngineSpec(), case, known(), shrinking=False, announce=announced.append)


def finding_of(examiner: Isolated, kernel: str, case: ScaleCase) -> Finding:
    """The finding of a Case that fails."""
    outcome = examined(examiner, kernel, case)
    assert isinstance(outcome, Found), outcome
    return outcome.finding


@pytest.mark.parametrize(
    ("kernel", "check", "said"),
    [
        ("abandons", "crash", "killed by SIGABRT"),
        ("promises", "hang", "took longer than the 2 s"),
        ("stammers", "crash", "exited with code 0"),
        ("boasts", "crash", "wrote into, or closed, the connection"),
    ],
)
def test_what_becomes_of_it(examiner: Isolated, kernel: str, check: str, said: str) -> None:
    """A child that holds the connection hides no death; an answer of which a part is missing keeps nobody waiting."""
    finding = finding_of(examiner, kernel, BAD)

    assert finding.check == check
    assert said in finding.message


@pytest.mark.parametrize("kernel", ["clones", "heirs"])
def test_what_is_forked_does_not_answer(examiner: Isolated, kernel: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A child that returns to us, or raises, ends; each case gets the answer that is its own."""
    served = misbehaving.BOOT.replace("misbehaving.serve(setup)", "misbehaving.serve_as_worker(setup)")
    monkeypatch.setattr(process, "BOOT", served)

    outcomes = [examined(examiner, name, case) for name, case in ((kernel, BAD), ("counts", GOOD), ("counts", GOOD))]

    assert [outcome.ratio for outcome in outcomes if isinstance(outcome, Clean)] == [0.0, 1.0, 2.0]


def test_second_answer_is_nobodys(examiner: Isolated) -> None:
    """A process that says more than it was asked is replaced before the next Case."""
    assert isinstance(examined(examiner, "counts", GOOD), Clean)
    assert isinstance(examined(examiner, "echoes", BAD), Clean)
    time.sleep(0.2)

    assert examined(examiner, "counts", GOOD) == Clean(ratio=0.0, specialisations=("s",))


def test_standard_output_that_is_gone(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is the kernel's to close, or to replace."""
    monkeypatch.setattr(sys, "stdout", None)

    assert worker._answer({})["bug"] == "KeyError: 'kernel'"


def test_confirmation_is_for_one_kernel_and_fault(examiner: Isolated) -> None:
    """What one kernel did alone says nothing of another, nor of its twin; nor of a Case that was clean then."""
    died: list[WorkerDied] = []
    for kernel, fault in (("exits", None), ("aborts", None), ("exits", "twin")):
        assert isinstance(examined(examiner, kernel, BAD, fault=fault, died=died), Found)
    finding = finding_of(examiner, "exits", BAD)
    smaller = Finding(**{**vars(finding), "case": GOOD})
    larger = ScaleCase(columns=misbehaving.FROM + 1)
    assert isinstance(examined(examiner, "faults", larger), Found)
    faulty = Finding(**{**vars(finding_of(examiner, "faults", larger)), "case": BAD})
    told: list[WorkerDied] = []

    assert examiner.confirmed(KernelRef(kernel="faults"), EngineSpec(), faulty, known(), told.append) == faulty
    assert [event.case for event in told] == [BAD]
    assert [event.confirming for event in died] == [False, True] * 3
    assert examiner.confirmed(KernelRef(kernel="exits"), EngineSpec(), smaller, known(), died.append) is None
    assert examiner.confirmed(KernelRef(kernel="exits"), EngineSpec(), smaller, known(), died.append) is None


def test_spare_that_is_killed_while_it_starts(examiner: Isolated, monkeypatch: pytest.MonkeyPatch) -> None:
    """The machine may be out of memory: another one is started."""
    with monkeypatch.context() as patch:
        patch.setattr(process, "BOOT", "import time; time.sleep(60)")
        spare = examiner._start_spare()
    os.kill(spare.pid, signal.SIGKILL)

    assert isinstance(examined(examiner, "counts", GOOD), Clean)


def test_workers_that_are_always_killed(examiner: Isolated, monkeypatch: pytest.MonkeyPatch) -> None:
    """After some tries that is told."""
    monkeypatch.setattr(process, "BOOT", "import os; os.write(2, b'no device'); os.write(2, bytes([10])); os.abort()")

    with pytest.raises(WorkerLost, match=r"ended with code -6 while it started: no device; --no-isolation does without$"):
        examined(examiner, "counts", GOOD)


def test_command_without_workers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """One line, no traceback, and the exit code of infrastructure: it is no defect of tridiff."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(process, "BOOT", "import sys; sys.exit('no device')")

    with pytest.raises(SystemExit) as left:
        cli.main(["fuzz", "--plugin", "toy.planted", "--kernel", "exits", "--max-examples", "1"])

    assert left.value.code == cli.Exit.HARNESS
    assert capsys.readouterr().err.splitlines()[-1] == (
        "tridiff: a worker process ended with code 1 while it started: no device; --no-isolation does without"
    )


def test_interrupted_start_leaves_no_process(examiner: Isolated, monkeypatch: pytest.MonkeyPatch) -> None:
    """Closing ends a worker that was not ready when Ctrl-C came."""
    spare = examiner._start_spare()

    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Worker, "started", interrupted)
        with pytest.raises(KeyboardInterrupt):
            examined(examiner, "counts", GOOD)
    examiner.close()

    assert spare._process.returncode == -signal.SIGKILL


def test_search_path_with_what_is_no_string(examiner: Isolated, monkeypatch: pytest.MonkeyPatch) -> None:
    """Python passes over a Path in sys.path, and so do we."""
    monkeypatch.setattr(sys, "path", [Path("/nowhere"), *sys.path])

    assert isinstance(examined(examiner, "counts", GOOD), Clean)


# What a process leaves behind


def held() -> tuple[int, int]:
    """Descriptors and threads of this process."""
    return len([*Path("/proc/self/fd").iterdir()]), threading.active_count()


def children() -> set[str]:
    """Processes that this one has started and that have not ended, or were not waited for; other tests may have some."""
    return {pid for task in Path("/proc/self/task").iterdir() for pid in (task / "children").read_text().split()}


def test_nothing_is_left_of_many_deaths(examiner: Isolated) -> None:
    """No process, no descriptor, no thread."""
    others = children()
    examined(examiner, "counts", GOOD)
    before = held()
    assert children() > others

    for number in range(20):
        examined(examiner, "exits", ScaleCase(rows=1 + number, columns=misbehaving.FROM))
    examiner.close()
    after = held()

    assert after[0] <= before[0]
    assert after[1] <= before[1]
    assert children() <= others


def test_daemon_holds_nothing_of_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    """A process that the kernel put into a session of its own keeps the pipe open, but neither thread nor descriptor here."""
    monkeypatch.setattr(process, "_LINGER", 50)
    before = held()
    code = (
        "import os, subprocess, sys; daemon = subprocess.Popen(['sleep', '20'], start_new_session=True);"
        " print(daemon.pid, flush=True); os._exit(3)"
    )
    monkeypatch.setattr(process, "BOOT", code)

    death = Worker(Setting()).started()

    assert isinstance(death, Death)
    try:
        for _ in range(100):
            if held() != before:
                time.sleep(0.05)
        assert held() == before
    finally:
        os.kill(int(death.lines[-1]), signal.SIGKILL)


def test_files_go_with_the_process() -> None:
    """Also with one that is killed, and cannot tidy up itself."""
    worker = Worker(Setting())
    worker.started()
    worker._folder.mkdir()
    (worker._folder / "twin.py").touch()

    worker.kill()

    assert not worker._folder.exists()


def test_what_the_case_before_wrote_is_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also what is still in the pipe: it would name another defect."""
    monkeypatch.setattr(process._Tail, "_drain", lambda _tail: None)  # it comes too late
    reading, writing = os.pipe()
    tail = process._Tail(reading)
    os.write(writing, b"LLVM ERROR: of the case before\n")

    tail.forget()
    os.write(writing, b"LLVM ERROR: of this one\n")
    tail._read()

    assert tail.lines() == ("LLVM ERROR: of this one",)
    os.close(reading)
    os.close(writing)
