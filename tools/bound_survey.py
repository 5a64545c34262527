"""How much of the error bound do right kernels use? `tools/bound_survey.py [OP] --by dtype --by pattern,dtype [--count 20000]`.

Draws cases of each kernel as `tridiff fuzz` does, presets first, and prints Markdown tables of the ratios |output - reference|
/ bound of the clean ones: a table for each --by, a row for each value of that field of the Case, or for each combination of
values of several fields. Cases come in shards of 2000, each a campaign with a seed of its own, so that any number of processes
gives the same tables. Findings are printed, and are the exit code 1. Ctrl-C ends the run with the tables so far, and 130.
"""

from __future__ import annotations

import argparse
import dataclasses
import math
import multiprocessing
import os
import platform
import signal
import sys
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

if TYPE_CHECKING:
    from tridiff.harness.api import Finding, Judged, Kernel
    from tridiff.harness.registry import Registry
    from tridiff.harness.runner.events import Event

SHARD = 2000
"""Cases that share a seed: a campaign of some rounds, its presets first."""
SHRINK_SECONDS = 60.0
SEEDS = 1_000_000
"""Shards of one --seed have the seeds from this many times it on."""

Key = tuple[object, ...]


@dataclass(frozen=True, kw_only=True)
class Sample:
    """A clean case. `key`: its values of the fields surveyed."""

    key: Key
    ratio: float
    conclusive: bool


@dataclass(kw_only=True)
class Shard:
    """What became of the cases of one seed. `unjudged`: how many were skipped or unsupported, by reason."""

    kernel: str
    samples: list[Sample] = field(default_factory=list)
    unjudged: Counter[str] = field(default_factory=Counter)
    failing: int = 0
    findings: list[Finding] = field(default_factory=list)
    done: int = 0

    def add(self, case: Any, outcome: Judged, fields: Sequence[str]) -> None:
        """Count one drawn case."""
        from tridiff.harness.api import (  # noqa: PLC0415 - imports torch, which only the workers need early
            Clean,
            Found,
            Infrastructure,
            Skipped,
            Unsupported,
        )

        self.done += 1
        match outcome:
            case Clean():
                key = tuple(getattr(case, name) for name in fields)
                self.samples.append(Sample(key=key, ratio=outcome.ratio, conclusive=outcome.conclusive))
            case Found():
                self.failing += 1
            case Skipped() | Unsupported() | Infrastructure():
                self.unjudged[outcome.reason] += 1


# Tables


def table(fields: Sequence[str], groups: dict[Key, list[Sample]]) -> list[str]:
    """A Markdown table: a row for each group, in order of its values, and one for all together."""
    rows = [(tuple(map(str, key)), groups[key]) for key in sorted(groups, key=lambda key: tuple(map(str, key)))]
    everything = [sample for samples in groups.values() for sample in samples]
    headings = [*fields, "cases", "median", "90 %", "99 %", "largest", "inconclusive"]
    total = ("all", *[""] * (len(fields) - 1))
    return [
        f"| {' | '.join(headings)} |",
        f"|{'---|' * len(fields)}{'---:|' * 6}",
        *(_row(names, samples) for names, samples in [*rows, (total, everything)]),
    ]


def _row(names: Sequence[str], samples: Sequence[Sample]) -> str:
    ratios = sorted(sample.ratio for sample in samples)
    share = sum(not sample.conclusive for sample in samples) / max(len(samples), 1)
    figures = [f"{quantile(ratios, part):.3f}" for part in (0.5, 0.9, 0.99, 1.0)]
    return f"| {' | '.join([*names, str(len(samples)), *figures, f'{100 * share:.1f} %'])} |"


def quantile(ratios: Sequence[float], part: float) -> float:
    """The smallest of the sorted `ratios` that `part` of them do not exceed; NaN if there are none."""
    return ratios[max(0, math.ceil(part * len(ratios)) - 1)] if ratios else math.nan


def grouped(samples: Iterable[Sample], positions: Sequence[int]) -> dict[Key, list[Sample]]:
    """The samples by those parts of their keys that stand at `positions`."""
    groups: dict[Key, list[Sample]] = {}
    for sample in samples:
        groups.setdefault(tuple(sample.key[at] for at in positions), []).append(sample)
    return groups


