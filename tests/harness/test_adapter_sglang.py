"""The adapter of SGLang: on a fetched release where there is one, and what it passes and declares anywhere."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from releases import calls_of, fetched

from tridiff.adapters import precision, stubs
from tridiff.adapters.sglang import FAMILIES, decode_attention, lean_decode_attention, merge_attention_states
from tridiff.harness.api import Clean, Domain, Found
from tridiff.harness.capture import targeting
from tridiff.harness.domains import contains
from tridiff.harness.engines.spec import EngineSpec
from tridiff.harness.registry import Registry
from tridiff.harness.runner.examine import KernelRef, examine

E4M3FN, E4M3FNUZ, E5M2 = torch.float8_e4m3fn, torch.float8_e4m3fnuz, torch.float8_e5m2


@pytest.fixture(scope="module")
def known() -> Registry:
    """The registry with the adapter, for a release that was fetched."""
    return fetched("sglang")


@pytest.fixture
def passed(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """What the adapter passes to SGLang's launchers, which do nothing."""
    calls = calls_of(FAMILIES, monkeypatch)
    monkeypatch.setattr(lean_decode_attention, "PARAMETERS", lambda **_: (6, False, 1))
    return calls


def inputs_of(**changed: Any) -> dict[str, Any]:
    """Launcher arguments of two rows, 5 and 12 keys in pages of 4."""
    return {
        "query": torch.zeros(2, 6, 24),
        "key_cache": torch.zeros(7, 4, 2, 24),
        "value_cache": torch.zeros(7, 4, 2, 20),
        "block_table": torch.tensor([[6, 0, 99], [2, 5, 1]], dtype=torch.int32),
        "seq_lens": torch.tensor([5, 12]),
        "output": torch.zeros(2, 6, 20),
        "lse": torch.zeros(2, 6),
        **{"sm_scale": 0.5, "logit_cap": 2.0, "page_size": 4, "num_kv_splits": 3, "platform": "hip", "is_mla": False},
        **{"k_scale": None, "v_scale": None, **changed},
    }


def test_arguments_of_the_decode(passed: list[dict[str, Any]]) -> None:
    """Slots instead of pages, a split count a row, scratch of its own for outputs and log-sum-exps, numbers as scales."""
    inputs = inputs_of()

    decode_attention.decode_attention(**inputs)

    (call,) = passed
    assert set(call) == set(decode_attention.PASSES)
    assert call["kv_indptr"].tolist() == [0, 5, 17]
    assert call["kv_indices"].tolist() == [24, 25, 26, 27, 0, *range(8, 12), *range(20, 24), *range(4, 8)]
    assert (call["k_buffer"].shape, call["v_buffer"].shape) == ((28, 2, 24), (28, 2, 20))
    assert (call["attn_logits"].shape, call["attn_lse"].shape) == ((2, 6, 3, 20), (2, 6, 3))
    assert call["num_kv_splits"].tolist() == [2, 3]  # tiles of 4 tokens
    assert call["uneven_batch"].tolist() == [1]
    numbers = {"max_kv_splits": 3, "sm_scale": 0.5, "logit_cap": 2.0, "page_size": 4, "k_scale": 1.0, "v_scale": 1.0}
    switches = {"has_mla": False, "use_pdl": False, "enable_lean": False}
    assert {name: call[name] for name in numbers | switches} == numbers | switches
    assert (call["q"], call["o"]) == (inputs["query"], inputs["output"])


@pytest.mark.parametrize(("lengths", "uneven"), [([10, 10], 0), ([9, 10], 0), ([8, 10], 1), ([1, 10], 1)])
def test_uneven_batches(passed: list[dict[str, Any]], lengths: list[int], uneven: int) -> None:
    """The launcher is told whether rows differ by a fifth or more."""
    decode_attention.decode_attention(**inputs_of(seq_lens=torch.tensor(lengths)))

    assert passed[0]["uneven_batch"].tolist() == [uneven]


def test_what_is_made_besides_is_where_the_inputs_are(passed: list[dict[str, Any]]) -> None:
    """Whatever the default device: on a GPU a tensor elsewhere is refused, or read as garbage."""
    inputs = inputs_of()

    with torch.device("meta"):
        decode_attention.decode_attention(**inputs)

    made = [value for value in passed[0].values() if isinstance(value, torch.Tensor)]
    assert {str(value.device) for value in made} == {"cpu"}


def test_arguments_of_the_lean_decode(passed: list[dict[str, Any]]) -> None:
    """Scratch for as many programs as the launcher says, and locks that are free."""
    lean_decode_attention.lean_decode_attention(**inputs_of(logit_cap=0.0))

    (call,) = passed
    shapes = {name: tuple(tensor.shape) for name, tensor in call.items() if name.startswith("lean_")}
    assert shapes == {"lean_Mp": (6, 16), "lean_Lp": (6, 16), "lean_Op": (6, 16, 20), "lean_locks": (6,)}
    assert call["enable_lean"]
    assert call["lean_locks"].tolist() == [0] * 6


