"""What a run needs before it begins: limits, and the cases that come first."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from toy.family import registry
from toy.strategies.scale import ScaleCase

from tridiff.harness import case_lists
from tridiff.harness.api import Facet, Restriction
from tridiff.harness.engines.spec import EngineSpec, UsageError
from tridiff.harness.isolation.isolated import MOST_BYTES, TIMEOUT
from tridiff.harness.preparing import COMPILE_SECONDS, compiling, limits, patient, recall
from tridiff.harness.runner.campaign import Budget
from tridiff.harness.runner.session import Session
from tridiff.harness.runner.shards import Shard
from tridiff.harness.settings import Settings

CASES = [ScaleCase(rows=rows, columns=columns) for rows in range(1, 9) for columns in range(1, 9)]


def session() -> Session:
    """A session of the toy kernel."""
    known = registry()
    return Session([known.kernel("scale")], EngineSpec(), 0, Budget(examples=1), lambda _event: None, known)


def first(part: Shard, path: Path) -> list[ScaleCase]:
    """The cases with which that part of a run begins."""
    made = session()
    recall(Settings(cases=(path,)).plan(), made, (part,), pytest.fail)
    return list(made.first(made.kernels[0]))


def listed(path: Path, cases: list[ScaleCase]) -> Path:
    """A list of `cases`."""
    path.write_text(case_lists.written("scale", "gfx942", cases), encoding="utf-8")
    return path


def test_shards_divide_the_cases(tmp_path: Path) -> None:
    """Each case is one shard's, wherever it stands in the list and whatever stands beside it."""
    path = listed(tmp_path / "whole.jsonl", CASES)
    shorter = listed(tmp_path / "shorter.jsonl", CASES[7:])

    parts = [first(Shard(index, 3), path) for index in range(3)]

    assert sorted(case for part in parts for case in map(repr, part)) == sorted(map(repr, CASES))
    assert all(len(part) > len(CASES) / 6 for part in parts)
    assert first(Shard(0, 1), path) == CASES
    assert first(Shard(1, 3), shorter) == [case for case in parts[1] if case in CASES[7:]]


def test_gate_whose_lists_have_no_case_of_the_kernel(tmp_path: Path) -> None:
    """It would pass by what a seed happens to draw; any other profile is warned."""
    plan = Settings(cases=(listed(tmp_path / "list.jsonl", CASES),)).plan(profile="gate")
    made, warned = session(), list[str]()
    made.kernels = [replace(made.kernels[0], op="other")]

    with pytest.raises(UsageError, match=r"^no case of the lists is for scale: .*list\.jsonl; profile gate must not pass"):
        recall(plan, made, (), warned.append)
    recall(replace(plan, profile=replace(plan.profile, needs_cases=False)), made, (), warned.append)

    assert len(warned) == 1


def test_lists_keep_to_what_a_kernel_supports(tmp_path: Path) -> None:
    """Of their Cases it begins with those in its domain; where there are none, that is a list without its Cases."""
    plan = Settings(cases=(listed(tmp_path / "list.jsonl", CASES),)).plan(profile="gate")
    made = session()
    op = made.registry.op("scale")
    made.registry.ops["scale"] = replace(op, facets={"columns": Facet(description="columns", of=lambda case: case.columns)})
    domain = (Restriction(facet="columns", allowed=(CASES[0].columns,), reason="as documented"),)
    part = replace(made.kernels[0], domain=domain)
    made.kernels = [part]

    recall(plan, made, (), list[str]().append)

    assert {case.columns for case in made.first(part)} == {CASES[0].columns}
    made.kernels = [replace(part, domain=(replace(domain[0], allowed=(999,)),))]
    with pytest.raises(UsageError, match=r"^no case of the lists is for scale: "):
        recall(plan, made, (), list[str]().append)


@pytest.mark.parametrize(
    ("given", "timeout", "gib", "seconds", "most"),
    [
        (Settings(), None, None, TIMEOUT, MOST_BYTES),
        (Settings(timeout=7.0, memory_limit=2.0), None, None, 7.0, 2 << 30),
        (Settings(timeout=7.0, memory_limit=2.0), 9.0, 1.5, 9.0, 3 << 29),
    ],
    ids=["defaults", "settings", "options"],
)
def test_limits(given: Settings, timeout: float | None, gib: float | None, seconds: float, most: int) -> None:
    """What the command line says counts, else the settings, else the defaults; half of a small machine's memory."""
    made = limits(given, timeout, gib)

    assert made.seconds == seconds
    assert made.most_bytes == most or (most == MOST_BYTES and 0 < made.most_bytes < most)


def test_a_launch_may_take_as_long_as_a_case() -> None:
    """Otherwise a longer time for cases would be of no use; a shorter one leaves it to the process's clock."""
    assert patient(EngineSpec(), limits(Settings(), 500.0, None)).max_seconds == 500.0
    assert patient(EngineSpec(), limits(Settings(), 5.0, None)) == EngineSpec()


def test_limits_of_compiling() -> None:
    """A case has the time that one may take; to machine code one specialisation has, and the case has some times that."""
    given = Settings(timeout=7.0, memory_limit=2.0)

    assert [compiling(given, timeout, None, full=False)[1] for timeout in (None, 9.0)] == [7.0, 9.0]
    assert compiling(given, None, None, full=False)[0] == limits(given, None, None)
    known, most = compiling(given, None, None, full=True)
    assert (known.seconds, known.most_bytes, most) == (4 * COMPILE_SECONDS, 2 << 30, COMPILE_SECONDS)
    assert compiling(given, 9.0, None, full=True)[0].seconds == 36.0
