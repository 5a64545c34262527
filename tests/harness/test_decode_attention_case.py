"""The Op `decode_attention`: its cases, what they cost, what they make visible, and the inputs built from them."""

from __future__ import annotations

import functools
import hashlib
import json
import math
import random
import statistics
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, find, given, settings
from hypothesis import strategies as st

from tridiff.harness.api import Arena, CaseError, Domain, Poison, Zone, from_json, pattern, to_json
from tridiff.harness.engines.spec import EngineSpec
from tridiff.harness.runner.minimise import minimised
from tridiff.strategies.decode_attention import OP, DecodeAttentionCase, build, cases, preset_cases

Case = DecodeAttentionCase
Predicate = Callable[[Case], Any]

QUIETLY = settings(database=None, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))


@functools.cache
def drawn(strategy: Callable[[Domain], st.SearchStrategy[Case]], count: int, target: str = "gfx942") -> tuple[Case, ...]:
    """`count` cases, the same in every run."""
    seen: list[Case] = []

    @settings(QUIETLY, max_examples=count)
    @given(strategy(Domain(target=target)))
    def collect(case: Case) -> None:
        seen.append(case)

    collect()
    return tuple(seen)


def shortest(condition: Predicate, strategy: Callable[[Domain], st.SearchStrategy[Case]] = cases, target: str = "gfx942") -> Case:
    """Find what Hypothesis shrinks to."""
    return find(
        strategy(Domain(target=target)),
        condition,
        settings=settings(QUIETLY, max_examples=3000, report_multiple_bugs=False),
        random=random.Random(1),
    )


def built(case: Case, poison: Poison = Poison.LOUD) -> tuple[dict[str, Any], Arena]:
    """Build the inputs in an arena of their own."""
    arena = Arena(poison)
    return build(case, arena), arena


def from_fields(fields: Mapping[str, Any]) -> Case:
    """Make a case of some fields by name."""
    return Case(**fields)


def multiply_adds(case: Case) -> int:
    """Of both products, over all rows."""
    return sum(case.seq_lens) * case.num_heads * (case.head_dim + case.head_dim_v)


@functools.cache
def committed_bytes(case: Case) -> int:
    """All tensors with their red zones, and float32 scratch for the partial results of all splits."""
    _, arena = built(case)
    tensors = sum((stop - start) * each.storage.element_size() for each in arena for start, stop in each.live)
    return tensors + len(case.seq_lens) * case.num_heads * case.num_kv_splits * (case.head_dim_v + 1) * 4


# Cases


def test_the_defaults_are_the_simplest_case() -> None:
    """One head, one row, one key, one page, one split, nothing strided."""
    assert shortest(lambda _: True) == Case()
    assert (Case().num_kv_heads, Case().group_size, Case().seq_lens, Case().num_kv_splits) == (1, 1, (1,), 1)


def test_the_simplest_preset() -> None:
    """The first model on one rank; everything else is as simple as without a model."""
    expected = Case(model="Llama-3-8B TP1", num_kv_heads=8, group_size=4, head_dim=128, head_dim_v=128)

    assert shortest(lambda _: True, preset_cases) == expected


@pytest.mark.parametrize(
    ("condition", "expected"),
    [
        (lambda case: max(case.seq_lens) > case.page_size, Case(seq_lens=(17,))),
        (
            lambda case: case.group_size > 16 and case.group_size % 16 and case.num_kv_heads > 1,
            Case(num_kv_heads=2, group_size=17),
        ),
        (lambda case: case.far == "pages", Case(far="pages")),
        (lambda case: case.head_dim_v > 64, Case(head_dim_v=65)),
        (lambda case: case.is_mla and case.head_dim_v & (case.head_dim_v - 1), Case(is_mla=True, head_dim=17, head_dim_v=17)),
        (
            lambda case: case.key_layout == "cross_layer" and case.pattern == "peaked" and case.peak_at == "before_page",
            Case(key_layout="cross_layer", pattern="peaked", peak_at="before_page"),
        ),
    ],
)
def test_failures_shrink_to_what_matters(condition: Predicate, expected: Case) -> None:
    """By fields alone: what a failure does not need becomes the simplest, the others as small as it allows, from wherever."""
    found = [case for case in drawn(cases, 1200) if condition(case)]

    assert found
    assert {minimised(case, condition) for case in found[-3:]} == {expected}


