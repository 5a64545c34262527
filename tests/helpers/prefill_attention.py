"""Launcher arguments of prefix_prefill for tests of its reference, and attention under a mask, one query and one head at a time."""

from __future__ import annotations

import math
from typing import Any

import torch
from paged_attention_inputs import Sequence_, inputs_of
from torch import Tensor


def prefill_inputs(*sequences: Sequence_, chunk: str = "rows", slots: str = "written", **changes: Any) -> dict[str, Any]:
    """Arguments for `sequences`, each of whose queries are its last tokens.

    `chunk`: "rows" of key and value, or the "cache" alone. `slots`: what the caches hold of a chunk in rows: "written" or "poison".
    `changes`: of other arguments.
    """
    inputs = inputs_of(*sequences)
    rows = {"key": None, "value": None}
    if chunk == "rows":
        rows = {name: torch.cat([each[at][-len(each[0]) :] for each in sequences]) for at, name in ((1, "key"), (2, "value"))}
    if slots == "poison":
        poisoned = inputs_of(*(without_chunk(each) for each in sequences))
        inputs |= {name: poisoned[name] for name in ("key_cache", "value_cache")}
    longest = max(len(query) for query, _, _ in sequences)
    return {**inputs, **rows, "max_query_len": longest, "causal": True, "skip_decode": False, **changes}


def without_chunk(whole: Sequence_) -> Sequence_:
    """The same sequence with NaN for the keys and values of its chunk."""
    query, keys, values = (each.clone() for each in whole)
    keys[-len(query) :], values[-len(query) :] = math.nan, math.nan
    return query, keys, values


def mask(queries: int, keys: int, *, causal: bool = True, window: int = 0) -> Tensor:
    """Which of `keys` each of the last `queries` tokens sees, bool [queries, keys], pair by pair."""
    found = torch.zeros((queries, keys), dtype=torch.bool)
    for row in range(queries):
        position = keys - queries + row
        for key in range(keys):
            behind, left = key > position, window > 0 and position - key >= window
            found[row, key] = not (causal and behind) and not left
    return found


def masked(
    whole: Sequence_, visible: Tensor | None = None, *, slopes: Tensor | None = None, sinks: Tensor | None = None, shift: int = 0
) -> Tensor:
    """Float64 attention [queries, Hq, D]; `visible`: see `mask`, causal by default. `shift`: of the queries' positions in alibi."""
    query, keys, values = (each.double() for each in whole)
    count, group = len(keys), query.shape[1] // keys.shape[1]
    visible = mask(len(query), count) if visible is None else visible
    result = torch.zeros_like(query)
    for row, head in torch.cartesian_prod(torch.arange(len(query)), torch.arange(query.shape[1])).tolist():
        logits = keys[:, head // group] @ query[row, head] / math.sqrt(query.shape[2])
        if slopes is not None:
            logits = logits + slopes[head].double() * (torch.arange(count) - (count - len(query) + row + shift))
        weights = logits.exp() * visible[row]
        total = weights.sum() + (0.0 if sinks is None else sinks[head].double().exp())
        result[row, head] = weights @ values[:, head // group] / total
    return result
