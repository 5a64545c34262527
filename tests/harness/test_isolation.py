"""Worker processes: whatever a Case does to its process, the run goes on and says what happened.

The worker is a stand-in that loads no torch and starts at once; `test_isolation_real.py` has the real one.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import misbehaving
import pytest
from toy.family import registry
from toy.strategies.scale import ScaleCase

from tridiff.harness.api import CHECKS, Clean, Finding, Found, Infrastructure, Kernel, Outcome
from tridiff.harness.engines.spec import EngineSpec, UsageError
from tridiff.harness.isolation import deaths, process
from tridiff.harness.isolation import isolated as module
from tridiff.harness.isolation.isolated import Isolated, Limits, RemoteBug, WorkerLost
from tridiff.harness.isolation.process import Death, Setting, Worker
from tridiff.harness.registry import Registry
from tridiff.harness.runner.campaign import Budget, Campaign
from tridiff.harness.runner.events import CaseDone, Event, FindingMinimal, FindingSeen, WorkerDied
from tridiff.harness.runner.examine import KernelRef

BAD = ScaleCase(rows=2, columns=18, gap=1)
GOOD = ScaleCase(rows=2, columns=16)
MINIMAL = ScaleCase(columns=misbehaving.FROM)
LIMITS = Limits(seconds=2.0, most_bytes=300 << 20)
"""A stand-in needs some 15 MiB, and answers at once."""


def known() -> Registry:
    """The toy Op with a kernel for everything that the stand-in does."""
    made = registry()
    for name in (*misbehaving.BEHAVIOURS, "sulks", "counts", "mutters"):
        made.register_kernel(Kernel(name=name, op="scale", module="toy.kernels.scale", launcher="scale"))
    return made


@pytest.fixture(autouse=True)
def stand_in(monkeypatch: pytest.MonkeyPatch) -> None:
    """Workers start without torch."""
    monkeypatch.setattr(process, "BOOT", misbehaving.BOOT)
    monkeypatch.setattr(module, "LEAST_PATIENCE", 0.5)


@dataclass
class Bench:
    """An Isolated, with what it announces."""

    examiner: Isolated
    died: list[WorkerDied] = field(default_factory=list)

    def outcome(self, kernel: str, case: ScaleCase, *, shrinking: bool = False) -> Outcome:
        """Examine."""
        ref = KernelRef(kernel=kernel)
        return self.examiner.examine(ref, EngineSpec(), case, known(), shrinking=shrinking, announce=self.died.append)

    def finding(self, kernel: str, case: ScaleCase) -> Finding:
        """Examine a case that fails."""
        outcome = self.outcome(kernel, case)
        assert isinstance(outcome, Found), outcome
        return outcome.finding

    def campaign(self, kernel: str, events: list[Event], examples: int, *first: ScaleCase) -> Campaign:
        """A campaign in worker processes."""
        budget = Budget(examples=examples)
        return Campaign(
            KernelRef(kernel=kernel), EngineSpec(), 0, budget, events.append, known(), first=first, examiner=self.examiner
        )


@pytest.fixture
def bench() -> Iterator[Bench]:
    """Workers that are ended with the test."""
    with contextlib.closing(Isolated(LIMITS)) as examiner:
        yield Bench(examiner)


def is_alive(pid: int) -> bool:
    """Whether there is such a process, which is no zombie."""
    try:
        return ") Z " not in Path(f"/proc/{pid}/stat").read_text(encoding="utf-8")
    except OSError:
        return False


def gone(pid: int) -> bool:
    """Whether the process ends within some seconds."""
    for _ in range(200):
        if not is_alive(pid):
            return True
        time.sleep(0.05)
    return False


@pytest.mark.parametrize(("spares_from", "before"), [(0, 1), (1, 0)])
def test_spares(monkeypatch: pytest.MonkeyPatch, spares_from: int, before: int) -> None:
    """One stands ready after a while, unless it is wanted from the first death on."""
    monkeypatch.setattr(module, "SPARE_AFTER", 0.0)

    with contextlib.closing(Isolated(LIMITS, spares_from=spares_from)) as examiner:
        bench = Bench(examiner)
        bench.outcome("aborts", GOOD)
        ready = len(examiner._spares)
        bench.outcome("aborts", BAD)

        assert ready == before
        assert examiner._spares


# What becomes of a case


def test_clean_case(bench: Bench) -> None:
    """The outcome comes back as it was; one worker serves all cases."""
    outcomes = [bench.outcome("counts", GOOD) for _ in range(3)]

    assert outcomes == [Clean(ratio=float(count), specialisations=("s",)) for count in range(3)]
    assert bench.died == []


@pytest.mark.parametrize(
    ("kernel", "check", "message", "line"),
    [
        ("aborts", "crash", r"killed by SIGABRT \(an abort\): LLVM ERROR: Cannot select: 0x\w+: v4f32 = fsub \d+", True),
        ("faults", "crash", r"killed by SIGSEGV \(a segmentation fault\)", True),
        ("exits", "crash", "exited with code 3", False),
        ("interferes", "crash", "wrote into, or closed, the connection by which it answers", False),
        ("loops", "hang", r"took longer than the 2 s that one may take; it was at misbehaving\.py:\d+", False),
        ("swells", "memory", r"needed more than the 0\.293 GiB of memory", False),
    ],
)
def test_death_is_a_finding(bench: Bench, kernel: str, check: str, message: str, line: bool) -> None:
    """It says how the process died and, of a crash, on which line; other cases are not disturbed."""
    assert isinstance(bench.outcome(kernel, GOOD), Clean)

    outcome = bench.outcome(kernel, BAD)

    assert isinstance(outcome, Found)
    finding = outcome.finding
    assert (finding.check, finding.case, finding.kernel, finding.op) == (check, BAD, kernel, "scale")
    assert re.search(message, finding.message)
    assert (finding.line is not None) == line
    assert [event.confirming for event in bench.died] == [False, True]
    assert [event.case for event in bench.died] == [BAD, BAD]
    assert isinstance(bench.outcome(kernel, GOOD), Clean)


def test_finding_has_the_last_words(bench: Bench) -> None:
    """What the process wrote in this case, not in the one before; without the stack, and not what the message says already."""
    outcomes = [bench.outcome("mutters", case) for case in (GOOD, BAD)]

    assert isinstance(outcomes[1], Found)
    assert outcomes[1].finding.tail == ("18 columns", "error: no workspace", "good-bye")
    assert outcomes[1].finding.message.endswith("exited with code 5: error: no workspace")
    assert bench.finding("aborts", BAD).tail == ()


def test_garbage_on_standard_output(bench: Bench) -> None:
    """It reaches nobody, and what the kernel did besides is judged as always."""
    outcome = bench.outcome("babbles", BAD)

    assert isinstance(outcome, Found)
    assert (outcome.finding.check, outcome.finding.others, outcome.finding.case) == ("mismatch", ("poison",), BAD)
    assert bench.died == []


def test_bug_of_ours(bench: Bench) -> None:
    """What tridiff itself raises in a worker is raised here, with its traceback."""
    with pytest.raises(RemoteBug, match=r"KeyError: 'num_kv_heads'\nhere"):
        bench.outcome("raises", BAD)


def test_dtypes_and_floats_survive(bench: Bench) -> None:
    """Every field of the outcome has the type that it had."""
    outcome = bench.outcome("counts", GOOD)

    assert isinstance(outcome, Clean)
    assert isinstance(outcome.ratio, float)
    assert isinstance(outcome.specialisations, tuple)


# Replay of a death


def test_death_that_does_not_happen_again(bench: Bench) -> None:
    """A process that dies of what it did before is no finding of this case."""
    assert isinstance(bench.outcome("sulks", GOOD), Clean)

    outcome = bench.outcome("sulks", BAD)

    assert isinstance(outcome, Infrastructure)
    assert "killed by SIGABRT" in outcome.reason
    assert any("misbehaving.py" in line for line in outcome.tail)
    assert [event.confirming for event in bench.died] == [False]


def test_known_death_is_not_replayed(bench: Bench) -> None:
    """Each costs a process, and one confirmation is enough for a kind."""
    first = bench.finding("exits", BAD)

    second = bench.finding("exits", MINIMAL)

    assert first.signature() == second.signature()
    assert len(bench.died) == 3


def test_smaller_case_is_not_replayed(bench: Bench) -> None:
    """While a finding shrinks, only the last case is confirmed."""
    assert isinstance(bench.outcome("exits", BAD, shrinking=True), Found)

    assert [event.confirming for event in bench.died] == [False]


def test_confirmation_of_the_smallest_case(bench: Bench) -> None:
    """It has the time that any case has; what a hasty look took for a hang is none."""
    hang = bench.finding("loops", BAD)
    hasty = Finding(**{**vars(hang), "case": GOOD})
    ref = KernelRef(kernel="loops")

    assert bench.examiner.confirmed(ref, EngineSpec(), hasty, known(), bench.died.append) is None
    assert bench.examiner.confirmed(ref, EngineSpec(), hang, known(), bench.died.append) is hang


def test_known_hang_takes_less_time(bench: Bench) -> None:
    """Or every hit of one would cost the whole time that a case may take."""
    bench.outcome("loops", GOOD)
    bench.finding("loops", BAD)

    again = bench.finding("loops", MINIMAL)

    assert "longer than the 0.5 s" in again.message
    assert "longer than the 2 s" in bench.died[0].how


# Campaigns


@pytest.mark.parametrize("kernel", ["aborts", "faults", "exits", "interferes", "loops", "swells", "babbles"])
def test_each_is_one_minimal_finding(bench: Bench, kernel: str) -> None:
    """Exactly one, of the case that a person would write; the other examples complete."""
    events: list[Event] = []

    findings = list(bench.campaign(kernel, events, 30).run().values())

    done = [event for event in events if isinstance(event, CaseDone)]
    examples = [event for event in done if not event.shrinking]
    assert [finding.case for finding in findings] == [MINIMAL]
    assert len([event for event in events if isinstance(event, FindingSeen)]) == 1
    assert [event.shrunk for event in events if isinstance(event, FindingMinimal)] == [True]
    assert len(examples) == 30
    assert {type(event.outcome) for event in examples} == {Clean, Found}
    assert all(isinstance(event.outcome, Found) == (event.case.columns >= misbehaving.FROM) for event in examples)
    assert sum(event.shrinking for event in done) < 30


def test_smallest_case_must_kill_a_fresh_process(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """Otherwise the case as it was found is reported, and said not to be fully shrunk."""
    monkeypatch.setattr(Isolated, "confirmed", lambda *_: None)
    events: list[Event] = []

    findings = list(bench.campaign("exits", events, 1, BAD).run().values())

    assert [finding.case for finding in findings] == [BAD]
    assert [event.shrunk for event in events if isinstance(event, FindingMinimal)] == [False]


def test_deaths_while_shrinking_are_few(bench: Bench) -> None:
    """Each costs the start of a process, which takes seconds with torch."""
    events: list[Event] = []

    bench.campaign("exits", events, 1, BAD).run()

    assert sum(isinstance(event, WorkerDied) for event in events) <= 5


# Processes


def test_dead_worker_is_replaced_unnoticed(bench: Bench) -> None:
    """What killed it while it had nothing to do, has nothing to do with the next case."""
    bench.outcome("counts", GOOD)
    worker = bench.examiner._worker
    assert worker is not None
    os.kill(worker.pid, signal.SIGKILL)
    assert gone(worker.pid)

    assert isinstance(bench.outcome("counts", GOOD), Clean)
    assert bench.died == []


def test_workers_that_only_die(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where none starts, that is said, with what they wrote."""
    monkeypatch.setattr(process, "BOOT", "import sys; sys.exit('no module named torch')")

    with pytest.raises(WorkerLost, match=r"ended with code 1 while it started: no module named torch; --no-isolation does"):
        bench.outcome("counts", GOOD)


