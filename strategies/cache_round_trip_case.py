"""The Case of `cache_round_trip`: its fields, their ranges, and which of them go together."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import torch

from tridiff.harness.api import require, require_one_of, require_range
from tridiff.strategies import fp8, kv_caches, paging
from tridiff.strategies.case_fields import check_fields
from tridiff.strategies.kv_caches import KVCache

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
CACHE_DTYPES = ("same", *fp8.DTYPES)
SLOT_DTYPES = {"int64": torch.int64, "int32": torch.int32}
SLOT_ORDERS = ("ascending", "shuffled")
PLATFORMS = ("hip", "cuda")

MAX_SEQUENCES = 64
_MAX_LENGTH = 2**18
"""Of a sequence: a launch then has fewer loop steps than a hang is taken to have."""


@dataclass(frozen=True, kw_only=True)
class CacheRoundTripCase:
    """Parameters of one round trip; the defaults are the simplest case.

    What is written and read: `num_kv_heads` KV heads, each shared by `group_size` query heads; `head_dim` (D); `seq_lens`, the
    tokens of each sequence, all of which are written; `skipped`, tokens among them whose slot is -1; `padding_rows`, rows of key
    and value behind the last token; `slot_order`, whether tokens are written in the order of their sequences; `slot_dtype`;
    `dtype` of tokens and queries; `cache_dtype`, "same" or an FP8 format, and with the latter `k_scale` and `v_scale`, powers
    of two, so that no division rounds; `platform`, whose tile rules apply.

    Where it all lies: `kind` of the caches, `page_size`, and the `key_order`, `value_order`, `key_pages`, `value_pages` and `gap`
    of each, see `kv_caches`; `page_order`, see `paging.assign_pages`; `table_tail` unused columns of the block table. `seed` of
    all that is random.

    Who reads: `chunk` 0, one query of each sequence, whose last token it is; else the driver of mixed batches, with the last
    `chunk` tokens of every other sequence as queries, or all there are, and one query of each of the others.

    `model`: name and rank count of the preset, "" without one.
    """

    model: str = ""
    platform: str = "hip"
    num_kv_heads: int = 1
    group_size: int = 1
    head_dim: int = 32
    seq_lens: tuple[int, ...] = (1,)
    skipped: int = 0
    padding_rows: int = 0
    slot_order: str = "ascending"
    slot_dtype: str = "int64"
    page_size: int = 16
    kind: str = "nhd"
    key_order: str = "token_major"
    value_order: str = "token_major"
    key_pages: str = "packed"
    value_pages: str = "packed"
    gap: int = 16
    page_order: str = "identity"
    table_tail: int = 0
    chunk: int = 0
    dtype: str = "float32"
    cache_dtype: str = "same"
    k_scale: float = 1.0
    v_scale: float = 1.0
    seed: int = 0

    def __post_init__(self) -> None:
        """Raise `CaseError` for the first field that is out of its range."""
        check_fields(self, _RANGES, CHOICES)
        require(1 <= len(self.seq_lens) <= MAX_SEQUENCES, f"seq_lens={self.seq_lens!r}: must have 1 to {MAX_SEQUENCES} sequences")
        for at, length in enumerate(self.seq_lens):
            require_range(f"seq_lens[{at}]", length, 0, _MAX_LENGTH)
        require(
            self.chunk == 0 or self.kind != "nhd", f"chunk={self.chunk}: must be 0 for kind='nhd', which the driver cannot read"
        )
        self._check_caches()
        self._check_scales()

    def _check_caches(self) -> None:
        for field in ("key_order", "value_order"):
            require_one_of(field, getattr(self, field), kv_caches.orders(self.kind))
        for field in ("head_dim", "page_size") if self.kind != "nhd" else ():
            size = getattr(self, field)
            require(size % self.pack == 0, f"{field}={size}: must be a multiple of {self.pack}, the elements in 16 bytes")

    def _check_scales(self) -> None:
        for field in ("k_scale", "v_scale"):
            scale = getattr(self, field)
            require(math.frexp(scale)[0] == 0.5, f"{field}={scale}: must be a power of two, by which no division rounds")
        fp8.check_scales(self.cache_dtype, self.k_scale, self.v_scale, DTYPES[self.dtype])

    @property
    def num_heads(self) -> int:
        """Query heads, Hq."""
        return self.num_kv_heads * self.group_size

    @property
    def num_tokens(self) -> int:
        """Entries of the slot mapping, T."""
        return sum(self.seq_lens) + self.skipped

    @property
    def query_lens(self) -> tuple[int, ...]:
        """Queries of each sequence; one without tokens has one as well."""
        chunks = ((1, self.chunk)[at % 2 == 0 and self.chunk > 1] for at in range(len(self.seq_lens)))
        return tuple(max(1, min(chunk, length)) for chunk, length in zip(chunks, self.seq_lens, strict=True))

    @property
    def sm_scale(self) -> float:
        """What multiplies the products of queries and keys."""
        return 1.0 / math.sqrt(self.head_dim)

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
        return cache_of(vars(self), role, self.stored_dtype.itemsize)

    @property
    def layout_class(self) -> str:
        """Whether both caches have packed pages, as vLLM's native kernels assume."""
        return "packed" if self.cache("key").is_packed and self.cache("value").is_packed else "strided"


def cache_of(fields: Mapping[str, object], role: str, itemsize: int) -> KVCache:
    """The layout of the cache `role` by the `fields` of a case."""
    width = int(str(fields["head_dim"]))
    return KVCache(
        role=role,
        kind=str(fields["kind"]),
        order=str(fields[f"{role}_order"]),
        pages=str(fields[f"{role}_pages"]),
        gap=int(str(fields["gap"])),
        page_size=int(str(fields["page_size"])),
        num_heads=int(str(fields["num_kv_heads"])),
        width=width,
        neighbour=width,
        itemsize=itemsize,
    )


_RANGES: Mapping[str, tuple[float, float]] = {
    "num_kv_heads": (1, 1024),
    "group_size": (1, 1024),
    "head_dim": (1, 4096),
    "skipped": (0, 1024),
    "padding_rows": (0, 1024),
    "page_size": (1, 65536),
    "gap": (1, 65536),
    "table_tail": (0, 1024),
    "chunk": (0, 1024),
    "k_scale": (2.0**-30, 2.0**10),
    "v_scale": (2.0**-30, 2.0**10),
    "seed": (0, 2**63 - 1),
}

CHOICES: Mapping[str, Iterable[object]] = {
    "platform": PLATFORMS,
    "slot_order": SLOT_ORDERS,
    "slot_dtype": SLOT_DTYPES,
    "kind": kv_caches.KINDS,
    "key_pages": kv_caches.PAGES,
    "value_pages": kv_caches.PAGES,
    "page_order": paging.PAGE_ORDERS,
    "dtype": DTYPES,
    "cache_dtype": CACHE_DTYPES,
}
