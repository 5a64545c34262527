"""What tests/conftest.py promises every test."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from hypothesis import settings

TESTS = Path(__file__).resolve().parents[1]


def test_one_blas_thread_per_process() -> None:
    """Torch runs on one thread, and so will what the tests start."""
    assert torch.get_num_threads() == 1
    assert {os.environ[name] for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")} == {"1"}


@pytest.mark.parametrize(("ci", "name"), [("", "tridiff-dev"), ("true", "tridiff-ci")])
def test_profile_is_ours(ci: str, name: str) -> None:
    """Whether or not a CI variable is set, the current Hypothesis profile is one of ours."""
    code = "import conftest, hypothesis; print(hypothesis.settings.get_current_profile_name())"
    path = os.pathsep.join([str(TESTS), os.environ.get("PYTHONPATH", "")])
    environment = {**os.environ, "CI": ci, "PYTHONPATH": path}

    result = subprocess.run([sys.executable, "-c", code], env=environment, check=True, capture_output=True, text=True)

    assert result.stdout.strip() == name


@pytest.mark.parametrize(
    ("name", "derandomised", "examples"),
    [
        ("tridiff-dev", False, 100),
        ("tridiff-ci", True, 100),
        ("tridiff-gate", True, 100),
        ("tridiff-nightly", False, 1000),
        ("tridiff-deep", False, 10_000),
    ],
)
def test_only_gates_repeat_their_inputs(name: str, examples: int, *, derandomised: bool) -> None:
    """Local and nightly runs draw new inputs; no profile has a deadline, and one that repeats its inputs no database."""
    profile = settings.get_profile(name)

    assert profile.derandomize is derandomised
    assert (profile.database is None) is derandomised
    assert profile.max_examples == examples
    assert profile.deadline is None


def test_profiles_where_a_ci_variable_is_set() -> None:
    """Hypothesis then makes a derandomised profile current; a nightly run that inherited it would repeat its inputs for ever."""
    code = """
from hypothesis import settings
assert settings.get_current_profile_name() == "ci", settings.get_current_profile_name()
from tridiff.harness import profiles
profiles.register()
for name in profiles.names():
    settings.load_profile(name)
    print(name, settings.default.derandomize, settings.default.database is None)
"""
    environment = {**os.environ, "CI": "true"}

    result = subprocess.run([sys.executable, "-c", code], env=environment, check=True, capture_output=True, text=True)

    repeating = {line.split()[0]: line.split()[1:] for line in result.stdout.splitlines()}
    assert repeating.pop("tridiff-ci") == repeating.pop("tridiff-gate") == ["True", "True"]
    assert repeating == {name: ["False", "False"] for name in ("tridiff-dev", "tridiff-nightly", "tridiff-deep")}
