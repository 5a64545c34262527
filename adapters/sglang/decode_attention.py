"""SGLang's split-KV decode, `decode_attention_fwd` of sglang/kernels/ops/attention/decode_attention.py, as a kernel of our Op.

Its caller is `forward_decode` of the Triton backend (sglang/srt/layers/attention/triton_backend.py). What is made here is made as
there: slots instead of pages, scratch that is not initialised, scales as numbers, as many splits a row as tiles of one size.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from tridiff.adapters import stubs
from tridiff.adapters.importing import Launcher
from tridiff.adapters.precision import dot_precision
from tridiff.adapters.sglang.upstream import SGLANG
from tridiff.adapters.slots import slot_cache, slots
from tridiff.harness.api import Kernel, Restriction

MODULE = "sglang.kernels.ops.attention.decode_attention"
PASSES = (
    *("q", "k_buffer", "v_buffer", "o", "kv_indptr", "kv_indices", "attn_logits", "attn_lse", "num_kv_splits"),
    *("max_kv_splits", "sm_scale", "k_scale", "v_scale", "logit_cap", "has_mla", "use_pdl", "page_size"),
    *("enable_lean", "uneven_batch"),
)
LAUNCHER = Launcher(SGLANG, MODULE, "decode_attention_fwd", passes=PASSES)

FP8_DTYPES = (torch.float8_e4m3fn, torch.float8_e4m3fnuz, torch.float8_e5m2)
_SPLIT_MULTIPLE = 32
"""Keys of which a split has a multiple."""
_SLABS = {576: 512, 288: 256}
"""Widths of a key that is loaded as two slabs, and of the first one."""
_PDL_SINCE = 9
_E4M3FN_SINCE = (8, 9)


class Unsupported(NotImplementedError):
    """SGLang does not make what the arguments hold: a cache of such an FP8 format on such a GPU."""


def decode_attention(**inputs: Any) -> None:
    """Call SGLang's launcher without lean attention; the log-sum-exp stays in its scratch."""
    LAUNCHER(
        **arguments(inputs),
        logit_cap=inputs["logit_cap"],
        has_mla=inputs["is_mla"],
        use_pdl=inputs["platform"] == "cuda" and torch.cuda.get_device_capability()[0] >= _PDL_SINCE,
        enable_lean=False,
        uneven_batch=_uneven(inputs["seq_lens"]),
    )


def arguments(inputs: Mapping[str, Any]) -> dict[str, Any]:
    """What both kinds of decode are given. Raises `Unsupported` for an FP8 format that SGLang has not on this GPU."""
    query, keys, values, seq_lens = (inputs[name] for name in ("query", "key_cache", "value_cache", "seq_lens"))
    page_size, max_kv_splits = inputs["page_size"], inputs["num_kv_splits"]
    check_format(keys.dtype, inputs["platform"])
    kv_indptr, kv_indices = slots(inputs["block_table"], seq_lens, page_size)
    sizes = (*query.shape[:2], max_kv_splits)
    return {
        "q": query,
        "k_buffer": slot_cache(keys, page_size),
        "v_buffer": slot_cache(values, page_size),
        "o": inputs["output"],
        "kv_indptr": kv_indptr,
        "kv_indices": kv_indices,
        "attn_logits": torch.empty((*sizes, values.shape[-1]), dtype=torch.float32, device=query.device),
        "attn_lse": torch.empty(sizes, dtype=torch.float32, device=query.device),
        "num_kv_splits": _splits(seq_lens, max_kv_splits),
        "max_kv_splits": max_kv_splits,
        "sm_scale": inputs["sm_scale"],
        "k_scale": scale(keys, inputs["k_scale"]),
        "v_scale": scale(values, inputs["v_scale"]),
        "page_size": page_size,
    }


def scale(cache: torch.Tensor, given: torch.Tensor | None) -> float:
    """The number by which codes are multiplied; 1 where there are none, or no scale."""
    return float(given) if cache.dtype in FP8_DTYPES and given is not None else 1.0