@pytest.mark.parametrize(
    ("condition", "expected"),
    [
        (
            lambda case: case.cache_dtype == "float8_e5m2" and case.v_scale != 1.0 and case.value_sigma,
            Case(cache_dtype="float8_e5m2", v_scale=0.37),
        ),
        (
            lambda case: case.page_size > 500 and max(case.seq_lens) > case.page_size and case.dtype != "float32",
            Case(page_size=501, seq_lens=(502,), dtype="bfloat16"),
        ),
    ],
)
def test_of_several_choices_the_simplest_is_left(condition: Predicate, expected: Case) -> None:
    """Where a failure needs one other than the default, Hypothesis finds the one that strategies name first."""
    assert minimised(shortest(condition), condition) == expected


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("num_kv_heads", 0, "num_kv_heads=0: must be from 1 to 1024"),
        ("head_dim", 5000, "head_dim=5000: must be from 1 to 4096"),
        ("page_size", 0, "page_size=0: must be from 1 to 65536"),
        ("num_kv_splits", -1, "num_kv_splits=-1: must be from 1 to 4096"),
        ("seq_lens", (), "seq_lens=(): must have 1 to 256 rows"),
        ("seq_lens", (3, -2), "seq_lens[1]=-2: must be from 0 to 1048576"),
        ("seq_lens", (3, 131073), "seq_lens[1]=131073: must be at most 131072 with num_kv_splits=1"),
        ("dtype", "float64", "dtype='float64': must be one of 'float32', 'bfloat16', 'float16'"),
        ("output_dtype", "float16", "output_dtype='float16': must be one of 'same', 'float32'"),
        ("platform", "rocm", "platform='rocm': must be one of 'hip', 'cuda'"),
        ("page_sharing", "all", "page_sharing='all': must be one of 'none', 'first_page', 'all_pages'"),
        ("lse_layout", "heads_first", "lse_layout='heads_first': must be one of 'packed', 'padded_rows'"),
        ("logit_cap", -1.0, "logit_cap=-1.0: must be from 0.0 to 1000000.0"),
        ("scale_factor", math.nan, "scale_factor=nan: must be from 0.1 to 10.0"),
        ("sigma", 1e4, "sigma=10000.0: must be from 0.0 to 100.0"),
        ("far", "heads", "far='heads': must be combined with a layout 'heads_outermost' and num_kv_heads of at least 3"),
        ("far", "moon", "far='moon': must be one of 'none', 'pages', 'heads'"),
        ("model", "x" * 81, f"model={'x' * 81!r}: must have at most 80 characters"),
    ],
)
def test_a_bad_field_is_named(field: str, value: object, message: str) -> None:
    """One line: the field, its value, what is allowed."""
    with pytest.raises(CaseError) as caught:
        from_fields({field: value})

    assert str(caught.value) == message


def test_far_pages_exclude_outermost_heads() -> None:
    """The rule that joins three fields is explained too."""
    with pytest.raises(CaseError, match="far='pages': must be combined with layouts other than 'heads_outermost'"):
        Case(far="pages", value_layout="heads_outermost")


def test_longest_sequence() -> None:
    """No legal case of the kernel is taken for a hang: a split of the most keys is within the budget of steps, in tiles of 8."""
    longest = Case(seq_lens=(2**20,), num_kv_splits=8)

    assert longest.seq_lens[0] / longest.num_kv_splits / 8 < EngineSpec().max_steps
    with pytest.raises(CaseError, match="seq_lens"):
        Case(seq_lens=(2**20,), num_kv_splits=7)


@pytest.mark.parametrize("strategy", [cases, preset_cases])
def test_cases_survive_json(strategy: Callable[[Domain], st.SearchStrategy[Case]]) -> None:
    """Through text and back, equal field by field."""
    for case in drawn(strategy, 500 if strategy is cases else 200):
        assert from_json(Case, json.loads(json.dumps(to_json(case)))) == case


# Costs


