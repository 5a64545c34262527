"""How fast is the cpu engine? Paired with Triton's own interpreter, and in examined cases per second.

    python benchmarks/cpu_engine.py [--pairs N] [--cases N] [--json]

The interpreter is chosen when Triton is first imported, so each side is a process of its own. They work in turns, so that
a machine that is busy is busy for both: what is reported is the ratio of times within a pair. Both sides are warm: a
launch is done before it is timed, and a short one is timed many times. There is no pass or fail; the README beside this
file has figures to compare with.
"""

# ruff: noqa: ANN001, ANN201 - jit functions carry no types
# ruff: noqa: E402 - one BLAS thread a process, to be said before NumPy is imported
# ruff: noqa: INP001, S603, T201 - a script, which starts itself and talks to the terminal
# mypy: allow-untyped-defs, allow-incomplete-defs, allow-untyped-decorators

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import IO, Any, cast

for _variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ[_variable] = "1"

import hypothesis
import numpy as np
import torch
import triton
import triton.language as tl

from tridiff.harness.api import Arena, Clean, Domain, gaussian, permutation
from tridiff.harness.engines.cpu.engine import CpuEngine
from tridiff.harness.engines.spec import DEFAULT_TARGET, EngineSpec
from tridiff.harness.registry import builtin
from tridiff.harness.runner.examine import KernelRef, examine
from tridiff.harness.runner.seeding import draws_by_seed_alone
from tridiff.kernels.decode_attention import decode_attention
from tridiff.strategies.decode_attention import DecodeAttentionCase, build

Launch = Callable[[], None]
PROGRAMS = (16, 64, 256)
TURN_S = 0.1
SPLITS, KV_HEADS, GROUP = 2, 4, 4


@triton.jit
def copy_rows(source, slots, cache, slot_stride, width, block: tl.constexpr):
    """A cache writer: row `program` of the source goes to the slot that is its own, unless that is negative."""
    row = tl.program_id(0)
    slot = tl.load(slots + row).to(tl.int64)
    if slot < 0:
        return
    columns = tl.arange(0, block)
    values = tl.load(source + row * width + columns, mask=columns < width)
    tl.store(cache + slot * slot_stride + columns, values, mask=columns < width)


def attention(programs: int, arena: Arena, *, group: int) -> Launch:
    """A launch of decode_attention in float32 whose first phase has that many programs; 100 to 131 keys a row."""
    rows = programs // (SPLITS * KV_HEADS)
    case = DecodeAttentionCase(
        num_kv_heads=KV_HEADS,
        group_size=group,
        head_dim=64,
        head_dim_v=64,
        seq_lens=tuple(100 + 7 * row % 32 for row in range(rows)),
        num_kv_splits=SPLITS,
    )
    inputs = build(case, arena)
    return lambda: decode_attention(**inputs)


def writer(programs: int, arena: Arena) -> Launch:
    """A launch of copy_rows: rows of 8 heads of 64 columns; every eighth slot is -1."""
    width = 8 * 64
    source = arena.tensor("source", [programs, width], torch.float32).copy_(gaussian(0, "source", [programs, width]))
    slots = arena.tensor("slots", [programs], torch.int64)
    slots.copy_(torch.from_numpy(permutation(0, "slots", 2 * programs)[:programs]))[::8] = -1
    cache = arena.output("cache", [2 * programs, width], torch.float32, strides=[width + 32, 1])
    return lambda: copy_rows[(programs,)](source, slots, cache, cache.stride(0), width, width)


LAUNCHES: dict[str, Callable[[int, Arena], Launch]] = {
    "decode_attention, per head": partial(attention, group=1),
    "decode_attention, grouped": partial(attention, group=GROUP),
    "cache writer": writer,
}


def work(side: str) -> None:
    """One side's process: for every line NAME/PROGRAMS on stdin, answer with the seconds of such a launch."""
    launches: dict[str, Launch] = {}
    if side == "interpreter":
        repair_interpreter()
    engine = CpuEngine(EngineSpec())
    for line in sys.stdin:
        name = line.strip()
        if name in launches:
            print(mean_seconds(launches[name]), flush=True)
            continue
        kind, _, programs = name.partition("/")
        arena = Arena()
        launch = LAUNCHES[kind](int(programs), arena)
        launches[name] = launch if side == "interpreter" else partial(engine.run, launch, {}, arena)
        started = time.perf_counter()
        launches[name]()
        print(time.perf_counter() - started, flush=True)


def mean_seconds(launch: Launch) -> float:
    """Seconds per launch over a turn: as many launches as take `TURN_S`, after one that brings code and data back in cache."""
    launch()
    count = 0
    started = time.perf_counter()
    while count == 0 or time.perf_counter() - started < TURN_S:
        launch()
        count += 1
    return (time.perf_counter() - started) / count


