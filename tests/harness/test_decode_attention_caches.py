"""FP8 caches and latent attention (MLA) in the Op `decode_attention`: the cases, and the inputs built from them."""

from __future__ import annotations

import functools
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings

from tridiff.harness.api import Arena, CaseError, Domain
from tridiff.harness.engines.spec import TARGETS
from tridiff.strategies import fp8
from tridiff.strategies.decode_attention import OP, build, cases, preset_cases, within
from tridiff.strategies.decode_attention import DecodeAttentionCase as Case
from tridiff.strategies.models import MLA_MODELS

QUIETLY = settings(database=None, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))


@functools.cache
def drawn(target: str, *, presets: bool = False, count: int = 300) -> tuple[Case, ...]:
    """`count` cases for `target`, the same in every run."""
    seen: list[Case] = []
    strategy = (preset_cases if presets else cases)(Domain(target=target))

    @settings(QUIETLY, max_examples=count)
    @given(strategy)
    def collect(case: Case) -> None:
        seen.append(case)

    collect()
    return tuple(seen)


def tokens(case: Case, inputs: dict[str, Any], name: str) -> torch.Tensor:
    """float64 [tokens of all rows, heads, width] as a right kernel reads them, in the codes' own numbers."""
    cache, table = inputs[f"{name}_cache"], inputs["block_table"]
    where = [(int(table[row, t // case.page_size]), t % case.page_size) for row, n in enumerate(case.seq_lens) for t in range(n)]
    return torch.stack([cache[page, offset].double() for page, offset in where])


@pytest.mark.parametrize(
    ("target", "expected"),
    [
        ("gfx90a", {"float8_e4m3fn", "float8_e5m2"}),
        ("gfx942", {"float8_e4m3fnuz", "float8_e4m3fn", "float8_e5m2"}),
        ("gfx950", {"float8_e4m3fnuz", "float8_e4m3fn", "float8_e5m2"}),
        ("gfx1201", {"float8_e4m3fn", "float8_e5m2"}),
        ("sm_80", {"float8_e5m2"}),
        ("sm_90", {"float8_e4m3fn", "float8_e5m2"}),
    ],
)
def test_a_target_gets_the_formats_that_it_has(target: str, expected: set[str]) -> None:
    """All of them and no other."""
    assert {case.cache_dtype for case in drawn(target)} == {"same"} | expected


@pytest.mark.parametrize("target", TARGETS)
def test_every_target_has_formats_and_tile_rules(target: str) -> None:
    """Cases of AMD targets follow AMD's rules, and FP8 is not left out anywhere."""
    case = drawn(target, count=5)[0]

    assert case.platform == ("cuda" if target.startswith("sm_") else "hip")
    assert set(fp8.formats(target)) <= set(fp8.DTYPES)
    assert fp8.formats(target)


@pytest.mark.parametrize("target", ["gfx942", "sm_90"])
def test_few_rope_columns_are_for_every_platform(target: str) -> None:
    """Also for NVIDIA's matrix instructions, which have no reduction of fewer than 16 columns: slabs must be padded."""
    assert {1, 2, 4, 8} <= {case.head_dim - case.head_dim_v for case in drawn(target) if case.is_mla}


def test_the_pairs_of_real_models_are_drawn() -> None:
    """Widths of key and value that real models with latent attention have, in the general strategy as well."""
    pairs = {(case.head_dim, case.head_dim_v) for case in drawn("gfx942") if case.is_mla}

    assert {(576, 512), (320, 256), (192, 128)} <= pairs


def test_presets_name_their_model() -> None:
    """Every model with latent attention, and one of them on sixteen ranks with a single head."""
    latent = [case for case in drawn("gfx942", presets=True) if case.is_mla]

    assert {case.model.rpartition(" TP")[0] for case in latent} == {model.name for model in MLA_MODELS}
    assert {case.group_size for case in latent if case.model == "DeepSeek-V2-Lite TP16"} <= {1}
    assert {(case.head_dim, case.head_dim_v) for case in latent if case.model.startswith("Mistral-Small-4")} == {(320, 256)}


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"k_scale": 2.0}, "k_scale=2.0: must be 1.0 unless cache_dtype is an FP8 format"),
        ({"cache_dtype": "float8_e4m3"}, "cache_dtype='float8_e4m3': must be one of 'same', 'float8_e4m3fn'"),
        (
            {"cache_dtype": "float8_e5m2", "dtype": "float16", "v_scale": 4.0},
            "k_scale=1.0, v_scale=4.0: float8_e5m2 times that overflows float16",
        ),
        ({"scale_form": "vector"}, "scale_form='vector': must be combined with an FP8 format as cache_dtype"),
        (
            {"scale_form": "absent", "cache_dtype": "float8_e5m2", "k_scale": 0.5, "v_scale": 0.5},
            "scale_form='absent': must be combined with an FP8 format as cache_dtype and a k_scale or v_scale of 1.0",
        ),
        (
            {"scale_form": "unread", "cache_dtype": "float8_e5m2"},
            "scale_form='unread': must be combined with cache_dtype='same'",
        ),
        ({"is_mla": True, "num_kv_heads": 2}, "num_kv_heads=2: must be 1 with is_mla"),
        ({"is_mla": True, "head_dim_v": 17}, "head_dim_v=17: must be at most head_dim=16 with is_mla"),
        ({"is_mla": True, "key_layout": "flat"}, "value_layout='packed': must be key_layout='flat' with is_mla"),
        ({"is_mla": True, "cache_dtype": "float8_e5m2", "k_scale": 0.5}, "v_scale=1.0: must be k_scale=0.5 with is_mla"),
    ],
)
def test_fields_that_do_not_go_together_are_named(fields: dict[str, Any], message: str) -> None:
    """One line: the field, its value, what it must be."""
    with pytest.raises(CaseError) as caught:
        Case(**fields)

    assert str(caught.value).startswith(message)


