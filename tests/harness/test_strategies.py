"""The shared atoms of strategies: choices, lengths, paging, layouts and value profiles."""

from __future__ import annotations

import hashlib
import itertools
import random
from collections.abc import Callable
from typing import Any, TypeVar

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, find, given, settings
from hypothesis import strategies as st

from tridiff.harness.api import Domain
from tridiff.strategies import dims, draws, heads, layouts, lengths, models, paging, profiles

T = TypeVar("T")

QUIETLY = settings(database=None, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])


def offsets(sizes: tuple[int, ...], strides: tuple[int, ...]) -> np.ndarray[Any, Any]:
    """Offset of every element of a view."""
    return np.asarray(np.tensordot(strides, np.indices(sizes), axes=1)).ravel()


def shortest(strategy: st.SearchStrategy[T], condition: Callable[[T], bool] = lambda _: True) -> T:
    """Find what Hypothesis shrinks to."""
    return find(
        strategy, condition, settings=settings(QUIETLY, max_examples=2000, report_multiple_bugs=False), random=random.Random(0)
    )


# Choices


@given(st.data())
@settings(QUIETLY, max_examples=50)
def test_a_choice_offers_only_what_fits(data: st.DataObject) -> None:
    """A value that does not fit is never drawn."""
    assert data.draw(draws.choose({1: 5, 2: 1, 3: 1}, lambda value: value != 1)) in {2, 3}


def test_a_choice_shrinks_to_its_first_value() -> None:
    """Order, not size or weight, decides what is simplest."""
    assert shortest(draws.choose({7: 1, 1: 9})) == 7


@pytest.mark.parametrize(
    "weights",
    [
        dims.HEAD_DIMS,
        dims.HEAD_DIMS_V,
        heads.GROUP_SIZES,
        heads.NUM_KV_HEADS,
        paging.PAGE_SIZES,
        layouts.CACHE_LAYOUTS,
        layouts.FAR,
        profiles.PATTERNS,
        profiles.PEAKS,
    ],
)
def test_weights_stay_uniform(weights: dict[Any, int]) -> None:
    """No pool is so long that Hypothesis would favour its start."""
    assert sum(weights.values()) <= draws.UNIFORM


# Heads, widths and models


def test_simplest_heads_and_widths() -> None:
    """One head, group 1, widths 16."""
    simplest = shortest(st.tuples(heads.heads(), dims.head_dims(max_sum=1024)))

    assert simplest == ({"num_kv_heads": 1, "group_size": 1}, {"head_dim": 16, "head_dim_v": 16})


@given(st.integers(32, 1200).flatmap(lambda top: st.tuples(st.just(top), dims.head_dims(max_sum=top))))
@settings(QUIETLY, max_examples=200)
def test_widths_stay_below_their_sum(drawn: tuple[int, dict[str, int]]) -> None:
    """Lk + Lv never exceeds what was allowed."""
    top, widths = drawn

    assert sum(widths.values()) <= top


def test_tiny_widths_are_least_simple() -> None:
    """A failure at width 64 never shrinks to one at width 1."""
    for weights in (dims.HEAD_DIMS, dims.HEAD_DIMS_V):
        order = list(weights)
        assert order[0] == 16
        assert order[-3:] == [1, 2, 8]
        assert order[:-3] == sorted(order[:-3])


@pytest.mark.parametrize(
    ("name", "tp", "kv_heads", "group"),
    [
        ("Qwen2.5-7B", 1, 4, 7),
        ("Qwen2.5-7B", 4, 1, 7),
        ("Llama-3-70B", 8, 1, 8),
        ("Mixtral-8x22B", 2, 4, 6),
        ("Falcon-7B", 1, 1, 71),
        ("StarCoder", 8, 1, 6),
        ("Qwen3-Next-80B-A3B", 8, 1, 2),
    ],
)
def test_models_are_split_over_ranks(name: str, tp: int, kv_heads: int, group: int) -> None:
    """Query heads are divided; KV heads too, until each rank has a copy of one."""
    model = next(model for model in models.GQA_MODELS if model.name == name)

    shape = model.sharded(tp)

    assert model.splits_over(tp)
    assert (shape["num_kv_heads"], shape["group_size"]) == (kv_heads, group)


