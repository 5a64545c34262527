"""The Op `reshape_and_cache`: its cases, what they cover, and the inputs built from them."""

from __future__ import annotations

import functools
import json
import random
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any

import pytest
import torch
from drawn_cases import QUIETLY, draws
from hypothesis import find, settings

from tridiff.harness.api import Arena, CaseError, Domain, Poison, from_json, to_json
from tridiff.harness.domains import outside
from tridiff.harness.registry import builtin
from tridiff.harness.runner import drawing
from tridiff.harness.runner.minimise import minimised
from tridiff.strategies import cache_writes, fp8
from tridiff.strategies.cache_writes_facets import PLACEMENTS
from tridiff.strategies.kv_caches import KINDS, PAGE_SIZES
from tridiff.strategies.reshape_and_cache import (
    OP,
    PRESET_BYTES,
    ReshapeAndCacheCase,
    build,
    cases,
    preset_cases,
    within,
)

Case = ReshapeAndCacheCase
GFX942 = Domain(target="gfx942")


@functools.cache
def sample() -> tuple[Case, ...]:
    """500 cases for gfx942 as a campaign draws them, presets included."""
    return tuple(drawing.drawn(builtin(), "reshape_and_cache", "gfx942", count=500, seed=0))


@functools.cache
def drawn() -> tuple[Case, ...]:
    """Those that are no presets."""
    return tuple(case for case in sample() if not case.model)


@functools.cache
def presets() -> tuple[Case, ...]:
    """Cases with the dimensions of models."""
    return draws(preset_cases(GFX942), 60)


def built(case: Case, poison: Poison = Poison.LOUD) -> tuple[dict[str, Any], Arena]:
    """Build the inputs in an arena of their own."""
    arena = Arena(poison)
    return build(case, arena), arena


def held_bytes(case: Case) -> int:
    """Bytes of both caches that have content."""
    _, arena = built(case)
    caches = [arena.allocations[name] for name in ("key_cache", "value_cache")]
    return sum((stop - start) * cache.storage.element_size() for cache in caches for start, stop in cache.legal)


# Coverage


def test_every_page_size_is_drawn() -> None:
    """Within 500 cases, and each kind with small and with large ones."""
    assert {case.page_size for case in sample()} >= set(PAGE_SIZES)
    assert {(case.kind, case.page_size > 200) for case in drawn()} == {(kind, large) for kind in KINDS for large in (True, False)}


@pytest.mark.parametrize(
    "name",
    [
        *("kind", "negatives", "negative_slot", "placing", "slot_order", "first_page", "slot_dtype", "far", "key_order"),
        *("value_order", "key_pages", "value_pages", "key_layout", "value_layout", "storage", "pattern", "scale_form"),
    ],
)
def test_every_choice_is_drawn(name: str) -> None:
    """Of all that an Op's facet names, and of what a case chooses from."""
    offered = Case.CHOICES[name]

    assert {getattr(case, name) for case in drawn()} == set(offered)


def test_combinations_that_matter_are_drawn() -> None:
    """Slot 0 written and not, FP8 from every dtype, strides of one's own, odd widths, more than a tile of 2048."""
    seen = Counter[str]()
    for case in drawn():
        slots = cache_writes.slots_of(case)
        seen["slot 0"] += 0 in slots.mapping(case.placement(slots))
        seen["all negative"] += bool(slots.negative) and not slots.tokens.size
        seen["no tokens"] += not case.num_tokens
        seen["padding"] += case.padding_rows > 0
        seen["codes as they are"] += case.dtype in fp8.DTYPES
        seen["codes of bfloat16"] += case.dtype == "bfloat16" and case.cache_dtype in fp8.DTYPES
        seen["another float"] += case.cache_dtype in {"float16", "bfloat16"}
        seen["exchanged scales show"] += case.k_scale != case.v_scale
        seen["strides alike"] += OP.facets["cache_strides"].of(case) == "alike"
        seen["own strides"] += OP.facets["cache_strides"].of(case) == "own"
        seen["odd width"] += case.head_dim % 2 == 1
        seen["wide"] += case.num_heads * case.head_dim > 2048
        seen["other width"] += case.head_dim != case.head_dim_v
        seen["packed"] += case.cache("key").is_packed and case.cache("value").is_packed
        seen["heads of a large page"] += case.page_size > 1000 and case.num_heads > 1
        seen["far with many heads"] += case.far == "pages" and case.num_heads > 1
        seen["far heads of head-major caches"] += case.far == "heads" and case.kind != "nhd"

    assert {name for name, count in seen.items() if count < 4} == set()
    assert len(seen) == 17
    assert any(case.far == "heads" and "padded_heads" in {case.key_layout, case.value_layout} for case in drawn())


