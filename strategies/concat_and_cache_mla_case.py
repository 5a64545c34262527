"""The Case of `concat_and_cache_mla`: its fields, their ranges, and which of them go together."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from tridiff.strategies import cache_writes, fp8
from tridiff.strategies import cache_writes_values as values
from tridiff.strategies.cache_writes import Choices, Ranges, WriterCase
from tridiff.strategies.kv_caches import PAGES, KVCache

ORDERS = {"token_major": 4, "padded_heads": 2}
"""Of `kv_caches.ORDERS` those of a cache whose tokens are one row each: dense, or with a gap after every token."""

ROW_LAYOUTS = {"packed": 4, "fused_qkv": 4, "padded_rows": 2}
"""Strides of the tokens' tensors, see `layouts.row_strides`. "fused_qkv": both are slices of one projection."""

FAR = {far: weight for far, weight in cache_writes.FAR.items() if far != "heads"}


@dataclass(frozen=True, kw_only=True)
class ConcatAndCacheMlaCase(WriterCase):
    """Parameters of one call; the defaults are the simplest case. Fields that all writers have: see `WriterCase`.

    `kv_lora_rank` (R) and `rope_dim` (P): widths of the latent vectors and of the rotary parts; `order` and `pages` of the
    cache, see `kv_caches`; `kv_c_layout` and `k_pe_layout` of the rows, see `layouts.row_strides`; `scale` of an FP8 cache, by
    which both are divided, and `scale_form`, see `fp8.SCALE_FORMS`.
    """

    RANGES: ClassVar[Ranges] = {
        **WriterCase.RANGES,
        **{"kv_lora_rank": (1, 4096), "rope_dim": (1, 4096), "scale": values.SCALE_RANGE},
    }
    CHOICES: ClassVar[Choices] = {
        **WriterCase.CHOICES,
        **{"order": ORDERS, "pages": PAGES, "far": FAR, "kv_c_layout": ROW_LAYOUTS, "k_pe_layout": ROW_LAYOUTS},
        "scale_form": fp8.SCALE_FORMS,
    }

    kv_lora_rank: int = 16
    rope_dim: int = 16
    order: str = "token_major"
    pages: str = "packed"
    kv_c_layout: str = "packed"
    k_pe_layout: str = "packed"
    scale: float = 1.0
    scale_form: str = "scalar"

    def check(self) -> None:
        """Raise `CaseError` unless dtypes and scale go together."""
        values.check_types(self.dtype, self.cache_dtype, self.scale_form, {"scale": self.scale})

    @property
    def cache(self) -> KVCache:
        """The cache, as one of one head: [pages, page size, 1, R + P]."""
        return cache_of(vars(self))

    @property
    def page_strides(self) -> tuple[int, ...]:
        """Of the one cache."""
        return (self.cache.page_stride,)


def cache_of(fields: Mapping[str, Any]) -> KVCache:
    """The cache of a case with such `fields`: as one head, [pages, page size, 1, R + P]."""
    item = values.cache_type(fields["dtype"], fields["cache_dtype"]).itemsize
    return cache_writes.joint_cache_of(fields, fields["kv_lora_rank"] + fields["rope_dim"], item)