def test_lean_decode_on_nvidia(passed: list[dict[str, Any]]) -> None:
    """It is refused: the launcher would take its other kernel."""
    with pytest.raises(decode_attention.Unsupported, match="AMD GPUs alone"):
        lean_decode_attention.lean_decode_attention(**inputs_of(platform="cuda"))

    assert passed == []


@pytest.mark.parametrize(
    ("target", "known"),
    [("gfx942", {E4M3FNUZ}), ("gfx950", {E4M3FN}), ("sm_80", {E5M2}), ("sm_90", {E4M3FN, E5M2})],
)
def test_formats(target: str, known: set[torch.dtype]) -> None:
    """Caches in an FP8 format that SGLang does not have on the GPU are refused."""
    platform = "cuda" if target.startswith("sm_") else "hip"

    with targeting(target):
        for dtype in decode_attention.FP8_DTYPES:
            if dtype in known:
                decode_attention.check_format(dtype, platform)
            else:
                with pytest.raises(decode_attention.Unsupported, match="on this GPU SGLang has"):
                    decode_attention.check_format(dtype, platform)


@pytest.mark.parametrize(("target", "expected"), [("gfx942", "tf32"), ("gfx950", "ieee"), ("gfx1100", "ieee"), ("sm_90", "tf32")])
def test_dot_precision(target: str, expected: str) -> None:
    """Float32 is multiplied as Triton's back end does by default; narrower numbers have nothing to lose."""
    with targeting(target):
        assert precision.dot_precision(torch.float32) == expected
        assert precision.dot_precision(torch.bfloat16) == "ieee"


@pytest.mark.parametrize(
    ("heads", "width", "cache", "expected"),
    [
        (2, 24, torch.float16, {"p_dtype": "float32", "product_dtype": "float16", "block_n": 8}),
        (2, 24, E4M3FNUZ, {"p_dtype": "float32", "product_dtype": "float16", "block_n": 8}),
        (6, 24, torch.float16, {"p_dtype": "float16", "block_n": 32}),
        (6, 576, torch.float16, {"p_dtype": "float16", "block_n": 16}),
        (6, 24, E4M3FNUZ, {"p_dtype": "float8_e4m3fnuz", "block_n": 32, "query_dtype": "float8_e4m3fnuz", "query_columns": 24}),
        (6, 288, E4M3FNUZ, {"p_dtype": "float8_e4m3fnuz", "block_n": 32, "query_dtype": "float8_e4m3fnuz", "query_columns": 256}),
    ],
)
def test_rounding(heads: int, width: int, cache: torch.dtype, expected: dict[str, Any]) -> None:
    """MHA rounds products, others query and weights to the cache's dtype, but for the positional slab of a latent key."""
    query, keys, values = (torch.zeros(1, heads, width).half(), *(torch.zeros(3, 4, 2, width).to(cache) for _ in range(2)))

    said = decode_attention.rounding(query=query, key_cache=keys, value_cache=values, num_kv_splits=3, platform="hip")

    assert said == {"dequantised": "folded", "num_kv_splits": 3, "split_multiple": 32, "dot_precision": "ieee"} | expected


def test_arguments_of_the_merge(passed: list[dict[str, Any]]) -> None:
    """All tensors go on as they are; the platform and the count of tokens do not."""
    names = ("prefix_output", "prefix_lse", "suffix_output", "suffix_lse", "output", "output_lse")
    tensors = {name: torch.zeros(0) for name in names}

    merge_attention_states.merge_attention_states(**tensors, tokens_with_context=0, platform="hip")

    (call,) = passed
    assert list(call) == list(names)
    assert all(call[name] is tensor for name, tensor in tensors.items())


def test_gfx942_has_formats_of_its_own() -> None:
    """What the stand-ins say of the GPU follows the target."""
    with targeting("gfx942"):
        assert stubs.architecture() == "gfx942"


def test_release(known: Registry) -> None:
    """A default case of each kernel that can run here is clean, and one in which tiles of heads overlap two KV heads is found."""
    spec = EngineSpec()
    for name in ("sglang_decode_attention", "sglang_merge_state"):
        kernel = known.kernel(name)
        op = known.op(kernel.op)
        assert contains(op, op.case(), Domain(target=spec.target, limits=kernel.limits))
        assert isinstance(examine(KernelRef(kernel=name), spec, op.case(), known), Clean)

    case = known.op("decode_attention").case(num_kv_heads=2, group_size=17)
    outcome = examine(KernelRef(kernel="sglang_decode_attention"), spec, case, known)

    assert isinstance(outcome, Found)
    assert outcome.finding.check == "mismatch"
