"""What the references of paged attention share: caches in vLLM's head-major layout, and softmax attention of some query rows.

`unpack` finds the tokens of a sequence, by the formulas that vLLM's launchers document and in index arithmetic of its own.
`attend` is the mathematics, in float64, with masks, a bias of the logits (alibi) and sinks; how far a correct kernel may be off
comes from `attention_bound`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from tridiff.reference.attention_bound import FP8_DTYPES, Contract, bounds
from tridiff.reference.decode_attention import dequantised, scale_of

PACK_BYTES = 16
"""Bytes of x elements of K, and of p tokens of interleaved V."""


def contract_of(inputs: Mapping[str, Any], rounding: Mapping[str, Any]) -> Contract:
    """What the kernel computes: `Contract.of` with the scales of the caches; kernels that split no keys need not say so.

    Raises as `Contract.of` does, and ValueError for a scale that is no positive number.
    """
    scale = inputs.get("output_scale")
    if scale is not None and not 0.0 < float(scale) < math.inf:
        raise ValueError(f"output_scale is {float(scale)}: must be a positive number")
    scales = {"key_scale": scale_of(inputs, "k_scale"), "value_scale": scale_of(inputs, "v_scale")}
    return Contract.of(inputs, {"num_kv_splits": 1, **rounding}, **scales)


def unpack(inputs: Mapping[str, Any], rounding: Mapping[str, Any], row: int, count: int) -> tuple[Tensor, Tensor]:
    """Keys and values of the first `count` >= 0 tokens of sequence `row`, dequantised: float64 [count, Hkv, D] on the CPU.

    Reads the caches in place, and of the block table only the entries that hold those tokens. Raises ValueError unless all
    numbers found are finite: no kernel can be judged by others.
    """
    page, offset = places(inputs, row, count)
    found = {
        "key_cache": (stored_keys(inputs["key_cache"], page, offset), scale_of(inputs, "k_scale")),
        "value_cache": (
            stored_values(inputs["value_cache"], page, offset, interleaved=bool(inputs["interleaved"])),
            scale_of(inputs, "v_scale"),
        ),
    }
    numbers = {name: dequantised(tokens, scale, rounding) for name, (tokens, scale) in found.items()}
    for name, each in numbers.items():
        if not bool(each.isfinite().all()):
            raise ValueError(f"{name} holds for sequence {row} what is no finite number once dequantised: nothing can be judged")
    return numbers["key_cache"], numbers["value_cache"]


def places(inputs: Mapping[str, Any], row: int, count: int) -> tuple[Tensor, Tensor]:
    """Page and position in it of the first `count` tokens of sequence `row`: int64 [count] each, on the CPU."""
    page_size = int(inputs["key_cache"].shape[3])
    token = torch.arange(count, dtype=torch.int64)
    pages = inputs["block_table"][row, : -(-count // page_size)].to("cpu", torch.int64)
    return pages[token // page_size], token % page_size


def stored_keys(cache: Tensor, page: Tensor, offset: Tensor) -> Tensor:
    """Keys [n, Hkv, D] of the cache's dtype on the CPU from `cache` [NB, Hkv, D / x, page_size, x].

    Column d of a token lies at [page, head, d // x, offset, d % x].
    """
    stored = _codes(cache)
    found: Tensor = stored[page.to(cache.device), :, :, offset.to(cache.device), :]
    return found.flatten(start_dim=2).cpu().view(cache.dtype)


def stored_values(cache: Tensor, page: Tensor, offset: Tensor, *, interleaved: bool) -> Tensor:
    """Values [n, Hkv, D] of the cache's dtype on the CPU from `cache` [NB, Hkv, D, page_size].

    Column d of a token lies at [page, head, d, offset]; interleaved, in packs of p tokens, (offset // p) D p + d p + offset % p
    elements into the head's part of the page, which is dense.
    """
    stored, (_, _, width, page_size) = _codes(cache), cache.shape
    page, offset = page.to(cache.device), offset.to(cache.device)
    if not interleaved:
        return stored[page, :, :, offset].cpu().view(cache.dtype)
    pack = PACK_BYTES // cache.element_size()
    parts = stored.as_strided((*cache.shape[:2], width * page_size), (*cache.stride()[:2], 1), stored.storage_offset())
    first = (offset // pack) * (width * pack) + offset % pack
    column = torch.arange(width, device=cache.device) * pack
    found: Tensor = parts[page[:, None], :, first[:, None] + column]  # [n, D, Hkv]
    return found.transpose(1, 2).contiguous().cpu().view(cache.dtype)


def _codes(cache: Tensor) -> Tensor:
    """The cache, as bytes where it is FP8, which torch cannot index on every device."""
    return cache.view(torch.uint8) if cache.dtype in FP8_DTYPES else cache


def seen(query_positions: Tensor, key_positions: Tensor, *, window: int, causal: bool = True) -> Tensor:
    """Which keys each query may see, bool [r, n]: none behind it (`causal`), none `window` or more before it (0: any)."""
    distance = query_positions[:, None] - key_positions[None, :]
    visible = distance >= 0 if causal else torch.ones_like(distance, dtype=torch.bool)
    return visible & (distance < window) if window > 0 else visible


def alibi(slopes: Tensor, query_positions: Tensor, key_positions: Tensor) -> Tensor:
    """Bias of each logit, slope * (key - query), float64 [r, n]; `slopes`, `query_positions`: [r], `key_positions`: [n]."""
    distance = key_positions[None, :] - query_positions[:, None]
    return slopes.to("cpu", torch.float64)[:, None] * distance.to(torch.float64)


@dataclass(frozen=True, kw_only=True)
class Attended:
    """Attention of r query rows: `output` [r, D] as it is stored but for rounding, its `bound` [r, D], both float64.

    `sensitive`: whether a kernel that drops the last key that each row sees would exceed the bound somewhere.
    """

    output: Tensor
    bound: Tensor
    sensitive: bool


def attend(
    contract: Contract,
    query: Tensor,
    keys: Tensor,
    values: Tensor,
    *,
    visible: Tensor | None = None,
    bias: Tensor | None = None,
    sinks: Tensor | None = None,
) -> Attended:
    """Softmax attention of `query` [r, D] over `keys` and `values` [n, D] of one KV head, n >= 0, all float64.

    `visible` (bool [r, n], None: all): a masked key weighs nothing. `bias` [r, n] is added to the logits after sm_scale. `sinks`
    [r]: logits of one more key whose value is 0; -inf: none. A row that sees no key has output and bound 0.
    """
    output = torch.zeros((len(query), values.shape[1]), dtype=torch.float64)
    bound, sensitive = torch.zeros_like(output), False
    visible = torch.ones((len(query), len(keys)), dtype=torch.bool) if visible is None else visible
    rows = torch.nonzero(visible.any(dim=1))[:, 0]
    if not len(rows):
        return Attended(output=output, bound=bound, sensitive=False)
    logits, error = _logits(contract, query[rows], keys, bias=None if bias is None else bias[rows], visible=visible[rows])
    sink = torch.full((len(rows), 1), -math.inf, dtype=torch.float64) if sinks is None else sinks.to(torch.float64)[rows, None]
    if sinks is not None:
        logits = torch.cat([logits, sink], dim=1)
        error = torch.cat([error, torch.zeros_like(sink)], dim=1)
        values = torch.cat([values, torch.zeros_like(values[:1])])
    exact = _softmax(logits, values)
    found, _ = bounds(contract, logits, error, values, (exact, torch.logsumexp(logits, dim=1)))
    output[rows], bound[rows] = contract.kept(exact), found
    dropped = logits.clone()
    dropped[torch.arange(len(rows)), _last(visible[rows])] = -math.inf
    sensitive = bool(((contract.kept(_softmax(dropped, values)) - output[rows]).abs() > found).any())
    return Attended(output=output, bound=bound, sensitive=sensitive)


def _logits(contract: Contract, query: Tensor, keys: Tensor, *, bias: Tensor | None, visible: Tensor) -> tuple[Tensor, Tensor]:
    """Exact logits [r, n], -inf where masked, and how far a kernel's may be off."""
    logits, error = contract.logits(query, keys)
    if bias is not None:
        logits, error = contract.biased(logits, error, bias)
    return logits.masked_fill(~visible, -math.inf), error.masked_fill(~visible, 0.0)


def _softmax(logits: Tensor, values: Tensor) -> Tensor:
    """Output [r, D] before it is stored; 0 for a row of which every logit is -inf."""
    return torch.softmax(logits, dim=1).nan_to_num(nan=0.0) @ values


def _last(visible: Tensor) -> Tensor:
    """Index of the last key that each row sees; each sees one."""
    return visible.shape[1] - 1 - visible.to(torch.int8).flip(1).argmax(dim=1)
