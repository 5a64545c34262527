"""The pytest plug-in as a host project meets it: what it changes, what it prints, and how it fails."""

from __future__ import annotations

import json
import re
import shlex
import warnings
import xml.etree.ElementTree as ET
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import triton
from hypothesis import settings
from toy.family import registry

from tridiff.harness import cli, plugins, profiles
from tridiff.harness import config as machine
from tridiff.harness import registry as registries
from tridiff.harness.api import Clean, Outcome, Unsupported
from tridiff.harness.engines.spec import UsageError
from tridiff.harness.pytest_plugin import fuzzing
from tridiff.harness.registry import Registry
from tridiff.harness.runner import campaign
from tridiff.harness.runner.examine import examine
from tridiff.harness.runner.session import Session

pytest_plugins = ["pytester"]

GUIDE = Path(__file__).resolve().parents[2] / "docs" / "guides" / "pytest.md"
PLUGIN = ("-p", "tridiff.harness.pytest_plugin", "-p", "no:cacheprovider")
ONE_KERNEL = """
def test_kernel(tridiff):
    tridiff.fuzz({kernel!r}, examples=20)
"""
EVERY_KERNEL = """
def test_kernel(tridiff, tridiff_kernel):
    tridiff.fuzz(tridiff_kernel, examples=5)
"""

Host = Callable[..., pytest.RunResult]


@pytest.fixture
def known(monkeypatch: pytest.MonkeyPatch) -> Registry:
    """The toy family stands in for all that is registered."""
    made = registry()
    monkeypatch.setattr(plugins, "load", lambda _plugins=(): made)
    monkeypatch.setattr(registries, "builtin", lambda: made)
    return made


@pytest.fixture
def cache() -> str:
    """Where compiled kernels are kept; to be asked before `pytester` moves the home folder."""
    return str(triton.knobs.cache.dir)


@pytest.fixture
def host(known: Registry, cache: str, pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> Host:
    """Runs pytest in this process on a project of one test module, in a folder of its own."""
    assert known.kernels
    monkeypatch.setenv("TRITON_CACHE_DIR", cache)
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")
    monkeypatch.setenv("COLUMNS", "200")
    for name in ("CI", "BUILD_NUMBER"):
        monkeypatch.delenv(name, raising=False)

    def run(code: str, *arguments: str) -> pytest.RunResult:
        pytester.makepyfile(test_host=code)
        return pytester.runpytest_inprocess(*PLUGIN, *arguments, no_reraise_ctrlc=True)

    return run


def lines_of(result: pytest.RunResult, start: str) -> list[str]:
    """The lines of standard output that begin with `start`."""
    return [line for line in result.outlines if line.startswith(start)]


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


def test_profiles_are_registered_once() -> None:
    """Registering again changes nothing: a host project may have changed a profile of ours on purpose."""
    before = [settings.get_profile(name) for name in ("tridiff-dev", "tridiff-ci", "tridiff-nightly")]

    profiles.register()

    assert [settings.get_profile(name) for name in ("tridiff-dev", "tridiff-ci", "tridiff-nightly")] == before


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
    assert not Path("tridiff-out").exists()


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
        cli.main(arguments)
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
        "from toy.family import registry\nfrom tridiff.harness import plugins\nplugins.load = lambda _plugins=(): registry()\n"
    )
    code = ONE_KERNEL.format(kernel="scale_wrong") + "\ndef test_same(tridiff):\n    tridiff.fuzz('scale_wrong', examples=20)\n"

    result = host(code, "-p", "xdist", "-n", "2", "--tridiff-out=there")

    result.assert_outcomes(failed=2)
    commands = lines_of(result, "  reproduce: ")
    assert len(set(commands)) == 1
    assert len(lines_of(result, "FAILED")) == len([line for line in lines_of(result, "FAILED") if " - mismatch: scale_" in line])
    assert [path.suffix for path in Path("there/findings").iterdir()] == [".json"]
    check_command(commands[0].removeprefix("  reproduce: "))
    (line,) = lines_of(result, "scale_wrong ")
    assert (line.split()[1], line.split()[-1]) == ("40", "1")


