"""What only some versions of Triton print, and that the version under test is the expected one."""

# mypy: allow-untyped-defs, allow-untyped-decorators

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import triton

Elementwise = Callable[..., torch.Tensor]


@triton.jit
def negated(x):
    """The front end's own negation."""
    return -x


@pytest.mark.operations("arith.negf", versions=">=3.8")
def test_negation(elementwise: Elementwise) -> None:
    """The sign is flipped, of zero and NaN too; before Triton 3.8 it subtracts from zero."""
    x = torch.tensor([1.5, -0.0, 0.0, float("inf"), float("nan")])

    result = elementwise(negated, x)

    assert torch.equal(result.view(torch.int32), (-x).view(torch.int32))


@pytest.mark.installed_triton("it is the conftest that is tested, in a pytest of its own")
def test_another_version_than_expected_is_refused() -> None:
    """Tests that are to run on one version do not run on another, and say which they found."""
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "--collect-only", "-q", str(Path(__file__).parent)]
    environment = {**os.environ, "TRIDIFF_EXPECTED_TRITON": "1.2.3"}
    for name in ("PYTEST_XDIST_WORKER", "PYTEST_XDIST_WORKER_COUNT", "PYTEST_XDIST_TESTRUNUID"):
        environment.pop(name, None)

    result = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=120)

    assert result.returncode == pytest.ExitCode.USAGE_ERROR
    assert f"triton 1.2.3 is to be tested, but {triton.__version__} was imported" in result.stderr
