"""SGLang's cache writers: on a fetched release where there is one, and what the adapter passes and declares anywhere."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from releases import calls_of, fetched

from tridiff.adapters.sglang import reshape_and_cache, reshape_and_cache_shuffle, set_mla_kv_buffer
from tridiff.harness.api import Clean, Domain
from tridiff.harness.capture import targeting
from tridiff.harness.domains import contains
from tridiff.harness.engines.spec import EngineSpec
from tridiff.harness.runner.examine import KernelRef, examine

E4M3FN, E4M3FNUZ = torch.float8_e4m3fn, torch.float8_e4m3fnuz
KERNELS: dict[str, dict[str, Any]] = {
    "sglang_reshape_and_cache_flash": {},
    "sglang_reshape_and_cache_shuffle": {"kind": "interleaved"},
    "sglang_set_mla_kv_buffer": {"num_tokens": 3, "negatives": "tail"},
    "sglang_set_mla_kv_buffer_fp8": {"dtype": "bfloat16", "cache_dtype": "float8_e4m3fnuz"},
}
"""The kernels, with a case inside the domain of each."""


@pytest.fixture
def passed(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """What the adapter passes to SGLang's launchers, which do nothing."""
    calls = calls_of((reshape_and_cache, reshape_and_cache_shuffle, set_mla_kv_buffer), monkeypatch)
    monkeypatch.setattr(set_mla_kv_buffer, "QUANTISING", lambda **arguments: calls.append(arguments))
    return calls


def pair(cache: torch.dtype = torch.float32, **changed: Any) -> dict[str, Any]:
    """Arguments of two tokens and a row of padding, of two heads of 8."""
    return {
        "key": torch.zeros(3, 2, 8),
        "value": torch.zeros(3, 2, 8),
        "key_cache": torch.zeros(2, 4, 2, 8).to(cache),
        "value_cache": torch.zeros(2, 4, 2, 8).to(cache),
        "slot_mapping": torch.tensor([5, -1]),
        "platform": "hip",
        "interleaved": False,
        **{"k_scale": None, "v_scale": None, **changed},
    }


def latent(dtype: torch.dtype = torch.float32, cache: torch.dtype = torch.float32, **changed: Any) -> dict[str, Any]:
    """Arguments of two latent tokens and a row of padding, of 8 and 4 columns."""
    return {
        "kv_c": torch.zeros(3, 8).to(dtype),
        "k_pe": torch.zeros(3, 4).to(dtype),
        "kv_cache": torch.zeros(2, 4, 12).to(cache),
        "slot_mapping": torch.tensor([5, -7]),
        "scale": None,
        "platform": "hip",
        **changed,
    }


def test_arguments_of_the_flash_writer(passed: list[dict[str, Any]]) -> None:
    """As many rows as slots; scales of other caches than FP8 do not reach it."""
    inputs = pair(k_scale=torch.tensor(2.0), v_scale=torch.tensor(3.0))

    reshape_and_cache.reshape_and_cache(**inputs)

    (call,) = passed
    assert (call["key"].shape, call["value"].shape) == ((2, 2, 8), (2, 2, 8))
    assert (call["k_scale"], call["v_scale"]) == (None, None)
    assert all(call[name] is inputs[name] for name in ("key_cache", "value_cache", "slot_mapping"))


def test_scales_of_the_flash_writer(passed: list[dict[str, Any]]) -> None:
    """Both are tensors for FP8 caches: a scale of K alone would make it take a key for V's."""
    with targeting("gfx942"):
        reshape_and_cache.reshape_and_cache(**pair(E4M3FNUZ, k_scale=torch.tensor(2.0)))

    (call,) = passed
    assert (float(call["k_scale"]), float(call["v_scale"])) == (2.0, 1.0)


def test_formats_that_sglang_has_not(passed: list[dict[str, Any]]) -> None:
    """They are refused before anything is launched."""
    with targeting("gfx942"):
        with pytest.raises(reshape_and_cache.Unsupported, match="on this GPU SGLang has float8_e4m3fnuz"):
            reshape_and_cache.reshape_and_cache(**pair(E4M3FN))
        with pytest.raises(set_mla_kv_buffer.Unsupported, match="on this GPU SGLang has float8_e4m3fnuz"):
            set_mla_kv_buffer.quantise(**latent(cache=E4M3FN))

    assert passed == []


