"""Triton's compiler up to the allocation of memory: its figures, its refusals, and the loud end where it is another one."""

# ruff: noqa: ANN001, ANN201 - arguments of jit functions have no Python type, nor have their results
# mypy: allow-untyped-defs, allow-incomplete-defs, allow-untyped-decorators

from __future__ import annotations

import os
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import triton
import triton.language as tl
from compiled_kernels import copied, turned
from launching import captured
from triton._C.libtriton import amd, nvidia
from verdict_samples import tiled

from tridiff.harness.capture import Specialisation
from tridiff.harness.engines.cpu.ttir import printed
from tridiff.harness.targets import machine_code, pipeline
from tridiff.harness.targets.pipeline import Figures, PipelineDrift, Refused

FLOATS = torch.zeros(64)


@triton.jit
def multiplied(x, out, block: tl.constexpr):
    """A product of two blocks."""
    i, j = tl.arange(0, block)[:, None], tl.arange(0, block)[None, :]
    tl.store(out + i * block + j, tl.dot(tl.load(x + i * block + j), tl.load(x + j * block + i)))


@triton.jit
def widened(x, out, block: tl.constexpr):
    """Another format."""
    at = tl.arange(0, block)
    tl.store(out + at, tl.load(x + at).to(tl.float32))


def of(kernel: Any, *arguments: Any, target: str = "gfx942", **options: Any) -> Specialisation:
    """What a launch is specialised to."""
    return captured(lambda: kernel[(1,)](*arguments, **options), target)[0].specialisation


def test_tile_from_a_block_of_2048_tokens() -> None:
    """Keys and values of 2048 x 64 bf16: 256 KiB, where gfx942 has 64."""
    found = pipeline.allocated(tiled("gfx942", 16, 2048, 64, stages=1))

    assert found.figures == Figures(shared=262144, threads=256)


@pytest.mark.parametrize("target", ["gfx942", "gfx1201", "sm_86", "sm_90"])
def test_figures_are_those_of_the_whole_pipeline(target: str) -> None:
    """A warp has 64 lanes on gfx9 and 32 elsewhere."""
    specialisation = of(turned, FLOATS, FLOATS, 16, 32, target=target, num_warps=2)

    fast = pipeline.allocated(specialisation).figures

    assert fast == machine_code.compiled(specialisation).figures
    assert fast.threads == (128 if target == "gfx942" else 64)
    assert fast.shared >= 16 * 32 * 2


def test_tensor_memory() -> None:
    """Columns on sm_100, as the whole pipeline says; nothing of the kind on sm_90."""
    specialisation = tiled("sm_100", 128, 64, 16)

    fast = pipeline.allocated(specialisation).figures

    assert fast == machine_code.compiled(specialisation).figures
    assert fast.tensor_memory >= 64
    assert pipeline.allocated(tiled("sm_90", 16, 16, 16)).figures.tensor_memory == 0


def test_module_is_triton_s_own() -> None:
    """It ends before LLVM begins, and comes with the text that it was made from."""
    found = pipeline.allocated(of(turned, FLOATS, FLOATS, 16, 32))
    text = printed(found.module)

    assert '"ttg.convert_layout"' in text
    assert "allocation.offset" in text
    assert "llvm.func" not in text
    assert '"tt.trans"' in found.ttir
    assert '"ttg.' not in found.ttir


def test_triton_is_left_as_it_was() -> None:
    """After a verdict, and after a refusal."""
    before = amd.passes.ttgpuir.add_to_llvmir, nvidia.passes.ttgpuir.add_to_llvmir

    pipeline.allocated(of(copied, FLOATS, FLOATS, 16))
    pipeline.allocated(of(copied, FLOATS, FLOATS, 16, target="sm_90"))
    with pytest.raises(Refused):
        pipeline.allocated(of(multiplied, FLOATS, FLOATS, 32, target="sm_90", num_ctas=3))

    assert (amd.passes.ttgpuir.add_to_llvmir, nvidia.passes.ttgpuir.add_to_llvmir) == before


# Refusals


def test_front_end_refuses() -> None:
    """With the kernel's line."""
    with pytest.raises(Refused) as caught:
        pipeline.allocated(of(copied, FLOATS, FLOATS, 544))

    failure = caught.value.failure
    assert failure.check == "compile"
    assert (failure.line or "").startswith("compiled_kernels.py:")
    assert "power of 2" in failure.message
    assert "power of 2" in failure.subject


