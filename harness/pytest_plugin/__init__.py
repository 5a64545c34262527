"""The pytest plug-in: the fixtures `tridiff` and `tridiff_kernel`, the options `--tridiff-...`, a section of the summary.

It is loaded in every pytest run of an environment that has tridiff, so it imports neither torch nor Triton nor Hypothesis
before a test asks for one of its fixtures, or an option names a kernel, an op or a profile of ours.

`options`: what the command line says. `spreading`: shards, and what workers of pytest-xdist have to agree on. `fuzzing`: the
fixture's class. `failure`: how a finding is shown. `summary`: the section.

PYTEST_DONT_REWRITE
"""

from __future__ import annotations

from collections.abc import Generator
from typing import TYPE_CHECKING, Any

import pytest

from tridiff.harness.engines.spec import UsageError
from tridiff.harness.pytest_plugin import options, spreading, summary
from tridiff.harness.pytest_plugin.failure import Failure, one_line
from tridiff.harness.runner.shards import WHOLE, Shard

if TYPE_CHECKING:
    from tridiff.harness.pytest_plugin.fuzzing import Fuzzer


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the options `--tridiff-...` and the setting `tridiff_plugins`."""
    options.add(parser)


@pytest.hookimpl(tryfirst=True)
def pytest_configure(config: pytest.Config) -> None:
    """Check the options; register our profiles before the plug-in of Hypothesis loads the one that was asked for."""
    config.stash[options.KEY] = options.read(config)
    spreading.configure(config)
    # Spelt out rather than imported: the module that registers them imports Hypothesis.
    profile = str(config.getoption("--hypothesis-profile", None) or "")
    if profile.startswith("tridiff-"):
        from tridiff.harness import profiles

        profiles.register()
        if not profiles.is_registered(profile):  # the plug-in of Hypothesis would end in a traceback
            raise pytest.UsageError(f"--hypothesis-profile={profile}: no such profile; ours: {', '.join(profiles.names())}")


def pytest_sessionstart(session: pytest.Session) -> None:
    """Refuse a kernel, op or plug-in that does not exist before anything is collected."""
    given = session.config.stash[options.KEY]
    if given.selects:
        from tridiff.harness.pytest_plugin import kernels

        try:
            kernels.selected(session.config)
        except UsageError as error:
            raise pytest.UsageError(f"tridiff: {one_line(error)}") from None


@pytest.hookimpl(optionalhook=True)
def pytest_configure_node(node: Any) -> None:
    """Give a worker of pytest-xdist what the controller alone knows."""
    spreading.tell(node.config, node)


@pytest.hookimpl(optionalhook=True, tryfirst=True)
def pytest_testnodedown(node: Any) -> None:
    """End the run where a worker of pytest-xdist refused it."""
    spreading.pass_on_refusal(node)


def pytest_report_header(config: pytest.Config) -> str | None:
    """Print the seed where it is a random one."""
    return spreading.random_seed_line(config)


@pytest.hookimpl(tryfirst=True)
def pytest_collection_finish(session: pytest.Session) -> None:
    """Refuse modes of pytest-xdist that do not survive a dying worker, before the controller is told what there is to run."""
    spreading.refuse_mode(session)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """One test for each shard, for each target of `--tridiff-target`, and for each kernel where `tridiff_kernel` is used."""
    spreading.parametrise(metafunc)
    targets = metafunc.config.stash[options.KEY].targets
    if targets and "tridiff" in metafunc.fixturenames:
        metafunc.parametrize("tridiff", targets, indirect=True)
    if "tridiff_kernel" in metafunc.fixturenames:
        from tridiff.harness.pytest_plugin import kernels

        try:
            names = kernels.selected(metafunc.config)
        except UsageError as error:
            raise pytest.Collector.CollectError(f"tridiff: {one_line(error)}") from None
        metafunc.parametrize("tridiff_kernel", names, indirect=True)


@pytest.fixture
def _tridiff_shard(request: pytest.FixtureRequest) -> Shard:
    """The part of the examples that a test draws."""
    shard: Shard = getattr(request, "param", WHOLE)
    return shard


@pytest.fixture(name="tridiff")
def tridiff_fixture(request: pytest.FixtureRequest, _tridiff_shard: Shard) -> Fuzzer:
    """Fuzzes kernels: `tridiff.fuzz("my_kernel")` fails the test with the finding and the command that reproduces it."""
    from tridiff.harness.pytest_plugin import fuzzing, kernels

    try:
        registry = kernels.registry(request.config)
    except UsageError as error:
        raise Failure(f"tridiff: {one_line(error)}") from None
    return fuzzing.Fuzzer(request.node, registry, getattr(request, "param", None), _tridiff_shard)


@pytest.fixture
def tridiff_kernel(request: pytest.FixtureRequest) -> str:
    """The name of a kernel: a test that uses it runs once for every kernel known to tridiff, or selected by an option."""
    return str(request.param)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(call: pytest.CallInfo[Any]) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Give the short summary, and JUnit XML, the headline of a failure of ours."""
    report = yield
    if call.excinfo is not None and isinstance(call.excinfo.value, Failure):
        call.excinfo.value.shorten(report)
    return report


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Print the section `tridiff` where anything was fuzzed."""
    summary.write(terminalreporter)
