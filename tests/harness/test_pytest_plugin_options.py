"""How a host project tells the pytest plug-in what to fuzz: selection, targets, budgets and seeds, and what it refuses."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace

import pytest
from hosting import EVERY_KERNEL, LOAD, MY_KERNELS, ONE_KERNEL, Host, lines_of

from tridiff.harness import config as machine
from tridiff.harness import plugins, profiles
from tridiff.harness.engines.spec import UsageError
from tridiff.harness.registry import Registry
from tridiff.harness.runner.session import Session

pytest_plugins = ["pytester", "hosting"]

GUIDE = Path(__file__).resolve().parents[2] / "docs" / "guides" / "pytest.md"

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


def test_seeds(host: Host, sessions: list[Session]) -> None:
    """A test's seed is added to the run's."""
    code = "def test_kernel(tridiff):\n    tridiff.fuzz('scale', seed=3)"

    host(code)
    host(code, "--tridiff-seed=-10")

    assert [session.seed for session in sessions] == [3, -7]


@pytest.mark.parametrize(
    ("name", "nightly"), [("tridiff-nightly", True), ("tridiff-nightly-with-quiet-verbosity", True), ("tridiff-ci", False)]
)
def test_nightly_profile_is_recognised(monkeypatch: pytest.MonkeyPatch, name: str, *, nightly: bool) -> None:
    """Also where Hypothesis has put a profile of its own on top."""
    monkeypatch.setattr(profiles, "settings", SimpleNamespace(get_current_profile_name=lambda: name))

    assert profiles.is_nightly() is nightly


def test_own_target(host: Host, pytester: pytest.Pytester) -> None:
    """One of the settings file is known to the option and to a test's argument, in that run alone."""
    file = pytester.path / "tridiff.toml"
    file.write_text('[targets.gfx1151]\nshared_bytes = 65536\nsource = "a test"\n', encoding="utf-8")
    code = "def test_kernel(tridiff):\n    tridiff.fuzz('scale', target='gfx1151', examples=3)"

    by_test, by_option = host(code), host(EVERY_KERNEL, "--tridiff-target=gfx1151", "--tridiff-kernel=scale")
    file.unlink()
    unknown = host(code)

    by_test.assert_outcomes(passed=1)
    by_option.assert_outcomes(passed=1)
    unknown.assert_outcomes(failed=1)
    assert lines_of(unknown, "tridiff: unknown target 'gfx1151'")


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
        ("--tridiff-seconds=inf", "--tridiff-seconds=inf: must be a number of seconds above 0"),
        ("--tridiff-timeout=0.9", "--tridiff-timeout=0.9: must be a number of seconds of at least 1"),
        ("--tridiff-timeout=inf", "--tridiff-timeout=inf: must be a number of seconds of at least 1"),
        ("--tridiff-memory-limit=0.4", "--tridiff-memory-limit=0.4: must be a number of GiB of at least 0.5"),
        ("--tridiff-memory-limit=nan", "--tridiff-memory-limit=nan: must be a number of GiB of at least 0.5"),
        ("--tridiff-target=gfx924", "--tridiff-target: unknown target 'gfx924': did you mean 'gfx942'?; targets: gfx90a, "),
        ("--tridiff-target=gfx1151", "--tridiff-target: unknown target 'gfx1151': did you mean 'gfx1201'?; targets: gfx90a, "),
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


def unusable(_plugins: Sequence[str] = (), **_: object) -> Registry:
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


def test_advice_names_the_option_of_pytest(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the command line calls `--plugin` is `--tridiff-plugin` here."""

    def broken(*_: object, **__: object) -> Registry:
        raise UsageError("plug-in mine of x 1: raised; repair it, or leave it out with --plugin no:mine")

    monkeypatch.setattr(plugins, "load", broken)

    result = host(EVERY_KERNEL)

    assert lines_of(result, "tridiff: plug-in mine of x 1: raised; repair it, or leave it out with --tridiff-plugin no:mine")


def test_broken_plugin_on_the_command_line(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    """A plug-in that was named on the command line is loaded before anything is collected."""
    monkeypatch.setattr(plugins, "load", unusable)

    result = host(EVERY_KERNEL, "--tridiff-plugin=my_kernels.py")

    assert result.ret == pytest.ExitCode.USAGE_ERROR
    assert result.errlines[0] == "ERROR: tridiff: plug-in my_kernels.py: cannot be imported: ModuleNotFoundError: no module"


def test_gate_without_a_list(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    """What to do is said in words that pytest knows."""
    monkeypatch.setattr(profiles, "ours", lambda _: "gate")

    result = host(ONE_KERNEL.format(kernel="scale"))

    (line,) = lines_of(result, "tridiff: profile gate ")
    assert "there is none: set `cases` in tridiff.toml" in line


def test_replayed_cases_are_said(host: Host, pytester: pytest.Pytester) -> None:
    """Cases of a list are run besides, and counted apart."""
    pytester.makefile(".toml", tridiff='cases = ["list.jsonl"]')
    pytester.makefile(".jsonl", list='{"schema":1,"op":"scale","target":"gfx942"}\n{"rows":1}\n{"rows":2}\n')

    result = host(ONE_KERNEL.format(kernel="scale"))

    result.assert_outcomes(passed=1)
    assert lines_of(result, "scale: 2 cases replayed besides, from an earlier run, a list or the ledger")
    (counts,) = lines_of(result, "scale ")
    assert counts.split()[1] == "20"


# The guide


def test_guide(host: Host, pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> None:
    """The project of docs/guides/pytest.md runs as the guide says, with the plug-in that its settings name."""
    monkeypatch.setattr(plugins, "load", LOAD)
    blocks = dict(re.findall(r"^`(\S+)`:\n\n```\w+\n(.*?)^```$", GUIDE.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL))
    pytester.makepyprojecttoml(blocks["pyproject.toml"])
    pytester.makepyfile(my_kernels=MY_KERNELS)

    result = host(blocks["test_kernels.py"].replace("examples=1000", "examples=20"))

    assert set(blocks) == {"pyproject.toml", "test_kernels.py"}
    result.assert_outcomes(passed=3, failed=2)
    assert [line.partition("[")[2].partition("]")[0] for line in lines_of(result, "FAILED")] == ["scale_wrong", "my_wrong_kernel"]
