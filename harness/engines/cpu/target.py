"""The target that a kernel was specialised for, as far as it changes numbers."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

import triton

RELEASE = tuple(int(part) for part in triton.__version__.split(".")[:2])
"""The installed Triton's (major, minor): its sequences of operations differ between releases."""
_TO_FP8 = re.compile(r'"tt\.fp_to_fp"\(.*\) -> \S*f8E')


@dataclass(frozen=True)
class Target:
    """`backend`: Triton's, 'hip' or 'cuda'. `arch`: gfx942, or sm_90.

    `clamps_f16`: whether an fp16 conversion that overflows gives 65504. AMD's back end sets the mode bit FP16_OVFL in every
    kernel that converts to FP8, and the bit is meant for all fp16 results.
    """

    backend: str = "hip"
    arch: str = "gfx942"
    clamps_f16: bool = False
    release: tuple[int, ...] = RELEASE

    @classmethod
    def of(cls, gpu: Any, text: str) -> Target:
        """The target of Triton's GPUTarget `gpu` for the kernel with the TTIR `text`."""
        if gpu.backend == "cuda":
            return cls("cuda", f"sm_{gpu.arch}")
        return cls(gpu.backend, gpu.arch, clamps_f16=_TO_FP8.search(text) is not None)

    @property
    def capability(self) -> int:
        """NVIDIA's compute capability, 90 for sm_90; 0 for AMD."""
        return int(self.arch.removeprefix("sm_")) if self.backend == "cuda" else 0

    @property
    def scales_operands(self) -> bool:
        """Whether matrix instructions take microscaled operands with their scales."""
        return self.arch in {"gfx950", "gfx1250"} or self.capability >= 100
