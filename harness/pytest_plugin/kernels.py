"""Which kernels there are, and which of them the options select. Imports torch and Triton, once they are known to be there."""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytest

from tridiff.harness import config as machine
from tridiff.harness.engines.spec import DEFAULT_TARGET, UsageError
from tridiff.harness.pytest_plugin import options

if TYPE_CHECKING:
    from tridiff.harness.ledger.waivers import Waivers
    from tridiff.harness.registry import Registry

_REGISTRY = pytest.StashKey["Registry"]()
_WAIVERS = pytest.StashKey["Waivers"]()


def registry(config: pytest.Config) -> Registry:
    """The built-in kernels and those of plug-ins; loaded once. Raises `UsageError` with what this machine lacks."""
    if _REGISTRY not in config.stash:
        with warnings_as_usual():
            machine.require_packages()
            from tridiff.harness import plugins

            given = config.stash[options.KEY]
            # What is imported is told one target: the first, where there are several.
            target = given.targets[0] if given.targets else DEFAULT_TARGET
            try:
                config.stash[_REGISTRY] = plugins.load([*options.settings_of(config).plugins, *given.plugins], target=target)
            except UsageError as error:  # what it advises is an option of the command line; here that has another name
                raise UsageError(str(error).replace(" --plugin ", " --tridiff-plugin ")) from error
    return config.stash[_REGISTRY]


def waivers(config: pytest.Config) -> Waivers:
    """What the ledger of known failures says; read once. Raises `UsageError` for one that is wrong."""
    if _WAIVERS not in config.stash:
        from tridiff.harness import ledger
        from tridiff.harness.ledger.binding import bound

        given = config.stash[options.KEY]
        file, start = given.known_failures, config.rootpath
        try:
            known = ledger.read(options.settings_of(config), file, off=not given.waives, start=start)
        except UsageError as error:  # likewise
            raise UsageError(re.sub(r"--(no-)?known-failures", r"--tridiff-\1known-failures", str(error))) from error
        config.stash[_WAIVERS] = bound(known, registry(config))
    return config.stash[_WAIVERS]


def selected(config: pytest.Config) -> list[str]:
    """Names of the kernels that `--tridiff-op` and `--tridiff-kernel` leave. Raises `UsageError` for unknown names."""
    given = config.stash[options.KEY]
    return [kernel.name for kernel in registry(config).select(given.ops, given.kernels)]


@contextmanager
def warnings_as_usual() -> Iterator[None]:
    """Warnings are shown, and no errors, also where the host's are: they would end as findings of the kernel."""
    with warnings.catch_warnings():
        warnings.simplefilter("default")
        yield
