"""A plug-in with kernels of the toy Op that take their process with them, or try to, from 17 columns on."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from misbehaving import BEHAVIOURS, FROM

from toy.kernels import scale as toy
from tridiff.harness.api import Kernel
from tridiff.harness.registry import Registry, register_family


def launcher(name: str) -> Callable[..., None]:
    """A launcher that scales, and from `FROM` columns on does what `BEHAVIOURS` has under `name`, and scales wrongly."""

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
