"""The references of prefix_prefill and of the driver over it: what is right, worked out query by query and head by head."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from paged_attention_inputs import ROUNDING, sequence
from prefill_attention import mask, masked, prefill_inputs
from torch import Tensor

from tridiff.reference import chunked_prefill_paged_decode, prefix_prefill

CONTEXT, QUERIES = 19, 6
SLOPES = torch.tensor([0.5, 0.25, 0.125, 1.0])
SINKS = torch.tensor([0.3, -math.inf, 20.0, -2.0])


def whole(context: int = CONTEXT, queries: int = QUERIES, seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    """A sequence of four query heads and two KV heads of width 32, over two pages."""
    return sequence(context + queries, queries=queries, seed=seed)


def value_of(inputs: dict[str, Any], reference: Any = prefix_prefill.reference) -> Tensor:
    """What a reference expects, [rows, Hq, D]."""
    value: Tensor = reference(inputs, ROUNDING)["outputs"]["output"][0]
    return value


def driven(inputs: dict[str, Any]) -> Tensor:
    """What the driver's reference expects of the same arguments."""
    del inputs["skip_decode"]
    return value_of({**inputs, "arch": "gfx942"}, chunked_prefill_paged_decode.reference)


def close(found: Tensor, expected: Tensor) -> None:
    """Equal but for roundings of float64."""
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("context", [0, 1, 15, 16, CONTEXT])
@pytest.mark.parametrize(("chunk", "slots"), [("rows", "written"), ("rows", "poison"), ("cache", "written")])
def test_a_chunk_sees_its_context_and_itself(chunk: str, slots: str, context: int) -> None:
    """Each query all keys up to its own, wherever those of the chunk come from; slots of the chunk are not read for nothing."""
    one = whole(context)

    for found in (value_of, driven):
        close(found(prefill_inputs(one, chunk=chunk, slots=slots)), masked(one))


@pytest.mark.parametrize("window", [0, 1, 2, QUERIES, CONTEXT, 10**6])
@pytest.mark.parametrize("causal", [True, False])
def test_windows(window: int, causal: bool) -> None:
    """A query sees itself and the `window` - 1 keys before it; those behind it are bounded by causality alone."""
    one = whole()

    found = value_of(prefill_inputs(one, sliding_window=window, causal=causal))

    close(found, masked(one, mask(QUERIES, CONTEXT + QUERIES, causal=causal, window=window)))


@pytest.mark.parametrize("window", [0, 4])
def test_alibi_and_sinks(window: int) -> None:
    """The bias counts from each query's own position, in a window as well; a sink joins each row."""
    one = whole()

    found = value_of(prefill_inputs(one, sliding_window=window, alibi_slopes=SLOPES, sinks=SINKS))

    visible = mask(QUERIES, CONTEXT + QUERIES, window=window)
    close(found, masked(one, visible, slopes=SLOPES, sinks=SINKS))


def test_chunks_are_not_quantised() -> None:
    """Beside an FP8 cache the context is what its codes say, and the chunk what its rows say; from the cache both are codes."""
    query, keys, values = whole()
    codes = keys.to(torch.float8_e4m3fn), values.to(torch.float8_e4m3fn)
    scales = {"k_scale": torch.tensor(0.5), "v_scale": torch.tensor([2.0])}
    coded = codes[0].float() * 0.5, codes[1].float() * 2.0
    mixed = (torch.cat([code[:CONTEXT], exact[CONTEXT:]]) for code, exact in zip(coded, (keys, values), strict=True))
    inputs = prefill_inputs((query, *codes), chunk="cache", **scales)
    rows = {"key": keys[CONTEXT:], "value": values[CONTEXT:]}

    close(value_of(inputs), masked((query, *coded)))
    close(value_of({**inputs, **rows}), masked((query, *mixed)))


def test_rows() -> None:
    """Those of sequences with queries, at their rows; with `skip_decode` those of single queries are left alone."""
    sequences = whole(4, 3), whole(7, 1, seed=1), whole(2, 2, seed=2)
    inputs = prefill_inputs(*sequences)
    starts = inputs["query_start_loc"].tolist()
    inputs["query_start_loc"] = torch.tensor(
        [0, 0, *starts[1:]], dtype=torch.int32
    )  # one more without queries, and without pages
    inputs["seq_lens"] = torch.tensor([9, *inputs["seq_lens"].tolist()], dtype=torch.int32)
    inputs["block_table"] = torch.cat([torch.full_like(inputs["block_table"][:1], 2**30), inputs["block_table"]])
    for name in ("query", "key", "value", "output"):
        inputs[name] = torch.cat([inputs[name], torch.full_like(inputs[name][:2], math.nan)])

    every, skipping = (
        prefix_prefill.reference({**inputs, "skip_decode": skips}, ROUNDING)["outputs"]["output"] for skips in (False, True)
    )

    assert [tuple(part.shape) for part in every[2]] == [(6, 1, 1), (1, 4, 1), (1, 1, 32)]
    assert every[2][0].flatten().tolist() == [0, 1, 2, 3, 4, 5]
    assert skipping[2][0].flatten().tolist() == [0, 1, 2, 4, 5]
    parts = [masked(each) for each in sequences]
    close(every[0], torch.cat(parts))
    close(skipping[0], torch.cat([parts[0], parts[2]]))


