"""The Op `merge_attention_states`: its cases, what they cost, what they make visible, and the inputs built from them."""

from __future__ import annotations

import functools
import hashlib
import json
import math
import random
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, find, given, settings
from hypothesis import strategies as st

from tridiff.harness.api import Arena, CaseError, Domain, Poison, Zone, from_json, pattern, to_json
from tridiff.harness.domains import contains
from tridiff.harness.runner.minimise import minimised
from tridiff.strategies.merge_attention_states import OP, PRESETS, MergeAttentionStatesCase, build, cases, preset_cases
from tridiff.strategies.merge_attention_states_case import LSE_LAYOUTS, STATE_LAYOUTS

Case = MergeAttentionStatesCase
Predicate = Callable[[Case], Any]
Strategy = Callable[[Domain], st.SearchStrategy[Case]]

QUIETLY = settings(database=None, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
STATES = ("prefix_output", "suffix_output", "output")


def draws(strategy: Strategy, domain: Domain, count: int) -> tuple[Case, ...]:
    """`count` cases, the same in every run."""
    seen: list[Case] = []

    @settings(QUIETLY, max_examples=count)
    @given(strategy(domain))
    def collect(case: Case) -> None:
        seen.append(case)

    collect()
    return tuple(seen)


@functools.cache
def drawn() -> tuple[Case, ...]:
    """Cases for gfx942."""
    return draws(cases, Domain(target="gfx942"), 300)


@functools.cache
def presets() -> tuple[Case, ...]:
    """Cases with the dimensions of models."""
    return draws(preset_cases, Domain(target="gfx942"), 50)


def shortest(condition: Predicate, strategy: Strategy = cases, domain: Domain | None = None) -> Case:
    """Find what Hypothesis shrinks to."""
    return find(
        strategy(domain or Domain(target="gfx942")),
        condition,
        settings=settings(QUIETLY, max_examples=200, report_multiple_bugs=False),
        random=random.Random(1),
    )


def built(case: Case, poison: Poison = Poison.LOUD) -> tuple[dict[str, Any], Arena]:
    """Build the inputs in an arena of their own."""
    arena = Arena(poison)
    return build(case, arena), arena


def from_fields(fields: Mapping[str, Any]) -> Case:
    """Make a case of some fields by name."""
    return Case(**fields)


def has_context(case: Case) -> torch.Tensor:
    """Bool [T]: the tokens that have a prefix."""
    return torch.arange(case.num_tokens) < case.tokens_with_context


# Cases


@pytest.mark.parametrize(
    ("condition", "expected"),
    [
        (lambda case: case.far == "tokens", Case(num_tokens=3, far="tokens")),
        (
            lambda case: case.context == "some" and case.dtype != "float32",
            Case(num_tokens=2, tokens_without_context=1, dtype="bfloat16"),
        ),
        (
            lambda case: case.empty_holds == "poison" and case.empty not in {"none", "copied"},
            Case(empty="prefix", empty_holds="poison"),
        ),
    ],
)
def test_failures_shrink_to_what_matters(condition: Predicate, expected: Case) -> None:
    """Fields that a failure does not need become the simplest, the others as small as it allows."""
    found = minimised(shortest(condition), condition)

    assert {**to_json(found), "seed": 0} == to_json(expected)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"num_tokens": -1}, "num_tokens=-1: must be from 0 to 4096"),
        ({"num_heads": 0}, "num_heads=0: must be from 1 to 1024"),
        ({"tokens_without_context": 2}, "tokens_without_context=2: must be from 0 to 1"),
        ({"empty": "all"}, "empty='all': must be one of 'none', 'prefix', 'suffix', 'both', 'copied', 'mixed'"),
        ({"empty": "copied"}, "empty='copied': must be combined with tokens that have no context"),
        (
            {"empty": "both", "tokens_without_context": 1},
            "empty='both': must be combined with tokens that have context",
        ),
        ({"far": "tokens"}, "num_tokens=1: must be at least 3 with far='tokens'"),
        (
            {"far": "tokens", "num_tokens": 3, "suffix_layout": "heads_first"},
            "suffix_layout='heads_first': must be one with tokens outermost with far='tokens'",
        ),
        ({"dtype": "float16", "sigma": 1e5}, "sigma=100000.0: must be at most 1.638e+04, or values overflow float16"),
        ({"lse_level": math.nan}, "lse_level=nan: must be from -10000.0 to 10000.0"),
        ({"output_dtype": "float16"}, "output_dtype='float16': must be one of 'same', 'float32'"),
    ],
)
def test_a_bad_field_is_named(fields: Mapping[str, object], message: str) -> None:
    """One line: the field, its value, what is allowed."""
    with pytest.raises(CaseError) as caught:
        from_fields(fields)

    assert str(caught.value) == message


