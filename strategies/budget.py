"""Budget: how much one case may cost. Cases are kept inside by construction: what does not fit is not on offer."""

from __future__ import annotations

from dataclasses import dataclass

MEBI = 2**20


@dataclass(frozen=True, kw_only=True)
class Budget:
    """Upper limits of one case.

    `multiply_adds`: over all rows, keys and query heads. `cache_bytes`: committed memory of all caches together, gaps and
    unused pages included. `row_width`: query heads times the widths of key and value, which bounds the tensors that have a
    row per sequence. `split_elements`: KV splits times query heads times the width of a partial result, per row, which
    bounds the launcher's scratch and the number of programs.
    """

    multiply_adds: int = 2**23
    cache_bytes: int = 10 * MEBI
    row_width: int = 2**15
    split_elements: int = 2**17


TYPICAL = Budget()
"""With at most five rows all tensors and float32 scratch stay below 16 MiB: 10 for the caches, 2.5 for scratch, 2 for rows."""

LARGE_PAGES = Budget(cache_bytes=26 * MEBI)
"""Below 32 MiB: room for two pages of 2048 tokens with eight KV heads of width 128 in 16 bits."""
