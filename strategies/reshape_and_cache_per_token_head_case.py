"""The Case of `reshape_and_cache_per_token_head`: its fields, their ranges, and which of them go together."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch

from tridiff.harness.api import require, require_one_of, require_range
from tridiff.strategies import cache_writes
from tridiff.strategies.kv_caches import ORDERS, PAGES, KVCache
from tridiff.strategies.layouts import STORAGES, Placement, Strides

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
CACHE_DTYPES = {
    "int8": torch.int8,
    "float8_e4m3fn": torch.float8_e4m3fn,
    "float8_e4m3fnuz": torch.float8_e4m3fnuz,
}
PLATFORMS = ("hip", "cuda")

SCALE_LAYOUTS = {"packed": 5, "padded_heads": 3, "heads_in_page": 3, "padded_pages": 2}
"""Memory of a cache of scales [pages, page size, heads], see `scale_strides`."""

PATTERNS = ("gaussian", "ties", "dominant", "zeros", "limits", "mixed_norms")

LARGEST_VALUE = 4.0
"""More than any `gaussian` yields, in standard deviations."""


@dataclass(frozen=True, kw_only=True)
class ReshapeAndCachePerTokenHeadCase:
    """Parameters of one call; the defaults are the simplest case.

    What the call computes: `num_tokens` (T) tokens of `num_heads` (H) heads, keys of width `head_dim` (D) and values of
    `head_dim_v` (Dv), of `dtype`; `cache_dtype` of the codes; `platform`. Which slots the tokens have, and of what dtype, on
    pages of `page_size` tokens: `negatives`, `negative_slot`, `placing`, `slot_order`, `first_page`, `slot_dtype`, see
    `cache_writes`; `padding_rows` of key and value behind the last token.

    Where it lies: `key_order` and `key_pages`, `value_order` and `value_pages` of the caches, see `kv_caches`;
    `k_scale_layout` and `v_scale_layout`, see `scale_strides`; `key_layout` and `value_layout` of the rows, see
    `layouts.row_strides`; `gap`, elements of each gap or padding in those; `lead`, elements by which rows and caches begin past
    a 16-byte boundary; `storage` of the caches, "large" beyond 2 GiB; `far`, "pages" where the last lie beyond 2^31 elements.

    What it holds: `pattern` and `sigma`, see `reshape_and_cache_per_token_head_values`; `seed`.

    `model`: name and rank count of the preset, "" without one.
    """

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
    num_heads: int = 1
    head_dim: int = 16
    head_dim_v: int = 16
    key_order: str = "token_major"
    value_order: str = "token_major"
    key_pages: str = "packed"
    value_pages: str = "packed"
    k_scale_layout: str = "packed"
    v_scale_layout: str = "packed"
    far: str = "none"
    key_layout: str = "packed"
    value_layout: str = "packed"
    gap: int = 16
    lead: int = 0
    storage: str = "small"
    dtype: str = "float32"
    cache_dtype: str = "int8"
    pattern: str = "gaussian"
    sigma: float = 1.0
    seed: int = 0

    def __post_init__(self) -> None:
        """Raise `CaseError` for the first field that is out of its range."""
        require(len(self.model) <= 80, f"model={self.model!r}: must have at most 80 characters")
        cache_writes.check_writes(self)
        for field, (low, high) in _RANGES.items():
            require_range(field, getattr(self, field), low, high)
        for field, allowed in CHOICES.items():
            require_one_of(field, getattr(self, field), allowed)
        require(
            suits(self.sigma, self.dtype),
            f"sigma={self.sigma}: must be at most {_most_sigma(self.dtype):.4g}, or values overflow {self.dtype}",
        )
        cache_writes.check_slots(self, self.placement(cache_writes.slots_of(self)).num_pages)

    def cache(self, role: str) -> KVCache:
        """The cache of codes "key" or "value"."""
        return cache_of(role, vars(self))

    def scale_strides(self, role: str) -> Strides:
        """Strides of the scales of "key" or "value", see `scale_strides`."""
        layout = self.k_scale_layout if role == "key" else self.v_scale_layout
        return scale_strides(layout, self.page_size, self.num_heads, self.gap)

    def placement(self, slots: cache_writes.Slots) -> Placement:
        """Where the pages of all caches lie."""
        strides = [stride for role in ("key", "value") for stride in (self.cache(role).page_stride, self.scale_strides(role)[0])]
        return cache_writes.placed(slots, self.far, *strides)


_RANGES: Mapping[str, tuple[float, float]] = {
    "num_heads": (1, 1024),
    "head_dim": (1, 4096),
    "head_dim_v": (1, 4096),
    "gap": (1, 65536),
    "lead": (0, 64),
    "sigma": (0.0, 1e37),
    "seed": (0, 2**63 - 1),
}

CHOICES: Mapping[str, Iterable[object]] = {
    "platform": PLATFORMS,
    "key_order": ORDERS,
    "value_order": ORDERS,
    "key_pages": PAGES,
    "value_pages": PAGES,
    "k_scale_layout": SCALE_LAYOUTS,
    "v_scale_layout": SCALE_LAYOUTS,
    "key_layout": cache_writes.ROW_LAYOUTS,
    "value_layout": cache_writes.ROW_LAYOUTS,
    "storage": STORAGES,
    "dtype": DTYPES,
    "cache_dtype": CACHE_DTYPES,
    "pattern": PATTERNS,
}


def suits(sigma: float, dtype: str) -> bool:
    """Whether values of that standard deviation are finite in `dtype`."""
    return sigma <= _most_sigma(dtype)


def _most_sigma(dtype: str) -> float:
    return float(torch.finfo(DTYPES[dtype]).max) / LARGEST_VALUE


def cache_of(role: str, fields: Mapping[str, Any]) -> KVCache:
    """The cache "key" or "value" of a case with such `fields`."""
    widths = {"key": fields["head_dim"], "value": fields["head_dim_v"]}
    return KVCache(
        role=role,
        kind="nhd",
        order=fields[f"{role}_order"],
        pages=fields[f"{role}_pages"],
        gap=fields["gap"],
        page_size=fields["page_size"],
        num_heads=fields["num_heads"],
        width=widths[role],
        neighbour=widths["value" if role == "key" else "key"],
        itemsize=1,
    )


def scale_strides(layout: str, page_size: int, num_heads: int, gap: int) -> Strides:
    """Strides of a cache of scales [pages, page size, heads], in elements.

    "packed": dense. "padded_heads": `gap` elements after every scale, as where it is the tail of the head that it belongs to.
    "heads_in_page": memory order [page, head, token]. "padded_pages": `gap` elements after every page.
    """
    return {
        "packed": (page_size * num_heads, num_heads, 1),
        "padded_heads": (page_size * num_heads * (1 + gap), num_heads * (1 + gap), 1 + gap),
        "heads_in_page": (page_size * num_heads, 1, page_size),
        "padded_pages": (page_size * num_heads + gap, num_heads, 1),
    }[layout]