def test_cases_survive_json() -> None:
    """Through text and back, equal field by field."""
    for case in (*drawn(), *presets()):
        assert from_json(Case, json.loads(json.dumps(to_json(case)))) == case


TRIGGERS: dict[str, Predicate] = {
    "no tokens": lambda c: c.num_tokens == 0,
    "one token": lambda c: c.num_tokens == 1,
    "33 tokens or more": lambda c: c.num_tokens > 32,
    "odd heads": lambda c: c.num_heads > 1 and c.num_heads % 2,
    "more than 64 heads": lambda c: c.num_heads > 64,
    "D no power of two": lambda c: c.head_dim & (c.head_dim - 1),
    "D = 1": lambda c: c.head_dim == 1,
    "D = 512": lambda c: c.head_dim == 512,
    "some tokens without context": lambda c: c.context == "some",
    "a context of none": lambda c: c.context == "none",
    "no lse asked for": lambda c: not c.has_output_lse,
    "float32 output of 16-bit inputs": lambda c: c.dtype != "float32" and c.output_dtype == "float32",
    "float16": lambda c: c.dtype == "float16",
    "both sides empty": lambda c: c.empty in {"both", "mixed"} and c.context != "none",
    "a copied row is empty": lambda c: c.empty in {"copied", "mixed"} and c.context != "all",
    "an empty side holds poison": lambda c: c.empty != "none" and c.empty_holds == "poison",
    "+inf": lambda c: c.empty != "none" and c.empty_lse != "minus_inf",
    "both infinities": lambda c: c.empty != "none" and c.empty_lse == "mixed" and c.num_tokens * c.num_heads > 4,
    "suffix strides differ": lambda c: c.suffix_layout != c.prefix_layout,
    "token stride of the output": lambda c: c.output_layout in {"padded_rows", "padded_heads"},
    "heads first": lambda c: "heads_first" in {c.prefix_layout, c.suffix_layout, c.output_layout},
    "lse transposed": lambda c: c.prefix_lse_layout == c.suffix_lse_layout == "transposed" and c.num_heads > 1 < c.num_tokens,
    "lse strides differ": lambda c: c.prefix_lse_layout != c.suffix_lse_layout,
    "output lse unlike output": lambda c: c.has_output_lse and c.output_lse_layout != "packed",
    "far tokens": lambda c: c.far == "tokens",
    "misaligned": lambda c: c.lead % 4,
    "exp overflows without the maximum": lambda c: c.lse_level > 88,
    "exp underflows without the maximum": lambda c: c.lse_level < -99,
    "lse of thousands": lambda c: abs(c.lse_level) > 1000,
    "equal lse": lambda c: c.lse_gap == 0,
    "nearly equal lse": lambda c: 0 < c.lse_gap < 0.01,
    "one side vanishes": lambda c: c.lse_gap > 90,
    "cancelling": lambda c: c.pattern == "cancelling",
    "limits of the dtype": lambda c: c.pattern == "limits",
    "mixed norms": lambda c: c.pattern == "mixed_norms",
    "equal outputs": lambda c: c.pattern == "equal",
    "huge outputs": lambda c: c.sigma > 1e20,
    "subnormal outputs": lambda c: c.sigma < 1e-20 or (c.sigma < 1e-5 and c.dtype == "float16"),
}


@pytest.mark.parametrize("name", TRIGGERS)
def test_triggers_are_drawn(name: str) -> None:
    """What kernels get wrong occurs within 300 cases."""
    assert any(map(TRIGGERS[name], drawn())), name


