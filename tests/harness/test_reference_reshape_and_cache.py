"""The reference of `reshape_and_cache`: every element where the layouts have it, and what is wrong leaves the bound."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from tridiff.harness.api import Arena, Verdict
from tridiff.harness.checks.memory import check_memory
from tridiff.harness.checks.values import check_values
from tridiff.harness.declarations import check_judged, verdict_of
from tridiff.reference.reshape_and_cache import reference
from tridiff.strategies import cache_writes_values as values
from tridiff.strategies.cache_writes import slots_of
from tridiff.strategies.kv_caches import KINDS, orders, put
from tridiff.strategies.reshape_and_cache import ReshapeAndCacheCase as Case
from tridiff.strategies.reshape_and_cache import build

Edit = Callable[[dict[str, Any]], None]


def inputs_of(kind: str, slots: list[int], **given: Any) -> dict[str, Any]:
    """Two heads of width 8 in two pages of 16 tokens, float32; the elements of key are numbered, those of value are negative."""
    rows = torch.arange(1.0, 1 + len(slots) * 16).reshape(len(slots), 2, 8)
    shapes = {"nhd": ((2, 16, 2, 8), (2, 16, 2, 8))}.get(kind, ((2, 2, 2, 16, 4), (2, 2, 8, 16)))
    caches = {name: torch.zeros(shape) for name, shape in zip(("key_cache", "value_cache"), shapes, strict=True)}
    scales = {"k_scale": None, "v_scale": None}
    known = {"key": rows, "value": -rows, **caches, "slot_mapping": torch.tensor(slots), **scales}
    return known | {"interleaved": kind == "interleaved", "platform": "hip"} | given


def after(inputs: dict[str, Any]) -> dict[str, torch.Tensor]:
    """The caches, zeros but for what the reference says of them."""
    found = {}
    for name, (value, _, at) in reference(inputs, {})["outputs"].items():
        found[name] = torch.zeros(inputs[name].shape, dtype=torch.float64)
        found[name][at] = value
    return found


def test_nhd_by_hand() -> None:
    """Slot 17 is page 1, offset 1, and -1 is nowhere."""
    found = after(inputs_of("nhd", [17, -1]))

    assert found["key_cache"][1, 1].flatten().tolist() == list(range(1, 17))
    assert found["value_cache"][1, 1].flatten().tolist() == list(range(-1, -17, -1))
    assert all(int(cache.count_nonzero()) == 16 for cache in found.values())


def test_head_major_by_hand() -> None:
    """K in packs of four columns; V by columns, with its tokens side by side."""
    found = after(inputs_of("head_major", [-7, 18]))

    assert found["key_cache"][1, :, :, 2].tolist() == [[[17, 18, 19, 20], [21, 22, 23, 24]], [[25, 26, 27, 28], [29, 30, 31, 32]]]
    assert found["value_cache"][1, :, :, 2].tolist() == [list(range(-17, -25, -1)), list(range(-25, -33, -1))]
    assert all(int(cache.count_nonzero()) == 16 for cache in found.values())


def test_interleaved_by_hand() -> None:
    """Token 6 of a page is the third of the second pack of four: column d lies at 1 * 8 * 4 + d * 4 + 2 of its head."""
    found = after(inputs_of("interleaved", [6]))

    panel = found["value_cache"][0, 1].flatten()

    assert panel.nonzero().flatten().tolist() == [34 + 4 * column for column in range(8)]
    assert panel[34::4][:8].tolist() == list(range(-9, -17, -1))
    assert torch.equal(found["key_cache"], after(inputs_of("head_major", [6]))["key_cache"])


def test_nothing_to_write() -> None:
    """Then there are no outputs to judge."""
    assert reference(inputs_of("nhd", [-1, -16]), {})["outputs"] == {}
    assert reference(inputs_of("nhd", []), {})["outputs"] == {}


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"slot_mapping": torch.tensor([32])}, r"slot_mapping\[0\] is 32: must be below 32, the slots of the cache"),
        ({"key": torch.zeros(2, 2, 8), "slot_mapping": torch.tensor([5, 5])}, "no two tokens may have the same slot"),
    ],
)
def test_calls_that_are_not_legal(given: dict[str, Any], message: str) -> None:
    """Are refused rather than judged."""
    with pytest.raises(ValueError, match=message):
        reference(inputs_of("nhd", [1], **given), {})


CASES = [Case(kind=kind, key_order=order, value_order=order) for kind in KINDS for order in orders(kind)] + [
    Case(kind="interleaved", cache_dtype="float8_e5m2", k_scale=0.37, v_scale=1.7, key_pages="layers", head_dim_v=17),
    Case(dtype="float8_e4m3fnuz", k_scale=4.0, pattern="non_finite", key_layout="padded_heads"),
    Case(kind="head_major", dtype="float16", cache_dtype="float8_e4m3fn", pattern="overflow", value_pages="padded"),
]
BATCH = {"num_tokens": 7, "num_heads": 3, "negatives": "scattered", "negative_slot": "mixed", "placing": "scattered", "seed": 3}


def with_batch(case: Case) -> Case:
    """The case with several tokens and heads."""
    return Case(**{**vars(case), **BATCH})


def written_by_index(case: Case, inputs: dict[str, Any], edit: Edit | None = None) -> None:
    """Write the tokens as `KVCache.index` has them, which the reference knows nothing of; `edit` makes the inputs wrong."""
    slots = slots_of(case)
    page, offset = slots.places(case.placement(slots))
    seen = dict(inputs, page=page, offset=offset, token=torch.from_numpy(slots.tokens), caches={})
    if edit is not None:
        edit(seen)
    for role in ("key", "value"):
        cache = seen["caches"].get(role, case.cache(role))
        scale = seen[f"{role[0]}_scale"]
        rows = values.as_stored(
            seen[role].clone().contiguous(), inputs[f"{role}_cache"].dtype, 1.0 if scale is None else float(scale)
        )
        raw = rows.view(torch.uint8 if rows.element_size() == 1 else rows.dtype)
        put(inputs[f"{role}_cache"], cache.index(seen["page"], seen["offset"]), raw[seen["token"]].view(rows.dtype))


def judged(case: Case, edit: Edit | None = None) -> tuple[Verdict, Arena]:
    """What the reference says, and the memory after the tokens were written."""
    arena = Arena()
    inputs = build(case, arena)
    arena.seal()
    verdict = verdict_of("reshape_and_cache", reference(inputs, {}), inputs)
    check_judged("reshape_and_cache", verdict, arena.written(), arena)
    written_by_index(case, inputs, edit)
    return verdict, arena


@pytest.mark.parametrize("case", CASES, ids=str)
def test_layouts_agree(case: Case) -> None:
    """What the reference expects, and where, is what the layouts' own index writes; nothing else is touched."""
    verdict, arena = judged(with_batch(case))
    outputs = {name: arena.allocations[name].view for name in arena.written()}

    assert list(check_values(verdict, outputs)) == []
    assert [failure.check for failure in check_memory(arena) if failure.check == "corruption"] == []
    assert len(outputs) == 2


