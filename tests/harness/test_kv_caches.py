"""Layouts of KV caches: sizes and strides of captured caches, and which element is where."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch

from tridiff.harness.api import offsets_of
from tridiff.strategies.kv_caches import HEAD_MAJOR_KINDS, KINDS, ORDERS, PAGES, KVCache, orders
from tridiff.strategies.layouts import Placement

PAGE_SIZE, HEADS, PAGES_HELD = 16, 3, 2


def cache(role: str, **fields: Any) -> KVCache:
    """A small cache; `fields` say what is different."""
    width, neighbour = {"key": (16, 24), "value": (24, 16)}[role]
    small = KVCache(
        role=role,
        kind="nhd",
        order="token_major",
        pages="packed",
        gap=5,
        page_size=PAGE_SIZE,
        num_heads=HEADS,
        width=width,
        neighbour=neighbour,
        itemsize=2,
    )
    return replace(small, **fields)


EVERY = [(kind, order, pages) for kind in KINDS for order in orders(kind) for pages in PAGES]


def addresses(which: KVCache) -> torch.Tensor:
    """Elements of all slots of all pages, [pages, page size, heads, width], counted from the first page's first."""
    page = torch.arange(PAGES_HELD).repeat_interleave(which.page_size)
    offset = torch.arange(which.page_size).repeat(PAGES_HELD)
    view = torch.empty_strided(which.sizes(PAGES_HELD), which.strides, dtype=torch.int16, device="meta")
    found = offsets_of(view, which.index(page, offset))
    return torch.from_numpy(found).reshape(PAGES_HELD, which.page_size, which.num_heads, which.width)


@pytest.mark.parametrize(
    ("shape", "key", "value"),
    [
        (  # captured by others: Qwen3-class 27B in FP8, two ranks, K and V of a page adjacent
            {"page_size": 1568, "num_heads": 2, "width": 256, "itemsize": 1},
            ((543, 2, 16, 1568, 16), (1605632, 401408, 25088, 16, 1)),
            ((543, 2, 256, 1568), (1605632, 401408, 1568, 1)),
        ),
        (  # Qwen3-Next, one rank, bfloat16
            {"page_size": 544, "num_heads": 2, "width": 256, "itemsize": 2},
            ((543, 2, 32, 544, 8), (557056, 139264, 4352, 8, 1)),
            ((543, 2, 256, 544), (557056, 139264, 544, 1)),
        ),
    ],
)
@pytest.mark.parametrize("kind", HEAD_MAJOR_KINDS)
def test_strides_are_those_of_real_caches(
    shape: dict[str, int], key: tuple[tuple[int, ...], ...], value: tuple[tuple[int, ...], ...], kind: str
) -> None:
    """Sizes and strides of hybrid models' caches, whose pages lie twice their size apart."""
    caches = [cache(role, kind=kind, pages="block_interior", neighbour=shape["width"], **shape) for role in ("key", "value")]

    assert [(each.sizes(543), each.strides) for each in caches] == [key, value]
    assert not any(each.is_packed for each in caches)


def test_strides_of_the_triton_backend() -> None:
    """Pages are [heads, page size, K and V]: a token is 2 D long, and a head the page size times that."""
    key = cache("key", order="heads_side_by_side", width=64, neighbour=64)

    assert key.sizes(7) == (7, PAGE_SIZE, HEADS, 64)
    assert key.strides == (HEADS * PAGE_SIZE * 128, 128, PAGE_SIZE * 128, 1)


