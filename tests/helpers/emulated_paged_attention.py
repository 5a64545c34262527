"""An independent float32 emulation of a paged decode kernel: online softmax over tiles, masks, alibi, sinks, FP8 output."""

from __future__ import annotations

import math
from collections.abc import Mapping
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from tridiff.reference.paged_attention import unpack

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
LOG2E = torch.tensor(1 / math.log(2.0), dtype=torch.float32)


def emulate(inputs: Mapping[str, Any], rounding: Mapping[str, Any], *, base_2: bool) -> Tensor:
    """Output [N, Hq, D] of the sequences with one query, as it is stored. `base_2`: log2(e) multiplies sm_scale and slopes."""
    starts = inputs["query_start_loc"].tolist()
    rows = []
    for at, (start, stop) in enumerate(pairwise(starts)):
        if stop - start == 1:
            rows.append(_row(inputs, rounding, at, start, base_2=base_2))
    shape = (0, *inputs["output"].shape[1:])
    return torch.stack(rows) if rows else torch.empty(shape, dtype=inputs["output"].dtype)


def _row(inputs: Mapping[str, Any], rounding: Mapping[str, Any], at: int, row: int, *, base_2: bool) -> Tensor:
    query, count = inputs["query"][row].float(), int(inputs["seq_lens"][at])
    keys, values = (each.float() for each in unpack(inputs, rounding, at, count))
    group = query.shape[0] // keys.shape[1]
    keys, values = (each.repeat_interleave(group, dim=1).transpose(0, 1) for each in (keys, values))  # [Hq, n, D]
    factor = LOG2E if base_2 else torch.tensor(1.0)
    exp = torch.exp2 if base_2 else torch.exp
    top = torch.full((len(query), 1), -math.inf) if inputs["sinks"] is None else inputs["sinks"][:, None] * factor
    total, output = (top > -math.inf).float(), torch.zeros_like(query)
    scale = torch.tensor(inputs["sm_scale"], dtype=torch.float32) * factor
    for first in range(0, count, rounding["block_n"]):
        tile = slice(first, first + rounding["block_n"])
        logits = (keys[:, tile] @ query[:, :, None])[..., 0] * scale
        distance = torch.arange(first, min(count, tile.stop)) - (count - 1)
        if inputs["alibi_slopes"] is not None:
            logits = logits + inputs["alibi_slopes"][:, None] * factor * distance.float()
        if inputs["sliding_window"]:
            logits = logits.masked_fill(-distance >= inputs["sliding_window"], -math.inf)
        higher = torch.maximum(top, logits.amax(dim=1, keepdim=True))
        around = higher.masked_fill(higher == -math.inf, 0.0)
        p, kept = exp(logits - around), exp(top - around)
        total = total * kept + p.sum(dim=1, keepdim=True)
        weighted = p.to(DTYPES[rounding["p_dtype"]]).float()[:, None, :] @ values[:, tile]
        output, top = output * kept + weighted[:, 0], higher
    output = output / (total + torch.tensor(1e-10))
    return _stored(output, inputs)


def _stored(output: Tensor, inputs: Mapping[str, Any]) -> Tensor:
    dtype = inputs["output"].dtype
    if inputs["output_scale"] is None:
        return output.to(dtype)
    largest = torch.finfo(dtype).max
    return (output * (1.0 / inputs["output_scale"].float())).clamp(-largest, largest).to(dtype)