@pytest.mark.parametrize(("target", "dtype"), [("sm_90", torch.float8_e4m3fnuz), ("sm_86", torch.float8_e4m3fn)])
def test_format_that_the_part_has_not(target: str, dtype: torch.dtype) -> None:
    """NVIDIA has no e4m3fnuz, and Ampere no e4m3fn; where it exists it compiles."""
    codes = torch.zeros(16, dtype=torch.uint8).view(dtype)

    with pytest.raises(Refused, match="not supported in this architecture"):
        pipeline.allocated(of(widened, codes, FLOATS, 16, target=target))

    assert pipeline.allocated(of(widened, codes, FLOATS, 16, target="gfx942")).figures.shared == 0


def test_passes_refuse(capfd: pytest.CaptureFixture[str]) -> None:
    """The message is MLIR's, which it writes to standard error alone; that is in its place again afterwards."""
    with pytest.raises(Refused) as caught:
        pipeline.allocated(of(multiplied, FLOATS, FLOATS, 32, target="sm_90", num_ctas=3))
    os.write(2, b"still here\n")

    failure = caught.value.failure
    assert failure.check == "compile"
    assert failure.message.startswith("Triton's passes refuse multiplied: ")
    assert "pass pipeline" in failure.subject
    assert capfd.readouterr().err.endswith("still here\n")


@pytest.mark.parametrize(
    ("said", "reason"),
    [
        ("k.py:3:1: remark: x\nk.py:3:1: error: no room\nk.py:4:1: error: later\n", "no room"),
        ("nothing to the point\n", "PassManager::run failed: the pass manager says no more"),
    ],
)
def test_reason_of_a_refusal(monkeypatch: pytest.MonkeyPatch, said: str, reason: str) -> None:
    """The first diagnostic; without one, what was raised."""

    def fails(*_: object) -> None:
        os.write(2, said.encode())
        raise RuntimeError("PassManager::run failed")

    monkeypatch.setattr(pipeline, "_lowered", fails)

    with pytest.raises(Refused, match=r"^Triton's passes refuse copied: ") as caught:
        pipeline.allocated(of(copied, FLOATS, FLOATS, 16))

    assert caught.value.failure.subject == reason


# Drift


def test_pass_that_is_gone(monkeypatch: pytest.MonkeyPatch) -> None:
    """No verdict."""
    monkeypatch.delattr(amd.passes.ttgpuir, "add_to_llvmir")

    with pytest.raises(PipelineDrift, match=r"^Triton \S+ has no add_to_llvmir among its passes: no verdict"):
        pipeline.allocated(of(copied, FLOATS, FLOATS, 16))


def test_pass_by_another_name(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the cut is never reached, all has been lowered to LLVM, and no figure is to be had."""
    monkeypatch.setattr(pipeline, "_LOWERING", {"hip": SimpleNamespace(add_to_llvmir=None)})

    with pytest.raises(PipelineDrift, match="converts to LLVM by other passes than tridiff knows"):
        pipeline.allocated(of(copied, FLOATS, FLOATS, 16))


def module(**attributes: int) -> Any:
    """A module of Triton's that has these attributes."""
    return SimpleNamespace(get_int_attr=lambda name: attributes.get(name.removeprefix("ttg.").replace("-", "_")))


def test_attributes_of_the_module() -> None:
    """Warps that were split off count as threads; a module that says nothing of its shared memory is no zero."""
    specialisation = of(copied, FLOATS, FLOATS, 16, num_warps=4, target="sm_90")

    assert pipeline._figures(module(shared=0, total_num_warps=12, tensor_memory_size=8), specialisation) == Figures(
        shared=0, threads=384, tensor_memory=8
    )
    assert pipeline._figures(module(shared=7), specialisation) == Figures(shared=7, threads=128)
    with pytest.raises(PipelineDrift, match="does not say how much shared memory"):
        pipeline._figures(module(), specialisation)


def test_kernel_without_shared_memory() -> None:
    """Nothing is allocated, and that is a figure, too."""
    assert pipeline.allocated(of(copied, FLOATS, FLOATS, 16)).figures == Figures(shared=0, threads=256)
