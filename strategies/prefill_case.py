"""What the Cases of `prefix_prefill` and `chunked_prefill_paged_decode` have in common, beside what every reader has."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from tridiff.harness.api import require, require_one_of, require_range
from tridiff.strategies.paged_readers_case import ReaderCase

CHUNKS = ("rows", "cache")
CHUNK_SLOTS = ("written", "poison")
CHUNK_LAYOUTS = ("packed", "fused_qkv", "padded_heads", "heads_first")


@dataclass(frozen=True, kw_only=True)
class PrefillCase(ReaderCase):
    """Parameters of one call; the defaults are the simplest case.

    The chunk of a sequence is its last `query_lens` tokens, the context what comes before. `causal`: no query sees a key behind
    it; `chunk`: keys and values of the chunk come as "rows" of tensors of their own, or all from the "cache"; `chunk_slots`: what
    the caches hold of a chunk that comes as rows: it is "written" there as well, in their dtype, or its slots hold "poison";
    `chunk_layout`, `chunk_value_layout`, of those rows of keys and of values, see `layouts.row_strides`; `extra_query_len`, by
    which max_query_len exceeds the longest chunk.
    """

    causal: bool = True
    chunk: str = "rows"
    chunk_slots: str = "written"
    chunk_layout: str = "packed"
    chunk_value_layout: str = "packed"
    extra_query_len: int = 0

    def __post_init__(self) -> None:
        """Raise `CaseError` for the first field that is out of its range."""
        super().__post_init__()
        require_range("extra_query_len", self.extra_query_len, 0, 65536)
        for field, allowed in CHOICES.items():
            require_one_of(field, getattr(self, field), allowed)
        require(self.causal or self.alibi == "none", f"alibi={self.alibi!r}: must be 'none' unless causal")
        in_rows = self.chunk == "rows" or self.chunk_slots == "written"
        require(in_rows, f"chunk_slots={self.chunk_slots!r}: must be 'written' where chunk={self.chunk!r}: it is read there")

    @property
    def context_lens(self) -> tuple[int, ...]:
        """Keys of each sequence before its chunk; -1 where one query has no key at all."""
        return tuple(keys - queries for keys, queries in zip(self.seq_lens, self.query_lens, strict=True))

    @property
    def max_query_len(self) -> int:
        """What the launcher is told of the longest chunk."""
        return max(self.query_lens) + self.extra_query_len

    def decodes(self, sequence: int) -> bool:
        """Whether all keys of a sequence are read from the caches although its chunk comes as rows."""
        del sequence
        return False

    def is_answered(self, sequence: int) -> bool:
        """Whether output is written for a sequence."""
        return self.query_lens[sequence] > 0


CHOICES: Mapping[str, Iterable[object]] = {
    "chunk": CHUNKS,
    "chunk_slots": CHUNK_SLOTS,
    "chunk_layout": CHUNK_LAYOUTS,
    "chunk_value_layout": CHUNK_LAYOUTS,
}
