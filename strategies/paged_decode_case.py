"""The Case of `paged_decode`, and its inputs."""

from __future__ import annotations

from dataclasses import dataclass

from tridiff.harness.api import Arena, Inputs
from tridiff.strategies.paged_readers_case import ReaderCase
from tridiff.strategies.paged_readers_inputs import batch_inputs, cache_inputs, rows_of, tokens


@dataclass(frozen=True, kw_only=True)
class PagedDecodeCase(ReaderCase):
    """Parameters of one call; the defaults are the simplest case. Fields: see `ReaderCase`.

    Sequences with one query token are answered. The others, with more or none, are left alone.
    """

    @property
    def answered(self) -> list[int]:
        """The sequences that are answered."""
        return [at for at, queries in enumerate(self.query_lens) if queries == 1]


def build(case: PagedDecodeCase, arena: Arena) -> Inputs:
    """Arguments of `paged_decode` for `case`; deterministic bit for bit.

    Only slots that some sequence owns hold values, and only table entries that it needs; everything else keeps its poison, the
    queries of sequences that are left alone too. Raises `StagingError` when the machine has no address space for far pages.
    """
    caches = cache_inputs(case, arena, tokens(case))
    return caches | batch_inputs(case, arena, rows_of(case, case.answered))
