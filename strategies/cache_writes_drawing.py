"""Strategies of what all cache writers have in common: what is written where, and how it lies.

Fields are drawn such that each choice leaves something for those that follow: nothing is drawn and then thrown away.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from hypothesis import strategies as st

from tridiff.harness.api import Domain
from tridiff.strategies import kv_caches, layouts
from tridiff.strategies.cache_writes import (
    FAR,
    FEWEST_FAR,
    FIRST_PAGES,
    NEGATIVE_SLOTS,
    NEGATIVES,
    PLACINGS,
    ROW_LAYOUTS,
    SLOT_ORDERS,
    negative_kinds,
)
from tridiff.strategies.cache_writes_dims import affordable
from tridiff.strategies.draws import UNLIMITED, Weights, allowed, choose
from tridiff.strategies.kv_caches import PAGE_SIZES, KVCache

NUM_TOKENS = {1: 6, 2: 5, 3: 4, 4: 2, 5: 2, 7: 2, 8: 1, 12: 2, 17: 1, 0: 2}
PADDING_ROWS = {0: 6, 1: 2, 3: 1, 8: 1}
SLOT_DTYPE_WEIGHTS = {"int64": 3, "int32": 1}

ROW_STRIDES = ("dense", "own")
"""Whether heads are dense in a token, or have a stride of their own: values of the facet `row_strides`."""

MOST_FAR_POSITIONS = 64
"""Tokens of a page whose positions lie far apart: each is a stretch of memory of its own."""

_LEAST_TOKENS = {"none": 0, "all": 1, "head": 2, "tail": 2, "middle": 3, "scattered": 2}
"""What is drawn: of fewer tokens, which are legal, all are negative."""

_INDEPENDENT: Mapping[str, Weights[Any]] = {"slot_order": SLOT_ORDERS, "first_page": FIRST_PAGES}
"""Fields of which any allowed value will do."""


class Writes:
    """What a domain leaves of the fields that say what is written where.

    `page_sizes`: those on offer. `far`: what may lie far away, of which there is left what the shape allows as well.
    """

    def __init__(self, domain: Domain = UNLIMITED, page_sizes: Weights[int] = PAGE_SIZES, far: Weights[str] = FAR) -> None:
        self.others = {name: allowed(weights, domain, name) for name, weights in _INDEPENDENT.items()}
        self.slot_dtypes = allowed(SLOT_DTYPE_WEIGHTS, domain, "slot_dtype")
        self.page_sizes = allowed(page_sizes, domain, "page_size")
        self.placings = allowed(PLACINGS, domain, "placing")
        self.counts = allowed(NUM_TOKENS, domain, "num_tokens")
        self.padding = allowed(PADDING_ROWS, domain, "padding_rows")
        self.negative_slots = {
            slot: weight for slot, weight in NEGATIVE_SLOTS.items() if domain.allows("negative_slots", *negative_kinds(slot))
        }
        kinds = allowed(NEGATIVES, domain, "negatives")
        self.negatives = {kind: weight for kind, weight in kinds.items() if kind == "none" or self.negative_slots}
        self.far = {each: weight for each, weight in allowed(far, domain, "far").items() if self._leaves(each)}

    @property
    def is_empty(self) -> bool:
        """Whether the domain leaves nothing."""
        return not all((*self.others.values(), self.slot_dtypes, self.page_sizes, self.placings, self.padding, self.far))

    def _leaves(self, far: str) -> bool:
        """Whether something is left where `far` is what lies far away."""
        if far == "positions" and max(self.page_sizes, default=0) < FEWEST_FAR:
            return False
        if far == "tokens" and 0 not in self.padding:
            return False
        return any(self.suits(count, kind, far) for count in self.counts for kind in self.negatives)

    @staticmethod
    def suits(count: int, negatives: str, far: str) -> bool:
        """Whether of `count` tokens those can be negative, and all lie so: of far tokens the last one is written."""
        if far == "tokens" and (count < FEWEST_FAR or negatives in {"all", "tail"}):
            return False
        return count >= _LEAST_TOKENS[negatives]


@st.composite
def write_fields(draw: st.DrawFn, writes: Writes) -> dict[str, Any]:
    """The fields of a `WriterCase` that say what is written where; simplest: one token, slot 16 of pages of 16.

    Page sizes are drawn before the shape, which must leave room for them: `pool_size` says for how many pages.
    """
    far = draw(choose(writes.far))
    negatives = draw(choose(writes.negatives, lambda kind: any(writes.suits(count, kind, far) for count in writes.counts)))
    drawn: dict[str, Any] = {"far": far, "negatives": negatives}
    if negatives != "none":
        drawn["negative_slot"] = draw(choose(writes.negative_slots))
    return drawn | {
        "page_size": draw(choose(writes.page_sizes, _page_sizes_fit(writes, far))),
        "num_tokens": draw(choose(writes.counts, lambda count: writes.suits(count, negatives, far))),
        "placing": draw(choose(writes.placings, _placings_fit(writes, far))),
        "padding_rows": draw(choose(writes.padding, (lambda rows: rows == 0) if far == "tokens" else None)),
        **{name: draw(choose(weights)) for name, weights in writes.others.items()},
        "slot_dtype": draw(choose(also("int32", writes.slot_dtypes) if far == "pages" else writes.slot_dtypes)),
    }


def _placings_fit(writes: Writes, far: str) -> Callable[[str], bool] | None:
    """Where positions lie far apart, the last one of a page should be written."""
    last = {"straddle", "edges"} & set(writes.placings)
    return last.__contains__ if far == "positions" and last else None


def _page_sizes_fit(writes: Writes, far: str) -> Callable[[int], bool] | None:
    if far != "positions":
        return None
    suit = [size for size in writes.page_sizes if size >= FEWEST_FAR]
    most = max(MOST_FAR_POSITIONS, min(suit))
    return lambda size: FEWEST_FAR <= size <= most


def row_strides_of(layout: str) -> str:
    """Which of `ROW_STRIDES`."""
    return ROW_STRIDES[layout == "padded_heads"]


def allowed_rows(domain: Domain, name: str, weights: Weights[str] = ROW_LAYOUTS) -> Weights[str]:
    """Those of `weights` that `domain` allows for the facets `name` and `row_strides`."""
    found = allowed(weights, domain, name)
    return {layout: weight for layout, weight in found.items() if domain.allows("row_strides", row_strides_of(layout))}


@st.composite
def row_fields(draw: st.DrawFn, offered: Mapping[str, Weights[str]]) -> dict[str, str]:
    """Layouts of two tensors' rows, by field. The second one often has the first one's, as in production."""
    (name, weights), (other, beside) = offered.items()
    first = draw(choose(weights))
    return {name: first, other: draw(choose(also(first, beside)))}


def also(value: str, weights: Weights[str]) -> Weights[str]:
    """`weights`, of which `value`, where it is one of them, comes in about half of the cases."""
    return {**weights, value: sum(weights.values())} if value in weights else weights


class JointLayouts:
    """What a domain leaves of the layout of a single cache, whose pages have one of `orders`, and of the rows of two tensors.

    `rows`: by the field of each tensor, the layouts on offer. `cache_of`: (fields) -> the cache.
    """

    def __init__(
        self,
        domain: Domain,
        orders: Weights[str],
        rows: Mapping[str, Weights[str]],
        cache_of: Callable[[Mapping[str, Any]], KVCache],
    ) -> None:
        self.gaps = allowed(layouts.GAPS, domain, "gap")
        self.orders = allowed(orders, domain, "order")
        self.pages = allowed(kv_caches.PAGES, domain, "pages")
        self.rows = {name: allowed_rows(domain, name, weights) for name, weights in rows.items()}
        self.cache_of = cache_of

    @property
    def is_empty(self) -> bool:
        """Whether there are none."""
        return not all((self.gaps, self.orders, self.pages, *self.rows.values()))


@st.composite
def joint_layout_fields(draw: st.DrawFn, offered: JointLayouts, drawn: Mapping[str, Any], page: int, most: int) -> dict[str, Any]:
    """`gap`, `order` and `pages` of the cache and the layouts of the rows, of `most` bytes at most, or of the fewest.

    `page`: bytes of an element in all pages.
    """
    found = {"gap": draw(choose(offered.gaps))}

    def cost(order: str, pages: str) -> int:
        return page * offered.cache_of({**drawn, **found, "order": order, "pages": pages}).page_stride

    def least(order: str) -> int:
        return min(cost(order, pages) for pages in offered.pages)

    order = draw(choose(offered.orders, affordable(offered.orders, least, most)))
    return {
        **found,
        "order": order,
        "pages": draw(choose(offered.pages, affordable(offered.pages, lambda pages: cost(order, pages), most))),
        **draw(row_fields(offered.rows)),
    }
