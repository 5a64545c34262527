"""The Case of `reshape_and_cache_diffkv`: its fields, their ranges, and which of them go together."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from tridiff.harness.api import require, require_one_of, require_range
from tridiff.strategies import cache_writes, fp8
from tridiff.strategies import cache_writes_values as values
from tridiff.strategies.cache_writes_types import check_types
from tridiff.strategies.kv_caches import PAGES, KVCache
from tridiff.strategies.layouts import STORAGES, Placement

PLATFORMS = ("hip", "cuda")

ORDERS = {"token_major": 4, "padded_heads": 2, "heads_in_page": 4}
"""Of `kv_caches.ORDERS` those of a single cache, whose heads hold key and value."""


@dataclass(frozen=True, kw_only=True)
class ReshapeAndCacheDiffkvCase:
    """Parameters of one call; the defaults are the simplest case.

    What the call computes: `num_tokens` (T) tokens of `num_heads` (H) heads, keys of width `head_dim` (Dk) and values of
    `head_dim_v` (Dv), of `dtype`; `cache_dtype`, "same" or another one, with FP8 `k_scale` and `v_scale`, by which they are
    divided, and `scale_form`, see `fp8.SCALE_FORMS`; `platform`. Which slots the tokens have, and of what dtype, on pages of
    `page_size` tokens: `negatives`, `negative_slot`, `placing`, `slot_order`, `first_page`, `slot_dtype`, see `cache_writes`;
    `padding_rows` of key and value behind the last token.

    Where it lies: `order` and `pages` of the cache, see `kv_caches`; `key_layout` and `value_layout` of the rows, see
    `layouts.row_strides`; `gap`, elements of each gap or padding in those; `lead`, elements by which rows and cache begin past
    a 16-byte boundary; `storage` of the cache, "large" beyond 2 GiB; `far`, "pages" where the last ones lie beyond 2^31 elements.

    What it holds: `pattern` and `sigma`, see `cache_writes_values`; `seed`.

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
    order: str = "token_major"
    pages: str = "packed"
    far: str = "none"
    key_layout: str = "packed"
    value_layout: str = "packed"
    gap: int = 16
    lead: int = 0
    storage: str = "small"
    dtype: str = "float32"
    cache_dtype: str = "same"
    k_scale: float = 1.0
    v_scale: float = 1.0
    scale_form: str = "scalar"
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
        check_types(self.dtype, self.cache_dtype, self.scale_form, {"k_scale": self.k_scale, "v_scale": self.v_scale})
        cache_writes.check_slots(self, self.placement(cache_writes.slots_of(self)).num_pages)

    @property
    def cache(self) -> KVCache:
        """The cache, [pages, page size, heads, Dk + Dv]."""
        return cache_of(vars(self))

    def placement(self, slots: cache_writes.Slots) -> Placement:
        """Where its pages lie."""
        return cache_writes.placed(slots, self.far, self.cache.page_stride)


_RANGES: Mapping[str, tuple[float, float]] = {
    "num_heads": (1, 1024),
    "head_dim": (1, 4096),
    "head_dim_v": (1, 4096),
    "gap": (1, 65536),
    "lead": (0, 64),
    "k_scale": (2.0**-20, 2.0**20),
    "v_scale": (2.0**-20, 2.0**20),
    "sigma": (0.0, 1e4),
    "seed": (0, 2**63 - 1),
}

CHOICES: Mapping[str, Iterable[object]] = {
    "platform": PLATFORMS,
    "order": ORDERS,
    "pages": PAGES,
    "key_layout": cache_writes.ROW_LAYOUTS,
    "value_layout": cache_writes.ROW_LAYOUTS,
    "storage": STORAGES,
    "dtype": values.DTYPES,
    "cache_dtype": ("same", *values.DTYPES),
    "scale_form": fp8.SCALE_FORMS,
    "pattern": values.PATTERNS,
}


def cache_of(fields: Mapping[str, Any]) -> KVCache:
    """The cache of a case with such `fields`, [pages, page size, heads, Dk + Dv]."""
    width = fields["head_dim"] + fields["head_dim_v"]
    return KVCache(
        role="key",
        kind="nhd",
        order=fields["order"],
        pages=fields["pages"],
        gap=fields["gap"],
        page_size=fields["page_size"],
        num_heads=fields["num_heads"],
        width=width,
        neighbour=width,
        itemsize=values.cache_type(fields["dtype"], fields["cache_dtype"]).itemsize,
    )