def test_command_from_another_folder(host: Host, pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> None:
    """Case files stand in the root directory; the command works from where pytest was started, and names the plug-ins."""
    pytester.makeini("[pytest]\ntridiff_plugins = my_kernels.py\n    my_package\n")
    below = pytester.mkdir("below")
    monkeypatch.chdir(below)

    result = host(ONE_KERNEL.format(kernel="scale_wrong"), "..", "--tridiff-plugin=other.py")

    (command,) = lines_of(result, "  reproduce: ")
    words = shlex.split(command)
    assert words[1:3] == ["tridiff", "repro"]
    assert words[3:9:2] == ["--plugin"] * 3
    assert words[4:9:2] == [str(pytester.path / "my_kernels.py"), "my_package", str(below / "other.py")]
    assert Path(words[-1]).parent == pytester.path / "tridiff-out" / "findings"
    assert Path(words[-1]).is_file()


def test_finding_without_a_place_for_its_file(host: Host) -> None:
    """Where no case file can be written, the finding is shown all the same, with the reason."""
    Path("tridiff-out").touch()

    result = host(ONE_KERNEL.format(kernel="scale_wrong"))

    (line,) = lines_of(result, "  no case file: ")
    assert line.startswith("  no case file: cannot write to ")
    assert line.endswith("; choose another folder with --tridiff-out")
    assert lines_of(result, "FINDING scale-mismatch-")


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


# Selection


def test_one_test_for_each_kernel(host: Host) -> None:
    """`tridiff_kernel` makes a test for every kernel that is registered."""
    result = host(EVERY_KERNEL, "-v")

    result.assert_outcomes(passed=1, failed=1)
    assert {line.split()[0].partition("[")[2] for line in lines_of(result, "test_host.py::")} == {"scale]", "scale_wrong]"}


def test_selection(host: Host) -> None:
    """`--tridiff-kernel` and `--tridiff-op` leave kernels out, also where a test names one."""
    result = host(EVERY_KERNEL + ONE_KERNEL.format(kernel="scale_wrong"), "--tridiff-kernel=scale", "-rs")

    result.assert_outcomes(skipped=1)
    result.stdout.fnmatch_lines(["SKIPPED * kernel scale_wrong is left out by --tridiff-kernel or --tridiff-op"])
    host(EVERY_KERNEL, "--tridiff-kernel=scale", "--tridiff-op=scale").assert_outcomes(passed=1)


def test_targets(host: Host) -> None:
    """Several targets make a test for each, and replace what a test says; a target is compiled for."""
    code = """
def test_kernel(tridiff):
    assert tridiff.fuzz("scale", examples=5, target="gfx90a").spec.target in {"sm_90", "gfx1201"}
"""
    result = host(code, "--tridiff-target=sm_90", "--tridiff-target=gfx1201", "--tridiff-engine=cpu", "-v")

    result.assert_outcomes(passed=2)
    result.stdout.fnmatch_lines(["*test_kernel[[]sm_90]*", "*test_kernel[[]gfx1201]*"])


# Seeds and budgets


@pytest.fixture
def sessions(monkeypatch: pytest.MonkeyPatch) -> list[Session]:
    """The sessions that would have run."""
    made: list[Session] = []
    monkeypatch.setattr(Session, "run", lambda session: made.append(session))  # noqa: PLW0108 - a method has to be bound
    return made


@pytest.mark.parametrize(
    ("call", "arguments", "budget"),
    [
        ("", (), (100, None)),
        ("examples=7", (), (7, None)),
        ("seconds=2", (), (None, 2)),
        ("examples=7, seconds=2", (), (7, 2)),
        ("examples=7", ("--tridiff-examples=9",), (9, None)),
        ("examples=7", ("--tridiff-seconds=0.5",), (None, 0.5)),
        ("", ("--tridiff-seconds=3", "--tridiff-examples=4"), (4, 3.0)),
    ],
)
def test_budget(
    host: Host, sessions: list[Session], call: str, arguments: tuple[str, ...], budget: tuple[int | None, float | None]
) -> None:
    """The command line's budget counts, else the test's, else the profile's number of examples."""
    host(f"def test_kernel(tridiff):\n    tridiff.fuzz('scale', {call})", *arguments)

    assert [(session.budget.examples, session.budget.seconds) for session in sessions] == [budget]


def test_seeds(host: Host, sessions: list[Session], monkeypatch: pytest.MonkeyPatch) -> None:
    """A test's seed is added to the run's, which is another one every day under the nightly profile alone."""
    code = "def test_kernel(tridiff):\n    tridiff.fuzz('scale', seed=3)"

    host(code)
    host(code, "--tridiff-seed=-10")
    monkeypatch.setattr(profiles, "is_nightly", lambda: True)
    monkeypatch.setattr(fuzzing, "time", SimpleNamespace(time=lambda: 20_000 * 86400.0 + 5))
    host(code)
    host(code, "--tridiff-seed=1")

    assert [session.seed for session in sessions] == [3, -7, 20_000_003, 4]


@pytest.mark.parametrize(
    ("name", "nightly"), [("tridiff-nightly", True), ("tridiff-nightly-with-quiet-verbosity", True), ("tridiff-ci", False)]
)
def test_nightly_profile_is_recognised(monkeypatch: pytest.MonkeyPatch, name: str, *, nightly: bool) -> None:
    """Also where Hypothesis has put a profile of its own on top."""
    monkeypatch.setattr(profiles, "settings", SimpleNamespace(get_current_profile_name=lambda: name))

    assert profiles.is_nightly() is nightly


# Wrong use


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        ("--tridiff-seed=first", "--tridiff-seed=first: must be an integer"),
        ("--tridiff-examples=0", "--tridiff-examples=0: must be at least 1"),
        ("--tridiff-examples=1.5", "--tridiff-examples=1.5: must be an integer"),
        ("--tridiff-seconds=0", "--tridiff-seconds=0: must be a number of seconds above 0"),
        ("--tridiff-seconds=nan", "--tridiff-seconds=nan: must be a number of seconds above 0"),
        ("--tridiff-seconds=soon", "--tridiff-seconds=soon: must be a number of seconds above 0"),
        ("--tridiff-target=gfx924", "--tridiff-target: unknown target 'gfx924': did you mean 'gfx942'?; targets: gfx90a, "),
        ("--tridiff-engine=cpuu", "--tridiff-engine: unknown engine 'cpuu': did you mean 'cpu'?; engines: cpu"),
        ("--tridiff-op=scael", "tridiff: unknown op 'scael': did you mean 'scale'?; known: scale"),
        ("--tridiff-kernel=scale_wring", "tridiff: unknown kernel 'scale_wring': did you mean 'scale_wrong'?; known: scale, "),
        ("--tridiff-out=/dev/null/x", "--tridiff-out=/dev/null/x: cannot be written to: Not a directory; choose another folder"),
    ],
)
def test_wrong_option(host: Host, argument: str, message: str) -> None:
    """One line that says what to do, pytest's exit code for wrong use, and nothing is collected."""
    result = host(EVERY_KERNEL, argument)

    assert result.ret == pytest.ExitCode.USAGE_ERROR
    (line,) = [line for line in result.errlines if line]
    assert line.startswith(f"ERROR: {message}")
    assert "collected" not in result.stdout.str()


