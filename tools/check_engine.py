"""Check the cpu engine with many random kernels: `tools/check_engine.py --count 10000 [--first SEED] [--processes 2]`.

Kernels come in shards of 100, each with a seed of its own, so that a run can be split, resumed with --first, and repeated with
any number of processes. A shard ends at its first failure, which is minimised. `--defects` plants each known defect into the
engine instead, and says after how many kernels it was found. Ctrl-C ends the run with a report of what was done so far.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

if TYPE_CHECKING:
    from random_kernels.searching import Outcome

SHARD = 100
"""Kernels that share a seed."""
HELPERS = Path(__file__).resolve().parent.parent / "tests" / "helpers"


def main() -> int:
    """0: all kernels agree, 1: some failed, 130: interrupted before that was known."""
    options = _options()
    console = Console()
    # Before numpy is imported; processes inherit it. The parallelism is in the processes.
    for variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
        os.environ[variable] = "1"
    sys.path.insert(0, str(HELPERS))
    return _defects(console, options.count) if options.defects else _kernels(console, options)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Compare random kernels on the cpu engine with an evaluation in Python.")
    parser.add_argument("--count", type=int, default=10_000, help="kernels to check (of a defect: at most), default 10000")
    parser.add_argument("--first", type=int, default=0, metavar="SEED", help="seed of the first shard of 100, default 0")
    parser.add_argument("--processes", type=int, default=1, help="worker processes, default 1")
    parser.add_argument("--defects", action="store_true", help="find each planted defect instead")
    return parser.parse_args()


def _start_worker() -> None:
    """Ctrl-C reaches every process of the terminal; only the first one acts on it."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if str(HELPERS) not in sys.path:
        sys.path.insert(0, str(HELPERS))


def _shard(seed: int, count: int) -> Outcome:
    from random_kernels.searching import search  # noqa: PLC0415 - once the path is set

    with tempfile.TemporaryDirectory() as folder:
        return search(seed, count, Path(folder))


def _kernels(console: Console, options: argparse.Namespace) -> int:
    shards = [(options.first + at, min(SHARD, options.count - at * SHARD)) for at in range(-(-options.count // SHARD))]
    outcomes: list[Outcome] = []
    interrupted = False
    columns = TextColumn("kernels"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TimeRemainingColumn()
    with (
        Progress(*columns, console=console) as progress,
        ProcessPoolExecutor(options.processes, initializer=_start_worker) as pool,
    ):
        task = progress.add_task("kernels", total=options.count)
        pending = {pool.submit(_shard, seed, count): count for seed, count in shards}
        try:
            for future in _completed(set(pending)):
                outcome = future.result()
                outcomes.append(outcome)
                progress.advance(task, pending[future])
                if outcome.failure:
                    progress.console.print(f"seed {outcome.seed}: {outcome.failure.splitlines()[0]}", markup=False)
        except KeyboardInterrupt:
            interrupted = True
            console.print("interrupted: waiting for the shards that run")
            pool.shutdown(wait=True, cancel_futures=True)
    _report(console, outcomes)
    failed = any(outcome.failure for outcome in outcomes)
    return 1 if failed else 130 if interrupted else 0


def _completed(pending: set[Future[Outcome]]) -> Iterator[Future[Outcome]]:
    while pending:
        done, pending = wait(pending, return_when=FIRST_COMPLETED)
        yield from done


def _report(console: Console, outcomes: list[Outcome]) -> None:
    operations: Counter[str] = Counter()
    for outcome in outcomes:
        operations.update(outcome.operations)
    failures = [outcome for outcome in outcomes if outcome.failure]
    for outcome in failures:
        console.print(f"\nseed {outcome.seed}, kernel {outcome.kernels} with those of minimising it:", markup=False)
        console.print(outcome.failure, markup=False, highlight=False)
    count = sum(outcome.kernels for outcome in outcomes)
    console.print(f"{count} kernels run, {len(operations)} operations met, {len(failures)} of {len(outcomes)} shards failed")
    console.print(", ".join(f"{name} {seen}" for name, seen in sorted(operations.items())), highlight=False)


def _defects(console: Console, count: int) -> int:
    from random_kernels.defects import DEFECTS, planted  # noqa: PLC0415 - once the path is set
    from random_kernels.searching import search  # noqa: PLC0415 - once the path is set

    missed = 0
    with tempfile.TemporaryDirectory() as folder:
        for name in DEFECTS:
            with planted(name):
                outcome = search(0, count, Path(folder), minimise=False)
            missed += outcome.failure is None
            console.print(f"{'found after' if outcome.failure else 'MISSED in'} {outcome.kernels:4} kernels: {name}")
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
