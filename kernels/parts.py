"""What the GPU that Triton compiles for can do, for launchers of several families."""

from __future__ import annotations

import torch
import triton

FP8_DTYPES = (torch.float8_e4m3fn, torch.float8_e4m3fnuz, torch.float8_e5m2)
"""The formats of caches, and of outputs that are quantised."""

E4M3FN_SINCE = 89
"""The first of NVIDIA's parts, sm_89, for which Triton converts e4m3fn."""


class Unsupported(NotImplementedError):
    """The GPU lacks what the arguments ask for: an FP8 format. Raised before anything is compiled."""


def compiles_for(platform: str) -> bool:
    """Whether Triton compiles for that vendor, "hip" or "cuda"; its other back ends refuse the vendor's launch options."""
    return bool(triton.runtime.driver.active.get_current_target().backend == platform)


def require_format(what: str, dtype: torch.dtype, platform: str) -> None:
    """Raise `Unsupported` where the GPU cannot convert the FP8 format `dtype` of `what`; see docs/reference/fp8.md.

    NVIDIA has no FNUZ formats, and e4m3fn from sm_89 on. AMD's parts convert all of `FP8_DTYPES` to float32 and from it, in
    software where they must.
    """
    if platform != "cuda" or dtype not in FP8_DTYPES or not compiles_for("cuda"):
        return
    arch = triton.runtime.driver.active.get_current_target().arch
    name = str(dtype).removeprefix("torch.")
    if dtype == torch.float8_e4m3fnuz:
        raise Unsupported(f"{what} of {name} on sm_{arch}: NVIDIA has no such format, use float8_e4m3fn")
    if dtype == torch.float8_e4m3fn and arch < E4M3FN_SINCE:
        raise Unsupported(f"{what} of {name} on sm_{arch}: needs sm_{E4M3FN_SINCE} or later, use float8_e5m2 or no FP8")
