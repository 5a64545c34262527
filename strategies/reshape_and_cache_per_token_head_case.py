"""The Case of `reshape_and_cache_per_token_head`: its fields, their ranges, and which of them go together."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch

from tridiff.harness.api import require
from tridiff.strategies.cache_writes import Choices, HeadsCase, Ranges, cache_of
from tridiff.strategies.kv_caches import ORDERS, PAGES, KVCache
from tridiff.strategies.layouts import Placement, Span, Strides, far_axis

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
CACHE_DTYPES = {
    "int8": torch.int8,
    "float8_e4m3fn": torch.float8_e4m3fn,
    "float8_e4m3fnuz": torch.float8_e4m3fnuz,
}

SCALE_LAYOUTS = {"packed": 5, "padded_heads": 3, "heads_in_page": 3, "padded_pages": 2}
"""Memory of a cache of scales [pages, page size, heads], see `scale_strides`."""

PATTERNS = ("gaussian", "ties", "dominant", "zeros", "limits", "mixed_norms")

LARGEST_VALUE = 4.0
"""More than any `gaussian` yields, in standard deviations."""


@dataclass(frozen=True, kw_only=True)
class ReshapeAndCachePerTokenHeadCase(HeadsCase):
    """Parameters of one call; the defaults are the simplest case. Fields that other writers have: see `HeadsCase`.

    `key_order` and `key_pages`, `value_order` and `value_pages` of the caches, see `kv_caches`; `k_scale_layout` and
    `v_scale_layout`, see `scale_strides`; `cache_dtype` of the codes; `pattern` and `sigma`, see
    `reshape_and_cache_per_token_head_values`.
    """

    RANGES: ClassVar[Ranges] = {**HeadsCase.RANGES, "sigma": (0.0, 1e37)}
    CHOICES: ClassVar[Choices] = {
        **HeadsCase.CHOICES,
        **{"key_order": ORDERS, "value_order": ORDERS, "key_pages": PAGES, "value_pages": PAGES},
        **{"k_scale_layout": SCALE_LAYOUTS, "v_scale_layout": SCALE_LAYOUTS},
        **{"dtype": DTYPES, "cache_dtype": CACHE_DTYPES, "pattern": PATTERNS},
    }

    key_order: str = "token_major"
    value_order: str = "token_major"
    key_pages: str = "packed"
    value_pages: str = "packed"
    k_scale_layout: str = "packed"
    v_scale_layout: str = "packed"
    cache_dtype: str = "int8"

    def check(self) -> None:
        """Raise `CaseError` where numbers overflow their dtype."""
        require(
            suits(self.sigma, self.dtype),
            f"sigma={self.sigma}: must be at most {_most_sigma(self.dtype):.4g}, or values overflow {self.dtype}",
        )

    @property
    def stored_dtype(self) -> torch.dtype:
        """The dtype of the codes."""
        return CACHE_DTYPES[self.cache_dtype]

    def cache(self, role: str) -> KVCache:
        """The cache of codes "key" or "value"."""
        return cache_of(role, vars(self), itemsize=1)

    def scale_strides(self, role: str) -> Strides:
        """Strides of the scales of "key" or "value", see `scale_strides`."""
        return scale_strides(self._scale_layout(role), self.page_size, self.num_heads, self.gap)

    def stretched_scales(self, role: str, placement: Placement) -> tuple[Strides, list[Span] | None]:
        """As `KVCache.stretched`, of scales."""
        if self.far == "heads":
            axis, count, one = 2, self.num_heads, scale_strides(self._scale_layout(role), self.page_size, 1, self.gap)
        elif self.far == "positions":
            axis, count, one = 1, self.page_size, scale_strides(self._scale_layout(role), 1, self.num_heads, self.gap)
        else:
            strides = self.scale_strides(role)
            return strides, placement.committed(strides[0])
        return far_axis(one, axis, count, placement.num_pages * one[0])

    def _scale_layout(self, role: str) -> str:
        return self.k_scale_layout if role == "key" else self.v_scale_layout

    @property
    def page_strides(self) -> tuple[int, ...]:
        """Of codes and scales of both."""
        return tuple(
            stride for role in ("key", "value") for stride in (self.cache(role).page_stride, self.scale_strides(role)[0])
        )


def suits(sigma: float, dtype: str) -> bool:
    """Whether values of that standard deviation are finite in `dtype`."""
    return sigma <= _most_sigma(dtype)


def _most_sigma(dtype: str) -> float:
    return float(torch.finfo(DTYPES[dtype]).max) / LARGEST_VALUE


def scale_strides(layout: str, page_size: int, num_heads: int, gap: int) -> Strides:
    """Strides of a cache of scales [pages, page size, heads], in elements.

    "packed": dense. "padded_heads": `gap` elements after every scale, as where it is the tail of the head that it belongs to.
    "heads_in_page": memory order [page, head, token]. "padded_pages": `gap` elements after every page.
    """
    return {
        "packed": (page_size * num_heads, num_heads, 1),
        "padded_heads": (page_size * num_heads * (1 + gap), num_heads * (1 + gap), 1 + gap),
        "heads_in_page": (page_size * num_heads, 1, page_size),
        "padded_pages": (page_size * num_heads + gap, num_heads, 1),
    }[layout]
