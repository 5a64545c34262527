"""Reference of `decode_attention`: gather a row's pages, float64, softmax, done; and how far a correct kernel may be off.

Read `reference` first, then `operands` (what a kernel multiplies), then `attend` (the mathematics). How far a correct kernel
may be off is told in `attention_bound`, and derived in `docs/explanation/tolerance.md`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from tridiff.reference.attention_bound import DTYPES, FOLDED, FP8_DTYPES, NARROW, Contract, bounds


def reference(inputs: Mapping[str, Any], rounding: Mapping[str, Any]) -> dict[str, Any]:
    """Attention of one query token per row over its paged keys and values, and the log-sum-exp of its logits.

    `inputs`: the launcher's keyword arguments. query [B, Hq, Lk]; key_cache and value_cache [NB, page_size, Hkv, Lk or Lv]
    or [NB * page_size, Hkv, Lk or Lv], any strides, of the query's dtype or FP8; block_table [B, W]; seq_lens [B]; output and
    lse are read for shape and dtype only. Query head h reads KV head h // (Hq // Hkv). k_scale, v_scale (one element, or None
    for 1) multiply FP8 codes and are ignored otherwise. With is_mla the values are the first Lv columns of the dequantised
    keys, and neither value_cache nor v_scale is read. No input is written; of the caches only the tokens of a row are read, of
    the block table only the entries that hold them.
    `rounding`: the kernel's `p_dtype`, `block_n`, `num_kv_splits`, `dot_precision`; for FP8 caches `dequantised`: the dtype
    ("float32", "bfloat16", "float16") that code * scale is rounded to, or "folded" where the scales multiply the scores and the
    output; optionally `flushes_subnormals`: float32 arithmetic and matrix products may take subnormals for zeros. Also optional,
    for kernels that round more often: `scaled_query`: sm_scale multiplies the query, in float32, instead of the scores;
    `query_dtype`: the dtype, FP8 too, that the query is then rounded to, of which only the first `query_columns` columns where
    that is given; `product_dtype`: of each single product of a query and a key; `sum_dtype`: in which the p of a tile are added
    up, once they are rounded to `p_dtype` (without it they are added up before, in float32); `partial_dtype`: of the output of a
    split; `split_multiple`: of how many keys the length of a split is a multiple.

    Returns {"outputs": {"output": (value, bound), "lse": (value, bound)}, "conclusive": bool}: float64 tensors on the CPU of
    shapes [B, Hq, Lv] and [B, Hq]. A row without keys has output 0, lse -inf and bound 0. A bound is finite, except where a
    correct kernel may overflow: there it is inf and nothing can be said of the element. `conclusive` is False when a kernel
    that drops the last key of every row would stay within the bound everywhere, in output and lse: comparing with this
    case then proves little. A case of empty rows only is conclusive, because its bound is 0.
    Raises KeyError for a missing argument, ValueError for a `rounding` outside what `Contract` knows, for a scale of FP8
    caches that is not a positive number, and for keys or values that are not finite.
    """
    key_scale, value_scale = scale_of(inputs, "k_scale"), scale_of(inputs, "k_scale" if inputs.get("is_mla") else "v_scale")
    contract = Contract.of(inputs, rounding, key_scale=key_scale, value_scale=value_scale)
    output = torch.zeros(inputs["output"].shape, dtype=torch.float64)
    lse = torch.full(inputs["lse"].shape, -math.inf, dtype=torch.float64)
    output_bound, lse_bound = torch.zeros_like(output), torch.zeros_like(lse)
    sensitive = []
    for row, length in enumerate(inputs["seq_lens"].tolist()):
        if length == 0:
            continue
        query, (keys, values) = queries(inputs, rounding, row), operands(inputs, rounding, row, length)
        group = inputs["query"].shape[1] // keys.shape[1]
        for kv_head in range(keys.shape[1]):
            at = (row, slice(kv_head * group, (kv_head + 1) * group))
            logits, logit_error = contract.logits(query[at[1]], keys[:, kv_head])
            exact = attend(logits, values[:, kv_head])
            bound = bounds(contract, logits, logit_error, values[:, kv_head], exact)
            output[at], lse[at] = exact
            output_bound[at], lse_bound[at] = bound
            sensitive.append(_exceeds(attend(logits[:, :-1], values[:-1, kv_head]), exact, bound))
    outputs = {"output": (output, output_bound), "lse": (lse, lse_bound)}
    return {"outputs": outputs, "conclusive": any(sensitive) or not sensitive}


def queries(inputs: Mapping[str, Any], rounding: Mapping[str, Any], row: int) -> Tensor:
    """Query [Hq, Lk] of `row` as the kernel multiplies it, float64. Raises ValueError unless all of it is finite."""
    query: Tensor = inputs["query"][row].to("cpu", torch.float32)
    if rounding.get("scaled_query", False):
        query = query * torch.tensor(inputs["sm_scale"], dtype=torch.float32)
    if "query_dtype" in rounding:
        columns = rounding.get("query_columns", query.shape[1])
        rounded = query[:, :columns].to(NARROW[rounding["query_dtype"]]).to(torch.float32)
        query = torch.cat([rounded, query[:, columns:]], dim=1)
    if not bool(query.isfinite().all()):
        raise ValueError(f"query holds in row {row} what is no finite number as the kernel multiplies it: nothing can be judged")
    return query.to(torch.float64)


def operands(inputs: Mapping[str, Any], rounding: Mapping[str, Any], row: int, length: int) -> tuple[Tensor, Tensor]:
    """Keys [length, Hkv, Lk] and values [length, Hkv, Lv] of `row` as the kernel's contract rounds them, float64."""
    keys = numbers(inputs, "key_cache", scale_of(inputs, "k_scale"), rounding, row, length)
    if inputs.get("is_mla"):
        return keys, keys[..., : inputs["output"].shape[-1]]
    return keys, numbers(inputs, "value_cache", scale_of(inputs, "v_scale"), rounding, row, length)