@pytest.mark.parametrize(("strategy", "count", "mebibytes"), [(cases, 500, 16), (preset_cases, 200, 32)])
def test_budgets_hold(strategy: Callable[[Domain], st.SearchStrategy[Case]], count: int, mebibytes: int) -> None:
    """Multiply-adds and memory, scratch included, stay below their limits in every case."""
    sample = drawn(strategy, count)

    assert max(map(multiply_adds, sample)) <= 2**23
    assert max(map(committed_bytes, sample)) <= mebibytes * 2**20
    assert max(len(case.seq_lens) for case in sample) == 5


def test_the_median_case_is_small() -> None:
    """Half of the cases need less than an eighth of the work and a sixteenth of the memory that is allowed."""
    sample = drawn(cases, 500)

    assert statistics.median(map(multiply_adds, sample)) <= 2**20
    assert statistics.median(map(committed_bytes, sample)) <= 2**20


def test_draws_are_seldom_alike() -> None:
    """Hypothesis' mutations do not spend the examples on copies of one structure."""
    structures = {
        (case.num_kv_heads, case.group_size, case.head_dim, case.head_dim_v, case.page_size, case.num_kv_splits, case.pattern)
        for case in drawn(cases, 500)[:300]
    }

    assert len(structures) > 240


def largest_logit(case: Case) -> float:
    """About the largest |logit| before the cap."""
    return case.peak_height if case.pattern in {"peaked", "sink"} else 3 * case.sigma * case.scale_factor