def _swap(seen: dict[str, Any]) -> None:
    seen["key"], seen["value"] = seen["value"], seen["key"]


def _exchange_scales(seen: dict[str, Any]) -> None:
    seen["k_scale"], seen["v_scale"] = seen["v_scale"], seen["k_scale"]


def _shift_heads(seen: dict[str, Any]) -> None:
    seen["key"] = seen["key"].roll(1, dims=1)


def _shift_tokens(seen: dict[str, Any]) -> None:
    seen["value"] = seen["value"].roll(1, dims=0)


def _one_column_off(seen: dict[str, Any]) -> None:
    seen["value"] = seen["value"].roll(1, dims=2)


def _one_ulp_off(seen: dict[str, Any]) -> None:
    seen["key"] = (seen["key"].contiguous().view(torch.int16) + 64).view(torch.bfloat16)


def _no_scale(seen: dict[str, Any]) -> None:
    seen["v_scale"] = None


@pytest.mark.parametrize(
    "edit",
    [_swap, _exchange_scales, _shift_heads, _shift_tokens, _one_column_off, _one_ulp_off, _no_scale],
    ids=lambda e: e.__name__,
)
@pytest.mark.parametrize("kind", KINDS)
def test_what_is_wrong_leaves_the_bound(edit: Edit, kind: str) -> None:
    """Rows, heads, columns and scales exchanged or shifted, and numbers that are off by a code, are seen in every kind."""
    types: dict[str, Any] = {"dtype": "bfloat16", "cache_dtype": "float8_e4m3fn", "k_scale": 0.37, "v_scale": 1.7}
    case = with_batch(Case(kind=kind, **types))

    verdict, arena = judged(case, edit)
    outputs = {name: arena.allocations[name].view for name in arena.written()}

    assert [failure.check for failure in check_values(verdict, outputs)] == ["mismatch"]


@pytest.mark.parametrize(("kind", "other"), [("head_major", "interleaved"), ("interleaved", "head_major")])
def test_values_in_the_other_kinds_packs(kind: str, other: str) -> None:
    """Shapes and strides are the same, and nearly all elements lie elsewhere."""

    def edit(seen: dict[str, Any]) -> None:
        seen["caches"]["value"] = Case(**{**vars(case), "kind": other}).cache("value")

    case = with_batch(Case(kind=kind, dtype="bfloat16"))

    verdict, arena = judged(case, edit)
    checks = [failure.check for failure in check_memory(arena)]

    assert checks == ["corruption", "unwritten"]
    assert list(check_values(verdict, {name: arena.allocations[name].view for name in arena.written()}))
