"""The pretended platform: a process that looks like one on a machine with another GPU, to whatever is imported there.

Launchers and kernels decide things, some while they are imported: HIP or CUDA, which architecture, which FP8 type, how many
processors. They ask torch and Triton's driver, so these answer as they would there. Tensors stay on the CPU.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
from triton.runtime.driver import driver

from tridiff.harness.capture.stub import StubDriver, arch_name, not_stated, part_of
from tridiff.harness.targets.table import Part

HIP = "7.2.0"
"""What `torch.version.hip` says on a pretended AMD machine; that of CUDA is `CUDA`. As of late 2026; nothing hangs on it here."""
CUDA = "13.0"
MEMORY = 64 << 30
"""Bytes of a pretended GPU's memory, which no verdict depends on."""
_STATIC = 48 << 10
"""Bytes of shared memory that an NVIDIA part has without opting in; a block has all but `_RESERVED` of its SM's
(CUDA C++ Programming Guide, Compute Capabilities)."""
_RESERVED = 1 << 10
_REGISTERS = 64 << 10
"""32-bit registers of an NVIDIA SM, since Maxwell (same place)."""

Replacement = tuple[Any, str, Any]
"""(owner, name, value) of an attribute."""


def pretend(target: str) -> None:
    """Make this process look like one on a machine with such a GPU, for good; before anything is imported that might ask."""
    for owner, name, value in replacements(target):
        setattr(owner, name, value)


@contextlib.contextmanager
def targeting(target: str) -> Iterator[None]:
    """Within this context this process looks like one on a machine with such a GPU: to launchers, and to what is imported."""
    new = replacements(target)
    before = [(owner, name, getattr(owner, name)) for owner, name, _ in new]
    pretend(target)
    try:
        yield
    finally:
        for owner, name, value in before:
            setattr(owner, name, value)


def replacements(target: str) -> list[Replacement]:
    """What a process on such a machine has otherwise than this one."""
    part, stub = part_of(target), StubDriver(target)
    is_hip = part.backend == "hip"
    versions = {"hip": HIP if is_hip else None, "cuda": None if is_hip else CUDA}
    if hasattr(torch.version, "rocm"):
        versions["rocm"] = versions["hip"]
    return [
        *((torch.version, name, value) for name, value in versions.items()),
        *((torch.cuda, name, value) for name, value in _cuda(part).items()),
        (driver, "_default", stub),
        (driver, "_active", stub),
    ]


def _cuda(part: Part) -> dict[str, Any]:
    """What `torch.cuda` says, which is HIP's as well (PyTorch, "HIP (ROCm) semantics")."""
    properties = _Properties(part)

    def get_device_properties(device: Any = None) -> _Properties:
        _check(device)
        return properties

    def get_device_capability(device: Any = None) -> tuple[int, int]:
        return get_device_properties(device).capability

    def get_device_name(device: Any = None) -> str:
        return get_device_properties(device).name

    return {
        "is_available": lambda: True,
        "device_count": lambda: 1,
        "current_device": lambda: 0,
        "set_device": _check,
        "device": _Device,
        "get_device_properties": get_device_properties,
        "get_device_capability": get_device_capability,
        "get_device_name": get_device_name,
        "get_arch_list": lambda: [part.name],
        "mem_get_info": lambda _device=None: (MEMORY, MEMORY),
        "init": lambda: None,
        "is_current_stream_capturing": lambda: False,
        "is_initialized": lambda: True,
        "empty_cache": lambda: None,
        "Event": _Event,
        "synchronize": lambda _device=None: None,
        "current_stream": lambda _device=None: _Stream(),
        "default_stream": lambda _device=None: _Stream(),
        "stream": lambda _stream: contextlib.nullcontext(),
        # For torch.random.fork_rng, which keeps the state of every GPU.
        "get_rng_state": lambda _device=None: torch.get_rng_state(),
        "set_rng_state": lambda _state, _device=None: None,
    }


class _Properties:
    """As `torch.cuda.get_device_properties` gives them; those that the table of parts does not have raise `NotStated`."""

    def __init__(self, part: Part) -> None:
        is_hip = part.backend == "hip"
        self.name = part.device or f"{'AMD' if is_hip else 'NVIDIA'} {part.name}"
        self.major, self.minor = self.capability = part.capability
        self.gcnArchName = arch_name(part) if is_hip else self.name  # CUDA builds have the field, and put the name there
        self.warp_size = part.warp_size
        self.total_memory = MEMORY
        self.is_integrated = self.is_multi_gpu_board = 0
        self.max_threads_per_block = part.threads
        self.shared_memory_per_block = part.shared_bytes if is_hip else min(_STATIC, part.shared_bytes)
        self.shared_memory_per_block_optin = part.shared_bytes
        self.shared_memory_per_multiprocessor = part.shared_bytes + (0 if is_hip else _RESERVED)
        if part.processors:
            self.multi_processor_count = part.processors
        if not is_hip:
            self.regs_per_multiprocessor = _REGISTERS
        self._part = part

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(name)
        raise not_stated(self._part.name, name)

    def __repr__(self) -> str:
        figures = ", ".join(f"{name}={value!r}" for name, value in vars(self).items() if not name.startswith("_"))
        return f"_CudaDeviceProperties({figures})"


class _Device:
    """In place of `torch.cuda.device`, a context in which another GPU is the current one: there is one."""

    def __init__(self, device: Any) -> None:
        _check(device)
        self.idx = 0

    def __enter__(self) -> None:
        pass

    def __exit__(self, *_: object) -> None:
        pass


class _Stream:
    """The stream that there is; what was put into it is done."""

    cuda_stream = 0
    stream_id = 0
    device_index = 0
    device = torch.device("cpu")

    def synchronize(self) -> None:
        """Nothing is under way."""

    def query(self) -> bool:
        return True

    def wait_stream(self, _stream: object) -> None:
        """There is one."""

    def wait_event(self, _event: object) -> None:
        """It has happened."""

    def record_event(self, event: Any = None) -> Any:
        """One that has happened."""
        return event or _Event()


class _Event:
    """In place of `torch.cuda.Event`: whatever it was recorded after is done, and took no time."""

    def __init__(self, **_: object) -> None:
        pass

    def record(self, _stream: object = None) -> None:
        """Nothing is under way."""

    def wait(self, _stream: object = None) -> None:
        """Likewise."""

    def synchronize(self) -> None:
        """Likewise."""

    def query(self) -> bool:
        return True

    def elapsed_time(self, _end: object) -> float:
        """In milliseconds."""
        return 0.0


def _check(device: Any = None) -> None:
    """Raise what torch does for a second GPU. The device of a tensor, which is on the CPU here, stands for the first."""
    if isinstance(device, str) and device == driver.active.get_current_device():
        return
    if isinstance(device, str):
        device = torch.device(device)
    index = device.index if isinstance(device, torch.device) else device
    if index not in {None, -1, 0}:
        raise AssertionError("Invalid device id")
