"""Spreading the examples of each fuzz test: over the tests that pytest-xdist hands to its workers, and over CI jobs.

All workers must collect the same tests with the same seed. What the controller alone knows (its mode of distribution, the
random seed) travels to them in `workerinput`, and a worker's refusal back in `workeroutput`. Light to import, as every pytest
run does; pytest-xdist need not be installed.
"""

from __future__ import annotations

import secrets
import sys
from typing import Any

import pytest

from tridiff.harness.pytest_plugin import options
from tridiff.harness.runner.shards import shards

FIXTURE = "_tridiff_shard"
"""The fixture by which a fuzz test is parametrised; `tridiff` uses it, so every test that uses `tridiff` does."""

MODES = ("load", "worksteal")
"""Modes of `--dist` that survive a dying worker. With pytest-xdist 3.8 the others hang, or start workers without end."""

_KEY = "tridiff"
_BITS = 32
_SEED = pytest.StashKey[int]()


def configure(config: pytest.Config) -> None:
    """Choose the random seed of the run, which counts under the nightly profile alone; a worker is told the controller's."""
    config.stash[_SEED] = _told(config).get("seed", secrets.randbits(_BITS))


def tell(config: pytest.Config, node: Any) -> None:
    """Give a worker of pytest-xdist, before it starts, what the controller alone knows."""
    node.workerinput[_KEY] = {"seed": config.stash[_SEED], "dist": config.getoption("dist")}


def random_seed(config: pytest.Config) -> int:
    """The seed of this run where none was asked for, the same in all workers; another one in every run."""
    return config.stash[_SEED]


def random_seed_line(config: pytest.Config) -> str | None:
    """What the header says of the seed; None where it is no random one, or where Hypothesis is not even loaded."""
    if config.stash[options.KEY].seed is not None or "hypothesis" not in sys.modules:
        return None
    from tridiff.harness import profiles

    return f"tridiff: {seed_text(random_seed(config))}" if profiles.is_nightly() else None


def seed_text(seed: int) -> str:
    """Say a random seed, and how to get it again."""
    return f"random seed {seed}; the same cases again: --tridiff-seed={seed}"


def parametrise(metafunc: pytest.Metafunc) -> None:
    """One test for each shard; where there is one shard only, the test as it is."""
    if FIXTURE in metafunc.fixturenames:
        parts = shards(_count(metafunc.config))
        if len(parts) > 1:
            metafunc.parametrize(FIXTURE, parts, indirect=True, ids=[f"shard{part}" for part in parts])


def refuse_mode(session: pytest.Session) -> None:
    """In a worker that has collected a fuzz test: end the run if its mode of distribution is none of `MODES`."""
    mode = _told(session.config).get("dist")
    fuzzes = any(FIXTURE in getattr(item, "fixturenames", ()) for item in session.items)
    if mode is not None and mode not in MODES and fuzzes:
        session.config.workeroutput[_KEY] = mode  # type: ignore[attr-defined] # pytest-xdist puts it there
        pytest.exit(_refusal(mode), pytest.ExitCode.USAGE_ERROR)


def pass_on_refusal(node: Any) -> None:
    """In the controller, when a worker has ended: end the run if the worker refused it."""
    mode = getattr(node, "workeroutput", {}).get(_KEY)
    if mode is not None:
        raise pytest.UsageError(_refusal(mode))


def _count(config: pytest.Config) -> int:
    given = config.stash[options.KEY].shards
    return given if given is not None else int(getattr(config, "workerinput", {}).get("workercount", 1))


def _told(config: pytest.Config) -> dict[str, Any]:
    told: dict[str, Any] = getattr(config, "workerinput", {}).get(_KEY, {})
    return told


def _refusal(mode: str) -> str:
    return (
        f"--dist={mode}: fuzz tests of tridiff need --dist=load or --dist=worksteal, the only modes in which pytest-xdist "
        "goes on after a worker has died; run them apart from the others, or leave --dist out"
    )
