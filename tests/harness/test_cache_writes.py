"""Cache writes: slots, numbers, and what is said of memory that a writer must not have touched."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch

from tridiff.harness.api import RAW, Allocation, Arena, CaseError, Zone
from tridiff.strategies import cache_writes_values as values
from tridiff.strategies import fp8
from tridiff.strategies.cache_writes import NEGATIVE_KINDS, NEGATIVES, PLACINGS, Slots, negative_tokens, placed, slots_of
from tridiff.strategies.cache_writes_victims import Target, plain_index, scale_index
from tridiff.strategies.cache_writes_victims import victim as victim_of
from tridiff.strategies.reshape_and_cache import ReshapeAndCacheCase, build
from tridiff.strategies.reshape_and_cache_inputs import victim

Case = ReshapeAndCacheCase
Bits = npt.NDArray[np.int64]


# Slots


def slots(**fields: Any) -> tuple[Slots, list[int]]:
    """The slots of a case, and the mapping where pages are as near as they can be."""
    found = slots_of(Case(**fields))
    return found, found.mapping(placed(found, "none", 16)).tolist()


@pytest.mark.parametrize("placing", PLACINGS)
@pytest.mark.parametrize("negatives", NEGATIVES)
def test_every_token_has_a_slot_of_its_own(placing: str, negatives: str) -> None:
    """Whatever is drawn: no slot twice, none beyond the pool, none of the spare page, negative ones where they are asked for."""
    for count, page_size, first_page, order in itertools.product(
        (1, 3, 17), (16, 2096), ("spare", "used"), ("ascending", "shuffled")
    ):
        shape = {"num_tokens": count, "page_size": page_size, "first_page": first_page, "slot_order": order}
        found, mapping = slots(placing=placing, negatives=negatives, seed=count, **shape)
        written = [slot for slot in mapping if slot >= 0]
        spare = 0 if first_page == "spare" else found.pool_size - 1

        assert len(set(written)) == len(written) == len(found.tokens)
        assert all(slot < found.pool_size * page_size and slot // page_size != spare for slot in written)
        assert {at for at, slot in enumerate(mapping) if slot < 0} == set(found.negative)
        assert bool(found.negative) == (negatives != "none")


def test_scattered_negative_slots_are_some() -> None:
    """At least one, whatever the seed, and not always the same."""
    found = [tuple(negative_tokens("scattered", 3, seed)) for seed in range(40)]

    assert min(map(len, found)) == 1
    assert len(set(found)) > 4


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"num_tokens": 3}, [16, 17, 18]),
        ({"num_tokens": 3, "first_page": "used"}, [0, 1, 2]),
        ({"num_tokens": 1, "placing": "straddle"}, [31]),
        ({"num_tokens": 4, "placing": "straddle"}, [30, 31, 32, 33]),
        ({"num_tokens": 3, "placing": "edges"}, [16, 31, 47]),
        ({"num_tokens": 4, "negatives": "head"}, [-1, 16, 17, 18]),
        ({"num_tokens": 3, "negatives": "middle"}, [16, -1, 17]),
        ({"num_tokens": 6, "negatives": "tail"}, [16, 17, 18, 19, -1, -1]),
        ({"num_tokens": 2, "negatives": "all", "negative_slot": "minus_page_and_one"}, [-17, -17]),
        (
            {"num_tokens": 6, "negatives": "all", "negative_slot": "mixed", "slot_dtype": "int32"},
            [-1, -2, -16, -17, -(2**31), -1],
        ),
        ({"num_tokens": 0}, []),
    ],
)
def test_slots_are_where_they_are_said_to_be(fields: dict[str, Any], expected: list[int]) -> None:
    """Runs, edges, straddled pages, and negative slots of each kind."""
    assert slots(**fields)[1] == expected


def test_far_pages_are_addressed_by_their_ids() -> None:
    """The second half of the pool begins 2^31 elements into the cache, and so do its slots."""
    found = slots_of(Case(num_tokens=3, placing="edges", far="pages"))
    placement = placed(found, "pages", 16 * 16)

    page, offset = found.places(placement)

    assert (page * 16 * 16 >= 2**31).all()
    assert torch.equal(found.mapping(placement), page * 16 + offset)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"negatives": "middle", "num_tokens": 0}, "negatives='middle': must be combined with num_tokens of at least 1, not 0"),
        ({"placing": "here"}, "placing='here': must be one of 'run', 'straddle', 'edges', 'scattered'"),
        ({"page_size": 0}, "page_size=0: must be from 1 to 65536"),
        (
            {"far": "pages", "slot_dtype": "int32", "head_dim": 1, "head_dim_v": 1},
            "slot_dtype='int32': cannot hold slot 21474836",
        ),
    ],
)
def test_fields_that_say_nothing_legal(fields: dict[str, Any], message: str) -> None:
    """Are refused, with what they must be."""
    with pytest.raises(CaseError) as raised:
        Case(**fields)

    assert str(raised.value).startswith(message)


def test_padding_rows_hold_poison() -> None:
    """And the rows of tokens hold numbers, those of negative slots too."""
    inputs = build(Case(num_tokens=3, padding_rows=2, negatives="head"), Arena())

    assert inputs["key"].shape[0] == 5
    assert inputs["key"][:3].isfinite().all()
    assert inputs["key"][3:].isnan().all()
    assert len(inputs["slot_mapping"]) == 3


def test_far_rows_begin_beyond_what_32_bits_address() -> None:
    """The last token's, or the last head's where rows have gaps between heads, by a stride that 32 bits hold."""
    near: dict[str, Any] = {"num_tokens": 3, "num_heads": 4, "value_layout": "padded_heads"}
    plain, tokens, heads = (build(Case(**near, far=far), Arena()) for far in ("none", "tokens", "heads"))

    assert tokens["key"].stride(0) < 2**31 <= 2 * tokens["key"].stride(0)
    assert heads["value"].stride(1) < 2**31 <= 3 * heads["value"].stride(1)
    assert heads["key"].stride() == plain["key"].stride()
    for name, found in itertools.product(("key", "value"), (tokens, heads)):
        assert torch.equal(found[name], plain[name])


# Numbers

TYPES = [(dtype, cache) for dtype in values.DTYPES for cache in ("same", *values.DTYPES) if values.types_fit(dtype, cache)]


def drawn_numbers(pattern: str, dtype: str, cache_dtype: str, scale: float = 0.37) -> torch.Tensor:
    """Some numbers, [7, 3, 16]."""
    return values.numbers(pattern, 1.0, 5, "key", (7, 3, 16), dtype=dtype, cache_dtype=cache_dtype, scale=scale)


@pytest.mark.parametrize(("dtype", "cache_dtype"), TYPES)
def test_only_some_patterns_overflow(dtype: str, cache_dtype: str) -> None:
    """The others are finite as they are and as they are stored, whatever the scale; those that overflow say so."""
    cache = values.cache_type(dtype, cache_dtype)
    for pattern, scale in itertools.product(values.PATTERNS, (0.37, 2.0**-10, 64.0)):
        found = drawn_numbers(pattern, dtype, cache_dtype, scale)
        limit = torch.finfo(cache).max * (scale if cache in fp8.DTYPES.values() and cache_dtype != "same" else 1.0)
        inside = found.to(torch.float64).abs() <= limit

        assert found.dtype == values.DTYPES[dtype]
        if values.overflow(pattern, dtype, cache_dtype) == "fits" and pattern != "non_finite":
            assert bool(inside.all())
            assert bool(values.as_stored(found, cache, scale).to(torch.float32).isfinite().all())
    assert bool(drawn_numbers("non_finite", dtype, cache_dtype).to(torch.float32).isnan().any())


@pytest.mark.parametrize("cache_dtype", fp8.DTYPES)
def test_numbers_beyond_the_range(cache_dtype: str) -> None:
    """Some are just above the largest one, some far beyond, some within."""
    found = drawn_numbers("overflow", "float32", cache_dtype).abs() / (fp8.LARGEST[cache_dtype] * 0.37)

    assert bool(((found > 1) & (found < 10)).any())
    assert bool((found > 1e30).any())
    assert bool((found < 0.1).any())


@pytest.mark.parametrize("cache_dtype", [*fp8.DTYPES, "float16", "bfloat16"])
def test_ties_lie_halfway_between_two_codes(cache_dtype: str) -> None:
    """So that rounding up, down, towards zero or away from it all show."""
    dtype = values.DTYPES[cache_dtype]
    found = drawn_numbers("ties", "float32", cache_dtype, scale=1.0)
    bits = found.to(dtype).view(RAW[dtype.itemsize])
    near = torch.stack([(bits + step).view(dtype).to(torch.float32) for step in (-1, 0, 1)])

    distances = (near - found).abs().sort(dim=0).values

    assert torch.equal(distances[0], distances[1])
    assert bool((distances[0] > 0).all())


@pytest.mark.parametrize("cache_dtype", fp8.DTYPES)
def test_small_numbers(cache_dtype: str) -> None:
    """Subnormals of the cache, and zeros of either sign."""
    smallest = torch.finfo(fp8.DTYPES[cache_dtype]).smallest_normal
    subnormal = drawn_numbers("subnormals", "float32", cache_dtype, scale=1.0)
    zeros = drawn_numbers("zeros", "float32", cache_dtype)
    zeros = zeros[zeros == 0]

    assert bool(((subnormal.abs() > 0) & (subnormal.abs() < smallest)).float().mean() > 0.5)
    assert {bool(sign) for sign in torch.signbit(zeros)} == {True, False}


# Live caches


@pytest.mark.parametrize(
    "fields", [{}, {"first_page": "used", "placing": "edges"}, {"negatives": "all"}, {"key_pages": "layers"}]
)
def test_caches_are_live_but_for_what_is_written(fields: dict[str, Any]) -> None:
    """Every byte holds known data, gaps included, but for the tokens' cells, which hold poison."""
    arena = Arena()
    case = Case(num_tokens=3, head_dim=32, **{"negatives": "head", **fields})
    build(case, arena)
    cache = arena.allocations["key_cache"]
    (start, stop) = cache.legal[0]
    content = cache.storage[start:stop]

    poisoned = np.flatnonzero(cache.raw[start:stop] == cache.raw[0]) + start

    assert cache.zone is Zone.INPUT
    assert np.array_equal(poisoned, cache.writable)
    assert cache.writable.size == len(slots_of(case).tokens) * 32
    assert content.numel() >= 2 * 16 * 32


