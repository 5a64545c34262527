"""What the launcher of `decode_attention` accepts: every check of its arguments that needs no look at the device's memory."""

from __future__ import annotations

import math

import torch

from tridiff.kernels.arguments import DTYPES, Tensors, require, require_dense, require_dtypes

FP8_DTYPES = (torch.float8_e4m3fn, torch.float8_e4m3fnuz, torch.float8_e5m2)


def paged(name: str, cache: torch.Tensor, page_size: int) -> torch.Tensor:
    """`cache` as a view [pages, page_size, KV heads, columns]; ValueError where it is no whole number of such pages."""
    require(page_size >= 1, f"{page_size=}: must be at least 1")
    if cache.dim() == 4:
        require(cache.shape[1] == page_size, f"{name} has pages of {cache.shape[1]} tokens: must be {page_size=}")
        return cache
    require(cache.dim() == 3, f"{name} has {cache.dim()} dimensions: must be 4, or 3 with all tokens in the first")
    require(cache.shape[0] % page_size == 0, f"{name} has {cache.shape[0]} tokens: must be a multiple of {page_size=}")
    pages: torch.Tensor = cache.unflatten(0, (cache.shape[0] // page_size, page_size))
    return pages


def check_tensors(tensors: dict[str, torch.Tensor | None], *, is_mla: bool) -> None:
    """Check all of the launcher's tensors, by argument name; the caches in pages, the scales None where they are not given.

    Raises ValueError with the argument, what it is and what is allowed.
    """
    given = {name: tensor for name, tensor in tensors.items() if tensor is not None}
    scales: Tensors = {name: given.pop(name) for name in ("k_scale", "v_scale") if name in given}
    _check_shapes(given)
    _check_dtypes(given)
    _check_layout(given)
    _check_scales(scales, given["query"].device)
    if is_mla:
        _check_mla(given["key_cache"], given["value_cache"], scales)


def check_numbers(sm_scale: float, logit_cap: float, num_kv_splits: int) -> None:
    """Check the launcher's numbers; raises ValueError with the argument, its value and what is allowed."""
    require(math.isfinite(sm_scale), f"{sm_scale=}: must be finite")
    require(0 <= logit_cap < math.inf, f"{logit_cap=}: must be finite, and 0 for no cap")
    require(num_kv_splits >= 1, f"{num_kv_splits=}: must be at least 1")


def _check_shapes(tensors: Tensors) -> None:
    query, values = tensors["query"], tensors["value_cache"]
    require(query.dim() == 3, f"query has {query.dim()} dimensions: must be 3, [rows, heads, columns]")
    rows, heads, lk = query.shape
    pages, page_size, kv_heads, lv = values.shape
    require(
        kv_heads > 0 and heads > 0 and heads % kv_heads == 0, f"{heads} query heads: must be a multiple of {kv_heads} KV heads"
    )
    require(lk > 0 and lv > 0, f"keys have {lk} columns and values {lv}: must be at least 1")
    expected = {
        "key_cache": (pages, page_size, kv_heads, lk),
        "block_table": (rows, *tensors["block_table"].shape[-1:]),
        "seq_lens": (rows,),
        "output": (rows, heads, lv),
        "lse": (rows, heads),
    }
    for name, shape in expected.items():
        actual = tuple(tensors[name].shape)
        require(actual == shape, f"{name} has shape {actual}: must be {shape} beside the other tensors")


def _check_dtypes(tensors: Tensors) -> None:
    dtype = tensors["query"].dtype
    allowed = {
        "query": DTYPES,
        "key_cache": (dtype, *FP8_DTYPES),
        "value_cache": (tensors["key_cache"].dtype,),
        "block_table": (torch.int32,),
        "seq_lens": (torch.int32, torch.int64),
        "output": (dtype, torch.float32),
        "lse": (torch.float32,),
    }
    require_dtypes(tensors, allowed)


def _check_layout(tensors: Tensors) -> None:
    for name, tensor in tensors.items():
        require_dense(name, tensor)
        require(tensor.device == tensors["query"].device, f"{name} is on {tensor.device}: must be where the query is")


def _check_scales(scales: Tensors, device: torch.device) -> None:
    for name, scale in scales.items():
        shape = tuple(scale.shape)
        require(shape in {(), (1,)}, f"{name} has shape {shape}: must have one element, [] or [1]")
        require(scale.dtype == torch.float32, f"{name} is {scale.dtype}: must be torch.float32")
        require(scale.device == device, f"{name} is on {scale.device}: must be where the query is, {device}")


def _check_mla(keys: torch.Tensor, values: torch.Tensor, scales: Tensors) -> None:
    """Check that `values` are the first columns of `keys`, both in pages, and that one scale serves both."""
    kv_heads, lk, lv = *keys.shape[2:], values.shape[-1]
    require(kv_heads == 1, f"is_mla with {kv_heads} KV heads: must be 1")
    require(lk >= lv, f"is_mla with keys of {lk} columns and values of {lv}: values cannot be wider than keys")
    # What step a dimension of size 1 has does not matter, and torch changes it at will.
    steps = [[step for step, size in zip(cache.stride(), cache.shape[:3], strict=False) if size > 1] for cache in (keys, values)]
    require(
        keys.data_ptr() == values.data_ptr() and steps[0] == steps[1],
        f"value_cache is not key_cache[..., :{lv}] when is_mla: must be a view of it, in pages of the same memory, "
        f"but their strides are {values.stride()} and {keys.stride()}",
    )
    addresses = [scales[name].data_ptr() if name in scales else None for name in ("k_scale", "v_scale")]
    require(addresses[0] == addresses[1], "v_scale is not k_scale when is_mla: must be the same tensor, or both None")
