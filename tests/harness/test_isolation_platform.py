"""Real worker processes look like a machine with their target to whatever is imported there."""

from __future__ import annotations

import contextlib
from pathlib import Path

import pytest
from plugging import left_as_found, saved
from toy.strategies.scale import ScaleCase

from tridiff.harness.api import Clean, Found
from tridiff.harness.engines.spec import EngineSpec
from tridiff.harness.isolation.isolated import Isolated
from tridiff.harness.plugins import load
from tridiff.harness.runner.examine import KernelRef
from tridiff.harness.targets import table
from tridiff.harness.targets.table import Part

PLUGIN = """\
import torch
import triton
import triton.language as tl
from triton.language.target_info import is_hip
from tridiff.harness.api import Kernel
from tridiff.harness.registry import register_family
from toy.kernels import scale as toy

FNUZ = "gfx94" in torch.cuda.get_device_properties(0).gcnArchName
TILES = {
    "hip": 16 if torch.version.hip else 32,
    "properties": 16 if FNUZ else 32,
    "capability": 16 if torch.cuda.get_device_capability() == (9, 4) else 32,
    "driver": 16 if triton.runtime.driver.active.get_current_target().arch == "gfx942" else 32,
    "warp": {64: 16, 32: 32}[triton.runtime.driver.active.utils.get_device_properties(0)["warpSize"]],
    "target_info": 16 if is_hip() else 32,
    "processors": torch.cuda.get_device_properties("cuda").multi_processor_count,
}
TILE = TILES["hip"]

def tiled(*, x, out, total, factor):
    torch.manual_seed(5)
    with torch.cuda.device(x.device):
        TOUCH[TILE][(1,)](total, tile=TILE)
    toy.scale(x=x, out=out, total=total, factor=factor)

def telling(*, x, out, total, factor):
    tiled(x=x, out=out, total=total, factor=factor)
    raise RuntimeError(", ".join(f"{way} {tile}" for way, tile in TILES.items()))

@triton.jit
def _touch_16(total, tile: tl.constexpr):
    tl.store(total + tl.arange(0, tile), 0.0, mask=tl.arange(0, tile) < 1)

@triton.jit
def _touch_32(total, tile: tl.constexpr):
    tl.store(total + tl.arange(0, tile), 0.0, mask=tl.arange(0, tile) < 1)

TOUCH = {16: _touch_16, 32: _touch_32}
def rounding(**inputs):
    assert (16 if torch.version.hip else 32) == TILE, "it is another platform by now"
    return toy.rounding(**inputs)

def register(registry):
    register_family(registry, "scale", "toy")
    for name in ("tiled", "telling"):
        registry.register_kernel(Kernel(name=name, op="scale", module=__name__, launcher=name, rounding="rounding"))
"""


@pytest.mark.parametrize(("target", "tile", "processors"), [("gfx942", 16, 7), ("sm_90", 32, 132)])
def test_import_time_constants(tmp_path: Path, target: str, tile: int, processors: int) -> None:
    """Whichever way a module asks while it is imported, the answer is the target's; also where the settings have another."""
    spec, case = EngineSpec(target=target), ScaleCase(rows=2, columns=5)

    with left_as_found(tmp_path), table.scope(), contextlib.closing(Isolated()) as examiner:
        plugins = (saved("mine.py", PLUGIN),)
        table.add([Part(name="gfx942", shared_bytes=65536, processors=7)])
        known = load(plugins, target=target)
        clean, told = (
            examiner.examine(KernelRef(kernel=kernel, plugins=plugins), spec, case, known, shrinking=False, announce=print)
            for kernel in ("tiled", "telling")
        )

    assert isinstance(clean, Clean)
    assert [name.partition("-")[0] for name in clean.specialisations] == [f"_touch_{tile}", "_scale"]
    assert isinstance(told, Found)
    ways = ("hip", "properties", "capability", "driver", "warp", "target_info")
    assert told.finding.message.endswith(", ".join([*(f"{way} {tile}" for way in ways), f"processors {processors}"]))
