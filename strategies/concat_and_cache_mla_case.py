"""The Case of `concat_and_cache_mla`: its fields, their ranges, and which of them go together."""

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

ORDERS = {"token_major": 4, "padded_heads": 2}
"""Of `kv_caches.ORDERS` those of a cache whose tokens are one row each: dense, or with a gap after every token."""

ROW_LAYOUTS = {"packed": 4, "fused_qkv": 4, "padded_rows": 2}
"""Strides of the tokens' tensors, see `layouts.row_strides`. "fused_qkv": both are slices of one projection."""


@dataclass(frozen=True, kw_only=True)
class ConcatAndCacheMlaCase:
    """Parameters of one call; the defaults are the simplest case.

    What the call computes: `num_tokens` (T) latent vectors of width `kv_lora_rank` (R) and rotary parts of width `rope_dim` (P),
    of `dtype`; `cache_dtype`, "same" or another one, with FP8 `scale`, by which both are divided, and `scale_form`, see
    `fp8.SCALE_FORMS`; `platform`. Which slots the tokens have, and of what dtype, on pages of `page_size` tokens: `negatives`,
    `negative_slot`, `placing`, `slot_order`, `first_page`, `slot_dtype`, see `cache_writes`; `padding_rows` behind
    the last token.

    Where it lies: `order` and `pages` of the cache, see `kv_caches`; `kv_c_layout` and `k_pe_layout` of the rows, see
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
    kv_lora_rank: int = 16
    rope_dim: int = 16
    order: str = "token_major"
    pages: str = "packed"
    far: str = "none"
    kv_c_layout: str = "packed"
    k_pe_layout: str = "packed"
    gap: int = 16
    lead: int = 0
    storage: str = "small"
    dtype: str = "float32"
    cache_dtype: str = "same"
    scale: float = 1.0
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
        check_types(self.dtype, self.cache_dtype, self.scale_form, {"scale": self.scale})
        cache_writes.check_slots(self, self.placement(cache_writes.slots_of(self)).num_pages)

    @property
    def cache(self) -> KVCache:
        """The cache, as one of one head: [pages, page size, 1, R + P]."""
        return cache_of(vars(self))

    def placement(self, slots: cache_writes.Slots) -> Placement:
        """Where its pages lie."""
        return cache_writes.placed(slots, self.far, self.cache.page_stride)


_RANGES: Mapping[str, tuple[float, float]] = {
    "kv_lora_rank": (1, 4096),
    "rope_dim": (1, 4096),
    "gap": (1, 65536),
    "lead": (0, 64),
    "scale": (2.0**-20, 2.0**20),
    "sigma": (0.0, 1e4),
    "seed": (0, 2**63 - 1),
}

CHOICES: Mapping[str, Iterable[object]] = {
    "platform": PLATFORMS,
    "order": ORDERS,
    "pages": PAGES,
    "kv_c_layout": ROW_LAYOUTS,
    "k_pe_layout": ROW_LAYOUTS,
    "storage": STORAGES,
    "dtype": values.DTYPES,
    "cache_dtype": ("same", *values.DTYPES),
    "scale_form": fp8.SCALE_FORMS,
    "pattern": values.PATTERNS,
}


def cache_of(fields: Mapping[str, Any]) -> KVCache:
    """The cache of a case with such `fields`: as one head, [pages, page size, 1, R + P]."""
    width = fields["kv_lora_rank"] + fields["rope_dim"]
    return KVCache(
        role="key",
        kind="nhd",
        order=fields["order"],
        pages=fields["pages"],
        gap=fields["gap"],
        page_size=fields["page_size"],
        num_heads=1,
        width=width,
        neighbour=width,
        itemsize=values.cache_type(fields["dtype"], fields["cache_dtype"]).itemsize,
    )