# Victims

Planted = Callable[[Allocation, Bits], None]

_BASE: dict[str, Any] = {
    "num_tokens": 4,
    "negatives": "tail",
    "num_heads": 2,
    "head_dim": 32,
    "head_dim_v": 32,
    "dtype": "bfloat16",
}


def said(case: Case, plant: Planted, role: str = "key") -> str:
    """What is said of the memory that `plant` changes; it gets the allocation, and the bits of each token's row."""
    arena = Arena()
    inputs = build(case, arena)
    arena.seal()
    cache = arena.allocations[f"{role}_cache"]
    rows = values.as_stored(inputs[role].contiguous(), cache.storage.dtype, getattr(case, f"{role[0]}_scale"))
    plant(cache, rows.view(RAW[rows.element_size()]).numpy())
    damage = cache.changed()
    assert damage is not None
    return victim(inputs, f"{role}_cache", damage.cells)


def put(cache: Allocation, offset: int, content: Bits) -> None:
    """Write `content` so many elements behind the cache's first one."""
    start = int(cache.view.storage_offset()) + offset
    cache.raw[start : start + content.size] = content


WRITTEN = "overwritten by token 3 whose slot is -1"


def test_slot_that_no_token_may_write() -> None:
    """Is named, with the head, its bytes, and the token whose data stands there."""
    case = Case(**_BASE)

    whole = said(case, lambda cache, rows: put(cache, 0, rows[3].flatten()))
    part = said(case, lambda cache, rows: put(cache, 32 + 16, rows[3, 1, 16:24]))
    later = said(case, lambda cache, rows: put(cache, (20 * 2 + 1) * 32, rows[1, 1]))

    assert whole == f"slot 0 (page 0, offset 0), head 0, bytes 0..64 {WRITTEN}"
    assert part == f"slot 0 (page 0, offset 0), head 1, bytes 32..48 {WRITTEN}"
    assert later == "slot 20 (page 1, offset 4), head 1, bytes 0..64 overwritten by token 1 whose slot is 17"


