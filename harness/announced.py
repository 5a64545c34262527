"""Plug-ins that installed distributions announce: which there are, and what users call them. Imports none of them."""

from __future__ import annotations

import importlib.metadata
from dataclasses import dataclass

GROUP = "tridiff.plugins"
"""The entry-point group under which an installed distribution announces its plug-ins: NAME = "package.module"."""
LEFT_OUT = "no:"
"""Before the name of an installed plug-in: it is left out."""


@dataclass(frozen=True, kw_only=True)
class Announced:
    """`name` and `value` of the entry point; `distribution`: name and version of what announces it."""

    name: str
    value: str
    distribution: str

    @property
    def source(self) -> str:
        """What its user calls it."""
        return f"{self.name} of {self.distribution}"

    @property
    def advice(self) -> str:
        """What to do where it is broken, to be added to the line that says how."""
        return f"; repair or uninstall it, or leave it out with --plugin {LEFT_OUT}{self.name}"


def announced() -> list[Announced]:
    """Those of all installed distributions, in the order of the distributions' names and their own."""
    found = [
        Announced(name=entry.name, value=entry.value, distribution=_distribution(entry))
        for entry in importlib.metadata.entry_points(group=GROUP)
    ]
    return sorted(found, key=lambda plugin: (plugin.distribution, plugin.name))


def _distribution(entry: importlib.metadata.EntryPoint) -> str:
    return f"{entry.dist.name} {entry.dist.version}" if entry.dist is not None else "an unknown distribution"
