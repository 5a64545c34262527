"""The adapter of AITER: on a fetched release where there is one, and what it passes and declares anywhere."""

from __future__ import annotations

import sys
from collections.abc import Callable
from types import ModuleType
from typing import Any

import pytest
import torch
import triton.language as tl
from releases import calls_of, fetched

from tridiff.adapters.aiter import FAMILIES, mla_decode, paged_attention_decode, register, unified_attention
from tridiff.harness.api import Clean, Found, Kernel
from tridiff.harness.engines.spec import EngineSpec
from tridiff.harness.registry import Registry, builtin
from tridiff.harness.runner.examine import KernelRef, examine

KERNELS = [(family, kernel) for family in FAMILIES for kernel in family.KERNELS]


@pytest.fixture(scope="module")
def known() -> Registry:
    """The registry with the adapter, for a release that was fetched."""
    return fetched("aiter")


@pytest.fixture
def passed(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """What the adapter passes to AITER's launchers, which do nothing."""
    return calls_of(FAMILIES, monkeypatch)


def inputs_of(**changed: Any) -> dict[str, Any]:
    """Launcher arguments of two rows, 5 and 12 keys in pages of 4."""
    return {
        "query": torch.zeros(2, 6, 24, dtype=torch.bfloat16),
        "key_cache": torch.arange(7 * 4 * 2 * 24).reshape(7, 4, 2, 24),
        "value_cache": torch.zeros(28, 2, 24),
        "block_table": torch.zeros(2, 3, dtype=torch.int32),
        "seq_lens": torch.tensor([5, 12]),
        "output": torch.zeros(2, 6, 24),
        "lse": torch.zeros(2, 6),
        **{"sm_scale": 0.5, "logit_cap": 2.0, "page_size": 4, "num_kv_splits": 3, "platform": "hip", "is_mla": False},
        **{"k_scale": torch.tensor(3.0), "v_scale": None, **changed},
    }


def test_arguments_of_the_paged_decode(passed: list[dict[str, Any]]) -> None:
    """Caches become [blocks, heads, block, width], views of the same memory; a scale that is missing is 1."""
    inputs = inputs_of()

    paged_attention_decode.paged_attention_decode(**inputs)

    (call,) = passed
    assert torch.equal(call["key_cache"], inputs["key_cache"].transpose(1, 2))
    assert call["key_cache"].data_ptr() == inputs["key_cache"].data_ptr()
    assert call["value_cache"].shape == (7, 2, 4, 24)
    assert (call["k_scale"].tolist(), call["v_scale"].tolist()) == ([3.0], [1.0])
    assert (call["attn_scale"], call["max_seq_len"], call["compute_type"]) == (0.5, 12, tl.bfloat16)


@pytest.mark.parametrize("launcher", [paged_attention_decode.paged_attention_decode, unified_attention.unified_attention])
def test_what_is_made_besides_is_where_the_inputs_are(passed: list[dict[str, Any]], launcher: Callable[..., None]) -> None:
    """Whatever the default device: on a GPU a tensor elsewhere is refused, or read as garbage."""
    inputs = inputs_of()

    with torch.device("meta"):
        launcher(**inputs)

    assert {str(value.device) for value in passed[0].values() if isinstance(value, torch.Tensor)} == {"cpu"}


def test_arguments_of_the_unified_attention(passed: list[dict[str, Any]]) -> None:
    """One query token a row, causal, without a window."""
    inputs = inputs_of()

    unified_attention.unified_attention(**inputs)

    (call,) = passed
    assert call["cu_seqlens_q"].tolist() == [0, 1, 2]
    assert (call["max_seqlen_q"], call["max_seqlen_k"], call["causal"], call["window_size"]) == (1, 12, True, (-1, -1))
    assert (call["k"].shape, call["v"].shape) == ((7, 4, 2, 24), (7, 4, 2, 24))
    assert (call["softmax_scale"], call["softcap"], call["q_descale"]) == (0.5, 2.0, None)


def test_arguments_of_the_assembly(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pages of one token each, and one query token a row; AITER is imported by the call, and not before."""
    calls: list[tuple[Any, ...]] = []
    module = ModuleType("aiter.mla")
    module.__dict__["mla_decode_fwd"] = lambda *arguments, **_: calls.append(arguments)
    monkeypatch.setitem(sys.modules, "aiter", ModuleType("aiter"))
    monkeypatch.setitem(sys.modules, "aiter.mla", module)
    keys, table = torch.zeros(7, 4, 1, 24), torch.tensor([[6, 0, 9], [2, 5, 1]], dtype=torch.int32)

    mla_decode.mla_decode(**inputs_of(key_cache=keys, block_table=table))

    ((_, cache, _, qo_indptr, kv_indptr, kv_indices, last_page_lens, max_query_len),) = calls
    assert cache.shape == (28, 1, 1, 24)
    assert (qo_indptr.tolist(), kv_indptr.tolist()) == ([0, 1, 2], [0, 5, 17])
    assert kv_indices.tolist() == [24, 25, 26, 27, 0, *range(8, 12), *range(20, 24), *range(4, 8)]
    assert (kv_indices.dtype, last_page_lens.tolist(), max_query_len) == (torch.int32, [1, 1], 1)


@pytest.mark.parametrize(("family", "kernel"), KERNELS)
def test_nvidia(family: Any, kernel: Kernel, passed: list[dict[str, Any]]) -> None:
    """It is refused before anything of AITER is asked."""
    with pytest.raises(family.Unsupported, match="AMD GPUs alone"):
        getattr(family, kernel.launcher)(**inputs_of(platform="cuda"))

    assert passed == []


@pytest.mark.parametrize(
    ("heads", "length", "expected"),
    [
        (2, 1024, {"p_dtype": "float32", "product_dtype": "bfloat16", "num_kv_splits": 1, "split_multiple": 1}),
        (6, 12, {"p_dtype": "bfloat16", "sum_dtype": "bfloat16", "num_kv_splits": 1, "split_multiple": 1}),
        (
            *(6, 1025),
            {"p_dtype": "bfloat16", "sum_dtype": "bfloat16"}
            | {"num_kv_splits": 2, "split_multiple": 1024, "partial_dtype": "float32"},
        ),
    ],
)
def test_rounding_of_the_paged_decode(heads: int, length: int, expected: dict[str, Any]) -> None:
    """MHA rounds products, GQA weights and their sums; parts of long rows are stored in the output's dtype."""
    inputs = inputs_of(query=torch.zeros(2, heads, 24, dtype=torch.bfloat16), seq_lens=torch.tensor([5, length]))

    said = paged_attention_decode.rounding(**inputs)

    common = {"scaled_query": True, "query_dtype": "bfloat16", "dequantised": "bfloat16", "block_n": 4, "dot_precision": "ieee"}
    assert said == common | expected


@pytest.mark.parametrize(("length", "splits"), [(512, 1), (513, 128)])
def test_rounding_of_the_unified_attention(length: int, splits: int) -> None:
    """Only longer rows are cut into segments."""
    said = unified_attention.rounding(**inputs_of(seq_lens=torch.tensor([length])))

    assert (said["p_dtype"], said["num_kv_splits"]) == ("bfloat16", splits)


def test_registered_for_nvidia(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its kernels are known there, although AITER cannot be imported."""
    monkeypatch.setattr("tridiff.adapters.aiter.AITER", type("Absent", (), {"description": "amd_aiter 0", "find": None}))
    registry = builtin().copy(target="sm_90")

    register(registry)

    assert {kernel.name for _, kernel in KERNELS} <= set(registry.kernels)


def test_release(known: Registry) -> None:
    """A simple case of each kernel is clean, and one in which a page's offset exceeds 32 bits is found."""
    spec, case = EngineSpec(), known.op("decode_attention").case(seq_lens=(16,), unused_slots="zeros")
    for family in (paged_attention_decode, unified_attention):
        (kernel,) = family.KERNELS
        assert isinstance(examine(KernelRef(kernel=kernel.name), spec, case, known), Clean)

    far = type(case)(group_size=2, far="pages")
    outcome = examine(KernelRef(kernel="aiter_paged_attention_decode"), spec, far, known)

    assert isinstance(outcome, Found)
    assert outcome.finding.check == "bounds"
