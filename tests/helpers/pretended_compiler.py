"""An Examiner that only pretends to compile toy Cases: figures follow from the Case, and what fails from the kernel's name."""

from __future__ import annotations

import dataclasses
import itertools
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from toy.family import registry
from toy.strategies.scale import ScaleCase

from tridiff.harness.api import (
    Clean,
    Compiled,
    Finding,
    Found,
    Infrastructure,
    Kernel,
    Outcome,
    Skipped,
    Unsupported,
)
from tridiff.harness.engines.spec import EngineSpec
from tridiff.harness.registry import Registry
from tridiff.harness.runner import drawing
from tridiff.harness.runner.events import WorkerDied
from tridiff.harness.runner.examine import KernelRef
from tridiff.harness.runner.surveying import Event, Quota, Survey
from tridiff.harness.targets.parts import part

KERNELS = ("fits", "large", "autotuned", "refuses", "unstaged", "lost", "aborts")
WIDEST = 16
"""Columns from which on a `large` kernel has a tile of 32 columns, 4 KiB each."""
COLUMN = 4096


def known(kernels: tuple[str, ...] = KERNELS) -> Registry:
    """The toy Op with two placements, and a kernel for everything that the examiner pretends."""
    made = registry()
    placements: Mapping[str, Callable[[ScaleCase], ScaleCase]] = {
        "production": lambda case: case,
        "misaligned": lambda case: dataclasses.replace(case, gap=case.gap + 1),
    }
    made.ops["scale"] = dataclasses.replace(made.ops["scale"], placements=placements, compile_time=frozenset({"columns"}))
    made.kernels.clear()
    for name in kernels:
        made.register_kernel(Kernel(name=name, op="scale", module="toy.kernels.scale", launcher="scale"))
    return made


class Pretended:
    """Examines at once; `asked` are the Cases, in order, with what was asked. `pause`: seconds that each one takes."""

    def __init__(self, pause: float = 0.0) -> None:
        self.asked: list[tuple[str, EngineSpec, ScaleCase, bool]] = []
        self.confirms = True
        self.closed = False
        self.thread = threading.get_ident()
        self._pause = pause

    def examine(
        self,
        ref: KernelRef,
        spec: EngineSpec,
        case: Any,
        registry: Registry,  # noqa: ARG002 - runner.examiner.Examiner has it
        *,
        shrinking: bool,
        announce: Callable[[WorkerDied], None],
    ) -> Outcome:
        """What the kernel's name says."""
        assert self.thread == threading.get_ident()
        assert not self.closed
        self.asked.append((ref.kernel, spec, case, shrinking))
        time.sleep(self._pause)
        if ref.kernel == "refuses" and (spec.target.startswith("sm_") or case.factor < 0):
            return Unsupported(reason="no negative factors here", line="scale.py:7")
        if ref.kernel == "unstaged":
            return Skipped(reason="no address space")
        if ref.kernel == "lost":
            return Infrastructure(reason="the process died of SIGSEGV")
        if ref.kernel == "aborts" and case.columns > WIDEST and spec.full:
            announce(WorkerDied(kernel=ref.kernel, case=case, how="LLVM ERROR"))
            return Found(finding=finding(ref.kernel, spec, case, check="codegen", message="LLVM ERROR: Cannot select"))
        return judged(ref.kernel, spec, case)

    def confirmed(
        self,
        ref: KernelRef,  # noqa: ARG002 - runner.examiner.Examiner has it
        spec: EngineSpec,  # noqa: ARG002 - likewise
        finding: Finding,
        registry: Registry,  # noqa: ARG002 - likewise
        announce: Callable[[WorkerDied], None],  # noqa: ARG002 - likewise
    ) -> Finding | None:
        """As it is, or not at all."""
        return finding if self.confirms else None

    def close(self) -> None:
        """Say so."""
        self.closed = True


def judged(kernel: str, spec: EngineSpec, case: ScaleCase) -> Outcome:
    """Two specialisations, one a placement, and a third of the autotuner's that has a larger tile."""
    block = 1 << (case.columns - 1).bit_length()
    size = block * (COLUMN if kernel == "large" else 64)
    compiled = [
        specialised(f"_scale-{block}-a", size, spec),
        specialised(f"_scale-{block}-m", size + 512 * (case.gap == 3 and block > WIDEST), spec, placement="misaligned"),
    ]
    if kernel == "autotuned":
        compiled.append(specialised(f"_scale-{block}-b", 1 << 20, spec, config="block=4096", dropped="1048576 bytes"))
    if any(each.check for each in compiled):
        return Found(finding=finding(kernel, spec, case), compiled=tuple(compiled))
    return Clean(ratio=0.0, compiled=tuple(compiled))


def specialised(
    name: str, shared: int, spec: EngineSpec, *, placement: str = "production", config: str = "", dropped: str = ""
) -> Compiled:
    """What fits or does not, on the part."""
    check = "resources" if shared > part(spec.target).shared_bytes and not dropped else ""
    return Compiled(
        name=name,
        function="_scale",
        placement=placement,
        config=config,
        dropped=dropped,
        shared=shared,
        threads=256,
        registers=(("vgpr", shared // 1024), ("spills", 0)) if spec.full else (),
        check=check,
    )


def finding(
    kernel: str, spec: EngineSpec, case: ScaleCase, *, check: str = "resources", message: str = "needs more LDS"
) -> Finding:
    """One that is the same whatever the Case."""
    return Finding(
        check=check,
        message=f"{message} (Triton 3.7.1)",
        line="scale.py:29",
        op="scale",
        kernel=kernel,
        engine=spec.name,
        target=spec.target,
        case=case,
    )


class Bench:
    """Surveys of toy kernels, with what they told and who examined."""

    def __init__(self) -> None:
        self.events: list[Event] = []
        self.examiners: dict[str, Pretended] = {}

    def survey(self, *kernels: str, targets: tuple[str, ...] = ("gfx942", "gfx950", "sm_90"), **changed: Any) -> Survey:
        """One that has not run. `pauses`: seconds that a Case takes, by target; `quota`: fields of it; `listener`: besides."""
        pauses: dict[str, float] = changed.pop("pauses", {})
        quota = Quota(**{"specialisations": 6, **changed.pop("quota", {})})
        listen = changed.pop("listener", lambda _event: None)
        made = changed.pop("registry", None) or known(kernels or ("fits", "large"))

        def tell(event: Event) -> None:
            self.events.append(event)
            listen(event)

        def examiner(target: str) -> Pretended:
            self.examiners[target] = Pretended(pauses.get(target, 0.0))
            return self.examiners[target]

        fields = {"seed": 0, "examiner": examiner, **changed}
        return Survey(list(made.kernels.values()), targets, quota=quota, listener=tell, registry=made, **fields)

    def ran(self, *kernels: str, **changed: Any) -> Survey:
        """One that has come to its end."""
        made = self.survey(*kernels, **changed)
        made.run()
        return made


_drawn: dict[tuple[Any, ...], tuple[Iterator[list[Any]], list[list[Any]]]] = {}


def remembered(registry: Any, op: str, domain: Any, *, seed: int) -> Iterator[list[Any]]:
    """What `drawing.batches` gives, drawn once for all tests: toy strategies are the same for every target."""
    known = registry.op(op)
    source, batches = _drawn.setdefault(
        (seed, known.strategy, known.presets), (drawing.batches(registry, op, domain, seed=seed), [])
    )
    for at in itertools.count():
        if at == len(batches):
            batches.append(next(source))
        yield batches[at]
