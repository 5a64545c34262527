"""What the command line and the configuration file say. Light to import, as every pytest run does."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from tridiff.harness.engines.spec import UsageError, check_engine, check_target
from tridiff.harness.pytest_plugin.failure import one_line

OUT = "tridiff-out"


@dataclass(frozen=True, kw_only=True)
class Options:
    """The options `--tridiff-...`; None or () where one was not given.

    `plugins`: those of the configuration file, then those of the command line. `out`: case files go to OUT/findings.
    `selects`: whether the command line names plug-ins, ops or kernels.
    """

    seed: int | None
    examples: int | None
    seconds: float | None
    targets: tuple[str, ...]
    engine: str | None
    plugins: tuple[str, ...]
    ops: tuple[str, ...]
    kernels: tuple[str, ...]
    out: Path
    selects: bool


KEY = pytest.StashKey[Options]()


def add(parser: pytest.Parser) -> None:
    """Add the options, and the setting `tridiff_plugins`. Values are strings here: `read` checks them."""
    group = parser.getgroup("tridiff", "fuzzing of Triton kernels (tridiff)")
    for name, metavar, text in (
        ("seed", "N", "seed of all fuzz tests [0; another one every day with --hypothesis-profile=tridiff-nightly]"),
        ("examples", "N", "cases that a fuzz test draws, instead of what it says [max_examples of the Hypothesis profile]"),
        ("seconds", "S", "time that a fuzz test takes, instead of what it says [no limit]"),
        ("engine", "NAME", "how kernels are executed: cpu"),
        ("out", "DIR", f"case files of findings go to DIR/findings, records to DIR [{OUT} in the root directory]"),
    ):
        group.addoption(f"--tridiff-{name}", metavar=metavar, default=None, help=text)
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
        seconds=_seconds(config, "--tridiff-seconds"),
        targets=_targets(config),
        engine=_engine(config),
        plugins=(*_files(config.getini("tridiff_plugins"), folder), *_files(given, config.invocation_params.dir)),
        ops=ops,
        kernels=kernels,
        out=_out(config),
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


def _seconds(config: pytest.Config, option: str) -> float | None:
    text = config.getoption(option)
    if text is None:
        return None
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0.0 < value < math.inf:
        raise pytest.UsageError(f"{option}={text}: must be a number of seconds above 0")
    return value


def _targets(config: pytest.Config) -> tuple[str, ...]:
    given = config.getoption("--tridiff-target")
    return tuple(dict.fromkeys(_checked("--tridiff-target", check_target, name) for name in given))


def _engine(config: pytest.Config) -> str | None:
    given = config.getoption("--tridiff-engine")
    return None if given is None else _checked("--tridiff-engine", check_engine, given)


def _checked(option: str, check: Callable[[str], str], value: str) -> str:
    try:
        return check(value)
    except UsageError as error:
        raise pytest.UsageError(f"{option}: {one_line(error)}") from None


def _files(plugins: list[str], folder: Path) -> list[str]:
    """`plugins`, where files, which end in .py, are relative to `folder`."""
    return [str(folder / plugin) if plugin.endswith(".py") else plugin for plugin in plugins]


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
