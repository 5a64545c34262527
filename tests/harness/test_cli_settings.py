"""Settings, profiles, remembered cases and lists of cases, as users of the command line meet them."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from io import StringIO
from pathlib import Path
from types import SimpleNamespace

import pytest
from hosting import MY_KERNELS
from plugging import left_as_found, saved
from toy.family import registry
from toy.strategies.scale import ScaleCase

from tridiff.harness import cli
from tridiff.harness import registry as registries
from tridiff.harness.case_lists import read, written
from tridiff.harness.database import Remembered
from tridiff.harness.isolation import isolated
from tridiff.harness.isolation.journal import Journal
from tridiff.harness.registry import Registry
from tridiff.harness.runner.session import Session
from tridiff.harness.settings import profile


@dataclass(frozen=True)
class Result:
    """What a command left behind."""

    code: int
    out: str
    err: str


Invoke = Callable[..., Result]


@pytest.fixture
def known(monkeypatch: pytest.MonkeyPatch) -> Registry:
    """The toy family stands in for the built-in ones, with two Faults."""
    made = registry()
    made.faults["scale"] = made.faults["scale"][:2]
    monkeypatch.setattr(registries, "builtin", lambda: made)
    return made


@pytest.fixture
def invoke(known: Registry, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Iterator[Invoke]:
    """Runs a command in this process, in an empty folder; Cases as well, since a worker could not know the toy family."""
    assert known.kernels

    def run(*arguments: object, isolation: bool = False) -> Result:
        here = arguments[0] in {"fuzz", "prove", "repro"} and not isolation
        with pytest.raises(SystemExit) as left:
            cli.main([*map(str, arguments), *(["--no-isolation"] if here else [])])
        captured = capsys.readouterr()
        assert isinstance(left.value.code, int)
        return Result(left.value.code, captured.out, captured.err)

    with left_as_found(tmp_path):
        yield run


def listed(*cases: ScaleCase, file: str = "list.jsonl") -> str:
    """Write a list of these cases, and return its name."""
    return saved(file, written("scale", "gfx942", cases))


# Settings


def test_fuzz_with_settings(invoke: Invoke) -> None:
    """Target, plug-in, folder and budget come from the file; the command that reproduces a finding needs no file."""
    saved("kernels/mine.py", MY_KERNELS)
    saved(
        "tridiff.toml",
        'target = "sm_90"\nplugins = ["kernels/mine.py"]\nout = "there"\n[profiles.dev]\nexamples = 20\nseed = 4\n',
    )

    result = invoke("fuzz", "--kernel", "my_wrong_kernel", "--json")

    document = json.loads(result.out)
    (path,) = Path("there/findings").iterdir()
    assert (result.code, result.err) == (cli.Exit.FINDINGS, "")
    assert (document["target"], document["seed"], document["plugins"]) == ("sm_90", 4, ["kernels/mine.py"])
    assert [kernel["cases"] for kernel in document["kernels"]] == [20]
    assert document["findings"][0]["file"] == str(path)
    assert not Path("tridiff-out").exists()


def test_command_line_beats_settings(invoke: Invoke) -> None:
    """Whatever is given counts instead."""
    saved("other.toml", 'profile = "ci"\ntarget = "sm_90"\nout = "there"\n')

    result = invoke(
        *("fuzz", "--kernel", "scale", "--config", "other.toml", "--profile", "dev", "--target", "gfx950"),
        *("--max-examples", 3, "--out", "here", "--seed", 2),
    )

    assert result.out.startswith("fuzzing scale on engine cpu, target gfx950, seed 2\n")
    assert "3 cases in " in result.out
    assert Path("here/findings").is_dir()
    assert not Path("there").exists()


def test_other_commands_read_settings(invoke: Invoke) -> None:
    """The plug-ins of the file are there for `list`, `prove` and `repro`, its target for `prove` and `cases`."""
    saved("mine.py", MY_KERNELS)
    saved("conf/tridiff.toml", 'target = "gfx1201"\nplugins = ["../mine.py"]\n')
    option = ("--config", "conf/tridiff.toml")
    invoke("fuzz", *option, "--kernel", "my_wrong_kernel", "--max-examples", 10)
    (case,) = Path("tridiff-out/findings").iterdir()

    listed_, proven = json.loads(invoke("list", *option, "--json").out), json.loads(invoke("prove", *option, "--json").out)

    assert "my_kernel" in [kernel["name"] for kernel in listed_["kernels"]]
    assert (proven["target"], len(proven["plugins"])) == ("gfx1201", 1)
    assert invoke("repro", *option, case).code == cli.Exit.FINDINGS
    assert invoke("repro", case).code == cli.Exit.USAGE
    assert '"target":"gfx1201"' in invoke("cases", *option, "--op", "scale", "--max-examples", 1).out


TARGET = '[targets.gfx1151]\nshared_bytes = 65536\nsource = "a test"\n'
"""A part that is not built in."""


def test_own_target(invoke: Invoke) -> None:
    """It is a target like any other for every command that reads the file, and for no other."""
    saved("mine.py", MY_KERNELS)
    saved("tridiff.toml", f'target = "gfx1151"\nplugins = ["mine.py"]\n{TARGET}')
    saved("none.toml", "")
    option = ("--target", "gfx1151")

    found = invoke("fuzz", "--kernel", "my_wrong_kernel", "--max-examples", 10, "--json")
    (case,) = Path("tridiff-out/findings").iterdir()
    listed = invoke("cases", *option, "--op", "scale", "--max-examples", 1)
    saved("list.jsonl", listed.out)

    assert (found.code, json.loads(found.out)["target"]) == (cli.Exit.FINDINGS, "gfx1151")
    assert (listed.code, '"target":"gfx1151"' in listed.out) == (cli.Exit.CLEAN, True)
    assert invoke("fuzz", "--kernel", "my_kernel", "--cases", "list.jsonl", "--max-examples", 1).code == cli.Exit.CLEAN
    assert invoke("repro", case).code == cli.Exit.FINDINGS
    assert invoke("prove", *option, "--kernel", "scale").code == cli.Exit.CLEAN
    for arguments in (["fuzz", *option], ["prove", *option], ["cases", *option, "--op", "scale"], ["repro", case]):
        refused = invoke(*arguments, "--config", "none.toml")
        assert (refused.code, "unknown target 'gfx1151'" in refused.err) == (cli.Exit.USAGE, True), arguments


def test_limits(invoke: Invoke, monkeypatch: pytest.MonkeyPatch) -> None:
    """Time and memory for a case come from the file, unless the command line says otherwise."""
    saved("tridiff.toml", "timeout = 7\nmemory_limit = 0.5\n")
    limits: list[isolated.Limits] = []

    def made(given: isolated.Limits, _worker: object) -> StringIO:
        limits.append(given)
        return StringIO()  # has a method `close`, and is asked for nothing else

    monkeypatch.setattr(isolated, "Isolated", made)
    monkeypatch.setattr(Session, "run", lambda _session: None)

    invoke("fuzz", "--no-verdicts", isolation=True)
    invoke("fuzz", "--no-verdicts", "--timeout", 9, "--memory-limit", 2, isolation=True)

    assert [(given.seconds, given.most_bytes) for given in limits] == [(7, 2**29), (9, 2**31)]


def test_in_flight_first(invoke: Invoke, known: Registry, monkeypatch: pytest.MonkeyPatch) -> None:
    """The case at which a run was killed comes before remembered ones, and these before those of lists."""
    orders = []
    monkeypatch.setattr(Session, "run", lambda session: orders.append(session.first(known.kernel("scale"))))
    monkeypatch.setattr(Journal, "cases", lambda *_: [ScaleCase(seed=1)])
    monkeypatch.setattr(Remembered, "first", lambda *_: [ScaleCase(seed=2)])
    listed(ScaleCase(seed=3))

    invoke("fuzz", "--profile", "deep", "--cases", "list.jsonl")

    assert orders == [[ScaleCase(seed=1), ScaleCase(seed=2), ScaleCase(seed=3)]]


@pytest.mark.parametrize("command", ["fuzz", "prove", "list", "cases --op scale", "repro x.json"])
def test_wrong_settings(invoke: Invoke, command: str) -> None:
    """One line, exit 2, before anything else is looked at."""
    saved("pyproject.toml", "[tool.tridiff]\ntimeout = -1\n")

    result = invoke(*command.split())

    assert (result.code, result.out) == (cli.Exit.USAGE, "")
    assert result.err == "tridiff: pyproject.toml: timeout: -1: must be a number of seconds of at least 1\n"


# Profiles


def test_seed_of_a_nightly_run_is_said(invoke: Invoke, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every run has another one, and the run with that seed is the same."""
    chances = iter([5, 6])  # two of those that eight examples are enough to tell apart, which two by chance need not be
    monkeypatch.setattr(profile, "secrets", SimpleNamespace(randbelow=lambda _: next(chances)))
    arguments = ("fuzz", "--kernel", "scale", "--profile", "nightly", "--max-examples", 8, "--json")

    first, second = (json.loads(invoke(*arguments).out) for _ in range(2))
    again = json.loads(invoke(*arguments, "--seed", first["seed"]).out)

    assert (first["seed"], second["seed"]) == (5, 6)
    assert again["kernels"][0]["worst_ratio"] == first["kernels"][0]["worst_ratio"] != second["kernels"][0]["worst_ratio"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--profile", "nigthly"], "unknown profile 'nigthly': did you mean 'nightly'?; profiles: dev, ci, gate, nightly, deep"),
        (
            ["--profile", "gate"],
            "profile gate runs committed lists of cases first, and there is none: give --cases PATH, or set ",
        ),
        (["--cases", "none.jsonl"], "none.jsonl: no such file; give a list of cases that `tridiff cases` wrote, or a folder of "),
        (["--config", "none.toml"], "none.toml: no such file; give the path of a settings file with --config"),
    ],
)
def test_wrong_arguments(invoke: Invoke, arguments: list[str], message: str) -> None:
    """One line with what to do instead; exit 2."""
    result = invoke("fuzz", "--max-examples", 1, *arguments)

    assert (result.code, result.out) == (cli.Exit.USAGE, "")
    assert result.err.startswith(f"tridiff: {message}")
    assert result.err.count("\n") == 1


