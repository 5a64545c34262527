"""For which targets a fuzz run compiles, and in which processes."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any

import pytest

from tridiff.harness import cli, starting
from tridiff.harness.engines.spec import DEFAULT_TARGETS, UsageError
from tridiff.harness.isolation import process
from tridiff.harness.isolation.process import Setting
from tridiff.harness.runner.judging import Judging
from tridiff.harness.settings import Settings

NOTHING = Settings()


@pytest.mark.parametrize(
    ("executed", "named", "given", "targets"),
    [
        ("gfx942", (), NOTHING, DEFAULT_TARGETS),
        ("gfx90a", (), Settings(target="gfx90a"), ("gfx90a",)),
        ("gfx950", ("gfx950",), NOTHING, ("gfx950",)),
        ("gfx950", ("gfx950", "gfx1201", "gfx950"), Settings(target="gfx90a"), ("gfx950", "gfx1201")),
        ("sm_90", ("sm_90", "sm_80"), NOTHING, ("sm_90", "sm_80")),
    ],
)
def test_targets(executed: str, named: tuple[str, ...], given: Settings, targets: tuple[str, ...]) -> None:
    """Those of the command line, once each; else that of the settings; else the default ones. None where that is off."""
    assert starting.verdict_targets(executed, named, given, off=False) == targets
    assert starting.verdict_targets(executed, named, given, off=True) == ()


@pytest.mark.parametrize("off", [False, True])
@pytest.mark.parametrize(("executed", "other"), [("gfx942", "sm_90"), ("sm_80", "gfx950")])
def test_targets_of_two_platforms(executed: str, other: str, off: bool) -> None:
    """A case is drawn for one: whoever wants both is told how."""
    with pytest.raises(UsageError) as caught:
        starting.verdict_targets(executed, (executed, other), NOTHING, off=off)

    assert str(caught.value) == (
        f"--target {other}: its cases are not those of {executed}; fuzz them in a run of their own, or try both with "
        "tridiff targets"
    )


def test_target_that_nobody_knows() -> None:
    """Wherever it stands."""
    with pytest.raises(UsageError, match="unknown target 'gfx943': did you mean"):
        starting.verdict_targets("gfx942", ("gfx942", "gfx943"), NOTHING, off=False)


@pytest.mark.parametrize(("arguments", "off"), [((), False), (("--no-verdicts",), True), (("--no-isolation",), True)])
def test_switched_off(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...], off: bool
) -> None:
    """By its option, and where there are no worker processes, in which a part is pretended."""

    def asked(executed: str, named: Sequence[str], _given: Settings, *, off: bool) -> tuple[str, ...]:
        raise UsageError(f"{executed} {named} {off}")

    monkeypatch.setattr(starting, "verdict_targets", asked)

    assert cli._run(["fuzz", "--target", "gfx950", "--target", "gfx942", *arguments]) == cli.Exit.USAGE
    assert capsys.readouterr().err == f"tridiff: gfx950 ['gfx950', 'gfx942'] {off}\n"


def test_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    """One for each target besides the one that is executed, with the plug-ins."""
    monkeypatch.setattr(process, "Worker", lambda setting: setting)

    started: Any = starting.compilers(["mine.py"], ("gfx942", "gfx950", "gfx90a"), "gfx942")

    assert started == {target: Setting(("mine.py",), target) for target in ("gfx950", "gfx90a")}


@pytest.fixture
def ended(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Examiners are the workers that they begin with; those that were closed."""
    closed: list[Any] = []

    @contextlib.contextmanager
    def examining(worker: Any, *limits: Any, off: bool) -> Iterator[Any]:
        assert limits == (NOTHING, 3.0, 4.0)
        yield None if off else worker
        closed.append(worker)

    monkeypatch.setattr(starting, "examining", examining)
    return closed


def judging(worker: str, compilers: dict[str, Any], verdicts: tuple[str, ...], *, off: bool = False) -> Any:
    """With some limits."""
    engine: Any = worker
    return starting.judging(engine, compilers, verdicts, NOTHING, 3.0, 4.0, off=off)


def test_what_ran_is_compiled(ended: list[Any]) -> None:
    """The executed target's own process compiles for it; the others have theirs; all end."""
    with judging("engine", {"gfx950": "other"}, ("gfx942", "gfx950")) as examiner:
        assert isinstance(examiner, Judging)
        asked: Any = examiner._engine, list(examiner._compilers.items())
        assert asked == ("engine", [("gfx942", "engine"), ("gfx950", "other")])
        assert ended == []

    assert sorted(ended) == ["engine", "other"]


def test_without_verdicts(ended: list[Any]) -> None:
    """The engine's examiner is the examiner; where nothing is isolated, there is none."""
    with judging("engine", {}, ()) as examiner:
        assert examiner == "engine"
    with judging("engine", {"gfx950": "other"}, ("gfx950",), off=True) as examiner:
        assert examiner is None

    assert ended == ["engine", "engine"]
