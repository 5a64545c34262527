"""Guarded memory: what is poisoned, what counts as damage, and how precisely it is named."""

from __future__ import annotations

import itertools
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tridiff.harness.api import RAW, Allocation, Arena, Poison, StagingError, Zone, dense_strides, pattern
from tridiff.harness.api.arena import extent

FLOATS = (torch.float64, torch.float32, torch.bfloat16, torch.float16)
FLOATS_8 = (torch.float8_e4m3fn, torch.float8_e4m3fnuz, torch.float8_e5m2, torch.float8_e5m2fnuz)
INTEGERS = (torch.int64, torch.int32, torch.int16, torch.int8)
PAGE_BYTES = 4096


def allocated(arena: Arena, name: str = "x") -> Allocation:
    """Seal the arena and return one of its allocations."""
    arena.seal()
    return arena.allocations[name]


def number(dtype: torch.dtype, poison: Poison, zone: Zone = Zone.INPUT) -> float:
    """The value that a poisoned element of `dtype` holds."""
    raw = torch.tensor([pattern(dtype, poison, zone)], dtype=RAW[dtype.itemsize])
    return float(raw.view(dtype).to(torch.float64).item())


def resident_bytes() -> int:
    """Memory of this process that is backed by pages."""
    return int(Path("/proc/self/statm").read_text(encoding="utf-8").split()[1]) * PAGE_BYTES


# Poison


@pytest.mark.parametrize("zone", Zone)
@pytest.mark.parametrize("dtype", [*FLOATS, *FLOATS_8], ids=str)
def test_loud_float_is_nan(dtype: torch.dtype, zone: Zone) -> None:
    """Every float format has a NaN for poison."""
    assert math.isnan(number(dtype, Poison.LOUD, zone))


@pytest.mark.parametrize("dtype", [*FLOATS, *FLOATS_8], ids=str)
def test_quiet_float_is_finite_and_large(dtype: torch.dtype) -> None:
    """What a kernel adds up by mistake under quiet poison is seen in any sum."""
    assert 10.0 < number(dtype, Poison.QUIET) < math.inf


@pytest.mark.parametrize("dtype", FLOATS, ids=str)
def test_zones_have_nan_payloads_of_their_own(dtype: torch.dtype) -> None:
    """A copied poison is told from a kept one, and so is any NaN that a kernel computes, itself or from poison."""
    bits = [pattern(dtype, Poison.LOUD, zone) for zone in Zone]

    copied = torch.tensor(bits[0], dtype=RAW[dtype.itemsize]).view(dtype)
    converted = copied.to(torch.float64).to(torch.float32).to(dtype)
    invalid = [torch.tensor(math.inf, dtype=dtype) * 0, torch.tensor(math.nan, dtype=dtype), -torch.tensor(math.nan, dtype=dtype)]
    computed = [int(value.view(RAW[dtype.itemsize])) for value in (converted, copied + 1, *invalid)]

    assert len(set(bits)) == len(Zone)
    assert bits[Zone.OUTPUT.value] not in computed
    assert bits[Zone.SCRATCH.value] not in computed


@pytest.mark.parametrize("dtype", INTEGERS, ids=str)
def test_integer_poison_is_no_plausible_index(dtype: torch.dtype) -> None:
    """Loud integers are near the top of their range, quiet ones negative."""
    top = torch.iinfo(dtype).max

    assert all(number(dtype, Poison.LOUD, zone) > 0.9 * top for zone in Zone)
    assert number(dtype, Poison.QUIET) < 0


@pytest.mark.parametrize(
    ("poison", "dtype"), list(itertools.product(Poison, [*FLOATS, *FLOATS_8, *INTEGERS, torch.uint8, torch.bool])), ids=str
)
def test_poison_fills_view_and_red_zones(poison: Poison, dtype: torch.dtype) -> None:
    """A fresh tensor holds nothing but the pattern of its dtype, kind and zone; so do at least 1024 bytes on both sides."""
    arena = Arena(poison)
    view = arena.tensor("x", (3, 5), dtype)
    allocation = allocated(arena)

    guard = int(view.storage_offset()) * dtype.itemsize

    assert set(allocation.raw.tolist()) == {pattern(dtype, poison, Zone.INPUT)}
    assert guard >= 1024
    assert allocation.storage.numel() * dtype.itemsize == 2 * guard + 15 * dtype.itemsize


