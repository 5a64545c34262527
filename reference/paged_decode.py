"""Reference of `paged_decode`: gather a sequence's pages, float64, mask, softmax, done; and how far a correct kernel may be off.

Read `reference` first, then `paged_attention`, which has the layout of the caches and the mathematics.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from tridiff.reference.attention_bound import Contract
from tridiff.reference.paged_attention import Attended, alibi, attend, contract_of, seen, unpack


def reference(inputs: Mapping[str, Any], rounding: Mapping[str, Any]) -> dict[str, Any]:
    """Attention of one query token per sequence over its paged keys and values.

    `inputs`: the launcher's keyword arguments, see the Op; output is read for shape and dtype only. Query head h reads KV head
    h // (Hq // Hkv). No input is written; of the caches only the tokens of an answered sequence are read.
    `rounding`: that of `decode_attention`'s reference, but for `num_kv_splits`, which is 1 unless given; also `epsilon`: what the
    kernel adds to the sum by which it divides, and `smallest_block_n`.

    Returns {"outputs": {"output": (value, bound, at)}, "conclusive": bool}: value and bound, float64 [N, Hq, D] on the CPU, of
    the N rows `at` of the sequences with one query token. What has no keys is 0, with bound 0; what an FP8 output saturates has
    bound 0, too. `conclusive` is False when a kernel that drops the last key of every sequence would stay
    within the bound everywhere; a case without a sequence to answer, or with empty ones only, is conclusive: it must be exact.
    Raises KeyError for a missing argument, ValueError for a `rounding` outside what `Contract` knows, for a scale that is
    no positive number, and for queries, keys or values that are not finite.
    """
    contract = contract_of(inputs, rounding)
    starts = inputs["query_start_loc"].tolist()
    answered = [at for at in range(len(starts) - 1) if starts[at + 1] - starts[at] == 1]
    rows = torch.tensor([starts[at] for at in answered], dtype=torch.int64)
    heads, width = inputs["output"].shape[1:]
    output = torch.zeros((len(answered), heads, width), dtype=torch.float64)
    bound = torch.zeros_like(output)
    sensitive: list[bool] = []
    for row, at in enumerate(answered):
        count = int(inputs["seq_lens"][at])
        if count:
            found = _sequence(contract, inputs, rounding, at, starts[at], count)
            output[row] = torch.cat([each.output for each in found])
            bound[row] = torch.cat([each.bound for each in found])
            sensitive.extend(each.sensitive for each in found)
    index = (rows[:, None, None], torch.arange(heads)[:, None], torch.arange(width))
    return {"outputs": {"output": (output, bound, index)}, "conclusive": any(sensitive) or not sensitive}


def _sequence(
    contract: Contract, inputs: Mapping[str, Any], rounding: Mapping[str, Any], at: int, row: int, count: int
) -> list[Attended]:
    """Attention of sequence `at`, whose query is `row`, over its `count` keys: for each KV head that of its group."""
    query = _query(inputs, row)
    keys, values = unpack(inputs, rounding, at, count)
    group = query.shape[0] // keys.shape[1]
    position, positions = torch.full((group,), count - 1), torch.arange(count)
    visible = seen(position, positions, window=int(inputs["sliding_window"]))
    found = []
    for kv_head in range(keys.shape[1]):
        heads = slice(kv_head * group, (kv_head + 1) * group)
        slopes, sinks = inputs["alibi_slopes"], inputs["sinks"]
        found.append(
            attend(
                contract,
                query[heads],
                keys[:, kv_head],
                values[:, kv_head],
                visible=visible,
                bias=None if slopes is None else alibi(slopes[heads], position, positions),
                sinks=None if sinks is None else sinks[heads].to("cpu", torch.float64),
            )
        )
    return found


def _query(inputs: Mapping[str, Any], row: int) -> Tensor:
    """Query [Hq, D], float64. Raises ValueError unless all of it is finite."""
    query: Tensor = inputs["query"][row].to("cpu", torch.float64)
    if not bool(query.isfinite().all()):
        raise ValueError(f"query holds in row {row} what is no finite number: nothing can be judged")
    return query
