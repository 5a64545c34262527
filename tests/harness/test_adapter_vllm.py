"""The adapter of vLLM: on a fetched release where there is one, and what it declares of itself anywhere."""

from __future__ import annotations

from contextlib import nullcontext
from typing import Any

import pytest
import torch
from releases import calls_of, fetched, require

from tridiff.adapters.vllm import FAMILIES, decode_attention, merge_attention_states
from tridiff.harness.api import Clean, Found
from tridiff.harness.capture import targeting
from tridiff.harness.engines.spec import EngineSpec
from tridiff.harness.registry import Registry
from tridiff.harness.runner.examine import KernelRef, examine

SPEC = EngineSpec()


@pytest.fixture(scope="module")
def known() -> Registry:
    """The registry with the adapter, for a release that was fetched."""
    return fetched("vllm")


@pytest.fixture
def passed(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """What the adapter passes to vLLM's launchers, which do nothing."""
    return calls_of(FAMILIES, monkeypatch)


def test_arguments_of_the_decode(passed: list[dict[str, Any]]) -> None:
    """Tensors go on as they are, under vLLM's names; a row of the scratch holds an output and, behind it, its log-sum-exp."""
    tensors: dict[str, Any] = {
        name: torch.zeros(0) for name in ("block_table", "seq_lens", "output", "lse", "k_scale", "v_scale")
    }
    query, keys, values = torch.zeros(3, 8, 24), torch.zeros(5, 16, 2, 24), torch.zeros(5, 16, 2, 20)
    numbers: dict[str, Any] = {"sm_scale": 0.5, "logit_cap": 2.0, "page_size": 16, "num_kv_splits": 7, "is_mla": False}

    decode_attention.decode_attention(query=query, key_cache=keys, value_cache=values, platform="hip", **tensors, **numbers)

    (call,) = passed
    scratch = call.pop("attn_logits")
    assert (scratch.shape, scratch.dtype) == ((3, 8, 7, 21), torch.float32)
    names = {"q": query, "k_buffer": keys, "v_buffer": values, "o": tensors["output"], "lse": tensors["lse"]}
    names |= {"req_to_token": tensors["block_table"], "b_seq_len": tensors["seq_lens"]}
    assert all(call.pop(name) is tensor for name, tensor in names.items())
    assert call.pop("k_scale") is tensors["k_scale"]
    assert call.pop("v_scale") is tensors["v_scale"]
    assert call == numbers


@pytest.mark.parametrize("has_lse", [True, False])
def test_arguments_of_the_merge(passed: list[dict[str, Any]], has_lse: bool) -> None:
    """Log-sum-exps become [H, T], views of the same memory; the merged one may be absent."""
    state, lse = torch.zeros(3, 2, 4), torch.zeros(3, 2)
    states = {"prefix_output": state, "suffix_output": state.clone(), "output": state.clone()}
    lses: dict[str, Any] = {"prefix_lse": lse, "suffix_lse": lse.clone(), "output_lse": lse.clone() if has_lse else None}

    merge_attention_states.merge_attention_states(**states, **lses, tokens_with_context=2, platform="hip")

    (call,) = passed
    assert call.pop("prefill_tokens_with_context") == 2
    for name, tensor in lses.items():
        given = call.pop(name)
        assert (given is None) == (tensor is None)
        if tensor is not None:
            assert (given.shape, given.data_ptr()) == ((2, 3), tensor.data_ptr())
    assert call.keys() == states.keys()
    assert all(call[name] is tensor for name, tensor in states.items())


@pytest.mark.parametrize(
    ("heads", "platform", "p_dtype", "block_n"),
    [(2, "hip", "float32", 8), (2, "cuda", "float32", 64), (4, "hip", "float16", 16), (4, "cuda", "float16", 32)],
)
def test_rounding(heads: int, platform: str, p_dtype: str, block_n: int) -> None:
    """Heads with a KV head of their own keep their weights in float32; tiles are the launcher's of each platform."""
    query, values = torch.zeros(1, heads, 24, dtype=torch.float16), torch.zeros(5, 16, 2, 20)

    said = decode_attention.rounding(query=query, value_cache=values, num_kv_splits=3, platform=platform)

    known = {"dequantised": "float16", "num_kv_splits": 3, "dot_precision": "ieee"}
    assert said == {"p_dtype": p_dtype, "block_n": block_n, **known}


@pytest.mark.parametrize(
    ("target", "dtype", "refusal"),
    [
        ("gfx942", torch.float8_e4m3fn, None),
        ("gfx90a", torch.float8_e4m3fnuz, None),
        ("sm_86", torch.bfloat16, None),
        ("sm_86", torch.float8_e4m3fn, "from compute capability 8.9 on"),
        ("sm_89", torch.float8_e4m3fn, None),
        ("sm_90", torch.float8_e4m3fnuz, "is float8_e4m3fn on NVIDIA, not torch.float8_e4m3fnuz"),
    ],
)
def test_refused_formats(passed: list[dict[str, Any]], target: str, dtype: torch.dtype, refusal: str | None) -> None:
    """FP8 caches are refused where vLLM's backend refuses them, before anything is launched."""
    tensors: dict[str, Any] = dict.fromkeys(("block_table", "seq_lens", "output", "lse", "k_scale", "v_scale"), torch.zeros(0))
    cache = torch.zeros(5, 16, 2, 24).to(dtype)
    numbers: dict[str, Any] = {"sm_scale": 0.5, "logit_cap": 2.0, "page_size": 16, "num_kv_splits": 7, "is_mla": False}
    caches: dict[str, Any] = {"query": torch.zeros(3, 8, 24), "key_cache": cache, "value_cache": cache}

    with targeting(target), nullcontext() if refusal is None else pytest.raises(decode_attention.Unsupported, match=refusal):
        decode_attention.decode_attention(**caches, platform="", **tensors, **numbers)

    assert len(passed) == (refusal is None)


def test_one_path_or_the_other() -> None:
    """Every group of heads belongs to just one of the two kernels of the decode."""
    grouped, normal = (kernel.limits["group_size"] for kernel in decode_attention.KERNELS)

    assert sorted([*grouped, *normal]) == list(range(1, 1025))


# With a release


def test_release_runs(known: Registry) -> None:
    """Cases that upstream computes rightly are clean: MLA on the grouped path, the merge with context for some."""
    op, merge = known.op("decode_attention").case, known.op("merge_attention_states").case
    latent = op(dtype="bfloat16", group_size=16, head_dim=96, head_dim_v=64, is_mla=True, seq_lens=(20, 3), num_kv_splits=2)
    cases = {
        "vllm_decode_attention_grouped": latent,
        "vllm_merge_attn_states": merge(num_tokens=3, num_heads=2, tokens_without_context=1),
    }

    outcomes = {name: examine(KernelRef(kernel=name), SPEC, case, known) for name, case in cases.items()}

    assert {name: type(outcome) for name, outcome in outcomes.items()} == dict.fromkeys(cases, Clean)


@pytest.mark.parametrize(
    ("path", "fields"),
    [("grouped", {"num_kv_heads": 2, "group_size": 17, "dtype": "bfloat16"}), ("normal", {"dtype": "float16"})],
)
def test_release_fails_where_it_is_known_to(known: Registry, path: str, fields: dict[str, Any]) -> None:
    """Groups of 17 heads, and sums of the normal path, are mismatches, as docs/trophies.md says of 0.33.0."""
    require(known, "vllm 0.33.0", "vllm")
    case = known.op("decode_attention").case(**fields)

    outcome = examine(KernelRef(kernel=f"vllm_decode_attention_{path}"), SPEC, case, known)

    assert isinstance(outcome, Found)
    assert outcome.finding.check == "mismatch"