def test_arguments_of_the_shuffling_writer(passed: list[dict[str, Any]]) -> None:
    """V is the same memory, [pages, heads, page size / x, width, x], and FP8 are bytes."""
    key_cache, value_cache = torch.zeros(3, 2, 2, 32, 16).to(E4M3FN), torch.zeros(3, 2, 32, 32).to(E4M3FN)
    rows: dict[str, Any] = {name: torch.zeros(3, 2, 32).to(E4M3FN) for name in ("key", "value")}

    reshape_and_cache_shuffle.reshape_and_cache(**pair(key_cache=key_cache, value_cache=value_cache, **rows))

    (call,) = passed
    assert call["value_cache"].shape == (3, 2, 2, 32, 16)
    assert call["value_cache"].is_contiguous()
    assert call["value_cache"].data_ptr() == value_cache.data_ptr()
    assert {call[name].dtype for name in ("key", "value", "key_cache", "value_cache")} == {torch.uint8}
    assert call["key"].shape == (2, 2, 32)


def test_packs_of_v_lie_where_the_op_has_them() -> None:
    """Element (page, head, token, column) of the view is that of the Op's formula."""
    value_cache = torch.arange(2 * 3 * 5 * 8).view(2, 3, 5, 8)
    view = reshape_and_cache_shuffle.shuffled(value_cache, 4)

    for token in range(8):
        for column in range(5):
            at = token // 4 * 5 * 4 + column * 4 + token % 4
            assert view[1, 2, token // 4, column, token % 4] == value_cache[1, 2].flatten()[at]


def test_arguments_of_the_latent_writer(passed: list[dict[str, Any]]) -> None:
    """Slots instead of pages, the reserved slot 0 for tokens that are not stored, and FP8 as bytes."""
    set_mla_kv_buffer.copy(**latent(E4M3FN, E4M3FN))

    (call,) = passed
    assert call["loc"].tolist() == [5, 0]
    assert call["kv_buffer"].shape == (8, 1, 12)
    assert (call["cache_k_nope"].shape, call["cache_k_rope"].shape) == ((2, 8), (2, 4))
    assert {call[name].dtype for name in ("kv_buffer", "cache_k_nope", "cache_k_rope")} == {torch.uint8}


def test_arguments_of_the_quantising_writer(passed: list[dict[str, Any]]) -> None:
    """The tokens as they are, and the format by which the bytes are to be read."""
    with targeting("gfx942"):
        set_mla_kv_buffer.quantise(**latent(torch.bfloat16, E4M3FNUZ))

    (call,) = passed
    assert (call["cache_k_nope"].dtype, call["kv_buffer"].dtype) == (torch.bfloat16, torch.uint8)
    assert call["fp8_dtype"] == E4M3FNUZ


def test_what_sglang_does_otherwise_on_nvidia(passed: list[dict[str, Any]]) -> None:
    """From sm_90 on it copies by a CUDA kernel, and it quantises on AMD alone."""
    with targeting("sm_90"), pytest.raises(set_mla_kv_buffer.Unsupported, match="by a CUDA kernel"):
        set_mla_kv_buffer.copy(**latent(platform="cuda"))
    with targeting("sm_80"), pytest.raises(set_mla_kv_buffer.Unsupported, match="on AMD alone"):
        set_mla_kv_buffer.quantise(**latent(cache=E4M3FN, platform="cuda"))
    with targeting("sm_80"):
        set_mla_kv_buffer.copy(**latent(platform="cuda"))

    assert len(passed) == 1


def test_release() -> None:
    """A case inside the domain of each kernel is clean, a token without a slot among them; division is as declared."""
    known = fetched("sglang")
    spec = EngineSpec()

    for name, fields in KERNELS.items():
        kernel = known.kernel(name)
        op = known.op(kernel.op)
        case = op.case(**fields)
        assert contains(op, case, Domain(target=spec.target, limits=kernel.limits)), name
        assert isinstance(examine(KernelRef(kernel=name), spec, case, known), Clean), name
    assert reshape_and_cache.rounding() == {"division": "approximate"}
