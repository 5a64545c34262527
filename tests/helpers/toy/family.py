"""The toy family as a plug-in: registered like any other, from a package of its own."""

from __future__ import annotations

from tridiff.harness.registry import Registry, register_family


def registry() -> Registry:
    """A registry that holds the toy family alone."""
    fresh = Registry()
    register_family(fresh, "scale", package="toy")
    return fresh
