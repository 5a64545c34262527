"""What the launcher of `prefix_prefill` accepts: every check of its arguments that needs no look at the device's memory."""

from __future__ import annotations

import math

import torch

from tridiff.kernels.arguments import DTYPES, Tensors, require, require_dense, require_dtypes
from tridiff.kernels.parts import FP8_DTYPES

PACK_BYTES = 16
"""Bytes of the innermost axis of K, and of a pack of V."""

_SCALES = ("k_scale", "v_scale", "output_scale")
_OPTIONAL = ("key", "value", "alibi_slopes", "sinks", *_SCALES)


def check_tensors(tensors: dict[str, torch.Tensor | None], *, interleaved: bool, causal: bool) -> None:
    """Check all of the launcher's tensors, by argument name; None those of `_OPTIONAL` that are not given.

    Raises ValueError with the argument, what it is and what is allowed.
    """
    given = {name: tensor for name, tensor in tensors.items() if tensor is not None}
    scales = {name: given.pop(name) for name in _SCALES if name in given}
    alone = {"key", "value"} & set(given)
    require(len(alone) != 1, f"{'value' if 'key' in alone else 'key'} is None: must be given with the other, or both be None")
    require(causal or "alibi_slopes" not in given, "alibi_slopes without causal: must be None")
    _check_shapes(given)
    _check_dtypes(given, quantises="output_scale" in scales)
    for name, tensor in given.items():
        require_dense(name, tensor)
    for name, tensor in (given | scales).items():
        require(tensor.device == given["query"].device, f"{name} is on {tensor.device}: must be where the query is")
    _check_scales(scales)
    if interleaved:
        _check_interleaved(given["value_cache"], given["key_cache"].shape[4])


def check_numbers(sm_scale: float, sliding_window: int, max_query_len: int) -> None:
    """Check the launcher's numbers; raises ValueError with the argument, its value and what is allowed."""
    require(math.isfinite(sm_scale), f"{sm_scale=}: must be finite")
    require(0 <= sliding_window < 2**31, f"{sliding_window=}: must be at least 0, for none, and below 2^31")
    require(max_query_len >= 0, f"{max_query_len=}: must be at least 0")


def _check_shapes(tensors: Tensors) -> None:
    ranks = {"query": 3, "key_cache": 5, "value_cache": 4, "block_table": 2, "seq_lens": 1}
    for name, rank in ranks.items():
        require(tensors[name].dim() == rank, f"{name} has {tensors[name].dim()} dimensions: must be {rank}")
    rows, heads, width = tensors["query"].shape
    pages, kv_heads, page_size = (tensors["key_cache"].shape[dim] for dim in (0, 1, 3))
    require(
        kv_heads > 0 and heads > 0 and heads % kv_heads == 0, f"{heads} query heads: must be a multiple of {kv_heads} KV heads"
    )
    pack = PACK_BYTES // tensors["key_cache"].element_size()
    require(width > 0 and width % pack == 0, f"heads have {width} columns: must be a multiple of {pack}, which K has in a pack")
    expected = {
        "key": (rows, kv_heads, width),
        "value": (rows, kv_heads, width),
        "output": (rows, heads, width),
        "key_cache": (pages, kv_heads, width // pack, page_size, pack),
        "value_cache": (pages, kv_heads, width, page_size),
        "block_table": (len(tensors["seq_lens"]), tensors["block_table"].shape[1]),
        "query_start_loc": (len(tensors["seq_lens"]) + 1,),
        "alibi_slopes": (heads,),
        "sinks": (heads,),
    }
    for name, shape in expected.items():
        actual = tuple(tensors[name].shape) if name in tensors else shape
        require(actual == shape, f"{name} has shape {actual}: must be {shape} beside the other tensors")


def _check_dtypes(tensors: Tensors, *, quantises: bool) -> None:
    dtype = tensors["query"].dtype
    allowed = {
        "query": DTYPES,
        "key": (dtype,),
        "value": (dtype,),
        "output": FP8_DTYPES if quantises else (dtype,),
        "key_cache": (dtype, *FP8_DTYPES),
        "value_cache": (tensors["key_cache"].dtype,),
        "block_table": (torch.int32,),
        "query_start_loc": (torch.int32,),
        "seq_lens": (torch.int32,),
        "alibi_slopes": (torch.float32,),
        "sinks": (torch.float32,),
    }
    require_dtypes(tensors, allowed)


def _check_scales(scales: Tensors) -> None:
    for name, scale in scales.items():
        shape = tuple(scale.shape)
        require(shape in {(), (1,)}, f"{name} has shape {shape}: must have one element, [] or [1]")
        require(scale.dtype == torch.float32, f"{name} is {scale.dtype}: must be torch.float32")


def _check_interleaved(values: torch.Tensor, pack: int) -> None:
    page_size, step = values.shape[3], values.stride(2)
    require(page_size % pack == 0, f"interleaved with pages of {page_size} tokens: must be a multiple of {pack}, a pack of V")
    require(
        step == page_size,
        f"interleaved with stride {step} of the columns of value_cache: must be {page_size}, since a head of a page is dense",
    )
