"""Cache writes: which slots the tokens of one call go to, and the caches that they are written into.

A *slot* is page id * page size + position in the page; of a token whose slot is negative nothing is written. What a writer may
not touch is live: the whole cache is full of known data, page 0 and slot 0 first of all, which negative slots wrongly taken for
0 would hit.

What the tokens hold is in `cache_writes_values`, what a finding says of overwritten memory in `cache_writes_victims`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import torch
from hypothesis import strategies as st

from tridiff.harness.api import Arena, Domain, Facet, integers, permutation, require, require_one_of, require_range
from tridiff.strategies.draws import UNLIMITED, Weights, allowed, choose
from tridiff.strategies.kv_caches import PAGE_SIZES
from tridiff.strategies.layouts import Placement, place, row_strides
from tridiff.strategies.lengths import cdiv
from tridiff.strategies.properties import of_block

NUM_TOKENS = {1: 6, 2: 5, 3: 4, 4: 2, 5: 2, 7: 2, 8: 1, 12: 2, 17: 1, 0: 1}
"""Entries of the slot mapping, T; none at all is a legal call."""

PADDING_ROWS = {0: 6, 1: 2, 3: 1, 8: 1}
"""Rows of the tokens' tensors behind the last one that the slot mapping names, as CUDA graphs pad them. They hold poison."""

NEGATIVES = {"none": 9, "all": 2, "head": 2, "tail": 3, "middle": 2, "scattered": 4}
"""Which tokens have a negative slot: none, all of them, the first or the last third, the one in the middle, or some."""

_LEAST_TOKENS = {"none": 0, "all": 1, "head": 2, "tail": 2, "middle": 3, "scattered": 2}
"""What is drawn: of fewer tokens, which are legal, all are negative."""

NEGATIVE_SLOTS = {"minus_one": 10, "minus_two": 2, "minus_page": 2, "minus_page_and_one": 2, "lowest": 1, "mixed": 3}
"""What these slots are: -1, -2, minus the page size, one less than that, the dtype's lowest number, or of each some."""

NEGATIVE_KINDS = tuple(kind for kind in NEGATIVE_SLOTS if kind != "mixed")
"""Values of the facet `negative_slots`."""

PLACINGS = {"run": 4, "straddle": 4, "edges": 4, "scattered": 4}
"""Where the others go. "run": consecutive slots from the first of a page, as in a prefill. "straddle": consecutive ones that end
just behind the end of a page; a single one is the last of its page. "edges": first and last slots of up to three pages.
"scattered": anywhere on up to three pages, as in a batch of decodes."""

SLOT_ORDERS = {"ascending": 2, "shuffled": 3}

FIRST_PAGES = {"spare": 3, "used": 2}
"""Whether tokens go to page 0. It is there in any case; where it is used, the last page is spare instead."""

SLOT_DTYPES = {"int64": torch.int64, "int32": torch.int32}
SLOT_DTYPE_WEIGHTS = {"int64": 3, "int32": 1}

FAR = {"none": 13, "pages": 1}
"""What lies beyond 2^31 elements, see `layouts.place`."""

ROW_LAYOUTS = {"packed": 5, "fused_qkv": 4, "padded_rows": 2, "padded_heads": 2}
"""Strides of the tokens' tensors, see `layouts.row_strides`; heads are dense in a token in all but the last."""

ROW_STRIDES = ("dense", "own")
"""Whether heads are dense in a token, or have a stride of their own: values of the facet `row_strides`."""

POOL_SLOTS = 6400
"""Slots of all pages together where more pages than the tokens need are of use: three pages of the largest size."""

_MOST_PAGES = 3

Indices = npt.NDArray[np.int64]


class WriteCase(Protocol):
    """The fields by which Cases say what is written where, and none of what it is."""

    @property
    def num_tokens(self) -> int:
        """T, see `NUM_TOKENS`."""

    @property
    def padding_rows(self) -> int:
        """See `PADDING_ROWS`."""

    @property
    def negatives(self) -> str:
        """See `NEGATIVES`."""

    @property
    def negative_slot(self) -> str:
        """See `NEGATIVE_SLOTS`."""

    @property
    def placing(self) -> str:
        """See `PLACINGS`."""

    @property
    def slot_order(self) -> str:
        """See `SLOT_ORDERS`."""

    @property
    def first_page(self) -> str:
        """See `FIRST_PAGES`."""

    @property
    def slot_dtype(self) -> str:
        """See `SLOT_DTYPES`."""

    @property
    def page_size(self) -> int:
        """Tokens per page."""

    @property
    def far(self) -> str:
        """See `FAR`."""

    @property
    def seed(self) -> int:
        """Of all that is random."""


