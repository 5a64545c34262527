"""What the tests of the compiling engine share: a cache of their own, and the release of Triton that must be the one imported."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest
import triton

from tridiff.harness.engines.cpu import selftest as executor
from tridiff.harness.targets import selftest, verdicts

if not triton.__version__.startswith("3.7."):
    # What these hold is ours, not the release's: one is enough, and each costs seconds.
    collect_ignore = ["test_compiling.py", "test_every_configuration.py", "test_production.py", "test_machine_code.py"]


def pytest_configure() -> None:
    """See that the wanted Triton is the one imported."""
    expected = os.environ.get("TRIDIFF_EXPECTED_TRITON")  # set by tools/tritons.py
    if expected and triton.__version__ != expected:
        raise pytest.UsageError(f"triton {expected} is to be tested, but {triton.__version__} was imported: {triton.__file__}")


@pytest.fixture(scope="session", autouse=True)
def _cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Nothing that an earlier run left is found, or our own changes would not be tested."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("TRITON_CACHE_DIR", str(tmp_path_factory.mktemp("cache")))
        patched.setenv("TRIDIFF_CACHE", "1")
        yield


@pytest.fixture(autouse=True)
def _within_a_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """No verdict is known, and the self-tests count as passed: `test_selftest.py` has the one of verdicts."""
    monkeypatch.setattr(verdicts, "_verdicts", {})
    for tested in (executor, selftest):
        monkeypatch.setattr(tested, "_passed", {"hip", "cuda"})


@pytest.fixture
def cold(tmp_path: os.PathLike[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is remembered on disk."""
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
