"""What the command line and the configuration file say. Light to import, as every pytest run does."""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import pytest

from tridiff.harness import settings
from tridiff.harness.engines.spec import TARGETS, UsageError, check_engine, check_target
from tridiff.harness.pytest_plugin.failure import one_line
from tridiff.harness.runner.shards import WHOLE, Shard
from tridiff.harness.settings import Settings
from tridiff.harness.targets import table

T = TypeVar("T")

OUT = "tridiff-out"


@dataclass(frozen=True, kw_only=True)
class Options:
    """The options `--tridiff-...`; None or () where one was not given.

    `shards`: into how many tests each fuzz test is divided. `shard`: this run's part of one that is spread over CI jobs.
    `plugins`: those of the configuration file, then those of the command line. `out`: case files go to OUT/findings.
    `isolation`: whether cases run in worker processes; `timeout`: seconds for one case; `memory_limit`: GiB for a worker.
    `known_failures`: the ledger of them, where one is named; `waives`: whether there may be one.
    `selects`: whether the command line names plug-ins, ops or kernels.
    """

    seed: int | None
    examples: int | None
    seconds: float | None
    shards: int | None
    shard: Shard
    targets: tuple[str, ...]
    engine: str | None
    isolation: bool
    timeout: float | None
    memory_limit: float | None
    plugins: tuple[str, ...]
    ops: tuple[str, ...]
    kernels: tuple[str, ...]
    out: Path
    known_failures: Path | None
    waives: bool
    selects: bool


KEY = pytest.StashKey[Options]()
_SETTINGS = pytest.StashKey[Settings]()


def settings_of(config: pytest.Config) -> Settings:
    """What the settings file says that is nearest to pytest's root directory. Raises `UsageError`.

    The targets that it adds are known from then on, while `config` is in use.
    """
    if _SETTINGS not in config.stash:
        config.stash[_SETTINGS] = given = settings.read(start=config.rootpath)
        scope = ExitStack()
        scope.enter_context(table.scope())
        config.add_cleanup(scope.close)
        table.add(given.targets)
    return config.stash[_SETTINGS]


def add(parser: pytest.Parser) -> None:
    """Add the options, and the setting `tridiff_plugins`. Values are strings here: `read` checks them."""
    group = parser.getgroup("tridiff", "fuzzing of Triton kernels (tridiff)")
    for name, metavar, text in (
        ("seed", "N", "seed of all fuzz tests [0; a random one, which is printed, with --hypothesis-profile=tridiff-nightly]"),
        ("examples", "N", "cases that a fuzz test draws in all shards together, instead of what it says [max_examples]"),
        ("seconds", "S", "time that each shard of a fuzz test takes, instead of what the test says [no limit]"),
        ("shards", "N", "divide the examples of each fuzz test among N tests [the number of pytest-xdist's workers]"),
        ("shard", "I/N", "run part I, counted from 0, of N equal parts of the examples, for spreading them over CI jobs [0/1]"),
        ("engine", "NAME", "how kernels are executed: cpu"),
        ("timeout", "S", "seconds that one case may take [60, or what the settings say]"),
        ("memory-limit", "GIB", "memory of a process that runs cases [8, or half of the machine's, or what the settings say]"),
        ("out", "DIR", f"case files of findings go to DIR/findings, records to DIR [{OUT} in the root directory]"),
        ("known-failures", "FILE", "ledger of known failures [the nearest known-failures.toml, or what the settings say]"),
    ):
        group.addoption(f"--tridiff-{name}", metavar=metavar, default=None, help=text)
    group.addoption("--tridiff-no-known-failures", action="store_true", help="waive nothing: known failures are findings")
    group.addoption("--tridiff-no-isolation", action="store_true", help="run kernels in the process of the test: for debuggers")
    for name, metavar, text in (
        ("target", "ARCH", "GPU architecture to compile for, instead of what a test says; repeatable: a test for each"),
        ("plugin", "NAME", "Python file or module that registers ops and kernels; repeatable"),
        ("op", "NAME", "fuzz only kernels of this op; repeatable"),
        ("kernel", "NAME", "fuzz only this kernel; repeatable"),
    ):
        group.addoption(f"--tridiff-{name}", metavar=metavar, action="append", default=[], help=text)
    parser.addini(
        "tridiff_plugins", "Python files or modules that register ops and kernels for tridiff", type="linelist", default=[]
    )