RANGES: Mapping[str, tuple[float, float]] = {"num_tokens": (0, 4096), "padding_rows": (0, 4096), "page_size": (1, 65536)}
CHOICES: Mapping[str, Sequence[str]] = {
    "negatives": tuple(NEGATIVES),
    "negative_slot": tuple(NEGATIVE_SLOTS),
    "placing": tuple(PLACINGS),
    "slot_order": tuple(SLOT_ORDERS),
    "first_page": tuple(FIRST_PAGES),
    "slot_dtype": tuple(SLOT_DTYPES),
    "far": tuple(FAR),
}


def check_writes(case: WriteCase) -> None:
    """Raise `CaseError` for the first field that says nothing legal of what is written where."""
    for field, (low, high) in RANGES.items():
        require_range(field, getattr(case, field), low, high)
    for field, choices in CHOICES.items():
        require_one_of(field, getattr(case, field), choices)
    require(
        case.num_tokens > 0 or case.negatives == "none",
        f"negatives={case.negatives!r}: must be combined with num_tokens of at least 1, not {case.num_tokens}",
    )


def check_slots(case: WriteCase, num_pages: int) -> None:
    """Raise `CaseError` where `slot_dtype` cannot hold the last slot of a cache of `num_pages`."""
    largest = num_pages * case.page_size - 1
    require(
        largest <= torch.iinfo(SLOT_DTYPES[case.slot_dtype]).max,
        f"slot_dtype={case.slot_dtype!r}: cannot hold slot {largest}, the last one; must be 'int64'",
    )


@dataclass(frozen=True, kw_only=True, eq=False)
class Slots:
    """What is written where.

    `tokens`: those that are written, ascending; `pages`, `offsets`: the page of the pool and the position in it of each of them.
    `negative`: the slots of the other tokens, by token. `num_tokens`: T. `pool_size`: pages of the pool; see `layouts.place` for
    where they lie.
    """

    num_tokens: int
    page_size: int
    pool_size: int
    tokens: Indices
    pages: Indices
    offsets: Indices
    negative: Mapping[int, int]

    def places(self, placement: Placement) -> tuple[torch.Tensor, torch.Tensor]:
        """Page id and position of each token that is written, int64."""
        return torch.from_numpy(placement.ids(self.pages)), torch.from_numpy(self.offsets)

    def mapping(self, placement: Placement) -> torch.Tensor:
        """The slot of every token, int64 [T]."""
        slots = torch.zeros(self.num_tokens, dtype=torch.int64)
        page, offset = self.places(placement)
        slots[torch.from_numpy(self.tokens)] = page * self.page_size + offset
        for token, slot in self.negative.items():
            slots[token] = slot
        return slots


def slots_of(case: WriteCase) -> Slots:
    """Assign a slot to each token of `case`; no two tokens have one slot."""
    unwritten = negative_tokens(case.negatives, case.num_tokens, case.seed)
    tokens = np.setdiff1d(np.arange(case.num_tokens), unwritten)
    positions = _positions(case.placing, tokens.size, case.page_size, case.seed)
    if case.slot_order == "shuffled":
        positions = positions[permutation(case.seed, "slots", tokens.size)]
    spare = case.first_page == "spare"
    kinds = negative_kinds(case.negative_slot)
    return Slots(
        num_tokens=case.num_tokens,
        page_size=case.page_size,
        pool_size=pool_size(case.placing, tokens.size, case.page_size),
        tokens=tokens,
        pages=positions // case.page_size + spare,
        offsets=positions % case.page_size,
        negative={int(token): _negative(kinds[at % len(kinds)], case) for at, token in enumerate(unwritten)},
    )


