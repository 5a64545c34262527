"""The reference of decode_attention: its values, the memory it reads, what it refuses and the contract behind its bound."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch import Tensor

from tridiff.reference.attention_bound import Contract, Operand, bounds
from tridiff.reference.decode_attention import attend, reference
from tridiff.reference.roundings import gamma

HUGE_PAGE = 2**31 - 1
ROUNDING = {"p_dtype": "float32", "block_n": 16, "num_kv_splits": 4, "dot_precision": "ieee"}


# Inputs: dense keys and values, laid out in poisoned pages.


def gaussian(seed: int, *shape: int) -> Tensor:
    """Float32 normal values; every call with one seed and shape gives the same."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def nan_cache(shape: tuple[int, ...], dtype: torch.dtype, gap: int) -> Tensor:
    """Make a cache of `shape` [pages, page_size, Hkv, D], all NaN, with `gap` elements behind each head, token and page."""
    pages, page_size, heads, width = shape
    head = width + gap
    token = heads * head + gap
    page = page_size * token + gap
    storage = torch.full((pages * page,), math.nan, dtype=dtype)
    return storage.as_strided(shape, (page, token, head, 1))


def fill_pages(dense: Tensor, table: Tensor, lengths: Sequence[int], cache: Tensor) -> None:
    """Write the first tokens of `dense` [B, n, Hkv, D] into the 4-D `cache` at the pages of `table`, and nothing else."""
    page_size = cache.shape[1]
    for row, length in enumerate(lengths):
        for token in range(length):
            cache[int(table[row, token // page_size]), token % page_size] = dense[row, token]


def make_inputs(
    query: Tensor,
    keys: Tensor,
    values: Tensor,
    *,
    lengths: Sequence[int],
    page_size: int = 4,
    gap: int = 3,
    cap: float = 0.0,
) -> dict[str, Any]:
    """Launcher arguments for dense `query` [B, Hq, Lk], `keys` and `values` [B, n, Hkv, Lk or Lv], pages in reverse order."""
    needed = [-(-length // page_size) for length in lengths]
    pages = sum(needed)
    table = torch.full((len(lengths), max(1, *needed) + 1), HUGE_PAGE, dtype=torch.int32)
    free = itertools.count(pages, -1)
    for row, number in enumerate(needed):
        table[row, :number] = torch.tensor([next(free) for _ in range(number)], dtype=torch.int32)
    caches = [nan_cache((pages + 1, page_size, *dense.shape[2:]), query.dtype, gap) for dense in (keys, values)]
    for dense, cache in zip((keys, values), caches, strict=True):
        fill_pages(dense, table, lengths, cache)
    return {
        "query": query,
        "key_cache": caches[0],
        "value_cache": caches[1],
        "block_table": table,
        "seq_lens": torch.tensor(lengths, dtype=torch.int32),
        "output": torch.full((*query.shape[:2], values.shape[-1]), math.nan, dtype=query.dtype),
        "lse": torch.full(query.shape[:2], math.nan),
        "sm_scale": query.shape[-1] ** -0.5,
        "logit_cap": cap,
        "page_size": page_size,
        "num_kv_splits": 4,
        "platform": "hip",
    }


def random_inputs(
    lengths: Sequence[int] = (13, 1, 8),
    *,
    heads: tuple[int, int] = (4, 2),
    widths: tuple[int, int] = (8, 6),
    page_size: int = 4,
    gap: int = 3,
    cap: float = 0.0,
) -> dict[str, Any]:
    """Gaussian float32 inputs of `heads` (query, KV) and `widths` (Lk, Lv)."""
    query = gaussian(0, len(lengths), heads[0], widths[0])
    keys, values = (gaussian(i, len(lengths), max(lengths), heads[1], width) for i, width in enumerate(widths, start=1))
    return make_inputs(query, keys, values, lengths=lengths, page_size=page_size, gap=gap, cap=cap)


def dense_attention(inputs: dict[str, Any], row: int, head: int) -> tuple[Tensor, Tensor]:
    """Compute output [Lv] and lse of one head, one key after the other in float64: slow, and unlike the reference."""
    query, length = inputs["query"][row, head].double(), int(inputs["seq_lens"][row])
    kv_head = head // (inputs["query"].shape[1] // inputs["key_cache"].shape[-2])
    total, output = 0.0, torch.zeros(inputs["value_cache"].shape[-1], dtype=torch.float64)
    for token in range(length):
        page = int(inputs["block_table"][row, token // inputs["page_size"]])
        slot = token % inputs["page_size"]
        logit = inputs["sm_scale"] * math.fsum((query * inputs["key_cache"][page, slot, kv_head].double()).tolist())
        if inputs["logit_cap"]:
            logit = inputs["logit_cap"] * math.tanh(logit / inputs["logit_cap"])
        total += math.exp(logit)
        output += math.exp(logit) * inputs["value_cache"][page, slot, kv_head].double()
    return output / total, torch.tensor(total, dtype=torch.float64).log()


def assert_dense(inputs: dict[str, Any]) -> None:
    """Assert that the reference of `inputs` (4-D caches) equals `dense_attention` for all rows and heads."""
    outputs = reference(inputs, ROUNDING)["outputs"]

    rows, heads = inputs["query"].shape[:2]
    for row, head in itertools.product(range(rows), range(heads)):
        expected = dense_attention(inputs, row, head)
        torch.testing.assert_close(outputs["output"][0][row, head], expected[0], rtol=1e-12, atol=1e-13)
        torch.testing.assert_close(outputs["lse"][0][row, head], expected[1], rtol=1e-12, atol=1e-13)


# Values.


def test_two_keys_by_hand() -> None:
    """Logits 0 and ln 3 weigh the values 1/4 and 3/4; the sum of exponentials is 4."""
    query = torch.tensor([[[1.0]]])
    keys = torch.tensor([[[[0.0]], [[math.log(3.0)]]]])
    values = torch.tensor([[[[8.0, 0.0]], [[0.0, 16.0]]]])

    outputs = reference(make_inputs(query, keys, values, lengths=[2]), ROUNDING)["outputs"]

    torch.testing.assert_close(outputs["output"][0][0, 0], torch.tensor([2.0, 12.0], dtype=torch.float64), rtol=1e-7, atol=0)
    assert float(outputs["lse"][0][0, 0]) == pytest.approx(math.log(4.0), rel=1e-7)


@pytest.mark.parametrize("page_size", [1, 3, 4, 544])
@pytest.mark.parametrize("cap", [0.0, 1.5])
def test_agrees_with_a_loop_over_keys(page_size: int, cap: float) -> None:
    """Ragged rows, gaps of NaN and a table tail of huge indices do not change the value."""
    assert_dense(random_inputs(page_size=page_size, cap=cap))


@pytest.mark.parametrize("heads", [(1, 1), (6, 1), (6, 2), (3, 3)])
@pytest.mark.parametrize("widths", [(4, 9), (9, 4)])
def test_heads_and_widths(heads: tuple[int, int], widths: tuple[int, int]) -> None:
    """MHA, GQA and MQA, with Lk below and above Lv."""
    assert_dense(random_inputs(heads=heads, widths=widths))


@pytest.mark.parametrize("dtype", [torch.int32, torch.int64])
def test_lengths_of_both_integer_dtypes(dtype: torch.dtype) -> None:
    """seq_lens may be int32 or int64."""
    inputs = random_inputs()

    assert_dense(inputs | {"seq_lens": inputs["seq_lens"].to(dtype)})


def test_three_dimensional_caches_are_the_same_tokens() -> None:
    """A cache [NB * page_size, Hkv, D] gives what its 4-D view gives, bit for bit, with strides of its own."""
    inputs = random_inputs(gap=0)
    flat = {name: inputs[name].flatten(0, 1) for name in ("key_cache", "value_cache")}
    flat["value_cache"] = torch.cat([flat["value_cache"], torch.full_like(flat["value_cache"], math.nan)], 2)[..., :6]

    expected, actual = reference(inputs, ROUNDING), reference(inputs | flat, ROUNDING)

    for name, (value, bound) in expected["outputs"].items():
        assert torch.equal(actual["outputs"][name][0], value)
        assert torch.equal(actual["outputs"][name][1], bound)


def test_strided_query_and_head_major_cache() -> None:
    """A query sliced from a fused tensor and a cache whose heads are outermost are read where they are."""
    inputs = random_inputs()
    fused = torch.full((3, 5, 11), math.nan)
    fused[:, :4, :8] = inputs["query"]
    keys = inputs["key_cache"].permute(2, 0, 1, 3).contiguous().permute(1, 2, 0, 3)

    assert_dense(inputs | {"query": fused[:, :4, :8], "key_cache": keys})


def test_empty_rows() -> None:
    """A row without keys has output 0, lse -inf and bound 0, whatever its table says."""
    inputs = random_inputs([0, 5])
    inputs["block_table"][0] = HUGE_PAGE

    outputs = reference(inputs, ROUNDING)["outputs"]

    assert torch.equal(outputs["output"][0][0], torch.zeros(4, 6, dtype=torch.float64))
    assert torch.equal(outputs["lse"][0][0], torch.full((4,), -math.inf, dtype=torch.float64))
    assert not outputs["output"][1][0].any()
    assert not outputs["lse"][1][0].any()
    assert outputs["output"][1][1].all()


def test_case_of_empty_rows_is_conclusive() -> None:
    """Bound 0 sees everything."""
    result = reference(random_inputs([0, 0, 0]), ROUNDING)

    assert result["conclusive"] is True


# Memory.


def test_inputs_are_not_written() -> None:
    """Every byte of every tensor, gaps included, is as it was."""
    inputs = random_inputs()
    storages = {name: value.untyped_storage() for name, value in inputs.items() if isinstance(value, Tensor)}
    before = {name: bytes(storage.tolist()) for name, storage in storages.items()}

    reference(inputs, ROUNDING)

    assert {name: bytes(storage.tolist()) for name, storage in storages.items()} == before


@pytest.mark.parametrize("table", [[7, HUGE_PAGE], [7, -(2**31)], [7]])
def test_table_tail_is_not_dereferenced(table: list[int]) -> None:
    """Entries past the last page may hold anything, or not exist."""
    inputs = random_inputs([4], gap=0)
    page = int(inputs["block_table"][0, 0])
    inputs["key_cache"], inputs["value_cache"] = (
        torch.cat([cache[page : page + 1]] * 8) for cache in (inputs["key_cache"], inputs["value_cache"])
    )

    assert_dense(inputs | {"block_table": torch.tensor([table], dtype=torch.int32)})


@pytest.mark.parametrize("flat", [False, True])
def test_page_beyond_2_to_31_elements_of_a_sparse_storage(flat: bool) -> None:
    """Page 16383 of a 4 GiB storage (address space only) lies past element 2^31 and is read without touching the rest."""
    stride, last = 2**17, 2**14 + 63
    small = random_inputs([2], heads=(2, 1), page_size=2)
    storage = torch.empty((last + 1) * stride, dtype=torch.bfloat16)
    large = {}
    for name, width, start in (("key_cache", 8, 0), ("value_cache", 6, 64)):
        token = stride // 2
        large[name] = storage.as_strided((last + 1, 2, 1, width), (stride, token, width, 1), start)
        large[name][last] = small[name][int(small["block_table"][0, 0])]
        if flat:
            large[name] = storage.as_strided((2 * last + 2, 1, width), (token, width, 1), start)
    table = torch.tensor([[last]], dtype=torch.int32)
    query = small["query"].bfloat16()
    dense = {name: small[name].bfloat16() for name in large}

    expected = reference(small | dense | {"query": query}, ROUNDING)["outputs"]
    actual = reference(small | large | {"query": query, "block_table": table}, ROUNDING)["outputs"]

    assert last * stride > 2**31
    assert torch.equal(actual["output"][0], expected["output"][0])
    assert torch.equal(actual["lse"][0], expected["lse"][0])


# What it refuses.


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"p_dtype": "float64"}, "'p_dtype'.*'float64'.*float32, bfloat16, float16"),
        ({"dot_precision": "tf32x3"}, "'dot_precision'.*'tf32x3'.*ieee, tf32"),
        ({"block_n": 0}, "'block_n'.* 0.*at least 1"),
        ({"num_kv_splits": -1}, "'num_kv_splits'.*-1.*at least 1"),
        ({"flushes_subnormals": "yes"}, "'flushes_subnormals'.*'yes'.*False, True"),
        ({"flushes": True}, "unknown entry 'flushes': known are p_dtype, .*flushes_subnormals"),
    ],
)
def test_unknown_rounding_is_refused(change: dict[str, Any], message: str) -> None:
    """The error names the entry, its value and what is allowed."""
    with pytest.raises(ValueError, match=message):
        reference(random_inputs(), ROUNDING | change)


# The terms of the bound.


def contract(inputs: dict[str, Any] | None = None, **rounding: object) -> Contract:
    """Derive the contract of `inputs` (default: some float32 ones) under ROUNDING, changed by `rounding`."""
    return Contract.of(inputs or random_inputs(), ROUNDING | rounding)


@pytest.mark.parametrize(
    ("keys", "splits", "block_n", "expected"),
    [(1, 8, 8, 1 + 1), (9, 8, 8, 1 + 5), (16, 1, 8, 2 + 1), (17, 1, 8, 3 + 1), (17, 2, 8, 2 + 2), (100, 3, 16, 3 + 3)],
)
def test_steps_from_tile_to_row(keys: int, splits: int, block_n: int, expected: int) -> None:
    """Tiles of the longest of the splits of cdiv(n, S) keys, plus the splits that hold a key."""
    assert contract(block_n=block_n, num_kv_splits=splits).steps(keys) == expected


def test_unit_roundoffs() -> None:
    """u_p and eta_p are those of the dtype p is cast to, and 0 for float32."""
    narrow = {name: contract(p_dtype=name).weight for name in ("float32", "bfloat16", "float16", "float8_e4m3fnuz")}

    assert {name: (weight.unit, weight.subnormal) for name, weight in narrow.items()} == {
        "float32": (0.0, 0.0),
        "bfloat16": (2.0**-8, 2.0**-133),
        "float16": (2.0**-11, 2.0**-24),
        "float8_e4m3fnuz": (2.0**-4, 2.0**-10),
    }


NUMBERS = torch.tensor([0.0, 2.0**-149, 2.0**-127, 2.0**-126, 2.0**-15, 2.0**-14, 3.0], dtype=torch.float64)
"""From zero and the subnormals of float32 over those of float16 to what is normal everywhere."""


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_products_take_nothing_from_their_operands_by_default(dtype: torch.dtype) -> None:
    """Operands of every dtype are exact."""
    assert Operand.of(dtype, ROUNDING).loss(NUMBERS) is None


def test_tf32_cuts_float32_operands_only() -> None:
    """13 bits of a float32, which is more of a subnormal; bf16, fp16 and folded FP8 codes fit into tf32."""
    tf32 = ROUNDING | {"dot_precision": "tf32"}

    loss = Operand.of(torch.float32, tf32).loss(NUMBERS)

    assert loss is not None
    assert torch.equal(loss[3:], NUMBERS[3:] * 2.0**-10)
    assert torch.equal(loss[:3], NUMBERS[:3] * 2.0**-10 + torch.tensor([0.0, 2.0**-149, 2.0**-136], dtype=torch.float64))
    assert Operand.of(torch.bfloat16, tf32).loss(NUMBERS) is None
    assert Operand.of(torch.float16, tf32).loss(NUMBERS) is None
    assert Operand.of(torch.float32, tf32, folded=2.0).loss(NUMBERS) is None


@pytest.mark.parametrize(("dtype", "first"), [(torch.float32, 3), (torch.bfloat16, 3), (torch.float16, 5)])
def test_flushing_takes_the_whole_of_a_subnormal(dtype: torch.dtype, first: int) -> None:
    """What lies below the operand's normal range, and nothing of the rest; of a folded code, below that range times the scale."""
    flushing = ROUNDING | {"flushes_subnormals": True}

    loss, folded = Operand.of(dtype, flushing).loss(NUMBERS), Operand.of(dtype, flushing, folded=2.0).loss(2 * NUMBERS)

    assert loss is not None
    assert folded is not None
    assert torch.equal(loss, torch.cat([NUMBERS[:first], torch.zeros(len(NUMBERS) - first)]))
    assert torch.equal(folded, 2 * loss)


def test_scores_lose_what_either_operand_loses() -> None:
    """tf32 cuts both; a flushed query is all of the score, and so is a flushed key."""
    ones = torch.ones(2, 8, dtype=torch.float64)
    half = {name: value.half() for name, value in random_inputs().items() if name in {"query", "key_cache", "value_cache"}}
    flushing = contract(random_inputs() | half, flushes_subnormals=True)

    logits, error = contract(dot_precision="tf32").logits(ones, ones)
    assert torch.all(error >= 2.0**-9 * logits)
    for query, keys in ((2.0**-16 * ones, ones), (ones, 2.0**-16 * ones)):
        logits, error = flushing.logits(query, keys)
        assert torch.all(error >= logits)
    logits, error = flushing.logits(ones, ones)
    assert torch.all(error <= 1e-5 * logits)


def test_tf32_cuts_p_and_values() -> None:
    """Each by 2^-10, where nothing else is to be lost."""
    logits, values = torch.zeros(1, 4, dtype=torch.float64), torch.ones(4, 2, dtype=torch.float64)

    output_bound, _ = bounds(contract(dot_precision="tf32"), logits, logits, values, attend(logits, values))

    assert torch.all(output_bound > 2.0**-9)
    assert torch.all(output_bound < 2.0**-9 + 2.0**-16)


def test_gamma_exceeds_its_first_order_and_ends_in_infinity() -> None:
    """Accumulated roundings grow faster than their number, and a sum of 2^24 terms has no relative bound."""
    assert 100 * 2.0**-24 < gamma(100) < 100.01 * 2.0**-24
    assert gamma(2**24) == math.inf


ERRORS = {"all small": (1e-3, 1e-3, 1e-3, 1e-3), "all large": (5.0, 5.0, 5.0, 5.0), "heaviest large": (4.0, 1e-4, 1e-4, 1e-4)}
LOGITS = {"equal": (0.0, 0.0, 0.0, 0.0), "one heavy": (20.0, 3.0, 3.0, 2.0), "one very heavy": (60.0, 0.0, 0.0, -1.0)}


@pytest.mark.parametrize("errors", ERRORS.values(), ids=ERRORS)
@pytest.mark.parametrize("logits", LOGITS.values(), ids=LOGITS)
def test_every_combination_of_logit_errors_stays_within_the_bound(errors: tuple[float, ...], logits: tuple[float, ...]) -> None:
    """Also when the heaviest key has the value of the output, and so no say in a bound that is linear in the errors."""
    exact_logits, error = torch.tensor([logits], dtype=torch.float64), torch.tensor([errors], dtype=torch.float64)
    values = torch.tensor([[0.0, 1.0], [1.0, 1.0], [-1.0, 1.0], [0.0, 1e3]], dtype=torch.float64)
    exact = attend(exact_logits, values)
    output_bound, lse_bound = bounds(contract(), exact_logits, error, values, exact)

    for signs in itertools.product((-1, 0, 1), repeat=4):
        output, lse = attend(exact_logits + error * torch.tensor(signs), values)
        assert torch.all((output - exact[0]).abs() <= output_bound)
        assert torch.all((lse - exact[1]).abs() <= lse_bound)


@pytest.mark.parametrize("scale", [0.01, 1.0, 100.0])
def test_cap_passes_on_the_errors_of_logits_as_its_slope_allows(scale: float) -> None:
    """Error of a capped logit: that of the raw one while small, next to nothing at the cap, and enough in both directions."""
    query, keys = scale * gaussian(0, 2, 64).double(), gaussian(1, 50, 64).double()
    capped = contract(random_inputs(widths=(64, 6), cap=2.0))

    raw, raw_error = contract(random_inputs(widths=(64, 6))).logits(query, keys)
    logits, error = capped.logits(query, keys)

    torch.testing.assert_close(logits, 2 * torch.tanh(raw / 2))
    for sign in (-1, 1):
        assert torch.all((2 * torch.tanh((raw + sign * raw_error) / 2) - logits).abs() <= error)
    assert torch.all(error <= raw_error)
    assert torch.all(error[raw.abs() > 60] < 1e-12)
    torch.testing.assert_close(error[raw.abs() < 0.01], raw_error[raw.abs() < 0.01], rtol=1e-3, atol=0)
