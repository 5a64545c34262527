"""Reference of `prefix_prefill`: attention of the chunk of each sequence over its context in the cache and over itself.

Read `reference` first, then `attended` (one sequence). Caches are unpacked and softmax is done in `paged_attention`, how far a
correct kernel may be off is told in `attention_bound`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from tridiff.reference.attention_bound import FP8_DTYPES, Contract
from tridiff.reference.paged_attention import Attended, alibi, attend, contract_of, seen, unpack


def reference(inputs: Mapping[str, Any], rounding: Mapping[str, Any]) -> dict[str, Any]:
    """Attention of every query of a chunk over the context of its sequence and over the chunk.

    `inputs`: the launcher's keyword arguments, see `strategies.prefix_prefill`; output is read for shape and dtype only. Row i of
    sequence b, whose rows are query_start_loc[b] to query_start_loc[b + 1], has position ctx + i, where ctx = seq_lens[b] - its
    queries. Keys below ctx come from the caches, dequantised; those of the chunk are the rows of key and value as they are, or,
    without these, come from the caches as well. `causal`: no key behind the query; `sliding_window` W > 0: none W or more before
    it. `alibi_slopes`: slope * (key position - query position) is added to the logits; `sinks`: logits of one more key whose
    value is 0. With `skip_decode` sequences of one query are left out.
    `rounding`: as `reference.decode_attention` has it, without `num_kv_splits`; optionally `smallest_block_n` and `epsilon`, see
    `attention_bound.Contract`.

    Returns {"outputs": {"output": (value, bound, at)}, "conclusive": bool}: of the rows that are to be written, [rows, Hq, D].
    `conclusive` is False when a kernel that drops the last key that each query sees would stay within the bound everywhere.
    Raises KeyError for a missing argument, ValueError for a `rounding` outside what `Contract` knows, for a scale that is not a
    positive number, and for queries, keys or values that are not finite.
    """
    chosen = [each for each in sequences(inputs) if each.count > 1 or (each.count == 1 and not inputs["skip_decode"])]
    return judged(inputs, rounding, chosen, chunk_in_rows=lambda _: True)


@dataclass(frozen=True, kw_only=True)
class Sequence:
    """Sequence `index`: its queries are the rows from `start`, `count` of them; `length` keys, those of the chunk included."""

    index: int
    start: int
    count: int
    length: int

    @property
    def rows(self) -> slice:
        """Rows of query, output, and of the chunk's keys and values."""
        return slice(self.start, self.start + self.count)


def sequences(inputs: Mapping[str, Any]) -> Iterator[Sequence]:
    """All sequences of the batch, those without queries included."""
    starts, lengths = inputs["query_start_loc"].tolist(), inputs["seq_lens"].tolist()
    for index, ((start, stop), length) in enumerate(zip(pairwise(starts), lengths, strict=True)):
        yield Sequence(index=index, start=start, count=stop - start, length=length)


def judged(
    inputs: Mapping[str, Any],
    rounding: Mapping[str, Any],
    chosen: list[Sequence],
    *,
    chunk_in_rows: Callable[[Sequence], bool],
) -> dict[str, Any]:
    """What `reference` returns, for the rows of the `chosen` sequences.

    `chunk_in_rows`: of which of them the chunk's keys are taken from the rows of key and value, where these are given.
    """
    contract = contract_of(inputs, rounding)
    _, heads, width = inputs["output"].shape
    count = sum(each.count for each in chosen)
    value = torch.zeros((count, heads, width), dtype=torch.float64)
    bound, row, sensitive = torch.zeros_like(value), 0, []
    for each in chosen:
        in_rows = inputs["key"] is not None and chunk_in_rows(each)
        keys, values = operands(inputs, rounding, each, chunk_in_rows=in_rows)
        for head, found in enumerate(attended(contract, inputs, each, keys, values)):
            group = heads // keys.shape[1]
            part = (slice(row, row + each.count), slice(head * group, (head + 1) * group))
            value[part] = found.output.view(each.count, group, width)
            bound[part] = found.bound.view(each.count, group, width)
            sensitive += [found.sensitive] if each.length else []  # without keys there is none to drop, and the bound is 0
        row += each.count
    rows = torch.cat([torch.arange(each.rows.start, each.rows.stop) for each in chosen] or [torch.arange(0)])
    at = (rows[:, None, None], torch.arange(heads)[None, :, None], torch.arange(width)[None, None, :])
    return {"outputs": {"output": (value, bound, at)}, "conclusive": any(sensitive) or not sensitive}


def operands(
    inputs: Mapping[str, Any], rounding: Mapping[str, Any], sequence: Sequence, *, chunk_in_rows: bool
) -> tuple[Tensor, Tensor]:
    """Keys and values [length, Hkv, D] of a sequence as a kernel multiplies them, in the order of positions, float64."""
    if not chunk_in_rows:
        return unpack(inputs, rounding, sequence.index, sequence.length)
    if rounding.get("dequantised") == "folded" and inputs["key_cache"].dtype in FP8_DTYPES:
        raise ValueError("rounding['dequantised'] is 'folded': keys of the chunk have no scale that could be folded")
    context = unpack(inputs, rounding, sequence.index, sequence.length - sequence.count)
    chunk = (_finite(inputs, name, sequence.rows) for name in ("key", "value"))
    keys, values = (torch.cat(parts) for parts in zip(context, chunk, strict=True))
    return keys, values


def attended(
    contract: Contract, inputs: Mapping[str, Any], sequence: Sequence, keys: Tensor, values: Tensor
) -> Iterator[Attended]:
    """Attention of a sequence's queries over its `keys` and `values` [length, Hkv, D], for each KV head in turn.

    Rows of what is yielded: every query in turn, with all query heads of the group.
    """
    query = _finite(inputs, "query", sequence.rows)
    group = query.shape[1] // keys.shape[1]
    key_positions = torch.arange(sequence.length)
    positions = torch.arange(sequence.length - sequence.count, sequence.length).repeat_interleave(group)
    visible = seen(positions, key_positions, window=inputs["sliding_window"], causal=inputs["causal"])
    for head in range(keys.shape[1]):
        of_group = slice(head * group, (head + 1) * group)
        slopes, sinks = (_per_row(inputs[name], of_group, sequence.count) for name in ("alibi_slopes", "sinks"))
        yield attend(
            contract,
            query[:, of_group].flatten(end_dim=1),
            keys[:, head],
            values[:, head],
            visible=visible,
            bias=None if slopes is None else alibi(slopes, positions, key_positions),
            sinks=sinks,
        )


def _per_row(numbers: Tensor | None, of_group: slice, count: int) -> Tensor | None:
    """One number per query head -> those of a group for each of `count` queries in turn, float64."""
    return None if numbers is None else numbers.to("cpu", torch.float64)[of_group].repeat(count)


def _finite(inputs: Mapping[str, Any], name: str, rows: slice) -> Tensor:
    """`rows` of a tensor, float64 on the CPU. Raises ValueError unless all of it is finite."""
    found: Tensor = inputs[name][rows].to("cpu", torch.float64)
    if not bool(found.isfinite().all()):
        raise ValueError(f"{name} holds in rows {rows.start} to {rows.stop - 1} what is no finite number: nothing can be judged")
    return found
