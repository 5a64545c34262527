"""Cases of the cache writers beside `reshape_and_cache`: what is drawn, what it costs, and the inputs built from it."""

from __future__ import annotations

import functools
import importlib
import json
import random
import re
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pytest
import torch
from drawn_cases import QUIETLY, draws
from hypothesis import find, settings
from hypothesis import strategies as st

from tridiff.harness.api import RAW, Arena, CaseError, Domain, Found, Op, Poison, from_json, offsets_of, to_json
from tridiff.harness.domains import contains
from tridiff.harness.engines.spec import EngineSpec
from tridiff.harness.registry import builtin
from tridiff.harness.runner import drawing
from tridiff.harness.runner.examine import KernelRef, examine
from tridiff.strategies.concat_and_cache_mla import PAGE_SIZES as LATENT_PAGE_SIZES
from tridiff.strategies.kv_caches import PAGE_SIZES

NAMES = ("concat_and_cache_mla", "reshape_and_cache_diffkv", "reshape_and_cache_per_token_head")
CACHES = {
    "concat_and_cache_mla": ("kv_cache",),
    "reshape_and_cache_diffkv": ("kv_cache",),
    "reshape_and_cache_per_token_head": ("key_cache", "value_cache", "k_scale_cache", "v_scale_cache"),
}
SIZES = {
    "concat_and_cache_mla": ("kv_lora_rank", "rope_dim"),
    "reshape_and_cache_diffkv": ("head_dim", "head_dim_v"),
    "reshape_and_cache_per_token_head": ("head_dim", "head_dim_v"),
}
"""The two widths of each Op."""

Strategy = Callable[[Domain], st.SearchStrategy[Any]]


def op_of(name: str) -> Op:
    """The Op `name`."""
    op: Op = importlib.import_module(f"tridiff.strategies.{name}").OP
    return op


@functools.cache
def sample(name: str) -> tuple[Any, ...]:
    """500 cases for gfx942 as a campaign draws them, presets included."""
    return tuple(drawing.drawn(builtin(), name, "gfx942", count=500, seed=0))


@functools.cache
def drawn(name: str) -> tuple[Any, ...]:
    """Those that are no presets."""
    return tuple(case for case in sample(name) if not case.model)


@functools.cache
def presets(name: str) -> tuple[Any, ...]:
    """Cases with the dimensions of models."""
    return draws(op_of(name).presets(Domain(target="gfx942")), 40)


def built(name: str, case: Any, poison: Poison = Poison.LOUD) -> tuple[dict[str, Any], Arena]:
    """Build the inputs in an arena of their own."""
    arena = Arena(poison)
    return op_of(name).build(case, arena), arena


def case_of(name: str, **fields: Any) -> Any:
    """A case of some fields by name."""
    return op_of(name).case(**fields)


# Cases


@pytest.mark.parametrize("name", NAMES)
def test_every_page_size_is_drawn(name: str) -> None:
    """All that hybrid models have, within 500 cases."""
    sizes = LATENT_PAGE_SIZES if name == "concat_and_cache_mla" else PAGE_SIZES

    assert {case.page_size for case in sample(name)} >= set(sizes)


@pytest.mark.parametrize("name", NAMES)
def test_facets_and_properties_vary(name: str) -> None:
    """A facet of which all cases have the same narrows nothing, and a word that all have tells nothing."""
    op = op_of(name)

    for facet, each in op.facets.items():
        assert len({each.of(case) for case in drawn(name)}) > 1, facet
    for word, of in op.properties.items():
        assert len({of(case) for case in drawn(name)}) > 1, word


@pytest.mark.parametrize("name", NAMES)
def test_cases_survive_json(name: str) -> None:
    """Through text and back, equal field by field."""
    for case in (*drawn(name)[:60], *presets(name)[:10]):
        assert from_json(op_of(name).case, json.loads(json.dumps(to_json(case)))) == case