def test_memory_outside_of_the_cache() -> None:
    """Below it, where the slot before the first one would lie, and behind its end."""
    case = Case(**_BASE)
    end = 2 * 16 * 64

    below = said(case, lambda cache, rows: put(cache, -64, rows[3].flatten()))
    elsewhere = said(case, lambda cache, rows: put(cache, -70, rows[0, 0, :6]))
    behind = said(case, lambda cache, rows: put(cache, end + 5, rows[2, 1, :10]))

    assert below == f"below the cache, where slot -1 (page 0, offset -1) would lie, head 0, bytes 0..64 {WRITTEN}"
    assert elsewhere == "below the cache overwritten by token 0 whose slot is 16"
    assert behind == "past the end of the cache, bytes 10..30 overwritten by token 2 whose slot is 18"


@pytest.mark.parametrize(("kind", "stride"), [("head_major", 16), ("interleaved", 8)])
def test_slot_below_the_values(kind: str, stride: int) -> None:
    """Of a V whose tokens lie side by side: only the first column's element lies below the cache."""

    def plant(cache: Allocation, rows: Bits) -> None:
        for column in range(32):
            put(cache, column * stride - 1, rows[3, 0, column : column + 1])

    found = said(Case(**_BASE, kind=kind), plant, "value")

    assert found == f"below the cache, where slot -1 (page 0, offset -1) would lie, head 0, bytes 0..2 {WRITTEN}"


def test_slots_of_head_major_caches() -> None:
    """Their elements are gathered, wherever they lie."""

    def plant(cache: Allocation, rows: Bits) -> None:
        for column in range(0, 32, 8):
            put(cache, 512 + column * 16 + 3 * 8, rows[3, 1, column : column + 8])

    found = said(Case(**_BASE, kind="head_major"), plant)

    assert found == f"slot 3 (page 0, offset 3), head 1, bytes 0..64 {WRITTEN}"


