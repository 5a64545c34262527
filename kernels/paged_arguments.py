"""What launchers that read head-major paged caches check: every argument that needs no look at the device's memory.

Also what a GPU must be able to do for the FP8 formats among them.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
import triton

from tridiff.kernels.arguments import DTYPES, PLATFORMS, Tensors, require, require_dense, require_dtypes

FP8_DTYPES = (torch.float8_e4m3fn, torch.float8_e4m3fnuz, torch.float8_e5m2)

E4M3FN_SINCE = 89
"""The first of NVIDIA's parts, sm_89, for which Triton converts e4m3fn."""

PACK_BYTES = 16
"""Bytes of the innermost axis of a key cache, and of a pack of tokens of an interleaved value cache."""


class Unsupported(NotImplementedError):
    """The GPU lacks what the arguments ask for: an FP8 format. Raised before anything is compiled."""


def pack_of(dtype: torch.dtype) -> int:
    """Elements in `PACK_BYTES`."""
    return PACK_BYTES // dtype.itemsize


def check_tensors(tensors: Mapping[str, torch.Tensor | None], *, interleaved: bool) -> None:
    """Check a reader's tensors by argument name, None where one is not given: shapes, dtypes, layouts and devices.

    `query`, `output`, `key_cache`, `value_cache`, `block_table`, `query_start_loc` and `seq_lens` are needed; `key` and `value`
    (both or none), `k_scale`, `v_scale`, `alibi_slopes`, `sinks` and `output_scale` are optional.
    Raises ValueError with the argument, what it is and what is allowed.
    """
    given = {name: tensor for name, tensor in tensors.items() if tensor is not None}
    require(
        ("key" in given) == ("value" in given),
        f"{'key' if 'key' in given else 'value'} is given without the other: must be both, or both None",
    )
    _check_caches(given["key_cache"], given["value_cache"], interleaved=interleaved)
    _check_shapes(given)
    _check_dtypes(given)
    for name, tensor in given.items():
        require(tensor.device == given["query"].device, f"{name} is on {tensor.device}: must be where the query is")
        if tensor.dim() > 0:
            require_dense(name, tensor)
    is_quantised = given["output"].dtype in FP8_DTYPES
    require(
        is_quantised == ("output_scale" in given),
        f"output is {given['output'].dtype} and output_scale {'given' if 'output_scale' in given else 'None'}: "
        "must be given for an output of FP8, and for no other",
    )


def check_numbers(sm_scale: float, sliding_window: int, platform: str) -> None:
    """Check a reader's numbers; raises ValueError with the argument, its value and what is allowed."""
    require(math.isfinite(sm_scale), f"{sm_scale=}: must be finite")
    require(0 <= sliding_window < 2**31, f"{sliding_window=}: must be at least 0, for no window, and below 2^31")
    require(platform in PLATFORMS, f"{platform=}: must be one of {', '.join(map(repr, PLATFORMS))}")


def refuse_formats(platform: str, *tensors: torch.Tensor) -> None:
    """Raise `Unsupported` where the GPU cannot convert the FP8 format of one of `tensors`.

    NVIDIA has no FNUZ formats, and e4m3fn from sm_89 on. AMD's parts convert all of `FP8_DTYPES` to float32 and from it, in
    software where they must.
    """
    if platform != "cuda" or not compiles_for("cuda"):
        return
    arch = triton.runtime.driver.active.get_current_target().arch
    for dtype in dict.fromkeys(tensor.dtype for tensor in tensors):
        name = str(dtype).removeprefix("torch.")
        if dtype == torch.float8_e4m3fnuz:
            raise Unsupported(f"{name} on sm_{arch}: NVIDIA has no such format, use float8_e4m3fn")
        if dtype == torch.float8_e4m3fn and arch < E4M3FN_SINCE:
            raise Unsupported(f"{name} on sm_{arch}: needs sm_{E4M3FN_SINCE} or later, use float8_e5m2 or bfloat16")


def compiles_for(backend: str) -> bool:
    """Whether Triton compiles for that vendor; its other back ends, a test's, say, refuse a vendor's launch options."""
    return bool(triton.runtime.driver.active.get_current_target().backend == backend)


def _check_caches(keys: torch.Tensor, values: torch.Tensor, *, interleaved: bool) -> None:
    """Check shapes of K [NB, Hkv, D/x, BS, x] and V [NB, Hkv, D, BS] beside each other."""
    require(keys.dim() == 5, f"key_cache has {keys.dim()} dimensions: must be 5, [pages, heads, columns / x, page size, x]")
    pages, kv_heads, chunks, page_size, pack = keys.shape
    require(
        pack == pack_of(keys.dtype),
        f"key_cache has {pack} elements in its last dimension: must be {pack_of(keys.dtype)}, {PACK_BYTES} bytes of {keys.dtype}",
    )
    expected, actual = (pages, kv_heads, chunks * pack, page_size), tuple(values.shape)
    require(actual == expected, f"value_cache has shape {actual}: must be {expected} beside key_cache")
    require(min(expected[1:]) > 0, f"value_cache has shape {actual}: must have a head, a column and a token at least")
    if interleaved:
        require(page_size % pack == 0, f"interleaved with pages of {page_size} tokens: must be a multiple of {pack}")
        step = values.stride(2)
        require(step == page_size, f"interleaved with stride {step} from column to column: must be {page_size}, a dense head")


def _check_shapes(tensors: Tensors) -> None:
    query, keys = tensors["query"], tensors["key_cache"]
    require(query.dim() == 3, f"query has {query.dim()} dimensions: must be 3, [tokens, heads, columns]")
    rows, heads, head_dim = query.shape
    kv_heads, width = keys.shape[1], keys.shape[2] * keys.shape[4]
    require(heads > 0 and heads % kv_heads == 0, f"{heads} query heads: must be a multiple of {kv_heads} KV heads")
    require(head_dim == width, f"query has {head_dim} columns: must be {width}, those of the caches")
    seq_lens = tensors["seq_lens"]
    require(seq_lens.dim() == 1, f"seq_lens has {seq_lens.dim()} dimensions: must be 1, [sequences]")
    sequences = seq_lens.shape[0]
    expected = {
        "output": (rows, heads, head_dim),
        "key": (rows, kv_heads, head_dim),
        "value": (rows, kv_heads, head_dim),
        "block_table": (sequences, *tensors["block_table"].shape[-1:]),
        "query_start_loc": (sequences + 1,),
        "alibi_slopes": (heads,),
        "sinks": (heads,),
    }
    for name in expected.keys() & tensors.keys():
        actual = tuple(tensors[name].shape)
        require(actual == expected[name], f"{name} has shape {actual}: must be {expected[name]} beside the other tensors")
    for name in ("k_scale", "v_scale", "output_scale"):
        shape = tuple(tensors[name].shape) if name in tensors else ()
        require(shape in {(), (1,)}, f"{name} has shape {shape}: must have one element, [] or [1]")


def _check_dtypes(tensors: Tensors) -> None:
    dtype = tensors["query"].dtype
    allowed = {
        "query": DTYPES,
        "key": (dtype,),
        "value": (dtype,),
        "output": (dtype, torch.float32, *FP8_DTYPES),
        "key_cache": (dtype, *FP8_DTYPES),
        "value_cache": (tensors["key_cache"].dtype,),
        **dict.fromkeys(("block_table", "query_start_loc", "seq_lens"), (torch.int32,)),
        **dict.fromkeys(("k_scale", "v_scale", "alibi_slopes", "sinks", "output_scale"), (torch.float32,)),
    }
    require_dtypes(tensors, allowed)