TRIGGERS: dict[str, Callable[[Any], Any]] = {
    "no tokens": lambda c: c.num_tokens == 0,
    "all slots negative": lambda c: c.negatives == "all",
    "negative slots beside others": lambda c: c.negatives in {"head", "middle", "tail", "scattered"},
    "negative slots other than -1": lambda c: c.negatives != "none" and c.negative_slot != "minus_one",
    "padding rows": lambda c: c.padding_rows > 0,
    "page 0 in use": lambda c: c.first_page == "used",
    "int32 slots": lambda c: c.slot_dtype == "int32",
    "far pages": lambda c: c.far == "pages",
    "far pages by slots of 32 bits": lambda c: c.far == "pages" and c.slot_dtype == "int32",
    "far tokens, the last one written": lambda c: c.far == "tokens" and c.negatives in {"none", "head", "middle"},
    "far positions, the last one written": lambda c: c.far == "positions" and c.placing in {"edges", "straddle"},
    "misaligned": lambda c: c.lead % 4,
    "page of 2096 tokens": lambda c: c.page_size == 2096 and c.num_tokens > 1,
    "rows with a stride": lambda c: "fused_qkv" in vars(c).values(),
    "bfloat16": lambda c: c.dtype == "bfloat16",
    "e4m3fnuz": lambda c: c.cache_dtype == "float8_e4m3fnuz",
    "ties": lambda c: c.pattern == "ties" and c.cache_dtype.startswith("float8"),
}
OWN_TRIGGERS: dict[str, dict[str, Callable[[Any], Any]]] = {
    "concat_and_cache_mla": {
        "512 and 64": lambda c: (c.kv_lora_rank, c.rope_dim) == (512, 64),
        "256 and 32": lambda c: (c.kv_lora_rank, c.rope_dim) == (256, 32),
        "R no power of two": lambda c: c.kv_lora_rank in {17, 72, 192},
        "one token per page": lambda c: c.page_size == 1 and c.num_tokens > 2,
        "strides of the parts differ": lambda c: c.kv_c_layout != c.k_pe_layout,
        "gap after every page": lambda c: c.pages == "padded",
        "scale other than 1": lambda c: c.scale not in {1.0, 0.25},
        "overflow of FP8": lambda c: c.pattern == "overflow" and c.cache_dtype.startswith("float8"),
        "FP8 as it is": lambda c: c.dtype.startswith("float8") and c.scale != 1.0,
        "scale that is poison": lambda c: c.scale_form == "unread",
    },
    "reshape_and_cache_diffkv": {
        "192 and 128": lambda c: (c.head_dim, c.head_dim_v) == (192, 128) and c.num_heads > 1,
        "values wider than keys": lambda c: c.head_dim < c.head_dim_v,
        "far heads": lambda c: c.far == "heads",
        "odd widths": lambda c: c.head_dim % 2 and c.head_dim_v % 2 and c.num_heads > 1,
        "heads outermost in a page": lambda c: c.order == "heads_in_page" and c.num_heads > 1,
        "scales differ": lambda c: c.k_scale != c.v_scale,
        "non-finite in FP8": lambda c: c.pattern == "non_finite" and c.cache_dtype.startswith("float8"),
    },
    "reshape_and_cache_per_token_head": {
        "far heads": lambda c: c.far == "heads",
        "int8 ties": lambda c: c.pattern == "ties" and c.cache_dtype == "int8",
        "rows of zeros": lambda c: c.pattern == "zeros" and c.num_tokens * c.num_heads > 2,
        "rows below the least scale": lambda c: c.sigma <= 1e-5 and c.pattern == "gaussian",
        "subnormal rows": lambda c: c.sigma < 1e-38 and c.dtype != "float16",
        "one dominant element": lambda c: c.pattern == "dominant",
        "strides of V are its own": lambda c: c.key_order != c.value_order and c.num_heads > 1,
        "scales at strides of their own": lambda c: c.k_scale_layout != c.v_scale_layout and c.num_heads > 1,
        "widths differ": lambda c: c.head_dim != c.head_dim_v,
    },
}


@pytest.mark.parametrize("name", NAMES)
def test_triggers_are_drawn(name: str) -> None:
    """What kernels get wrong occurs within 500 cases."""
    triggers = TRIGGERS | OWN_TRIGGERS[name]

    assert [trigger for trigger, holds in triggers.items() if not any(map(holds, drawn(name)))] == []


