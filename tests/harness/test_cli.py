"""The command line as its users meet it: exit codes, one line for what is wrong, and output that can be relied on."""

from __future__ import annotations

import importlib
import json
import math
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch
import triton
from rich.console import Console
from toy.family import registry

from tridiff.harness import cli
from tridiff.harness import registry as registries
from tridiff.harness.api import Clean, Outcome, Skipped, Unsupported
from tridiff.harness.registry import Registry
from tridiff.harness.report import progress
from tridiff.harness.runner import campaign
from tridiff.harness.runner import examine as examination
from tridiff.harness.runner.shards import Shard

START_SECONDS = 60
"""Enough for a process to import torch and Triton on a busy machine."""


@dataclass(frozen=True)
class Result:
    """What a command left behind."""

    code: int
    out: str
    err: str

    @property
    def complaint(self) -> str:
        """The only line on standard error, of a command that found something wrong with how it was called."""
        assert self.code == cli.Exit.USAGE, self
        assert self.err.count("\n") == 1, self.err
        assert self.err.startswith("tridiff: ")
        return self.err.removeprefix("tridiff: ").removesuffix("\n")


Invoke = Callable[..., Result]


@pytest.fixture
def known(monkeypatch: pytest.MonkeyPatch) -> Registry:
    """The toy family stands in for the built-in ones; without the fault that takes long to time out."""
    made = registry()
    made.faults["scale"] = [fault for fault in made.faults["scale"] if fault.name != "never_ends"]
    monkeypatch.setattr(registries, "builtin", lambda: made)
    return made


