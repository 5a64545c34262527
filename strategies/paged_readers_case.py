"""What the Cases of all Ops have in common that read vLLM's head-major caches: fields, their ranges, and which go together."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import torch

from tridiff.harness.api import require, require_range
from tridiff.strategies import fp8, kv_caches, layouts, paging, profiles
from tridiff.strategies.case_fields import check_fields
from tridiff.strategies.kv_caches import KVCache

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
CACHE_DTYPES = ("same", *fp8.DTYPES)
OUTPUT_DTYPES = ("same", *fp8.DTYPES)
PLATFORMS = ("hip", "cuda")

VERY_NEGATIVE = "very_negative"
PATTERNS = (*profiles.PATTERNS, VERY_NEGATIVE)
"""Those of `profiles`, and one: every logit lies near `VERY_NEGATIVE_LOGIT` or below, so that a finite mask value wins over them
all."""

VERY_NEGATIVE_LOGIT = -16000.0
"""vLLM masks with -10000: a row whose logits are below it attends to what is masked (its contract leaves that out)."""

BELOW_PEAKS = 1.25
"""How much lower than peaks the other keys are among very negative logits: two codes of e5m2 at least. Where all are alike, the
roundings of such large products hide one of them."""

PEAKS = (*profiles.PEAKS, "outside_window", "inside_window", "before_chunk", "after_chunk")
"""Those of `profiles`; the last key that the window of the last query leaves out, or the first one inside; the last key of the
context, or the first of the chunk. A sequence without such a key has its peak at the end."""

ALIBI = ("none", "standard", "steep")
"""Slopes of the bias: 2^(-8 (h + 1) / Hq), as Press et al. (2022) have them, or eight times that."""

SINKS = ("none", "normal", "minus_infinity", "large", "mixed")
"""Logits of the sinks, one for each head: normal; -inf, which is no sink; about `LARGE_SINK`; heads of all these kinds."""

LARGE_SINK = 10.0
"""What is left for the keys, 5e-5, is no subnormal of float16."""

MAX_SEQUENCES = 64
_MAX_LENGTH = 2**18
"""Of a sequence: in tiles of 16 keys, the fewest, that makes fewer loop steps than a hang is taken to have."""


@dataclass(frozen=True, kw_only=True)
class ReaderCase:
    """Parameters that every reader has; the defaults are the simplest case.

    What the call computes: `num_kv_heads` KV heads, each shared by `group_size` query heads; `head_dim` (D); `query_lens` and
    `seq_lens`, the query tokens of each sequence and all its keys, these included; `padding_rows`, rows of query and output
    behind them that belong to no sequence; `window`, 0 for none; `alibi` and `sinks`, see `ALIBI` and `SINKS`; `scale_factor`, by
    which sm_scale exceeds 1 / sqrt(D); `dtype` of queries and caches; `cache_dtype`, "same" or an FP8 format, and with the
    latter `k_scale` and `v_scale`, by which codes are multiplied; `scale_form`, how these reach the launcher, see
    `fp8.SCALE_FORMS`; `output_dtype`, "same" or an FP8 format, and with the latter `output_scale`, which divides the output;
    `platform`, whose tile rules apply.

    Where it all lies: `kind` of the caches, `page_size`, and the `key_order`, `value_order`, `key_pages`, `value_pages` of each,
    see `kv_caches`; `page_order` and `page_sharing`, see `paging.assign_pages`; `table_tail` unused columns of the block table;
    `query_layout`, `output_layout` and `table_layout`, see `layouts.row_strides`; `gap`, elements of each gap or padding in
    those; `lead`, elements by which queries and caches begin past a 16-byte boundary; `storage` of the caches, "large" beyond
    2 GiB; `far`, "pages" where the last ones lie beyond 2^31 elements.

    What it holds: `pattern` (see `PATTERNS`), `sigma`, `value_sigma`, `peak_at` (see `PEAKS`) and `peak_height`, see `profiles`;
    `seed`.

    `model`: name and rank count of the preset, "" without one.
    """

    model: str = ""
    platform: str = "hip"
    num_kv_heads: int = 1
    group_size: int = 1
    head_dim: int = 32
    query_lens: tuple[int, ...] = (1,)
    seq_lens: tuple[int, ...] = (1,)
    padding_rows: int = 0
    page_size: int = 16
    kind: str = "head_major"
    key_order: str = "token_major"
    value_order: str = "token_major"
    key_pages: str = "packed"
    value_pages: str = "packed"
    page_order: str = "identity"
    page_sharing: str = "none"
    table_tail: int = 0
    far: str = "none"
    query_layout: str = "packed"
    output_layout: str = "packed"
    table_layout: str = "packed"
    gap: int = 16
    lead: int = 0
    storage: str = "small"
    dtype: str = "float32"
    cache_dtype: str = "same"
    k_scale: float = 1.0
    v_scale: float = 1.0
    scale_form: str = "scalar"
    output_dtype: str = "same"
    output_scale: float = 1.0
    window: int = 0
    alibi: str = "none"
    sinks: str = "none"
    scale_factor: float = 1.0
    pattern: str = "gaussian"
    sigma: float = 1.0
    value_sigma: float = 1.0
    peak_at: str = "last"
    peak_height: float = 10.0
    seed: int = 0

    def __post_init__(self) -> None:
        """Raise `CaseError` for the first field that is out of its range."""
        check_fields(self, RANGES, CHOICES)
        self._check_lengths()
        self._check_caches()
        self._check_scales()

    def _check_lengths(self) -> None:
        count = len(self.seq_lens)
        require(1 <= count <= MAX_SEQUENCES, f"seq_lens={self.seq_lens!r}: must have 1 to {MAX_SEQUENCES} sequences")
        same = len(self.query_lens) == count
        require(same, f"query_lens={self.query_lens!r}: must have as many sequences as seq_lens={self.seq_lens!r}")
        for at, (queries, keys) in enumerate(zip(self.query_lens, self.seq_lens, strict=True)):
            require_range(f"query_lens[{at}]", queries, 0, _MAX_LENGTH)
            require_range(f"seq_lens[{at}]", keys, 0, _MAX_LENGTH)
            # One query without keys is what decode kernels meet in padded batches.
            fits = queries <= keys or (queries, keys) == (1, 0)
            require(fits, f"query_lens[{at}]={queries}: must be at most seq_lens[{at}]={keys}, of which they are a part")

    def _check_caches(self) -> None:
        for field in ("head_dim", "page_size"):
            size = getattr(self, field)
            require(size % self.pack == 0, f"{field}={size}: must be a multiple of {self.pack}, the elements in 16 bytes")

    def _check_scales(self) -> None:
        fp8.check_form(self.scale_form, self.cache_dtype, self.k_scale, self.v_scale)
        scaled = self.output_scale == 1.0 or self.output_dtype != "same"
        require(scaled, f"output_scale={self.output_scale}: must be 1.0 unless output_dtype is an FP8 format")
        fp8.check_scales(self.cache_dtype, self.k_scale, self.v_scale, DTYPES[self.dtype])
        if self.pattern == VERY_NEGATIVE:
            fits = very_negative_fits(self.head_dim, self.cache_dtype, self.k_scale, self.scale_factor)
            needs = f"a format of the caches that holds keys of {very_negative_key(self.head_dim, self.scale_factor):.0f}"
            require(fits, f"pattern={VERY_NEGATIVE!r}: must be combined with {needs}")

    @property
    def num_heads(self) -> int:
        """Query heads, Hq."""
        return self.num_kv_heads * self.group_size

    @property
    def num_tokens(self) -> int:
        """Rows of query and output, T."""
        return sum(self.query_lens) + self.padding_rows

    @property
    def sm_scale(self) -> float:
        """What multiplies the products of queries and keys."""
        return self.scale_factor / math.sqrt(self.head_dim)

    @property
    def stored_dtype(self) -> torch.dtype:
        """The dtype of the caches."""
        return DTYPES[self.dtype] if self.cache_dtype == "same" else fp8.DTYPES[self.cache_dtype]

    @property
    def pack(self) -> int:
        """Elements of the caches in 16 bytes: x of K, p of V."""
        return kv_caches.pack_of(self.stored_dtype.itemsize)

    def cache(self, role: str) -> KVCache:
        """The layout of the cache `role`, "key" or "value"."""
        return KVCache(
            role=role,
            kind=self.kind,
            order=getattr(self, f"{role}_order"),
            pages=getattr(self, f"{role}_pages"),
            gap=self.gap,
            page_size=self.page_size,
            num_heads=self.num_kv_heads,
            width=self.head_dim,
            neighbour=self.head_dim,
            itemsize=self.stored_dtype.itemsize,
        )

    @property
    def is_native(self) -> bool:
        """Whether the pages of both caches are packed, as vLLM's native kernels assume."""
        return self.cache("key").is_packed and self.cache("value").is_packed


