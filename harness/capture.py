"""Captures Triton launches without a GPU; the only module that touches Triton's global state.

Inside `capturing`, a stub driver stands in for the GPU's, and `JITFunction.run` does all that it does in production
(pre-run hooks, binding, specialisation, grids as functions) up to the compiled kernel, for which ours is substituted: it
hands the launch to a callback. Each target has a device id of its own, so Triton's per-device caches never mix.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
import triton
from torch.utils._python_dispatch import TorchDispatchMode
from triton.backends.compiler import GPUTarget
from triton.compiler.compiler import make_backend
from triton.runtime.driver import driver
from triton.runtime.jit import JITFunction

from tridiff.harness.engines.spec import backend_of


@dataclass(frozen=True, eq=False)
class Specialisation:
    """One jit function with one signature, set of constants, attributes and options, for one target."""

    function: Any
    target: GPUTarget
    key: str
    signature: dict[str, str]
    constants: dict[Any, Any]
    attributes: dict[Any, Any]
    options: Any
    memo: dict[str, Any] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """The jit function's name and a digest of all that it was specialised on."""
        digest = hashlib.blake2b(f"{self.target}{self.key}".encode(), digest_size=4).hexdigest()
        return f"{self.function.__name__}-{digest}"


@dataclass(frozen=True, eq=False)
class Launch:
    """One launch: specialisation, grid, and run-time arguments by parameter name."""

    specialisation: Specialisation
    grid: tuple[int, int, int]
    arguments: dict[str, Any]


class _StubDriver:
    """What Triton asks of a driver before it launches; there is no device behind it."""

    def __init__(self, target: GPUTarget) -> None:
        self._target = target

    def get_current_target(self) -> GPUTarget:
        return self._target

    def get_current_device(self) -> str:
        return f"tridiff:{self._target.backend}:{self._target.arch}"

    def get_current_stream(self, _device: object = None) -> int:
        return 0

    def get_active_torch_device(self) -> torch.device:
        return torch.device("cpu")

    def get_benchmarker(self) -> Callable[..., list[float]]:
        # All configurations of an autotuned kernel are equally fast, and none is run: the first one wins.
        return lambda *_, **__: [0.0, 0.0, 0.0]


class _CapturedKernel:
    """Stands where `JITFunction.run` expects a compiled kernel."""

    function = None
    packed_metadata = None

    def __init__(self, specialisation: Specialisation) -> None:
        self.specialisation = specialisation

    def launch_metadata(self, *_: object) -> None:
        return None

    def run(self, x: int, y: int, z: int, *rest: Any) -> None:
        # rest: stream, function, packed metadata, launch metadata, enter hook, exit hook, then the bound arguments.
        arguments = dict(zip(self.specialisation.signature, rest[6:], strict=True))
        # What the engine does with torch is not the launcher's doing: no scratch of ours is poisoned, and calls stay fast.
        with torch._C._DisableTorchDispatch():
            _receivers[-1](Launch(self.specialisation, (x, y, z), arguments))


_receivers: list[Callable[[Launch], None]] = []


def _capture_compile(
    self: Any, key: Any, signature: Any, device: Any, constants: Any, options: Any, attributes: Any, _warmup: Any
) -> _CapturedKernel:
    """Replaces `JITFunction._do_compile`: remembers the specialisation instead of compiling it."""
    cache, _, target, *_ = self.device_caches[device]
    kernel = _CapturedKernel(Specialisation(self, target, str(key), signature, constants, attributes, options))
    cache[key] = kernel
    return kernel


@contextmanager
def capturing(target: str, receive: Callable[[Launch], None], scratch: Callable[[torch.Tensor], None]) -> Iterator[None]:
    """Within this context every Triton launch goes to `receive`, and every `torch.empty*` result to `scratch`.

    Captures may nest. On leaving, Triton's driver and compiler are as before.
    """
    previous = driver._active
    compile_before = JITFunction._do_compile
    driver.set_active(_StubDriver(GPUTarget(*backend_of(target))))
    JITFunction._do_compile = _capture_compile
    _receivers.append(receive)
    try:
        with _ScratchMode(scratch):
            yield
    finally:
        _receivers.pop()
        JITFunction._do_compile = compile_before
        driver._active = previous


_EMPTY = {
    torch.ops.aten.empty,
    torch.ops.aten.empty_like,
    torch.ops.aten.empty_permuted,
    torch.ops.aten.empty_strided,
    torch.ops.aten.new_empty,
    torch.ops.aten.new_empty_strided,
}


class _ScratchMode(TorchDispatchMode):
    """Shows every uninitialised allocation of a launcher to `scratch`."""

    def __init__(self, scratch: Callable[[torch.Tensor], None]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # torch does not annotate it
        self._scratch = scratch

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        """No: to keep torch.compile out of this mode, torch would import it, which takes 2 s of every process."""
        return False

    def __torch_dispatch__(self, func: Any, _types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if func.overloadpacket in _EMPTY:
            self._scratch(result)
        return result


def is_interpreting() -> bool:
    """Whether TRITON_INTERPRET=1 turned the jit functions into ones that cannot be captured."""
    return bool(triton.knobs.runtime.interpret)


def backend_for(target: GPUTarget) -> Any:
    """Triton's compiler back end for `target`."""
    return make_backend(target)
