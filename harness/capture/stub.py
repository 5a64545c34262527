"""The stub driver that stands in for a GPU's: what Triton, and launchers through it, ask of a device that is not here."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from triton.backends.compiler import GPUTarget
from triton.runtime.driver import driver

from tridiff.harness.targets.table import Part, backend_of, known


class NotCompiled(Exception):
    """A launcher asked a kernel for its machine code, or for what follows from that, such as registers or shared memory."""


class NotStated(NotCompiled, AttributeError):
    """A launcher asked for a figure of the GPU that the table of parts does not have."""


class StubDriver:
    """What Triton asks of a driver before it launches; there is no device behind it."""

    def __init__(self, target: str) -> None:
        self.name = target
        self.asked = 0
        self._target = GPUTarget(*backend_of(target))
        self._utils = _Utils(target)

    @property
    def utils(self) -> _Utils:
        """What says more of the device."""
        self.asked += 1
        return self._utils

    def get_current_target(self) -> GPUTarget:
        """What to compile for."""
        self.asked += 1
        return self._target

    def get_current_device(self) -> str:
        """A device id for each target, so that Triton's caches of kernels, which are by device, never mix."""
        return f"tridiff:{self._target.backend}:{self._target.arch}"

    def set_current_device(self, _device: object) -> None:
        """There is one."""

    def get_current_stream(self, _device: object = None) -> int:
        """The default one."""
        return 0

    def get_device_capability(self, _device: object = None) -> tuple[int, int]:
        """As `torch.cuda` says."""
        self.asked += 1
        return part_of(self.name).capability

    def get_device_interface(self) -> Any:
        """What torch calls this kind of device."""
        return torch.cuda

    def get_active_torch_device(self) -> torch.device:
        """Where tensors are."""
        return torch.device("cpu")

    def get_benchmarker(self) -> Callable[..., list[float]]:
        """For autotuners that are not Triton's own: all configurations are equally fast, and none is run."""
        return lambda *_, **__: [0.0, 0.0, 0.0]


def times_asked() -> int | None:
    """How often the stub driver was asked what it stands for; None where another driver is active."""
    active = driver._active
    return active.asked if isinstance(active, StubDriver) else None


class _Utils:
    """What launchers ask of `driver.active.utils`."""

    def __init__(self, target: str) -> None:
        self._target = target

    def get_device_properties(self, _device: object = None) -> dict[str, Any]:
        """Those figures under Triton's names (getDeviceProperties in its driver.c) that the table of parts has."""
        part = part_of(self._target)
        figures = {"max_shared_mem": part.shared_bytes, "warpSize": part.warp_size}
        if part.processors:
            figures["multiprocessor_count"] = part.processors
        return _Figures(part.name, {**figures, **({"arch": arch_name(part)} if part.backend == "hip" else {})})


class _Figures(dict[str, Any]):
    """A dict that says what it lacks, and whose lack that is."""

    def __init__(self, target: str, figures: dict[str, Any]) -> None:
        super().__init__(figures)
        self._target = target

    def __missing__(self, name: str) -> Any:
        raise not_stated(self._target, name)


def not_stated(target: str, name: str) -> NotStated:
    """The complaint about a figure that the table does not have."""
    advice = f": add `processors` to targets.{target} of the settings" if "processor_count" in name else ""
    return NotStated(f"the launcher asks for {name!r} of a GPU, which is not known of {target}{advice}")


def part_of(target: str) -> Part:
    """The part of that name, which has been checked."""
    return known()[target]


def arch_name(part: Part) -> str:
    """HIP's gcnArchName: server parts (gfx9) say whether their memory has ECC, and whether pages may be retried on a fault."""
    return f"{part.name}:sramecc+:xnack-" if part.warp_size == 64 else part.name