def has_peak(pattern: str) -> bool:
    """Whether some keys of every sequence outweigh the others."""
    return pattern == VERY_NEGATIVE or profiles.has_peak(pattern)


def very_negative_key(head_dim: int, scale_factor: float = 1.0) -> float:
    """Elements of peaks, in magnitude, that give logits near `VERY_NEGATIVE_LOGIT` with queries of standard deviation 1."""
    return -VERY_NEGATIVE_LOGIT / (profiles.MEAN_MAGNITUDE * math.sqrt(head_dim) * scale_factor)


def very_negative_fits(head_dim: int, cache_dtype: str, k_scale: float, scale_factor: float = 1.0) -> bool:
    """Whether caches can hold such keys."""
    return cache_dtype == "same" or 2 * very_negative_key(head_dim, scale_factor) <= fp8.LARGEST[cache_dtype] * k_scale


RANGES: Mapping[str, tuple[float, float]] = {
    "num_kv_heads": (1, 1024),
    "group_size": (1, 1024),
    "head_dim": (4, 4096),
    "padding_rows": (0, 1024),
    "page_size": (1, 65536),
    "table_tail": (0, 1024),
    "gap": (1, 65536),
    "lead": (0, 64),
    "window": (0, 2**30),
    "scale_factor": (profiles.MIN_SCALE_FACTOR, 10.0),
    "k_scale": (2.0**-30, 2.0**10),
    "v_scale": (2.0**-30, 2.0**10),
    "output_scale": (2.0**-30, 2.0**10),
    "sigma": (0.0, profiles.MAX_SIGMA),
    "value_sigma": (0.0, profiles.MAX_SIGMA),
    "peak_height": (0.0, profiles.MAX_HEIGHT),
    "seed": (0, 2**63 - 1),
}
"""With these, every value is finite in float16 and every logit in float32."""

FAR = ("none", "pages")

CHOICES: Mapping[str, Iterable[object]] = {
    "platform": PLATFORMS,
    "kind": kv_caches.HEAD_MAJOR_KINDS,
    "key_order": kv_caches.HEAD_MAJOR_ORDERS,
    "value_order": kv_caches.HEAD_MAJOR_ORDERS,
    "key_pages": kv_caches.PAGES,
    "value_pages": kv_caches.PAGES,
    "page_order": paging.PAGE_ORDERS,
    "page_sharing": paging.PAGE_SHARINGS,
    "far": FAR,
    "storage": layouts.STORAGES,
    "query_layout": layouts.QUERY_LAYOUTS,
    "output_layout": layouts.ROW_LAYOUTS,
    "table_layout": layouts.TABLE_LAYOUTS,
    "dtype": DTYPES,
    "cache_dtype": CACHE_DTYPES,
    "scale_form": fp8.SCALE_FORMS,
    "output_dtype": OUTPUT_DTYPES,
    "alibi": ALIBI,
    "sinks": SINKS,
    "pattern": PATTERNS,
    "peak_at": PEAKS,
}
