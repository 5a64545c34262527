"""First launches of a kernel: compiled from source, read from the cache on disk, and known to the process.

    python benchmarks/first_launch.py [--rounds N] [--json]

Every round starts two processes on a cache folder of their own: the first finds it empty, the second finds what the first
left. Each launches the kernels of decode_attention in several specialisations, twice; the first of them all, which imports
what Triton and we import late, is not counted. There is no pass or fail; the README beside this file has figures.
"""

# ruff: noqa: E402 - one BLAS thread a process, to be said before NumPy is imported
# ruff: noqa: INP001, S603, T201 - a script, which starts itself and talks to the terminal
# mypy: allow-untyped-defs

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

for _variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ[_variable] = "1"

STARTED = time.perf_counter()

from tridiff.harness.api import Arena
from tridiff.harness.engines.cpu import engine, fingerprint, ttir
from tridiff.harness.engines.cpu.engine import CpuEngine
from tridiff.harness.engines.spec import EngineSpec
from tridiff.kernels.decode_attention import decode_attention
from tridiff.strategies.decode_attention import DecodeAttentionCase, build

SHAPES = ((1, 64), (4, 64), (8, 128), (2, 32), (1, 128))
PARTS = ("key", "text", "compiled", "execute", "rest")


def timed(module: Any, name: str, spent: dict[str, float], label: str) -> None:
    """Add the seconds of every call of a module's function to `spent[label]`."""
    function: Callable[..., Any] = getattr(module, name)

    def timing(*arguments: Any) -> Any:
        started = time.perf_counter()
        try:
            return function(*arguments)
        finally:
            spent[label] = spent.get(label, 0.0) + time.perf_counter() - started

    setattr(module, name, timing)


def launch(group: int, dim: int, executing: CpuEngine) -> float:
    """Seconds of a decode: two kernels, 16 programs in the first."""
    case = DecodeAttentionCase(
        num_kv_heads=4, group_size=group, head_dim=dim, head_dim_v=dim, seq_lens=(100, 107), num_kv_splits=2
    )
    arena = Arena()
    inputs = build(case, arena)
    started = time.perf_counter()
    executing.run(decode_attention, inputs, arena)
    return time.perf_counter() - started


def work() -> None:
    """One process: print, as JSON, the time to the first verdict and the parts of first and later launches, in seconds."""
    spent: dict[str, float] = {}
    for module, name, label in (
        (fingerprint, "key_of", "key"),
        (ttir, "generic_text", "text"),
        (engine, "compiled", "compiled"),
        (engine, "execute", "execute"),
    ):
        timed(module, name, spent, label)
    ttir.key_of = fingerprint.key_of  # type: ignore[attr-defined]  # the timed one
    imported = time.perf_counter()
    executing = CpuEngine(EngineSpec())
    tested = time.perf_counter()
    launch(*SHAPES[0], executing)
    report: dict[str, Any] = {
        "import": imported - STARTED,
        "self-test": tested - imported,
        "late imports": time.perf_counter() - tested,
    }
    first, later = [], []
    for shape in SHAPES[1:]:
        spent.clear()
        total = launch(*shape, executing)
        first.append({**spent, "total": total, "rest": total - spent["compiled"] - spent["execute"]})
        later.append(launch(*shape, executing))
    print(json.dumps({**report, "first": first, "later": later}))


def process(folder: Path) -> dict[str, Any]:
    """The report of a process that uses the cache in `folder`."""
    environment = {**os.environ, "TRITON_CACHE_DIR": str(folder), "TRIDIFF_CACHE": "1"}
    result = subprocess.run(
        [sys.executable, __file__, "--worker"], env=environment, check=True, stdout=subprocess.PIPE, text=True
    )
    report: dict[str, Any] = json.loads(result.stdout.splitlines()[-1])
    return report


def summary(rounds: list[tuple[dict[str, Any], dict[str, Any]]]) -> str:
    """Medians over rounds and specialisations, in ms, and ratios within a round."""
    lines = []
    for name, at in (("empty cache", 0), ("warm cache", 1)):
        reports = [pair[at] for pair in rounds]
        launches = [one for report in reports for one in report["first"]]
        parts = {
            part: 1e3 * statistics.median(one.get(part, 0.0) for one in launches) for part in ("total", "text", "key", "execute")
        }
        parts["parse and prepare"] = 1e3 * statistics.median(one["compiled"] - one["text"] for one in launches)
        parts["binding and launcher"] = 1e3 * statistics.median(one["rest"] for one in launches)
        parts["self-test"] = 1e3 * statistics.median(report["self-test"] for report in reports)
        lines.append(f"{name:<14}" + ", ".join(f"{part} {value:.1f}" for part, value in parts.items()))
    later = 1e3 * statistics.median(value for pair in rounds for value in pair[1]["later"])
    lines.append(f"{'warm process':<14}total {later:.1f}")
    ratios = [
        cold["total"] / warm["total"] for pair in rounds for cold, warm in zip(pair[0]["first"], pair[1]["first"], strict=True)
    ]
    lines.append(
        f"empty / warm cache, min / median / max: {min(ratios):.1f} / {statistics.median(ratios):.1f} / {max(ratios):.1f}"
    )
    return "\n".join(lines)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description="Measure first launches of the cpu engine.")
    parser.add_argument("--rounds", type=int, default=5, help="pairs of processes")
    parser.add_argument("--json", action="store_true", help="print one JSON document instead of lines")
    parser.add_argument("--worker", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.worker:
        work()
        return
    rounds = []
    for _ in range(arguments.rounds):
        with tempfile.TemporaryDirectory() as folder:
            rounds.append((process(Path(folder)), process(Path(folder))))
    print(json.dumps(rounds, indent=2) if arguments.json else summary(rounds))


if __name__ == "__main__":
    main()