def test_properties_are_words_of_few() -> None:
    """Reports can count them."""
    for name, of in OP.properties.items():
        words = Counter(map(of, drawn()))

        assert 1 < len(words) <= len(PAGE_SIZES), name


def test_cases_survive_json() -> None:
    """And lie in the domain."""
    for case in (*drawn()[:60], *presets()[:20]):
        assert from_json(Case, json.loads(json.dumps(to_json(case)))) == case
        assert within(case, GFX942)
    assert not within(Case(platform="cuda"), GFX942)
    assert not within(Case(dtype="float8_e4m3fnuz", platform="cuda"), Domain(target="sm_90"))


def test_memory_is_within_the_budget() -> None:
    """Large pages have few heads; presets may be larger, and a part of them has hybrid models' pages."""
    general = [held_bytes(case) for case in drawn()[:60]]

    assert max(general) < 8 * 2**20
    assert sum(general) / len(general) < 2**20
    assert max(map(held_bytes, presets())) <= 2 * PRESET_BYTES
    assert {case.page_size >= 272 for case in presets()} == {True, False}
    assert all(case.model for case in presets())


# Narrowing

LIKE_UPSTREAM: Mapping[str, tuple[Any, ...]] = {
    "cache_strides": ("alike",),
    "row_strides": ("dense",),
    "overflow": ("fits",),
    "key_order": ("token_major", "heads_in_page", "heads_side_by_side"),
    "dtype": ("bfloat16", "float16", "float32"),
}


@pytest.mark.parametrize(
    "limits",
    [
        LIKE_UPSTREAM,
        {**LIKE_UPSTREAM, "kind": ("nhd",), "widths": ("equal",), "negative_slots": ("minus_one",)},
        {"kind": ("interleaved",), "cache_dtype": ("float8_e5m2",), "scale_form": ("vector",), "num_tokens": (1,)},
        {"cache_strides": ("alike",), "head_dim": (64,), "head_dim_v": (64, 80)},
        {"cache_strides": ("own",), "key_pages": ("packed",), "negative_slots": ("minus_page", "lowest"), "storage": ("small",)},
        {"page_size": (2096,), "num_heads": (32,), "head_dim": (256,), "placing": ("edges",), "num_tokens": (17,)},
        {"scale_form": ("absent",), "k_scale": (0.37, 1.0), "v_scale": (1.7,), "dtype": ("float16",)},
        {"num_tokens": range(2), "head_dim": (71,), "far": ("pages",), "slot_dtype": ("int32",)},
    ],
)
def test_limits_are_kept(limits: Mapping[str, Any]) -> None:
    """Several at once, as the kernels of others have them; nothing outside is drawn, and something always is."""
    domain = Domain(target="gfx942", limits=limits)

    found = draws(cases(domain), 8)

    assert len(found) > 3
    assert [outside(OP, case, domain) for case in found if any(outside(OP, case, domain))] == []


