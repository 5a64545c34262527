"""Do fast verdicts say what the whole pipeline says? `tools/compare_verdicts.py [--count 40] [--target T]... [--processes 2]`.

For each target, `--count` specialisations of the registered kernels, in every placement, and of a kernel with tiles of many
sizes, large ones included: the figures of the allocation alone must be those of Triton's whole pipeline, each time. An abort of
the code generator ends one process: what it was at is told, and the rest goes on. With `--device` also what Triton says on the
GPU that is there: the same figures, and OutOfResources exactly where our limits say so. Exit code 1 where anything differs.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import signal
import sys
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

if TYPE_CHECKING:
    from tridiff.harness.capture import Specialisation

HELPERS = Path(__file__).resolve().parent.parent / "tests" / "helpers"
SHARD = 10
"""Specialisations of the kernels that one process compiles at a time."""
TILES = [
    (block_q, block_n, block_d, kind, warps, stages)
    for block_q, block_n, block_d in ((16, 64, 64), (64, 64, 128), (16, 256, 128), (128, 128, 128), (16, 512, 64), (64, 64, 256))
    for kind in ("bfloat16", "float32")
    for warps, stages in ((4, 1), (4, 2), (8, 3))
]
"""Tiles whose shared memory lies on both sides of every part's limit."""


@dataclass(frozen=True)
class Sample:
    """What became of one specialisation: `verdict` is equal, differs, refused, or fits/exceeds on a device."""

    target: str
    what: str
    verdict: str
    detail: str = ""
    fast: float = 0.0
    full: float = 0.0


