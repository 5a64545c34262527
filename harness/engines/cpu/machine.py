"""Run-time state of one launch: the budget, and the registers of a set of programs that run in lockstep."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from typing import Any

from tridiff.harness.engines.cpu.errors import KernelError
from tridiff.harness.engines.cpu.formats import Array
from tridiff.harness.engines.cpu.space import Space
from tridiff.harness.engines.cpu.values import Value, dense, take

PROGRAM_ID_SLOTS = 3
"""Registers 0, 1 and 2 hold the program ids of the three grid axes."""
POSITION_SLOT = 3
"""Register 3 holds each program's place among those that entered the function."""
RESERVED_SLOTS = 4


class Budget:
    """Bounds the time of one launch, and the loop steps of a program in it; exceeding either is a `hang`."""

    def __init__(self, max_steps: int, max_seconds: float) -> None:
        self._max_steps = max_steps
        self._max_seconds = max_seconds
        self._deadline = time.monotonic() + max_seconds
        self._steps = 0

    def restart(self) -> None:
        """Count afresh: other programs begin."""
        self._steps = 0

    def tick(self, line: str) -> None:
        """Count one step of a loop or jump at `line`; raises `KernelError`."""
        self._steps += 1
        if self._steps > self._max_steps:
            raise KernelError("hang", f"a program took more than {self._max_steps} loop steps", line)
        if self._steps % 64 == 0 and time.monotonic() > self._deadline:
            raise KernelError("hang", f"the kernel ran for more than {self._max_seconds:g} s", line)


class Lanes:
    """Registers of `count` programs; an SSA value lives in the slot that the compiler gave it."""

    __slots__ = ("budget", "count", "grid", "regs", "space")

    def __init__(self, regs: list[Any], count: int, grid: tuple[int, int, int], budget: Budget, space: Space) -> None:
        self.regs = regs
        self.count = count
        self.grid = grid
        self.budget = budget
        self.space = space

    def subset(self, chosen: Any, count: int, slots: Iterable[int]) -> Lanes:
        """The programs `chosen` alone; only `slots` are carried over, so a region must name all that it reads."""
        regs: list[Any] = [None] * len(self.regs)
        for slot in slots:
            # None: a block on the way there computes it first.
            if self.regs[slot] is not None:
                regs[slot] = take(self.regs[slot], chosen)
        return Lanes(regs, count, self.grid, self.budget, self.space)

    def array(self, slot: int) -> Array:
        """The register as one array."""
        return dense(self.regs[slot])

    def value(self, slot: int) -> Value:
        """The register in whatever form it has."""
        value: Value = self.regs[slot]
        return value


Step = Callable[[Lanes], None]
"""One operation, with its slots and types bound."""