def read(config: pytest.Config) -> Options:
    """The options, checked. Raises `pytest.UsageError` with one line that names the option and the value."""
    folder = (config.inipath or config.rootpath / "pytest.ini").parent
    given: list[str] = config.getoption("--tridiff-plugin")
    ops, kernels = tuple(config.getoption("--tridiff-op")), tuple(config.getoption("--tridiff-kernel"))
    return Options(
        seed=_integer(config, "--tridiff-seed", None),
        examples=_integer(config, "--tridiff-examples", 1),
        seconds=_number(config, "--tridiff-seconds", "a number of seconds"),
        shards=_integer(config, "--tridiff-shards", 1),
        shard=_shard(config, "--tridiff-shard"),
        targets=_targets(config),
        engine=_engine(config),
        isolation=not config.getoption("--tridiff-no-isolation"),
        timeout=_number(config, "--tridiff-timeout", "a number of seconds", 1.0),
        memory_limit=_number(config, "--tridiff-memory-limit", "a number of GiB", 0.5),
        plugins=(*_files(config.getini("tridiff_plugins"), folder), *_files(given, config.invocation_params.dir)),
        ops=ops,
        kernels=kernels,
        out=_out(config),
        known_failures=_ledger(config),
        waives=not config.getoption("--tridiff-no-known-failures"),
        selects=bool(given or ops or kernels),
    )


def _integer(config: pytest.Config, option: str, least: int | None) -> int | None:
    text = config.getoption(option)
    if text is None:
        return None
    try:
        value = int(text)
    except ValueError:
        raise pytest.UsageError(f"{option}={text}: must be an integer") from None
    if least is not None and value < least:
        raise pytest.UsageError(f"{option}={text}: must be at least {least}")
    return value


def _number(config: pytest.Config, option: str, what: str, least: float | None = None) -> float | None:
    """`least`: the smallest that is allowed; None: any above 0."""
    text = config.getoption(option)
    if text is None:
        return None
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not (value > 0.0 if least is None else least <= value) or value == math.inf:
        raise pytest.UsageError(f"{option}={text}: must be {what} {'above 0' if least is None else f'of at least {least:g}'}")
    return value


def _shard(config: pytest.Config, option: str) -> Shard:
    given = config.getoption(option)
    return WHOLE if given is None else _checked(option, Shard.parsed, given)


def _targets(config: pytest.Config) -> tuple[str, ...]:
    given = config.getoption("--tridiff-target")

    def check(name: str) -> str:
        if name not in TARGETS:
            settings_of(config)
        return check_target(name)

    return tuple(dict.fromkeys(_checked("--tridiff-target", check, name) for name in given))


def _engine(config: pytest.Config) -> str | None:
    given = config.getoption("--tridiff-engine")
    return None if given is None else _checked("--tridiff-engine", check_engine, given)


def _checked(option: str, check: Callable[[str], T], value: str) -> T:
    try:
        return check(value)
    except UsageError as error:
        raise pytest.UsageError(f"{option}: {one_line(error)}") from None


def _files(plugins: list[str], folder: Path) -> list[str]:
    """`plugins`, where files, which end in .py, are relative to `folder`."""
    return [str(folder / plugin) if plugin.endswith(".py") else plugin for plugin in plugins]


def _ledger(config: pytest.Config) -> Path | None:
    given: str | None = config.getoption("--tridiff-known-failures")
    if given is not None and config.getoption("--tridiff-no-known-failures"):
        raise pytest.UsageError("--tridiff-known-failures and --tridiff-no-known-failures: give one of them")
    return None if given is None else Path(config.invocation_params.dir, given)


def _out(config: pytest.Config) -> Path:
    """Where case files go; a folder that was asked for is made at once, the default one by the first finding."""
    given: str | None = config.getoption("--tridiff-out")
    if given is None:
        return config.rootpath / OUT
    folder = Path(config.invocation_params.dir, given)
    try:
        (folder / "findings").mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise pytest.UsageError(f"--tridiff-out={given}: cannot be written to: {error.strerror}; choose another folder") from None
    return folder
