"""EngineSpec: which engine runs a kernel, for which target, within which budget; plain data, so a worker can be sent it."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable
from dataclasses import dataclass

ENGINES = ("cpu",)
"""Those that run kernels, best first."""
COMPILER = "compiler"
"""The engine that compiles what a launcher starts, and runs nothing: `tridiff targets`."""
DEFAULT_TARGET = "gfx942"
DEFAULT_TARGETS = (DEFAULT_TARGET, "gfx950")
"""For which a fuzz run compiles, if nobody says; it executes for the first."""
TARGETS = (
    "gfx90a",
    "gfx942",
    "gfx950",
    "gfx1100",
    "gfx1200",
    "gfx1201",
    "sm_80",
    "sm_86",
    "sm_89",
    "sm_90",
    "sm_100",
    "sm_120",
)


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
    if name not in TARGETS:
        raise UsageError(f"unknown target {name!r}{nearest(name, TARGETS)}; targets: {', '.join(TARGETS)}")
    return name


def nearest(name: str, known: Iterable[str]) -> str:
    """`: did you mean 'x'?` for the known name closest to `name`, or nothing."""
    close = difflib.get_close_matches(name, list(known), n=1, cutoff=0.5)
    return f": did you mean {close[0]!r}?" if close else ""


def backend_of(target: str) -> tuple[str, str | int, int]:
    """(backend, arch, warp size) as Triton's GPUTarget takes them.

    CDNA parts (gfx9) run wavefronts of 64 lanes, RDNA parts (gfx10 and later) of 32, NVIDIA warps of 32.
    """
    if target.startswith("sm_"):
        return "cuda", int(target.removeprefix("sm_")), 32
    return "hip", target, 64 if re.match(r"gfx9", target) else 32