def check_format(dtype: torch.dtype, platform: str) -> None:
    """Raise `Unsupported` for an FP8 format that SGLang's pools do not have on this GPU (sglang/srt/mem_cache/kv_cache_dtype.py).

    On AMD there is one, the E4M3 of the part's own kind. NVIDIA has E4M3 from sm_89 on, in Triton as well.
    """
    if dtype not in FP8_DTYPES:
        return
    if platform == "hip":
        known = {torch.float8_e4m3fnuz if stubs.architecture().startswith("gfx94") else torch.float8_e4m3fn}
    else:
        since = torch.cuda.get_device_capability() >= _E4M3FN_SINCE
        known = {torch.float8_e5m2, *([torch.float8_e4m3fn] if since else [])}
    if dtype not in known:
        raise Unsupported(f"caches of {_name(dtype)}: on this GPU SGLang has {' and '.join(sorted(map(_name, known)))}")


def _splits(seq_lens: torch.Tensor, most: int) -> torch.Tensor:
    """int32 [rows]: into how many tiles of one size each row falls, the longest into `most`.

    So the backend counts with --enable-deterministic-inference, there with a tile of 256 tokens.
    """
    lengths = seq_lens.to(torch.int64)
    tile = max(1, -(-int(lengths.max()) // most))
    return ((lengths + tile - 1) // tile).clamp(min=1).to(torch.int32)


def _uneven(seq_lens: torch.Tensor) -> torch.Tensor:
    """int32 [1]: whether the shortest row has at most 0.8 of the longest one's keys (kernels/ops/attention/metadata.py)."""
    shortest, longest = int(seq_lens.min()), int(seq_lens.max())
    return torch.tensor([int(shortest < longest and longest * 8 >= shortest * 10)], dtype=torch.int32, device=seq_lens.device)


def rounding(
    *, query: torch.Tensor, key_cache: torch.Tensor, value_cache: torch.Tensor, num_kv_splits: int, platform: str, **_: object
) -> dict[str, str | int]:
    """Where it rounds. MHA multiplies in the query's dtype and adds up in float32; others round query and weights to the cache's.

    Scales of FP8 caches multiply scores and output. The positional slab of a latent key is taken in the query's dtype.
    """
    lk = key_cache.shape[-1]
    is_normal = query.shape[1] == value_cache.shape[-2]
    common: dict[str, str | int] = {
        "dequantised": "folded",
        "num_kv_splits": num_kv_splits,
        "split_multiple": _SPLIT_MULTIPLE,
        "dot_precision": dot_precision(query.dtype),
    }
    if is_normal:
        block_n = 8 if platform == "hip" else 64
        return common | {"p_dtype": "float32", "product_dtype": product_dtype(query, key_cache), "block_n": block_n}
    block_n = 16 if platform == "hip" and lk >= 576 else 32
    return common | {"p_dtype": _name(value_cache.dtype), "block_n": block_n} | narrowed_query(key_cache)


def product_dtype(query: torch.Tensor, key_cache: torch.Tensor) -> str:
    """The dtype of a product of two elements in Triton: of two 16-bit numbers that, of bfloat16 and FP8 float32."""
    if query.dtype == torch.bfloat16 and key_cache.dtype in FP8_DTYPES:
        return "float32"
    return _name(query.dtype)


def narrowed_query(key_cache: torch.Tensor) -> dict[str, str | int]:
    """To what a query is rounded for a matrix product with keys."""
    if key_cache.dtype not in FP8_DTYPES:
        return {}
    lk = key_cache.shape[-1]
    return {"query_dtype": _name(key_cache.dtype), "query_columns": _SLABS.get(lk, lk)}


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


SLOT_LAYOUTS = ("packed", "token_gap", "interleaved", "flat", "flat_token_gap")
DOMAIN = (
    Restriction(
        facet="seq_lens",
        allowed=range(1, 2**20 + 1),
        reason="padding has one token (get_cuda_graph_seq_len_fill_value of triton_backend.py); for a rank without tokens, with "
        "decode context parallelism, the caller itself replaces the output (cp_lse_ag_out_rs_mha of layers/dcp/comm.py)",
    ),
    *(
        Restriction(
            facet=f"{name}_layout",
            allowed=SLOT_LAYOUTS,
            reason="a pool is [slots, heads, width] (mem_cache/memory_pool.py), with one stride from slot to slot "
            "(_extract_kv_strides)",
        )
        for name in ("key", "value")
    ),
)

KERNEL = Kernel(
    name="sglang_decode_attention",
    op="decode_attention",
    module=__name__,
    launcher="decode_attention",
    rounding="rounding",
    unsupported="Unsupported",
    domain=DOMAIN,
    outputs=("output",),
)