def repair_interpreter() -> None:
    """Let the interpreter run our kernels: it turns comparisons of scalars into floats, and asks for a GPU's driver."""
    from triton.backends.compiler import GPUTarget  # noqa: PLC0415 - only this side needs it
    from triton.runtime import driver, interpreter  # noqa: PLC0415 - likewise

    def create_splat(_: Any, kind: Any, value: Any) -> Any:
        return interpreter.TensorHandle(np.full(kind.shape, value.data, dtype=value.data.dtype), value.dtype.scalar)

    class Driver:
        def get_current_target(self) -> GPUTarget:
            return GPUTarget("cuda", 80, 32)

    interpreter.InterpreterBuilder.create_splat = create_splat
    driver.set_active(Driver())


@contextmanager
def worker(side: str) -> Iterator[Callable[[str], float]]:
    """A process for one side; the function that it gives does a launch there and returns its seconds."""
    environment = {**os.environ, "TRITON_INTERPRET": "1" if side == "interpreter" else "0"}
    command = [sys.executable, __file__, "--worker", side]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment) as process:
        stdin, stdout = cast(IO[str], process.stdin), cast(IO[str], process.stdout)

        def ask(name: str) -> float:
            stdin.write(name + "\n")
            stdin.flush()
            return float(stdout.readline())

        yield ask
        stdin.close()


def compare(pairs: int) -> Iterator[dict[str, Any]]:
    """Per launch and number of programs: seconds of both sides, and their ratios pair by pair."""
    with worker("engine") as engine, worker("interpreter") as interpreter:
        for kind in LAUNCHES:
            for programs in PROGRAMS:
                name = f"{kind}/{programs}"
                first = engine(name), interpreter(name)
                times = [(engine(name), interpreter(name)) for _ in range(pairs)]
                yield {
                    "launch": kind,
                    "programs": programs,
                    "engine_first_s": first[0],
                    "engine_s": [ours for ours, _ in times],
                    "interpreter_s": [theirs for _, theirs in times],
                    "ratio": [theirs / ours for ours, theirs in times],
                }


def drawn(count: int) -> list[Any]:
    """The first cases that a fuzz with seed 0 draws from the whole contract of decode_attention."""
    cases: list[Any] = []

    @hypothesis.seed(0)
    @hypothesis.settings(max_examples=count, database=None, deadline=None, phases=[hypothesis.Phase.generate])
    @hypothesis.given(builtin().op("decode_attention").strategy(Domain(target=DEFAULT_TARGET)))
    def collect(case: Any) -> None:
        cases.append(case)

    with draws_by_seed_alone():
        collect()
    return cases


def examine_cases(count: int) -> dict[str, Any]:
    """Cases per second of `examine`: at first, kernels being compiled on the way, and again with everything compiled."""
    cases = drawn(count)
    reference, spec = KernelRef(kernel="decode_attention"), EngineSpec()
    passes = []
    names: set[str] = set()
    for _ in range(2):
        started = time.perf_counter()
        outcomes = [examine(reference, spec, case) for case in cases]
        passes.append(len(cases) / (time.perf_counter() - started))
        names.update(name for outcome in outcomes if isinstance(outcome, Clean) for name in outcome.specialisations)
    return {"cases": len(cases), "specialisations": len(names), "first_per_s": passes[0], "again_per_s": passes[1]}


def machine() -> dict[str, str]:
    """What the figures depend on."""
    return {
        "processor": _processor(),
        "cores": str(os.cpu_count()),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "triton": triton.__version__,
        "numpy": np.__version__,
    }


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        return next(line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


HEADER = (
    f"{'launch, float32':<28}{'programs':>9}{'engine, ms':>12}{'interpreter, ms':>17}{'first, ms':>11}   ratio min / median / max"
)


def row(result: dict[str, Any]) -> str:
    """One line of the table: medians, the engine's first launch with all that is compiled for it, and the ratios."""
    low, middle, high = min(result["ratio"]), statistics.median(result["ratio"]), max(result["ratio"])
    ours, theirs = (1e3 * statistics.median(result[side]) for side in ("engine_s", "interpreter_s"))
    name = f"{result['launch']:<28}{result['programs']:>9}"
    return f"{name}{ours:>12.2f}{theirs:>17.0f}{1e3 * result['engine_first_s']:>11.0f}   {low:.0f} / {middle:.0f} / {high:.0f}"


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description="Measure the cpu engine.")
    parser.add_argument("--pairs", type=int, default=5, help="pairs per launch")
    parser.add_argument("--cases", type=int, default=100, help="cases to examine")
    parser.add_argument("--json", action="store_true", help="print one JSON document instead of tables")
    parser.add_argument("--worker", choices=["engine", "interpreter"], help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.worker:
        work(arguments.worker)
        return
    if arguments.json:
        report = {"machine": machine(), "pairs": list(compare(arguments.pairs)), "examine": examine_cases(arguments.cases)}
        print(json.dumps(report, indent=2))
        return
    print(", ".join(f"{name} {value}" for name, value in machine().items()))
    print(f"\n{HEADER}")
    for result in compare(arguments.pairs):
        print(row(result), flush=True)
    examined = examine_cases(arguments.cases)
    print(f"\nexamine: {examined['cases']} cases of decode_attention, {examined['specialisations']} specialisations:", end=" ")
    print(f"{examined['first_per_s']:.1f} a second, and {examined['again_per_s']:.1f} once all are compiled")


if __name__ == "__main__":
    main()
