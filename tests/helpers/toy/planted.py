"""A plug-in with kernels of the toy Op that take their process with them, or try to, from 17 columns on, which no preset has."""

from __future__ import annotations

import ctypes
import os
import sys
from collections.abc import Callable
from typing import Any

import numpy as np

from toy.kernels import scale as toy
from tridiff.harness.api import Kernel
from tridiff.harness.registry import Registry, register_family

FROM = 17
"""Columns from which they misbehave."""


def aborts() -> None:
    """End as C++ code does that finds itself in a state that cannot be."""
    os.write(2, f"LLVM ERROR: Cannot select: {id(object()):#x}: v4f32 = fsub {os.getpid()}\n".encode())
    os.abort()


def faults() -> None:
    """Read address 0."""
    ctypes.string_at(0)


def exits() -> None:
    """End without a word."""
    os._exit(3)


def loops() -> None:
    """Never end."""
    while True:
        pass


def swells() -> None:
    """Use ever more memory."""
    kept = []
    while True:
        kept.append(np.ones(1 << 21))


def raises() -> None:
    """Raise an exception of Python's."""
    raise KeyError("num_kv_heads")


def babbles() -> None:
    """Write what is no text wherever a process can write by default, and be wrong besides."""
    for descriptor in (1, 2):
        os.write(descriptor, bytes(range(256)) * 64 + b'\n{"ready": true}\n')
    sys.stdout.write("\x00\xff" * 100)


BEHAVIOURS: dict[str, Callable[[], None]] = {
    behaviour.__name__: behaviour for behaviour in (aborts, faults, exits, loops, swells, raises, babbles)
}


def launcher(name: str) -> Callable[..., None]:
    """A launcher that scales, and from `FROM` columns on does what `BEHAVIOURS` has under `name`."""

    def launch(*, x: Any, out: Any, total: Any, factor: float) -> None:
        reached = x.shape[1] >= FROM
        if reached:
            BEHAVIOURS[name]()
        toy.scale(x=x, out=out, total=total, factor=factor + reached)

    return launch


globals().update({f"launch_{name}": launcher(name) for name in BEHAVIOURS})


def register(registry: Registry) -> None:
    """Register the Op, and a Kernel for each behaviour."""
    register_family(registry, "scale", "toy")
    for name in BEHAVIOURS:
        registry.register_kernel(Kernel(name=name, op="scale", module=__name__, launcher=f"launch_{name}", rounding="rounding"))


rounding = toy.rounding