def test_outputs_have_poison_of_their_own() -> None:
    """Poison copied from an input into an output counts as written, and is left to the check for NaN."""
    arena = Arena()
    source, output = arena.tensor("x", (4,), torch.float32), arena.output("out", (4,), torch.float32)
    allocation = allocated(arena, "out")

    output.copy_(source)

    assert bool(output.isnan().all())
    assert allocation.unwritten() is None


# Layout


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.int8], ids=str)
@pytest.mark.parametrize("shape", [(1,), (7, 3), (2, 5, 64)])
def test_views_are_aligned(dtype: torch.dtype, shape: tuple[int, ...]) -> None:
    """A view begins at a multiple of 64 bytes, as production's tensors do, so Triton specialises it alike."""
    view = Arena().tensor("x", shape, dtype)

    assert view.data_ptr() % 64 == 0


def test_strides_are_as_asked() -> None:
    """The view has the shape and strides asked for; what lies between belongs to it, and nothing outside."""
    arena = Arena()
    view = arena.tensor("x", (2, 3), torch.float32, strides=(10, 2))
    allocation = allocated(arena)

    start = int(view.storage_offset())

    assert tuple(view.shape) == (2, 3)
    assert view.stride() == (10, 2)
    assert allocation.legal == ((start, start + 15),)


def test_dense_strides() -> None:
    """Row-major, with empty axes counted as one."""
    assert dense_strides((2, 3, 4)) == (12, 4, 1)
    assert dense_strides((2, 0, 4)) == (4, 4, 1)
    assert dense_strides(()) == ()


def test_names_are_unique() -> None:
    """A second tensor of one name is refused."""
    arena = Arena()
    arena.tensor("x", (1,), torch.float32)

    with pytest.raises(ValueError, match="already holds a tensor 'x'"):
        arena.output("x", (1,), torch.float32)


# Damage


def strided() -> tuple[Arena, torch.Tensor, Allocation]:
    """A sealed output [2, 3] with strides (8, 1): five elements of gap behind the first row."""
    arena = Arena()
    view = arena.output("out", (2, 3), torch.float32, strides=(8, 1))
    return arena, view, allocated(arena, "out")


@pytest.mark.parametrize(
    ("offset", "where"),
    [
        (-256, "256 elements before out"),
        (-2, "2 elements before out"),
        (-1, "1 element before out"),
        (3, "1 element into the gap after out[0, 2]"),
        (7, "5 elements into the gap after out[0, 2]"),
        (11, "1 element past the end of out"),
        (12, "2 elements past the end of out"),
        (266, "256 elements past the end of out"),
    ],
)
def test_every_undeclared_write_is_found(offset: int, where: str) -> None:
    """One element written next to the view or into its gap is found and named exactly."""
    _, view, allocation = strided()
    view.zero_()

    allocation.storage[int(view.storage_offset()) + offset] = 2.5
    damage = allocation.changed()

    assert damage is not None
    assert (damage.tensor, damage.where, damage.after, damage.count) == ("out", where, 2.5, 1)
    assert math.isnan(damage.before)


def test_declared_writes_are_no_damage() -> None:
    """Writing the whole view, and nothing else, leaves nothing to report."""
    _, view, allocation = strided()

    view.zero_()

    assert allocation.changed() is None
    assert allocation.unwritten() is None


def test_every_unwritten_element_is_found() -> None:
    """The first element that was left out is named, with the number of all of them."""
    _, view, allocation = strided()

    view[0] = 1.0
    view[1, 0] = 1.0
    damage = allocation.unwritten()

    assert damage is not None
    assert (damage.where, damage.count) == ("out[1, 1]", 2)


def test_inputs_must_not_change() -> None:
    """The value before and after is reported, and all changed elements are counted."""
    arena = Arena()
    view = arena.tensor("x", (4,), torch.int32)
    view.copy_(torch.arange(4))
    allocation = allocated(arena)

    view[1:3] += 10
    damage = allocation.changed()

    assert damage is not None
    assert (damage.where, damage.before, damage.after, damage.count) == ("x[1]", 1, 11, 2)