@pytest.mark.parametrize(
    ("call", "message"),
    [
        ("'scael'", "tridiff: unknown kernel 'scael': did you mean 'scale'?; known: scale, scale_wrong"),
        ("'scale', target='gfx924'", "tridiff: unknown target 'gfx924': did you mean 'gfx942'?; targets: gfx90a, "),
        ("'scale', examples=0", "tridiff: examples=0: must be at least 1"),
        ("'scale', seconds=-1", "tridiff: seconds=-1: must be above 0"),
    ],
)
def test_wrong_call(host: Host, call: str, message: str) -> None:
    """A wrong argument is one line as well."""
    result = host(f"def test_kernel(tridiff):\n    tridiff.fuzz({call})")

    result.assert_outcomes(failed=1)
    (headline,) = lines_of(result, "FAILED")
    assert headline.partition(" - ")[2].startswith(message[:100])
    assert lines_of(result, message)
    assert "Traceback" not in result.stdout.str()


def unusable(_plugins: Sequence[str] = ()) -> Registry:
    """Stand in for a plug-in that cannot be loaded."""
    raise UsageError("plug-in my_kernels.py: cannot be imported:\n  ModuleNotFoundError: no module")


@pytest.mark.parametrize("code", [EVERY_KERNEL, ONE_KERNEL.format(kernel="scale")], ids=["tridiff_kernel", "tridiff"])
@pytest.mark.parametrize("broken", ["torch", "plug-in"])
def test_missing_package_or_broken_plugin(host: Host, monkeypatch: pytest.MonkeyPatch, code: str, broken: str) -> None:
    """Tests that use our fixtures err with one line; the others run."""
    if broken == "torch":
        monkeypatch.setattr(machine, "_present", lambda name: name != "torch")
        message = "tridiff: torch is not installed: pip install 'tridiff[cpu]' on a machine without a GPU, or "
    else:
        monkeypatch.setattr(plugins, "load", unusable)
        message = "tridiff: plug-in my_kernels.py: cannot be imported: ModuleNotFoundError: no module"
    Path("test_other.py").write_text("def test_other():\n    pass\n", encoding="utf-8")

    result = host(code, "--continue-on-collection-errors")

    result.assert_outcomes(passed=1, errors=1)
    assert lines_of(result, message)
    assert "Traceback" not in result.stdout.str()
    assert not [line for line in result.outlines if line.startswith("E ")]


