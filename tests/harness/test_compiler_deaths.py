"""What the death of a process that only compiles says, and what a verdict is on its way back from it."""

from __future__ import annotations

import json
import signal

import pytest
import triton
from toy.strategies.scale import ScaleCase

from tridiff.harness.api import CHECKS, Clean, Compiled, Finding, Found, Outcome
from tridiff.harness.engines.spec import COMPILER, EngineSpec
from tridiff.harness.isolation import deaths, messages
from tridiff.harness.isolation.process import Death

CASE = ScaleCase(columns=3)
ABORT = Death(
    code=-signal.SIGABRT,
    lines=(
        "LLVM ERROR: Cannot select: intrinsic %llvm.amdgcn.cvt.pk.f32.fp8",
        "Fatal Python error: Aborted",
        "",
        "Current thread 0x00007f1 (most recent call first):",
        f'  File "{triton.__file__}", line 3 in make_amdgcn',
        '  File "/home/me/mine.py", line 12 in launch',
    ),
)


def found(death: Death, engine: str = COMPILER) -> Finding:
    """The Finding of a Case that ended so."""
    spec = EngineSpec(name=engine, target="gfx90a", full=True)
    return deaths.finding_of(death, op="scale", kernel="scale", spec=spec, case=CASE)


@pytest.mark.parametrize(
    ("death", "check", "of_executor"),
    [
        (ABORT, "codegen", "crash"),
        (Death(code=3), "codegen", "crash"),
        (Death(code=0, garbled=True), "codegen", "crash"),
        (Death(code=-9, overtime=480.0), "compile_time", "hang"),
        (Death(code=-9, overweight=1 << 30), "memory", "memory"),
        (Death(code=-signal.SIGKILL), "memory", "memory"),
    ],
)
def test_check(death: Death, check: str, of_executor: str) -> None:
    """Of the code generator, or of its time, where the executor's are those of the kernel that runs."""
    assert found(death).check == check
    assert found(death, "cpu").check == of_executor
    assert {check, of_executor} <= set(CHECKS)


def test_abort_of_the_code_generator() -> None:
    """It has the compiler's words, the release, and the author's line; cases of one abort are one defect."""
    what = found(ABORT)

    assert what.message == (
        "the process that compiled the kernel was killed by SIGABRT (an abort): LLVM ERROR: Cannot select: intrinsic "
        f"%llvm.amdgcn.cvt.pk.f32.fp8 (Triton {triton.__version__})"
    )
    assert what.line == "mine.py:12"
    assert "Cannot select" in what.subject
    assert (what.engine, what.target, what.case) == (COMPILER, "gfx90a", CASE)
    assert triton.__version__ not in found(ABORT, "cpu").message
    assert not deaths.is_ours(ABORT)


def test_code_that_takes_too_long() -> None:
    """The release is part of that, too; where the clock stopped it is chance."""
    what = found(Death(code=-9, overtime=480.0, lines=ABORT.lines[3:]))

    assert what.message.startswith("the case took longer than the 480 s that one may take")
    assert what.message.endswith(f"(Triton {triton.__version__})")
    assert (what.line, what.subject) == (None, "")


ENTRIES = (
    Compiled(name="k-1", function="k", placement="production", shared=65536, threads=256, registers=(("vgpr", 8), ("agpr", 0))),
    Compiled(name="k-2", function="k", placement="apart", config="block=4", dropped="too large", tensor_memory=64),
    Compiled(name="k-3", function="k", placement="production", check="resources"),
)


@pytest.mark.parametrize(
    "outcome",
    [
        Clean(ratio=0.0, specialisations=("k-1",), compiled=ENTRIES),
        Clean(ratio=0.25, conclusive=False),
        Found(finding=found(ABORT), specialisations=("k-1", "k-3"), compiled=ENTRIES),
        Found(finding=found(ABORT)),
    ],
)
def test_round_trip(outcome: Outcome) -> None:
    """Through JSON, and equal to the last register."""
    assert messages.decoded(json.loads(json.dumps(messages.encoded(outcome))), CASE) == outcome
