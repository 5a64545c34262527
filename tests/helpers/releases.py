"""Releases of vLLM, SGLang and AITER for the tests of their adapters, and stand-ins for their launchers.

The releases are what `make fetch-NAME` put into .upstream of this checkout.

Nothing of them is committed (.gitignore has /.upstream/), for their licences and their size, and .ci/run fetches nothing: tests
that need a release are skipped in CI, and run wherever somebody has fetched one.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from tridiff.harness.plugins import load
from tridiff.harness.registry import Registry

UPSTREAM = Path(__file__).resolve().parents[2] / ".upstream"
PACKAGES = {"vllm": "vllm/vllm", "sglang": "sglang/sglang", "aiter": "amd_aiter/aiter"}
"""Folder of each adapter's package in .upstream."""


def fetched(adapter: str) -> Registry:
    """The registry with `tridiff.adapters.ADAPTER` on the fetched release; the test is skipped where there is none."""
    folder = PACKAGES[adapter]
    if not (UPSTREAM / folder).is_dir():
        pytest.skip(f"no .upstream/{folder} (never committed: licence, size; CI fetches none): make fetch-{adapter}")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TRIDIFF_UPSTREAM", str(UPSTREAM))
        return load([f"tridiff.adapters.{adapter}"])


def require(known: Registry, release: str, adapter: str) -> None:
    """Skip the test unless the fetched release is `release`, "vllm 0.33.0", of which docs/trophies.md says what is wrong."""
    package, _, version = release.partition(" ")
    (found,) = (note for note in known.notes if note.startswith(f"{package} "))
    if not found.startswith(f"{release},"):
        pytest.skip(
            f'docs/trophies.md is of {release}, here is {found}: make fetch-{adapter} {adapter.upper()}="{package}=={version}"'
        )


def calls_of(families: Iterable[ModuleType], patch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """What the modules `families` pass to the package's launchers from now on: in their place stands one that does nothing."""
    calls: list[dict[str, Any]] = []
    for family in families:
        patch.setattr(family, "LAUNCHER", lambda **arguments: calls.append(arguments))
    return calls
