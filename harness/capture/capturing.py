"""The capture itself: a stub driver, and Triton's own launch path up to the compiled kernel.

Inside `capturing`, a stub driver stands in for the GPU's, and `JITFunction.run` does all that it does in production
(pre-run hooks, binding, specialisation, grids as functions) up to the compiled kernel, for which ours is substituted: it
hands the launch to a callback. Each target has a device id of its own, so Triton's per-device caches never mix.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
import triton
from torch.utils._python_dispatch import TorchDispatchMode
from triton.backends.compiler import GPUTarget
from triton.compiler.compiler import make_backend
from triton.runtime.autotuner import Autotuner
from triton.runtime.errors import OutOfResources
from triton.runtime.jit import JITFunction

from tridiff.harness.capture.autotune import Choose, Tuner, first
from tridiff.harness.capture.grids import launched_grid
from tridiff.harness.capture.launches import Launch, Specialisation
from tridiff.harness.capture.pretending import targeting
from tridiff.harness.capture.rewriting import before_launch
from tridiff.harness.capture.stub import NotCompiled


@dataclass(eq=False)
class _Capture:
    """One capture in progress. `preparing`: kernels are compiled and not launched."""

    receive: Callable[[Launch], None]
    prepare: Callable[[Launch], None]
    warm: Callable[[Specialisation], None]
    choose: Choose
    every: bool = False
    preparing: int = 0
    functions: dict[int, Any] = field(default_factory=dict)  # by id: to hash one, Triton parses its source
    tuners: dict[Any, Tuner] = field(default_factory=dict)
    calls: list[Tuner] = field(default_factory=list)

    @contextmanager
    def prepares(self) -> Iterator[None]:
        self.preparing += 1
        try:
            yield
        finally:
            self.preparing -= 1

    def run(self, specialisation: Specialisation, grid: tuple[Any, Any, Any], arguments: dict[str, Any]) -> None:
        """Execute a launch, or only compile it."""
        self.functions[id(specialisation.function)] = specialisation.function
        try:
            size = launched_grid(grid, specialisation.target, specialisation.options)
        except OutOfResources:
            if not self.every:
                raise
            size = (0, 0, 0)  # production compiles it, and whoever compiles says what is too much
        # What the engine does with torch is not the launcher's doing: no scratch of ours is poisoned, and calls stay fast.
        with torch._C._DisableTorchDispatch():
            config = self.calls[-1].config if self.calls else None
            handle = self.prepare if self.preparing else self.receive
            handle(Launch(specialisation, size, arguments, config))

    def warmed(self, kernel: _CapturedKernel) -> None:
        """A call of `warmup`: compiled, not launched."""
        self.functions[id(kernel.specialisation.function)] = kernel.specialisation.function
        with torch._C._DisableTorchDispatch():
            self.warm(kernel.specialisation)

    def tune(self, autotuner: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """A call of an autotuned kernel."""
        if autotuner not in self.tuners:
            self.tuners[autotuner] = Tuner(autotuner, self.choose, self.prepares, every=self.every)
        tuner = self.tuners[autotuner]
        self.calls.append(tuner)
        try:
            with tuner.call():
                return _run_autotuner(autotuner, *args, **kwargs)
        finally:
            self.calls.pop()

    def forget(self) -> None:
        """Leave nothing that a later capture would depend on."""
        for tuner in self.tuners.values():
            tuner.restore()
        for function in self.functions.values():
            # Triton's shortcut to the key of a specialisation takes constants that compare equal (1, True, 1.0) for one.
            for _, keys, *_ in function.device_caches.values():
                keys.clear()


_captures: list[_Capture] = []
_run_autotuner = Autotuner.run
_run_function = JITFunction.run


def _capture_autotuner(self: Any, *args: Any, **kwargs: Any) -> Any:
    """Replaces `Autotuner.run`."""
    return _captures[-1].tune(self, args, kwargs)


def _capture_function(self: Any, *args: Any, grid: Any, warmup: bool, **kwargs: Any) -> Any:
    """Replaces `JITFunction.run`, which does not launch what is warmed up, also where it has compiled it before."""
    before_launch(self)
    kernel = _run_function(self, *args, grid=grid, warmup=warmup, **kwargs)
    if warmup and isinstance(kernel, _CapturedKernel):
        _captures[-1].warmed(kernel)
    return kernel


class _CapturedKernel:
    """Stands where `JITFunction.run` expects a compiled kernel."""

    function = None
    packed_metadata = None

    def __init__(self, specialisation: Specialisation) -> None:
        self.specialisation = specialisation

    def __getattr__(self, name: str) -> Any:
        # Triton 3.6 looks for the `result` of a kernel that is compiled in the background.
        if name == "result" or name.startswith("__"):
            raise AttributeError(name)
        raise NotCompiled(f"the launcher asks for {name!r} of the compiled kernel {self.specialisation.function.__name__}")

    def __getitem__(self, grid: Sequence[Any]) -> Callable[..., None]:
        """A kernel that was compiled is launched with all parameters, constants too (`CompiledKernel`, 3.6 to 3.9)."""

        def launch(*args: Any, stream: object = None) -> None:
            wanted = len(self.specialisation.signature)
            if len(args) != wanted:
                raise TypeError(
                    f"{self.specialisation.function.__name__} takes {wanted} arguments, constants too: {len(args)} given"
                )
            self.run(grid[0], grid[1], grid[2], stream, self.function, self.packed_metadata, None, None, None, *args)

        return launch

    def launch_metadata(self, *_: object) -> None:
        return None

    def run(self, x: Any, y: Any, z: Any, *rest: Any) -> None:
        # rest: stream, function, packed metadata, launch metadata, enter hook, exit hook, then the bound arguments.
        arguments = dict(zip(self.specialisation.signature, rest[6:], strict=True))
        _captures[-1].run(self.specialisation, (x, y, z), arguments)


def _capture_compile(
    self: Any, key: Any, signature: Any, device: Any, constants: Any, options: Any, attributes: Any, _warmup: Any
) -> _CapturedKernel:
    """Replaces `JITFunction._do_compile`: remembers the specialisation instead of compiling it."""
    cache, _, target, *_ = self.device_caches[device]
    kernel = _CapturedKernel(Specialisation(self, target, str(key), signature, constants, attributes, options))
    cache[key] = kernel
    return kernel


def _nothing(_: object) -> None:
    """Compile when the kernel runs."""


@contextmanager
def capturing(
    target: str,
    receive: Callable[[Launch], None],
    scratch: Callable[[torch.Tensor], None],
    *,
    made: Callable[[torch.Tensor], None] = _nothing,
    prepare: Callable[[Launch], None] = _nothing,
    warm: Callable[[Specialisation], None] = _nothing,
    choose: Choose = first,
    every: bool = False,
) -> Iterator[None]:
    """Within this context every Triton launch goes to `receive`, and every `torch.empty*` result to `scratch`.

    `made` is shown every tensor that a torch operation returns.

    `choose` picks the configuration of autotuned kernels. Before one is launched, `prepare` gets the launch; where that raises
    what makes Triton's autotuner drop a configuration (CompileTimeAssertionFailure, OutOfResources), the next one is taken.
    `every`: `prepare` gets a launch with each of the configurations; and launches of more threads than the target has, which
    production compiles and then refuses, are handed out, too. `warm` gets what is compiled by `warmup` and not launched.

    Captures may nest. On leaving, Triton's driver, compiler and autotuners are as before.
    """
    capture = _Capture(receive, prepare, warm, choose, every)
    before = JITFunction._do_compile, JITFunction.run, Autotuner.run
    with targeting(target):
        JITFunction._do_compile, JITFunction.run, Autotuner.run = _capture_compile, _capture_function, _capture_autotuner
        _captures.append(capture)
        try:
            with _ScratchMode(scratch, made):
                yield
        finally:
            _captures.pop()
            capture.forget()
            JITFunction._do_compile, JITFunction.run, Autotuner.run = before


_EMPTY = {
    torch.ops.aten.empty,
    torch.ops.aten.empty_like,
    torch.ops.aten.empty_permuted,
    torch.ops.aten.empty_strided,
    torch.ops.aten.new_empty,
    torch.ops.aten.new_empty_strided,
}


class _ScratchMode(TorchDispatchMode):
    """Shows every uninitialised allocation of a launcher to `scratch`, and every tensor to `made`."""

    def __init__(self, scratch: Callable[[torch.Tensor], None], made: Callable[[torch.Tensor], None]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # torch does not annotate it
        self._scratch = scratch
        self._made = made

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        """No: to keep torch.compile out of this mode, torch would import it, which takes 2 s of every process."""
        return False

    def __torch_dispatch__(self, func: Any, _types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if func.overloadpacket in _EMPTY:
            self._scratch(result)
        for tensor in result if isinstance(result, (tuple, list)) else (result,):
            if isinstance(tensor, torch.Tensor):
                self._made(tensor)
        return result


def is_interpreting() -> bool:
    """Whether TRITON_INTERPRET=1 turned the jit functions into ones that cannot be captured."""
    return bool(triton.knobs.runtime.interpret)


def backend_for(target: GPUTarget) -> Any:
    """Triton's compiler back end for `target`."""
    return make_backend(target)
