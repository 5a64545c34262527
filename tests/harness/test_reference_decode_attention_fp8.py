"""The reference of decode_attention on FP8 caches and on MLA: what it reads and rounds, and which wrong contracts it exposes."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Mapping
from typing import Any

import pytest
import torch
from attention_inputs import codes, inputs_of, random_dense, rounding_of
from emulated_attention import DTYPES, FP8_DTYPES, Emulation
from torch import Tensor

from tridiff.reference.decode_attention import dequantised, reference

COUNT = 40
SCALES = (0.37, 1.7)
FORMATS = {"e4m3fn": (4, 7), "e4m3fnuz": (4, 8), "e5m2": (5, 15)}
"""Exponent bits and bias."""
Inputs = Mapping[str, Any]


def fp8_inputs(
    cache: str, dtype: str = "float32", scales: tuple[float, float] = SCALES, *, widths: tuple[int, int] = (64, 16), **more: Any
) -> dict[str, Any]:
    """Gaussian values in FP8 codes of `cache`, a query and an output of `dtype`; is_mla and others as `inputs_of` takes them."""
    query, keys, values = random_dense(COUNT, heads=(2, 1), widths=widths)
    dense = (query.to(DTYPES[dtype]), codes(keys, scales[0], FP8_DTYPES[cache]), codes(values, scales[1], FP8_DTYPES[cache]))
    return inputs_of(dense, scales=scales, **more)


def flat(answer: Mapping[str, Any]) -> list[Tensor]:
    """Values and bounds of both outputs."""
    return [tensor for pair in answer["outputs"].values() for tensor in pair]


def assert_same(actual: Mapping[str, Any], expected: Mapping[str, Any]) -> None:
    """Assert that two answers of the reference are the same, bit for bit."""
    for one, other in zip(flat(actual), flat(expected), strict=True):
        assert torch.equal(one, other)


# Numbers.


def decoded(code: int, exponent_bits: int, bias: int) -> float:
    """Number of an FP8 code, by its sign, exponent and mantissa."""
    mantissa_bits = 7 - exponent_bits
    exponent, mantissa = (code & 0x7F) >> mantissa_bits, (code & (2**mantissa_bits - 1)) / 2**mantissa_bits
    magnitude = math.ldexp(1 + mantissa, exponent - bias) if exponent else math.ldexp(mantissa, 1 - bias)
    return -magnitude if code & 0x80 else magnitude


@pytest.mark.parametrize("cache", FORMATS)
def test_codes_stand_for_what_their_format_says(cache: str) -> None:
    """All finite codes of all three formats, read from their bits, times a power of two."""
    tokens = torch.arange(256, dtype=torch.uint8).view(FP8_DTYPES[cache])
    expected = torch.tensor([4 * decoded(code, *FORMATS[cache]) for code in range(256)], dtype=torch.float64)
    finite = tokens.float().isfinite()

    assert int(finite.sum()) == {"e4m3fn": 254, "e4m3fnuz": 255, "e5m2": 248}[cache]
    for kept in ("bfloat16", "float32", "folded"):
        assert torch.equal(dequantised(tokens, 4.0, rounding_of(dequantised=kept))[finite], expected[finite])


def test_product_is_rounded_to_float32_and_then_to_the_declared_dtype() -> None:
    """1.25 * scale a little above 1 + 2^-8 is that tie in float32, and then the even 1; at once it were 1 + 2^-7."""
    scale = torch.tensor((1 + 2**-8) / 1.25, dtype=torch.float32)
    token = torch.tensor([1.25]).to(torch.float8_e4m3fn)
    exact = 1.25 * float(scale)

    found = {kept: float(dequantised(token, float(scale), rounding_of(dequantised=kept))) for kept in (*DTYPES, "folded")}

    assert 1 + 2**-8 < exact < 1 + 2**-8 + 2**-24
    assert found == {"float32": 1 + 2**-8, "bfloat16": 1.0, "float16": 1 + 2**-8, "folded": exact}


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("cache", FP8_DTYPES)
@pytest.mark.parametrize("is_mla", [False, True])
def test_rounded_fp8_is_a_cache_of_the_rounded_numbers(cache: str, dtype: str, is_mla: bool) -> None:
    """Values and bounds of a case whose caches hold code * scale in the query's dtype, bit for bit."""
    inputs = fp8_inputs(cache, dtype, is_mla=is_mla)
    rounding = rounding_of(dtype, dequantised=dtype)
    used = (SCALES[0], SCALES[0] if is_mla else SCALES[1])
    plain = {
        name: (inputs[name].float() * scale).to(DTYPES[dtype])
        for name, scale in zip(("key_cache", "value_cache"), used, strict=True)
    }

    assert_same(reference(inputs, rounding), reference(inputs | plain, rounding))


