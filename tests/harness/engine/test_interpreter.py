"""The engine against Triton's own interpreter, which is a fair opponent for float32 and integers."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch

from tridiff.harness.api import Arena
from tridiff.harness.engines.cpu.engine import CpuEngine
from tridiff.harness.engines.spec import EngineSpec

SCRIPT = Path(__file__).with_name("interpreted.py")


def loaded() -> ModuleType:
    """The script's launches, compiled instead of interpreted."""
    spec = importlib.util.spec_from_file_location("interpreted", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


LAUNCHES = loaded().LAUNCHES


@pytest.fixture(scope="module")
def interpreted(tmp_path_factory: pytest.TempPathFactory) -> dict[str, torch.Tensor]:
    """The interpreter's outputs of all launches, by NAME/OUTPUT."""
    path = tmp_path_factory.mktemp("interpreter") / "results.pt"
    environment = {**os.environ, "TRITON_INTERPRET": "1"}
    subprocess.run([sys.executable, str(SCRIPT), str(path)], env=environment, check=True, timeout=300)
    results: dict[str, torch.Tensor] = torch.load(path)
    return results


@pytest.mark.operations(versions=">=3.7", reason="the interpreter of 3.6 does not work with numpy 2.4")
@pytest.mark.parametrize("name", LAUNCHES)
@pytest.mark.parametrize("target", ["gfx942", "sm_80"])
def test_same_results(name: str, target: str, interpreted: dict[str, torch.Tensor]) -> None:
    """Integers are equal; floats lie within what the rounding of both can explain, and infinities agree."""
    launch = LAUNCHES[name]()
    bounds = launch.bounds()

    CpuEngine(EngineSpec(target=target)).run(launch.launcher, {}, Arena())

    for output, tensor in launch.outputs.items():
        theirs = interpreted[f"{name}/{output}"]
        if output not in bounds:
            assert torch.equal(tensor, theirs)
            continue
        apart = torch.where(tensor == theirs, 0.0, (tensor.double() - theirs.double()).abs())
        assert (apart <= bounds[output]).all(), f"{output}: {(apart / bounds[output]).max():.3g} times the bound"
