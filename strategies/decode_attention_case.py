"""The Case of `decode_attention`: its fields, their ranges, and which of them go together."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import torch

from tridiff.harness.api import require, require_range
from tridiff.strategies import fp8, layouts, paging, profiles
from tridiff.strategies.case_fields import check_fields

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
SEQ_LENS_DTYPES = {"int32": torch.int32, "int64": torch.int64}
CACHE_DTYPES = ("same", *fp8.DTYPES)
PLATFORMS = ("hip", "cuda")
OUTPUT_DTYPES = ("same", "float32")
UNUSED_SLOTS = ("poison", "zeros")

_MAX_ROWS = 256
_MAX_LENGTH = 2**20
_MAX_SPLIT = 2**17
"""Keys of one split: in tiles of 8 keys, the fewest, that makes fewer loop steps than a hang is taken to have."""


@dataclass(frozen=True, kw_only=True)
class DecodeAttentionCase:
    """Parameters of one call; the defaults are the simplest case.

    What the call computes: `num_kv_heads` KV heads, each shared by `group_size` query heads; `head_dim` (Lk) and
    `head_dim_v` (Lv); `seq_lens`, the keys of each row; `num_kv_splits`; `logit_cap`, 0 for none; `scale_factor`, by which
    sm_scale exceeds 1 / sqrt(Lk); `dtype` of queries and caches, `output_dtype` ("same" or "float32"), `seq_lens_dtype`;
    `cache_dtype`, "same" or an FP8 format, and with the latter `k_scale` and `v_scale`, by which codes are multiplied;
    `scale_form`, how these reach the launcher, see `fp8.SCALE_FORMS`; `is_mla`, whether values are the first `head_dim_v`
    columns of the keys; `platform`, whose tile rules apply.

    Where it all lies: `page_size` tokens per page; `page_order` and `page_sharing`, see `paging.assign_pages`; `table_tail`
    unused columns of the block table; `key_layout` and `value_layout`, see `layouts.CacheShape.strides`; `query_layout`,
    `output_layout`, `lse_layout` and `table_layout`, see `layouts.row_strides`; `gap`, elements of each gap or padding in
    those; `lead`, elements by which queries and caches begin past a 16-byte boundary; `storage` of the caches, "large" beyond
    2 GiB; `far`, "pages" or "heads" where the last ones lie beyond 2^31 elements.

    What it holds: `unused_slots`, what slots that no row reads hold in a page that some row reads: "poison", or "zeros", as where
    the whole cache began; `pattern`, `sigma`, `value_sigma`, `peak_at` and `peak_height`, see `profiles`; `seed`.

    `model`: name and rank count of the preset, "" without one.
    """

    model: str = ""
    platform: str = "hip"
    num_kv_heads: int = 1
    group_size: int = 1
    head_dim: int = 16
    head_dim_v: int = 16
    seq_lens: tuple[int, ...] = (1,)
    num_kv_splits: int = 1
    page_size: int = 16
    page_order: str = "identity"
    page_sharing: str = "none"
    table_tail: int = 0
    key_layout: str = "packed"
    value_layout: str = "packed"
    far: str = "none"
    query_layout: str = "packed"
    output_layout: str = "packed"
    lse_layout: str = "packed"
    table_layout: str = "packed"
    gap: int = 16
    lead: int = 0
    storage: str = "small"
    is_mla: bool = False
    dtype: str = "float32"
    cache_dtype: str = "same"
    k_scale: float = 1.0
    v_scale: float = 1.0
    scale_form: str = "scalar"
    output_dtype: str = "same"
    seq_lens_dtype: str = "int32"
    logit_cap: float = 0.0
    scale_factor: float = 1.0
    unused_slots: str = "poison"
    pattern: str = "gaussian"
    sigma: float = 1.0
    value_sigma: float = 1.0
    peak_at: str = "last"
    peak_height: float = 10.0
    seed: int = 0

    def __post_init__(self) -> None:
        """Raise `CaseError` for the first field that is out of its range."""
        check_fields(self, _RANGES, CHOICES)
        require(1 <= len(self.seq_lens) <= _MAX_ROWS, f"seq_lens={self.seq_lens!r}: must have 1 to {_MAX_ROWS} rows")
        for row, length in enumerate(self.seq_lens):
            require_range(f"seq_lens[{row}]", length, 0, _MAX_LENGTH)
            most = self.num_kv_splits * _MAX_SPLIT
            fits = length <= most
            require(fits, f"seq_lens[{row}]={length}: must be at most {most} with num_kv_splits={self.num_kv_splits}")
        fits = layouts.far_fits(self.far, self.key_layout, self.value_layout, self.num_kv_heads)
        require(fits, f"far={self.far!r}: must be combined with {_FAR_NEEDS.get(self.far)}")
        self._check_scales()
        if self.is_mla:
            self._check_mla()

    def _check_scales(self) -> None:
        fp8.check_form(self.scale_form, self.cache_dtype, self.k_scale, self.v_scale)
        fp8.check_scales(self.cache_dtype, self.k_scale, self.v_scale, DTYPES[self.dtype])

    def _check_mla(self) -> None:
        for field, other in (("v_scale", "k_scale"), ("value_layout", "key_layout")):
            value, needed = getattr(self, field), getattr(self, other)
            require(
                value == needed, f"{field}={value!r}: must be {other}={needed!r} with is_mla, where values are part of the keys"
            )
        require(self.num_kv_heads == 1, f"num_kv_heads={self.num_kv_heads}: must be 1 with is_mla")
        require(
            self.head_dim_v <= self.head_dim,
            f"head_dim_v={self.head_dim_v}: must be at most head_dim={self.head_dim} with is_mla",
        )

    @property
    def num_heads(self) -> int:
        """Query heads, Hq."""
        return self.num_kv_heads * self.group_size

    @property
    def sm_scale(self) -> float:
        """What multiplies the products of queries and keys."""
        return self.scale_factor / math.sqrt(self.head_dim)


_RANGES: Mapping[str, tuple[float, float]] = {
    "num_kv_heads": (1, 1024),
    "group_size": (1, 1024),
    "head_dim": (1, 4096),
    "head_dim_v": (1, 4096),
    "num_kv_splits": (1, 4096),
    "page_size": (1, 65536),
    "table_tail": (0, 1024),
    "gap": (1, 65536),
    "lead": (0, 64),
    "logit_cap": (0.0, 1e6),
    "scale_factor": (profiles.MIN_SCALE_FACTOR, 10.0),
    "k_scale": (2.0**-30, 2.0**10),
    "v_scale": (2.0**-30, 2.0**10),
    "sigma": (0.0, profiles.MAX_SIGMA),
    "value_sigma": (0.0, profiles.MAX_SIGMA),
    "peak_height": (0.0, profiles.MAX_HEIGHT),
    "seed": (0, 2**63 - 1),
}
"""With these, every value is finite in float16 and every logit in float32."""

CHOICES: Mapping[str, Iterable[object]] = {
    "platform": PLATFORMS,
    "page_order": paging.PAGE_ORDERS,
    "page_sharing": paging.PAGE_SHARINGS,
    "key_layout": layouts.CACHE_LAYOUTS,
    "value_layout": layouts.CACHE_LAYOUTS,
    "storage": layouts.STORAGES,
    "far": layouts.FAR,
    "query_layout": layouts.QUERY_LAYOUTS,
    "output_layout": layouts.ROW_LAYOUTS,
    "lse_layout": layouts.LSE_LAYOUTS,
    "table_layout": layouts.TABLE_LAYOUTS,
    "dtype": DTYPES,
    "scale_form": fp8.SCALE_FORMS,
    "cache_dtype": CACHE_DTYPES,
    "output_dtype": OUTPUT_DTYPES,
    "seq_lens_dtype": SEQ_LENS_DTYPES,
    "unused_slots": UNUSED_SLOTS,
    "pattern": profiles.PATTERNS,
    "peak_at": profiles.PEAKS,
}

_FAR_NEEDS = {
    "pages": "layouts other than 'heads_outermost'",
    "heads": "a layout 'heads_outermost' and num_kv_heads of at least 3",
}