@pytest.mark.parametrize("cache", FP8_DTYPES)
def test_folded_scales_are_exact_and_cost_a_rounding_each(cache: str) -> None:
    """With powers of two all contracts give one value; the folded one allows a little more, in the lse for the scores."""
    inputs = fp8_inputs(cache, scales=(0.5, 2.0))

    rounded = flat(reference(inputs, rounding_of(dequantised="float32")))
    folded = flat(reference(inputs, rounding_of(dequantised="folded")))

    for i, (one, other) in enumerate(zip(rounded, folded, strict=True)):
        if i % 2 == 0:
            torch.testing.assert_close(other, one, rtol=1e-14, atol=0)
        else:
            assert torch.all(other > one)
            assert torch.all(other < 1.05 * one)
    assert torch.all(folded[3] - rounded[3] > 3 * 2.0**-24)


@pytest.mark.parametrize("cache", FP8_DTYPES)
def test_folded_scale_of_the_values_is_a_rounding_of_the_output(cache: str) -> None:
    """Where the scores are exact, because the query is 0, the output may be off by more and the lse may not."""
    inputs = fp8_inputs(cache, scales=(0.5, 2.0))
    inputs["query"].zero_()

    _, rounded, _, rounded_lse = flat(reference(inputs, rounding_of(dequantised="float32")))
    _, folded, _, folded_lse = flat(reference(inputs, rounding_of(dequantised="folded")))

    assert torch.all(folded > rounded)
    assert torch.all(folded_lse - rounded_lse < 2 * 2.0**-24)


def test_unscaled_scores_may_overflow() -> None:
    """Folded, codes of 448 are multiplied before the scale makes them small; rounded, they never are that large."""
    inputs = fp8_inputs("e4m3fn", scales=(2.0**-10, 1.0))
    inputs["query"].fill_(1e36)
    inputs["key_cache"].fill_(448.0)

    bounds = {kept: flat(reference(inputs, rounding_of(dequantised=kept)))[1::2] for kept in ("float32", "folded")}

    assert all(bound.isfinite().all() for bound in bounds["float32"])
    assert all(torch.all(bound == math.inf) for bound in bounds["folded"])


# What it reads.


@pytest.mark.parametrize("rank", [3, 4])
def test_fp8_tokens_are_read_where_they_are(rank: int) -> None:
    """From pages in reverse order, strided, between codes of NaN; the value is that of one dense page."""
    inputs = fp8_inputs("e4m3fnuz")
    rounding = rounding_of(dequantised="float32")
    paged: dict[str, Any] = {"page_size": 8, "block_table": torch.tensor([[5, 4, 3, 2, 1, 2**31 - 1]], dtype=torch.int32)}
    for name in ("key_cache", "value_cache"):
        dense = inputs[name][0].view(torch.uint8)
        pages = torch.full((6, 8, 2, dense.shape[-1] + 3), 0x80, dtype=torch.uint8)[:, :, :1, : dense.shape[-1]]
        pages[1:] = dense.view(5, 8, 1, -1).flip(0)
        whole = pages if rank == 4 else pages.flatten(0, 1)
        paged[name] = whole.view(torch.float8_e4m3fnuz)

    assert_same(reference(inputs | paged, rounding), reference(inputs, rounding))


