"""Verdicts: how long a fast one takes, and how much longer Triton's whole pipeline does, on the same specialisations.

    python benchmarks/targets.py [--count N] [--target T]... [--large-target T]... [--json]

First the registered kernels: for each target N specialisations of drawn cases, placed as in production, fast and whole in turns,
both warm, nothing remembered but what the front end said for an earlier target. Then a named list of large tiles, which is what
fast verdicts are for. Ratios are geometric means. There is no pass or fail; the README beside this file has figures.
"""

# ruff: noqa: E402 - one BLAS thread a process, to be said before NumPy is imported
# ruff: noqa: INP001, T201 - a script that talks to the terminal

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

for _variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ[_variable] = "1"
_folder = tempfile.TemporaryDirectory(prefix="tridiff-benchmark-")
os.environ["TRITON_CACHE_DIR"] = _folder.name  # nothing that an earlier run compiled

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests/helpers"))  # samples to compile

import triton
import verdict_samples

from tridiff.harness.capture import Specialisation
from tridiff.harness.engines.spec import TARGETS
from tridiff.harness.registry import builtin
from tridiff.harness.targets import machine_code, pipeline

LARGE_TARGETS = ("gfx942", "gfx950", "sm_90")


def timed(specialisation: Specialisation) -> tuple[float, float]:
    """Seconds of the fast verdict and of the whole pipeline."""
    started = time.perf_counter()
    quick = pipeline.allocated(specialisation).figures
    middle = time.perf_counter()
    whole = machine_code.compiled(specialisation).figures
    ended = time.perf_counter()
    if quick != whole:
        raise SystemExit(f"{specialisation.name}: {quick} is not {whole}")
    return middle - started, ended - middle


def summed(pairs: Iterable[tuple[float, float]]) -> dict[str, float]:
    """Medians in seconds, and the geometric mean of the ratios."""
    pairs = list(pairs)
    return {
        "count": len(pairs),
        "fast": statistics.median(fast for fast, _ in pairs),
        "full": statistics.median(full for _, full in pairs),
        "ratio": statistics.geometric_mean([full / fast for fast, full in pairs]),
    }


def registered(targets: Iterable[str], count: int) -> dict[tuple[str, str], list[tuple[float, float]]]:
    """Pairs by kernel and target."""
    registry = builtin()
    pairs = {}
    for kernel in registry.kernels.values():
        for target in targets:
            first, *others = verdict_samples.of_kernel(
                registry, kernel, target, count=count + 1, seed=0, placements=("production",)
            )
            timed(first)  # warms up the back end
            pairs[kernel.name, target] = [timed(other) for other in others]
            show(f"{kernel.name} for {target}", summed(pairs[kernel.name, target]))
    return pairs


def large(targets: Iterable[str]) -> dict[tuple[str, str], list[tuple[float, float]]]:
    """Pairs by tile and target."""
    pairs = {}
    for target in targets:
        timed(verdict_samples.tiled(target, 16, 32, 64))
        for name, tile in verdict_samples.TILES.items():
            pairs[name, target] = [timed(verdict_samples.tiled(target, *tile))]
            show(f"{name} for {target}", summed(pairs[name, target]))
    return pairs


def show(what: str, sums: dict[str, float]) -> None:
    """A line of the table."""
    row = f"{what:52}{sums['count']:6.0f}{sums['fast'] * 1e3:10.0f}{sums['full'] * 1e3:12.0f}{sums['ratio']:9.1f}"
    print(row, file=sys.stderr if _options.json else sys.stdout, flush=True)


def main() -> None:
    """Print the figures as they come, then what they amount to."""
    if not _options.json:
        print(f"python {sys.version.split()[0]}, triton {triton.__version__}, cores {os.cpu_count()}\n")
        print(f"{'':52}{'count':>6}{'fast, ms':>10}{'whole, ms':>12}{'ratio':>9}")
    found: dict[str, Any] = {}
    for name, pairs in (
        ("all registered kernels", registered(_options.target or TARGETS, _options.count)),
        ("all large tiles", large(_options.large_target or LARGE_TARGETS)),
    ):
        found[name] = summed(pair for some in pairs.values() for pair in some)
        show(name, found[name])
    if _options.json:
        print(json.dumps({"triton": triton.__version__, **found}))


def _parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Time fast verdicts against the whole pipeline.")
    parser.add_argument("--count", type=int, default=8, help="specialisations of a kernel for each target, default 8")
    parser.add_argument("--target", action="append", help="for the registered kernels; repeatable, default all")
    parser.add_argument("--large-target", action="append", help=f"for large tiles; default {', '.join(LARGE_TARGETS)}")
    parser.add_argument("--json", action="store_true", help="print one JSON document")
    return parser.parse_args()


if __name__ == "__main__":
    _options = _parsed()
    main()
