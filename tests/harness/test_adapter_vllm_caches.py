"""The adapter of vLLM's cache writers and readers: what it passes on and refuses, and a fetched release where there is one."""

from __future__ import annotations

from contextlib import nullcontext
from typing import Any

import pytest
import torch
from releases import calls_of, fetched, require

from tridiff.adapters.vllm import (
    FAMILIES,
    chunked_prefill_paged_decode,
    paged_decode,
    prefix_prefill,
    reshape_and_cache,
    reshape_and_cache_diffkv,
    reshape_and_cache_per_token_head,
)
from tridiff.adapters.vllm.formats import Unsupported
from tridiff.harness.api import Clean, Found
from tridiff.harness.capture import targeting
from tridiff.harness.engines.spec import EngineSpec
from tridiff.harness.registry import Registry
from tridiff.harness.runner.examine import KernelRef, examine

SPEC = EngineSpec()
FNUZ, OCP, WIDE = torch.float8_e4m3fnuz, torch.float8_e4m3fn, torch.float8_e5m2


@pytest.fixture(scope="module")
def known() -> Registry:
    """The registry with the adapter, for a release that was fetched."""
    return fetched("vllm")


@pytest.fixture
def passed(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """What the adapter passes to vLLM's launchers, which do nothing."""
    return calls_of(FAMILIES, monkeypatch)


def written(dtype: torch.dtype = torch.bfloat16, **changed: Any) -> dict[str, Any]:
    """Arguments of the writer: one page of 16 positions, head-major."""
    pack = 16 // dtype.itemsize
    return {
        "key": torch.zeros(3, 2, 32, dtype=torch.bfloat16),
        "value": torch.zeros(3, 2, 32, dtype=torch.bfloat16),
        "key_cache": torch.zeros(1, 2, 32 // pack, 16, pack).to(dtype),
        "value_cache": torch.zeros(1, 2, 32, 16).to(dtype),
        "slot_mapping": torch.arange(3),
        "k_scale": None,
        "v_scale": torch.tensor(2.0),
        "interleaved": False,
        "platform": "hip",
        **changed,
    }


def read(dtype: torch.dtype = torch.bfloat16, **changed: Any) -> dict[str, Any]:
    """Arguments that all readers have: a sequence of one query and five keys."""
    tensors = {name: value for name, value in written(dtype).items() if name.endswith("_cache")}
    return {
        "query": torch.zeros(1, 4, 32, dtype=torch.bfloat16),
        "block_table": torch.zeros(1, 1, dtype=torch.int32),
        "query_start_loc": torch.tensor([0, 1], dtype=torch.int32),
        "seq_lens": torch.tensor([5], dtype=torch.int32),
        "output": torch.zeros(1, 4, 32, dtype=torch.bfloat16),
        "sm_scale": 0.5,
        "k_scale": None,
        "v_scale": torch.tensor(2.0),
        "alibi_slopes": None,
        "sliding_window": 7,
        "sinks": None,
        "output_scale": None,
        "interleaved": True,
        "platform": "hip",
        **tensors,
        **changed,
    }


@pytest.mark.parametrize(
    ("dtype", "interleaved", "name", "pack"),
    [
        (torch.bfloat16, True, "auto", 8),
        (torch.bfloat16, False, "auto", 0),
        (FNUZ, True, "fp8", 16),
        (WIDE, False, "fp8_e5m2", 0),
    ],
)
def test_arguments_of_the_writer(
    passed: list[dict[str, Any]], dtype: torch.dtype, interleaved: bool, name: str, pack: int
) -> None:
    """Tensors go on as they are; caches by vLLM's name; a pack of values has 16 bytes; a scale that is missing is 1."""
    arguments = written(dtype, interleaved=interleaved)

    with targeting("gfx942"):
        reshape_and_cache.reshape_and_cache(**arguments)

    (call,) = passed
    assert float(call.pop("k_scale")) == 1.0
    assert (call.pop("kv_cache_dtype"), call.pop("interleaved_v_pack_factor")) == (name, pack)
    assert {given: tensor is arguments[given] for given, tensor in call.items()} == dict.fromkeys(
        ("key", "value", "key_cache", "value_cache", "slot_mapping", "v_scale"), True
    )


@pytest.mark.parametrize(
    ("target", "dtype", "refusal"),
    [
        ("gfx942", FNUZ, None),
        ("gfx942", OCP, "vLLM's FP8 type is torch.float8_e4m3fnuz on this GPU, not torch.float8_e4m3fn: convert the caches"),
        ("gfx950", OCP, None),
        ("gfx950", WIDE, None),
        ("sm_86", WIDE, "needs compute capability 8.9"),
        ("sm_86", torch.float16, None),
        ("sm_90", OCP, None),
        ("sm_90", FNUZ, "is torch.float8_e4m3fn on this GPU"),
    ],
)
def test_refused_formats(passed: list[dict[str, Any]], target: str, dtype: torch.dtype, refusal: str | None) -> None:
    """Caches, and tokens, of a format that vLLM does not make on the GPU are refused before anything is launched."""
    with targeting(target), nullcontext() if refusal is None else pytest.raises(Unsupported, match=refusal):
        reshape_and_cache.reshape_and_cache(**written(dtype))
    with targeting(target), nullcontext() if refusal is None else pytest.raises(Unsupported, match=refusal):
        reshape_and_cache.reshape_and_cache(**written(key=torch.zeros(3, 2, 32).to(dtype)))
    with targeting(target), nullcontext() if refusal is None else pytest.raises(Unsupported, match=refusal):
        paged_decode.paged_decode(**read(dtype))

    assert len(passed) == 3 * (refusal is None)


def test_refused_outputs(passed: list[dict[str, Any]]) -> None:
    """Of FP8 outputs vLLM has the platform's own alone."""
    with targeting("gfx942"):
        paged_decode.paged_decode(**read(output=torch.zeros(1, 4, 32).to(FNUZ)))
        with pytest.raises(Unsupported, match=r"writes FP8 output in torch\.float8_e4m3fnuz on this GPU, not in"):
            paged_decode.paged_decode(**read(output=torch.zeros(1, 4, 32).to(WIDE)))

    assert len(passed) == 1


def test_arguments_of_the_decode(passed: list[dict[str, Any]]) -> None:
    """A batch of decodes: no keys beside the cache, chunks of one, the longest sequence told; the rest as it is."""
    arguments = read()

    with targeting("gfx942"):
        paged_decode.paged_decode(**arguments)

    (call,) = passed
    assert (call.pop("key"), call.pop("value")) == (None, None)
    assert (call.pop("max_query_len"), call.pop("max_seq_len")) == (1, 5)
    assert (call.pop("kv_cache_dtype"), call.pop("use_interleaved_v_cache")) == ("auto", True)
    assert float(call.pop("k_scale")) == 1.0
    assert {name: value is arguments[name] for name, value in call.items()} == dict.fromkeys(
        arguments.keys() - {"k_scale", "interleaved", "platform"}, True
    )


def test_wide_caches_are_passed_as_the_backend_does(passed: list[dict[str, Any]]) -> None:
    """e5m2: under the platform's own type, with the name that tells the driver; the same memory."""
    arguments = read(WIDE)

    with targeting("gfx942"):
        paged_decode.paged_decode(**arguments)

    (call,) = passed
    assert call["kv_cache_dtype"] == "fp8_e5m2"
    for name in ("key_cache", "value_cache"):
        assert (call[name].dtype, call[name].data_ptr()) == (FNUZ, arguments[name].data_ptr())


def test_arguments_of_the_prefill(passed: list[dict[str, Any]]) -> None:
    """Under its own names; packs of values in elements, 0 without."""
    chunk: dict[str, Any] = {"key": torch.zeros(1, 2, 32), "value": torch.zeros(1, 2, 32), "max_query_len": 3, "causal": False}
    arguments = read(**chunk, skip_decode=True)

    with targeting("gfx942"):
        prefix_prefill.prefix_prefill(**arguments)
        prefix_prefill.prefix_prefill(**arguments | {"interleaved": False})

    call, other = passed
    assert (call.pop("interleaved_v_pack_factor"), other["interleaved_v_pack_factor"]) == (8, 0)
    assert float(call.pop("k_scale")) == 1.0
    names = {"q": "query", "k": "key", "v": "value", "o": "output", "k_cache": "key_cache", "v_cache": "value_cache"}
    names |= {"b_loc": "block_table", "b_start_loc": "query_start_loc", "b_seq_len": "seq_lens", "fp8_out_scale": "output_scale"}
    names |= {"max_input_len": "max_query_len"}
    same = {"v_scale", "alibi_slopes", "sliding_window", "sm_scale", "skip_decode", "sinks", "causal"}
    assert (call.pop("max_seq_len"), call.pop("kv_cache_dtype")) == (None, "auto")
    assert {name: value is arguments[names.get(name, name)] for name, value in call.items()} == dict.fromkeys(
        names.keys() | same, True
    )


def test_arguments_of_the_driver(passed: list[dict[str, Any]]) -> None:
    """Chunks go on beside the caches."""
    chunk: dict[str, Any] = {"key": torch.zeros(1, 2, 32), "value": torch.zeros(1, 2, 32), "max_query_len": 3, "causal": False}
    arguments = read(**chunk)

    with targeting("gfx942"):
        chunked_prefill_paged_decode.chunked_prefill_paged_decode(**arguments)

    (call,) = passed
    assert (call.pop("max_seq_len"), call.pop("kv_cache_dtype"), call.pop("use_interleaved_v_cache")) == (5, "auto", True)
    assert float(call.pop("k_scale")) == 1.0
    assert {name: value is arguments[name] for name, value in call.items()} == dict.fromkeys(
        arguments.keys() - {"k_scale", "interleaved", "platform"}, True
    )


@pytest.mark.parametrize(("target", "precision"), [("gfx942", "tf32"), ("gfx950", "ieee"), ("gfx90a", "ieee"), ("sm_90", "tf32")])
def test_rounding_of_readers(target: str, precision: str) -> None:
    """Weights and what is dequantised have the query's dtype; tiles have 32 keys at least; products are those of the GPU."""
    with targeting(target):
        said = paged_decode.rounding(query=torch.zeros(1, 1, 32), platform="", sinks=None)

    known = {"p_dtype": "float32", "dequantised": "float32", "block_n": 32, "num_kv_splits": 1}
    assert said == {**known, "dot_precision": precision}


def test_arguments_of_the_writer_of_two_widths(passed: list[dict[str, Any]]) -> None:
    """One cache for both; FP8 under vLLM's name."""
    given = written(FNUZ)
    arguments = {name: given[name] for name in ("key", "value", "slot_mapping", "k_scale", "v_scale", "platform")}
    cache = torch.zeros(1, 16, 2, 64).to(FNUZ)

    with targeting("gfx942"):
        reshape_and_cache_diffkv.reshape_and_cache_diffkv(**arguments, kv_cache=cache)

    (call,) = passed
    assert float(call.pop("k_scale")) == 1.0
    assert call.pop("kv_cache_dtype") == "fp8"
    assert call.pop("kv_cache") is cache
    assert {name: value is arguments[name] for name, value in call.items()} == dict.fromkeys(
        ("key", "value", "slot_mapping", "v_scale"), True
    )


@pytest.mark.parametrize(("dtype", "mode"), [(torch.int8, "INT8_PER_TOKEN_HEAD"), (FNUZ, "FP8_PER_TOKEN_HEAD"), (WIDE, None)])
def test_arguments_of_the_writer_with_scales(passed: list[dict[str, Any]], dtype: torch.dtype, mode: str | None) -> None:
    """The mode follows from the codes' dtype; e5m2 has none."""
    cache, scales = torch.zeros(1, 16, 2, 32).to(dtype), torch.zeros(1, 16, 2)
    rows = {name: written()[name] for name in ("key", "value", "slot_mapping")}
    caches = {"key_cache": cache, "value_cache": cache, "k_scale_cache": scales, "v_scale_cache": scales}

    with targeting("gfx942"), nullcontext() if mode else pytest.raises(Unsupported, match=r"not of torch\.float8_e5m2"):
        reshape_and_cache_per_token_head.reshape_and_cache_per_token_head(**rows, **caches, platform="hip")

    if mode:
        (call,) = passed
        assert call.pop("kv_quant_mode").name == mode
        assert {name: value is (rows | caches)[name] for name, value in call.items()} == dict.fromkeys(rows | caches, True)


@pytest.mark.parametrize("family", [reshape_and_cache, prefix_prefill, chunked_prefill_paged_decode])
def test_paths_are_kernels_apart(family: Any) -> None:
    """No case belongs to two of a launcher's kernels."""
    first, second = (kernel.limits for kernel in family.KERNELS)
    facet = "kind" if family is reshape_and_cache else "alibi"

    assert not set(first[facet]) & set(second[facet])


# With a release

CLEAN: dict[str, dict[str, Any]] = {
    "vllm_reshape_and_cache_nhd": {"num_tokens": 3, "padding_rows": 1, "negatives": "middle", "page_size": 48},
    "vllm_reshape_and_cache_head_major": {"kind": "interleaved", "cache_dtype": "float8_e4m3fnuz", "k_scale": 0.37},
    "vllm_reshape_and_cache_diffkv": {"num_tokens": 2, "head_dim_v": 32},
    "vllm_reshape_and_cache_per_token_head": {"num_tokens": 2},
    "vllm_paged_decode": {"seq_lens": (64,), "group_size": 3, "page_size": 64},
    "vllm_prefix_prefill": {"query_lens": (3,), "seq_lens": (35,), "page_size": 32},
    "vllm_prefix_prefill_alibi": {"alibi": "standard", "query_lens": (2,), "seq_lens": (9,)},
    "vllm_chunked_prefill_paged_decode": {"query_lens": (1, 2), "seq_lens": (32, 34), "page_size": 32},
}


@pytest.mark.parametrize("name", CLEAN)
def test_release_runs(known: Registry, name: str) -> None:
    """A case that upstream computes rightly is clean."""
    case = known.op(known.kernel(name).op).case(**CLEAN[name])

    assert isinstance(examine(KernelRef(kernel=name), SPEC, case, known), Clean)


KNOWN: list[tuple[str, dict[str, Any], str, str]] = [
    ("vllm_reshape_and_cache_nhd", {"cache_dtype": "float8_e5m2"}, "mismatch", ""),
    ("vllm_reshape_and_cache_nhd", {"cache_dtype": "float8_e4m3fnuz", "v_scale": 0.37, "pattern": "overflow"}, "nan", ""),
    ("vllm_paged_decode", {"query_lens": (1, 0), "seq_lens": (1, 1)}, "bounds", "load from query out of bounds"),
    ("vllm_paged_decode", {"seq_lens": (33,), "page_size": 48}, "bounds", "load from block_table out of bounds"),
    ("vllm_prefix_prefill", {"query_lens": (2,), "seq_lens": (3,)}, "bounds", "load from block_table out of bounds"),
    ("vllm_prefix_prefill_alibi", {"alibi": "standard", "window": 1, "seq_lens": (2,)}, "mismatch", ""),
]


@pytest.mark.parametrize(("name", "fields", "check", "message"), KNOWN)
def test_release_fails_where_it_is_known_to(known: Registry, name: str, fields: dict[str, Any], check: str, message: str) -> None:
    """As docs/trophies.md says of 0.33.0."""
    require(known, "vllm 0.33.0", "vllm")
    case = known.op(known.kernel(name).op).case(**fields)

    outcome = examine(KernelRef(kernel=name), SPEC, case, known)

    assert isinstance(outcome, Found)
    assert outcome.finding.check == check
    assert message in outcome.finding.message