@pytest.mark.parametrize("name", NAMES)
def test_failures_shrink_to_what_matters(name: str) -> None:
    """One token without a slot, on pages of 1040: nothing else differs from the simplest case."""
    found = find(
        op_of(name).strategy(Domain(target="gfx942")),
        lambda case: case.page_size > 1000 and case.negatives != "none",
        settings=settings(QUIETLY, max_examples=60),
        random=random.Random(1),
    )

    assert found == case_of(name, page_size=1040, negatives="all")


@pytest.mark.parametrize("name", NAMES)
def test_presets_have_the_widths_of_models(name: str) -> None:
    """Each with its heads and widths; a domain may name one of them."""
    op = op_of(name)
    model = next(iter(op.models))
    some = draws(op.presets(Domain(target="gfx942", models=(model,))), 5)
    one = draws(op.presets(Domain(target="gfx942", models=(op.models[model][-1],))), 3)

    assert len({case.model for case in presets(name)}) > 10
    assert {case.model.rpartition(" ")[0] for case in some} == {model}
    assert {case.model for case in one} == {op.models[model][-1]}


def test_models_are_those_for_which_the_layouts_are() -> None:
    """MiMo-V2-Flash has keys of 192 and values of 128, DeepSeek-V3 512 latent and 64 rotary columns."""
    diffkv = draws(op_of(NAMES[1]).presets(Domain(target="gfx942", models=("MiMo-V2-Flash TP1",))), 2)
    latent = draws(op_of(NAMES[0]).presets(Domain(target="gfx942", models=("MiniCPM3-4B TP1",))), 2)

    assert {(case.num_heads, case.head_dim, case.head_dim_v) for case in diffkv} == {(4, 192, 128)}
    assert {(case.kv_lora_rank, case.rope_dim) for case in latent} == {(256, 32)}


@pytest.mark.parametrize(
    ("name", "fields", "message"),
    [
        (NAMES[0], {"rope_dim": 0}, "rope_dim=0: must be from 1 to 4096"),
        (NAMES[0], {"scale": 2.0}, "scale=2.0: must be 1.0 unless the cache is in FP8"),
        (NAMES[0], {"order": "heads_in_page"}, "order='heads_in_page': must be one of 'token_major', 'padded_heads'"),
        (NAMES[0], {"scale_form": "vector"}, "scale_form='vector': must be 'scalar', or 'unread' of a cache that is not in FP8"),
        (
            NAMES[1],
            {"dtype": "float8_e5m2", "cache_dtype": "float16"},
            "cache_dtype='float16': must be 'same', or a dtype other than 'float8_e5m2' where that is no FP8 format",
        ),
        (
            NAMES[1],
            {"negatives": "middle", "num_tokens": 0},
            "negatives='middle': must be combined with num_tokens of at least 1, not 0",
        ),
        (NAMES[2], {"cache_dtype": "float8_e5m2"}, "cache_dtype='float8_e5m2': must be one of 'int8', 'float8_e4m3fn', "),
        (NAMES[2], {"dtype": "float16", "sigma": 1e5}, "sigma=100000.0: must be at most 1.638e+04, or values overflow float16"),
        (
            NAMES[2],
            {"far": "pages", "slot_dtype": "int32", "head_dim": 1, "head_dim_v": 1},
            "slot_dtype='int32': cannot hold slot 2147483663, the last one; must be 'int64'",
        ),
    ],
)
def test_a_bad_field_is_named(name: str, fields: Mapping[str, Any], message: str) -> None:
    """One line: the field, its value, what is allowed."""
    with pytest.raises(CaseError) as caught:
        case_of(name, **fields)

    assert str(caught.value).startswith(message)


# Domains


