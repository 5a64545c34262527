"""Cache writes: what the Cases of all writers have in common, and which slots the tokens of one call go to.

A *slot* is page id * page size + position in the page; of a token whose slot is negative nothing is written. What a writer may
not touch is live: the whole cache is full of known data, page 0 and slot 0 first of all, which negative slots wrongly taken for
0 would hit.

The strategies are in `cache_writes_drawing`, `cache_writes_dims` and `cache_writes_types`; what the tokens hold is in
`cache_writes_values`, their tensors in `cache_writes_inputs`, and what a finding says of overwritten memory in
`cache_writes_victims`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
import torch

from tridiff.harness.api import integers, permutation, require
from tridiff.strategies import cache_writes_values as values
from tridiff.strategies import fp8
from tridiff.strategies.case_fields import check_fields
from tridiff.strategies.kv_caches import KVCache
from tridiff.strategies.layouts import STORAGES, Placement, place
from tridiff.strategies.lengths import cdiv

NEGATIVES = {"none": 9, "all": 2, "head": 2, "tail": 3, "middle": 2, "scattered": 4}
"""Which tokens have a negative slot: none, all of them, the first or the last third, the one in the middle, or some."""

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

FAR = {"none": 26, "pages": 4, "tokens": 3, "heads": 3, "positions": 4}
"""What lies beyond 2^31 elements. "pages": the second half of them, see `layouts.place`. The others have a stride at which the
last one begins there: "tokens", rows of the tokens' tensors; "heads", those of caches, and of rows with gaps between heads;
"positions", those of a page."""

FEWEST_FAR = 3
"""Of two, the stride itself would exceed 32 bits, which no kernel gets wrong."""

ROW_LAYOUTS = {"packed": 5, "fused_qkv": 4, "padded_rows": 2, "padded_heads": 2}
"""Strides of the tokens' tensors, see `layouts.row_strides`; heads are dense in a token in all but the last."""

PLATFORMS = ("hip", "cuda")

POOL_SLOTS = 6400
"""Slots of all pages together where more pages than the tokens need are of use: three pages of the largest size."""

_MOST_PAGES = 3

Indices = npt.NDArray[np.int64]
Ranges = Mapping[str, tuple[float, float]]
Choices = Mapping[str, Iterable[object]]


@dataclass(frozen=True, kw_only=True)
class WriterCase:
    """What the Cases of all writers have; the defaults are the simplest case.

    Where to: `num_tokens` (T), entries of the slot mapping, none of which is legal; `padding_rows` of the tokens' tensors behind
    the last token, as CUDA graphs pad them, which hold poison; `negatives`, `negative_slot`, `placing`, `slot_order`,
    `first_page`, `slot_dtype`, see above; on pages of `page_size` tokens.

    How it lies: `far`, see `FAR`; `gap`, elements of each gap or padding in all layouts; `lead`, elements by which rows and
    caches begin past a 16-byte boundary; `storage` of the caches, "large" beyond 2 GiB.

    What it is: `dtype` of the tokens; `cache_dtype`, "same" or another one; `pattern` and `sigma` of the numbers, see
    `cache_writes_values`; `seed` of all that is random.

    `platform`; `model`: name and rank count of the preset, "" without one.
    """

    RANGES: ClassVar[Ranges] = {
        **{"num_tokens": (0, 4096), "padding_rows": (0, 4096), "page_size": (1, 65536), "gap": (1, 65536), "lead": (0, 64)},
        **{"sigma": (0.0, 1e4), "seed": (0, 2**63 - 1)},
    }
    CHOICES: ClassVar[Choices] = {
        **{"platform": PLATFORMS, "negatives": NEGATIVES, "negative_slot": NEGATIVE_SLOTS, "placing": PLACINGS},
        **{"slot_order": SLOT_ORDERS, "first_page": FIRST_PAGES, "slot_dtype": SLOT_DTYPES, "far": FAR, "storage": STORAGES},
        **{"dtype": values.DTYPES, "cache_dtype": ("same", *values.DTYPES), "pattern": values.PATTERNS},
    }

    model: str = ""
    platform: str = "hip"
    num_tokens: int = 1
    padding_rows: int = 0
    negatives: str = "none"
    negative_slot: str = "minus_one"
    placing: str = "run"
    slot_order: str = "ascending"
    first_page: str = "spare"
    slot_dtype: str = "int64"
    page_size: int = 16
    far: str = "none"
    gap: int = 16
    lead: int = 0
    storage: str = "small"
    dtype: str = "float32"
    cache_dtype: str = "same"
    pattern: str = "gaussian"
    sigma: float = 1.0
    seed: int = 0

    def __post_init__(self) -> None:
        """Raise `CaseError` for the first field that is out of its range."""
        check_fields(self, self.RANGES, self.CHOICES)
        require(
            self.num_tokens > 0 or self.negatives == "none",
            f"negatives={self.negatives!r}: must be combined with num_tokens of at least 1, not {self.num_tokens}",
        )
        self.check()
        self._check_far()

    def check(self) -> None:
        """Raise `CaseError` unless the fields of one writer go together; those in `RANGES` and `CHOICES` are legal each."""

    @property
    def stored_dtype(self) -> torch.dtype:
        """The dtype of the caches."""
        return values.cache_type(self.dtype, self.cache_dtype)

    @property
    def is_fp8(self) -> bool:
        """Whether the caches hold FP8."""
        return self.stored_dtype in fp8.DTYPES.values()

    @property
    def page_strides(self) -> tuple[int, ...]:
        """Elements from page to page, of every cache."""
        raise NotImplementedError

    def placement(self, slots: Slots) -> Placement:
        """Where the pages of all caches lie."""
        return placed(slots, self.far, *self.page_strides)

    def _check_far(self) -> None:
        if self.far == "pages":
            largest = self.placement(slots_of(self)).num_pages * self.page_size - 1
            require(
                largest <= torch.iinfo(SLOT_DTYPES[self.slot_dtype]).max,
                f"slot_dtype={self.slot_dtype!r}: cannot hold slot {largest}, the last one; must be 'int64'",
            )
        counted = {"tokens": "num_tokens", "heads": "num_heads", "positions": "page_size"}.get(self.far)
        if counted is not None:
            count = getattr(self, counted)
            require(count >= FEWEST_FAR, f"{counted}={count}: must be at least {FEWEST_FAR} where far={self.far!r}")
        if self.far == "tokens":
            require(self.padding_rows == 0, f"padding_rows={self.padding_rows}: must be 0 where far='tokens'")


