"""Sequence lengths: mostly just below, at and just above the multiples at which kernels change their course."""

from __future__ import annotations

import functools
from collections.abc import Iterable, Sequence

from hypothesis import strategies as st

from tridiff.harness.api import Domain, integers
from tridiff.strategies.draws import UNLIMITED, Weights, allowed, choose, evenly, least_of

TILE_SIZES = (8, 16, 32, 64)
"""Keys per tile of the kernels we know; a kernel's own figure is no part of a contract, so all of them are tried."""

NUM_ROWS = {1: 4, 2: 3, 3: 2, 4: 1, 5: 2}
MAX_RANDOM = 700
"""Longest length that is drawn although it lies at no boundary."""

_ALL_UP_TO = 66
_SAMPLES = 40
_BOUNDARY_WEIGHT = 3
_PAGE_WEIGHT = 8
_ZERO_WEIGHT = 12


def cdiv(dividend: int, divisor: int) -> int:
    """Quotient rounded up."""
    return -(-dividend // divisor)


def more(counts: Weights[int], drawn: int) -> st.SearchStrategy[bool]:
    """Whether another sequence follows those `drawn`, asked after each, so that as many come together as `counts` weigh.

    A count drawn at first could only take away the last ones; like this, any of them can be left out when a case is made simpler,
    with the answer behind it. So it is asked after the last one as well.
    """
    further = sum(weight for count, weight in counts.items() if count > drawn)
    return choose({False: counts[drawn], True: further} if further else {False: 1})


def boundaries(page_size: int, num_kv_splits: int) -> frozenset[int]:
    """Lengths 1 and 2, and b - 1, b, b + 1 for multiples b of pages, splits and tiles."""
    tiles = {count * tile for tile in TILE_SIZES for count in (1, 2, 3)}
    around = {page_size, 2 * page_size, num_kv_splits, 2 * num_kv_splits, 16 * num_kv_splits, *tiles}
    return frozenset(length + delta for length in around for delta in (-1, 0, 1) if length + delta > 0) | {1, 2}


def simplicity(length: int) -> int:
    """Position of a length among 1, 0, 2, 3, 4, ...: one key is simpler than none."""
    return {1: 0, 0: 1}.get(length, length)


@functools.lru_cache(maxsize=256)
def length_weights(page_size: int, num_kv_splits: int) -> dict[int, int]:
    """All lengths on offer, simplest first, with their weights.

    Short lengths all, a sample of those up to 700 that differs from one page size or split count to the next, boundaries
    more often, and 0 in about every 20th row. One list, so that a length shrinks through all the lengths below it.
    """
    weights = evenly(range(_ALL_UP_TO + 1))
    sample = integers(0, f"lengths/{page_size}/{num_kv_splits}", _SAMPLES, MAX_RANDOM - _ALL_UP_TO)
    weights |= evenly(int(length) + _ALL_UP_TO + 1 for length in sample)
    weights |= dict.fromkeys(boundaries(page_size, num_kv_splits), _BOUNDARY_WEIGHT)
    weights |= dict.fromkeys((page_size - 1, page_size, page_size + 1), _PAGE_WEIGHT)
    weights[0] = _ZERO_WEIGHT
    return {length: weights[length] for length in sorted(weights, key=simplicity)}


@st.composite
def seq_lens(
    draw: st.DrawFn, page_size: int, num_kv_splits: int, *, tokens: int, pages: int, domain: Domain = UNLIMITED
) -> tuple[int, ...]:
    """Lengths of one to five rows, which together have at most `tokens` (>= 1) keys on at most `pages` (>= 1) pages.

    `domain`: what it allows for the facet `seq_lens`, `least` of which must fit. Rows that no longer fit are left out. Simplest:
    one row of length 1.
    """
    longest = min(tokens, pages * page_size)
    rows = range(draw(choose(NUM_ROWS)))
    if "seq_lens" not in domain.limits:
        drawn = [draw(_row(page_size, num_kv_splits, longest, row)) for row in rows]
    else:
        weights = [_allowed_lengths(_row_weights(page_size, num_kv_splits, row), domain) for row in rows]
        drawn = [draw(choose(each, lambda length: length <= longest)) for each in weights]
    return tuple(_fitting(drawn, page_size, tokens, pages))


def least(domain: Domain) -> int:
    """The smallest length of a row that `domain` allows."""
    return int(least_of(domain.limits.get("seq_lens", (0,))))


def _allowed_lengths(weights: Weights[int], domain: Domain) -> Weights[int]:
    inside = allowed(weights, domain, "seq_lens")
    return {length: inside[length] for length in sorted(inside, key=simplicity)}


@functools.lru_cache(maxsize=1024)
def _row(page_size: int, num_kv_splits: int, longest: int, row: int) -> st.SearchStrategy[int]:
    """Choose a length of at most `longest` (>= 1) for one row.

    Length 1 weighs more from row to row, so that no two rows draw from equal choices: see `draws`.
    """
    return choose(_row_weights(page_size, num_kv_splits, row), lambda length: length <= longest)


def _row_weights(page_size: int, num_kv_splits: int, row: int) -> dict[int, int]:
    weights = length_weights(page_size, num_kv_splits)
    return weights | {1: weights[1] + row}


def _fitting(lengths: Sequence[int], page_size: int, tokens: int, pages: int) -> Iterable[int]:
    for length in lengths:
        needed = cdiv(length, page_size)
        if length <= tokens and needed <= pages:
            tokens, pages = tokens - length, pages - needed
            yield length
