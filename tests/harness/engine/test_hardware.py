"""The engine against what hardware computed: every file in tests/data/hardware, made by the script that hardware.py serves."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

from tridiff.harness.engines.cpu.target import RELEASE
from tridiff.harness.engines.spec import EngineSpec

FOLDER = Path(__file__).parent
FILES = sorted((FOLDER.parents[1] / "data" / "hardware").glob("*.json"))
BY_ZERO = "the result of an integer division by zero is undefined: the engine's is poison, an H200's mostly all ones"
KNOWN = {f"{what} of {kind} by zero": BY_ZERO for what in ("int_divide", "fmod") for kind in ("int32", "uint32", "int64", "int8")}
"""Cases that differ, and why: what the hardware does is undefined, or is not modelled."""


def loaded() -> ModuleType:
    """The module of cases beside this one; tests are no package."""
    if "hardware_cases" not in sys.modules:
        spec = importlib.util.spec_from_file_location("hardware_cases", FOLDER / "hardware.py")
        assert spec is not None
        assert spec.loader is not None
        sys.modules["hardware_cases"] = module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
    return sys.modules["hardware_cases"]


def differs(name: str, about: dict[str, str]) -> bool:
    """Whether the case is known to differ, or the releases differ in it: 3.8 negates by flipping the sign, 3.7 by 0 - x."""
    recorded = tuple(int(part) for part in about["triton"].split(".")[:2])
    return name in KNOWN or (name == "negate of float32" and (recorded < (3, 8)) != (RELEASE < (3, 8)))


def launcher(run: Callable[..., None], target: str) -> Callable[..., None]:
    """Launches on the engine."""
    return lambda kernel, grid, *arguments: run(kernel, grid, *arguments, spec=EngineSpec(target=target))


def parameters() -> list[Any]:
    """(what the file is about, case, the hardware's result) for all files."""
    found = []
    for path in FILES:
        about, results = loaded().from_json(path.read_text(encoding="utf-8"))
        for name, result in results.items():
            found.append(pytest.param(about, loaded().cases()[name], result, id=f"{path.stem}: {name}"))
    return found


@pytest.mark.parametrize(("about", "case", "theirs"), parameters())
def test_hardware_agrees(run: Callable[..., None], about: dict[str, str], case: Any, theirs: torch.Tensor) -> None:
    """Bit for bit where the operation is exact, within a few units in the last place where it is an approximation."""
    ours = case.run(launcher(run, about["target"]))

    different = loaded().described(case, ours, theirs)

    assert bool(different) == differs(case.name, about), "\n".join(different)


def test_a_difference_is_seen(run: Callable[..., None]) -> None:
    """The file's form loses nothing, and one wrong bit in it would fail the test above."""
    hardware = loaded()
    case = hardware.cases()["float32 to float8_e4m3fn"]
    ours = case.run(launcher(run, "sm_90"))
    about, back = hardware.from_json(hardware.as_json({case.name: ours}, {"target": "sm_90"}))
    wrong = back[case.name].clone()
    wrong.view(torch.uint8)[0x3F80] ^= 1

    assert about == {"target": "sm_90"}
    assert hardware.described(case, ours, back[case.name]) == []
    assert hardware.described(case, ours, wrong) == ["[1.0]: engine 1.0 (0x38), hardware 1.125 (0x39)"]
    assert hardware.described(case, ours[:0], wrong[:0]) == []
