"""What launchers of several families ask of their arguments."""

from __future__ import annotations

import torch

DTYPES = (torch.float32, torch.bfloat16, torch.float16)
"""Dtypes of what attention reads and writes, caches apart."""
PLATFORMS = ("hip", "cuda")

Tensors = dict[str, torch.Tensor]


def require(condition: bool, message: str) -> None:
    """Raise ValueError with `message` unless `condition` holds."""
    if not condition:
        raise ValueError(message)


def require_dtypes(tensors: Tensors, allowed: dict[str, tuple[torch.dtype, ...]]) -> None:
    """Raise ValueError unless each of `tensors` has one of the dtypes that are `allowed` under its name."""
    for name, tensor in tensors.items():
        choices = " or ".join(map(str, dict.fromkeys(allowed[name])))
        require(tensor.dtype in allowed[name], f"{name} is {tensor.dtype}: must be {choices}")


def require_dense(name: str, tensor: torch.Tensor) -> None:
    """Raise ValueError unless the last dimension of `tensor` is dense, or has one element at most."""
    step = tensor.stride(-1)
    require(step == 1 or tensor.shape[-1] <= 1, f"{name} has stride {step} in its last dimension: must be 1, dense")
