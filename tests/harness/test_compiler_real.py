"""The compiler in a real worker process: an abort of the code generator is one Finding, in the compiler's words."""

from __future__ import annotations

import contextlib

import compiled_kernels
import pytest
import triton
from launching import VERSION
from toy.strategies.scale import ScaleCase

from tridiff.harness.api import Clean, Found
from tridiff.harness.engines.spec import COMPILER, EngineSpec
from tridiff.harness.isolation.isolated import Isolated
from tridiff.harness.runner.events import WorkerDied
from tridiff.harness.runner.examine import KernelRef


@pytest.mark.skipif(VERSION >= (3, 8), reason="from 3.8 on the cast is right (docs/reference/fp8.md; Triton PR 10458)")
def test_abort_of_the_code_generator() -> None:
    """e4m3fnuz to bf16 on gfx90a: the process dies of the whole pipeline, twice, and a spare goes on with the next kernel."""
    spec, known = EngineSpec(name=COMPILER, target="gfx90a", full=True), compiled_kernels.registry()
    died: list[WorkerDied] = []

    with contextlib.closing(Isolated()) as examiner:
        found, clean = (
            examiner.examine(
                KernelRef(kernel=kernel, plugins=("compiled_kernels",)),
                spec,
                ScaleCase(columns=16),
                known,
                shrinking=False,
                announce=died.append,
            )
            for kernel in ("narrows", "fits")
        )

    assert isinstance(found, Found)
    assert found.finding.check == "codegen"
    assert found.finding.message.startswith("the process that compiled the kernel was killed by SIGABRT (an abort): LLVM ERROR: ")
    assert "Cannot select" in found.finding.message
    assert found.finding.message.endswith(f"(Triton {triton.__version__})")
    assert (found.finding.line or "").startswith("compiled_kernels.py:")
    assert [death.confirming for death in died] == [False, True]
    assert isinstance(clean, Clean)
    assert dict(clean.compiled[0].registers)["vgpr"] > 0
