"""Launches in tests: executed on the cpu engine, or only captured."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import triton

from tridiff.harness.api import Arena
from tridiff.harness.capture import Choose, Launch, Pick, capturing, first
from tridiff.harness.engines.cpu.engine import CpuEngine
from tridiff.harness.engines.spec import EngineSpec

VERSION = tuple(int(part) for part in triton.__version__.split(".")[:2])


def run(launcher: Callable[..., Any], choose: Choose = first, *, arena: Arena | None = None, target: str = "gfx942") -> CpuEngine:
    """A launcher on the cpu engine."""
    engine = CpuEngine(EngineSpec(target=target))
    engine.run(launcher, {}, arena or Arena(), choose)
    return engine


def captured(launcher: Callable[[], Any], target: str = "gfx942") -> list[Launch]:
    """The launches of a launcher, none of them executed."""
    seen: list[Launch] = []
    with capturing(target, seen.append, lambda _: None):
        launcher()
    return seen


def tensors(count: int) -> list[torch.Tensor]:
    """So many tensors of one element, holding 10, 20, ..."""
    return [torch.full((1,), 10.0 * (at + 1)) for at in range(count)]


def attributes(launch: Launch) -> dict[str, set[str]]:
    """The attributes of each parameter, by its name; only those that a pointer or number can be known by."""
    found = launch.specialisation.attributes
    names = [parameter.name for parameter in launch.specialisation.function.params]
    return {name: {attribute for attribute, _ in found.get((at,), [])} for at, name in enumerate(names)}


def at(index: int, *, tuned: bool = False) -> Choose:
    """The configuration of that index, whatever the kernel."""
    return lambda _: Pick(index, tuned)


BLOCKS = (4, 8, 16)


def blocks(**options: Any) -> list[triton.Config]:
    """One configuration for each of the `BLOCKS`."""
    return [triton.Config({"block": block}, **options) for block in BLOCKS]
