"""What the launchers of the cache writers accept: every check of their arguments that needs no look at the device's memory."""

from __future__ import annotations

import torch

from tridiff.kernels.arguments import DTYPES, PLATFORMS, Tensors, require, require_dense, require_dtypes
from tridiff.kernels.cache_codes import FP8_DTYPES

SLOT_DTYPES = (torch.int32, torch.int64)


def check_writer(
    rows: Tensors,
    caches: Tensors,
    slot_mapping: torch.Tensor,
    scales: dict[str, torch.Tensor | None],
    platform: str,
    *,
    dims: int = 3,
) -> None:
    """Check what all writers have, by argument name: `rows` of tokens in `dims` dimensions, `caches` of one dtype, and so on.

    The shapes of `caches` are the family's to check. Raises ValueError with the argument, what it is and what is allowed.
    """
    first = next(iter(rows))
    check_rows(rows, {**caches, "slot_mapping": slot_mapping, **_given(scales)}, dims)
    for name, tensor in caches.items():
        require_dense(name, tensor)
    _check_dtypes(rows, caches)
    check_slots(slot_mapping, rows[first].shape[0])
    check_scales(scales)
    require(platform in PLATFORMS, f"{platform=}: must be one of {', '.join(map(repr, PLATFORMS))}")


def check_rows(rows: Tensors, others: Tensors, dims: int = 3) -> None:
    """Check that `rows` have the same tokens, `dims` dimensions, a dense last one, the device of `others`; raises ValueError."""
    first, shape = next((name, tuple(tensor.shape)) for name, tensor in rows.items())
    axes = "[tokens, heads, columns]" if dims == 3 else "[tokens, columns]"
    for name, tensor in rows.items():
        actual = tuple(tensor.shape)
        require(len(actual) == dims, f"{name} has {len(actual)} dimensions: must be {dims}, {axes}")
        require(actual[:-1] == shape[:-1], f"{name} has shape {actual}: must be {(*shape[:-1], actual[-1])} beside {first}")
        require(min(actual[1:]) > 0, f"{name} has shape {actual}: must have one element of a token at least")
        require_dense(name, tensor)
    for name, tensor in {**rows, **others}.items():
        require(tensor.device == rows[first].device, f"{name} is on {tensor.device}: must be where {first} is")


def check_slots(slot_mapping: torch.Tensor, tokens: int) -> None:
    """Check that there is a slot for each of the first tokens, or for all of them; raises ValueError."""
    require(slot_mapping.dim() == 1, f"slot_mapping has {slot_mapping.dim()} dimensions: must be 1, [tokens]")
    require_dense("slot_mapping", slot_mapping)
    count = slot_mapping.shape[0]
    require(count <= tokens, f"slot_mapping has {count} slots: must have at most {tokens}, the number of tokens")
    require_dtypes({"slot_mapping": slot_mapping}, {"slot_mapping": SLOT_DTYPES})


def check_scales(scales: dict[str, torch.Tensor | None]) -> None:
    """Check that scales are single float32 numbers; raises ValueError."""
    for name, scale in _given(scales).items():
        shape = tuple(scale.shape)
        require(shape in {(), (1,)}, f"{name} has shape {shape}: must have one element, [] or [1]")
        require(scale.dtype == torch.float32, f"{name} is {scale.dtype}: must be torch.float32")


def check_shape(name: str, tensor: torch.Tensor, expected: tuple[int, ...], beside: str) -> None:
    """Check one tensor's shape, which those named `beside` ask for; raises ValueError."""
    actual = tuple(tensor.shape)
    require(actual == expected, f"{name} has shape {actual}: must be {expected} beside {beside}")


def _given(scales: dict[str, torch.Tensor | None]) -> Tensors:
    return {name: scale for name, scale in scales.items() if scale is not None}


def _check_dtypes(rows: Tensors, caches: Tensors) -> None:
    """Rows are of one dtype and caches of one: any floats into any, but FP8 only into the same format."""
    dtype, cache_dtype = next(iter(rows.values())).dtype, next(iter(caches.values())).dtype
    require_dtypes(rows, dict.fromkeys(rows, (*DTYPES, *FP8_DTYPES)))
    require_dtypes(rows, dict.fromkeys(rows, (dtype,)))
    require_dtypes(caches, dict.fromkeys(caches, (dtype,) if dtype in FP8_DTYPES else (*DTYPES, *FP8_DTYPES)))
    require_dtypes(caches, dict.fromkeys(caches, (cache_dtype,)))