@pytest.mark.parametrize(
    ("name", "limits"),
    [
        (NAMES[0], {"scale_form": ("vector",), "cache_dtype": ("float8_e4m3fnuz",), "lead": (4,)}),
        (
            NAMES[0],
            {"kv_lora_rank": (512,), "rope_dim": (64,), "page_size": (2096,), "pages": ("layers",), "order": ("padded_heads",)},
        ),
        (NAMES[0], {"overflow": ("fits",), "cache_dtype": ("float16", "float8_e5m2"), "dtype": ("bfloat16",)}),
        (NAMES[1], {"widths": ("wider_values",), "row_strides": ("dense",), "order": ("heads_in_page",)}),
        (NAMES[1], {"head_dim": (100,), "head_dim_v": (50,), "num_heads": (6,), "scale_form": ("unread",)}),
        (NAMES[1], {"k_scale": (1.0,), "v_scale": (1.0,), "scale_form": ("absent",)}),
        (NAMES[2], {"widths": ("equal",), "head_dim": (40, 80), "num_heads": (32,), "page_size": (2048,)}),
        (NAMES[2], {"cache_dtype": ("float8_e4m3fn",), "negative_slots": ("minus_one",), "storage": ("large",)}),
        (NAMES[2], {"key_order": ("side_by_side",), "value_order": ("side_by_side",), "far": ("pages",)}),
    ],
)
def test_limits_together(name: str, limits: dict[str, Any]) -> None:
    """Several limits at once leave cases of just what they allow, the cheapest ones where all are large."""
    op, domain = op_of(name), Domain(target="gfx942", limits=limits)

    assert all(contains(op, case, domain) for case in draws(op.strategy(domain), 8))


@pytest.mark.parametrize(
    ("name", "limits"),
    [
        (NAMES[0], {"cache_dtype": ("int8",)}),
        (NAMES[0], {"scale_form": ("unread",), "cache_dtype": ("float8_e5m2",)}),
        (NAMES[0], {"overflow": ("overflows",), "pattern": ("zeros",)}),
        (NAMES[1], {"widths": ("equal",), "head_dim": (192,), "head_dim_v": (128,)}),
        (NAMES[1], {"scale_form": ("absent",), "k_scale": (0.37,), "v_scale": (1.7,)}),
        (NAMES[2], {"key_layout": ("padded_heads",), "row_strides": ("dense",)}),
        (NAMES[2], {"lead": (3,)}),
        (NAMES[2], {"negatives": ("tail",), "num_tokens": (0,)}),
    ],
)
def test_limits_that_leave_nothing(name: str, limits: dict[str, Any]) -> None:
    """Both strategies say so, instead of failing when they are drawn from."""
    op, domain = op_of(name), Domain(target="gfx942", limits=limits)

    assert op.strategy(domain).is_empty
    assert op.presets(domain).is_empty


@pytest.mark.parametrize("name", NAMES)
def test_formats_are_the_targets(name: str) -> None:
    """What a part lacks is drawn for its whole domain alone."""
    op = op_of(name)
    seen = {case.cache_dtype for case in draws(op.strategy(Domain(target="sm_80")), 30)}
    whole = {case.cache_dtype for case in draws(op.strategy(Domain(target="sm_80", whole=True)), 40)}
    formats = {"float8_e4m3fn", "float8_e4m3fnuz"}

    assert not seen & formats
    assert formats <= whole
    assert not contains(op, case_of(name, cache_dtype="float8_e4m3fn", platform="cuda"), Domain(target="sm_80"))
    assert not contains(op, case_of(name), Domain(target="sm_90"))


# Inputs


@pytest.mark.parametrize("name", NAMES)
def test_memory_is_bounded(name: str) -> None:
    """Below 3 MiB, and 14 MiB for models, red zones and gaps included."""
    for most, cases in ((3, drawn(name)[:60]), (14, presets(name)[:20])):
        for case in cases:
            _, arena = built(name, case)
            live = sum((stop - start) * each.storage.element_size() for each in arena for start, stop in each.live)
            assert live <= most * 2**20, case