# Lists


def test_lists_come_first(invoke: Invoke) -> None:
    """Cases of the setting and of the option are run besides the budget, and fail like any other, shrunk and with a file."""
    listed(ScaleCase(columns=1, seed=1), ScaleCase(columns=1, seed=2), file="one.jsonl")
    listed(ScaleCase(rows=700, columns=300, seed=3), file="two/list.jsonl")
    saved("tridiff.toml", 'cases = ["one.jsonl"]\n')

    result = invoke("fuzz", "--kernel", "scale_wrong", "--profile", "gate", "--cases", "two", "--max-examples", 1)

    assert result.code == cli.Exit.FINDINGS
    assert "  minimal case: columns=2\n" in result.out
    assert ": 3 cases replayed besides, from an earlier run, a list or the ledger\n" in result.out


def test_lists_for_other_kernels(invoke: Invoke) -> None:
    """That none of the given cases was run must not go unsaid."""
    saved("mine.json", json.dumps(
        {"schema": 1, "op": "scale", "kernel": "scale_wrong", "engine": "cpu", "target": "gfx942", "check": "nan", "case": {}}
    ))  # fmt: skip

    result = invoke("fuzz", "--kernel", "scale", "--cases", "mine.json", "--max-examples", 1)

    assert result.code == cli.Exit.CLEAN
    assert result.err == "tridiff: warning: no case of the lists is for scale: mine.json\n"