@pytest.mark.parametrize("layout", ["packed", "page_gap", "cross_layer", "flat_token_gap"])
def test_latent_values_are_columns_of_the_keys(layout: str) -> None:
    """Same memory, same strides, one scale: there is no second cache."""
    case = Case(
        is_mla=True,
        head_dim=24,
        seq_lens=(17,),
        key_layout=layout,
        value_layout=layout,
        cache_dtype="float8_e4m3fn",
        k_scale=0.37,
        v_scale=0.37,
    )
    arena = Arena()
    inputs = build(case, arena)
    keys, values = inputs["key_cache"], inputs["value_cache"]

    assert (values.data_ptr(), values.stride(), values.shape[-1]) == (keys.data_ptr(), keys.stride(), 16)
    assert inputs["v_scale"] is inputs["k_scale"]
    assert "value_cache" not in arena.allocations


@pytest.mark.parametrize("cache_dtype", fp8.DTYPES)
@pytest.mark.parametrize("name", ["key", "value"])
def test_codes_times_scale_are_the_values(cache_dtype: str, name: str) -> None:
    """Within half a step of the format, of what a float32 cache of the same case holds."""
    plain = Case(head_dim=64, head_dim_v=64, seq_lens=(40,), sigma=0.1, value_sigma=10.0)
    case = Case(**vars(plain) | {"cache_dtype": cache_dtype, "k_scale": 2.0**-6, "v_scale": 1.7})
    scale = {"key": case.k_scale, "value": case.v_scale}[name]

    exact = tokens(plain, build(plain, Arena()), name)
    read = tokens(case, build(case, Arena()), name) * scale

    dtype = fp8.DTYPES[cache_dtype]
    step = torch.finfo(dtype).eps / 2 * exact.abs() * (1 + 2e-6) + torch.finfo(dtype).smallest_normal * scale
    assert ((read - exact).abs() <= step).all()


def test_scales_are_tensors_of_fp8_caches_alone() -> None:
    """float32, one element; nothing for a cache in the query's dtype."""
    plain, scaled = build(Case(), Arena()), build(Case(cache_dtype="float8_e5m2", k_scale=0.5), Arena())

    assert (plain["k_scale"], plain["v_scale"]) == (None, None)
    assert [scaled[name].item() for name in ("k_scale", "v_scale")] == [0.5, 1.0]
    assert all(scaled[name].dtype == torch.float32 for name in ("k_scale", "v_scale"))


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"scale_form": "vector"}, [(1,), (1,)]),
        ({"scale_form": "absent"}, [None, ()]),
        ({"scale_form": "absent", "v_scale": 1.0}, [None, None]),
        ({"scale_form": "absent", "v_scale": 1.0, "is_mla": True}, [None, None]),
        ({"scale_form": "unread", "cache_dtype": "same", "v_scale": 1.0}, [(), ()]),
        ({"scale_form": "unread", "cache_dtype": "same", "v_scale": 1.0, "is_mla": True}, [(), ()]),
    ],
)
def test_forms_of_scales(fields: dict[str, Any], expected: list[tuple[int, ...] | None]) -> None:
    """Of one element or None; those that nobody may read hold poison. Latent attention has one tensor for both."""
    defaults: dict[str, Any] = {"cache_dtype": "float8_e4m3fn", "v_scale": 1.7}
    case = Case(**defaults | fields)
    inputs = build(case, Arena())
    scales = [inputs[name] for name in ("k_scale", "v_scale")]

    assert [None if scale is None else tuple(scale.shape) for scale in scales] == expected
    for scale, value in zip(scales, (case.k_scale, case.v_scale), strict=True):
        if scale is not None:
            assert scale.isnan().all() if case.scale_form == "unread" else scale.item() == pytest.approx(value)
    assert not case.is_mla or scales[0] is scales[1]


def is_spread(case: Case) -> bool:
    """Whether an FP8 cache of the case should hold many different codes; a one-hot key, for one, is mostly zero."""
    spread = case.pattern in {"gaussian", "peaked", "sink", "near_duplicates"} and "flat" not in case.key_layout
    return case.cache_dtype != "same" and spread and sum(case.seq_lens) > 4