@dataclass(frozen=True, kw_only=True)
class HeadsCase(WriterCase):
    """What those have that write keys and values: `num_heads` (H) heads of width `head_dim` (D) and `head_dim_v` (Dv).

    `key_layout` and `value_layout` of the tokens' tensors: see `ROW_LAYOUTS`.
    """

    RANGES: ClassVar[Ranges] = {
        **WriterCase.RANGES,
        **{"num_heads": (1, 1024), "head_dim": (1, 4096), "head_dim_v": (1, 4096)},
    }
    CHOICES: ClassVar[Choices] = {**WriterCase.CHOICES, "key_layout": ROW_LAYOUTS, "value_layout": ROW_LAYOUTS}

    num_heads: int = 1
    head_dim: int = 16
    head_dim_v: int = 16
    key_layout: str = "packed"
    value_layout: str = "packed"

    def width(self, role: str) -> int:
        """That of the heads of "key" or "value"."""
        return self.head_dim if role == "key" else self.head_dim_v


@dataclass(frozen=True, kw_only=True)
class ScaledHeadsCase(HeadsCase):
    """What those have whose FP8 caches are scaled: `k_scale` and `v_scale`, by which keys and values are divided.

    `scale_form`: how these reach the launcher, see `fp8.SCALE_FORMS`.
    """

    RANGES: ClassVar[Ranges] = {**HeadsCase.RANGES, **dict.fromkeys(("k_scale", "v_scale"), values.SCALE_RANGE)}
    CHOICES: ClassVar[Choices] = {**HeadsCase.CHOICES, "scale_form": fp8.SCALE_FORMS}

    k_scale: float = 1.0
    v_scale: float = 1.0
    scale_form: str = "scalar"

    def check(self) -> None:
        """Raise `CaseError` unless dtypes and scales go together."""
        scales = {"k_scale": self.k_scale, "v_scale": self.v_scale}
        values.check_types(self.dtype, self.cache_dtype, self.scale_form, scales)


def cache_of(role: str, fields: Mapping[str, Any], itemsize: int) -> KVCache:
    """The cache "key" or "value" of a case with such `fields`, where each has one of its own."""
    widths = {"key": fields["head_dim"], "value": fields["head_dim_v"]}
    return KVCache(
        role=role,
        kind=fields.get("kind", "nhd"),
        order=fields[f"{role}_order"],
        pages=fields[f"{role}_pages"],
        gap=fields["gap"],
        page_size=fields["page_size"],
        num_heads=fields["num_heads"],
        width=widths[role],
        neighbour=widths["value" if role == "key" else "key"],
        itemsize=itemsize,
    )


def joint_cache_of(fields: Mapping[str, Any], width: int, itemsize: int) -> KVCache:
    """The one cache of a case with such `fields`, [pages, page size, heads, `width`]; one head where there are none."""
    return KVCache(
        role="key",
        kind="nhd",
        order=fields["order"],
        pages=fields["pages"],
        gap=fields["gap"],
        page_size=fields["page_size"],
        num_heads=fields.get("num_heads", 1),
        width=width,
        neighbour=width,
        itemsize=itemsize,
    )


# Slots


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


def slots_of(case: WriterCase) -> Slots:
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


def placed(slots: Slots, far: str, *page_strides: int) -> Placement:
    """Where the pages of the pool lie in caches of such page strides."""
    return place(slots.pool_size, far, max(page_strides))


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


def _negative(kind: str, case: WriterCase) -> int:
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