def numbers(inputs: Mapping[str, Any], name: str, scale: float, rounding: Mapping[str, Any], row: int, length: int) -> Tensor:
    """What the cache `name` holds for `row`, dequantised: float64 [length, Hkv, D]. Raises ValueError unless all are finite."""
    found = dequantised(gather(inputs, name, row, length), scale, rounding)
    if not bool(found.isfinite().all()):
        raise ValueError(f"{name} holds for row {row} what is no finite number once dequantised: no kernel can be judged by it")
    return found


def gather(inputs: Mapping[str, Any], name: str, row: int, length: int) -> Tensor:
    """Read the first `length` >= 1 tokens of `row` from the cache `name`: [length, Hkv, D] of its dtype on the CPU.

    Indexes the cache in place and never copies it whole: its storage may be gigabytes of holes. FP8 is indexed as bytes,
    because torch cannot index it on every device.
    """
    cache, page_size = inputs[name], int(inputs["page_size"])
    stored = cache.view(torch.uint8) if cache.dtype in FP8_DTYPES else cache
    token = torch.arange(length, dtype=torch.int64, device=cache.device)
    pages = inputs["block_table"][row, : -(-length // page_size)].to(cache.device, torch.int64)
    page, offset = pages[token // page_size], token % page_size
    tokens: Tensor = stored[page, offset] if cache.dim() == 4 else stored[page * page_size + offset]
    return tokens.cpu().view(cache.dtype)


def dequantised(tokens: Tensor, scale: float, rounding: Mapping[str, Any]) -> Tensor:
    """Numbers that `tokens` stand for, float64: FP8 codes times `scale`, rounded as declared; others as they are.

    Rounded is one float32 product, then one rounding to the declared dtype. Folded is the exact product.
    """
    if tokens.dtype not in FP8_DTYPES:
        return tokens.to(torch.float64)
    if rounding["dequantised"] == FOLDED:
        return tokens.to(torch.float64) * scale
    product = tokens.to(torch.float32) * torch.tensor(scale, dtype=torch.float32)
    return product.to(DTYPES[rounding["dequantised"]]).to(torch.float64)


def scale_of(inputs: Mapping[str, Any], name: str) -> float:
    """The scale `name` of FP8 caches: 1 if it is None, or the caches hold no FP8. Raises ValueError if it is not positive."""
    scale = inputs.get(name)
    if scale is None or inputs["key_cache"].dtype not in FP8_DTYPES:
        return 1.0
    value = float(scale)
    if not 0.0 < value < math.inf:
        raise ValueError(f"{name} is {value}: must be a positive number")
    return value


def attend(logits: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
    """Softmax attention: `logits` [g, n], `values` [n, Lv] -> output [g, Lv] and lse [g]; without keys 0 and -inf."""
    return torch.softmax(logits, dim=1) @ values, torch.logsumexp(logits, dim=1)


def _exceeds(other: tuple[Tensor, Tensor], exact: tuple[Tensor, Tensor], bound: tuple[Tensor, Tensor]) -> bool:
    return any(bool(((a - b).abs() > limit).any()) for a, b, limit in zip(other, exact, bound, strict=True))
