"""How fuzz tests run their cases: in worker processes, the one in flight on disk, and after those that are remembered or listed.

Whoever imports this needs torch and Triton.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence

import pytest
from hypothesis import settings as hypothesis_settings

from tridiff.harness import preparing, profiles
from tridiff.harness.engines.spec import UsageError
from tridiff.harness.isolation.isolated import Isolated, Limits
from tridiff.harness.isolation.journal import Journal
from tridiff.harness.ledger import confirming
from tridiff.harness.pytest_plugin import options
from tridiff.harness.runner.session import Session
from tridiff.harness.runner.shards import Shard
from tridiff.harness.settings import Plan

_EXAMINER = pytest.StashKey[Isolated]()
_JOURNAL = pytest.StashKey["Journal | None"]()


def plan_of(config: pytest.Config) -> Plan:
    """What a run of the current Hypothesis profile does, if that is one of ours, and else one of the settings' profile."""
    name = profiles.ours(hypothesis_settings.get_current_profile_name() or "")
    try:
        return options.settings_of(config).plan(profile=name, out=config.stash[options.KEY].out)
    except UsageError as error:  # part of what it advises is an option of the command line, which pytest has not
        raise UsageError(str(error).replace("give --cases PATH, or set", "set")) from error


def isolate(config: pytest.Config, session: Session) -> None:
    """Give `session` its worker processes, which all fuzz tests of this process share. Raises `UsageError` for wrong settings."""
    if config.stash[options.KEY].isolation:
        session.examiner = _examiner(config)


def equip(config: pytest.Config, session: Session, parts: Sequence[Shard]) -> None:
    """Give `session` the cases to begin with. Raises `UsageError` for settings that are wrong."""
    session.spec = preparing.patient(session.spec, _limits(config))
    preparing.recall(plan_of(config), session, parts, _warn)
    journal = _journal(config)
    if journal is not None:
        journal.accompany(session)
    confirming.accompany(session)


def _examiner(config: pytest.Config) -> Isolated:
    if _EXAMINER not in config.stash:
        examiner = Isolated(_limits(config))
        config.add_cleanup(examiner.close)
        config.stash[_EXAMINER] = examiner
    return config.stash[_EXAMINER]


def _limits(config: pytest.Config) -> Limits:
    given = config.stash[options.KEY]
    return preparing.limits(options.settings_of(config), given.timeout, given.memory_limit)


def _journal(config: pytest.Config) -> Journal | None:
    """None where the folder cannot be written: tests on a read-only tree run without one."""
    if _JOURNAL not in config.stash:
        try:
            journal = Journal(config.stash[options.KEY].out)
        except UsageError:
            config.stash[_JOURNAL] = None
        else:
            config.add_cleanup(journal.close)
            config.stash[_JOURNAL] = journal
    return config.stash[_JOURNAL]


def _warn(message: str) -> None:
    warnings.warn(f"tridiff: {message}", stacklevel=2)
