"""Slots of a paged cache: which tokens are stored, and where."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class Stored:
    """The n tokens that have a slot, int64 [n] each: their number, their page, and their position in it."""

    token: Tensor
    page: Tensor
    position: Tensor

    def rows(self, tensor: Tensor) -> Tensor:
        """What `tensor` [T', ...] holds of these tokens, on the CPU."""
        return torch.stack([tensor[int(token)] for token in self.token]).cpu()

    def at(self, *sizes: int) -> tuple[Tensor, ...]:
        """Index of all their elements in a cache [pages, page size, *sizes], broadcast to [n, *sizes]."""
        shape = (-1, *(1 for _ in sizes))
        along = (
            torch.arange(size).view(*(size if axis == dim else 1 for axis in range(-1, len(sizes))))
            for dim, size in enumerate(sizes)
        )
        return self.page.view(shape), self.position.view(shape), *along


def stored_tokens(slot_mapping: Tensor, cache: Tensor) -> Stored:
    """Tokens whose slot in `cache` [pages, page size, ...] is not negative.

    Raises ValueError for a slot beyond the cache, and for one that two tokens have.
    """
    slots = slot_mapping.to("cpu", torch.int64)
    token = torch.nonzero(slots >= 0).flatten()
    pages, page_size = cache.shape[:2]
    taken = slots[token]
    if bool((taken >= pages * page_size).any()):
        raise ValueError(f"slot_mapping holds {int(taken.max())}: must be below {pages * page_size}, the slots of the cache")
    if taken.unique().numel() < taken.numel():
        raise ValueError(f"slot_mapping is {taken.tolist()}: no two tokens may have the same slot")
    return Stored(token=token, page=taken // page_size, position=taken % page_size)
