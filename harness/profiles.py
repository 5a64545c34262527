"""Hypothesis profiles of tridiff's own names, so that none of a host project is replaced.

`tridiff-dev`: no deadline. `tridiff-ci`: the same inputs for everybody, so that red means the change. `tridiff-nightly`: new
inputs every time, and ten times as many.
"""

from __future__ import annotations

from typing import Any

from hypothesis import HealthCheck, settings
from hypothesis.errors import InvalidArgument

PREFIX = "tridiff-"
NIGHTLY = "tridiff-nightly"

_COMMON: dict[str, Any] = {"deadline": None}
_PROFILES: dict[str, dict[str, Any]] = {
    "tridiff-dev": {},
    # A busy machine is no reason to be red.
    "tridiff-ci": {
        "derandomize": True,
        "database": None,
        "print_blob": True,
        "suppress_health_check": [HealthCheck.too_slow],
    },
    NIGHTLY: {"max_examples": 1000, "print_blob": True},
}


def register() -> None:
    """Register the profiles that are not registered yet; loads none.

    The parent is explicit because Hypothesis makes its own `ci` profile (derandomised, no database) current where it sees a CI
    variable, and a profile registered without a parent inherits from that: a nightly run would repeat its inputs for ever.
    """
    parent = settings.get_profile("default")
    for name, differences in _PROFILES.items():
        if not is_registered(name):
            settings.register_profile(name, parent=parent, **_COMMON, **differences)


def names() -> tuple[str, ...]:
    """Our profiles."""
    return tuple(_PROFILES)


def is_nightly() -> bool:
    """Whether the nightly profile is loaded, or one that Hypothesis derived from it for a verbosity, say."""
    return (settings.get_current_profile_name() or "").startswith(NIGHTLY)


def is_registered(name: str) -> bool:
    """Whether Hypothesis knows a profile of that name."""
    try:
        settings.get_profile(name)
    except InvalidArgument:
        return False
    return True
