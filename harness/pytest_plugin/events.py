"""The records of all fuzz tests of a process: a file for each worker of xdist, and one where there are none."""

from __future__ import annotations

import contextlib
from pathlib import Path

import pytest

from tridiff.harness.pytest_plugin import options
from tridiff.harness.report.eventfile import EventFile

_FILE = pytest.StashKey[EventFile]()


def file_of(config: pytest.Config) -> EventFile:
    """OUT/events-WORKER.jsonl, emptied by the first fuzz test of this process; WORKER is "master" without xdist."""
    if _FILE not in config.stash:
        path = _path(config)
        with contextlib.suppress(OSError):  # what is wrong with the folder, the file says
            path.parent.mkdir(parents=True, exist_ok=True)
            path.unlink(missing_ok=True)
        config.stash[_FILE] = EventFile(path)
        config.add_cleanup(config.stash[_FILE].close)
    return config.stash[_FILE]


def _path(config: pytest.Config) -> Path:
    worker = getattr(config, "workerinput", {}).get("workerid", "master")
    return config.stash[options.KEY].out / f"events-{worker}.jsonl"
