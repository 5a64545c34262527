"""The whole pipeline: what the object file says of registers, and what a code generator that fails says."""

# ruff: noqa: ANN001, ANN201 - arguments of jit functions have no Python type, nor have their results
# mypy: allow-untyped-defs, allow-incomplete-defs, allow-untyped-decorators

from __future__ import annotations

import re
import time
from typing import Any

import pytest
import torch
import triton
import triton.language as tl
from compiled_kernels import copied, turned
from launching import captured
from triton.compiler import CompilationError

from tridiff.harness.capture import Specialisation
from tridiff.harness.targets import machine_code
from tridiff.harness.targets.pipeline import RELEASE, Refused

NUMBERS = torch.zeros(64, dtype=torch.int32)


@triton.jit
def unknown(x, out, block: tl.constexpr):
    """An instruction that no assembler knows."""
    at = tl.arange(0, block)
    value = tl.inline_asm_elementwise("garbage $0, $1;", "=r,r", [tl.load(x + at)], dtype=tl.int32, is_pure=True, pack=1)
    tl.store(out + at, value)


def of(kernel: Any, *arguments: Any, target: str, **options: Any) -> Specialisation:
    """What a launch is specialised to."""
    return captured(lambda: kernel[(1,)](*arguments, **options), target)[0].specialisation


def test_registers_of_an_amd_part() -> None:
    """More for a larger tile in fewer lanes; names are ours."""
    small, large = (
        dict(machine_code.compiled(of(turned, NUMBERS, NUMBERS, rows, 32, target="gfx1201", num_warps=1)).registers)
        for rows in (2, 64)
    )

    assert set(small) >= {"vgpr", "sgpr", "scratch", "vgpr_spills", "sgpr_spills"}
    assert 0 < small["vgpr"] < large["vgpr"]
    assert small["scratch"] == small["vgpr_spills"] == 0


def test_registers_of_an_nvidia_part() -> None:
    """As cuobjdump prints them."""
    small, large = (
        dict(machine_code.compiled(of(turned, NUMBERS, NUMBERS, rows, 32, target="sm_90", num_warps=1)).registers)
        for rows in (2, 64)
    )

    assert set(small) == {"registers", "scratch", "local"}
    assert 0 < small["registers"] < large["registers"]


def test_metadata_of_the_assembly() -> None:
    """Each figure is read from the metadata at the end, not from what looks alike above; one that is missing is left out."""
    above = "; .vgpr_count: 1\n.sgpr_count: 2\n"
    figures = {".agpr_count": 4, ".private_segment_fixed_size": 16, ".sgpr_count": 30, ".sgpr_spill_count": 5, ".vgpr_count": 88}
    metadata = "\t.amdgpu_metadata\n" + "".join(f"    {name}:     {count}\n" for name, count in figures.items())

    assert dict(machine_code._from_metadata(above + metadata)) == {
        "vgpr": 88,
        "agpr": 4,
        "sgpr": 30,
        "scratch": 16,
        "sgpr_spills": 5,
    }


def test_assembler_that_refuses(capfd: pytest.CaptureFixture[str]) -> None:
    """The reason is the assembler's own, without folders and numbers of lines that vary."""
    with pytest.raises(Refused) as caught:
        machine_code.compiled(of(unknown, NUMBERS, NUMBERS, 64, target="sm_90"))

    failure = caught.value.failure
    assert failure.check == "codegen"
    assert failure.subject == "PTXASError: Not a name of any known instruction: 'garbage'"
    assert failure.message == f"Triton fails to generate code for unknown: {failure.subject} ({RELEASE})"
    assert "ptxas" in capfd.readouterr().out  # Triton prints it, too


@pytest.mark.parametrize(
    ("error", "check", "reason"),
    [
        (CompilationError("def f(): pass", None, "not here"), "compile", r"CompilationError: .+"),
        (RuntimeError("\n\n  first line\nsecond"), "codegen", "RuntimeError: first line"),
        (ValueError(), "codegen", "ValueError: no message"),
    ],
)
def test_check_of_a_failure(monkeypatch: pytest.MonkeyPatch, error: Exception, check: str, reason: str) -> None:
    """What the front end refuses is `compile`, all else `codegen`."""

    def fails(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr(triton, "compile", fails)

    with pytest.raises(Refused) as caught:
        machine_code.compiled(of(copied, NUMBERS, NUMBERS, 16, target="gfx942"))

    assert caught.value.failure.check == check
    assert re.fullmatch(reason, caught.value.failure.subject)


def test_seconds_are_those_of_the_compiler(monkeypatch: pytest.MonkeyPatch) -> None:
    """From before to after."""
    specialisation = of(copied, NUMBERS, NUMBERS, 16, target="gfx942")
    machine_code.compiled(specialisation)
    times = iter([100.0, 607.5])
    monkeypatch.setattr(time, "monotonic", lambda: next(times, 607.5))

    assert machine_code.compiled(specialisation).seconds == 507.5
