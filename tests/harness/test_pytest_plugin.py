"""What a host project's pytest run shows: as ever without our fixtures, and with them findings and counts."""

from __future__ import annotations

import json
import re
import shlex
import warnings
import xml.etree.ElementTree as ET
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hosting import EVERY_KERNEL, LOAD, MY_KERNELS, ONE_KERNEL, PLUGIN, Host, lines_of
from hypothesis import settings
from plugging import left_as_found

from tridiff.harness import cli, plugins, profiles
from tridiff.harness.api import Clean, Infrastructure, Outcome, Unsupported
from tridiff.harness.engines.spec import UsageError
from tridiff.harness.registry import Registry
from tridiff.harness.report.eventfile import read
from tridiff.harness.runner import campaign
from tridiff.harness.runner.examine import examine

pytest_plugins = ["pytester", "hosting"]


# What a host project gets without asking


HOST_ALONE = """
import sys

def test_nothing_is_imported():
    assert not {"torch", "triton", "hypothesis", "numpy", "rich"} & set(sys.modules)

def test_profile_is_hypothesis_own():
    from hypothesis import settings
    assert not settings.get_current_profile_name().startswith("tridiff")
"""


def test_host_without_our_fixtures_is_left_alone(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> None:
    """Loading the plug-in imports nothing heavy, loads no profile, writes no file and prints no section."""
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")
    path = pytester.makepyfile(test_host=HOST_ALONE)

    result = pytester.runpytest_subprocess(*PLUGIN, "-W", "error", path)

    result.assert_outcomes(passed=2)
    result.stdout.no_fnmatch_line("*tridiff*")
    assert not Path("tridiff-out").exists()


@pytest.mark.parametrize("order", [("hypothesispytest", PLUGIN[1]), (PLUGIN[1], "hypothesispytest")], ids="-".join)
def test_profile_can_be_asked_for(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch, order: tuple[str, str]) -> None:
    """`--hypothesis-profile=tridiff-ci` loads ours, whichever of the two plug-ins comes first, and although CI is set."""
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")
    monkeypatch.setenv("CI", "true")
    pytester.makepyfile(
        "from hypothesis import settings\n"
        "def test_profile():\n"
        "    assert settings.get_current_profile_name() == 'tridiff-nightly'\n"
        "    assert settings().max_examples == 1000 and not settings().derandomize and settings().deadline is None\n"
    )
    loaded = [word for name in order for word in ("-p", name)]

    result = pytester.runpytest_subprocess(*loaded, "--hypothesis-profile=tridiff-nightly")

    result.assert_outcomes(passed=1)


@pytest.mark.parametrize("order", [("hypothesispytest", PLUGIN[1]), (PLUGIN[1], "hypothesispytest")], ids="-".join)
def test_profile_that_we_do_not_have(host: Host, order: tuple[str, str]) -> None:
    """A name that begins as ours do and is none is one line."""
    result = host("", *(word for name in order for word in ("-p", name)), "--hypothesis-profile=tridiff-nigthly")

    assert result.ret == pytest.ExitCode.USAGE_ERROR
    assert result.stderr.lines == [
        f"ERROR: --hypothesis-profile=tridiff-nigthly: no such profile; ours: {', '.join(profiles.names())}",
        "",
    ]


def test_profiles_are_registered_once() -> None:
    """Registering again changes nothing: a host project may have changed a profile of ours on purpose."""
    before = [settings.get_profile(name) for name in profiles.names()]

    profiles.register()

    assert [settings.get_profile(name) for name in profiles.names()] == before


# A kernel without findings


def test_clean_kernel(host: Host) -> None:
    """The test passes, and the summary and JUnit XML have the counts."""
    result = host(ONE_KERNEL.format(kernel="scale"), "--junit-xml=junit.xml", "--tridiff-seed=3")

    result.assert_outcomes(passed=1)
    at = next(place for place, line in enumerate(result.outlines) if re.fullmatch("=+ tridiff =+", line))
    assert result.outlines[at + 1].split() == ["kernel", "cases", "worst", "ratio", "inconclusive", "not", "judged", "findings"]
    (found,) = ET.parse("junit.xml").getroot().iterfind(".//property[@name='tridiff']")  # noqa: S314 - written a moment ago
    counts = json.loads(found.attrib["value"])
    assert (counts["kernel"], counts["target"], counts["seed"], counts["cases"]) == ("scale", "gfx942", 3, 20)
    assert counts["worst_ratio"] > 0.0
    assert result.outlines[at + 2].split() == ["scale", "20", f"{counts['worst_ratio']:.3f}", "0", "0", "0"]
    assert [path.name for path in Path("tridiff-out").iterdir()] == ["events-master.jsonl"]


def test_counts_add_up(host: Host) -> None:
    """Over several calls and tests a kernel has one line; the calls within a test are counted once."""
    code = """
def test_twice(tridiff):
    tridiff.fuzz("scale", examples=5)
    run = tridiff.fuzz("scale", examples=6, seed=1)
    assert run.tally.examples == run.tally.clean == run.budget.examples == 6

def test_again(tridiff):
    tridiff.fuzz("scale", examples=7, target="sm_90")
"""
    result = host(code)

    result.assert_outcomes(passed=2)
    (line,) = lines_of(result, "scale ")
    assert line.split()[1] == "18"


# A finding


def check_finding(result: pytest.RunResult, file: str = "tridiff-out/findings") -> str:
    """A failure of the kernel `scale_wrong` as it must look; returns the command that reproduces it."""
    output = result.stdout.str()
    (headline,) = lines_of(result, "FAILED test_host.py::test_kernel")
    (command,) = lines_of(result, "  reproduce: ")
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    assert " - mismatch: scale_wrong: out[0, " in headline
    assert re.search(r"^FINDING scale-mismatch-\w{8}$", output, re.MULTILINE)
    assert "\n  minimal case: columns=2\n" in output
    assert re.fullmatch(rf"  reproduce: tridiff repro {file}/scale-mismatch-\w+\.json", command)
    for internal in ("Traceback", "fuzzing.py", "campaign.py", "Failure", "__tracebackhide__", "hypothesis/"):
        assert internal not in output
    return command.removeprefix("  reproduce: ")


def check_command(command: str) -> None:
    """The command finds its file, and the case fails again."""
    program, *arguments = shlex.split(command)
    with pytest.raises(SystemExit) as left:
        cli.main([*arguments, "--no-isolation"])
    assert program == "tridiff"
    assert left.value.code == cli.Exit.FINDINGS


@pytest.mark.parametrize(
    "arguments", [(), ("--tb=short",), ("--tb=long", "-vv", "-l"), ("-W", "error"), ("--tb=native",)], ids=" ".join
)
def test_finding(host: Host, arguments: tuple[str, ...]) -> None:
    """The failure is the finding and the command that runs its case again; none of our frames, however tracebacks are shown."""
    result = host(ONE_KERNEL.format(kernel="scale_wrong"), *arguments)

    check_command(check_finding(result))
    (line,) = lines_of(result, "scale_wrong ")
    assert line.split()[-1] == "1"


def test_finding_in_one_line(host: Host) -> None:
    """`--tb=line` gives the line of the test, and the headline."""
    result = host(ONE_KERNEL.format(kernel="scale_wrong"), "--tb=line")

    (line,) = [line for line in result.outlines if "test_host.py:2: " in line]
    assert "test_host.py:2: mismatch: scale_wrong: out[0, " in line


def test_warnings_are_no_errors_of_the_kernel(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the host turns warnings into errors, those of a kernel or of Triton are shown, and change no verdict."""

    def warning(*_: object) -> Outcome:
        warnings.warn("something is old", DeprecationWarning, stacklevel=2)
        return Clean(ratio=0.5)

    monkeypatch.setattr(campaign, "examine", warning)

    result = host(ONE_KERNEL.format(kernel="scale"), "-W", "error")

    result.assert_outcomes(passed=1, warnings=1)
    result.stdout.fnmatch_lines(["*DeprecationWarning: something is old"])


def test_finding_in_a_ci_log(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where CI is set pytest prints messages whole in the short summary: ours is still one line."""
    monkeypatch.setenv("CI", "true")

    result = host(ONE_KERNEL.format(kernel="scale_wrong"))

    check_finding(result)
    _, short = re.split(r"^=+ short test summary info =+\n", result.stdout.str(), flags=re.MULTILINE)
    assert [line.split()[0].strip("=") for line in short.splitlines()] == ["FAILED", ""]


def test_finding_of_a_worker(host: Host, pytester: pytest.Pytester) -> None:
    """Under xdist finding, headline and counts arrive, and workers that find the same write one file."""
    pytester.makeconftest(
        "from toy.family import registry\nfrom tridiff.harness import plugins\nplugins.load = lambda *_, **__: registry()\n"
    )
    code = ONE_KERNEL.format(kernel="scale_wrong") + "\ndef test_same(tridiff):\n    tridiff.fuzz('scale_wrong', examples=20)\n"

    result = host(code, "-p", "xdist", "-n", "2", "--tridiff-out=there")

    result.assert_outcomes(failed=4)
    commands = lines_of(result, "  reproduce: ")
    assert len(set(commands)) == 1
    assert len(lines_of(result, "FAILED")) == len([line for line in lines_of(result, "FAILED") if " - mismatch: scale_" in line])
    assert [path.suffix for path in Path("there/findings").iterdir()] == [".json"]
    check_command(commands[0].removeprefix("  reproduce: "))
    (line,) = lines_of(result, "scale_wrong ")
    assert (line.split()[1], line.split()[-1]) == ("40", "1")
    files = sorted(Path("there").glob("*.jsonl"))
    assert {path.name for path in files} <= {"events-gw0.jsonl", "events-gw1.jsonl"}
    runs = [run for path in files for run in read(path).runs]
    assert [run.kernels["scale_wrong"].cases for run in runs] == [10] * 4
    assert sorted(run.run["shard"] for run in runs) == ["0/2", "0/2", "1/2", "1/2"]
    assert {str(record["reproduce"]) for run in runs for record in run.findings.values()} == {
        line.removeprefix("  reproduce: ") for line in commands
    }


def test_events_of_a_process(host: Host) -> None:
    """The records of its tests are in one file, which every pytest run begins anew."""
    for seed in (1, 2):
        host(EVERY_KERNEL, f"--tridiff-seed={seed}").assert_outcomes(passed=1, failed=1)

    runs = read(Path("tridiff-out/events-master.jsonl")).runs

    assert [(run.run["seed"], run.run["folder"], run.killed) for run in runs] == [(2, "tridiff-out/findings", False)] * 2
    assert [name for run in runs for name in run.kernels] == ["scale", "scale_wrong"]
    assert [counts.cases for run in runs for counts in run.kernels.values()] == [5, 5]


@pytest.mark.parametrize("folder", [".", "below"])
def test_command_names_the_plugin(host: Host, pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch, folder: str) -> None:
    """The command works from where pytest was started: case files and plug-ins are found from there."""
    monkeypatch.setattr(plugins, "load", LOAD)
    pytester.makeini("[pytest]\ntridiff_plugins = my_kernels.py\n")
    pytester.makepyfile(my_kernels=MY_KERNELS)
    root = pytester.path if folder == "below" else Path()
    (pytester.path / folder).mkdir(exist_ok=True)
    monkeypatch.chdir(folder)

    result = host(ONE_KERNEL.format(kernel="my_wrong_kernel"), str(pytester.path))

    (command,) = [line.removeprefix("  reproduce: ") for line in lines_of(result, "  reproduce: ")]
    *words, file = shlex.split(command)
    assert words == ["tridiff", "repro", "--plugin", str(root / "my_kernels.py")]
    assert Path(file).parent == root / "tridiff-out" / "findings"
    with left_as_found(Path.cwd()):
        check_command(command)


def test_finding_without_a_place_for_its_file(host: Host) -> None:
    """Where no case file can be written, the finding is shown all the same, with the reason."""
    Path("tridiff-out").touch()

    result = host(ONE_KERNEL.format(kernel="scale_wrong"))

    (line,) = lines_of(result, "  no case file: ")
    assert line.startswith("  no case file: cannot write to ")
    assert line.endswith("; choose another folder with --tridiff-out")
    assert lines_of(result, "FINDING scale-mismatch-")
    (lost,) = lines_of(result, str(Path.cwd() / "tridiff-out/events-master.jsonl"))
    assert re.search(r" is incomplete: \d+ records could not be written: Not a directory$", lost)


# Neither clean nor failing


def test_nothing_judged(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    """A kernel that the engine cannot run at all must not pass; the reason is said, and counted in the summary."""
    monkeypatch.setattr(campaign, "examine", lambda *_: Unsupported(reason="the operation tt.scan", line="scale.py:7"))

    result = host(ONE_KERNEL.format(kernel="scale"))

    result.assert_outcomes(failed=1)
    (headline,) = lines_of(result, "FAILED")
    assert headline.endswith(" - no case of scale could be judged: the operation tt.scan (scale.py:7)")
    assert len(lines_of(result, "scale: 20 cases not judged: the operation tt.scan (scale.py:7)")) == 2
    assert "Traceback" not in result.stdout.str()


DIED = Infrastructure(reason="the process that ran the kernel was killed by SIGBUS", tail=("Bus error",))


def test_infrastructure(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where processes died and did not again, the test proves nothing and fails, with their last words; no finding is counted."""
    outcomes: Any = iter([Clean(ratio=0.5)] * 15 + [DIED] * 5)
    monkeypatch.setattr(campaign, "examine", lambda *_: next(outcomes))

    result = host(ONE_KERNEL.format(kernel="scale"), "--junit-xml=junit.xml")

    result.assert_outcomes(failed=1)
    (headline,) = lines_of(result, "FAILED")
    assert headline.endswith(" - infrastructure: 5 cases of scale killed the process, and did not when run again alone")
    assert lines_of(result, "INFRASTRUCTURE scale")
    assert lines_of(result, "  cases: 5; not reproduced when run again alone, so no finding")
    assert lines_of(result, "  last words: Bus error")
    assert lines_of(result, f"scale: 5 cases ended in infrastructure failures: {DIED.reason}")
    (counts,) = lines_of(result, "scale ")
    assert counts.split() == ["scale", "20", "0.500", "0", "0", "0"]
    assert not lines_of(result, "scale: 5 cases not judged")
    (found,) = ET.parse("junit.xml").getroot().iterfind(".//property[@name='tridiff']")  # noqa: S314 - written a moment ago
    assert json.loads(found.attrib["value"])["infrastructure"] == {DIED.reason: 5}


def test_infrastructure_beside_a_finding(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both are shown, apart; the headline is the finding's."""
    left = iter([DIED] * 2)
    monkeypatch.setattr(campaign, "examine", lambda *arguments: next(left, None) or examine(*arguments))

    result = host(ONE_KERNEL.format(kernel="scale_wrong"))

    check_finding(result)
    assert lines_of(result, "  cases: 2; not reproduced when run again alone, so no finding")
    assert lines_of(result, f"scale_wrong: 2 cases ended in infrastructure failures: {DIED.reason}")


def test_some_not_judged(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where some cases were judged the test passes, and the summary has the others."""
    outcomes: Any = iter([Clean(ratio=0.5)] * 15 + [Unsupported(reason="the operation tt.scan")] * 5)
    monkeypatch.setattr(campaign, "examine", lambda *_: next(outcomes))

    result = host(ONE_KERNEL.format(kernel="scale").replace("examples=20", "examples=20).tally.reasons != ({}"))

    result.assert_outcomes(passed=1)
    assert lines_of(result, "scale: 5 cases not judged: the operation tt.scan")


def test_harness_bug(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    """A failure of tridiff is said to be one, in the headline too, with the case and the traceback that we need."""

    def failing(*_: object) -> Outcome:
        raise ZeroDivisionError("division by zero")

    monkeypatch.setattr(campaign, "examine", failing)

    result = host(ONE_KERNEL.format(kernel="scale"))

    (headline,) = lines_of(result, "FAILED")
    assert " - tridiff failed on ScaleCase(" in headline
    assert lines_of(result, "this is a defect of tridiff, ")
    assert lines_of(result, "ZeroDivisionError: division by zero")
    assert len(lines_of(result, "Traceback")) == 1


def test_broken_op(host: Host, known: Registry) -> None:
    """Likewise where the strategy of an op raises."""

    def broken(_domain: object) -> Any:
        raise TypeError("no such thing")

    known.ops["scale"] = replace(known.ops["scale"], strategy=broken)

    result = host(ONE_KERNEL.format(kernel="scale"))

    (headline,) = lines_of(result, "FAILED")
    assert headline.endswith(" - tridiff failed: TypeError: no such thing")
    assert lines_of(result, "this is a defect of tridiff, or of an op that a plug-in declares, not of a kernel: ")


def test_refusal_during_the_run(host: Host, known: Registry) -> None:
    """What a plug-in's op gets wrong in a way that has a line of its own is that line."""

    def refusing(_domain: object) -> Any:
        raise UsageError("plug-in my_kernels.py: strategy of scale raised\nTypeError")

    known.ops["scale"] = replace(known.ops["scale"], presets=refusing)

    result = host(ONE_KERNEL.format(kernel="scale"))

    assert lines_of(result, "tridiff: plug-in my_kernels.py: strategy of scale raised TypeError")
    assert "Traceback" not in result.stdout.str()


@pytest.mark.parametrize("kernel", ["scale", "scale_wrong"])
def test_interruption(host: Host, monkeypatch: pytest.MonkeyPatch, kernel: str) -> None:
    """Ctrl-C ends the run at once; the summary has what was done until then, and what was found."""
    left = iter(range(15))

    def interrupted(*arguments: Any) -> Outcome:
        if next(left, None) is None:
            raise KeyboardInterrupt
        return examine(*arguments)

    monkeypatch.setattr(campaign, "examine", interrupted)

    result = host(f"{ONE_KERNEL.format(kernel=kernel)}\ndef test_more():\n    pass")

    assert result.ret == pytest.ExitCode.INTERRUPTED
    assert "1 passed" not in result.stdout.str()
    assert [line for line in result.outlines if line.endswith("test_host.py:2: KeyboardInterrupt")]
    assert len(lines_of(result, f"{kernel} ")) == 1
    assert len(lines_of(result, "interrupted")) == 1
    assert len(lines_of(result, "  reproduce: ")) == (kernel == "scale_wrong")
    assert "Traceback" not in result.stdout.str()