def test_fp8_page_beyond_2_to_31_elements_of_a_sparse_storage() -> None:
    """The last page of 4 GiB (address space only) is read without touching the rest."""
    inputs = fp8_inputs("e5m2")
    rounding = rounding_of(dequantised="float32")
    stride, last = 2**18, 2**14 - 1
    storage = torch.empty((last + 1) * stride, dtype=torch.uint8).view(torch.float8_e5m2)
    large: dict[str, Any] = {"block_table": torch.tensor([[last]], dtype=torch.int32)}
    for start, name in enumerate(("key_cache", "value_cache")):
        shape = inputs[name].shape[1:]
        large[name] = storage.as_strided((last + 1, *shape), (stride, *inputs[name].stride()[1:]), start * stride // 2)
        large[name][last] = inputs[name][0]

    assert last * stride > 2**31
    assert_same(reference(inputs | large, rounding), reference(inputs, rounding))


def test_scales_mean_nothing_without_fp8() -> None:
    """Whatever they hold."""
    inputs = inputs_of(random_dense(COUNT))
    odd = {"k_scale": torch.tensor([math.nan]), "v_scale": torch.tensor(-3.0)}

    assert_same(reference(inputs | odd, rounding_of()), reference(inputs, rounding_of()))


def test_scales_may_have_no_dimension_or_one_or_be_missing() -> None:
    """A tensor of one element is its element, and None is 1."""
    inputs = fp8_inputs("e4m3fn", scales=(0.5, 1.0))
    rounding = rounding_of(dequantised="float32")

    assert inputs["k_scale"].dim() == 0
    expected = reference(inputs, rounding)
    assert_same(reference(inputs | {"k_scale": torch.tensor([0.5]), "v_scale": None}, rounding), expected)
    assert_same(reference({name: value for name, value in inputs.items() if name != "v_scale"}, rounding), expected)


@pytest.mark.parametrize(("width", "value_width"), [(24, 16), (17, 16), (16, 16)])
def test_mla_values_are_the_first_columns_of_the_keys(width: int, value_width: int) -> None:
    """The answer is that of ordinary attention over such values; value_cache and v_scale are not looked at."""
    rounding = rounding_of("bfloat16", dequantised="bfloat16")
    inputs = fp8_inputs("e4m3fn", "bfloat16", widths=(width, value_width), is_mla=True)
    ordinary = inputs | {"is_mla": False}
    blind = inputs | {"value_cache": torch.full_like(inputs["value_cache"].float(), math.nan), "v_scale": torch.tensor(0.0)}

    expected = reference(ordinary, rounding)

    assert inputs["value_cache"].data_ptr() == inputs["key_cache"].data_ptr()
    assert_same(reference(inputs, rounding), expected)
    assert_same(reference(blind, rounding), expected)


# What it refuses.


def test_unknown_contract_is_refused() -> None:
    """The error names the entry, its value and what is allowed, with FP8 caches or without."""
    for inputs in (fp8_inputs("e4m3fn"), inputs_of(random_dense(COUNT))):
        with pytest.raises(ValueError, match=r"'dequantised'.*'float64'.*float32, bfloat16, float16, folded"):
            reference(inputs, rounding_of(dequantised="float64"))


def test_contract_must_be_declared_for_fp8_caches_only() -> None:
    """No default could be right."""
    rounding = rounding_of()
    del rounding["dequantised"]

    with pytest.raises(KeyError, match="dequantised"):
        reference(fp8_inputs("e4m3fn"), rounding)
    assert reference(inputs_of(random_dense(COUNT)), rounding)["conclusive"]


@pytest.mark.parametrize("name", ["k_scale", "v_scale"])
@pytest.mark.parametrize("scale", [0.0, -1.0, math.nan, math.inf])
def test_scales_must_be_positive_numbers(name: str, scale: float) -> None:
    """Others are no case."""
    with pytest.raises(ValueError, match=rf"^{name} is {scale}: must be a positive number$"):
        reference(fp8_inputs("e4m3fn") | {name: torch.tensor(scale)}, rounding_of(dequantised="float32"))


@pytest.mark.parametrize(("name", "dequantised"), [("key_cache", "float32"), ("value_cache", "float16")])
def test_numbers_must_be_finite(name: str, dequantised: str) -> None:
    """A code of NaN among the keys, or a value that is too large for what it is rounded to, is no case."""
    inputs = fp8_inputs("e5m2", scales=(1.0, 4.0))
    inputs[name].view(torch.uint8)[0, 3, 0, 1] = 0x7B if name == "value_cache" else 0x7F

    with pytest.raises(ValueError, match=f"^{name} holds for row 0"):
        reference(inputs, rounding_of(dequantised=dequantised))


# Wrong contracts: the reference of another contract is left by an emulation that is right under its own.

Change = Callable[[Inputs], dict[str, Any]]
WRONG_INPUTS: dict[str, Change] = {
    "scale of the keys ignored": lambda inputs: {"k_scale": None},
    "scale of the values ignored": lambda inputs: {"v_scale": None},
    "scale of the keys twice": lambda inputs: {"k_scale": inputs["k_scale"] ** 2},
    "scale of the values twice": lambda inputs: {"v_scale": inputs["v_scale"] ** 2},
    "scales exchanged": lambda inputs: {"k_scale": inputs["v_scale"], "v_scale": inputs["k_scale"]},
    "scale of the values for the keys": lambda inputs: {"k_scale": inputs["v_scale"]},
}
VALUES_ONLY = {"scale of the values ignored", "scale of the values twice"}


def excess(inputs: Inputs, rounding: dict[str, Any], other: Inputs, other_rounding: dict[str, Any]) -> dict[str, Tensor]:
    """Worst ratio of each head, of a kernel right for `inputs` against the reference for `other`."""
    query, keys, values = inputs["query"][0], inputs["key_cache"][0, :, 0], inputs["value_cache"][0, :, 0]
    scales = float(inputs["k_scale"]), float(inputs["v_scale"])
    output, lse = Emulation(rounding, inputs["sm_scale"], scales=scales).run(query, keys, values)
    actual = {"output": output.to(inputs["output"].dtype), "lse": lse}
    expected = reference(other, other_rounding)["outputs"]
    return {
        name: ((actual[name].double() - value[0]).abs() / bound[0]).view(len(query), -1).amax(dim=1)
        for name, (value, bound) in expected.items()
    }


@pytest.mark.parametrize("change", WRONG_INPUTS)
@pytest.mark.parametrize("cache", FP8_DTYPES)
@pytest.mark.parametrize(("dtype", "dequantised"), [("bfloat16", "bfloat16"), ("float16", "float16"), ("bfloat16", "folded")])
def test_wrong_scales_are_seen_in_every_head(change: str, cache: str, dtype: str, dequantised: str) -> None:
    """Also through p and output of 16 bits; in the lse as well where they concern the keys."""
    inputs = fp8_inputs(cache, dtype)
    rounding = rounding_of(dtype, dequantised=dequantised)

    right = excess(inputs, rounding, inputs, rounding)
    wrong = excess(inputs, rounding, inputs | WRONG_INPUTS[change](inputs), rounding)

    assert all(torch.all(ratio <= 1) for ratio in right.values())
    assert torch.all(wrong["output"] > 1)
    assert torch.all((wrong["lse"] > 1) == (change not in VALUES_ONLY))


@pytest.mark.parametrize("dtype", DTYPES)
def test_codes_taken_for_another_format_are_seen_in_every_head(dtype: str) -> None:
    """e4m3fnuz read as e4m3fn, which doubles every number, and the reverse."""
    rounding = rounding_of(dtype, dequantised=dtype)
    for cache, other in (("e4m3fnuz", "e4m3fn"), ("e4m3fn", "e4m3fnuz")):
        inputs = fp8_inputs(cache, dtype)
        taken = {name: inputs[name].view(FP8_DTYPES[other]) for name in ("key_cache", "value_cache")}

        wrong = excess(inputs, rounding, inputs | taken, rounding)

        assert all(torch.all(ratio > 1) for ratio in wrong.values())


@pytest.mark.parametrize("cache", FP8_DTYPES)
@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_rounding_to_the_query_dtype_or_not_is_seen_in_every_head(cache: str, dtype: str) -> None:
    """A kernel that rounds, judged as one that does not, and the reverse; p and output are float32. Folded is as float32."""
    inputs = fp8_inputs(cache, dtype, out_dtype=torch.float32)
    contracts = {kept: rounding_of(dequantised=kept) for kept in (dtype, "float32", "folded")}

    for done, declared in itertools.product(contracts, repeat=2):
        found = excess(inputs, contracts[done], inputs, contracts[declared])

        seen = (done == dtype) != (declared == dtype)
        assert torch.all((found["output"] > (2 if seen else 1)) == seen)
        assert seen or torch.all(found["lse"] <= 1)


# MLA: defects of the slabs.


def only_the_values_columns(query: Tensor, keys: Tensor, width: int) -> tuple[Tensor, Tensor, Tensor]:
    """The columns beyond the values' do not count for the scores."""
    return query[:, :width], keys[:, :width], keys[:, :width]


def last_columns(query: Tensor, keys: Tensor, width: int) -> tuple[Tensor, Tensor, Tensor]:
    """Values from the last columns of the keys."""
    return query, keys, keys[:, -width:]


def one_column_off(query: Tensor, keys: Tensor, width: int) -> tuple[Tensor, Tensor, Tensor]:
    """Values from the columns 1 to Lv."""
    return query, keys, keys[:, 1 : width + 1]


@pytest.mark.parametrize("mutant", [only_the_values_columns, last_columns, one_column_off])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("fp8", [False, True])
def test_wrong_slabs_of_mla_are_seen_in_every_head(
    mutant: Callable[[Tensor, Tensor, int], tuple[Tensor, Tensor, Tensor]], dtype: str, fp8: bool
) -> None:
    """Even with one column beyond the values; in the lse as well if the scores miss it."""
    width, value_width = 17, 16
    rounding = rounding_of(dtype, dequantised=dtype)
    query, keys, _ = random_dense(COUNT, heads=(2, 1), widths=(width, value_width))
    stored = codes(keys, 0.37, torch.float8_e4m3fn) if fp8 else keys.to(DTYPES[dtype])
    dense = (query.to(DTYPES[dtype]), stored, stored[..., :value_width])
    inputs = inputs_of(dense, scales=(0.37, 0.37) if fp8 else (None, None), is_mla=True)
    numbers = dequantised(stored, 0.37, rounding)[:, 0]

    query, keys, values = mutant(dense[0].double(), numbers, value_width)
    logits = width**-0.5 * query @ keys.T
    wrong = {"output": logits.softmax(dim=1) @ values, "lse": logits.logsumexp(dim=1)}
    expected = reference(inputs, rounding)["outputs"]

    for name, (value, bound) in expected.items():
        seen = ((wrong[name] - value[0]).abs() > bound[0]).view(2, -1).any(dim=1)
        assert torch.all(seen == (name == "output" or mutant is only_the_values_columns))


# Whether a case could show anything.


@pytest.mark.parametrize("is_mla", [False, True])
@pytest.mark.parametrize(("peak", "expected"), [(0, False), (COUNT - 1, True)])
def test_conclusive_for_fp8_and_mla(peak: int, expected: bool, is_mla: bool) -> None:
    """As for other caches: a last key of negligible weight hides, one that dominates does not."""
    query, keys, values = random_dense(COUNT)
    keys[peak] = 20 * query
    dense = (query, codes(keys, 1.0, torch.float8_e4m3fn), codes(values, 1.0, torch.float8_e4m3fn))

    answer = reference(inputs_of(dense, is_mla=is_mla), rounding_of(dequantised="folded"))

    assert answer["conclusive"] is expected