@pytest.fixture
def invoke(known: Registry, capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Invoke:
    """Runs a command in this process, in an empty folder; Cases as well, since a worker could not know the toy family."""
    assert known.kernels
    monkeypatch.chdir(tmp_path)

    def run(*arguments: object) -> Result:
        runs_cases = bool(arguments) and arguments[0] in {"fuzz", "prove", "repro"}
        with pytest.raises(SystemExit) as left:
            cli.main([*map(str, arguments), *(["--no-isolation"] if runs_cases else [])])
        captured = capsys.readouterr()
        assert isinstance(left.value.code, int)
        return Result(left.value.code, captured.out, captured.err)

    return run


def process(*arguments: str, prelude: str = "", env: dict[str, str] | None = None) -> Result:
    """Run a command in a process of its own, after the statements of `prelude`."""
    code = f"import sys\n{prelude}\nfrom tridiff.harness.cli import main\nmain(sys.argv[1:])"
    command = [sys.executable, "-c", code, *arguments]
    done = subprocess.run(
        command, check=False, capture_output=True, text=True, env={**os.environ, **(env or {})}, timeout=2 * START_SECONDS
    )
    return Result(done.returncode, done.stdout, done.stderr)


def faulty(invoke: Invoke) -> Path:
    """A case file that `fuzz` wrote."""
    assert invoke("fuzz", "--kernel", "scale_wrong", "--max-examples", 20).code == cli.Exit.FINDINGS
    (path,) = Path("tridiff-out/findings").iterdir()
    return path


# Success


def test_clean_run(invoke: Invoke) -> None:
    """A kernel without defects: exit 0, nothing on standard error, and a closing line that counts."""
    result = invoke("fuzz", "--kernel", "scale", "--max-examples", 25, "--seed", 7)

    assert (result.code, result.err) == (cli.Exit.CLEAN, "")
    assert result.out.startswith("fuzzing scale on engine cpu, target gfx942, seed 7\n")
    assert re.search(r"\n25 cases in \d+ s: no findings\n$", result.out)


def test_shards(invoke: Invoke) -> None:
    """The shards of a run draw what it asks for in all, with seeds of their own; a shard's seed alone draws its cases again."""
    seeds = []
    for index, cases in enumerate((13, 12)):
        result = invoke("fuzz", "--kernel", "scale", "--max-examples", 25, "--seed", 7, "--shard", f"{index}/2")
        first, second, *_ = result.out.splitlines()
        assert first == f"shard {index}/2 of the run with seed 7"
        assert second.endswith(f", shard {index}/2")
        assert re.search(rf"\n{cases} cases in \d+ s: no findings\n$", result.out)
        seeds.append(second.removeprefix("fuzzing scale on engine cpu, target gfx942, seed ").partition(",")[0])

    assert seeds == [str(Shard(index, 2).seed(7)) for index in (0, 1)]
    document = json.loads(invoke("fuzz", "--kernel", "scale", "--max-examples", 4, "--shard", "1/2", "--json").out)
    assert document["kernels"][0]["cases"] == 2


def test_run_of_a_model(invoke: Invoke) -> None:
    """Only cases with the shapes of the model, or of one of its variants; the list of kernels names it."""
    result = invoke("fuzz", "--kernel", "scale", "--model", "Toy TP1", "--max-examples", 3)

    assert (result.code, result.err) == (cli.Exit.CLEAN, "")
    assert re.search(r"\n3 cases in \d+ s: no findings\n$", result.out)
    assert "models of scale: Toy\n" in invoke("list").out


def test_run_with_findings(invoke: Invoke) -> None:
    """A wrong kernel: exit 1, the finding with its file and the command that reproduces it, and a table."""
    result = invoke("fuzz", "--max-examples", 40, "--out", "there")

    (path,) = Path("there/findings").iterdir()
    assert result.code == cli.Exit.FINDINGS
    assert f"FINDING {path.stem}\n" in result.out
    assert "  minimal case: columns=2\n" in result.out
    assert f"  reproduce: tridiff repro {path}\n" in result.out
    assert f"1 finding, case files in {path.parent}\n" in result.out
    assert cells(result.out, "scale")[-1] == "0"
    assert cells(result.out, "scale_wrong")[-1] == "1"


def cells(table: str, kernel: str) -> list[str]:
    """The row of `kernel` in the closing table."""
    rows = ([cell.strip() for cell in re.split("[│|]", line)[1:-1]] for line in table.splitlines())
    (row,) = (row for row in rows if len(row) > 1 and row[1] == kernel)
    return row


def test_default_is_two_minutes(invoke: Invoke, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a limit there is one; with `--max-examples` alone there is no second one."""
    budgets = []
    monkeypatch.setattr(campaign.Campaign, "run", lambda self: budgets.append(self.budget))

    invoke("fuzz", "--kernel", "scale")
    invoke("fuzz", "--kernel", "scale", "--max-examples", 5)
    invoke("fuzz", "--kernel", "scale", "--max-examples", 5, "--seconds", 7)

    assert [(budget.examples, budget.seconds) for budget in budgets] == [(None, 120.0), (5, None), (5, 7.0)]


def test_time_limit(invoke: Invoke) -> None:
    """`--seconds` ends a run."""
    started = time.monotonic()

    result = invoke("fuzz", "--kernel", "scale", "--seconds", 1)

    assert result.code == cli.Exit.CLEAN
    assert 1.0 <= time.monotonic() - started < 10.0


@pytest.mark.parametrize(("columns", "wide"), [(80, False), (120, True)])
def test_narrow_terminal(invoke: Invoke, known: Registry, monkeypatch: pytest.MonkeyPatch, columns: int, *, wide: bool) -> None:
    """Where there is no room tables leave out what is least needed; nothing is cut, and no name of 16 characters is folded."""
    monkeypatch.setattr(cli, "_stdout", lambda: Console(width=columns, highlight=False))
    name = "decode_attention"
    known.kernels[name] = replace(known.kernels["scale"], name=name)

    result, listed = invoke("fuzz", "--kernel", name, "--max-examples", 1), invoke("list")

    assert ("┃ op " in result.out) is ("cases/s" in result.out) is wide
    assert f" {name} " in result.out.partition("┏")[2]
    assert f" {name} " in listed.out
    assert "\u2026" not in result.out + listed.out


def test_json_agrees_with_the_text(invoke: Invoke) -> None:
    """The document says what the text says, and is alone on standard output."""
    text = invoke("fuzz", "--max-examples", 60, "--seed", 2)
    result = invoke("fuzz", "--max-examples", 60, "--seed", 2, "--json")

    document = json.loads(result.out)
    (finding,) = document["findings"]
    assert (result.code, result.err) == (cli.Exit.FINDINGS, "")
    assert (document["schema"], document["seed"], document["engine"], document["target"]) == (1, 2, "cpu", "gfx942")
    assert not document["interrupted"]
    for counts in document["kernels"]:
        row = cells(text.out, counts["kernel"])
        shown = [counts["op"], counts["kernel"], str(counts["cases"]), str(counts["specialisations"])]
        assert [*row[:3], row[4]] == shown
        assert row[5] == f"{counts['worst_ratio']:.3f}"
        assert row[6:8] == [str(counts["inconclusive"]), str(counts["unsupported"] + counts["skipped"])]
        assert counts["clean"] + counts["failing"] == counts["cases"]
    assert f"FINDING {finding['signature']}\n" in text.out
    assert f"hits: {finding['hits']} drawn cases\n" in text.out
    assert f"what: {finding['message']}\n" in text.out
    assert f"tridiff repro {finding['file']}\n" in text.out
    assert finding["shrunk"] is True
    assert finding["case"]["columns"] == 2
    assert json.loads(Path(finding["file"]).read_text(encoding="utf-8"))["case"] == finding["case"]


def test_selection(invoke: Invoke) -> None:
    """`--op` and `--kernel` choose, and may be repeated."""
    names = []
    for arguments in (("--op", "scale"), ("--kernel", "scale"), ("--kernel", "scale", "--kernel", "scale_wrong")):
        document = json.loads(invoke("fuzz", "--max-examples", 2, "--json", *arguments).out)
        names.append([kernel["kernel"] for kernel in document["kernels"]])

    assert names == [["scale", "scale_wrong"], ["scale"], ["scale", "scale_wrong"]]


def test_list(invoke: Invoke, known: Registry) -> None:
    """Text and document name every op and kernel; the document the faults and checks as well."""
    text, document = invoke("list"), json.loads(invoke("list", "--json").out)

    assert (text.code, text.err) == (cli.Exit.CLEAN, "")
    assert document["ops"] == ["scale"]
    assert [kernel["name"] for kernel in document["kernels"]] == list(known.kernels)
    assert document["kernels"][0]["faults"] == [fault.name for fault in known.faults["scale"]]
    assert next(iter(document["checks"])) == "launch"
    assert cells(text.out, "scale")[2:] == ["cpu", str(len(known.faults["scale"])), "toy.kernels.scale", ""]


# Repro


def test_repro_of_a_finding(invoke: Invoke) -> None:
    """The file that fuzz wrote fails again: exit 1, with the finding and the same command, which is not wrapped."""
    path = faulty(invoke)
    longer = path.rename(path.parent / f"{'x' * 150}.json")

    result = invoke("repro", longer)

    assert (result.code, result.err) == (cli.Exit.FINDINGS, "")
    assert f"FINDING {path.stem}\n" in result.out
    assert f"  reproduce: tridiff repro {longer}\n" in result.out


def test_repro_of_what_was_repaired(invoke: Invoke) -> None:
    """The right kernel passes: exit 0, and the check that no longer fails."""
    path = faulty(invoke)
    path.write_text(path.read_text(encoding="utf-8").replace("scale_wrong", "scale"), encoding="utf-8")

    result = invoke("repro", path)

    assert (result.code, result.err) == (cli.Exit.CLEAN, "")
    assert re.fullmatch(rf"{path}: check mismatch does not fail any more; largest error ratio 0\.\d{{3}}\n", result.out)


def test_repro_of_another_check(invoke: Invoke) -> None:
    """Where another check fails first than the file says, that is told."""
    path = faulty(invoke)
    path.write_text(path.read_text(encoding="utf-8").replace('"mismatch"', '"bounds"'), encoding="utf-8")

    result = invoke("repro", path)

    assert result.code == cli.Exit.FINDINGS
    assert result.out.endswith("the file names check bounds; now mismatch fails first\n")


@pytest.mark.parametrize("outcome", [Skipped(reason="no address space"), Unsupported(reason="the operation tt.sort", line="k:1")])
def test_repro_that_cannot_be_judged(invoke: Invoke, monkeypatch: pytest.MonkeyPatch, outcome: Outcome) -> None:
    """Neither clean nor failing is a matter of the machine."""
    path = faulty(invoke)
    monkeypatch.setattr(examination, "examine", lambda *_: outcome)

    assert invoke("repro", path).complaint.startswith(f"{path}: cannot be judged on this machine: ")


# Prove


def test_prove(invoke: Invoke, known: Registry, monkeypatch: pytest.MonkeyPatch) -> None:
    """The missed fault is named, and makes the exit code 1."""
    monkeypatch.setattr(progress, "PLAIN_SECONDS", math.inf)  # it takes long enough for a line of progress on a busy machine
    known.faults["scale"] = [known.fault("scale", name) for name in ("gap_written", "assembly_used", "factor_off")]

    result = invoke("prove", "--kernel", "scale", "--max-examples", 30)

    assert (result.code, result.err) == (cli.Exit.FINDINGS, "")
    assert "2 of 3 faults caught within 30 examples each\nmissed: assembly_used\n" in result.out


def test_prove_document(invoke: Invoke, known: Registry) -> None:
    """Every fault with what was expected, what caught it, after how many examples, and with which case."""
    known.faults["scale"] = [known.fault("scale", name) for name in ("factor_off", "assembly_used")]

    result = invoke("prove", "--kernel", "scale", "--max-examples", 10, "--json")

    document = json.loads(result.out)
    caught, missed = document["faults"]
    assert result.code == cli.Exit.FINDINGS
    assert (document["engine"], document["target"], document["seed"]) == ("cpu", "gfx942", 0)
    assert (document["max_examples"], document["interrupted"]) == (10, False)
    assert (caught["fault"], caught["expected"], caught["caught_by"]) == ("factor_off", ["mismatch"], "mismatch")
    assert caught["shrunk"] is True
    assert caught["case"]["columns"] == 1
    assert (missed["caught_by"], missed["case"], missed["examples"]) == (None, None, 10)


def test_prove_all_caught(invoke: Invoke, known: Registry) -> None:
    """Every fault caught: exit 0."""
    known.faults["scale"] = [known.fault("scale", "factor_off")]

    result = invoke("prove", "--kernel", "scale", "--max-examples", 10)

    assert result.code == cli.Exit.CLEAN
    assert "1 of 1 faults caught within 10 examples each\n" in result.out
    assert "missed" not in result.out


# Wrong use


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["fuzz", "--op", "scael"], "unknown op 'scael': did you mean 'scale'?; known: scale"),
        (["fuzz", "--kernel", "scale_wring"], "unknown kernel 'scale_wring': did you mean 'scale_wrong'?; known: scale, "),
        (["fuzz", "--model", "Toi"], "no op has presets of the model 'Toi': did you mean 'Toy'?; `tridiff list` has the names"),
        (["fuzz", "--kernel", "qqq"], "unknown kernel 'qqq'; known: scale, scale_wrong"),
        (["fuzz", "--engine", "cpuu"], "unknown engine 'cpuu': did you mean 'cpu'?; engines: cpu"),
        (["fuzz", "--engine", "gpu"], "engine 'gpu' is not available yet: use --engine cpu, which needs no GPU"),
        (["fuzz", "--target", "gfx90"], "unknown target 'gfx90': did you mean 'gfx9"),
        (["prove", "--target", "GFX942"], "unknown target 'GFX942': did you mean 'gfx942'?; targets: gfx90a, gfx942, "),
        (["prove", "--engine", ""], "unknown engine ''; engines: cpu"),
        (["prove", "--kernel", "scala"], "unknown kernel 'scala': did you mean 'scale'?; known: scale, scale_wrong"),
        (["prove", "--kernel", "scale_wrong"], "no fault is registered for scale_wrong: nothing could be proven"),
        (["fuzz", "--shard", "2/2"], "--shard 2/2: the first number must be 0 to 1: shards are counted from 0"),
        (["fuzz", "--shard", "1"], "--shard '1': must be I/N, shard I (0 to N - 1) of N, such as 0/4"),
        (
            ["fuzz", "--max-examples", "7", "--shard", "3/4"],
            "--max-examples 7: shard 3/4 has 1, fewer than there are kernels (2): at least 8 are needed",
        ),
        (["fuzz", "--out", "/dev/null/x"], "cannot write to /dev/null/x/findings: Not a directory; choose another folder "),
        (["repro", "none.json"], "none.json: no such file; give the path of a case file that tridiff wrote"),
        (["repro", "."], ".: cannot be read: "),
    ],
)  # fmt: skip
def test_wrong_value(invoke: Invoke, arguments: list[str], message: str) -> None:
    """One line with the value and what to do instead; exit 2; nothing on standard output."""
    result = invoke(*arguments)

    assert result.complaint.startswith(message)
    assert result.out == ""


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["fuzz", "--max-examples", "0"], "--max-examples"),
        (["fuzz", "--max-examples", "-3"], "--max-examples"),
        (["fuzz", "--max-examples", "many"], "--max-examples"),
        (["fuzz", "--max-examples", "1.5"], "--max-examples"),
        (["fuzz", "--seconds", "-1"], "--seconds"),
        (["fuzz", "--seconds", "0"], "--seconds"),
        (["fuzz", "--seconds", "nan"], "--seconds"),
        (["fuzz", "--seconds", "inf"], "--seconds"),
        (["fuzz", "--seconds", "soon"], "--seconds"),
        (["fuzz", "--timeout", "0"], "--timeout"),
        (["prove", "--timeout", "nan"], "--timeout"),
        (["repro", "--timeout", "inf", "x.json"], "--timeout"),
        (["fuzz", "--memory-limit", "0.1"], "--memory-limit"),
        (["prove", "--memory-limit", "nan"], "--memory-limit"),
        (["repro", "--memory-limit", "inf", "x.json"], "--memory-limit"),
        (["fuzz", "--seed", "first"], "--seed"),
        (["fuzz", "--seed"], "--seed"),
        (["prove", "--max-examples", "-1"], "--max-examples"),
        (["fuzz", "--colour"], "--colour"),
        (["fuzz", "extra"], "extra"),
        (["list", "--seed", "1"], "--seed"),
        (["repro"], "CASE.json"),
        (["frobnicate"], "frobnicate"),
        (["--frobnicate"], "--frobnicate"),
    ],
)
def test_wrong_arguments(invoke: Invoke, arguments: list[str], named: str) -> None:
    """What the command line itself refuses is one line as well, and names the option."""
    result = invoke(*arguments)

    assert named in result.complaint
    assert result.out == ""


def test_negative_seed_is_a_seed(invoke: Invoke) -> None:
    """Any integer will do."""
    assert invoke("fuzz", "--kernel", "scale", "--max-examples", 2, "--seed", -5).code == cli.Exit.CLEAN


def test_damaged_case_file(invoke: Invoke) -> None:
    """A file that was cut off is refused by name."""
    path = faulty(invoke)
    path.write_text(path.read_text(encoding="utf-8")[:40], encoding="utf-8")

    assert invoke("repro", path).complaint.startswith(f"{path}: not JSON: ")


@pytest.mark.parametrize(
    "arguments",
    [[], ["--help"], ["fuzz", "--help"], ["prove", "--help"], ["repro", "--help"], ["cases", "--help"], ["list", "--help"]],
)
def test_help(invoke: Invoke, arguments: list[str]) -> None:
    """Help goes to standard output; without arguments it is shown too, but is no success."""
    result = invoke(*arguments)

    assert (result.code, result.err) == (cli.Exit.CLEAN if arguments else cli.Exit.USAGE, "")
    assert result.out.startswith("Usage: ")


# Environment


@pytest.mark.parametrize(
    ("package", "version", "message"),
    [
        (triton, "3.4.0", "triton 3.4.0 is installed, tridiff works with 3.5 or newer: install one of these"),
        (torch, "2.8.0+rocm6", "torch 2.8.0+rocm6 is installed, tridiff works with 2.9 or newer: install one of these"),
    ],
)
def test_wrong_version(invoke: Invoke, monkeypatch: pytest.MonkeyPatch, package: Any, version: str, message: str) -> None:
    """A version that we do not work with is named beside those that we do."""
    monkeypatch.setattr(package, "__version__", version)

    assert invoke("list").complaint == message


@pytest.mark.parametrize(
    ("package", "version"),
    [
        (triton, "3.5.1"),
        (triton, "3.6.0"),
        (triton, "3.9.9.post1"),
        (triton, "4.0.0+git123"),
        (torch, "2.9.0a0+git1"),
        (torch, "3.0"),
        (torch, "main"),
    ],
)
def test_right_version(invoke: Invoke, monkeypatch: pytest.MonkeyPatch, package: Any, version: str) -> None:
    """Source builds are welcome, and a version that cannot be read is given the benefit of the doubt."""
    monkeypatch.setattr(package, "__version__", version)

    assert invoke("list").code == cli.Exit.CLEAN


BLOCK = """
class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.partition('.')[0] in {blocked}:
            raise ModuleNotFoundError(f'No module named {{name!r}}')
sys.meta_path.insert(0, Blocker())
"""


@pytest.mark.parametrize(
    ("blocked", "message"),
    [
        ("{'triton'}", "triton is not installed: install the Triton that belongs to your torch "),
        ("{'torch', 'triton'}", "torch is not installed: pip install 'tridiff[cpu]' on a machine without a GPU, or "),
    ],
)
def test_missing_package(blocked: str, message: str) -> None:
    """Without torch, or with torch and no Triton, the line says what to install; help needs neither."""
    prelude = BLOCK.format(blocked=blocked)

    assert process("list", prelude=prelude).complaint.startswith(message)
    assert process("--help", prelude=prelude).code == cli.Exit.CLEAN


@pytest.mark.parametrize("package", ["torch", "triton"])
def test_broken_package(tmp_path: Path, package: str) -> None:
    """A package that cannot be imported is not our defect; its own message is shown."""
    (tmp_path / f"{package}.py").write_text("raise OSError('libamdhip64.so.6: cannot open shared object file')", encoding="utf-8")
    other = "" if package == "torch" else "import torch; "

    result = process("list", prelude=f"{other}sys.path.insert(0, {str(tmp_path)!r})")

    assert result.complaint == (
        f"{package} is installed but cannot be imported: libamdhip64.so.6: cannot open shared object file; repair or reinstall it"
    )


def test_interpreter_is_refused() -> None:
    """With TRITON_INTERPRET=1 the environment, and not every kernel, is found wrong."""
    result = process("fuzz", "--max-examples", "1", env={"TRITON_INTERPRET": "1"})

    assert result.complaint == "TRITON_INTERPRET is set, so launches cannot be captured: unset it and run again"


def test_module_is_the_command() -> None:
    """`python -m tridiff.harness` runs, and knows the built-in kernels."""
    command = [sys.executable, "-m", "tridiff.harness", "list", "--json"]

    done = subprocess.run(command, check=True, capture_output=True, text=True, timeout=START_SECONDS)

    assert "decode_attention" in json.loads(done.stdout)["ops"]


# When tridiff itself fails


def failing(*_: object) -> Outcome:
    """Stand in for an examination with a bug."""
    raise ZeroDivisionError("division by zero")


def test_harness_bug(invoke: Invoke, monkeypatch: pytest.MonkeyPatch) -> None:
    """Exit 3, a traceback for us, and a last line with the case that says whose defect it is; the table is shown as well."""
    monkeypatch.setattr(campaign, "examine", failing)

    result = invoke("fuzz", "--kernel", "scale", "--max-examples", 5)

    last = result.err.splitlines()[-1]
    assert result.code == cli.Exit.HARNESS
    assert "Traceback (most recent call last)" in result.err
    assert last.startswith("tridiff: tridiff failed on ScaleCase(rows=2, columns=8, ")
    assert last.endswith(
        "ZeroDivisionError: division by zero; this is a defect of tridiff, not of a kernel: please report the lines above"
    )
    assert cells(result.out, "scale")[2] == "0"


def test_harness_bug_in_repro(invoke: Invoke, monkeypatch: pytest.MonkeyPatch) -> None:
    """Likewise for a single case."""
    path = faulty(invoke)
    monkeypatch.setattr(examination, "examine", failing)

    result = invoke("repro", path)

    assert result.code == cli.Exit.HARNESS
    assert "this is a defect of tridiff" in result.err.splitlines()[-1]


def test_nothing_judged_is_no_success(invoke: Invoke, monkeypatch: pytest.MonkeyPatch) -> None:
    """A kernel that the engine cannot run at all must not pass a gate."""
    monkeypatch.setattr(campaign, "examine", lambda *_: Unsupported(reason="the operation tt.scan", line="scale.py:7"))

    result = invoke("fuzz", "--kernel", "scale", "--max-examples", 5)

    assert result.code == cli.Exit.USAGE
    assert "cases not judged: the operation tt.scan (scale.py:7)" in result.out
    assert result.err == "tridiff: no case of scale could be judged: the run above says why\n"


# Ctrl-C


def interrupted_after(count: int) -> Callable[..., Outcome]:
    """An examination that is interrupted when it has judged `count` cases."""
    left = iter(range(count))

    def examine(*_: object) -> Outcome:
        if next(left, None) is None:
            raise KeyboardInterrupt
        return Clean(ratio=0.5)

    return examine


def test_ctrl_c_in_fuzz(invoke: Invoke, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was done so far is shown, and judged."""
    monkeypatch.setattr(campaign, "examine", interrupted_after(7))

    result = invoke("fuzz", "--kernel", "scale")

    assert (result.code, result.err) == (cli.Exit.CLEAN, "")
    assert re.search(r"\ninterrupted: 7 cases in \d+ s: no findings\n$", result.out)


def test_ctrl_c_in_prove(invoke: Invoke, monkeypatch: pytest.MonkeyPatch) -> None:
    """The faults tried so far are shown; a miss is a miss."""
    monkeypatch.setattr(campaign, "examine", interrupted_after(15))

    result = invoke("prove", "--kernel", "scale", "--max-examples", 10)

    assert result.code == cli.Exit.FINDINGS
    assert "0 of 1 faults caught within 10 examples each\n" in result.out
    assert result.out.endswith("interrupted: the faults above are those tried so far\n")


def test_ctrl_c_elsewhere(invoke: Invoke, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where there is nothing to show, one word and no traceback."""
    path = faulty(invoke)
    monkeypatch.setattr(examination, "examine", interrupted_after(0))

    result = invoke("repro", path)

    assert result.code == cli.Exit.USAGE
    assert result.err.strip() == "tridiff: interrupted"


@pytest.fixture
def fuzzing(tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    """A real `fuzz --seconds 60` that has announced itself."""
    # A shell that starts pytest in the background makes it, and all below it, ignore the signal.
    code = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)\nfrom tridiff.harness.cli import main\nmain()"
    command = [sys.executable, "-c", code, "fuzz", "--kernel", "decode_attention", "--seconds", "60", "--out", str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as running:
        yield running
        running.kill()


def test_ctrl_c_in_a_real_process(fuzzing: subprocess.Popen[str]) -> None:
    """It stops early, shows its table, and says that it was interrupted."""
    assert fuzzing.stdout is not None
    announced = fuzzing.stdout.readline()
    time.sleep(3.0)
    fuzzing.send_signal(signal.SIGINT)

    # Well before the minute that it was given; how many cases it got to depends on the machine.
    out, err = fuzzing.communicate(timeout=40)

    assert announced.startswith("fuzzing decode_attention")
    assert fuzzing.returncode in {cli.Exit.CLEAN, cli.Exit.FINDINGS}
    assert cells(out, "decode_attention")[2].isdigit()
    assert re.search(r"\ninterrupted: \d+ cases? in \d+ s: ", out)
    assert "Traceback" not in err


def test_modules_load_late() -> None:
    """Help answers without torch and Triton, which take seconds to import."""
    code = "import sys, tridiff.harness.cli; print(sorted({'torch', 'triton', 'numpy'} & set(sys.modules)))"

    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True, timeout=START_SECONDS)

    assert done.stdout == "[]\n"
    assert importlib.import_module("tridiff.harness.cli") is cli
