"""Reference of `cache_round_trip`: attention over the tokens as they were given; what lies where is not looked at.

Slots are mere names here: the tokens of a sequence are those whose slots its part of the block table names. The mathematics and
the bound are those of `paged_attention`.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from tridiff.reference.attention_bound import FP8_DTYPES
from tridiff.reference.decode_attention import dequantised, scale_of
from tridiff.reference.paged_attention import attend, contract_of, seen


def reference(inputs: Mapping[str, Any], rounding: Mapping[str, Any]) -> dict[str, Any]:
    """Attention of the queries of each sequence over the keys and values that were written for it.

    `inputs`: the launcher's keyword arguments; the caches are read for their dtype alone, `output` for shape and dtype. A token
    that goes into an FP8 cache counts as its code times the scale, rounded as the reader declares in `rounding`: x / scale,
    saturated to the largest number of the format, rounded to nearest even. A sequence without tokens has output 0. Without
    `query_start_loc` each sequence has one query; else they are its last tokens, none of which sees those behind it.

    Returns {"outputs": {"output": (value, bound)}, "conclusive": bool}, float64, of the shape of `output`. `conclusive` is False
    when a reader that drops the last token that each query sees would stay within the bound everywhere. Raises KeyError for a
    token that no row of `slot_mapping` writes, ValueError for a rounding that is unknown and a scale that is no positive number.
    """
    contract = contract_of(inputs, rounding)
    output = torch.zeros(inputs["output"].shape, dtype=torch.float64)
    bound = torch.zeros_like(output)
    rows_of_slots = {slot: row for row, slot in enumerate(inputs["slot_mapping"].tolist()) if slot >= 0}
    sensitive = []
    for sequence, (length, queries) in enumerate(zip(inputs["seq_lens"].tolist(), _queries(inputs), strict=True)):
        rows = [rows_of_slots[slot] for slot in slots(inputs, sequence, length)]
        if not rows:
            continue
        keys, values = (held(inputs, name, rows, rounding) for name in ("key", "value"))
        group = output.shape[1] // keys.shape[1]
        query = inputs["query"][queries].to("cpu", torch.float64)
        positions = torch.arange(length - len(query), length).repeat_interleave(group)
        visible = seen(positions, torch.arange(length), window=0)
        for kv_head in range(keys.shape[1]):
            at = (queries, slice(kv_head * group, (kv_head + 1) * group))
            attended = attend(contract, query[:, at[1]].flatten(0, 1), keys[:, kv_head], values[:, kv_head], visible=visible)
            output[at], bound[at] = attended.output.view_as(output[at]), attended.bound.view_as(bound[at])
            sensitive.append(attended.sensitive)
    return {"outputs": {"output": (output, bound)}, "conclusive": any(sensitive) or not sensitive}


def _queries(inputs: Mapping[str, Any]) -> list[slice]:
    """Rows of `query` of each sequence."""
    given = inputs["query_start_loc"]
    starts = range(len(inputs["seq_lens"]) + 1) if given is None else given.tolist()
    return [slice(start, stop) for start, stop in pairwise(starts)]


def slots(inputs: Mapping[str, Any], sequence: int, length: int) -> list[int]:
    """Slots of the `length` tokens of a sequence, in order."""
    page_size = int(inputs["page_size"])
    token = torch.arange(length, dtype=torch.int64)
    pages = inputs["block_table"][sequence, : -(-length // page_size)].to("cpu", torch.int64)
    return [int(slot) for slot in pages[token // page_size] * page_size + token % page_size]


def held(inputs: Mapping[str, Any], name: str, rows: list[int], rounding: Mapping[str, Any]) -> Tensor:
    """Keys or values of `rows` of the tokens as a cache keeps them: float64 [n, Hkv, D]."""
    tokens: Tensor = inputs[name][torch.tensor(rows, device=inputs[name].device)].cpu()
    dtype = inputs[f"{name}_cache"].dtype
    if dtype not in FP8_DTYPES:
        return tokens.to(dtype).to(torch.float64)
    scale, largest = scale_of(inputs, f"{name[0]}_scale"), torch.finfo(dtype).max
    codes = (tokens.to(torch.float32) / torch.tensor(scale, dtype=torch.float32)).clamp(-largest, largest).to(dtype)
    return dequantised(codes, scale, rounding)