def report(kernel: str, shards: Sequence[Shard], by: Sequence[Sequence[str]]) -> list[str]:
    """What is printed of one kernel: its counts, and a table for each entry of `by`; lines of Markdown."""
    fields = fields_of(by)
    samples = [sample for shard in shards for sample in shard.samples]
    unjudged: Counter[str] = sum((shard.unjudged for shard in shards), Counter())
    drawn, failing = sum(shard.done for shard in shards), sum(shard.failing for shard in shards)
    counts = f"{drawn} cases: {len(samples)} clean, {failing} failing, {unjudged.total()} not judged"
    lines = [f"### {kernel}", "", counts, *(f"- not judged: {count} times {reason}" for reason, count in unjudged.most_common())]
    for names in by:
        lines += ["", *table(names, grouped(samples, [fields.index(name) for name in names]))]
    return lines


def fields_of(by: Iterable[Iterable[str]]) -> list[str]:
    """Every field that occurs, once."""
    return list(dict.fromkeys(name for names in by for name in names))


# Drawing

_cases_done: Any = None
_stop: Any = None


def _start_worker(done: Any, stop: Any) -> None:
    """Ctrl-C reaches every process of the terminal; the first one tells the others."""
    global _cases_done, _stop
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    _cases_done, _stop = done, stop


def work(kernel: str, target: str, seed: int, count: int, fields: Sequence[str]) -> Shard:
    """Run a campaign of `count` cases; where it is stopped, what there is so far."""
    from tridiff.harness.registry import builtin  # noqa: PLC0415 - in the worker

    return survey(builtin(), kernel, target, seed, count, fields, _advance)


def _advance() -> None:
    """One more case is done. Raises KeyboardInterrupt when the first process wants no more."""
    with _cases_done.get_lock():
        _cases_done.value += 1
    if _stop.is_set():
        raise KeyboardInterrupt


def survey(
    registry: Registry, kernel: str, target: str, seed: int, count: int, fields: Sequence[str], advance: Any = lambda: None
) -> Shard:
    """The cases of one seed, drawn and examined as a campaign does; `advance` is called after each."""
    from tridiff.harness.engines.spec import EngineSpec  # noqa: PLC0415 - in the worker
    from tridiff.harness.runner.campaign import Budget, Campaign  # noqa: PLC0415
    from tridiff.harness.runner.events import CaseDone  # noqa: PLC0415
    from tridiff.harness.runner.examine import KernelRef  # noqa: PLC0415

    shard = Shard(kernel=kernel)

    def listen(event: Event) -> None:
        if isinstance(event, CaseDone) and not event.shrinking:
            shard.add(event.case, event.outcome, fields)
            advance()

    budget = Budget(examples=count, shrink_seconds=SHRINK_SECONDS)
    campaign = Campaign(KernelRef(kernel=kernel), EngineSpec(target=target), seed, budget, listen, registry)
    try:
        campaign.run()
    except KeyboardInterrupt:
        pass
    finally:
        shard.findings = list(campaign.findings.values())
    return shard