def test_nothing_to_answer() -> None:
    """No row at all: nothing is expected, and nothing can hide."""
    result = prefix_prefill.reference(prefill_inputs(whole(3, 1), skip_decode=True), ROUNDING)

    assert result["outputs"]["output"][0].shape == (0, 4, 32)
    assert result["conclusive"]


def test_decodes_read_the_cache() -> None:
    """In the driver's batch the one key of a decode comes from the cache, its row is not looked at; a chunk's comes from the rows."""
    decode, chunk = whole(7, 1), whole(5, 3, seed=1)
    inputs = prefill_inputs(decode, chunk)
    inputs["key"][0], inputs["value"][0] = math.nan, math.nan
    alone = prefill_inputs(chunk, slots="poison")

    close(driven(inputs), torch.cat([masked(decode), masked(chunk)]))
    close(driven(alone), masked(chunk))


def test_a_decode_without_any_token() -> None:
    """As in padded batches: 0, exactly, sinks or not."""
    inputs = {**prefill_inputs(whole(3, 1), sinks=SINKS), "seq_lens": torch.tensor([0], dtype=torch.int32), "arch": "gfx942"}

    result = chunked_prefill_paged_decode.reference(inputs, ROUNDING)

    value, bound, _ = result["outputs"]["output"]
    assert value.shape == (1, 4, 32)
    assert not bool(value.any())
    assert not bool(bound.any())
    assert result["conclusive"]


@pytest.mark.parametrize("name", ["query", "key", "value"])
def test_what_is_not_finite_is_refused(name: str) -> None:
    """By the name of the tensor and its rows."""
    inputs = prefill_inputs(whole())
    inputs[name][2, 0, 0] = math.inf

    with pytest.raises(ValueError, match=f"{name} holds in rows 0 to 5 what is no finite number"):
        prefix_prefill.reference(inputs, ROUNDING)


def test_folded_scales_are_refused() -> None:
    """They would be the context's alone."""
    query, keys, values = whole()
    inputs = prefill_inputs((query, keys.to(torch.float8_e4m3fn), values.to(torch.float8_e4m3fn)), chunk="cache")
    inputs |= {"key": keys[CONTEXT:], "value": values[CONTEXT:]}

    with pytest.raises(ValueError, match="keys of the chunk have no scale"):
        prefix_prefill.reference(inputs, {**ROUNDING, "dequantised": "folded"})


# The bound

WINDOW = 9


def peaked(dtype: torch.dtype, peak: int) -> tuple[Tensor, Tensor, Tensor]:
    """All queries point one way, and key `peak` gets about half of the weight of every query that sees it."""
    query, keys, values = whole()
    query = query[:1] + 0.05 * query
    towards = query[0] * (5 * 32**0.5 / query[0].square().sum(dim=1, keepdim=True))
    keys[peak] += towards.view(2, 2, 32).sum(dim=1)
    return query.to(dtype), keys.to(dtype), values.to(dtype)


CAUSAL = mask(QUERIES, CONTEXT + QUERIES)


def dropped(key: int) -> Tensor:
    """Key `key` forgotten."""
    return CAUSAL & (torch.arange(CONTEXT + QUERIES) != key)


def behind(distance: int) -> Tensor:
    """Causality off by so many keys."""
    wide = mask(QUERIES, CONTEXT + QUERIES, causal=False)
    return wide.tril(CONTEXT + distance)


def windowed(window: int) -> Tensor:
    """Another window."""
    return mask(QUERIES, CONTEXT + QUERIES, window=window)