def main() -> int:
    """0: all are equal, 1: some differ, 130: interrupted."""
    options = _options()
    console = Console()
    for variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
        os.environ[variable] = "1"
    work: list[tuple[str, str, int]] = []
    for target in options.target or _targets():
        work += [("kernels", target, seed) for seed in range(options.seed, options.seed + -(-options.count // SHARD))]
        if not options.no_tiles:
            work += [("tiles", target, part) for part in range(options.tile_parts)]
    samples, lost, interrupted = _collected(console, work, options)
    _report(console, samples, lost)
    if interrupted:
        return 130
    return 1 if lost or any(sample.verdict == "differs" for sample in samples) else 0


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Compare fast verdicts with those of the whole pipeline.")
    parser.add_argument("--count", type=int, default=40, help="specialisations of the kernels for each target, default 40")
    parser.add_argument("--target", action="append", help="repeatable, default all")
    parser.add_argument("--seed", type=int, default=0, help="of the first shard of cases, default 0")
    parser.add_argument("--processes", type=int, default=2, help="default 2")
    parser.add_argument(
        "--tile-parts", type=int, default=4, help="processes over which the tiles of a target are spread, default 4"
    )
    parser.add_argument("--no-tiles", action="store_true", help="leave out the kernel with tiles of many sizes")
    parser.add_argument("--device", action="store_true", help="ask the GPU of this machine, too; give its target")
    return parser.parse_args()


def _targets() -> list[str]:
    from tridiff.harness.engines.spec import TARGETS  # noqa: PLC0415 - once the environment is set

    return list(TARGETS)


def _collected(
    console: Console, work: list[tuple[str, str, int]], options: argparse.Namespace
) -> tuple[list[Sample], list[str], bool]:
    """All samples; the pieces of work whose process died; whether Ctrl-C ended it."""
    samples: list[Sample] = []
    lost: list[str] = []
    columns = TextColumn("pieces"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn()
    with Progress(*columns, console=console) as progress, ThreadPoolExecutor(options.processes) as threads:
        task = progress.add_task("pieces", total=len(work))
        futures = {threads.submit(_alone, item, options): item for item in work}
        try:
            for future in as_completed(futures):
                progress.advance(task)
                try:
                    samples += future.result()
                except BrokenProcessPool:
                    lost.append(" ".join(map(str, futures[future])))
        except KeyboardInterrupt:
            threads.shutdown(wait=False, cancel_futures=True)
            for process in multiprocessing.active_children():
                process.kill()
            return samples, lost, True
    return samples, lost, False


def _alone(item: tuple[str, str, int], options: argparse.Namespace) -> list[Sample]:
    """A piece of work in a process of its own, which may abort."""
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn"), initializer=_start) as pool:
        return pool.submit(_compared, *item, options).result()


def _start() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    sys.path.insert(0, str(HELPERS))


def _compared(kind: str, target: str, part: int, options: argparse.Namespace) -> list[Sample]:
    return [
        _sample(target, what, specialisation, device=options.device)
        for what, specialisation in _pieces(kind, target, part, options)
    ]


def _pieces(kind: str, target: str, part: int, options: argparse.Namespace) -> Iterator[tuple[str, Specialisation]]:
    import torch  # noqa: PLC0415 - in the process that needs it
    import verdict_samples  # noqa: PLC0415 - once the path is set

    from tridiff.harness.registry import builtin  # noqa: PLC0415 - likewise

    if kind == "tiles":
        for block_q, block_n, block_d, name, warps, stages in TILES[part :: options.tile_parts]:
            made = verdict_samples.tiled(
                target, block_q, block_n, block_d, dtype=getattr(torch, name), warps=warps, stages=stages
            )
            yield f"tiles {block_q} x {block_n} x {block_d}, {name}, {warps} warps, {stages} stages", made
        return
    registry = builtin()
    for kernel in registry.kernels.values():
        for made in verdict_samples.of_kernel(registry, kernel, target, count=SHARD, seed=part):
            yield verdict_samples.described(made), made


def _sample(target: str, what: str, specialisation: Specialisation, *, device: bool) -> Sample:
    from tridiff.harness.targets import machine_code, pipeline  # noqa: PLC0415 - in the process that needs it

    started = time.perf_counter()
    try:
        quick = pipeline.allocated(specialisation).figures
        middle = time.perf_counter()
        whole = machine_code.compiled(specialisation).figures
    except pipeline.Refused as error:
        return Sample(target, what, "refused", error.failure.message)
    ended = time.perf_counter()
    if quick != whole:
        return Sample(target, what, "differs", f"{quick}, whole pipeline {whole}")
    told = _on_device(specialisation, quick, target) if device else "equal"
    detail = told if told.startswith("differs") else str(quick.shared)
    return Sample(target, what, told.partition(":")[0], detail, middle - started, ended - middle)


def _on_device(specialisation: Specialisation, quick: Any, target: str) -> str:
    """What Triton on the GPU says: `fits`, `exceeds`, or `differs: ...` where that is not what we predict."""
    import triton  # noqa: PLC0415 - in the process that needs it
    from triton.compiler import ASTSource  # noqa: PLC0415 - likewise
    from triton.runtime.errors import OutOfResources  # noqa: PLC0415 - likewise

    from tridiff.harness.targets.parts import part  # noqa: PLC0415 - likewise

    limit = part(target).shared_bytes
    source = ASTSource(specialisation.function, specialisation.signature, specialisation.constants, specialisation.attributes)
    kernel = triton.compile(source, options=vars(specialisation.options))
    raised = ""
    try:
        kernel._init_handles()  # noqa: SLF001 - what Triton does before the first launch
    except OutOfResources as error:
        raised = f"{error.name} {error.required} of {error.limit}"
    if kernel.metadata.shared != quick.shared:
        return f"differs: {quick.shared} bytes predicted, {kernel.metadata.shared} on the device"
    predicted = f"shared memory {quick.shared} of {limit}" if quick.shared > limit else ""
    if raised != predicted:
        return f"differs: predicted {predicted or 'that it fits'}, the device says {raised or 'that it fits'}"
    return "exceeds" if raised else "fits"


def _report(console: Console, samples: list[Sample], lost: list[str]) -> None:
    kinds = ("equal", "fits", "exceeds", "refused", "differs")
    table = Table("target", *kinds, "most bytes")
    for target in dict.fromkeys(sample.target for sample in samples):
        mine = [sample for sample in samples if sample.target == target]
        counts = Counter(sample.verdict for sample in mine)
        most = max((int(sample.detail) for sample in mine if sample.verdict in kinds[:3]), default=0)
        table.add_row(target, *(str(counts[kind]) for kind in kinds), str(most))
    console.print(table)
    for sample in samples:
        if sample.verdict in {"differs", "refused"}:
            console.print(f"{sample.verdict}: {sample.target} {sample.what}: {sample.detail}", markup=False, soft_wrap=True)
    for piece in lost:
        console.print(f"the process died that compiled: {piece}", markup=False)
    counts = Counter(sample.verdict for sample in samples)
    ratios = sorted(sample.full / sample.fast for sample in samples if sample.fast)
    middle = f"; whole pipeline / fast, median {ratios[len(ratios) // 2]:.1f}" if ratios else ""
    console.print(", ".join(f"{count} {kind}" for kind, count in counts.items()) + middle)


if __name__ == "__main__":
    sys.exit(main())
