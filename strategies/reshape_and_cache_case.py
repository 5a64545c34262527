"""The Case of `reshape_and_cache`: its fields, their ranges, and which of them go together."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from tridiff.harness.api import require, require_one_of, require_range
from tridiff.strategies import cache_writes, fp8, kv_caches, layouts
from tridiff.strategies import cache_writes_values as values
from tridiff.strategies.kv_caches import KVCache

PLATFORMS = ("hip", "cuda")
CACHE_DTYPES = ("same", *values.DTYPES)


@dataclass(frozen=True, kw_only=True)
class ReshapeAndCacheCase:
    """Parameters of one call; the defaults are the simplest case.

    What is written: `num_heads` (H) heads of width `head_dim` (D) of key and `head_dim_v` (Dv) of value, of `dtype`; `pattern`
    and `sigma` of the numbers, see `cache_writes_values`; `seed`.

    Into what: caches of `kind`, see `kv_caches`, with `page_size` tokens per page; `key_order` and `value_order`, `key_pages` and
    `value_pages`, see there; `gap`, elements of each gap or padding in all layouts; `cache_dtype`, "same" or another, and of FP8
    `k_scale` and `v_scale`, which reach the launcher by `scale_form`, see `fp8.SCALE_FORMS`.

    Where to: `num_tokens` (T), `padding_rows`, `negatives`, `negative_slot`, `placing`, `slot_order`, `first_page`, `slot_dtype`
    and `far`, see `cache_writes`.

    How it lies: `key_layout` and `value_layout` of the tokens' tensors, see `cache_writes.ROW_LAYOUTS`; `lead`, elements by which
    these and the caches begin past a 16-byte boundary; `storage` of the caches, "large" beyond 2 GiB.

    `platform`; `model`: name and rank count of the preset, "" without one.
    """

    model: str = ""
    platform: str = "hip"
    kind: str = "nhd"
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
        for field, (low, high) in _RANGES.items():
            require_range(field, getattr(self, field), low, high)
        for field, allowed in CHOICES.items():
            require_one_of(field, getattr(self, field), allowed)
        cache_writes.check_writes(self)
        self._check_types()
        self._check_kind()
        if self.far == "pages":
            cache_writes.check_slots(self, self.placement(cache_writes.slots_of(self)).num_pages)

    def _check_types(self) -> None:
        require(
            values.types_fit(self.dtype, self.cache_dtype),
            f"cache_dtype={self.cache_dtype!r}: must be 'same' for tokens of dtype {self.dtype!r}",
        )
        require(
            values.scale_form_fits(self.scale_form, self.k_scale, self.v_scale, needed=self.is_fp8),
            f"scale_form={self.scale_form!r}: must be combined with {_FORM_NEEDS.get(self.scale_form)}",
        )
        for field in ("k_scale", "v_scale"):
            scale = getattr(self, field)
            require(self.is_fp8 or scale == 1.0, f"{field}={scale}: must be 1.0 unless the caches hold FP8")

    def _check_kind(self) -> None:
        for field in ("key_order", "value_order"):
            require_one_of(field, getattr(self, field), kv_caches.orders(self.kind))
        if not kv_caches.is_head_major(self.kind):
            return
        pack = self.pack
        require(self.head_dim % pack == 0, f"head_dim={self.head_dim}: must be a multiple of x={pack} in kind {self.kind!r}")
        if self.kind == "interleaved":
            require(
                self.page_size % pack == 0, f"page_size={self.page_size}: must be a multiple of p={pack} in kind {self.kind!r}"
            )

    @property
    def is_fp8(self) -> bool:
        """Whether the caches hold FP8."""
        return values.is_fp8(self.dtype, self.cache_dtype)

    @property
    def pack(self) -> int:
        """The x of K, the p of V."""
        return kv_caches.pack_of(values.cache_type(self.dtype, self.cache_dtype).itemsize)

    def cache(self, role: str) -> KVCache:
        """The cache of `role`, "key" or "value"."""
        widths = (self.head_dim, self.head_dim_v)
        width, neighbour = widths if role == "key" else widths[::-1]
        return KVCache(
            role=role,
            kind=self.kind,
            order=getattr(self, f"{role}_order"),
            pages=getattr(self, f"{role}_pages"),
            gap=self.gap,
            page_size=self.page_size,
            num_heads=self.num_heads,
            width=width,
            neighbour=neighbour,
            itemsize=values.cache_type(self.dtype, self.cache_dtype).itemsize,
        )

    def placement(self, slots: cache_writes.Slots) -> layouts.Placement:
        """Where the pages of both caches lie."""
        return cache_writes.placed(slots, self.far, self.cache("key").page_stride, self.cache("value").page_stride)


_RANGES: Mapping[str, tuple[float, float]] = {
    "num_heads": (1, 1024),
    "head_dim": (1, 4096),
    "head_dim_v": (1, 4096),
    "gap": (1, 65536),
    "lead": (0, 64),
    "k_scale": (2.0**-30, 2.0**10),
    "v_scale": (2.0**-30, 2.0**10),
    "sigma": (0.0, 1e3),
    "seed": (0, 2**63 - 1),
}

CHOICES: Mapping[str, Iterable[object]] = {
    "platform": PLATFORMS,
    "kind": kv_caches.KINDS,
    "key_order": kv_caches.ORDERS,
    "value_order": kv_caches.ORDERS,
    "key_pages": kv_caches.PAGES,
    "value_pages": kv_caches.PAGES,
    "key_layout": cache_writes.ROW_LAYOUTS,
    "value_layout": cache_writes.ROW_LAYOUTS,
    "storage": layouts.STORAGES,
    "dtype": values.DTYPES,
    "cache_dtype": CACHE_DTYPES,
    "scale_form": fp8.SCALE_FORMS,
    "pattern": values.PATTERNS,
}

_FORM_NEEDS = {
    "vector": "caches in FP8",
    "absent": "caches in FP8 and a k_scale or v_scale of 1.0",
    "unread": "caches that are not in FP8",
}
