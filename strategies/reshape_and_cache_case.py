"""The Case of `reshape_and_cache`: its fields, their ranges, and which of them go together."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from tridiff.harness.api import require, require_one_of
from tridiff.strategies import kv_caches
from tridiff.strategies.cache_writes import Choices, ScaledHeadsCase, cache_of
from tridiff.strategies.kv_caches import KVCache


@dataclass(frozen=True, kw_only=True)
class ReshapeAndCacheCase(ScaledHeadsCase):
    """Parameters of one call; the defaults are the simplest case. Fields that other writers have: see `ScaledHeadsCase`.

    Caches of `kind`, see `kv_caches`; `key_order` and `value_order`, `key_pages` and `value_pages`, see there.
    """

    CHOICES: ClassVar[Choices] = {
        **ScaledHeadsCase.CHOICES,
        **{"kind": kv_caches.KINDS, "key_order": kv_caches.ORDERS, "value_order": kv_caches.ORDERS},
        **{"key_pages": kv_caches.PAGES, "value_pages": kv_caches.PAGES},
    }

    kind: str = "nhd"
    key_order: str = "token_major"
    value_order: str = "token_major"
    key_pages: str = "packed"
    value_pages: str = "packed"

    def check(self) -> None:
        """Raise `CaseError` unless dtypes, scales, kind and sizes go together."""
        super().check()
        for field in ("key_order", "value_order"):
            require_one_of(field, getattr(self, field), kv_caches.orders(self.kind))
        if not kv_caches.is_head_major(self.kind):
            return
        pack = self.pack
        require(self.head_dim % pack == 0, f"head_dim={self.head_dim}: must be a multiple of x={pack} in kind {self.kind!r}")
        require(
            self.kind != "interleaved" or self.page_size % pack == 0,
            f"page_size={self.page_size}: must be a multiple of p={pack} in kind {self.kind!r}",
        )
        require(self.far != "positions", f"far='positions': must be combined with kind 'nhd', not {self.kind!r}")

    @property
    def pack(self) -> int:
        """The x of K, the p of V."""
        return kv_caches.pack_of(self.stored_dtype.itemsize)

    def cache(self, role: str) -> KVCache:
        """The cache of `role`, "key" or "value"."""
        return cache_of(role, vars(self), self.stored_dtype.itemsize)

    @property
    def page_strides(self) -> tuple[int, ...]:
        """Of both caches."""
        return self.cache("key").page_stride, self.cache("value").page_stride