@pytest.mark.parametrize(("kind", "order", "pages"), EVERY)
@pytest.mark.parametrize("role", ["key", "value"])
def test_index_addresses_as_the_formulas_say(kind: str, order: str, pages: str, role: str) -> None:
    """Every slot has elements of its own, where the layout's formula has them, and none leaves its page."""
    which = cache(role, kind=kind, order=order, pages=pages, itemsize=4)
    page, offset, head, column = torch.meshgrid(*map(torch.arange, (PAGES_HELD, PAGE_SIZE, HEADS, which.width)), indexing="ij")
    stride, x = which.strides, 4
    inside = {
        ("nhd", "key"): lambda: offset * stride[1] + head * stride[2] + column,
        ("head_major", "key"): lambda: head * stride[1] + (column // x) * stride[2] + offset * x + column % x,
        ("head_major", "value"): lambda: head * stride[1] + column * stride[2] + offset,
        ("interleaved", "value"): lambda: head * stride[1] + (offset // x) * which.width * x + column * x + offset % x,
    }
    inside |= {("nhd", "value"): inside["nhd", "key"], ("interleaved", "key"): inside["head_major", "key"]}

    found = addresses(which)

    assert torch.equal(found, page * stride[0] + inside[kind, role]())
    assert found.unique().numel() == found.numel()
    assert int(found[0].max()) < which.page_elements <= stride[0]


@pytest.mark.parametrize(
    ("order", "pages", "start"),
    [
        *(
            (order, pages, None)
            for order in ("token_major", "padded_heads", "heads_in_page")
            for pages in ("block_interior", "layers")
        ),
        *((order, pages, 16) for order in ("side_by_side", "heads_side_by_side") for pages in PAGES),
    ],
)
def test_both_caches_fit_into_one_pool(order: str, pages: str, start: int | None) -> None:
    """What one cache leaves between its pages, or beside its heads, is the room that the other needs."""
    key, value = (cache(role, order=order, pages=pages) for role in ("key", "value"))

    both = torch.cat([addresses(key).flatten(), addresses(value).flatten() + (key.page_elements if start is None else start)])

    assert both.unique().numel() == both.numel()


@pytest.mark.parametrize(("kind", "order", "pages"), EVERY)
def test_packed_pages_are_those_without_gaps(kind: str, order: str, pages: str) -> None:
    """As the readers of vLLM ask for their native layout: the stride of pages is the number of a page's elements."""
    which = cache("value", kind=kind, order=order, pages=pages)
    sizes = which.sizes(1)

    assert which.is_packed == (which.strides[0] == sizes[1] * sizes[2] * sizes[3])
    assert which.is_packed == (pages == "packed" and order in {"token_major", "heads_in_page"})


def test_gaps_are_as_long_as_told() -> None:
    """Between heads, and between pages."""
    heads = [cache("key", order="padded_heads", gap=gap).strides for gap in (1, 7)]
    pages = [cache("key", pages="padded", gap=gap).strides for gap in (1, 7)]

    assert heads == [(PAGE_SIZE * HEADS * (16 + gap), HEADS * (16 + gap), 16 + gap, 1) for gap in (1, 7)]
    assert pages == [(PAGE_SIZE * HEADS * 16 + gap, HEADS * 16, 16, 1) for gap in (1, 7)]
    assert set(ORDERS) > set(orders("head_major"))


@pytest.mark.parametrize("kind", KINDS)
def test_pages_are_as_far_apart_as_told(kind: str) -> None:
    """A page of the other cache, or that and both pages of another layer, lie in between."""
    key, value = (PAGE_SIZE * HEADS * width for width in (16, 24))

    found = {pages: cache("key", kind=kind, pages=pages).page_stride for pages in PAGES}

    assert found == {"packed": key, "block_interior": key + value, "padded": key + 5, "layers": 2 * (key + value)}


FAR = [("heads", kind) for kind in KINDS] + [("positions", "nhd")]


@pytest.mark.parametrize(("far", "kind"), FAR)
@pytest.mark.parametrize("pages", PAGES)
@pytest.mark.parametrize("role", ["key", "value"])
def test_far_heads_and_positions_need_64_bits(far: str, kind: str, pages: str, role: str) -> None:
    """The last one lies 2^31 elements behind the first by a stride that 32 bits hold; every slot is in a span of its own."""
    which = cache(role, kind=kind, pages=pages, itemsize=4, order=tuple(orders(kind))[-1])
    strides, spans = which.stretched(far, Placement(pool_size=PAGES_HELD, near=PAGES_HELD, shift=0))
    axis, count = (1, PAGE_SIZE) if far == "positions" else (2 if kind == "nhd" else 1, HEADS)
    page = torch.arange(PAGES_HELD).repeat_interleave(PAGE_SIZE)
    view = torch.empty_strided(which.sizes(PAGES_HELD), strides, dtype=torch.int16, device="meta")

    found = offsets_of(view, which.index(page, torch.arange(PAGE_SIZE).repeat(PAGES_HELD)))

    assert spans is not None
    assert strides[axis] < 2**31 <= strides[axis] * (count - 1)
    assert len(set(found.tolist())) == found.size
    assert sum(int(((found >= start) & (found < stop)).sum()) for start, stop in spans) == found.size
    assert sum(stop - start for start, stop in spans) <= PAGES_HELD * which.page_stride * (1 + (pages != "packed"))
