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


@pytest.mark.parametrize(("name", "derandomised"), [("tridiff-dev", False), ("tridiff-ci", True), ("tridiff-nightly", False)])
def test_only_the_gate_repeats_its_inputs(name: str, *, derandomised: bool) -> None:
    """Where a CI variable is set too, nightly and local runs draw new inputs; no profile has a deadline."""
    profile = settings.get_profile(name)

    assert profile.derandomize is derandomised
    assert profile.deadline is None
