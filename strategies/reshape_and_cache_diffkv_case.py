"""The Case of `reshape_and_cache_diffkv`: its fields, their ranges, and which of them go together."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from tridiff.strategies import cache_writes_values as values
from tridiff.strategies.cache_writes import Choices, ScaledHeadsCase, joint_cache_of
from tridiff.strategies.kv_caches import PAGES, KVCache

ORDERS = {"token_major": 4, "padded_heads": 2, "heads_in_page": 4}
"""Of `kv_caches.ORDERS` those of a single cache, whose heads hold key and value."""


@dataclass(frozen=True, kw_only=True)
class ReshapeAndCacheDiffkvCase(ScaledHeadsCase):
    """Parameters of one call; the defaults are the simplest case. Fields that other writers have: see `ScaledHeadsCase`.

    `order` and `pages` of the cache: see `kv_caches`.
    """

    CHOICES: ClassVar[Choices] = {**ScaledHeadsCase.CHOICES, "order": ORDERS, "pages": PAGES}

    order: str = "token_major"
    pages: str = "packed"

    @property
    def cache(self) -> KVCache:
        """The cache, [pages, page size, heads, Dk + Dv]."""
        return cache_of(vars(self))

    @property
    def page_strides(self) -> tuple[int, ...]:
        """Of the one cache."""
        return (self.cache.page_stride,)


def cache_of(fields: Mapping[str, Any]) -> KVCache:
    """The cache of a case with such `fields`, [pages, page size, heads, Dk + Dv]."""
    item = values.cache_type(fields["dtype"], fields["cache_dtype"]).itemsize
    return joint_cache_of(fields, fields["head_dim"] + fields["head_dim_v"], item)