def test_what_leaves_nothing() -> None:
    """Draws nothing, rather than raise."""
    nowhere: list[Mapping[str, Any]] = [
        {"kind": ("head_major",), "key_order": ("side_by_side",)},
        {"num_tokens": (0,), "negatives": ("all",)},
        {"dtype": ("float64",)},
        {"pattern": ("overflow",), "overflow": ("fits",), "cache_dtype": ("float8_e5m2",)},
    ]

    assert [cases(Domain(target="gfx942", limits=limits)).is_empty for limits in nowhere] == [True] * 4
    assert preset_cases(Domain(target="gfx942", models=("GPT-0",))).is_empty


def test_formats_are_the_targets() -> None:
    """A part without FNUZ formats sees none of them, but in the whole domain."""
    few = draws(cases(Domain(target="gfx90a")), 20)
    whole = draws(cases(Domain(target="sm_80", whole=True)), 40)

    assert "float8_e4m3fnuz" not in {name for case in few for name in (case.dtype, case.cache_dtype)}
    assert set(fp8.DTYPES) <= {name for case in whole for name in (case.dtype, case.cache_dtype)}
    assert {case.platform for case in whole} == {"cuda"}


# Shrinking


def shortest(condition: Callable[[Case], bool]) -> Case:
    """What Hypothesis and the minimiser make of a failure that needs `condition`."""
    limits = settings(QUIETLY, max_examples=100, report_multiple_bugs=False)
    found: Case = minimised(find(cases(GFX942), condition, settings=limits, random=random.Random(1)), condition)
    return found


@pytest.mark.parametrize(
    ("condition", "expected"),
    [
        (lambda case: case.negatives != "none", Case(negatives="all")),
        (lambda case: case.kind == "interleaved" and case.num_heads > 1, Case(kind="interleaved", num_heads=2)),
    ],
)
def test_failures_shrink_to_what_matters(condition: Callable[[Case], bool], expected: Case) -> None:
    """Fields that a failure does not need become the simplest, the others as small as it allows."""
    found = shortest(condition)

    assert {**to_json(found), "seed": 0} == to_json(expected)


# Cases and inputs


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"kind": "bhd"}, "kind='bhd': must be one of 'nhd', 'head_major', 'interleaved'"),
        (
            {"kind": "head_major", "key_order": "side_by_side"},
            "key_order='side_by_side': must be one of 'token_major', 'padded_heads'",
        ),
        ({"kind": "head_major", "head_dim": 17}, "head_dim=17: must be a multiple of x=4 in kind 'head_major'"),
        ({"kind": "interleaved", "page_size": 6}, "page_size=6: must be a multiple of p=4 in kind 'interleaved'"),
        ({"k_scale": 2.0}, "k_scale=2.0: must be 1.0 unless the cache is in FP8"),
        ({"dtype": "float8_e5m2", "cache_dtype": "bfloat16"}, "cache_dtype='bfloat16': must be 'same', or a dtype"),
        ({"cache_dtype": "float32"}, "cache_dtype='float32': must be 'same', or a dtype"),
        ({"scale_form": "vector"}, "scale_form='vector': must be 'scalar', or 'unread' of a cache that is not in FP8"),
        (
            {"cache_dtype": "float8_e5m2", "scale_form": "unread"},
            "scale_form='unread': must be 'scalar', or 'unread' of a cache that is not",
        ),
        ({"num_heads": 0}, "num_heads=0: must be from 1 to 1024"),
        ({"far": "heads", "num_heads": 2}, "num_heads=2: must be at least 3 where far='heads'"),
        ({"far": "tokens", "num_tokens": 3, "padding_rows": 1}, "padding_rows=1: must be 0 where far='tokens'"),
        ({"far": "positions", "kind": "interleaved"}, "far='positions': must be combined with kind 'nhd', not 'interleaved'"),
    ],
)
def test_cases_that_are_not_legal(fields: dict[str, Any], message: str) -> None:
    """Are refused, with what they must be."""
    with pytest.raises(CaseError) as raised:
        Case(**fields)

    assert str(raised.value).startswith(message)


