"""The whole of Triton's pipeline, to the object file, and what that says of registers. May take minutes, and may abort."""

from __future__ import annotations

import re
import subprocess
import tempfile
import time
from dataclasses import dataclass
from typing import Any

import triton
from triton import knobs
from triton.compiler import ASTSource, CompilationError

from tridiff.harness.api import Failure
from tridiff.harness.capture import Specialisation
from tridiff.harness.targets.pipeline import RELEASE, Figures, Refused

_AMD = {
    "vgpr": ".vgpr_count",
    "agpr": ".agpr_count",
    "sgpr": ".sgpr_count",
    "scratch": ".private_segment_fixed_size",
    "vgpr_spills": ".vgpr_spill_count",
    "sgpr_spills": ".sgpr_spill_count",
}
"""Our names, and those of the kernel's metadata in the object ("User Guide for AMDGPU Backend", code object V5, LLVM).

Registers of a lane; `scratch` in bytes a lane.
"""
_NVIDIA = {"registers": r"\bREG:(\d+)", "scratch": r"\bSTACK:(\d+)", "local": r"\bLOCAL:(\d+)"}
"""Likewise, from what `cuobjdump --dump-resource-usage` prints; what is spilled is part of the stack."""
_ERROR = re.compile(r"\berror\s+: (.+)")
"""What ptxas complains of; Triton's own first line says no more than that it did."""


@dataclass(frozen=True, kw_only=True)
class Object:
    """What the object file of a specialisation says. `seconds`: how long it took to compile, 0 if Triton had it already."""

    figures: Figures
    registers: tuple[tuple[str, int], ...]
    seconds: float


def compiled(specialisation: Specialisation) -> Object:
    """Compile to the object file. Raises `Refused` where that fails; an abort of the code generator ends the process."""
    source = ASTSource(specialisation.function, specialisation.signature, specialisation.constants, specialisation.attributes)
    started = time.monotonic()
    try:
        kernel = triton.compile(source, target=specialisation.target, options=vars(specialisation.options))
    except CompilationError as error:
        raise _refused("compile", error, specialisation) from error
    except Exception as error:
        raise _refused("codegen", error, specialisation) from error
    metadata: Any = kernel.metadata
    figures = Figures(
        shared=metadata.shared,
        threads=metadata.num_warps * specialisation.target.warp_size,
        tensor_memory=getattr(metadata, "tmem_size", None) or 0,
    )
    return Object(figures=figures, registers=_registers(kernel), seconds=time.monotonic() - started)


def _refused(check: str, error: Exception, specialisation: Specialisation) -> Refused:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    telling = next((match[1] for line in lines if (match := _ERROR.search(line))), lines[0] if lines else "no message")
    reason = f"{type(error).__name__}: {telling}"
    message = f"Triton fails to generate code for {specialisation.function.__name__}: {reason} ({RELEASE})"
    return Refused(Failure(check=check, message=message, subject=reason))


def _registers(kernel: Any) -> tuple[tuple[str, int], ...]:
    if "amdgcn" in kernel.asm:
        return _from_metadata(kernel.asm["amdgcn"])
    return _from_cubin(kernel.asm["cubin"])


def _from_metadata(assembly: str) -> tuple[tuple[str, int], ...]:
    """From the YAML at the end of the assembly, which the assembler copies into the object as it is."""
    text = assembly[assembly.rindex(".amdgpu_metadata") :] if ".amdgpu_metadata" in assembly else assembly
    found = {name: re.search(rf"{re.escape(key)}:\s+(\d+)", text) for name, key in _AMD.items()}
    return tuple((name, int(match[1])) for name, match in found.items() if match is not None)


def _from_cubin(cubin: bytes) -> tuple[tuple[str, int], ...]:
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        command = [knobs.nvidia.cuobjdump.path, "--dump-resource-usage", file.name]
        said = subprocess.run(command, capture_output=True, text=True, check=False).stdout  # noqa: S603 - Triton's own tool
    found = {name: re.search(pattern, said) for name, pattern in _NVIDIA.items()}
    return tuple((name, int(match[1])) for name, match in found.items() if match is not None)