@pytest.mark.parametrize("name", NAMES)
def test_what_is_written_and_what_is_not(name: str) -> None:
    """A slot's elements for each token that has one, which hold poison; the rest of each cache is known, gaps included."""
    for case in [case for case in drawn(name) if case.far == "none" and case.page_size < 500][:15]:
        inputs, arena = built(name, case)
        written = int((inputs["slot_mapping"] >= 0).sum())
        for cache in CACHES[name]:
            tensor, allocation = inputs[cache], arena.allocations[cache]
            assert allocation.writable.size == written * tensor[0, 0].numel()
            assert allocation.kept().all()
            ((start, stop),) = allocation.legal
            others = np.ones(stop - start, dtype=bool)
            others[allocation.writable - start] = False
            assert len(np.unique(allocation.raw[start:stop][others][:500])) > min(20, others.sum() // 40)


@pytest.mark.parametrize("name", NAMES)
def test_declared_cells_are_the_slots(name: str) -> None:
    """Position slot % page size of page slot // page size, all heads and columns, far pages included."""
    for case in [*drawn(name)[:20], *(case for case in drawn(name) if case.far == "pages")][:30]:
        inputs, arena = built(name, case)
        slots = inputs["slot_mapping"].long()
        slots = slots[slots >= 0]
        for cache in CACHES[name]:
            tensor = inputs[cache]
            axes = torch.meshgrid(slots, *(torch.arange(size) for size in tensor.shape[2:]), indexing="ij")
            index = (axes[0] // case.page_size, axes[0] % case.page_size, *axes[1:])
            cells = np.sort(offsets_of(tensor, index)) + tensor.storage_offset()
            assert np.array_equal(cells, arena.allocations[cache].writable)


@pytest.mark.parametrize("name", NAMES)
def test_the_slot_before_the_first_is_watched(name: str) -> None:
    """The red zone below a cache reaches as far as a token does, so that slot -1 shows."""
    wide: dict[str, Any] = {"gap": 48}
    if name != "concat_and_cache_mla":
        wide["num_heads"] = 16
    if name == "reshape_and_cache_per_token_head":
        wide |= {"k_scale_layout": "padded_heads", "v_scale_layout": "padded_heads"}
    near = [case for case in drawn(name)[:25] if case.far != "positions"]
    for case in (*near, case_of(name, **wide)):
        inputs, _ = built(name, case)
        assert all(inputs[cache].storage_offset() >= inputs[cache].stride(1) for cache in CACHES[name])


@pytest.mark.parametrize("name", NAMES)
def test_inputs_are_the_same_every_time(name: str) -> None:
    """Two builds agree in every live bit, under either poison."""
    for case, poison in zip(drawn(name)[:10], list(Poison) * 5, strict=True):
        first, second = (built(name, case, poison)[1] for _ in range(2))
        for one, other in zip(first, second, strict=True):
            assert one.live == other.live
            assert all(np.array_equal(one.raw[start:stop], other.raw[start:stop]) for start, stop in one.live)


def test_patterns_of_rows() -> None:
    """Each does what its name says."""

    def rows(pattern: str, **fields: Any) -> torch.Tensor:
        shape = {"num_tokens": 12, "num_heads": 4, "head_dim": 64}
        key: torch.Tensor = built(NAMES[2], case_of(NAMES[2], **shape, pattern=pattern, **fields))[0]["key"]
        return key.float()

    zeros = (rows("zeros") == 0).all(dim=-1)
    assert zeros[0, 0]
    for seed in range(6):
        assert bool((built(NAMES[2], case_of(NAMES[2], pattern="zeros", seed=seed))[0]["key"] == 0).all())
    assert 0.3 < zeros.float().mean() < 0.7
    dominant = rows("dominant").abs().sort(dim=-1).values
    assert (dominant[..., -1] / dominant[..., -2]).median() > 100
    norms = rows("mixed_norms").abs().amax(dim=-1)
    assert 0.3 < (norms < 0.01).float().mean() < 0.7
    assert 0.08 < (rows("limits", dtype="bfloat16").abs() == torch.finfo(torch.bfloat16).max).float().mean() < 0.17
    for cache_dtype, dtype, largest in (("int8", "bfloat16", 127.0), ("float8_e4m3fnuz", "float16", 224.0)):
        ties = rows("ties", cache_dtype=cache_dtype, dtype=dtype, sigma=4.0)
        assert bool((ties.abs().amax(dim=-1) == 4 * largest).all())
    int8 = rows("ties", sigma=1.0)
    assert bool(((int8.abs() == 127) | (int8 % 1 == 0.5)).all())


@pytest.mark.parametrize("name", NAMES)
def test_placements(name: str) -> None:
    """Caches beyond 2 GiB and aligned as in production, small ones, and one element past a 16-byte boundary."""
    simplest = case_of(name)
    cache = CACHES[name][0]
    made = {place: built(name, move(simplest))[0][cache] for place, move in op_of(name).placements.items()}

    assert list(made) == ["production", "small", "misaligned"]
    assert {place: made[place].data_ptr() % 16 for place in made} == {
        "production": 0,
        "small": 0,
        "misaligned": made["small"].element_size(),
    }
    assert {place: made[place].untyped_storage().nbytes() >= 2**31 for place in made} == {
        "production": True,
        "small": False,
        "misaligned": True,
    }


# Victims


def damaged(name: str, cache: str, slot: int, row: int, *, is_changed: bool = True, **fields: Any) -> str:
    """What is said once the row of token `row`, as the reference has it for another slot, is written to `slot` as well."""
    case = case_of(name, num_tokens=3, negatives="tail", **fields)
    inputs, arena = built(name, case)
    reference = importlib.import_module(f"tridiff.reference.{name}").reference
    value, _, _ = reference({**inputs, "slot_mapping": torch.arange(3) + 3}, {})["outputs"][cache]
    allocation, tensor = arena.allocations[cache], inputs[cache]
    bits = value[row].float().to(tensor.dtype).view(RAW[tensor.element_size()])
    axes = torch.meshgrid(torch.tensor([slot]), *(torch.arange(size) for size in tensor.shape[2:]), indexing="ij")
    index = (torch.zeros_like(axes[0]), axes[0], *axes[1:])
    cells = offsets_of(tensor, index)
    allocation.raw[cells + tensor.storage_offset()] = bits.flatten().numpy()
    victim = op_of(name).victim
    assert victim is not None
    assert victim(inputs, "slot_mapping", cells) == ""
    return victim(inputs, cache, np.sort(cells), is_changed=is_changed)


@pytest.mark.parametrize(
    ("name", "cache", "fields", "expected"),
    [
        (NAMES[0], "kv_cache", {}, "slot 0 (page 0, offset 0), bytes 0..128 overwritten by token 2 whose slot is -1"),
        (
            NAMES[0],
            "kv_cache",
            {"cache_dtype": "float8_e4m3fn", "scale": 0.37},
            "slot 0 (page 0, offset 0), bytes 0..32 overwritten by token 2 whose slot is -1",
        ),
        (
            NAMES[1],
            "kv_cache",
            {"cache_dtype": "float8_e5m2", "k_scale": 0.37, "v_scale": 1.7, "head_dim_v": 17, "num_heads": 2},
            "slot 0 (page 0, offset 0), head 0, bytes 0..33 overwritten by token 2 whose slot is -1",
        ),
        (
            NAMES[2],
            "value_cache",
            {"num_heads": 2, "value_order": "heads_in_page", "negative_slot": "minus_two"},
            "slot 0 (page 0, offset 0), head 0, bytes 0..16 overwritten by token 2 whose slot is -2",
        ),
        (
            NAMES[2],
            "k_scale_cache",
            {"cache_dtype": "float8_e4m3fnuz"},
            "slot 0 (page 0, offset 0), head 0, bytes 0..4 overwritten by token 2 whose slot is -1",
        ),
    ],
)
def test_victims_are_named(name: str, cache: str, fields: Mapping[str, Any], expected: str) -> None:
    """Where a token without a slot was written to slot 0: that slot, the head, the bytes, and that token."""
    assert damaged(name, cache, 0, 2, **fields) == expected
    assert damaged(name, cache, 0, 2, is_changed=False, **fields) == f"{expected.partition(' overwritten')[0]} written back"


def test_whole_message_of_what_is_written_back() -> None:
    """It names no culprit, since the bits are the victim's own, and the line of the store."""
    known = builtin()
    name = "concat_and_cache_mla"
    fault = known.fault(name, "skipped_tokens_write_back")
    case = case_of(name, num_tokens=1, negatives="head")

    outcome = examine(KernelRef(kernel=name, fault=fault.name), EngineSpec(), case, known)

    assert isinstance(outcome, Found)
    place, what = outcome.finding.message.split(": ", 1)
    assert place == "slot 0 (page 0, offset 0), bytes 0..128 written back"
    assert re.fullmatch(
        r"kv_cache\[0, 0, 0\] must not be written: it was written back as it was \(.*\) \(32 elements in all\)", what
    )
    assert re.fullmatch(r"concat_and_cache_mla\.py:\d+", outcome.finding.line or "")


def test_victims_below_a_cache() -> None:
    """A kernel that computes with slot -1 as it is writes the token before the first one."""
    found = damaged(NAMES[0], "kv_cache", -1, 2)

    assert found.startswith("below the cache, where slot -1 (page 0, offset -1) would lie, bytes 0..128 overwritten by token 2")