@pytest.mark.parametrize("facet", OP.facets)
def test_facets_vary(facet: str) -> None:
    """A facet of which all cases have the same narrows nothing."""
    of = OP.facets[facet].of

    assert len({of(case) for case in drawn()}) > 1


def test_draws_are_seldom_alike() -> None:
    """Hypothesis' mutations do not spend the examples on copies of one structure."""
    structures = {(c.num_tokens, c.num_heads, c.head_dim, c.dtype, c.empty, c.context, c.pattern) for c in drawn()}

    assert len(structures) > 240


def test_presets_have_the_heads_of_models() -> None:
    """Heads are shared out over the ranks; in prefill latent attention has as many value heads as query heads."""
    shapes = {shape.model: shape[1:] for shape in PRESETS}
    seen = {case.model: (case.num_heads, case.head_dim) for case in presets()}

    assert shapes["DeepSeek-V3 TP8"] == (16, 128)
    assert shapes["MiniCPM3-4B TP4"] == (10, 64)
    assert shapes["Llama-3-70B TP2"] == (32, 128)
    assert shapes["MiMo-V2-Flash TP1"] == (64, 128)
    assert seen.items() <= shapes.items()
    assert len(seen) > 20


def test_presets_of_one_model() -> None:
    """By its name, or by that of one of its rank counts."""
    some = draws(preset_cases, Domain(target="gfx942", models=("DeepSeek-V3",)), 15)
    one = draws(preset_cases, Domain(target="gfx942", models=("DeepSeek-V3 TP8",)), 5)

    assert {case.model for case in some} > {"DeepSeek-V3 TP8"}
    assert {case.model.rpartition(" ")[0] for case in some} == {"DeepSeek-V3"}
    assert {case.model for case in one} == {"DeepSeek-V3 TP8"}
    assert OP.knows("DeepSeek-V3 TP8")
    assert not OP.knows("Mistral-Small-4")


# Domains

TRANSPOSED = {f"{name}_lse_layout": ("transposed",) for name in ("prefix", "suffix", "output")}
PACKED_TOKENS = {f"{name}_token_stride": ("packed",) for name in ("prefix", "suffix", "output")}


@pytest.mark.parametrize(
    "limits",
    [
        {"empty_holds": ("zeros",), "empty": ("none", "prefix", "suffix"), **TRANSPOSED},
        {**PACKED_TOKENS, "strides": ("alike",), "far": ("none",)},
        PACKED_TOKENS,
        {"context": ("some",), "empty": ("copied",)},
        {"far": ("tokens",), "strides": ("own",), "num_tokens": (3, 4)},
        {"context": ("all",), "num_tokens": range(1, 10)},
        {"empty_lse": ("minus_inf",), "output_dtype": ("same",), "has_output_lse": (True,)},
        {"lead": (4,), "dtype": ("float16",)},
        {"num_heads": (10,), "head_dim": (18, 20), "num_tokens": (50,)},
        {"num_tokens": (4000,), "num_heads": range(8, 100), "far": ("none",)},
    ],
)
def test_limits_together(limits: dict[str, Any]) -> None:
    """Several limits at once leave cases of just what they allow."""
    domain = Domain(target="gfx942", limits=limits)

    assert all(contains(OP, case, domain) for case in draws(cases, domain, 8))


def test_what_limits_allow_is_drawn() -> None:
    """Numbers that no list has are drawn where a kernel names them, and a mixture only where all of it is allowed."""
    named = draws(cases, Domain(target="gfx942", limits={"num_heads": (10,), "num_tokens": (50, 60)}), 25)
    partly = draws(cases, Domain(target="gfx942", limits={"empty": ("none", "prefix", "suffix")}), 25)
    copied = draws(cases, Domain(target="gfx942", limits={"context": ("none",)}), 25)

    assert {(case.num_heads, case.num_tokens) for case in named} == {(10, 50), (10, 60)}
    assert {case.empty for case in partly} == {"none", "prefix", "suffix"}
    assert {case.empty for case in copied} == {"none", "copied", "mixed"}


