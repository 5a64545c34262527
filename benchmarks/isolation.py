"""Worker processes: what a Case costs in one beyond what it costs in this process, and how long a deadly kernel takes to shrink.

    python benchmarks/isolation.py [--rounds N] [--examples N] [--json]

First the overhead: the same Cases here and in a worker, in turns, both warm, and the start of a worker. Then a campaign for each
way in which a kernel can take its process with it, with findings, deaths, and seconds from the first death to the minimal Case,
of which those spent in time-outs are told apart. There is no pass or fail; the README beside this file has figures.
"""

# ruff: noqa: E402 - one BLAS thread a process, to be said before NumPy is imported
# ruff: noqa: INP001, T201 - a script that talks to the terminal

from __future__ import annotations

import argparse
import contextlib
import json
import os
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

for _variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ[_variable] = "1"

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests/helpers"))  # the toy family and its deadly kernels

import hypothesis
from misbehaving import BEHAVIOURS, FROM

from tridiff.harness.api import Domain
from tridiff.harness.engines.spec import EngineSpec
from tridiff.harness.isolation.isolated import Isolated, Limits
from tridiff.harness.plugins import load
from tridiff.harness.registry import Registry
from tridiff.harness.report.text import describe_case
from tridiff.harness.runner.campaign import Budget, Campaign
from tridiff.harness.runner.events import CaseDone, Event, FindingMinimal, WorkerDied
from tridiff.harness.runner.examine import KernelRef, examine

PLUGINS = ("toy.planted",)
LIMITS = Limits(seconds=10.0, most_bytes=1 << 30)


def drawn(registry: Registry, op: str, count: int) -> list[Any]:
    """The first Cases of the Op's strategy, without large ones."""
    cases: list[Any] = []

    @hypothesis.seed(0)
    @hypothesis.settings(database=None, deadline=None, max_examples=count, phases=[hypothesis.Phase.generate])
    @hypothesis.given(registry.op(op).strategy(Domain(target="gfx942")))
    def collect(case: Any) -> None:
        cases.append(case)

    collect()
    return cases


def timed(run: Callable[[Any], object], case: Any) -> float:
    """Milliseconds of `run(case)`."""
    started = time.perf_counter()
    run(case)
    return 1e3 * (time.perf_counter() - started)


def overhead(examiner: Isolated, registry: Registry, kernel: str, cases: list[Any], rounds: int) -> dict[str, Any]:
    """Milliseconds of each Case here and in a worker, in turns of all Cases, after both have seen them; and of the difference."""
    ref = KernelRef(kernel=kernel, plugins=PLUGINS)

    def in_worker(case: Any) -> None:
        examiner.examine(ref, EngineSpec(), case, registry, shrinking=False, announce=lambda _: None)

    here, there = [], []
    for turn in range(rounds + 1):
        one = [timed(lambda case: examine(ref, EngineSpec(), case, registry), case) for case in cases]
        other = [timed(in_worker, case) for case in cases]
        if turn:
            here += one
            there += other
    return {
        "kernel": kernel,
        "cases": len(here),
        "here_ms": statistics.median(here),
        "worker_ms": statistics.median(there),
        "overhead_ms": statistics.median(second - first for first, second in zip(here, there, strict=True)),
        "mean_overhead_ms": statistics.fmean(second - first for first, second in zip(here, there, strict=True)),
    }


def deadly(examiner: Isolated, registry: Registry, kernel: str, examples: int) -> dict[str, Any]:
    """What a campaign on a kernel of `toy.planted` found, and how long it took."""
    events: list[tuple[float, Event]] = []
    ref = KernelRef(kernel=kernel, plugins=PLUGINS)
    campaign = Campaign(
        ref,
        EngineSpec(),
        0,
        Budget(examples=examples),
        lambda event: events.append((time.perf_counter(), event)),
        registry,
        examiner=examiner,
    )
    started = time.perf_counter()
    findings = list(campaign.run().values())
    ended = time.perf_counter()
    deaths = [(at, event) for at, event in events if isinstance(event, WorkerDied)]
    minimal = next((at for at, event in events if isinstance(event, FindingMinimal)), ended)
    first = deaths[0][0] if deaths else next((at for at, event in events if failed(event)), started)
    overtime = sum(
        float(event.how.split("than the ")[1].split()[0]) for at, event in deaths[1:] if at <= minimal and "took" in event.how
    )
    return {
        "kernel": kernel,
        "findings": [finding.check for finding in findings],
        "minimal": [describe_case(finding.case) for finding in findings],
        "examples": campaign.examples,
        "deaths": len(deaths),
        "deaths_to_minimal": sum(at <= minimal for at, _ in deaths),
        "seconds_to_minimal": minimal - first,
        "of_these_overtime": overtime,
        "seconds": ended - started,
    }


def failed(event: Event) -> bool:
    """Whether a Case failed."""
    return isinstance(event, CaseDone) and hasattr(event.outcome, "finding")


def shown(report: dict[str, Any]) -> str:
    """The report as lines."""
    lines = [
        f"start of a worker: {report['start_s']:.1f} s",
        "",
        "kernel              cases  here, ms  worker, ms  overhead, ms: median  mean",
    ]
    lines += [
        f"{row['kernel']:<20}{row['cases']:>5}{row['here_ms']:>10.2f}{row['worker_ms']:>12.2f}{row['overhead_ms']:>22.2f}"
        f"{row['mean_overhead_ms']:>6.2f}"
        for row in report["overhead"]
    ]
    lines += ["", "kernel      findings  minimal             examples  deaths  to minimal, s  without time-outs"]
    lines += [
        f"{row['kernel']:<12}{','.join(row['findings']):<10}{'; '.join(row['minimal']):<20}{row['examples']:>8}"
        f"{row['deaths']:>8}{row['seconds_to_minimal']:>15.1f}{row['seconds_to_minimal'] - row['of_these_overtime']:>19.1f}"
        for row in report["deadly"]
    ]
    return "\n".join(lines)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description="Measure worker processes.")
    parser.add_argument("--rounds", type=int, default=5, help="times that each case is run, in turns")
    parser.add_argument("--examples", type=int, default=30, help="cases drawn for each deadly kernel")
    parser.add_argument("--json", action="store_true", help="print one JSON document instead of lines")
    arguments = parser.parse_args()
    registry = load(PLUGINS)
    with contextlib.closing(Isolated(LIMITS)) as examiner:
        toys = drawn(registry, "scale", 40)
        started = time.perf_counter()
        examiner.examine(
            KernelRef(kernel="scale", plugins=PLUGINS), EngineSpec(), toys[0], registry, shrinking=False, announce=lambda _: None
        )
        report: dict[str, Any] = {"start_s": time.perf_counter() - started, "columns": FROM}
        cases = drawn(registry, "decode_attention", 40)
        report["overhead"] = [
            overhead(examiner, registry, "scale", toys, arguments.rounds),
            overhead(examiner, registry, "decode_attention", cases, arguments.rounds),
        ]
        report["deadly"] = [deadly(examiner, registry, name, arguments.examples) for name in BEHAVIOURS]
    print(json.dumps(report, indent=2) if arguments.json else shown(report))


if __name__ == "__main__":
    main()