def negative_tokens(negatives: str, num_tokens: int, seed: int) -> Indices:
    """Which of `num_tokens` tokens have a negative slot, see `NEGATIVES`; ascending, at least one but for "none"."""
    third = max(1, num_tokens // 3)
    if negatives == "scattered":
        chosen = np.flatnonzero(integers(seed, "negative", num_tokens, 3) == 0)
        return chosen if chosen.size else np.asarray([seed % num_tokens])
    spans = {
        "none": (0, 0),
        "all": (0, num_tokens),
        "head": (0, third),
        "tail": (num_tokens - third, num_tokens),
        "middle": (num_tokens // 2, num_tokens // 2 + 1),
    }
    return np.arange(*spans[negatives])


def negative_kinds(negative_slot: str) -> tuple[str, ...]:
    """The kinds of negative slots that there are with `negative_slot`."""
    return NEGATIVE_KINDS if negative_slot == "mixed" else (negative_slot,)


def _negative(kind: str, case: WriteCase) -> int:
    lowest = int(torch.iinfo(SLOT_DTYPES[case.slot_dtype]).min)
    minus_page = -case.page_size
    return {"minus_one": -1, "minus_two": -2, "minus_page": minus_page, "minus_page_and_one": minus_page - 1}.get(kind, lowest)


def pool_size(placing: str, writes: int, page_size: int) -> int:
    """Pages of the pool where `writes` tokens are written: those that they need, one at least, and a spare one."""
    if placing in {"edges", "scattered"}:
        wanted = min(_MOST_PAGES, POOL_SLOTS // page_size - 1, cdiv(writes, 2) if placing == "edges" else writes)
        return 1 + max(1, wanted, cdiv(writes, page_size))
    return 1 + max(1, cdiv(_start(placing, writes, page_size) + writes, page_size))


def _start(placing: str, writes: int, page_size: int) -> int:
    """Position of the first of consecutive slots."""
    return page_size - max(1, writes // 2) % page_size if placing == "straddle" and page_size > 1 else 0


def _positions(placing: str, writes: int, page_size: int, seed: int) -> Indices:
    """Distinct positions, counted through the pages in use, ascending."""
    if placing in {"run", "straddle"}:
        return _start(placing, writes, page_size) + np.arange(writes)
    pages = pool_size(placing, writes, page_size) - 1
    if placing == "edges":
        edges = [page * page_size + at for at in _from_the_edges(page_size) for page in range(pages)]
        return np.sort(np.asarray(edges[:writes], dtype=np.int64))
    return np.sort(permutation(seed, "positions", pages * page_size)[:writes])


def _from_the_edges(page_size: int) -> list[int]:
    """Positions of a page: the last, the first, the last but one, the second, ..."""
    inwards = (position for at in range(cdiv(page_size, 2)) for position in (page_size - 1 - at, at))
    return list(dict.fromkeys(inwards))


# Strategy


@st.composite
def write_fields(draw: st.DrawFn, domain: Domain = UNLIMITED, page_sizes: Weights[int] = PAGE_SIZES) -> dict[str, Any]:
    """The fields of a `WriteCase` but `far` and `seed`, those that `domain` allows; simplest: one token, slot 16 of pages of 16.

    Of the domain something must be left, see `can_write`. Page sizes are drawn before the shape, which must leave room for them:
    `pool_size` says for how many pages.
    """
    counts, kinds = allowed(NUM_TOKENS, domain, "num_tokens"), _allowed_negatives(domain)
    negatives = draw(choose(kinds, lambda kind: any(_suits(count, kind) for count in counts)))
    drawn: dict[str, Any] = {"negatives": negatives}
    if negatives != "none":
        drawn["negative_slot"] = draw(choose(_allowed_slots(domain)))
    return drawn | {
        "page_size": draw(choose(allowed(page_sizes, domain, "page_size"))),
        "num_tokens": draw(choose(counts, lambda count: _suits(count, negatives))),
        **{name: draw(choose(allowed(weights, domain, name))) for name, weights in _INDEPENDENT.items()},
    }


_INDEPENDENT: Mapping[str, Weights[Any]] = {
    "placing": PLACINGS,
    "slot_order": SLOT_ORDERS,
    "first_page": FIRST_PAGES,
    "padding_rows": PADDING_ROWS,
    "slot_dtype": SLOT_DTYPE_WEIGHTS,
}
"""Fields of which any allowed value will do."""


def _suits(count: int, negatives: str) -> bool:
    return count >= _LEAST_TOKENS[negatives]


def _allowed_negatives(domain: Domain) -> Weights[str]:
    kinds = allowed(NEGATIVES, domain, "negatives")
    return kinds if _allowed_slots(domain) else {kind: weight for kind, weight in kinds.items() if kind == "none"}


def _allowed_slots(domain: Domain) -> Weights[str]:
    return {slot: weight for slot, weight in NEGATIVE_SLOTS.items() if domain.allows("negative_slots", *negative_kinds(slot))}


def can_write(domain: Domain, page_sizes: Weights[int] = PAGE_SIZES) -> bool:
    """Whether `domain` leaves anything for `write_fields`."""
    counts, kinds = allowed(NUM_TOKENS, domain, "num_tokens"), _allowed_negatives(domain)
    others = [allowed(weights, domain, name) for name, weights in _INDEPENDENT.items()]
    others.append(allowed(page_sizes, domain, "page_size"))
    return all(others) and any(_suits(count, kind) for count in counts for kind in kinds)


# Inputs


def write_slots(arena: Arena, case: WriteCase, slots: Slots, placement: Placement) -> torch.Tensor:
    """The tensor `slot_mapping` [T]."""
    tensor = arena.tensor("slot_mapping", (case.num_tokens,), SLOT_DTYPES[case.slot_dtype])
    return tensor.copy_(slots.mapping(placement))


def placed(slots: Slots, far: str, *page_strides: int) -> Placement:
    """Where the pages of the pool lie in caches of such page strides."""
    return place(slots.pool_size, far, max(page_strides))


def write_rows(
    arena: Arena, name: str, content: torch.Tensor, padding_rows: int, *, layout: str, gap: int, lead: int = 0, fused: int = 0
) -> torch.Tensor:
    """The tensor `name` [T + `padding_rows`, ...], whose first rows are `content` [T, ...], and whose others hold poison."""
    sizes = (content.shape[0] + padding_rows, *content.shape[1:])
    rows = arena.tensor(name, sizes, content.dtype, strides=row_strides(layout, sizes, gap=gap, fused=fused), lead=lead)
    raw = torch.uint8 if content.element_size() == 1 else content.dtype  # torch puts no elements into FP8 tensors
    rows.view(raw)[: content.shape[0]] = content.view(raw)
    return rows


def make_live(arena: Arena, name: str, seed: int, index: Sequence[torch.Tensor]) -> None:
    """Fill the cache `name` and all its gaps with live data, and declare that exactly the cells `index` must be written."""
    arena.scribble(name, seed)
    arena.declare_cells(name, index)


def row_strides_of(layout: str) -> str:
    """Which of `ROW_STRIDES`."""
    return ROW_STRIDES[layout == "padded_heads"]


def allowed_rows(domain: Domain, name: str) -> Weights[str]:
    """Those of `ROW_LAYOUTS` that `domain` allows for the facets `name` and `row_strides`."""
    layouts = allowed(ROW_LAYOUTS, domain, name)
    return {layout: weight for layout, weight in layouts.items() if domain.allows("row_strides", row_strides_of(layout))}


def _plain(name: str, description: str) -> Facet:
    return Facet(description=description, of=lambda case: getattr(case, name), choices=tuple(CHOICES.get(name, ())))


FACETS: Mapping[str, Facet] = {
    name: _plain(name, description)
    for name, description in {
        "num_tokens": "tokens, T: entries of the slot mapping",
        "padding_rows": "rows of key and value behind the last token",
        "negatives": "which tokens have a negative slot",
        "placing": "where the other tokens go: consecutive slots, edges of pages, anywhere",
        "slot_order": "whether slots ascend from token to token",
        "first_page": "whether tokens go to page 0",
        "slot_dtype": "dtype of the slot mapping",
        "page_size": "tokens per page",
        "far": "what lies beyond 2^31 elements: none, pages",
    }.items()
} | {
    "negative_slots": Facet(
        description="what negative slots there are: -1, -2, minus the page size, one less, the lowest",
        of=lambda case: negative_kinds(case.negative_slot) if case.negatives != "none" else (),
    )
}
"""Of what all writers have in common."""


PROPERTIES: Mapping[str, Callable[[Any], str]] = {
    "page_size": lambda case: str(case.page_size),
    "block_class": of_block(),
    "negatives": lambda case: case.negatives,
    "tokens": lambda case: "none" if case.num_tokens == 0 else "one" if case.num_tokens == 1 else "several",
    "far": lambda case: case.far,
}
"""Of what all writers have in common, for `Op.properties`."""