def test_worker_that_refuses(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """A plug-in that cannot be loaded there is the user's matter."""
    refusing = misbehaving.BOOT.replace("misbehaving.serve(setup)", "misbehaving.refuse(setup)")
    monkeypatch.setattr(process, "BOOT", refusing)

    with pytest.raises(UsageError, match=r"^plug-in x\.py: no such file$"):
        bench.outcome("counts", GOOD)


def test_grown_worker_is_replaced(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """What it has kept from earlier cases must not count as the next one's; what it needs to begin with is no growth."""
    monkeypatch.setattr(Worker, "resident", property(lambda worker: (180 + 13 * worker.answered) << 20))

    ratios = [outcome.ratio for outcome in (bench.outcome("counts", GOOD) for _ in range(8)) if isinstance(outcome, Clean)]

    assert ratios == [0.0, 1.0, 2.0, 3.0, 4.0, 0.0, 1.0, 2.0]  # from 180 MiB to 240, of 300


def test_interrupted_worker_is_ended(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its answer would be taken for that of the next case."""
    bench.outcome("counts", GOOD)
    worker = bench.examiner._worker
    assert worker is not None

    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Worker, "_receive", interrupted)
        with pytest.raises(KeyboardInterrupt):
            bench.outcome("counts", GOOD)

    assert not is_alive(worker.pid)
    assert bench.outcome("counts", GOOD) == Clean(ratio=0.0, specialisations=("s",))


def test_close_ends_everything() -> None:
    """Workers, and what they started."""
    examiner = Isolated(LIMITS)
    bench = Bench(examiner)
    bench.outcome("counts", GOOD)
    examiner._start_spares()
    pids = [worker.pid for worker in (examiner._worker, *examiner._spares) if worker is not None]

    examiner.close()

    assert len(pids) == 2
    assert not any(map(is_alive, pids))


def test_worker_of_other_plugins_is_replaced() -> None:
    """A registry is made once a process; built-in kernels do for any target, plug-ins may not."""
    ours = Setting()

    assert ours.serves((), "sm_90")
    assert not ours.serves(("a.py",), "gfx942")
    assert not Setting(("a.py",), "gfx942").serves(("a.py",), "sm_90")
    assert Setting(("a.py",), "gfx942").serves(("a.py",), "gfx942")


def test_nothing_of_ours_applies_to_a_kernel(bench: Bench) -> None:
    """No warning filter, no limit on address space, no core dump; standard input is empty."""
    code = (
        "import json, os, resource, sys, warnings; print(json.dumps({'filters': sys.warnoptions,"
        " 'space': resource.getrlimit(resource.RLIMIT_AS)[0], 'core': resource.getrlimit(resource.RLIMIT_CORE),"
        " 'input': sys.stdin.read(), 'first': open('/proc/self/oom_score_adj').read().strip()}), flush=True); os._exit(7)"
    )
    boot = misbehaving.BOOT.replace("misbehaving.serve(setup)", f"misbehaving.prepare(setup); exec({code!r})")
    patch = pytest.MonkeyPatch()
    patch.setattr(process, "BOOT", boot)

    with contextlib.closing(bench.examiner), patch.context():
        death = Worker(Setting()).started()

    patch.undo()
    assert isinstance(death, Death)
    said = json.loads(death.lines[-1])
    assert max(said.pop("core")) <= 1
    assert said == {"filters": [], "space": -1, "input": "", "first": "1000"}


def test_death_of_the_run_is_theirs() -> None:
    """A worker that is busy with an endless loop ends with the process that started it."""
    code = (
        "import sys, json\n"
        "from tridiff.harness.isolation import process\n"
        "process.BOOT = sys.argv[1]\n"
        "worker = process.Worker(process.Setting())\n"
        "worker.started()\n"
        "print(worker.pid, flush=True)\n"
        "case = {'columns': 17}\n"
        "worker.ask({'kernel': 'loops', 'case': case}, seconds=60.0, most_bytes=1 << 40)\n"
    )
    run = subprocess.Popen(
        [sys.executable, "-c", f"import sys; sys.path[:] = {sys.path!r}\n{code}", misbehaving.BOOT],
        stdout=subprocess.PIPE,
        text=True,
    )
    assert run.stdout is not None
    pid = int(run.stdout.readline())
    time.sleep(0.2)
    assert is_alive(pid)

    run.kill()
    run.communicate()

    assert gone(pid)


def test_last_words_tell_something() -> None:
    """The names of all modules in C, which Python prints after the stack, are left out."""
    lines = ("Bus error", "Extension modules: numpy, torch._C (total: 2)")

    assert deaths.tail(Death(code=-7, lines=lines)) == ("Bus error",)


def test_limit_below_what_a_worker_needs() -> None:
    """Every case would be a finding: the limit is wrong, not the kernel."""
    with contextlib.closing(Isolated(Limits(most_bytes=1 << 20))) as examiner:
        bench = Bench(examiner)

        with pytest.raises(
            UsageError, match=r"^the memory limit is 0\.000977 GiB, and a process needs 0\.\d+ GiB before it runs"
        ):
            bench.outcome("counts", GOOD)


def test_every_death_has_its_check() -> None:
    """The checks of dying processes are checks like any other."""
    assert {"crash", "hang", "memory"} <= CHECKS.keys()
