"""EngineSpec: which engine runs a kernel, for which target, within which budget; plain data, so a worker can be sent it."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from dataclasses import dataclass

from tridiff.harness.targets import table

ENGINES = ("cpu",)
"""Those that run kernels, best first."""
DECLARED_ENGINES = (*ENGINES, "gpu")
"""Those that a Kernel may name: "gpu", the real device, cannot run anything yet."""
COMPILER = "compiler"
"""The engine that compiles what a launcher starts, and runs nothing: `tridiff targets`."""
READER = "reader"
"""The engine that tells one program from another by its IR, and runs nothing: `tridiff mutate`."""
DEFAULT_TARGET = "gfx942"
DEFAULT_TARGETS = (DEFAULT_TARGET, "gfx950")
"""For which a fuzz run compiles, if nobody says; it executes for the first."""
TARGETS = tuple(table.BUILT_IN)
"""Those that need no settings."""
backend_of = table.backend_of


class UsageError(ValueError):
    """The user asked for something that cannot be: one line that says what, with which value, and what to do."""


@dataclass(frozen=True, kw_only=True)
class EngineSpec:
    """`max_steps`: loop steps of one launch, `max_seconds`: its time; beyond either it counts as a hang.

    Legal cases of our kernels take some hundred steps; a bound in steps gives the same verdict on every machine.
    `full`: the compiler goes all the way to machine code, in at most `max_seconds` a specialisation. `placement`: the only one
    that it compiles; "" for all.
    """

    name: str = "cpu"
    target: str = DEFAULT_TARGET
    max_steps: int = 20_000
    max_seconds: float = 60.0
    full: bool = False
    placement: str = ""


def best_engine() -> str:
    """The most telling engine that this machine can run."""
    return ENGINES[0]


def check_engine(name: str) -> str:
    """`name`, or a `UsageError` that says what to use instead."""
    if name == "gpu":
        raise UsageError("engine 'gpu' is not available yet: use --engine cpu, which needs no GPU")
    if name == COMPILER:
        raise UsageError(f"engine {COMPILER!r} compiles kernels and runs none: use tridiff targets")
    if name not in ENGINES:
        raise UsageError(f"unknown engine {name!r}{nearest(name, ENGINES)}; engines: {', '.join(ENGINES)}")
    return name


def check_target(name: str) -> str:
    """`name`, or a `UsageError` that says what to use instead."""
    targets = table.known()
    if name not in targets:
        listed = f"{', '.join(targets)}; `targets` in the settings adds others"
        raise UsageError(f"unknown target {name!r}{nearest(name, targets)}; targets: {listed}")
    return name


def nearest(name: str, known: Iterable[str]) -> str:
    """`: did you mean 'x'?` for the known name closest to `name`, or nothing."""
    close = difflib.get_close_matches(name, list(known), n=1, cutoff=0.5)
    return f": did you mean {close[0]!r}?" if close else ""