@pytest.mark.parametrize(
    "limits",
    [
        {"dtype": ("float64",)},
        {"empty": ("copied",), "context": ("all",)},
        {"far": ("tokens",), "num_tokens": (1, 2)},
        {"far": ("tokens",), "output_layout": ("heads_first",)},
        {"empty": ("prefix",), "empty_lse": ()},
        {"prefix_layout": ("packed",), "suffix_layout": ("packed",), "strides": ("own",)},
        {"prefix_lse_layout": ("packed",), "suffix_lse_layout": ("transposed",), "lse_strides": ("alike",)},
        {"lead": (3,), "output_lse_layout": ("diagonal",)},
    ],
)
def test_limits_that_leave_nothing(limits: dict[str, Any]) -> None:
    """Both strategies say so, instead of failing when they are drawn from."""
    domain = Domain(target="gfx942", limits=limits)

    assert cases(domain).is_empty
    assert preset_cases(domain).is_empty


def test_the_simplest_case_of_a_domain() -> None:
    """What lies outside is not missed: shrinking ends at the simplest inside."""
    domain = Domain(target="gfx942", limits={"dtype": ("float16",), "head_dim": (64, 128), "prefix_layout": ("padded_rows",)})

    assert shortest(lambda _: True, domain=domain) == Case(dtype="float16", head_dim=64, prefix_layout="padded_rows")


def test_presets_without_an_allowed_model() -> None:
    """Widths that no model has leave no preset, and cases nevertheless."""
    domain = Domain(target="gfx942", limits={"head_dim": (17,)})

    assert preset_cases(domain).is_empty
    assert not cases(domain).is_empty


def test_the_platform_is_the_targets() -> None:
    """A case of the other platform lies outside the domain."""
    domain = Domain(target="sm_90")

    assert {case.platform for case in draws(cases, domain, 10)} == {"cuda"}
    assert not contains(OP, Case(), domain)
    assert contains(OP, Case(), Domain(target="gfx942"))


# Inputs


def test_memory_is_bounded() -> None:
    """Below 16 MiB, red zones and gaps included, in every case."""
    for case in (*drawn()[:60], *presets()[:20]):
        _, arena = built(case)
        assert sum((stop - start) * each.storage.element_size() for each in arena for start, stop in each.live) <= 16 * 2**20


@pytest.mark.parametrize(
    ("layout", "strides"),
    [
        ("packed", (48, 16, 1)),
        ("padded_rows", (56, 16, 1)),
        ("column_slice", (72, 24, 1)),
        ("padded_heads", (80, 24, 1)),
        ("heads_first", (16, 80, 1)),
    ],
)
def test_layouts_of_outputs(layout: str, strides: tuple[int, ...]) -> None:
    """Strides of five tokens of three heads of 16, with gaps of 8; one by one, the others stay as they are."""
    for field, name in (("prefix_layout", "prefix_output"), ("suffix_layout", "suffix_output"), ("output_layout", "output")):
        inputs, _ = built(from_fields({"num_tokens": 5, "num_heads": 3, "gap": 8, field: layout}))
        assert {key: inputs[key].stride() for key in STATES} == dict.fromkeys(STATES, (48, 16, 1)) | {name: strides}


@pytest.mark.parametrize(
    ("layout", "strides"),
    [
        ("packed", (3, 1)),
        ("padded_rows", (11, 1)),
        ("padded_heads", (27, 9)),
        ("transposed", (1, 5)),
        ("padded_transposed", (1, 13)),
    ],
)
def test_layouts_of_lses(layout: str, strides: tuple[int, ...]) -> None:
    """Strides of five tokens of three heads, with gaps of 8."""
    names = ("prefix_lse", "suffix_lse", "output_lse")
    for name in names:
        inputs, _ = built(from_fields({"num_tokens": 5, "num_heads": 3, "gap": 8, f"{name}_layout": layout}))
        assert {key: inputs[key].stride() for key in names} == dict.fromkeys(names, (3, 1)) | {name: strides}


def test_every_layout_is_known() -> None:
    """The two lists above leave none out."""
    assert len(STATE_LAYOUTS) == len(LSE_LAYOUTS) == 5