def test_fp8_caches_hold_something() -> None:
    """Codes neither vanish nor saturate, so that the comparison means something."""
    sample = [case for case in drawn("gfx942") if is_spread(case)]

    assert len(sample) > 20
    for case in sample:
        codes = tokens(case, build(case, Arena()), "key").abs()
        assert ((codes == 0) | (codes == fp8.LARGEST[case.cache_dtype])).double().mean() < 0.5
        assert len(codes.unique()) > 4


@pytest.mark.parametrize("cache_dtype", fp8.DTYPES)
def test_codes_are_numbers(cache_dtype: str) -> None:
    """What exceeds the format saturates; no code is NaN or infinite, and minus zero is none of FNUZ's NaN."""
    values = torch.tensor([0.0, -0.0, 1e-9, -1e-9, 1e9, -1e9, 0.3])

    codes = fp8.quantised(values, 0.37, fp8.DTYPES[cache_dtype]).view(fp8.DTYPES[cache_dtype]).float()

    assert codes.isfinite().all()
    assert codes[4:6].tolist() == [fp8.LARGEST[cache_dtype], -fp8.LARGEST[cache_dtype]]


def test_dequantised_values_are_finite() -> None:
    """In the query's dtype, whatever the code."""
    for case in drawn("gfx942"):
        if case.cache_dtype != "same":
            largest = fp8.LARGEST[case.cache_dtype] * max(case.k_scale, case.v_scale)
            assert largest <= torch.finfo(getattr(torch, case.dtype)).max


@pytest.mark.parametrize(
    ("named", "expected"),
    [
        (("DeepSeek-V3",), {f"DeepSeek-V3 TP{tp}" for tp in (1, 2, 4, 8, 16)}),
        (("Mistral-Small-4 TP2", "Kimi-K2.5 TP16"), {"Mistral-Small-4 TP2", "Kimi-K2.5 TP16"}),
    ],
)
def test_presets_keep_to_the_models_named(named: tuple[str, ...], expected: set[str]) -> None:
    """All rank counts of a model, or the one that is named."""
    seen: set[str] = set()

    @settings(QUIETLY, max_examples=60)
    @given(preset_cases(Domain(target="gfx942", models=named)))
    def collect(case: Case) -> None:
        seen.add(case.model)

    collect()

    assert seen == expected
    assert all(OP.knows(model) for model in named)


def test_the_op_knows_its_models() -> None:
    """By name and by rank count, and no other."""
    assert OP.models["DeepSeek-V2-Lite"] == tuple(f"DeepSeek-V2-Lite TP{tp}" for tp in (1, 2, 4, 8, 16))
    assert OP.models["Falcon-7B"] == ("Falcon-7B TP1",)
    assert not OP.knows("DeepSeek-V3 TP3")


@pytest.mark.parametrize("target", ["gfx90a", "gfx942", "sm_80", "sm_90"])
def test_what_is_drawn_lies_within_the_domain(target: str) -> None:
    """So minimising may use the same rule; a case of another vendor or format does not."""
    domain = Domain(target=target)
    assert OP.within is not None

    assert all(OP.within(case, domain) for case in drawn(target))
    assert not OP.within(Case(platform="hip" if domain.platform == "cuda" else "cuda"), domain)
    assert OP.within(Case(platform=domain.platform, cache_dtype="float8_e4m3fnuz"), domain) == (target == "gfx942")


@pytest.mark.parametrize("target", ["gfx90a", "sm_80", "sm_100"])
def test_the_whole_domain_has_every_format(target: str) -> None:
    """Also those that the target lacks, since a launcher must refuse them; all else is as in the target's own domain."""
    domain = Domain(target=target, whole=True)
    seen: set[str] = set()

    @settings(QUIETLY, max_examples=200)
    @given(cases(domain))
    def collect(case: Case) -> None:
        seen.add(case.cache_dtype)
        assert within(case, domain)
        assert case.platform == domain.platform

    collect()

    assert seen == {"same", *fp8.DTYPES}
    assert not within(Case(platform="hip" if domain.platform == "cuda" else "cuda"), domain)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_placements(dtype: str) -> None:
    """Production's, the first, is aligned and beyond 2 GiB; small ones are not, and no misaligned pointer is divisible by 16."""
    case = Case(dtype=dtype, cache_dtype="float8_e5m2", k_scale=0.37, seq_lens=(3,), lead=4)

    tensors = {name: build(place(case), Arena()) for name, place in OP.placements.items()}

    assert list(tensors) == ["production", "small", "misaligned"]
    for name, placed in tensors.items():
        caches = [placed["key_cache"], placed["value_cache"]]
        assert all((tensor.data_ptr() % 16 == 0) == (name != "misaligned") for tensor in (placed["query"], *caches))
        assert all((cache.untyped_storage().size() > 2**31) == (name != "small") for cache in caches)
        assert torch.equal(placed["query"], tensors["production"]["query"])
