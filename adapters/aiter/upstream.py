"""The installed or fetched AITER, and what its Triton kernels have in common."""

from __future__ import annotations

import torch

from tridiff.adapters import stubs
from tridiff.adapters.importing import Upstream

AITER = Upstream(
    "aiter",
    tried=("0.1",),
    stubs=stubs.amd_aiter,
    distribution="amd_aiter",
    advice="install it from its repository, or tools/fetch_upstream.py amd_aiter for its Python files alone",
)


class Unsupported(NotImplementedError):
    """AITER is for AMD GPUs."""


def require_hip(platform: str) -> None:
    """Raise `Unsupported` unless `platform` is "hip"."""
    if platform != "hip":
        raise Unsupported("AITER: it is for AMD GPUs alone")


def paged(cache: torch.Tensor, page_size: int) -> torch.Tensor:
    """A view [pages, page_size, heads, width] of a cache, which may be [pages * page_size, heads, width]."""
    return cache if cache.dim() == 4 else cache.unflatten(0, (-1, page_size))


def scale(given: torch.Tensor | None, device: torch.device) -> torch.Tensor:
    """float32 [1] on `device`, as callers hold the scale of a layer; 1 without one."""
    return torch.ones(1, device=device) if given is None else given.reshape(1)


def name(dtype: torch.dtype) -> str:
    """As `rounding` has it: "bfloat16", say."""
    return str(dtype).removeprefix("torch.")
