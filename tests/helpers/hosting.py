"""A host project for tests of the pytest plug-in, and the toy family in place of all that is registered.

PYTEST_DONT_REWRITE
"""

from __future__ import annotations

from collections.abc import Callable

import pytest
import triton
from toy.family import registry

from tridiff.harness import plugins
from tridiff.harness import registry as registries
from tridiff.harness.pytest_plugin import fuzzing  # noqa: F401 - what a run inside a test imports first, it forgets again
from tridiff.harness.registry import Registry

PLUGIN = ("-p", "tridiff.harness.pytest_plugin", "-p", "no:cacheprovider")
ONE_KERNEL = """
def test_kernel(tridiff):
    tridiff.fuzz({kernel!r}, examples=20)
"""
MY_KERNELS = """
from tridiff.harness.api import Kernel

def register(registry):
    for name, launcher in (("my_kernel", "scale"), ("my_wrong_kernel", "scale_wrong")):
        registry.register_kernel(Kernel(name=name, op="scale", module="toy.kernels.scale", launcher=launcher))
"""
"""A plug-in with a right and a wrong kernel."""
EVERY_KERNEL = """
def test_kernel(tridiff, tridiff_kernel):
    tridiff.fuzz(tridiff_kernel, examples=5)
"""

LOAD = plugins.load
"""What the fixture `known` replaces."""

Host = Callable[..., pytest.RunResult]


@pytest.fixture
def known(monkeypatch: pytest.MonkeyPatch) -> Registry:
    """The toy family stands in for all that is registered."""
    made = registry()
    monkeypatch.setattr(plugins, "load", lambda _plugins=(), **_: made)
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
        return pytester.runpytest_inprocess(*PLUGIN, "--tridiff-no-isolation", *arguments, no_reraise_ctrlc=True)

    return run


def lines_of(result: pytest.RunResult, start: str) -> list[str]:
    """The lines of standard output that begin with `start`."""
    return [line for line in result.outlines if line.startswith(start)]