def test_gaps() -> None:
    """Between pages, and between heads."""
    pages = said(Case(**_BASE, key_pages="padded"), lambda cache, rows: put(cache, 16 * 64, rows[2, 1, :16]))
    heads = said(Case(**_BASE, key_order="padded_heads"), lambda cache, rows: put(cache, 48 + 34, rows[0, 0, :8]))

    assert pages == "gap after page 0, bytes 0..32 overwritten by token 2 whose slot is 18"
    assert heads == "padding after slot 0 (page 0, offset 0), head 1, bytes 4..20 overwritten by token 0 whose slot is 16"


@pytest.mark.parametrize("far", ["heads", "positions"])
def test_slots_of_caches_whose_heads_or_positions_lie_far_apart(far: str) -> None:
    """The page is not the first dimension by its stride there."""
    case = Case(**{**_BASE, "num_heads": 3}, far=far)
    page, position, head, _ = build(case, Arena())["key_cache"].stride()

    found = said(case, lambda cache, rows: put(cache, page + 5 * position + 2 * head, rows[3, 2]))

    assert found == f"slot 21 (page 1, offset 5), head 2, bytes 0..64 {WRITTEN}"


def test_data_of_nobody_and_of_padding() -> None:
    """What no token holds is said to be so; rows behind the last token have no slot to name."""
    case = Case(**_BASE, padding_rows=1)

    nobody = said(case, lambda cache, rows: put(cache, 3, rows[0, 0, :1] + 1))
    padding = said(case, lambda cache, rows: put(cache, 32, rows[4, 1]))

    assert nobody == "slot 0 (page 0, offset 0), head 0, bytes 6..8 overwritten by no token's data"
    assert padding == "slot 0 (page 0, offset 0), head 1, bytes 0..64 overwritten by row 4, padding behind the last token"


def test_codes_are_compared_as_they_are_stored() -> None:
    """The values of an FP8 cache are found by V's scale."""
    case = Case(**_BASE, cache_dtype="float8_e4m3fnuz", k_scale=4.0, v_scale=0.25)

    found = said(case, lambda cache, rows: put(cache, 32, rows[3, 1]), "value")

    assert found == f"slot 0 (page 0, offset 0), head 1, bytes 0..32 {WRITTEN}"


def test_tensors_that_are_no_cache() -> None:
    """Nothing is known of them."""
    inputs = build(Case(), Arena())

    assert victim(inputs, "key", np.asarray([0])) == ""
    assert victim(inputs, "slot_mapping", np.asarray([0])) == ""


def test_caches_without_heads_and_of_scales() -> None:
    """A head is not named where there is one only; scales are rows of width 1."""
    latent, scales = torch.zeros(2, 16, 8), torch.zeros(2, 16, 3)
    latent[0, 5], scales[1, 2, 1] = torch.arange(8.0), 7.0
    rows = {"latent": torch.arange(16.0).reshape(2, 1, 8), "scales": torch.tensor([[[1.0], [7.0], [9.0]]])}
    common: dict[str, Any] = {"page_size": 16, "slots": torch.tensor([-2, 3])}

    found = [
        victim_of(
            Target(cache=latent, index=plain_index(latent), rows=rows["latent"], has_heads=False, **common), np.arange(41, 48)
        ),
        victim_of(Target(cache=scales, index=scale_index(scales), rows=rows["scales"], **common), np.asarray([55])),
    ]

    assert found == [
        "slot 5 (page 0, offset 5), bytes 4..32 overwritten by token 0 whose slot is -2",
        "slot 18 (page 1, offset 2), head 1, bytes 0..4 overwritten by token 0 whose slot is -2",
    ]
    assert len(NEGATIVE_KINDS) == 5


def test_of_equal_rows_the_one_without_a_slot_is_named() -> None:
    """Nothing of it may be written, so it is the culprit; of several the first."""
    cache, rows = torch.zeros(2, 16, 8), torch.ones(4, 1, 8)
    cache[0, 5] = 1.0
    slots = torch.tensor([7, -3, -1])

    found = victim_of(Target(cache=cache, page_size=16, index=plain_index(cache), slots=slots, rows=rows), np.arange(40, 48))

    assert found.endswith("overwritten by token 1 whose slot is -3")


def test_slot_below_the_cache_lies_in_its_red_zone() -> None:
    """However long a token is: what is written there is compared."""
    case = Case(num_heads=32, head_dim=128, head_dim_v=128, negatives="all")

    found = said(case, lambda cache, rows: put(cache, -32 * 128, rows[0].flatten()))

    assert found.startswith(
        "below the cache, where slot -1 (page 0, offset -1) would lie, head 0, bytes 0..512 overwritten by token 0"
    )
