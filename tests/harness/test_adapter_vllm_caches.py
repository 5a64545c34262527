"""The adapter of vLLM's cache writers and readers: what it passes on and refuses, and a fetched release where there is one."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch

from tridiff.adapters.vllm import (
    FAMILIES,
    chunked_prefill_paged_decode,
    paged_decode,
    prefix_prefill,
    reshape_and_cache,
)
from tridiff.adapters.vllm.formats import Unsupported
from tridiff.harness.api import Clean, Found
from tridiff.harness.capture import targeting
from tridiff.harness.engines.spec import EngineSpec
from tridiff.harness.plugins import load
from tridiff.harness.registry import Registry
from tridiff.harness.runner.examine import KernelRef, examine

ROOT = Path(__file__).resolve().parents[2]
SPEC = EngineSpec()
FNUZ, OCP, WIDE = torch.float8_e4m3fnuz, torch.float8_e4m3fn, torch.float8_e5m2


@pytest.fixture(scope="module")
def known() -> Registry:
    """The registry with the adapter, for a release that was fetched."""
    if not (ROOT / ".upstream" / "vllm" / "vllm").is_dir():
        pytest.skip("no vLLM in .upstream: make fetch-vllm")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TRIDIFF_UPSTREAM", str(ROOT / ".upstream"))
        return load(["tridiff.adapters.vllm"])


@pytest.fixture
def passed(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """What the adapter passes to vLLM's launchers, which do nothing."""
    calls: list[dict[str, Any]] = []
    for family in FAMILIES:
        monkeypatch.setattr(family, "LAUNCHER", lambda **arguments: calls.append(arguments))
    return calls


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
    chunk = {"key": torch.zeros(1, 2, 32), "value": torch.zeros(1, 2, 32), "max_query_len": 3, "causal": False}
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
    chunk = {"key": torch.zeros(1, 2, 32), "value": torch.zeros(1, 2, 32), "max_query_len": 3, "causal": False}
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
        said = paged_decode.rounding(query=torch.zeros(1, 1, 32, dtype=torch.float16), platform="", sinks=None)

    known = {"p_dtype": "float16", "dequantised": "float16", "block_n": 32, "num_kv_splits": 1}
    assert said == {**known, "dot_precision": precision}


@pytest.mark.parametrize("family", [reshape_and_cache, prefix_prefill, chunked_prefill_paged_decode])
def test_paths_are_kernels_apart(family: Any) -> None:
    """No case belongs to two of a launcher's kernels."""
    first, second = (kernel.limits for kernel in family.KERNELS)
    facet = "kind" if family is reshape_and_cache else "alibi"

    assert not set(first[facet]) & set(second[facet])