@pytest.mark.parametrize(("before", "after"), [(0.0, -0.0), (math.nan, -math.nan)])
def test_comparison_is_bit_for_bit(before: float, after: float) -> None:
    """Values that compare equal, or never do, are told apart by their bits."""
    arena = Arena()
    view = arena.tensor("x", (2,), torch.float32)
    view.fill_(before)
    allocation = allocated(arena)

    assert allocation.changed() is None
    view[1] = after
    damage = allocation.changed()

    assert damage is not None
    assert damage.where == "x[1]"


def test_part_of_a_tensor_can_be_declared() -> None:
    """Only the declared elements must be written, and only they may be."""
    arena = Arena()
    view = arena.tensor("cache", (2, 3), torch.float32)
    view.zero_()
    arena.declare_writes("cache", torch.tensor([[False, True, False], [False, False, True]]))
    view[0, 1] = view[1, 2] = math.nan
    view.view(torch.int32)[0, 1] = view.view(torch.int32)[1, 2] = pattern(torch.float32, Poison.LOUD, Zone.INPUT)
    allocation = allocated(arena, "cache")

    missing = allocation.unwritten()
    view[0, 1] = view[1, 2] = 5.0
    legitimate = allocation.changed()
    view[1, 1] = 5.0
    damage = allocation.changed()

    assert missing is not None
    assert (missing.where, missing.count) == ("cache[0, 1]", 2)
    assert legitimate is None
    assert damage is not None
    assert (damage.where, damage.before, damage.after) == ("cache[1, 1]", 0.0, 5.0)


@pytest.mark.parametrize("strides", [(12, 4, 1), (1, 2, 6), (100, 10, 2), (4, 8, 1)])
def test_every_element_is_located(strides: tuple[int, ...]) -> None:
    """Whatever the order of axes in memory, the element's index is what is named."""
    arena = Arena()
    view = arena.tensor("x", (2, 3, 4), torch.float32, strides=strides)
    allocation = allocated(arena)

    located = {
        allocation.locate(int(view[index].storage_offset())): f"x[{', '.join(map(str, index))}]"
        for index in itertools.product(range(2), range(3), range(4))
    }

    assert located == {name: name for name in located.values()}
    assert len(located) == 24


# Special shapes


@pytest.mark.parametrize("shape", [(0,), (0, 4), (4, 0)])
def test_empty_tensor_has_red_zones_only(shape: tuple[int, ...]) -> None:
    """Nothing must be written to an empty output, and nothing may be."""
    arena = Arena()
    view = arena.output("out", shape, torch.float32)
    allocation = allocated(arena, "out")

    untouched = (allocation.changed(), allocation.unwritten())
    allocation.storage[int(view.storage_offset())] = 1.0
    damage = allocation.changed()

    assert view.numel() == 0
    assert untouched == (None, None)
    assert damage is not None
    assert damage.where == "1 element past the end of out"


def test_scalar_tensor() -> None:
    """A tensor without axes is one element."""
    arena = Arena()
    view = arena.output("out", (), torch.float32)
    allocation = allocated(arena, "out")

    missing = allocation.unwritten()
    view.fill_(1.0)

    assert missing is not None
    assert (missing.where, missing.count) == ("out[]", 1)
    assert allocation.unwritten() is None


def test_zero_stride() -> None:
    """A broadcast axis costs no memory; its elements are named by index 0 along it."""
    arena = Arena()
    view = arena.tensor("x", (1000, 3), torch.float32, strides=(0, 1))
    allocation = allocated(arena)

    view[0, 2] = 1.0
    damage = allocation.changed()

    assert allocation.legal == ((256, 259),)
    assert float(view[999, 2]) == 1.0
    assert damage is not None
    assert damage.where == "x[0, 2]"


# Holes


def test_hole_costs_address_space_only() -> None:
    """A page 2^31 elements away costs kilobytes; committed spans are poisoned and watched, the hole between is neither."""
    far, page = 2**31, 1024
    before = resident_bytes()
    arena = Arena()
    view = arena.tensor("cache", (2, page), torch.float32, strides=(far, 1), committed=[(0, page), (far, far + page)])
    allocation = allocated(arena, "cache")

    grown = resident_bytes() - before
    view[1, 5] = 1.0
    damage = allocation.changed()

    assert allocation.storage.numel() * 4 > 2**33
    assert grown < 2**24
    assert bool(view[0].isnan().all())
    assert allocation.legal == ((256, 256 + page), (256 + far, 256 + far + page))
    assert damage is not None
    assert damage.where == "cache[1, 5]"


