"""The Op `paged_decode`: its cases, what is drawn of them, and the inputs built from them."""

from __future__ import annotations

import functools
from typing import Any

import pytest
import torch
from drawn_cases import QUIETLY, draws
from hypothesis import find

from tridiff.harness.api import Arena, CaseError, Domain
from tridiff.reference.paged_attention import unpack
from tridiff.strategies import fp8, kv_caches, paged_readers
from tridiff.strategies.budget import LARGE_PAGES, TYPICAL
from tridiff.strategies.paged_decode import OP, cases, preset_cases
from tridiff.strategies.paged_decode import PagedDecodeCase as Case
from tridiff.strategies.paged_readers_case import VERY_NEGATIVE
from tridiff.strategies.paged_readers_inputs import peak_position, sinks, slopes, tokens
from tridiff.strategies.paged_readers_models import model_shapes


@functools.cache
def drawn(count: int, *, presets: bool = False) -> tuple[Case, ...]:
    """`count` cases, the same in every run."""
    return draws((preset_cases if presets else cases)(Domain(target="gfx942")), count)


# Cases


FP8 = {"cache_dtype": "float8_e4m3fn"}


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"seq_lens": ()}, r"seq_lens=\(\): must have 1 to 64 sequences"),
        ({"query_lens": (1, 1)}, r"query_lens=\(1, 1\): must have as many sequences as seq_lens=\(1,\)"),
        ({"query_lens": (2,)}, r"query_lens\[0\]=2: must be at most seq_lens\[0\]=1"),
        ({"query_lens": (-1,)}, r"query_lens\[0\]=-1: must be from 0"),
        ({"seq_lens": (2**18 + 1,)}, r"seq_lens\[0\]=262145: must be from 0 to 262144"),
        ({"head_dim": 36, "dtype": "bfloat16"}, "head_dim=36: must be a multiple of 8, the elements in 16 bytes"),
        ({"page_size": 24, **FP8}, "page_size=24: must be a multiple of 16"),
        ({"k_scale": 2.0}, r"k_scale=2.0: must be 1.0 unless cache_dtype is an FP8 format"),
        ({"output_scale": 2.0}, r"output_scale=2.0: must be 1.0 unless output_dtype is an FP8 format"),
        ({"scale_form": "vector"}, "scale_form='vector': must be combined with an FP8 format as cache_dtype"),
        ({"dtype": "float16", "cache_dtype": "float8_e5m2", "k_scale": 2.0}, "float8_e5m2 times that overflows float16"),
        ({"pattern": VERY_NEGATIVE, **FP8}, "must be combined with a format of the caches that holds keys of 3497"),
        ({"kind": "nhd"}, "kind='nhd': must be one of 'head_major', 'interleaved'"),
        ({"window": -1}, "window=-1: must be from 0"),
    ],
)
def test_refuses(fields: dict[str, Any], message: str) -> None:
    """What is out of range, or does not go together, is told in one line."""
    with pytest.raises(CaseError, match=message):
        Case(**fields)


# What is drawn


def test_everything_is_drawn() -> None:
    """Every page size there is, and every value of all that has few."""
    found = drawn(300)

    assert {case.page_size for case in found} == set(kv_caches.PAGE_SIZES)
    expected: dict[str, set[Any]] = {
        "kind": {"head_major", "interleaved"},
        "key_pages": set(kv_caches.PAGES),
        "value_pages": set(kv_caches.PAGES),
        "key_order": set(kv_caches.HEAD_MAJOR_ORDERS),
        "value_order": set(kv_caches.HEAD_MAJOR_ORDERS),
        "far": {"none", "pages"},
        "alibi": {"none", "standard", "steep"},
        "sinks": {"none", "normal", "minus_infinity", "large", "mixed"},
        "dtype": {"float32", "bfloat16", "float16"},
        "cache_dtype": {"same", *fp8.DTYPES},
        "output_dtype": {"same", *fp8.DTYPES},
        "head_dim": {32, 64, 80, 96, 128, 160, 192, 224, 256},
        "group_size": {1, 2, 3, 4, 5, 6, 7, 8, 9, 12, 15, 16, 20},
        "table_tail": {0, 1, 5},
        "padding_rows": {0, 1, 3},
    }
    for name, choices in expected.items():
        assert {getattr(case, name) for case in found} >= choices, name
    assert {0, 1, 2, 5, 33} <= {queries for case in found for queries in case.query_lens}
    assert {"16 or 32", "power of two", "whole tiles", "straddled"} == {OP.properties["block_class"](case) for case in found}
    layouts = {OP.properties["layout_class"](case) for case in found}
    assert layouts == {"packed", "own strides", "padded heads", "block_interior", "padded", "layers"}