@pytest.mark.parametrize("layout", sorted(set(STATE_LAYOUTS) - {"heads_first"}))
def test_far_tokens(layout: str) -> None:
    """In all three outputs the last token begins beyond 2^31 elements, by a stride of 32 bits, and little memory is taken."""
    layouts = dict.fromkeys(("prefix_layout", "suffix_layout", "output_layout"), layout)
    inputs, arena = built(from_fields({"num_tokens": 4, "num_heads": 3, "far": "tokens", "dtype": "bfloat16", **layouts}))

    for name in STATES:
        stride = inputs[name].stride(0)
        assert 3 * stride >= 2**31 > stride
        assert sum(stop - start for start, stop in arena.allocations[name].live) < 10_000


def test_contents() -> None:
    """Sides with keys hold finite numbers, empty ones what the case says, and missing prefixes poison; outputs are written."""
    for case in drawn()[:40]:
        for poison in Poison:
            inputs, arena = built(case, poison)
            check_contents(case, inputs, arena, poison)


def check_contents(case: Case, inputs: Mapping[str, Any], arena: Arena, poison: Poison) -> None:
    """See `test_contents`."""
    for side in ("prefix", "suffix"):
        output, lse = inputs[f"{side}_output"], inputs[f"{side}_lse"]
        present = has_context(case)[:, None].expand(lse.shape) if side == "prefix" else torch.ones_like(lse, dtype=torch.bool)
        empty = present & lse.isinf()
        assert output[present & ~empty].isfinite().all()
        assert lse[present & ~empty].abs().le(1e4).all()
        assert is_poison(output[~present], poison)
        assert is_poison(lse[~present], poison)
        assert is_poison(output[empty], poison) if case.empty_holds == "poison" else bool((output[empty] == 0).all())
    written = {name: arena.allocations[name].writable.size for name in arena.allocations if arena.allocations[name].writable.size}
    rows = case.num_tokens * case.num_heads
    expected = {"output": rows * case.head_dim} | ({"output_lse": rows} if case.has_output_lse else {})
    assert written == (expected if rows else {})


def is_poison(values: torch.Tensor, poison: Poison) -> bool:
    """Whether every element has the bits of an input's poison."""
    raw = values.contiguous().view({2: torch.int16, 4: torch.int32}[values.element_size()])
    return bool((raw == pattern(values.dtype, poison, Zone.INPUT)).all())


def sides(case: Case) -> Iterable[frozenset[str]]:
    """Of each row, which sides are empty."""
    inputs, _ = built(case)
    empties = [inputs[f"{side}_lse"].isinf() for side in ("prefix", "suffix")]
    for prefix, suffix in zip(*(empty.flatten().tolist() for empty in empties), strict=True):
        yield frozenset({"prefix"} if prefix else set()) | frozenset({"suffix"} if suffix else set())


@pytest.mark.parametrize(
    ("empty", "expected"),
    [
        ("none", [set()]),
        ("prefix", [set(), {"prefix"}]),
        ("suffix", [set(), {"suffix"}]),
        ("both", [set(), {"prefix", "suffix"}]),
        ("mixed", [set(), {"prefix"}, {"suffix"}, {"prefix", "suffix"}]),
    ],
)
def test_empty_rows(empty: str, expected: list[set[str]]) -> None:
    """Those that the case names, and no others; of a single row it is that one."""
    many = set(sides(Case(num_tokens=9, num_heads=8, empty=empty)))
    one = {side for seed in range(9) for side in sides(Case(empty=empty, seed=seed))}

    assert many == set(map(frozenset, expected))
    assert one == set(map(frozenset, expected[empty != "none" :]))


@pytest.mark.parametrize("without", [1, 4])
def test_empty_copied_rows(without: int) -> None:
    """The suffix is empty in tokens without context alone."""
    case = Case(num_tokens=4, num_heads=6, tokens_without_context=without, empty="copied")
    empty = built(case)[0]["suffix_lse"].isinf()

    assert empty[4 - without :].any()
    assert not empty[: 4 - without].any()