def test_writes_may_be_declared_behind_a_hole() -> None:
    """The first and the last element of a committed span can be declared like any other."""
    arena = Arena()
    spans = [(0, 4), (1000, 1004)]
    view = arena.tensor("cache", (2, 4), torch.float32, strides=(1000, 1), committed=spans)
    arena.declare_writes("cache", torch.tensor([[False] * 4, [True, False, False, True]]))
    allocation = allocated(arena, "cache")

    view[1, 0] = view[1, 3] = 1.0
    legitimate = (allocation.changed(), allocation.unwritten())
    view[0, 3] = 1.0
    damage = allocation.changed()

    assert legitimate == (None, None)
    assert damage is not None
    assert (damage.where, damage.count) == ("cache[0, 3]", 1)


# Placement


@pytest.mark.parametrize("lead", [1, 3, 8, 100])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.int8], ids=str)
def test_view_begins_off_alignment(dtype: torch.dtype, lead: int) -> None:
    """So many elements behind a multiple of 64 bytes; what leads there is watched like a red zone, and is not legal."""
    arena = Arena()
    view = arena.tensor("x", (3, 5), dtype, lead=lead)
    allocation = allocated(arena)
    start = int(view.storage_offset())
    first = allocation.changed()

    allocation.storage[start - lead] = 1
    damage = allocation.changed()

    assert view.data_ptr() % 64 == lead * dtype.itemsize % 64
    assert allocation.legal == ((start, start + 15),)
    assert start * dtype.itemsize == 1024 + lead * dtype.itemsize
    assert allocation.live == ((0, allocation.storage.numel()),)
    assert first is None
    assert damage is not None
    assert damage.where == f"{lead} element{'s' * (lead > 1)} before x"


def test_lead_with_strides_holes_and_writes() -> None:
    """Spans, gaps and declared writes count from the view's first element as without it."""
    arena = Arena()
    view = arena.tensor("cache", (2, 4), torch.float32, strides=(1000, 1), committed=[(0, 4), (1000, 1004)], lead=3)
    arena.declare_writes("cache", torch.tensor([[False] * 4, [True, False, False, True]]))
    allocation = allocated(arena, "cache")

    view[1, 0] = view[1, 3] = 1.0

    assert allocation.legal == ((259, 263), (1259, 1263))
    assert allocation.live == ((0, 263), (1259, 1263 + 256))
    assert (allocation.changed(), allocation.unwritten()) == (None, None)


@pytest.mark.parametrize("kind", ["tensor", "output"])
@pytest.mark.parametrize("size", [2**31, 5 * 2**30 + 1])
def test_large_storage_costs_address_space_only(kind: str, size: int) -> None:
    """The storage has the size asked for; what is legal and what is compared are as without it."""
    before = resident_bytes()
    arena, small = Arena(), Arena()
    view = getattr(arena, kind)("x", (4, 3), torch.float32, storage_bytes=size)
    getattr(small, kind)("x", (4, 3), torch.float32)
    allocation = allocated(arena)
    unharmed = allocation.changed()

    grown = resident_bytes() - before

    assert size <= view.untyped_storage().nbytes() < size + 4
    assert (allocation.legal, allocation.live) == (allocated(small).legal, allocated(small).live)
    assert allocation.writable.tolist() == allocated(small).writable.tolist()
    assert unharmed is None
    assert grown < 2**22


def test_storage_is_never_smaller_than_needed() -> None:
    """A size that the view and its red zones exceed asks for nothing."""
    arena = Arena()

    view = arena.tensor("x", (100,), torch.float32, storage_bytes=400)

    assert view.untyped_storage().nbytes() == 2 * 1024 + 400


@pytest.mark.parametrize("placement", [{"lead": -1}, {"storage_bytes": -1}, {"guard": -1}])
def test_negative_placement(placement: dict[str, Any]) -> None:
    """Is refused, by name and value."""
    (name,) = placement

    with pytest.raises(ValueError, match=f"{name}=-1.*: none may be negative"):
        Arena().tensor("x", (1,), torch.float32, **placement)


@pytest.mark.parametrize("elements", [2**50, 2**61])
def test_too_large_a_tensor_is_a_staging_error(elements: int) -> None:
    """What no machine can hold is said in GiB, by name, and is no crash."""
    with pytest.raises(StagingError, match=r"no address space for cache: \d+\.\d GiB of torch\.float32"):
        Arena().tensor("cache", (elements,), torch.float32)


