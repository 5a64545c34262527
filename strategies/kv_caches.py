"""KV caches in the layouts that writers and readers of vLLM share: where the heads of each token lie.

A *kind* is what the launchers see, by the dimensions of the tensors:

* "nhd": K and V [pages, page size, heads, width];
* "head_major": K [pages, heads, width / x, page size, x] with x = 16 bytes of elements, V [pages, heads, width, page size];
* "interleaved": the same shapes, but tokens of V lie in packs of p = x: within a head of a page, the element of column d and
  position t at (t // p) * width * p + d * p + t % p.

Inside of a page an *order* says how tokens and heads lie, and *pages* how far they are apart; K and V have their own each. Hybrid
models keep both, and recurrent states, in one pool: then pages of a cache lie far more than a page apart.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch

from tridiff.harness.api import Arena
from tridiff.strategies.layouts import LARGE_STORAGE_BYTES, LAYERS, Placement, Span, Strides, far_axis

KINDS = {"nhd": 5, "head_major": 5, "interleaved": 2}
HEAD_MAJOR_KINDS = {"head_major": 5, "interleaved": 2}

ORDERS = {"token_major": 5, "padded_heads": 2, "heads_in_page": 3, "side_by_side": 2, "heads_side_by_side": 3}
"""Of a page in kind "nhd". "token_major": dense. "padded_heads": a gap after each head. "heads_in_page": memory order [heads,
page size, width]. "side_by_side": each head of K is followed by that of V. "heads_side_by_side": both at once, as in vLLM's
Triton backend, whose pages are [heads, page size, K and V]."""

HEAD_MAJOR_ORDERS = {"token_major": 7, "padded_heads": 2}
"""Of a page in the other kinds, whose heads are dense in themselves."""

PAGES = {"packed": 6, "block_interior": 5, "padded": 3, "layers": 2}
"""Distance of pages. "packed": none. "block_interior": K and V of a page are adjacent, so a page of the other lies in between.
"padded": a gap after each page. "layers": pages of `LAYERS` layers alternate, each with its K and V."""

PAGE_SIZES = {
    **{16: 8, 32: 3, 48: 2, 64: 2, 80: 2, 128: 2, 144: 2, 160: 2, 208: 2, 256: 2, 272: 2, 288: 2, 400: 2, 480: 2, 528: 2},
    **{544: 4, 672: 2, 784: 2, 800: 2, 1040: 2, 1056: 2, 1072: 2, 1312: 2, 1568: 2, 2048: 4, 2064: 2, 2096: 2},
}
"""Tokens per page: multiples of 16, as backends want them. From 144 on they are those of hybrid models, whose pages must be as
large as a recurrent state, see the module `hybrid`."""

PACK_BYTES = 16
"""Bytes of the innermost axis of K, and of a pack of V (x and p in elements)."""


def is_head_major(kind: str) -> bool:
    """Whether K is 5-D."""
    return kind != "nhd"


def pack_of(itemsize: int) -> int:
    """The x of K and the p of V: elements in `PACK_BYTES`."""
    return PACK_BYTES // itemsize


def orders(kind: str) -> dict[str, int]:
    """The orders of a page that there are in such a cache."""
    return HEAD_MAJOR_ORDERS if is_head_major(kind) else ORDERS


@dataclass(frozen=True, kw_only=True)
class KVCache:
    """One of the two caches: `role` "key" or "value"; `width` of its heads, `neighbour` that of the other cache's.

    `itemsize`: bytes of an element. In head-major kinds the width of K is a multiple of x; interleaved, the page size one of p.
    """

    role: str
    kind: str
    order: str
    pages: str
    gap: int
    page_size: int
    num_heads: int
    width: int
    neighbour: int
    itemsize: int

    @property
    def pack(self) -> int:
        """The x of K, the p of V."""
        return pack_of(self.itemsize)

    def sizes(self, num_pages: int) -> tuple[int, ...]:
        """Sizes of the tensor's dimensions."""
        if self.kind == "nhd":
            return num_pages, self.page_size, self.num_heads, self.width
        if self.role == "key":
            return num_pages, self.num_heads, self.width // self.pack, self.page_size, self.pack
        return num_pages, self.num_heads, self.width, self.page_size

    @property
    def strides(self) -> Strides:
        """Strides of the tensor's dimensions, in elements."""
        if self.kind == "nhd":
            return (self.page_stride, *self._token_and_head(self.width), 1)
        head = self.page_size * self.width + self._head_gap
        if self.role == "key":
            return self.page_stride, head, self.page_size * self.pack, self.pack, 1
        return self.page_stride, head, self.page_size, 1

    def stretched(self, far: str, placement: Placement) -> tuple[Strides, list[Span] | None]:
        """Strides where `far` lies beyond 2^31 elements, and the spans that have content; None: all.

        "heads", and "positions" of kind "nhd": these are outermost then, and what each has of all pages lies together. Anything
        else leaves the strides as they are, and pages where `placement` has them.
        """
        if far == "heads":
            axis, count, one = (2 if self.kind == "nhd" else 1), self.num_heads, replace(self, num_heads=1)
        elif far == "positions":
            axis, count, one = 1, self.page_size, replace(self, page_size=1)
        else:
            return self.strides, placement.committed(self.page_stride)
        return far_axis(one.strides, axis, count, placement.num_pages * one.page_stride)

    @property
    def page_elements(self) -> int:
        """Elements of a page, gaps inside of it included; those of the other cache where the two are side by side."""
        return self._page(self.width, self.neighbour)

    @property
    def page_stride(self) -> int:
        """Elements from page to page."""
        own, other = self.page_elements, self._page(self.neighbour, self.width)
        if "side_by_side" in self.order:  # the page holds both
            return own * {"layers": LAYERS}.get(self.pages, 1) + self._page_gap
        return {"packed": own, "padded": own + self.gap, "block_interior": own + other, "layers": LAYERS * (own + other)}[
            self.pages
        ]

    @property
    def is_packed(self) -> bool:
        """Whether pages follow each other without a gap: the stride of pages is the number of their elements."""
        return self.page_stride == self.page_size * self.num_heads * self.width

    @property
    def _page_gap(self) -> int:
        return self.gap if self.pages == "padded" else 0

    @property
    def _head_gap(self) -> int:
        return self.gap if self.order == "padded_heads" else 0

    def _page(self, width: int, neighbour: int) -> int:
        beside = neighbour if "side_by_side" in self.order else 0
        if self.kind == "nhd":
            return self.page_size * self.num_heads * (width + beside + self._head_gap)
        return self.num_heads * (self.page_size * width + self._head_gap)

    def _token_and_head(self, width: int) -> tuple[int, int]:
        run = width + self._head_gap + (self.neighbour if "side_by_side" in self.order else 0)
        if self.order in {"heads_in_page", "heads_side_by_side"}:
            return run, self.page_size * run
        return self.num_heads * run, run

    def index(self, page: torch.Tensor, offset: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Index of the elements of n tokens, which broadcasts to [n, heads, width]: `cache[index]`, in the tensor's dimensions.

        `page`, `offset`: int64 [n], the page and the position in it of each token.
        """
        page, offset = page[:, None, None], offset[:, None, None]
        head = torch.arange(self.num_heads)[None, :, None]
        column = torch.arange(self.width)[None, None, :]
        if self.kind == "nhd":
            return page, offset, head, column
        if self.role == "key":
            return page, head, column // self.pack, offset, column % self.pack
        if self.kind == "head_major":
            return page, head, column, offset
        at = (offset // self.pack) * self.width * self.pack + column * self.pack + offset % self.pack
        return page, head, at // self.page_size, at % self.page_size

    def allocate(
        self,
        arena: Arena,
        name: str,
        dtype: torch.dtype,
        placement: Placement,
        *,
        lead: int = 0,
        storage: str = "small",
        guard: int = 0,
        far: str = "none",
    ) -> torch.Tensor:
        """The tensor `name` with as many pages as `placement` has, all poison; see `Arena.tensor`, and `stretched` for `far`.

        Raises `StagingError` where the machine has no address space for far pages.
        """
        strides, committed = self.stretched(far, placement)
        return arena.tensor(
            name,
            self.sizes(placement.num_pages),
            dtype,
            strides=strides,
            committed=committed,
            lead=lead,
            storage_bytes=LARGE_STORAGE_BYTES if storage == "large" else 0,
            guard=guard,
        )


def put(cache: torch.Tensor, index: Sequence[torch.Tensor], content: torch.Tensor) -> None:
    """`cache[index] = content`, of one dtype; also of FP8, into which torch puts no elements."""
    raw = torch.uint8 if cache.element_size() == 1 else cache.dtype
    cache.view(raw)[tuple(index)] = content.contiguous().view(raw)