@pytest.mark.parametrize(
    ("mark", "expected"), [("minus_inf", {-math.inf}), ("plus_inf", {math.inf}), ("mixed", {-math.inf, math.inf})]
)
def test_marks_of_empty_rows(mark: str, expected: set[float]) -> None:
    """-inf, +inf, or either."""
    inputs, _ = built(Case(num_tokens=8, num_heads=4, empty="both", empty_lse=mark))

    for side in ("prefix_lse", "suffix_lse"):
        assert set(inputs[side][inputs[side].isinf()].tolist()) == expected


def test_gaps_of_lses() -> None:
    """Either side is the larger one; rows are apart by about the gap, some by about 1, and not at all where it is 0."""
    inputs, _ = built(Case(num_tokens=40, num_heads=8, lse_gap=500.0, lse_level=-8000.0))
    apart = inputs["prefix_lse"] - inputs["suffix_lse"]
    equal, _ = built(Case(num_tokens=40, num_heads=8, lse_gap=0.0))

    assert (apart > 100).any()
    assert (apart < -100).any()
    assert 0.15 < (apart.abs() < 3.5).float().mean() < 0.4
    assert torch.equal(equal["prefix_lse"], equal["suffix_lse"])


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_patterns(dtype: str) -> None:
    """Each does what its name says."""

    def sides_of(pattern: str) -> tuple[torch.Tensor, torch.Tensor]:
        inputs, _ = built(Case(num_tokens=8, num_heads=8, dtype=dtype, pattern=pattern))
        return inputs["prefix_output"], inputs["suffix_output"]

    prefix, suffix = sides_of("cancelling")
    assert 0 < (prefix + suffix).float().std() < 0.05
    largest = torch.finfo(prefix.dtype).max
    for side in sides_of("limits"):
        assert 0.05 < (side == largest).float().mean() < 0.08
        assert 0.05 < (side == -largest).float().mean() < 0.08
    norms = sides_of("mixed_norms")[0].float().abs().amax(dim=-1)
    assert 0.3 < (norms < 0.01).float().mean() < 0.7
    assert torch.equal(*sides_of("equal"))


@pytest.mark.parametrize("poison", Poison)
def test_inputs_are_the_same_every_time(poison: Poison) -> None:
    """Two builds agree in every live bit, poison included."""
    for case in drawn()[:30]:
        first, second = (built(case, poison)[1] for _ in range(2))
        for one, other in zip(first, second, strict=True):
            assert one.live == other.live
            assert all(np.array_equal(one.raw[start:stop], other.raw[start:stop]) for start, stop in one.live)


def test_values_do_not_depend_on_where_they_lie() -> None:
    """Layouts move the rows but do not change them."""
    base = {"num_tokens": 5, "num_heads": 3, "pattern": "mixed_norms"}
    moved = {"prefix_layout": "heads_first", "prefix_lse_layout": "transposed", "lead": 1, "gap": 1}
    one, other = (built(from_fields(fields))[0] for fields in (base, base | moved))

    assert all(torch.equal(one[name], other[name]) for name in ("prefix_output", "prefix_lse"))


def test_inputs_have_the_same_bits_everywhere() -> None:
    """A figure computed once over all tensors; another machine, device or library version must agree."""
    case = Case(num_tokens=7, num_heads=5, head_dim=80, tokens_without_context=3, empty="mixed", empty_lse="mixed", seed=9)
    state = hashlib.blake2b(digest_size=8)
    for allocation in built(case)[1]:
        state.update(allocation.raw.tobytes())

    assert state.hexdigest() == "e176d60784864202"


def test_placements() -> None:
    """Aligned as in production, and one element past that."""
    inputs = {name: built(place(Case(lead=4)))[0] for name, place in OP.placements.items()}

    assert {name: {made[key].data_ptr() % 16 for key in STATES} for name, made in inputs.items()} == {
        "production": {0},
        "misaligned": {4},
    }
    assert next(iter(OP.placements)) == "production"


def test_the_op_is_declared() -> None:
    """Name, case, strategies and builder, as the registry finds them."""
    assert (OP.name, OP.case, OP.strategy, OP.presets, OP.build) == ("merge_attention_states", Case, cases, preset_cases, build)
