"""Fuzz tests whose kernels end the process that runs them: tests fail as others do. The worker is the stand-in without torch."""

from __future__ import annotations

from pathlib import Path

import misbehaving
import pytest
from hosting import ONE_KERNEL, PLUGIN, lines_of

from tridiff.harness.api import Kernel
from tridiff.harness.isolation import process
from tridiff.harness.isolation.journal import FOLDER
from tridiff.harness.isolation.process import Worker
from tridiff.harness.registry import Registry

pytest_plugins = ["pytester", "hosting"]


@pytest.fixture(autouse=True)
def deadly(known: Registry, pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> None:
    """Kernels whose names say how they end, in an empty project."""
    assert pytester.path == Path.cwd()
    monkeypatch.setattr(process, "BOOT", misbehaving.BOOT)
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")
    monkeypatch.setenv("COLUMNS", "200")
    for name in ("exits", "sulks"):
        known.register_kernel(Kernel(name=name, op="scale", module="toy.kernels.scale", launcher="scale"))


def test_crash_is_a_failed_test(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the finding and its command; the tests after it run, and no process or file is left."""
    started: list[Worker] = []
    start = Worker.__init__

    def remembered(worker: Worker, setting: process.Setting) -> None:
        started.append(worker)
        start(worker, setting)

    monkeypatch.setattr(Worker, "__init__", remembered)
    pytester.makepyfile(
        test_host=ONE_KERNEL.format(kernel="exits") + "\ndef test_next(tridiff):\n    tridiff.fuzz('scale', examples=5)\n"
    )

    result = pytester.runpytest_inprocess(*PLUGIN)

    result.assert_outcomes(failed=1, passed=1)
    (headline,) = lines_of(result, "FAILED")
    assert headline.endswith("crash: exits: the process that ran the kernel exited with code 3")
    (minimal,) = lines_of(result, "  minimal case: ")
    assert minimal == f"  minimal case: columns={misbehaving.FROM}"
    assert len(lines_of(result, "  reproduce: tridiff repro ")) == 1
    assert not Path("tridiff-out", FOLDER).exists()
    assert len(started) > 2
    assert all(worker._ended_as is not None for worker in started)


def test_infrastructure_is_no_success(pytester: pytest.Pytester) -> None:
    """A death that does not happen again is no finding, and the test fails all the same: nothing is proven."""
    pytester.makepyfile(test_host=ONE_KERNEL.format(kernel="sulks").replace("examples=20", "examples=60"))

    result = pytester.runpytest_inprocess(*PLUGIN)

    result.assert_outcomes(failed=1)
    (headline,) = lines_of(result, "FAILED")
    assert "infrastructure: " in headline
    assert headline.endswith(" of sulks killed the process, and did not when run again alone")
    assert any("killed by SIGABRT" in line for line in result.outlines)
    assert "FINDING" not in result.stdout.str()


def test_limits_are_options(pytester: pytest.Pytester) -> None:
    """A wrong value is one line."""
    pytester.makepyfile(test_host=ONE_KERNEL.format(kernel="scale"))
    for option, value in (("timeout", "soon"), ("memory-limit", "0")):
        result = pytester.runpytest_inprocess(*PLUGIN, f"--tridiff-{option}={value}")

        assert result.ret == pytest.ExitCode.USAGE_ERROR
        result.stderr.fnmatch_lines([f"ERROR: --tridiff-{option}={value}: must be a number of * of at least *"])


def test_without_isolation_no_process_is_started(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> None:
    """For debuggers the kernel runs where the test does."""
    monkeypatch.setattr(process, "BOOT", "import sys; sys.exit('started')")
    pytester.makepyfile(test_host=ONE_KERNEL.format(kernel="scale"))

    pytester.runpytest_inprocess(*PLUGIN, "--tridiff-no-isolation").assert_outcomes(passed=1)