def test_broken_plugin_on_the_command_line(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    """A plug-in that was named on the command line is loaded before anything is collected."""
    monkeypatch.setattr(plugins, "load", unusable)

    result = host(EVERY_KERNEL, "--tridiff-plugin=my_kernels.py")

    assert result.ret == pytest.ExitCode.USAGE_ERROR
    assert result.errlines[0] == "ERROR: tridiff: plug-in my_kernels.py: cannot be imported: ModuleNotFoundError: no module"


# The guide


def test_guide(host: Host, known: Registry, pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> None:
    """The project of docs/guides/pytest.md runs as the guide says, with its settings and the plug-in that they name."""
    named: list[tuple[str, ...]] = []

    def load(given: Sequence[str] = ()) -> Registry:
        named.append(tuple(given))
        return known

    monkeypatch.setattr(plugins, "load", load)
    known.kernels["my_kernel"] = replace(known.kernels.pop("scale"), name="my_kernel")
    blocks = dict(re.findall(r"^`(\S+)`:\n\n```\w+\n(.*?)^```$", GUIDE.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL))
    pytester.makepyprojecttoml(blocks["pyproject.toml"])

    result = host(blocks["test_kernels.py"].replace("examples=1000", "examples=20"), "-v")

    assert named == [(str(pytester.path / "my_kernels.py"),)]
    assert set(blocks) == {"pyproject.toml", "test_kernels.py"}
    result.assert_outcomes(passed=2, failed=1)  # my_kernel twice, and scale_wrong once
    assert [line.split()[0] for line in lines_of(result, "my_kernel ")] == ["my_kernel"]
