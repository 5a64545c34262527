"""A plug-in for tridiff: an implementation of the built-in Op `decode_attention`, behind an adapter."""

from __future__ import annotations

from typing import Any

import torch

from tridiff.harness.api import Kernel
from tridiff.harness.registry import Registry
from tridiff.kernels.decode_attention import decode_attention, rounding  # noqa: F401 - stand for yours


def dense(*, output: torch.Tensor, lse: torch.Tensor, **inputs: Any) -> None:
    """Call a kernel that writes dense tensors only."""
    decode_attention(output=output.contiguous(), lse=lse.contiguous(), **inputs)


def register(registry: Registry) -> None:
    """Called by tridiff."""
    registry.register_kernel(
        Kernel(name="adapted", op="decode_attention", module=__name__, launcher="dense", rounding="rounding")
    )