LAST = CONTEXT + QUERIES - 1
MASKS: dict[str, tuple[int, int, Tensor, list[int]]] = {
    "last key of the context dropped": (0, CONTEXT - 1, dropped(CONTEXT - 1), [0, 1, 2, 3, 4, 5]),
    "first key of the chunk dropped": (0, CONTEXT, dropped(CONTEXT), [0, 1, 2, 3, 4, 5]),
    "first key dropped": (0, 0, dropped(0), [0, 1, 2, 3, 4, 5]),
    "one key behind the query seen": (0, LAST, behind(1), [4]),
    "own key not seen": (0, LAST, behind(-1), [5]),
    "no causality": (0, LAST, mask(QUERIES, CONTEXT + QUERIES, causal=False), [0, 1, 2, 3, 4]),
    "window one too wide": (WINDOW, LAST - WINDOW, windowed(WINDOW + 1), [5]),
    "window one too narrow": (WINDOW, LAST - WINDOW + 1, windowed(WINDOW - 1), [5]),
    "window ignored": (WINDOW, LAST - WINDOW, CAUSAL, [5]),
    "context taken for empty": (0, 3, CAUSAL & (torch.arange(CONTEXT + QUERIES) >= CONTEXT), [0, 1, 2, 3, 4, 5]),
}
"""By name: the window, the key that is peaked, what a wrong kernel sees, and the queries in which that must show."""


def exceeding(wrong: Tensor, result: dict[str, Any]) -> list[int]:
    """Rows of which every head has an element beyond the bound."""
    value, bound, _ = result["outputs"]["output"]
    outside = ((wrong - value).abs() > bound).any(dim=2).all(dim=1)
    return torch.nonzero(outside)[:, 0].tolist()


def judged(inputs: dict[str, Any], dtype: str) -> dict[str, Any]:
    """By the bound of a kernel whose p have that dtype."""
    return prefix_prefill.reference(inputs, {**ROUNDING, "p_dtype": dtype, "dequantised": dtype})


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
@pytest.mark.parametrize("name", MASKS)
def test_wrong_masks_exceed_the_bound(name: str, dtype: str) -> None:
    """In every head of the queries concerned."""
    window, peak, seen, rows = MASKS[name]
    one = peaked(getattr(torch, dtype), peak)

    result = judged(prefill_inputs(one, sliding_window=window), dtype)

    assert set(rows) <= set(exceeding(masked(one, seen), result))
    assert result["conclusive"]


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_wrong_values_exceed_the_bound(dtype: str) -> None:
    """Alibi from the wrong position (against a sink), sinks dropped or counted twice, zeros, heads in each other's place."""
    one = peaked(getattr(torch, dtype), CONTEXT)
    slopes, sinks = torch.tensor([4.0, 2.0, 1.0, 0.5]), torch.tensor([3.0, 2.0, 2.5, 4.0])
    arguments = {"slopes": slopes, "sinks": sinks}

    result = judged(prefill_inputs(one, alibi_slopes=slopes, sinks=sinks), dtype)

    right = masked(one, **arguments)
    assert exceeding(right, result) == []
    wrong = {
        "alibi from the next position": masked(one, **arguments, shift=1),
        "alibi from the start of the chunk": masked(one, **arguments, shift=-CONTEXT),
        "no alibi": masked(one, sinks=sinks),
        "no sinks": masked(one, slopes=slopes),
        "sinks twice": masked(one, slopes=slopes, sinks=sinks + math.log(2.0)),
        "zeros": torch.zeros_like(right),
        "swapped heads": right[:, [1, 0, 3, 2]],
        "swapped rows": right.roll(1, dims=0),
    }
    assert {name: len(exceeding(each, result)) for name, each in wrong.items()} == dict.fromkeys(wrong, QUERIES)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_quantised_chunks_exceed_the_bound(dtype: str) -> None:
    """A kernel that takes the chunk from an FP8 cache instead of from its rows."""
    query, keys, values = peaked(getattr(torch, dtype), CONTEXT)
    codes = keys.to(torch.float8_e4m3fn), values.to(torch.float8_e4m3fn)
    inputs = prefill_inputs((query, *codes), chunk="cache")

    result = judged({**inputs, "key": keys[CONTEXT:], "value": values[CONTEXT:]}, dtype)

    assert exceeding(masked((query, codes[0].float(), codes[1].float())), result) == [0, 1, 2, 3, 4, 5]


@pytest.mark.parametrize(("peak", "expected"), [(3, False), (-1, True)])
def test_conclusive(peak: int, expected: bool) -> None:
    """Whether the last key that a query sees matters: beside one that outweighs all, only where it is that one."""
    query, keys, values = whole(queries=2)
    query[:] = query[:1].clone()
    keys[peak] = 30 * query[0].view(2, 2, 32).sum(dim=1)

    assert judged(prefill_inputs((query, keys, values)), "float32")["conclusive"] is expected
