"""Hypothesis profiles of tridiff's own names, so that none of a host project is replaced: `tridiff-dev` and so on.

What each stands for is in `tridiff.harness.settings.PROFILES`, which `tridiff fuzz --profile` reads as well.
"""

from __future__ import annotations

from typing import Any

from hypothesis import HealthCheck, settings
from hypothesis.errors import InvalidArgument

from tridiff.harness.settings import PROFILES, Profile, Settings

PREFIX = "tridiff-"


def register() -> None:
    """Register the profiles that are not registered yet; loads none.

    The parent is explicit because Hypothesis makes its own `ci` profile (derandomised, no database) current where it sees a CI
    variable, and a profile registered without a parent inherits from that: a nightly run would repeat its inputs for ever.
    """
    parent = settings.get_profile("default")
    for profile in PROFILES.values():
        name = PREFIX + profile.name
        if not is_registered(name):
            settings.register_profile(name, parent=parent, **_differences(profile))


def _differences(profile: Profile) -> dict[str, Any]:
    """From Hypothesis' default profile, which `tridiff-dev` keeps except for the deadline."""
    differences: dict[str, Any] = {
        "deadline": None,
        "derandomize": profile.derandomised,
        "max_examples": profile.max_examples,
        "print_blob": profile.name != "dev",
    }
    if profile.derandomised:
        # A busy machine is no reason to be red.
        differences |= {"database": None, "suppress_health_check": [HealthCheck.too_slow]}
    return differences


def names() -> tuple[str, ...]:
    """Our profiles."""
    return tuple(PREFIX + name for name in PROFILES)


def seed_of(name: str, given: Settings | None = None) -> int:
    """The seed of a run under the Hypothesis profile `name`, or under the profile of ours of that name.

    0 under a profile that is not ours; a new one with every call where the profile draws anew. Where several processes do one
    run, one of them must ask and tell the others. `given`: settings, which may put another seed in the profile's place.
    """
    known = ours(name)
    return 0 if known is None else (given or Settings()).profile_named(known).run_seed()


def is_nightly() -> bool:
    """Whether a profile is loaded that draws anew in every run, or one that Hypothesis derived from it for a verbosity, say."""
    known = ours(settings.get_current_profile_name() or "")
    return known is not None and PROFILES[known].seed is None


def ours(name: str) -> str | None:
    """`ci` for `ci`, `tridiff-ci`, and `tridiff-ci-with-verbose-verbosity`; None for a profile that is not ours."""
    if name in PROFILES:
        return name
    own = name.removeprefix(PREFIX).partition("-")[0]
    return own if name.startswith(PREFIX) and own in PROFILES else None


def is_registered(name: str) -> bool:
    """Whether Hypothesis knows a profile of that name."""
    try:
        settings.get_profile(name)
    except InvalidArgument:
        return False
    return True
