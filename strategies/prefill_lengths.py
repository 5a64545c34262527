"""Lengths of prefill batches: contexts around pages and tiles, chunks of one query, of a few, and around the tiles of queries."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from hypothesis import strategies as st

from tridiff.harness.api import Domain, integers
from tridiff.strategies.draws import Weights, allowed, choose, evenly
from tridiff.strategies.lengths import cdiv, more, simplicity

NUM_SEQUENCES = {1: 5, 2: 4, 3: 3, 4: 2, 5: 1}

_SHORT = 40
_FEW = evenly(range(2, _SHORT + 1)) | {2: 4, 3: 3, 5: 2, 15: 2, 16: 2, 17: 2, 31: 2, 32: 2, 33: 2}
_TILES = {63: 2, 64: 2, 65: 2, 127: 1, 128: 1, 129: 1, 130: 1}
QUERY_LENS = {1: 14, 0: 4} | dict(sorted((_FEW | _TILES).items()))
"""Queries of a sequence; below 130 few tiles of 128 are full, and all of them cost as much as if they were."""

MIXED_QUERY_LENS = QUERY_LENS | {1: 116}
"""The same with about 60 % of sequences that decode."""

_CONTEXTS = evenly(range(41)) | {0: 6, 1: 3, 31: 2, 32: 2, 33: 2} | {127: 2, 128: 2, 129: 2}
_PAGE_WEIGHT = 5
_SAMPLES = 12
_LONGEST_SAMPLE = 400

_LENGTHS = frozenset({"query_lens", "context_lens", "seq_lens"})

EMPTY = -1
"""The context of a sequence of one query whose seq_len is 0: padding of a batch of decodes."""

Cost = Callable[[int, int], int]
"""(context, queries) -> multiply-adds."""


@functools.lru_cache(maxsize=256)
def context_weights(page_size: int, sequence: int, *, empty: bool = False) -> dict[int, int]:
    """All contexts on offer, simplest first: short ones, some up to 400, and more often those around one page and around two.

    `sequence`: its number, so that no two draw from equal choices, see `draws`. `empty`: also no token at all, see `EMPTY`.
    """
    sample = integers(0, f"contexts/{page_size}", _SAMPLES, _LONGEST_SAMPLE)
    weights = evenly(int(length) for length in sample) | _CONTEXTS
    weights |= {length: _PAGE_WEIGHT for pages in (1, 2) for length in range(pages * page_size - 1, pages * page_size + 2)}
    weights[0] += sequence
    ordered = {length: weights[length] for length in sorted(weights)}
    return ordered | {EMPTY: 3} if empty else ordered


@st.composite
def lengths(
    draw: st.DrawFn,
    page_size: int,
    queries: Weights[int],
    *,
    cost: Cost,
    most: int,
    pages: int,
    domain: Domain,
    empty: bool = False,
) -> dict[str, Any]:
    """`query_lens` and `seq_lens` of one to five sequences, which together cost at most `most` and need `pages` at most.

    The shortest sequence that `domain` allows must fit. Sequences that no longer fit are left out. `empty`: also those of no
    token. Simplest: one sequence of one query without context.
    """
    offer = _Offer(page_size=page_size, cost=cost, most=most, pages=pages, domain=domain)
    drawn = []
    for number in range(max(NUM_SEQUENCES)):
        contexts = context_weights(page_size, number, empty=empty)
        weights = offer.queries({**queries, 1: queries[1] + number}, contexts)
        query = draw(choose(weights))
        drawn.append((draw(choose(offer.contexts(contexts, query))), query))
        if not draw(more(NUM_SEQUENCES, number + 1)):
            break
    kept = list(_fitting(drawn, page_size, cost, most, pages))
    return {
        "query_lens": tuple(queries for _, queries in kept),
        "seq_lens": tuple(context + queries for context, queries in kept),
    }


@dataclass(frozen=True, kw_only=True)
class _Offer:
    """What one sequence may be, alone in its batch; arguments of `lengths`."""

    page_size: int
    cost: Cost
    most: int
    pages: int
    domain: Domain

    def queries(self, weights: Weights[int], contexts: Weights[int]) -> dict[int, int]:
        """Those of `weights` beside which there is a context."""
        inside = _ordered(weights, self.domain, "query_lens")
        if not _LENGTHS & self.domain.limits.keys():  # then the shortest context fits, or none does
            return {query: weight for query, weight in inside.items() if self._fits(0, query)}
        return {query: weight for query, weight in inside.items() if self.contexts(contexts, query)}

    def contexts(self, weights: Weights[int], query: int) -> dict[int, int]:
        """Those of `weights` that go with so many queries, and those besides that the allowed `seq_lens` leave."""
        named: Weights[int] = allowed({}, self.domain, "seq_lens") if "seq_lens" in self.domain.limits else {}
        others = {keys - query: 1 for keys in named if keys >= query and keys - query not in weights}
        inside = _ordered({**weights, **others}, self.domain, "context_lens")
        return {context: weight for context, weight in inside.items() if self._fits(context, query)}

    def _fits(self, context: int, query: int) -> bool:
        if context == EMPTY and query != 1:
            return False
        fits = self.cost(context, query) <= self.most and cdiv(context + query, self.page_size) <= self.pages
        return fits and self.domain.allows("seq_lens", context + query)


def _ordered(weights: Mapping[int, int], domain: Domain, facet: str) -> Weights[int]:
    """What the domain allows, simplest first: one query before none, no context before one of no token."""
    if facet not in domain.limits:
        return weights
    inside = allowed(weights, domain, facet)
    key = simplicity if facet == "query_lens" else lambda context: (context < 0, context)
    return {length: inside[length] for length in sorted(inside, key=key)}


def _fitting(drawn: Sequence[tuple[int, int]], page_size: int, cost: Cost, most: int, pages: int) -> Iterable[tuple[int, int]]:
    """Those of the sequences for which there is room, one after the other; the first one has it."""
    for context, query in drawn:
        needed = cdiv(context + query, page_size)
        if cost(context, query) <= most and needed <= pages:
            most, pages = most - cost(context, query), pages - needed
            yield context, query
