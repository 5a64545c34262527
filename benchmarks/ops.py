"""How fast is each Op? Cases per second of the cpu engine, and where the time of a case goes.

    python benchmarks/ops.py [--op NAME]... [--cases N] [--json]

Each Op's own kernel examines the cases that a fuzz would draw, twice: on the first pass kernels are compiled on the way, with
nothing in the cache on disk; on the second all are known to the process. Shares are of the first pass, which is what a fuzz of
new cases does; drawing is part of it. The machine may be busy: compare shares and Ops of one run, not times of two. There is no
pass or fail; the README beside this file has figures.
"""

# ruff: noqa: E402 - one BLAS thread a process and no cache, to be said before NumPy and the engine are imported
# ruff: noqa: INP001, SLF001, T201 - a script, which looks inside and talks to the terminal

from __future__ import annotations

import argparse
import json
import os
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any
from unittest import mock

for _variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ[_variable] = "1"
os.environ["TRIDIFF_CACHE"] = "0"

from tridiff.harness.api import Clean
from tridiff.harness.engines.cpu import engine
from tridiff.harness.engines.spec import DEFAULT_TARGET, EngineSpec
from tridiff.harness.registry import Registry, builtin
from tridiff.harness.runner import drawing, examine

PARTS = ("drawing", "inputs", "front end", "execution", "launcher", "reference", "checks")
"""What a case's time goes to. "launcher": the Python around the launches, and their capture. "checks": what is left."""


@dataclass
class Clock:
    """Exclusive seconds by part: while a part runs within another one, the outer one's time stands still."""

    spent: dict[str, float] = field(default_factory=lambda: dict.fromkeys(PARTS, 0.0))
    _running: list[str] = field(default_factory=list)
    _since: float = 0.0

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        """Within this context, time is `name`'s."""
        self._turn()
        self._running.append(name)
        try:
            yield
        finally:
            self._turn()
            self._running.pop()

    def _turn(self) -> None:
        now = time.process_time()
        if self._running:
            self.spent[self._running[-1]] += now - self._since
        self._since = now

    def timing(self, function: Callable[..., Any], name: str) -> Callable[..., Any]:
        """`function`, with its time counted as that of `name`."""

        def timed(*arguments: Any, **named: Any) -> Any:
            with self.part(name):
                return function(*arguments, **named)

        return timed


@contextmanager
def observed(clock: Clock) -> Iterator[None]:
    """Within this context, `clock` sees what examinations do."""
    watched: list[tuple[Any, str, str]] = [
        (examine._Examination, "_staged", "inputs"),
        (examine._Examination, "_run", "launcher"),
        (examine._Examination, "_judged", "reference"),
        (engine, "compiled", "front end"),
        (engine, "execute", "execution"),
    ]
    with ExitStack() as stack:
        for owner, name, part in watched:
            stack.enter_context(mock.patch.object(owner, name, clock.timing(getattr(owner, name), part)))
        yield


def measured(registry: Registry, op: str, count: int) -> dict[str, Any]:
    """Cases per second of both passes over `count` cases of `op`, and the shares of the first."""
    kernel = next(kernel.name for kernel in registry.kernels.values() if kernel.op == op and "cpu" in kernel.engines)
    clock, reference, spec = Clock(), examine.KernelRef(kernel=kernel), EngineSpec()
    examine.examine(reference, spec, registry.op(op).case())  # what is imported late is no part of any case
    with clock.part("drawing"):
        cases = drawing.drawn(registry, op, DEFAULT_TARGET, count=count, seed=0)
    seconds, slowest = [], (0.0, cases[0])
    names: set[str] = set()
    found: list[str] = []
    for number in range(2):
        started = time.process_time()
        for case in cases:
            begun = time.process_time()
            outcome = _examined(clock, reference, spec, case) if number == 0 else examine.examine(reference, spec, case)
            if isinstance(outcome, Clean):
                names.update(outcome.specialisations)
            elif number == 0:
                found.append(f"{type(outcome).__name__}: {case}")
            slowest = max(slowest, (time.process_time() - begun, case), key=lambda pair: pair[0])
        seconds.append(time.process_time() - started)
    total = sum(clock.spent.values())
    return {
        "op": op,
        "cases": len(cases),
        "not_clean": found,
        "specialisations": len(names),
        "first_per_s": len(cases) / total,
        "again_per_s": len(cases) / seconds[1],
        "shares": {part: spent / total for part, spent in clock.spent.items()},
        "slowest_s": slowest[0],
        "slowest": str(slowest[1]),
    }


def _examined(clock: Clock, reference: examine.KernelRef, spec: EngineSpec, case: Any) -> Any:
    with observed(clock), clock.part("checks"):
        return examine.examine(reference, spec, case)


HEADER = f"{'op':<34}{'cases/s':>9}{'again':>8}{'spec.':>7}{'slowest, s':>12}" + "".join(f"{part:>11}" for part in PARTS)


def row(result: dict[str, Any]) -> str:
    """One line of the table."""
    shares = "".join(f"{share:>11.0%}" for share in result["shares"].values())
    speeds = f"{result['first_per_s']:>9.1f}{result['again_per_s']:>8.1f}"
    unclean = f"  {len(result['not_clean'])} not clean" if result["not_clean"] else ""
    return f"{result['op']:<34}{speeds}{result['specialisations']:>7}{result['slowest_s']:>12.2f}{shares}{unclean}"


def main() -> None:
    """Measure and print."""
    registry = builtin()
    parser = argparse.ArgumentParser(description="Measure the Ops on the cpu engine.")
    parser.add_argument("--op", action="append", choices=list(registry.ops), help="this Op alone; all by default")
    parser.add_argument("--cases", type=int, default=100, help="cases of each Op")
    parser.add_argument("--json", action="store_true", help="print one JSON document instead of a table")
    arguments = parser.parse_args()
    results = (measured(registry, op, arguments.cases) for op in arguments.op or registry.ops)
    if arguments.json:
        print(json.dumps(list(results), indent=2))
        return
    print(HEADER)
    for result in results:
        print(row(result), flush=True)


if __name__ == "__main__":
    main()