def test_inputs_are_those_of_the_contract() -> None:
    """Shapes, strides and dtypes of every tensor."""
    case = Case(
        kind="head_major",
        num_tokens=3,
        padding_rows=1,
        num_heads=2,
        head_dim=32,
        head_dim_v=48,
        dtype="bfloat16",
        cache_dtype="float8_e5m2",
        k_scale=0.25,
        scale_form="vector",
        slot_dtype="int32",
        key_pages="block_interior",
        key_layout="fused_qkv",
        value_layout="padded_heads",
        storage="large",
    )

    inputs, arena = built(case)

    assert {name: tuple(value.shape) for name, value in inputs.items() if isinstance(value, torch.Tensor)} == {
        **{"key": (4, 2, 32), "value": (4, 2, 48), "key_cache": (2, 2, 2, 16, 16), "value_cache": (2, 2, 48, 16)},
        **{"slot_mapping": (3,), "k_scale": (1,), "v_scale": (1,)},
    }
    assert inputs["key"].stride() == (2 * 32 + 2 * 80, 32, 1)
    assert inputs["value"].stride() == (2 * (48 + 16) + 16, 48 + 16, 1)
    assert inputs["key_cache"].stride() == (2 * 16 * 80, 16 * 32, 16 * 16, 16, 1)
    assert inputs["value_cache"].stride() == (2 * 16 * 48, 16 * 48, 16, 1)
    assert {inputs[name].dtype for name in ("key_cache", "value_cache")} == {torch.float8_e5m2}
    assert inputs["slot_mapping"].dtype == torch.int32
    assert (float(inputs["k_scale"]), float(inputs["v_scale"])) == (0.25, 1.0)
    assert (inputs["interleaved"], inputs["platform"]) == (False, "hip")
    assert all(arena.allocations[f"{role}_cache"].storage.untyped_storage().nbytes() > 2**31 for role in ("key", "value"))
    assert arena.written() == ("key_cache", "value_cache")


def test_inputs_are_the_same_every_time() -> None:
    """Bit for bit, but for the poison."""
    case = Case(num_tokens=5, negatives="scattered", padding_rows=1, cache_dtype="float8_e4m3fn", pattern="overflow")

    arenas = [built(case)[1], built(case)[1], built(case, Poison.QUIET)[1]]
    raw = [{each.name: each.raw for each in arena} for arena in arenas]

    assert all((raw[0][name] == raw[1][name]).all() for name in raw[0])
    cells = arenas[0].allocations["key_cache"].writable
    assert (raw[0]["key_cache"][cells] != raw[2]["key_cache"][cells]).all()


@pytest.mark.parametrize("form", fp8.SCALE_FORMS)
def test_scales_reach_the_launcher(form: str) -> None:
    """As tensors of no dimension or one, not at all where they are 1, and as poison where nobody may read them."""
    cache = "same" if form == "unread" else "float8_e5m2"
    inputs, _ = built(Case(cache_dtype=cache, scale_form=form, v_scale=1.0 if form == "unread" else 0.37))

    seen = [
        None if inputs[name] is None else (inputs[name].dim(), inputs[name].isnan().item()) for name in ("k_scale", "v_scale")
    ]

    expected = {"vector": [(1, False)] * 2, "absent": [None, (0, False)], "unread": [(0, True)] * 2}
    assert seen == expected.get(form, [(0, False)] * 2)


def test_placements() -> None:
    """Production's tensors are aligned and beyond 2 GiB; a misaligned one shows."""
    case = Case(num_heads=3, lead=4)
    placed = {name: place(case) for name, place in PLACEMENTS.items()}

    assert next(iter(placed)) == "production"
    assert (placed["production"].lead, placed["production"].storage) == (0, "large")
    assert built(placed["misaligned"])[0]["key"].data_ptr() % 8 == 4
    assert all(each.num_heads == 3 for each in placed.values())