def test_cases_are_drawn(invoke: Invoke, known: Registry) -> None:
    """To a file or to standard output, the same for the same seed; what is written can be read."""
    shown = invoke("cases", "--op", "scale", "--max-examples", 12, "--seed", 5, "--target", "sm_90")
    kept = invoke("cases", "--op", "scale", "--max-examples", 12, "--seed", 5, "--target", "sm_90", "--out", "new/list.jsonl")

    assert (shown.code, shown.err, kept) == (cli.Exit.CLEAN, "", Result(cli.Exit.CLEAN, "", ""))
    assert Path("new/list.jsonl").read_text(encoding="utf-8") == shown.out
    assert len(read(Path("new/list.jsonl"), known).cases) == 12


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--op", "scael"], "unknown op 'scael': did you mean 'scale'?; known: scale"),
        (["--op", "scale", "--target", "gfx1"], "unknown target 'gfx1'"),
        (["--op", "scale", "--out", "/dev/null/x"], "--out /dev/null/x: cannot be written: File exists; choose another file"),
        ([], "Missing option '--op'"),
    ],
)
def test_cases_that_cannot_be_drawn(invoke: Invoke, arguments: list[str], message: str) -> None:
    """One line; exit 2."""
    result = invoke("cases", "--max-examples", 1, *arguments)

    assert (result.code, result.out) == (cli.Exit.USAGE, "")
    assert result.err.startswith(f"tridiff: {message}")


# What is remembered


def test_next_run_begins_with_what_failed(invoke: Invoke, known: Registry) -> None:
    """A run too short to find the defect finds it, as the one before did; without a database nothing is kept."""
    arguments = ("fuzz", "--kernel", "scale_wrong", "--out", "out")
    assert invoke(*arguments, "--max-examples", 20).code == cli.Exit.FINDINGS
    assert not Path("out/database").exists()
    assert invoke(*arguments, "--max-examples", 20, "--profile", "nightly", "--seed", 0).code == cli.Exit.FINDINGS
    assert Path("out/database").is_dir()

    again = invoke(*arguments, "--max-examples", 1, "--profile", "nightly")
    other = invoke(*arguments, "--max-examples", 1)

    assert again.code == cli.Exit.FINDINGS
    assert ": 1 case replayed besides, from an earlier run, a list or the ledger\n" in again.out
    assert other.code == cli.Exit.CLEAN


def test_database_of_the_settings(invoke: Invoke) -> None:
    """Where the settings name one it is used, also by the default profile; what cannot be had is a warning."""
    saved("tridiff.toml", '[database]\ndirectory = "seen"\n')
    invoke("fuzz", "--kernel", "scale_wrong", "--max-examples", 20)
    found = invoke("fuzz", "--kernel", "scale_wrong", "--max-examples", 1)
    saved("tridiff.toml", '[database]\ndirectory = "/dev/null/x"\n')
    refused = invoke("fuzz", "--kernel", "scale_wrong", "--max-examples", 1)

    assert found.code == cli.Exit.FINDINGS
    assert refused.code == cli.Exit.USAGE
    assert refused.err.startswith("tridiff: cannot write to /dev/null/x: Not a directory; set another database.directory in ")