def shards_of(seed: int, count: int) -> Iterator[tuple[int, int]]:
    """(seed, number of cases) of each shard."""
    for at in range(-(-count // SHARD)):
        yield seed * SEEDS + at, min(SHARD, count - at * SHARD)


def collect(console: Console, kernels: Sequence[Kernel], options: argparse.Namespace) -> tuple[list[Shard], bool]:
    """The shards of all kernels, in order, and whether Ctrl-C ended the run early."""
    context = multiprocessing.get_context("spawn")  # torch is loaded here, and does not like to be forked
    done, stop = context.Value("q", 0), context.Event()
    pool = ProcessPoolExecutor(options.processes, mp_context=context, initializer=_start_worker, initargs=(done, stop))
    fields = fields_of(options.by)
    tasks = [(kernel.name, *shard) for kernel in kernels for shard in shards_of(options.seed, options.count)]
    columns = TextColumn("cases"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TimeRemainingColumn()
    interrupted = False
    with pool, Progress(*columns, console=console) as progress:
        task = progress.add_task("cases", total=sum(count for *_, count in tasks))
        futures = [pool.submit(work, kernel, options.target, seed, count, fields) for kernel, seed, count in tasks]
        try:
            pending: set[Future[Shard]] = set(futures)
            while pending:
                pending = wait(pending, timeout=0.5).not_done
                progress.update(task, completed=done.value)
        except KeyboardInterrupt:
            interrupted = True
            stop.set()
            console.print("interrupted: waiting for the cases that run")
            pool.shutdown(wait=True, cancel_futures=True)
    return [future.result() for future in futures if not future.cancelled()], interrupted


# The command


def main() -> int:
    """0: all cases are clean or could not be judged, 1: findings, 2: wrong use, 130: interrupted, no findings so far."""
    for variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
        os.environ[variable] = "1"  # before numpy is imported; the parallelism is in the processes
    options = _options()
    from tridiff.harness import config  # noqa: PLC0415 - once the variables are set
    from tridiff.harness.engines.spec import UsageError, check_target  # noqa: PLC0415

    try:
        config.require_packages()
        check_target(options.target)
        return _survey(options)
    except (UsageError, BrokenProcessPool) as error:
        print(f"bound_survey: {error}", file=sys.stderr)
        return 2


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Say how much of the error bound right kernels use.")
    parser.add_argument("op", nargs="*", help="ops to survey, all by default")
    parser.add_argument("--kernel", action="append", default=[], help="only this kernel; repeatable")
    parser.add_argument("--by", action="append", type=_names, metavar="FIELD[,FIELD]", help="fields of the Case; repeatable")
    parser.add_argument("--count", type=_positive, default=20_000, help="cases to draw of each kernel, default 20000")
    parser.add_argument("--seed", type=int, default=0, help="the same seed gives the same tables, default 0")
    parser.add_argument("--target", default="gfx942", help="GPU architecture to compile for, default gfx942")
    parser.add_argument("--processes", type=_positive, default=2, help="worker processes, default 2")
    options = parser.parse_args()
    options.by = options.by or [["dtype"], ["pattern"]]
    return options


def _names(text: str) -> list[str]:
    return [name.strip() for name in text.split(",")]


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{text}: must be at least 1")
    return number


def _survey(options: argparse.Namespace) -> int:
    import torch  # noqa: PLC0415 - known to be there
    import triton  # noqa: PLC0415

    from tridiff.harness.registry import builtin  # noqa: PLC0415

    registry = builtin()
    kernels = registry.select(options.op, options.kernel)
    for kernel in kernels:
        check_fields(registry.op(kernel.op).case, fields_of(options.by))
    shards, interrupted = collect(Console(stderr=True), kernels, options)
    print(
        f"Target {options.target}, seed {options.seed}, torch {torch.__version__}, Triton {triton.__version__}, "
        f"Python {platform.python_version()}.\n"
    )
    for kernel in kernels:
        print("\n".join(report(kernel.name, [shard for shard in shards if shard.kernel == kernel.name], options.by)), "\n")
    findings = {finding.signature(): finding for shard in shards for finding in shard.findings}
    _print_findings(findings.values())
    return 1 if findings else 130 if interrupted else 0


def check_fields(kind: type[Any], names: Iterable[str]) -> None:
    """Raise `UsageError` for a name that is no field of the Case."""
    from tridiff.harness.engines.spec import UsageError, nearest  # noqa: PLC0415 - once the variables are set

    known = [known.name for known in dataclasses.fields(kind)]
    for name in names:
        if name not in known:
            raise UsageError(f"{kind.__name__} has no field {name!r}{nearest(name, known)}; fields: {', '.join(known)}")


def _print_findings(findings: Iterable[Finding]) -> None:
    from tridiff.harness.report.text import finding_text  # noqa: PLC0415 - once the variables are set

    for finding in findings:
        print(finding_text(finding, file=None).plain)


if __name__ == "__main__":
    sys.exit(main())