def test_no_model_is_split_unevenly() -> None:
    """71 heads cannot be split, 28 not over 8; the ranks of all others have Hq / TP heads."""
    splits = {(model.name, tp) for model in models.GQA_MODELS for tp in models.TP_SIZES if model.splits_over(tp)}

    assert ("Falcon-7B", 2) not in splits
    assert ("Qwen2.5-7B", 8) not in splits
    for model in models.GQA_MODELS:
        for tp in (tp for tp in models.TP_SIZES if (model.name, tp) in splits):
            shape = model.sharded(tp)
            assert shape["num_kv_heads"] * shape["group_size"] * tp == model.num_heads


# Lengths


@pytest.mark.parametrize(("page_size", "splits"), [(1, 1), (16, 8), (544, 5), (2048, 264)])
def test_lengths_on_offer(page_size: int, splits: int) -> None:
    """Every boundary is there, in ascending order after 1 and 0, and few enough for uniform draws."""
    pool = lengths.length_weights(page_size, splits)
    around = {base + delta for base in (page_size, splits, 8, 16, 32, 64, 128) for delta in (-1, 0, 1)}

    assert {0, 1, 2} | around <= set(pool)
    assert list(pool)[:3] == [1, 0, 2]
    assert list(pool) == sorted(pool, key=lengths.simplicity)
    assert sum(pool.values()) + 4 <= draws.UNIFORM


def test_long_lengths_differ_from_page_size_to_page_size() -> None:
    """The samples of 67 to 700 together cover most of that range."""
    pools = [lengths.length_weights(page, splits) for page in paging.PAGE_SIZES for splits in (1, 2, 3, 4, 5, 8, 16, 64, 264)]

    covered = {length for pool in pools for length in pool if 66 < length <= 700}

    assert len(covered) > 0.95 * 634


