"""The inputs of `prefix_prefill` and `chunked_prefill_paged_decode`: every tensor of a Case, with its values."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import numpy.typing as npt
import torch

from tridiff.harness.api import Arena, Inputs
from tridiff.strategies.paged_readers_inputs import Tokens, batch_inputs, cache_inputs, row_tensor, rows_of, tokens
from tridiff.strategies.paging import Paging
from tridiff.strategies.prefill_case import PrefillCase


def build(case: PrefillCase, arena: Arena) -> Inputs:
    """Arguments that both launchers have; deterministic bit for bit.

    Only what some query needs holds values: context and chunk of the sequences that are answered. All else is poison, but for the
    slots of a chunk that was written. Raises `StagingError` when the machine has no address space for far pages.
    """
    batch = tokens(case)
    answered = [at for at in range(len(case.query_lens)) if case.is_answered(at)]
    return {
        **batch_inputs(case, arena, rows_of(case, answered)),
        **_chunk(case, arena, batch, answered),
        **cache_inputs(case, arena, _cached(case, batch)),
        "max_query_len": case.max_query_len,
        "causal": case.causal,
    }


def _chunk(case: PrefillCase, arena: Arena, batch: Tokens, answered: list[int]) -> Inputs:
    """`key` and `value` [T, Hkv, D], or None for both."""
    if case.chunk == "cache":
        return {"key": None, "value": None}
    chunks = [at for at in answered if case.seq_lens[at] and not (case.chunk_slots == "poison" and case.decodes(at))]
    rows = torch.tensor(rows_of(case, chunks), dtype=torch.int64)
    slots = [_slots(batch.pages, at, case.context_lens[at], case.seq_lens[at]) for at in chunks]
    found = torch.from_numpy(np.concatenate([*slots, np.empty(0, dtype=np.int64)]))
    return {
        "key": row_tensor(case, arena, "key", batch.keys[found], rows, layout=case.chunk_layout),
        "value": row_tensor(case, arena, "value", batch.values[found], rows, layout=case.chunk_value_layout),
    }


def _cached(case: PrefillCase, batch: Tokens) -> Tokens:
    """Those of the tokens that the caches hold."""
    held = np.zeros(batch.slots, dtype=bool)
    for at, (context, keys) in enumerate(zip(case.context_lens, case.seq_lens, strict=True)):
        with_chunk = case.chunk == "cache" or case.chunk_slots == "written" or case.decodes(at)
        if case.is_answered(at):
            held[_slots(batch.pages, at, 0, keys if with_chunk else context)] = True
    pages, kept = batch.pages, torch.from_numpy(held)
    return Tokens(
        pages=replace(pages, slot_page=pages.slot_page[held], slot_offset=pages.slot_offset[held]),
        keys=batch.keys[: batch.slots][kept],
        values=batch.values[: batch.slots][kept],
    )


def _slots(pages: Paging, sequence: int, start: int, stop: int) -> npt.NDArray[np.int64]:
    """Index, among the slots in use, of the tokens of `sequence` from position `start` to `stop`."""
    position = np.arange(max(0, start), stop)
    page = pages.logical[sequence, position // pages.page_size]
    return np.asarray(np.searchsorted(pages.slot_page, page) + position % pages.page_size)
