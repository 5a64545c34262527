"""Slots instead of pages: what the adapter of SGLang makes of a block table and of a cache."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tridiff.adapters.slots import slot_cache, slots


@given(
    lengths=st.lists(st.integers(0, 40), min_size=1, max_size=5),
    page_size=st.integers(1, 17),
    dtype=st.sampled_from([torch.int32, torch.int64]),
    seed=st.integers(0, 99),
)
def test_slots(lengths: list[int], page_size: int, dtype: torch.dtype, seed: int) -> None:
    """Every token of every row in turn: its page's number times the page size, plus its place; unused entries are not read."""
    width = -(-max(lengths) // page_size) + 1
    random = torch.Generator().manual_seed(seed)
    table = torch.randint(0, 2**20, (len(lengths), 2 * width), generator=random, dtype=torch.int32)[:, ::2]
    for row, length in enumerate(lengths):
        table[row, -(-length // page_size) :] = -(2**31)

    kv_indptr, kv_indices = slots(table, torch.tensor(lengths, dtype=dtype), page_size)

    expected = [
        int(table[row, token // page_size]) * page_size + token % page_size
        for row, length in enumerate(lengths)
        for token in range(length)
    ]
    assert (kv_indptr.dtype, kv_indices.dtype) == (torch.int32, torch.int64)
    assert kv_indices.tolist() == expected
    assert kv_indptr.tolist() == [sum(lengths[:row]) for row in range(len(lengths) + 1)]


def test_slots_are_made_where_the_table_is() -> None:
    """Whatever the default device, which stands for that of another GPU here."""
    table, lengths = torch.tensor([[3, 1]], dtype=torch.int32), torch.tensor([5])

    with torch.device("meta"):
        kv_indptr, kv_indices = slots(table, lengths, 4)

    assert (kv_indptr.tolist(), kv_indices.tolist()) == ([0, 5], [12, 13, 14, 15, 4])


def test_slots_beyond_32_bits() -> None:
    """A page's number times the page size does not wrap."""
    table = torch.tensor([[2**30]], dtype=torch.int32)

    _, kv_indices = slots(table, torch.tensor([16], dtype=torch.int32), 16)

    assert kv_indices[-1] == 2**34 + 15


@pytest.mark.parametrize("gap", [0, 3])
def test_slot_cache(gap: int) -> None:
    """Slot p * page_size + i is token i of page p, in the same memory, with gaps too."""
    storage = torch.arange(1000)
    token = 2 * 5 + gap
    cache = storage.as_strided((4, 3, 2, 5), (3 * token, token, 5, 1), storage_offset=7)

    view = slot_cache(cache, 3)

    assert view.data_ptr() == cache.data_ptr()
    assert torch.equal(view.unflatten(0, (4, 3)), cache)


def test_flat_cache() -> None:
    """What is [slots, heads, width] already stays as it is."""
    cache = torch.zeros(12, 2, 5)

    assert slot_cache(cache, 3) is cache


def test_gaps_between_pages() -> None:
    """They are refused: slots would not lie at one distance from each other."""
    cache = torch.zeros(4, 35)[:, :30].unflatten(1, (3, 2, 5))

    with pytest.raises(ValueError, match="a page begins every 35 elements, a token every 10"):
        slot_cache(cache, 3)
