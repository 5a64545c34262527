"""Slots: a paged cache addressed token by token, as SGLang's pools are: a slot is page * page_size + place within the page."""

from __future__ import annotations

import torch


def slot_cache(cache: torch.Tensor, page_size: int) -> torch.Tensor:
    """A view [slots, heads, width] of a cache [pages, page_size, heads, width], or of one that is 3-D already.

    Raises ValueError where pages have gaps of their own, so that slots do not lie at one distance from each other.
    """
    if cache.dim() == 3:
        return cache
    page, *strides = cache.stride()
    if cache.shape[0] > 1 and page != page_size * strides[0]:
        raise ValueError(
            f"a page begins every {page} elements, a token every {strides[0]}: slots need {page_size} tokens a page, without gaps"
        )
    return cache.as_strided((cache.shape[0] * page_size, *cache.shape[2:]), strides)


def slots(block_table: torch.Tensor, seq_lens: torch.Tensor, page_size: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Where the tokens of each row lie: `kv_indptr` int32 [rows + 1] and `kv_indices` int64 [tokens of all rows].

    The slots of row b are kv_indices[kv_indptr[b] : kv_indptr[b + 1]]. Of the table only entries that hold a token are read.
    """
    lengths = seq_lens.to(torch.int64)
    kv_indptr = torch.nn.functional.pad(torch.cumsum(lengths, dim=0), (1, 0))
    row = torch.repeat_interleave(torch.arange(len(lengths), device=lengths.device), lengths)
    token = torch.arange(len(row), device=row.device) - kv_indptr[row]
    page = block_table[row, token // page_size].to(torch.int64)
    return kv_indptr.to(torch.int32), page * page_size + token % page_size