TRIGGERS: dict[str, Predicate] = {
    "group over 16, no multiple of it, two KV heads": lambda c: c.group_size > 16 and c.group_size % 16 and c.num_kv_heads > 1,
    "page offsets beyond 2^31": lambda c: c.far == "pages",
    "page stride != page size * token stride": lambda c: (
        {"page_gap", "every_gap", "cross_layer"} & {c.key_layout, c.value_layout}
    ),
    "tokens apart": lambda c: {"token_gap", "every_gap", "interleaved"} & {c.key_layout, c.value_layout},
    "3-D cache": lambda c: c.key_layout.startswith("flat"),
    "heads before tokens": lambda c: c.key_layout.startswith("heads") and c.num_kv_heads > 1,
    "K and V strides differ": lambda c: c.key_layout != c.value_layout,
    "fewer keys than splits": lambda c: any(0 < n < c.num_kv_splits for n in c.seq_lens),
    "empty splits of a longer row": lambda c: any(
        n > c.num_kv_splits and -(-n // -(-n // c.num_kv_splits)) < c.num_kv_splits for n in c.seq_lens
    ),
    "zero-length row": lambda c: 0 in c.seq_lens,
    "zero-length row beside others": lambda c: 0 in c.seq_lens and any(c.seq_lens),
    "crosses a page": lambda c: max(c.seq_lens) > c.page_size > 1,
    "crosses a page of 480 or more": lambda c: max(c.seq_lens) > c.page_size >= 480,
    "ends on a page boundary": lambda c: any(n and n % c.page_size == 0 for n in c.seq_lens if c.page_size > 1),
    "table tail": lambda c: c.table_tail > 0,
    "rows of unlike page counts": lambda c: len({-(-n // c.page_size) for n in c.seq_lens}) > 1,
    "Lv no power of two": lambda c: c.head_dim_v & (c.head_dim_v - 1),
    "Lk and Lv of unlike blocks": lambda c: (c.head_dim - 1).bit_length() != (c.head_dim_v - 1).bit_length(),
    "Lk < Lv": lambda c: c.head_dim < c.head_dim_v,
    "odd difference of Lk and Lv": lambda c: (c.head_dim - c.head_dim_v) % 2,
    "padded output rows": lambda c: c.output_layout != "packed" and len(c.seq_lens) > 1,
    "padded lse rows": lambda c: c.lse_layout == "padded_rows" and len(c.seq_lens) > 1,
    "fused query": lambda c: c.query_layout == "fused_qkv" and len(c.seq_lens) > 1,
    "shared pages": lambda c: c.page_sharing != "none" and len(c.seq_lens) > 1,
    "logits far above the cap": lambda c: c.logit_cap and largest_logit(c) >= 5 * c.logit_cap,
    "peak at the last key": lambda c: c.pattern == "peaked" and c.peak_at == "last",
    "peak at the first key": lambda c: c.pattern == "peaked" and c.peak_at == "first",
    "peak at a page": lambda c: c.pattern == "peaked" and c.peak_at.endswith("page"),
    "peak at a split": lambda c: c.pattern == "peaked" and c.peak_at.endswith("split"),
    "peak at a tile": lambda c: c.pattern == "peaked" and c.peak_at.endswith("tile"),
    "identical keys": lambda c: c.pattern == "identical",
    "huge norms": lambda c: c.sigma == 100.0,
    "a misaligned tensor": lambda c: c.lead % 8,
    "storage beyond 2 GiB": lambda c: c.storage == "large",
    "storage within 2 GiB": lambda c: c.storage == "small",
    "int64 lengths": lambda c: c.seq_lens_dtype == "int64",
    "float16": lambda c: c.dtype == "float16",
    "latent attention": lambda c: c.is_mla,
    "latent attention, a group": lambda c: c.is_mla and c.group_size > 1,
    "latent attention, keys in a larger block": lambda c: (
        c.is_mla and (c.head_dim - 1).bit_length() != (c.head_dim_v - 1).bit_length()
    ),
    "latent attention, few rope columns": lambda c: c.is_mla and 0 < c.head_dim - c.head_dim_v < 16,
    "latent attention, no rope columns": lambda c: c.is_mla and c.head_dim == c.head_dim_v,
    "latent attention in FP8": lambda c: c.is_mla and c.cache_dtype != "same",
    "e4m3fnuz": lambda c: c.cache_dtype == "float8_e4m3fnuz",
    "e4m3fn": lambda c: c.cache_dtype == "float8_e4m3fn",
    "e5m2": lambda c: c.cache_dtype == "float8_e5m2",
    "a scale": lambda c: c.k_scale not in {1.0, c.v_scale},
    "a scale that is not given": lambda c: c.scale_form == "absent",
    "scales of one dimension": lambda c: c.scale_form == "vector",
    "scales beside a cache without codes": lambda c: c.scale_form == "unread",
    "FP8 beside float32 queries": lambda c: c.cache_dtype != "same" and c.dtype == "float32",
}


@pytest.mark.parametrize("trigger", TRIGGERS)
def test_what_once_went_wrong_is_drawn(trigger: str) -> None:
    """Each shape, layout or value that showed a historical defect occurs at least three times in 300 cases."""
    assert sum(bool(TRIGGERS[trigger](case)) for case in drawn(cases, 500)[:300]) >= 3


def test_presets_cross_large_pages() -> None:
    """Real head counts do meet rows that end just beyond a page of 480 tokens or more."""
    sample = drawn(preset_cases, 200)

    assert sum(max(case.seq_lens) > case.page_size >= 480 for case in sample) >= 3
    assert {case.page_size for case in sample} == {1, 16, 32, 64, 480, 512, 544, 784, 1056, 2048}
    assert all(case.model for case in sample)


# Inputs

SAMPLES = [
    Case(),
    Case(seq_lens=(0,)),
    Case(seq_lens=(0, 33, 5), table_tail=5, table_layout="padded_rows", page_order="shuffled"),
    Case(
        num_kv_heads=3, group_size=5, head_dim=19, head_dim_v=17, seq_lens=(50, 7), page_size=3, query_layout="fused_qkv", gap=1
    ),
    Case(num_kv_heads=2, seq_lens=(17, 40), key_layout="interleaved", value_layout="flat_token_gap", page_sharing="first_page"),
    Case(num_kv_heads=2, seq_lens=(17, 40), key_layout="flat", value_layout="cross_layer", page_sharing="all_pages"),
    Case(num_kv_heads=4, seq_lens=(9, 70), far="heads", key_layout="heads_outermost", value_layout="every_gap", dtype="bfloat16"),
    Case(num_kv_heads=2, seq_lens=(9, 70), far="pages", key_layout="heads_in_page", value_layout="token_gap", dtype="bfloat16"),
    Case(seq_lens=(600, 545), page_size=544, dtype="float16", output_dtype="float32", output_layout="padded_heads"),
    Case(seq_lens=(20, 3), cache_dtype="float8_e4m3fnuz", k_scale=0.37, v_scale=1.7, value_layout="every_gap", lead=1),
    Case(is_mla=True, group_size=3, head_dim=24, seq_lens=(20, 0), key_layout="cross_layer", value_layout="cross_layer"),
    Case(
        is_mla=True, head_dim=17, seq_lens=(20,), page_size=3, cache_dtype="float8_e5m2", k_scale=0.25, v_scale=0.25, far="pages"
    ),
]


def read_elements(case: Case, inputs: dict[str, Any], name: str) -> set[int]:
    """Offsets, from the view's first element, of what a right kernel reads of cache `name`: straight from the contract."""
    cache, table = inputs[f"{name}_cache"], inputs["block_table"]
    *outer, head_stride, _ = cache.stride()
    tokens = [(int(table[row, t // case.page_size]), t % case.page_size) for row, n in enumerate(case.seq_lens) for t in range(n)]
    if len(outer) == 1:
        places = {(page * case.page_size + offset) * outer[0] for page, offset in tokens}
    else:
        places = {page * outer[0] + offset * outer[1] for page, offset in tokens}
    return {at + head * head_stride + d for at in places for head in range(case.num_kv_heads) for d in range(cache.shape[-1])}


@pytest.mark.parametrize("case", SAMPLES, ids=range(len(SAMPLES)))
@pytest.mark.parametrize("name", ["key", "value"])
def test_only_slots_in_use_hold_values(case: Case, name: str) -> None:
    """Gaps, unused slots, unused pages and red zones keep their poison, and every element that is read has a finite value."""
    inputs, arena = built(case)
    name = "key" if case.is_mla else name
    allocation = arena.allocations[f"{name}_cache"]
    poison = pattern(allocation.storage.dtype, Poison.LOUD, Zone.INPUT)
    origin = int(allocation.view.storage_offset())

    held = {
        start + int(at) - origin for start, stop in allocation.live for at in np.flatnonzero(allocation.raw[start:stop] != poison)
    }

    assert held == read_elements(case, inputs, name)
    assert all(torch.isfinite(allocation.storage[origin + at].float()) for at in list(held)[:200])


def test_unused_memory_of_drawn_cases_is_poisoned() -> None:
    """The same for what the strategy draws, where it is small."""
    small = [case for case in drawn(cases, 500) if sum(case.seq_lens) * case.num_kv_heads * case.head_dim <= 20_000]

    assert len(small) > 100
    for case in small[:100]:
        test_only_slots_in_use_hold_values(case, "key")


@pytest.mark.parametrize("case", SAMPLES, ids=range(len(SAMPLES)))
@pytest.mark.parametrize("poison", Poison)
def test_table_entries_past_a_row_keep_their_poison(case: Case, poison: Poison) -> None:
    """A row has as many valid ids as it has pages; behind them, and in the padding, lies the poison."""
    inputs, arena = built(case, poison)
    table = inputs["block_table"]
    needed = [-(-length // case.page_size) for length in case.seq_lens]
    code = pattern(torch.int32, poison, Zone.INPUT)

    assert table.shape == (len(needed), max(1, *needed) + case.table_tail)
    for row, count in enumerate(needed):
        pages = inputs["key_cache"].shape[0] // (case.page_size if case.key_layout.startswith("flat") else 1)
        assert ((table[row, :count] >= 0) & (table[row, :count] < pages)).all()
        assert (table[row, count:] == code).all()
    assert int((arena.allocations["block_table"].storage != code).sum()) == sum(needed)


@pytest.mark.parametrize("case", SAMPLES, ids=range(len(SAMPLES)))
def test_arguments_have_the_shapes_of_the_contract(case: Case) -> None:
    """Names, shapes, dtypes, dense last axes; the outputs are declared as written in full."""
    inputs, arena = built(case)
    rows, hq = len(case.seq_lens), case.num_kv_heads * case.group_size
    dtype = getattr(torch, case.dtype)

    assert list(inputs) == (
        [
            "query",
            "key_cache",
            "value_cache",
            "block_table",
            "seq_lens",
            "output",
            "lse",
            "sm_scale",
            "logit_cap",
            "k_scale",
            "v_scale",
            "page_size",
            "num_kv_splits",
            "is_mla",
            "platform",
        ]
    )
    assert inputs["query"].shape == (rows, hq, case.head_dim)
    assert inputs["key_cache"].shape[-2:] == (case.num_kv_heads, case.head_dim)
    assert inputs["value_cache"].shape[-2:] == (case.num_kv_heads, case.head_dim_v)
    assert inputs["query"].dtype == dtype
    assert inputs["key_cache"].dtype == inputs["value_cache"].dtype
    assert inputs["key_cache"].dtype == (dtype if case.cache_dtype == "same" else getattr(torch, case.cache_dtype))
    assert inputs["output"].shape == (rows, hq, case.head_dim_v)
    assert inputs["output"].dtype == (dtype if case.output_dtype == "same" else torch.float32)
    assert (inputs["lse"].shape, inputs["lse"].dtype) == ((rows, hq), torch.float32)
    assert inputs["seq_lens"].tolist() == list(case.seq_lens)
    assert inputs["seq_lens"].dtype == getattr(torch, case.seq_lens_dtype)
    assert inputs["block_table"].dtype == torch.int32
    assert all(value.stride(-1) == 1 for value in inputs.values() if isinstance(value, torch.Tensor) and value.dim())
    assert inputs["query"].isfinite().all()
    assert [arena.allocations[name].writable.size for name in ("output", "lse")] == [rows * hq * case.head_dim_v, rows * hq]


@pytest.mark.parametrize(
    ("layout", "rank", "strides"),
    [
        ("packed", 4, (512, 32, 16)),
        ("page_gap", 4, (528, 32, 16)),
        ("token_gap", 4, (768, 48, 16)),
        ("every_gap", 4, (1296, 80, 32)),
        ("interleaved", 4, (1536, 96, 48)),
        ("cross_layer", 4, (1024, 32, 16)),
        ("heads_in_page", 4, (512, 16, 256)),
        ("heads_outermost", 4, (256, 16, 768)),
        ("flat", 3, (32, 16)),
        ("flat_token_gap", 3, (48, 16)),
    ],
)
def test_cache_layouts(layout: str, rank: int, strides: tuple[int, ...]) -> None:
    """Strides of a key cache of three pages, two heads of 16 beside values of 32."""
    inputs, _ = built(Case(num_kv_heads=2, head_dim_v=32, seq_lens=(48,), key_layout=layout))

    assert inputs["key_cache"].dim() == rank
    assert inputs["key_cache"].stride()[:-1] == strides


def test_padding_of_rows() -> None:
    """Strides of queries, outputs, lse and table."""
    case = Case(num_kv_heads=2, group_size=3, head_dim_v=32, seq_lens=(1, 1), query_layout="fused_qkv", gap=8)
    inputs, _ = built(case)
    padded = dict.fromkeys(("output_layout", "lse_layout", "table_layout"), "padded_rows")
    others, _ = built(from_fields(vars(case) | padded))

    assert inputs["query"].stride() == (6 * 16 + 2 * (16 + 32), 16, 1)
    assert inputs["output"].stride() == (192, 32, 1)
    assert others["output"].stride() == (200, 32, 1)
    assert others["lse"].stride() == (14, 1)
    assert others["block_table"].stride() == (9, 1)


@pytest.mark.parametrize("poison", Poison)
def test_inputs_are_the_same_every_time(poison: Poison) -> None:
    """Two builds agree in every live bit, poison included."""
    for case in drawn(cases, 500)[:60]:
        first, second = (built(case, poison)[1] for _ in range(2))
        for one, other in zip(first, second, strict=True):
            assert one.live == other.live
            assert all(np.array_equal(one.raw[start:stop], other.raw[start:stop]) for start, stop in one.live)


def test_values_do_not_depend_on_where_they_lie() -> None:
    """Layout, page size and page order move the tokens of a row but do not change them."""
    base = {"num_kv_heads": 2, "seq_lens": (40, 3), "pattern": "mixed_norms"}
    moved = {"page_order": "shuffled", "key_layout": "heads_in_page", "value_layout": "flat", "page_size": 3}

    for name in ("key", "value"):
        one, other = (tokens(from_fields(fields), name) for fields in (base, base | moved))
        assert torch.equal(one, other)


def tokens(case: Case, name: str) -> torch.Tensor:
    """[tokens of all rows, heads, width], gathered through the block table."""
    inputs, _ = built(case)
    cache, table = inputs[f"{name}_cache"], inputs["block_table"]
    where = [(int(table[row, t // case.page_size]), t % case.page_size) for row, n in enumerate(case.seq_lens) for t in range(n)]
    if cache.dim() == 3:
        return torch.stack([cache[page * case.page_size + offset] for page, offset in where])
    return torch.stack([cache[page, offset] for page, offset in where])


@pytest.mark.parametrize(
    ("dtype", "expected"), [("float32", "f5c1751e6f19625b"), ("bfloat16", "ddb3909a616839f1"), ("float16", "b8afb3232ba26889")]
)
def test_inputs_have_the_same_bits_everywhere(dtype: str, expected: str) -> None:
    """A figure computed once over all tensors; another machine, device or library version must agree."""
    case = Case(
        num_kv_heads=2,
        group_size=3,
        head_dim=80,
        seq_lens=(40, 0, 17),
        dtype=dtype,
        pattern="peaked",
        page_order="shuffled",
        seed=9,
    )
    state = hashlib.blake2b(digest_size=8)
    for allocation in built(case)[1]:
        state.update(allocation.raw.tobytes())

    assert state.hexdigest() == expected


def test_rows_see_one_dominant_key() -> None:
    """With a peak every query head gives that key nearly all its weight, in each row that has keys."""
    case = Case(
        num_kv_heads=2, group_size=4, head_dim=64, seq_lens=(40, 0, 17), pattern="peaked", peak_height=30.0, peak_at="last"
    )
    inputs, _ = built(case)
    keys = tokens(case, "key").double()

    for row, (start, length) in {0: (0, 40), 2: (40, 17)}.items():
        query = inputs["query"][row].double().view(2, 4, 64)
        logits = torch.einsum("hgd,khd->hgk", query, keys[start : start + length]) * inputs["sm_scale"]
        assert (logits.softmax(dim=-1)[..., -1] > 0.999).all()


def resident_bytes() -> int:
    """Memory that this process really holds."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="needs Linux's /proc to measure resident memory")
@pytest.mark.parametrize(
    "case",
    [
        Case(seq_lens=(40, 17), far="pages", dtype="bfloat16"),
        Case(seq_lens=(40, 17), far="pages", page_size=1, page_order="shuffled"),
        Case(seq_lens=(40, 17), far="heads", num_kv_heads=3, key_layout="heads_outermost"),
    ],
    ids=["pages", "tokens", "heads"],
)
def test_far_memory_costs_little(case: Case) -> None:
    """Gigabytes of address space, some megabytes of memory."""
    before = resident_bytes()
    inputs, arena = built(case)
    arena.seal()

    reach = sum((size - 1) * stride for size, stride in zip(inputs["key_cache"].shape, inputs["key_cache"].stride(), strict=True))
    assert reach >= 2**31
    assert resident_bytes() - before < 64 * 2**20


@pytest.mark.parametrize("layout", ["packed", "page_gap", "token_gap", "cross_layer", "flat", "heads_in_page"])
def test_far_pages_wrap_in_32_bits(layout: str) -> None:
    """Every row reads a page whose element offset is no 32-bit number, and the id itself is one."""
    case = Case(num_kv_heads=2, seq_lens=(40,), far="pages", key_layout=layout, value_layout=layout, dtype="bfloat16")
    inputs, _ = built(case)
    cache, ids = inputs["key_cache"], inputs["block_table"][0].to(torch.int64)
    page_stride = cache.stride(0) * (case.page_size if cache.dim() == 3 else 1)

    assert (ids * page_stride >= 2**31).any()
    assert (ids < 2**31).all()


def test_the_op_is_declared() -> None:
    """Name, case, strategies and builder, as the registry finds them."""
    assert (OP.name, OP.case, OP.strategy, OP.presets, OP.build) == ("decode_attention", Case, cases, preset_cases, build)