@given(
    st.tuples(st.sampled_from([1, 3, 16, 544]), st.sampled_from([1, 8, 264]), st.integers(1, 3000), st.integers(1, 40)).flatmap(
        lambda drawn: st.tuples(st.just(drawn), lengths.seq_lens(drawn[0], drawn[1], tokens=drawn[2], pages=drawn[3]))
    )
)
@settings(QUIETLY, max_examples=300)
def test_rows_stay_within_tokens_and_pages(drawn: tuple[tuple[int, int, int, int], tuple[int, ...]]) -> None:
    """Between one and five rows, whose keys and pages fit."""
    (page_size, _, tokens, pages), rows = drawn

    assert 1 <= len(rows) <= 5
    assert sum(rows) <= tokens
    assert sum(-(-length // page_size) for length in rows) <= pages


@pytest.mark.parametrize(
    ("condition", "expected"),
    [
        (lambda rows: True, (1,)),
        (lambda rows: 0 in rows, (0,)),
        (lambda rows: max(rows) > 16, (17,)),
        (lambda rows: max(rows) > 37, (38,)),
        (lambda rows: len(rows) > 2, (1, 1, 1)),
        (lambda rows: rows[-1] > 16 and 0 in rows, (0, 17)),
        (lambda rows: any(0 < length < 8 for length in rows) and max(rows) > 64, (65, 1)),
    ],
)
def test_lengths_shrink(condition: Callable[[tuple[int, ...]], bool], expected: tuple[int, ...]) -> None:
    """To the fewest rows and the least lengths."""
    assert shortest(lengths.seq_lens(16, 8, tokens=4000, pages=500), condition) in {expected, expected[::-1]}


# Paging

ROWS = [(1,), (0,), (0, 0), (17, 0, 33), (5, 64, 16, 1), (3, 7, 50)]


def readers(plan: paging.Paging, rows: tuple[int, ...]) -> list[tuple[int, int]]:
    """(pool id, offset) that each token of each row is read from."""
    size = plan.page_size
    return [(int(plan.table[row, at // size]), at % size) for row, length in enumerate(rows) for at in range(length)]


@pytest.mark.parametrize("rows", ROWS)
@pytest.mark.parametrize("order", paging.PAGE_ORDERS)
@pytest.mark.parametrize("sharing", paging.PAGE_SHARINGS)
@pytest.mark.parametrize("page_size", [1, 3, 16])
def test_slots_are_what_rows_read(rows: tuple[int, ...], order: str, sharing: str, page_size: int) -> None:
    """The slots in use are those that some row reads, each once, on pages of the pool."""
    plan = paging.assign_pages(rows, page_size, order=order, sharing=sharing, seed=3)

    slots = list(zip(plan.pool_ids[plan.slot_page].tolist(), plan.slot_offset.tolist(), strict=True))

    assert len(set(slots)) == len(slots)
    assert set(slots) == set(readers(plan, rows))
    assert all(0 <= page < plan.pool_size for page, _ in slots)


@pytest.mark.parametrize("rows", ROWS)
@pytest.mark.parametrize("page_size", [1, 3, 16])
def test_rows_share_pages_only_when_asked(rows: tuple[int, ...], page_size: int) -> None:
    """Without sharing, no two tokens have a slot in common; with it, the common ones are those of equal position."""
    alone = paging.assign_pages(rows, page_size, order="shuffled", sharing="none", seed=1)
    prefix = paging.assign_pages(rows, page_size, order="shuffled", sharing="first_page", seed=1)
    everything = paging.assign_pages(rows, page_size, order="shuffled", sharing="all_pages", seed=1)

    assert len(set(readers(alone, rows))) == sum(rows)
    assert len(set(readers(prefix, rows))) == max(min(n, page_size) for n in rows) + sum(max(0, n - page_size) for n in rows)
    assert len(set(readers(everything, rows))) == max(rows)


def test_a_shuffled_pool_has_a_spare_page() -> None:
    """An identity pool is exactly full, a shuffled one is not in order and has one page that nobody uses."""
    identity = paging.assign_pages((160,), 16, order="identity", sharing="none", seed=0)
    shuffled = paging.assign_pages((160,), 16, order="shuffled", sharing="none", seed=0)

    assert identity.table.tolist() == [list(range(10))]
    assert shuffled.pool_size == 11
    assert shuffled.table.tolist() != [sorted(shuffled.table[0].tolist())]


def test_slot_of_a_token() -> None:
    """`slot` finds the index, among the slots in use, of a row's token."""
    plan = paging.assign_pages((5, 7), 4, order="shuffled", sharing="first_page", seed=0)

    for row, position in [(0, 0), (0, 4), (1, 3), (1, 6)]:
        slot = plan.slot(row, position)
        assert plan.pool_ids[plan.slot_page[slot]] == plan.table[row, position // 4]
        assert plan.slot_offset[slot] == position % 4


# Layouts

SHAPES = [
    layouts.CacheShape(num_pages=3, page_size=4, num_heads=heads, width=width, neighbour=neighbour)
    for heads, width, neighbour in [(1, 1, 3), (2, 5, 2), (3, 4, 4)]
]


@pytest.mark.parametrize("layout", layouts.CACHE_LAYOUTS)
@pytest.mark.parametrize("shape", SHAPES, ids=["1x1", "2x5", "3x4"])
def test_cache_elements_never_overlap(layout: str, shape: layouts.CacheShape) -> None:
    """Every element of a cache has a place of its own, and the layout's size is that of its last element."""
    strides = shape.strides(layout, 16)
    places = offsets((shape.num_pages, shape.page_size, shape.num_heads, shape.width), strides)

    assert len(np.unique(places)) == places.size
    assert places.max() + 1 == shape.elements(layout, 16)
    assert strides[3] == 1


@pytest.mark.parametrize("layout", ["page_gap", "every_gap", "cross_layer", "heads_in_page"])
def test_page_strides_cannot_be_guessed(layout: str) -> None:
    """In these layouts the page stride differs from page size times token stride."""
    page, token, _, _ = SHAPES[2].strides(layout, 16)

    assert page != SHAPES[2].page_size * token


def test_flat_caches_have_pages_without_gaps() -> None:
    """A 3-D cache has one stride for tokens, pages or not."""
    for layout in filter(layouts.is_flat, layouts.CACHE_LAYOUTS):
        page, token, _, _ = SHAPES[1].strides(layout, 16)
        assert page == SHAPES[1].page_size * token


def test_interleaved_keys_leave_room_for_values() -> None:
    """The gap behind each head of K is exactly as wide as a head of V, and the strides are the same."""
    key = layouts.CacheShape(num_pages=2, page_size=4, num_heads=3, width=5, neighbour=7)
    value = layouts.CacheShape(num_pages=2, page_size=4, num_heads=3, width=7, neighbour=5)

    assert key.strides("interleaved", 16) == value.strides("interleaved", 16) == (144, 36, 12, 1)


@pytest.mark.parametrize("layout", sorted({*layouts.QUERY_LAYOUTS, *layouts.ROW_LAYOUTS}))
@pytest.mark.parametrize("sizes", [(1, 1, 1), (2, 3, 4), (3, 2, 5)])
def test_row_elements_never_overlap(layout: str, sizes: tuple[int, int, int]) -> None:
    """Every element of a row-wise tensor has a place of its own, and its last axis is dense."""
    strides = layouts.row_strides(layout, sizes, gap=3, fused=6)

    assert len(np.unique(offsets(sizes, strides))) == np.prod(sizes)
    assert strides[-1] == 1


def test_padded_columns() -> None:
    """A [rows, columns] tensor is padded after its rows."""
    assert layouts.row_strides("packed", (3, 4), gap=5) == (4, 1)
    assert layouts.row_strides("padded_rows", (3, 4), gap=5) == (9, 1)


@pytest.mark.parametrize("pool_size", [1, 2, 7])
@pytest.mark.parametrize("page_stride", [16, 1000, 2096 * 1024])
def test_far_pages_begin_beyond_32_bits(pool_size: int, page_stride: int) -> None:
    """Near pages keep their ids, the others lie beyond 2^31 elements, and only the pool is committed."""
    placement = layouts.place(pool_size, "pages", page_stride)
    ids = placement.ids(np.arange(pool_size))
    spans = placement.committed(page_stride)

    assert ids[: pool_size // 2].tolist() == list(range(pool_size // 2))
    assert (ids[pool_size // 2 :] * page_stride >= 2**31).all()
    assert ids.max() == placement.num_pages - 1
    assert spans is not None
    assert sum(stop - start for start, stop in spans) == pool_size * page_stride
    assert all(any(start <= page * page_stride < stop for start, stop in spans) for page in ids.tolist())


def test_near_pages_have_no_holes() -> None:
    """Without far pages, ids are those of the pool and everything is committed."""
    placement = layouts.place(5, "none", 64)

    assert placement.ids(np.arange(5)).tolist() == [0, 1, 2, 3, 4]
    assert placement.committed(64) is None


@pytest.mark.parametrize("num_heads", [3, 4, 8])
def test_far_heads_lie_beyond_32_bits(num_heads: int) -> None:
    """The last head's offset exceeds 32 bits while the stride itself fits, and each head's pages are committed."""
    shape = layouts.CacheShape(num_pages=3, page_size=16, num_heads=num_heads, width=16, neighbour=16)

    strides, spans = layouts.far_heads(shape.strides("heads_outermost", 16), num_heads)

    assert strides[2] < 2**31 <= (num_heads - 1) * strides[2]
    assert [stop - start for start, stop in spans] == [3 * 16 * 16] * num_heads
    assert [start for start, _ in spans] == [head * strides[2] for head in range(num_heads)]


@pytest.mark.parametrize(
    ("far", "key", "value", "num_heads", "fits"),
    [
        ("none", "heads_outermost", "packed", 1, True),
        ("pages", "packed", "flat", 1, True),
        ("pages", "packed", "heads_outermost", 8, False),
        ("heads", "packed", "heads_outermost", 3, True),
        ("heads", "packed", "heads_outermost", 2, False),
        ("heads", "packed", "packed", 8, False),
    ],
)
def test_what_can_be_far(far: str, key: str, value: str, num_heads: int, fits: bool) -> None:
    """Pages only where they are outermost, heads only where they are and where a product can wrap."""
    assert layouts.far_fits(far, key, value, num_heads) is fits


@given(
    st.integers(2_000, 200_000).flatmap(lambda room: st.tuples(st.just(room), layouts.cache_fields(*SHAPES[1:], elements=room)))
)
@settings(QUIETLY, max_examples=200)
def test_layouts_stay_within_their_room(drawn: tuple[int, dict[str, Any]]) -> None:
    """Both caches together have at most the elements that were allowed."""
    room, fields = drawn

    used = sum(
        shape.elements(fields[f"{name}_layout"], fields["gap"]) for shape, name in zip(SHAPES[1:], ("key", "value"), strict=True)
    )

    assert used <= room


# Values


def digest(values: torch.Tensor) -> str:
    """Short digest of a tensor's bits."""
    return hashlib.blake2b(values.contiguous().numpy().tobytes(), digest_size=8).hexdigest()


def test_normals_have_the_same_bits_everywhere() -> None:
    """A figure computed once, over more than one chunk; it must never change."""
    values = profiles.normals(5, "key", (100, 100))

    assert digest(values) == "02724f4d6cffa7dc"
    assert abs(float(values.double().mean())) < 0.03
    assert abs(float(values.double().std()) - 1) < 0.03


def test_normals_of_different_streams_differ() -> None:
    """Chunks, names and seeds are independent streams."""
    long = profiles.normals(0, "key", (2 * 2**13,))

    assert not torch.equal(long[: 2**13], long[2**13 :])
    assert not torch.equal(profiles.normals(0, "value", (8,)), long[:8])
    assert not torch.equal(profiles.normals(1, "key", (8,)), long[:8])
    assert profiles.normals(0, "key", (0, 2, 3)).shape == (0, 2, 3)


@pytest.mark.parametrize("pattern", ["peaked", "sink"])
@pytest.mark.parametrize("height", [10.0, 30.0, 300.0])
@pytest.mark.parametrize("width", [16, 64, 128])
def test_every_query_head_meets_the_peak_at_its_height(pattern: str, height: float, width: int) -> None:
    """The peak's logit is about the height for all heads of a group, and it outweighs the other keys."""
    query = profiles.query_values(pattern, 0, (3, 8, width), 2)
    keys = profiles.key_values(pattern, 0.1, 0, (50, 2, width), [20], height * width**0.5)

    logits = torch.einsum("bhgd,khd->bhgk", query.view(3, 2, 4, width).double(), keys.double()) / width**0.5

    assert ((logits[..., 20] / height - 1).abs() < 0.6).all()
    assert (logits.argmax(dim=-1) == 20).all()


def test_a_sink_has_no_value() -> None:
    """The peak of a sink contributes nothing but its probability; that of "peaked" does."""
    sink = profiles.value_values("sink", 1.0, 0, (9, 2, 4), [3, 3], 1.0)
    peaked = profiles.value_values("peaked", 1.0, 0, (9, 2, 4), [3], 1.0)

    assert (sink[3] == 0).all()
    assert (peaked[3] != 0).all()
    assert torch.equal(sink[4:], peaked[4:])


def test_identical_keys() -> None:
    """All keys of a head are equal, their values are not."""
    keys = profiles.key_values("identical", 1.0, 0, (9, 2, 4), [], 1.0)
    values = profiles.value_values("identical", 1.0, 0, (9, 2, 4), [], 1.0)

    assert (keys == keys[0]).all()
    assert not torch.equal(keys[0, 0], keys[0, 1])
    assert not torch.equal(values[0], values[1])


def test_mixed_norms() -> None:
    """Keys and values of one token are both tiny or both huge, and both kinds occur."""
    keys = profiles.key_values("mixed_norms", 1.0, 0, (64, 1, 32), [], 1.0).norm(dim=-1)[:, 0]
    values = profiles.value_values("mixed_norms", 1.0, 0, (64, 1, 32), [], 1.0).norm(dim=-1)[:, 0]

    assert torch.equal(keys > 1, values > 1)
    assert 10 < int((keys > 1).sum()) < 54
    assert float(keys.max() / keys.min()) > 1e4


@pytest.mark.parametrize("pattern", profiles.PATTERNS)
@pytest.mark.parametrize("width", [1, 16])
def test_extreme_values_are_finite_in_float16(pattern: str, width: int) -> None:
    """At the limits that a case may have."""
    peak_dot = profiles.MAX_HEIGHT * width**0.5 / profiles.MIN_SCALE_FACTOR
    keys = profiles.key_values(pattern, profiles.MAX_SIGMA, 0, (500, 1, width), [1], peak_dot)
    values = profiles.value_values(pattern, profiles.MAX_SIGMA, 0, (500, 1, width), [1], 57344.0)

    assert keys.half().isfinite().all()
    assert values.half().isfinite().all()


@pytest.mark.parametrize(
    ("peak_at", "positions"),
    [
        ("last", {49}),
        ("first", {0}),
        ("before_page", {15, 31, 47}),
        ("after_page", {16, 32, 48}),
        ("before_split", {12, 25, 38}),
        ("after_split", {13, 26, 39}),
        ("before_tile", {7, 20, 33, 46, 49}),
        ("after_tile", {8, 21, 34, 47, 49}),
    ],
)
def test_where_peaks_lie(peak_at: str, positions: set[int]) -> None:
    """50 keys on pages of 16 in 4 splits of 13, tiles counted from the start of each split; the end where none fits."""
    seen = {
        profiles.peak_position(peak_at, 50, page_size=16, num_kv_splits=4, pick=low + (high << 16))
        for low, high in itertools.product(range(12), range(4))
    }

    assert seen == positions


@pytest.mark.parametrize("peak_at", list(profiles.PEAKS))
@pytest.mark.parametrize("length", [1, 2, 16, 17])
def test_peaks_lie_inside_their_row(peak_at: str, length: int) -> None:
    """Rows too short for a boundary have their peak at an end, never outside."""
    for pick in profiles.picks(0, 20):
        position = profiles.peak_position(peak_at, length, page_size=16, num_kv_splits=8, pick=pick)
        assert 0 <= position < length


def test_profiles_draw_a_peak_only_where_there_is_one() -> None:
    """The fields of a peak are absent from other patterns, so that they keep their simplest value."""
    assert shortest(profiles.profile_fields()) == {
        "pattern": "gaussian",
        "sigma": 1.0,
        "value_sigma": 1.0,
        "logit_cap": 0.0,
        "scale_factor": 1.0,
    }

    sink = shortest(profiles.profile_fields(), lambda fields: bool(fields["pattern"] == "sink"))

    assert (sink["peak_at"], sink["peak_height"]) == ("last", 10.0)


@pytest.mark.parametrize(
    ("pattern", "holds"),
    [
        ("near_duplicates", lambda keys: 0 < (keys - keys[:1]).abs().max() < 0.1 < keys.abs().max()),
        ("one_hot", lambda keys: ((keys != 0).sum(dim=-1) == 1).all()),
        ("constant", lambda keys: (keys == 1).all()),
        ("limits", lambda keys: 0.05 < (keys.abs() == 448).double().mean() < 0.25),
    ],
)
def test_shapes_of_keys(pattern: str, holds: Callable[[torch.Tensor], bool]) -> None:
    """What the name of the pattern says."""
    assert holds(profiles.key_values(pattern, 1.0, 0, (32, 2, 16), [], 1.0, limit=448.0))


@pytest.mark.parametrize(("pattern", "share"), [("constant", 1.0), ("limits", 0.125)])
def test_shapes_of_values(pattern: str, share: float) -> None:
    """All of them, or every eighth, have the magnitude of the pattern."""
    values = profiles.value_values(pattern, 3.0, 0, (64, 2, 16), [], 3.0)

    assert abs(float((values.abs() == 3.0).double().mean()) - share) < 0.05


# What a domain allows


@pytest.mark.parametrize(
    ("limit", "expected"),
    [
        (None, {16: 5, 1: 2, 64: 1}),
        ((64, 16), {16: 5, 64: 1}),
        ((24, 16), {16: 5, 24: 1}),
        (range(16, 65, 16), {16: 5, 64: 1}),
        (range(20, 90, 10), {20: 1}),
        (range(30, 10, -1), {16: 5, 11: 1}),
    ],
)
def test_numbers_that_a_domain_allows(limit: Any, expected: dict[int, int]) -> None:
    """Those of the pool, in its order; then those that are named one by one, and of a range the least."""
    domain = Domain(target="gfx942", limits={} if limit is None else {"size": limit})

    found = draws.allowed({16: 5, 1: 2, 64: 1}, domain, "size")

    assert list(found.items()) == list(expected.items())


def test_words_that_a_domain_allows() -> None:
    """Those of the pool alone: nobody knows what another one would mean; likewise truth values."""
    domain = Domain(target="gfx942", limits={"layout": ("b", "c"), "flag": (True,)})

    assert draws.allowed({"a": 1, "b": 2}, domain, "layout") == {"b": 2}
    assert draws.allowed({False: 3}, domain, "flag") == {}


def test_choices_that_leave_nothing() -> None:
    """Of no values the strategy is empty, and so are fields with it; that none fits is a mistake, and loud."""
    assert draws.fields(a=draws.choose({1: 1}), b=draws.choose({})).is_empty
    with pytest.raises(ValueError, match=r"^none of 1, 2 fits: what was drawn before must leave one$"):
        draws.choose({1: 1, 2: 1}, lambda _: False)