def test_sinks_leave_something_of_very_negative_logits() -> None:
    """A finite one would take all of the weight: every key could be dropped."""
    found = [case for case in drawn(300) if case.pattern == VERY_NEGATIVE]

    assert len(found) > 5
    assert {case.sinks for case in found} <= {"none", "minus_infinity"}
    narrow = Domain(target="gfx942", limits={"sinks": ("large",)})
    assert find(paged_readers.sinks(narrow, VERY_NEGATIVE), lambda _: True, settings=QUIETLY) == "large"


def test_windows_lie_where_kernels_go_wrong() -> None:
    """At one, around tiles of 32, around the longest sequence, and far beyond."""
    found = drawn(300)

    assert {0, 1, 2, 31, 32, 33, 10**6} <= {case.window for case in found}
    assert {-1, 0, 1} <= {case.window - max(case.seq_lens) for case in found}
    hidden = [case for case in found if case.pattern == "peaked" and case.peak_at == "outside_window" and case.window]
    assert any(case.window < max(case.seq_lens) for case in hidden)
    assert any(case.pattern == VERY_NEGATIVE and 0 < case.window < max(case.seq_lens) for case in found)


@pytest.mark.parametrize("presets", [False, True])
def test_budgets(presets: bool) -> None:
    """Keys and memory stay inside by construction."""
    budget = LARGE_PAGES if presets else TYPICAL

    for case in drawn(40, presets=True) if presets else drawn(300):
        assert sum(case.seq_lens) * case.num_heads * 2 * case.head_dim <= budget.multiply_adds
        placed = sum(-(-keys // case.page_size) for keys in case.seq_lens) + 1
        pages = max(1, placed) * (case.cache("key").page_stride + case.cache("value").page_stride)
        assert pages * case.stored_dtype.itemsize <= budget.cache_bytes * (1 if case.dtype != "float32" else 2)


def test_presets_are_real_models() -> None:
    """With page sizes that no other models have; narrowed to one where it is named."""
    found = drawn(40, presets=True)

    known = {shape.model: shape for shape in model_shapes()}
    for case in found:
        shape = known[case.model]
        assert (case.num_kv_heads, case.group_size, case.head_dim) == shape[:3]
        assert case.page_size in shape.page_sizes
    assert {544, 272} & {case.page_size for case in found}
    domain = Domain(target="gfx942", models=("Qwen3-Next-80B-A3B TP4",))
    (one,) = draws(preset_cases(domain), 1)
    assert (one.num_kv_heads, one.group_size, one.head_dim, one.page_size) == (1, 4, 256, one.page_size)
    assert one.page_size in {272, 528, 544, 1056}


def test_models_have_the_page_sizes_of_their_states() -> None:
    """Those that the arithmetic of hybrid models gives; a model whose layers all attend has the usual ones."""
    known = {shape.model: shape for shape in model_shapes()}

    assert known["Qwen3-Next-80B-A3B TP1"] == (2, 8, 256, "Qwen3-Next-80B-A3B TP1", (544, 1056, 1072, 2096))
    assert known["Nemotron-H-8B TP8"] == (1, 4, 128, "Nemotron-H-8B TP8", (528, 1040, 1056, 2080))
    assert known["Llama-3-8B TP2"] == (4, 4, 128, "Llama-3-8B TP2", (16, 32, 64))
    assert not any(name.startswith("Kimi-Linear") for name in known)  # latent attention has no such caches


# Inputs

BATCH = Case(
    num_kv_heads=2,
    group_size=3,
    query_lens=(1, 0, 3, 1),
    seq_lens=(20, 5, 9, 0),
    padding_rows=2,
    kind="interleaved",
    key_pages="block_interior",
    value_pages="padded",
    value_order="padded_heads",
    page_order="shuffled",
    table_tail=1,
    dtype="bfloat16",
    cache_dtype="float8_e4m3fn",
    k_scale=0.25,
    v_scale=0.37,
    window=5,
    alibi="standard",
    sinks="mixed",
)
ROUNDING = {"dequantised": "float32"}


def test_caches_hold_the_tokens() -> None:
    """What the reference unpacks are the tokens, as their formats round them; all else is NaN."""
    arena = Arena()
    inputs = OP.build(BATCH, arena)
    batch = tokens(BATCH)

    keys, values = unpack(inputs, ROUNDING, 0, 20)

    for name, found, content in (("key", keys, batch.keys), ("value", values, batch.values)):
        scale = getattr(BATCH, f"{name[0]}_scale")
        assert torch.equal(found.float(), (content[:20] / scale).to(torch.float8_e4m3fn).float() * scale)
        stored = arena.allocations[f"{name}_cache"].storage
        assert int((~stored.float().isnan()).sum()) == sum(BATCH.seq_lens) * 2 * 32


def test_table_queries_and_output() -> None:
    """Poison past the last page, and in rows that are not answered, which must not be written either."""
    arena = Arena()
    inputs = OP.build(BATCH, arena)

    assert inputs["query_start_loc"].tolist() == [0, 1, 1, 4, 5]
    assert inputs["seq_lens"].tolist() == [20, 5, 9, 0]
    used = inputs["block_table"] < 10
    assert used.int().tolist() == [[1, 1, 0], [1, 0, 0], [1, 0, 0], [0, 0, 0]]
    assert inputs["query"].isfinite().all(dim=2).all(dim=1).tolist() == [True, False, False, False, True, False, False]
    rows = arena.allocations["output"].writable - int(inputs["output"].storage_offset())
    assert sorted(set((rows // inputs["output"].stride(0)).tolist())) == [0, 4]
    assert len(rows) == 2 * 6 * 32


def test_sinks_and_slopes() -> None:
    """One for each query head, and no two alike but what is -inf."""
    found, steep = sinks(BATCH), slopes(Case(group_size=8, alibi="steep"))
    large = sinks(Case(group_size=4, sinks="large"))

    assert found is not None
    assert found.isneginf().tolist() == [False, True, False] * 2
    assert found[2] > 5 > found[0]
    assert large is not None
    assert bool((large > 5).all())
    assert steep is not None
    assert steep.tolist() == [8 * 2.0**-head for head in range(1, 9)]
    assert sinks(Case()) is slopes(Case()) is None


@pytest.mark.parametrize(
    ("peak_at", "window", "position"),
    [
        ("last", 0, 39),
        ("first", 0, 0),
        ("outside_window", 7, 32),
        ("inside_window", 7, 33),
        ("outside_window", 40, 39),
        ("outside_window", 0, 39),
        ("before_chunk", 0, 36),
        ("after_chunk", 0, 37),
    ],
)
def test_peaks(peak_at: str, window: int, position: int) -> None:
    """By hand; a sequence without such a key has its peak at the end."""
    case = Case(seq_lens=(40,), query_lens=(3,), pattern="peaked", peak_at=peak_at, window=window)

    assert peak_position(case, 0, 0) == position


@pytest.mark.parametrize(
    ("pattern", "peak_at", "positions"),
    [("peaked", "first", [0, 39]), ("peaked", "last", [39]), ("peaked", "outside_window", [32]), ("sink", "first", [0])],
)
def test_the_last_key_stands_out_as_well(pattern: str, peak_at: str, positions: list[int]) -> None:
    """Beside a peak that a query sees; but a sink's value, and what the window hides, stand alone."""
    case = Case(seq_lens=(40,), window=7, pattern=pattern, peak_at=peak_at, peak_height=100.0, sigma=0.1)

    batch = tokens(case)

    assert torch.nonzero(batch.keys.norm(dim=2)[:, 0] > 10)[:, 0].tolist() == positions


@pytest.mark.parametrize("cache_dtype", ["same", "float8_e4m3fn", "float8_e5m2"])
def test_the_last_of_very_negative_keys_is_the_heaviest(cache_dtype: str) -> None:
    """By thousands, so that to drop it shows although the products are so large; rounded to FP8 as well."""
    scale = 1.0 if cache_dtype == "same" else 64.0
    case = Case(pattern=VERY_NEGATIVE, seq_lens=(40,), dtype="bfloat16", cache_dtype=cache_dtype, k_scale=scale)
    inputs = OP.build(case, Arena())

    keys, _ = unpack(inputs, {**ROUNDING, "dequantised": "bfloat16"}, 0, 40)

    logits = (inputs["query"][0].double() @ keys[:, 0].T * case.sm_scale)[0]
    assert logits[39] > logits[:39].max() + 1000


@pytest.mark.parametrize("head_dim", [32, 256])
def test_very_negative_logits(head_dim: int) -> None:
    """All of them are far below -10000, by which vLLM masks."""
    case = Case(pattern=VERY_NEGATIVE, head_dim=head_dim, seq_lens=(40,), group_size=4, dtype="bfloat16")
    inputs = OP.build(case, Arena())

    keys, _ = unpack(inputs, ROUNDING, 0, 40)

    logits = inputs["query"][0].double() @ keys[:, 0].T * case.sm_scale
    assert bool((logits < -10000).all())
    assert bool((logits > -30000).all())


def test_chunks_are_in_no_cache() -> None:
    """Tokens that a cache does not hold follow those that it does, sequence by sequence; a peak among them is found."""
    case = Case(seq_lens=(5, 7), query_lens=(2, 3), pattern="peaked", sigma=0.1, peak_at="last", peak_height=100.0)

    batch = tokens(case, cached=(3, 4))

    assert batch.slots == 7
    assert batch.keys.shape == batch.values.shape == (12, 1, 32)
    norms = batch.keys.norm(dim=2)[:, 0]
    assert torch.nonzero(norms > 10)[:, 0].tolist() == [8, 11]
