"""Paging: which page holds which tokens of which row, and which slots are therefore in use.

Two numberings: *logical* pages are those some row uses, 0, 1, 2, ... in row order; the *pool* is what the cache holds, and
`Paging.table` gives pool ids. A slot is a position in a logical page that some row reads; everything else stays poison.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from hypothesis import strategies as st

from tridiff.harness.api import Domain, permutation
from tridiff.strategies.draws import UNLIMITED, allowed, choose, fields
from tridiff.strategies.lengths import cdiv

PAGE_SIZES = {
    **{16: 10, 1: 3, 2: 1, 3: 3, 32: 2, 48: 2, 64: 2},
    **{480: 1, 512: 1, 544: 2, 784: 2, 1056: 1, 2048: 2, 2096: 1},
}
"""Tokens per page. 16, the usual size, is the simplest: 1 is a special case of its own, a table of tokens instead of pages."""

MODEL_PAGE_SIZES = {16: 4, 1: 1, 32: 2, 64: 2, 480: 1, 512: 1, 544: 2, 784: 1, 1056: 1, 2048: 1}
"""What serving uses; the large ones are chosen for hybrid models, whose pages must also hold a Mamba state."""

PAGE_ORDERS = {"identity": 1, "shuffled": 2}
PAGE_SHARINGS = {"none": 6, "first_page": 2, "all_pages": 1}
TABLE_TAILS = {0: 2, 1: 1, 5: 1}

SPARE_PAGES = 1
"""Pages of a shuffled pool that no row uses."""

Indices = npt.NDArray[np.int64]


def paging_fields(domain: Domain = UNLIMITED) -> st.SearchStrategy[dict[str, Any]]:
    """`page_order`, `page_sharing` and `table_tail` (unused columns of the block table), those that `domain` allows."""
    return fields(
        page_order=choose(allowed(PAGE_ORDERS, domain, "page_order")),
        page_sharing=choose(allowed(PAGE_SHARINGS, domain, "page_sharing")),
        table_tail=choose(allowed(TABLE_TAILS, domain, "table_tail")),
    )


@dataclass(frozen=True, kw_only=True, eq=False)
class Paging:
    """Where the tokens of a batch lie.

    `logical`: int64 [B, W], the logical page of each table entry, -1 past a row's last page. `pool_ids`: pool id of each
    logical page. `pool_size`: pages in the pool. `slot_page`, `slot_offset`: logical page and position in it of every slot
    in use, in order of pages. `page_size`: tokens per page.
    """

    logical: Indices
    pool_ids: Indices
    pool_size: int
    slot_page: Indices
    slot_offset: Indices
    page_size: int

    @property
    def table(self) -> Indices:
        """int64 [B, W]: pool id of each table entry, -1 past a row's last page."""
        ids = np.append(self.pool_ids, -1)
        return np.asarray(ids[self.logical])

    def slot(self, row: int, position: int) -> int:
        """Index, among the slots in use, of the token at `position` of `row`."""
        page = self.logical[row, position // self.page_size]
        return int(np.searchsorted(self.slot_page, page)) + position % self.page_size


def assign_pages(lengths: tuple[int, ...], page_size: int, *, order: str, sharing: str, seed: int) -> Paging:
    """Lay out rows of `lengths` tokens.

    `sharing`: "none"; "first_page": a common prefix, every row's first page is the same; "all_pages": every row reads the
    same pages up to its length, as the rows of one sequence do when draft tokens are verified. `order`: "identity" numbers
    pages as they are used and the pool has no other; "shuffled" permutes them, with `SPARE_PAGES` unused ones among them.
    """
    rows = np.asarray(lengths, dtype=np.int64)
    counts = -(-rows // page_size)
    logical = _logical_pages(counts, sharing)
    fills = _fills(logical, rows, page_size)
    size = max(1, fills.size) + (SPARE_PAGES if order == "shuffled" else 0)
    ids = permutation(seed, "pages", size) if order == "shuffled" else np.arange(size)
    slot_page = np.repeat(np.arange(fills.size), fills)
    return Paging(
        logical=logical,
        pool_ids=ids[: fills.size],
        pool_size=size,
        slot_page=slot_page,
        slot_offset=np.arange(slot_page.size) - np.searchsorted(slot_page, slot_page),
        page_size=page_size,
    )


def pool_size(lengths: tuple[int, ...], page_size: int) -> int:
    """Most pages that a pool for these rows can have, whatever order and sharing are drawn."""
    return max(1, sum(cdiv(length, page_size) for length in lengths)) + SPARE_PAGES


def _logical_pages(counts: Indices, sharing: str) -> Indices:
    """Logical page numbers without holes, [B, max(counts)], -1 where a row has no page."""
    shared = {"none": 0, "first_page": 1, "all_pages": int(counts.max())}[sharing]
    columns = np.arange(counts.max())
    own = np.maximum(counts - shared, 0)
    first_own = min(shared, int(counts.max())) + np.cumsum(own) - own
    pages = np.where(columns < shared, columns, first_own[:, None] + columns - shared)
    return np.where(columns < counts[:, None], pages, -1)


def _fills(logical: Indices, rows: Indices, page_size: int) -> Indices:
    """Slots in use of each logical page: as many as the longest of the rows that share it reads."""
    fills = np.zeros(logical.max(initial=-1) + 1, dtype=np.int64)
    reads = np.clip(rows[:, None] - np.arange(logical.shape[1]) * page_size, 0, page_size)
    np.maximum.at(fills, logical[logical >= 0], reads[logical >= 0])
    return fills