# Memory that a kernel updates in place


def _cache(poison: Poison = Poison.LOUD, dtype: torch.dtype = torch.int8) -> Arena:
    """A cache [3 pages, 2 slots, 4 elements], gaps of 3 after each page, full of data; slot 1 of page 2 is written."""
    arena = Arena(poison)
    arena.tensor("cache", (3, 2, 4), dtype, strides=(11, 4, 1))
    arena.scribble("cache", seed=1)
    arena.declare_cells("cache", _slot(2, 1))
    arena.seal()
    return arena


def _slot(page: int, offset: int) -> tuple[torch.Tensor, ...]:
    return torch.tensor([page]), torch.tensor([offset]), torch.arange(4)


def test_scribbled_memory_is_the_same_data_under_both_poisons() -> None:
    """Gaps included; the declared elements alone hold poison, and the red zones."""
    loud, quiet = (_cache(poison).allocations["cache"] for poison in Poison)
    differs = np.flatnonzero(loud.raw != quiet.raw)
    inside = differs[(differs >= extent(loud.view)[0]) & (differs < extent(loud.view)[1])]

    assert np.array_equal(inside, loud.writable)
    assert loud.writable.size == 4
    assert len(set(loud.raw[slice(*extent(loud.view))].tolist())) > 15


def test_slot_that_is_declared_may_change_alone() -> None:
    """Neighbours, a gap and the red zone below may not; all that did are told, counted from the first element."""
    arena = _cache()
    cache = arena.allocations["cache"]
    cache.view[2, 1] = 1
    assert cache.changed() is None

    first = int(cache.view.storage_offset())
    for element in (-4, 0, 9):
        cache.raw[first + element] ^= 1
    damage = cache.changed()

    assert damage is not None
    assert damage.cells.tolist() == [-4, 0, 9]
    assert damage.where == "4 elements before cache"


@pytest.mark.parametrize("poison", Poison)
def test_code_that_equals_poison_is_no_unwritten_element(poison: Poison) -> None:
    """Of int8 every code is legal, so two runs tell: what holds the poison of either was left out."""
    arenas = [_cache(each) for each in (poison, *(other for other in Poison if other is not poison))]
    first, again = (arena.allocations["cache"] for arena in arenas)
    code = pattern(torch.int8, poison, Zone.INPUT)
    for each in (first, again):
        each.view[2, 1, :3] = code

    assert first.kept().tolist() == [True] * 4
    damage = first.unwritten(again)

    assert damage is not None
    assert damage.where == "cache[2, 1, 3]"
    assert damage.count == 1


def test_permitted_elements_are_nobodys_business() -> None:
    """They may be written or not."""
    arena = Arena()
    arena.tensor("cache", (3, 2, 4), torch.float32).zero_()
    arena.permit_cells("cache", _slot(1, 0))
    arena.seal()
    cache = arena.allocations["cache"]

    cache.view[1, 0, 2] = 5.0
    assert cache.changed() is None
    assert arena.written() == ()

    cache.view[1, 1, 2] = 5.0
    assert cache.changed() is not None


def test_elements_declared_twice_or_in_a_hole() -> None:
    """Both are errors of whoever built the inputs."""
    arena = Arena()
    arena.tensor("cache", (3, 2, 4), torch.float32, committed=[(0, 8), (16, 24)])
    twice = (torch.tensor([0, 0])[:, None], torch.tensor([1, 1])[:, None], torch.arange(4))

    with pytest.raises(ValueError, match="cache: an element is declared as written twice"):
        arena.declare_cells("cache", twice)
    with pytest.raises(ValueError, match="cache: an element in a hole"):
        arena.declare_cells("cache", _slot(1, 0))
    with pytest.raises(ValueError, match="1 indices for 3 dimensions"):
        arena.declare_cells("cache", (torch.tensor([0]),))


def test_guard_widens_the_red_zones() -> None:
    """A store into the slot before the first one then still hits memory that is compared."""
    arena = Arena()
    arena.tensor("cache", (2, 700), torch.float32, guard=700)
    arena.seal()
    cache = arena.allocations["cache"]

    cache.raw[int(cache.view.storage_offset()) - 700] = 0
    damage = cache.changed()

    assert damage is not None
    assert damage.cells.tolist() == [-700]
