"""vLLM's cache writer, `triton_reshape_and_cache_flash` of vllm/v1/attention/ops/triton_reshape_and_cache_flash.py.

Its callers are the backends TRITON_ATTN (triton_attn.py in vllm/v1/attention/backends), with caches [pages, positions, heads,
width], and ROCM_ATTN (rocm_attn.py), head-major, for pages that the native writer does not take. Each kind is a kernel here.
"""

from __future__ import annotations

import torch

from tridiff.adapters.importing import Launcher
from tridiff.adapters.vllm import formats
from tridiff.adapters.vllm.formats import DENSE_ROWS, EQUAL_STRIDES, EQUAL_WIDTHS, PAGE_SIZES, Unsupported
from tridiff.adapters.vllm.upstream import VLLM
from tridiff.harness.api import Kernel, Restriction

__all__ = ["KERNELS", "LAUNCHER", "Unsupported", "reshape_and_cache", "rounding"]

LAUNCHER = Launcher(
    VLLM,
    "vllm.v1.attention.ops.triton_reshape_and_cache_flash",
    "triton_reshape_and_cache_flash",
    passes=(
        *("key", "value", "key_cache", "value_cache", "slot_mapping", "kv_cache_dtype", "k_scale", "v_scale"),
        "interleaved_v_pack_factor",
    ),
)


def reshape_and_cache(
    *,
    key: torch.Tensor,
    value: torch.Tensor,
    key_cache: torch.Tensor,
    value_cache: torch.Tensor,
    slot_mapping: torch.Tensor,
    k_scale: torch.Tensor | None,
    v_scale: torch.Tensor | None,
    interleaved: bool,
    platform: str,  # noqa: ARG001 - vLLM asks the machine
) -> None:
    """Call vLLM's launcher, whose pack of interleaved values has 16 bytes. Raises `Unsupported` for formats that vLLM lacks."""
    formats.check_format(key_cache.dtype)
    formats.check_format(key.dtype)
    LAUNCHER(
        key=key,
        value=value,
        key_cache=key_cache,
        value_cache=value_cache,
        slot_mapping=slot_mapping,
        kv_cache_dtype=formats.cache_dtype(key_cache.dtype),
        k_scale=formats.scale_or_one(k_scale, key),
        v_scale=formats.scale_or_one(v_scale, key),
        interleaved_v_pack_factor=16 // value_cache.element_size() if interleaved else 0,
    )


def rounding(**_: object) -> dict[str, str]:
    """Where it rounds: `/` of Triton, which is no IEEE 754 division."""
    return {"division": "approximate"}


def _kernel(name: str, kinds: tuple[str, ...], other: str) -> Kernel:
    """The path of the launcher that caches of `kinds` take; a defect of one must not hide one of the other."""
    reason = f"The launcher's other branch is a kernel of its own here: {other}."
    return Kernel(
        name=name,
        op="reshape_and_cache",
        module=__name__,
        launcher="reshape_and_cache",
        rounding="rounding",
        unsupported="Unsupported",
        domain=(
            Restriction(facet="kind", allowed=kinds, reason=reason),
            formats.TOKEN_DTYPES,
            PAGE_SIZES,
            EQUAL_STRIDES,
            EQUAL_WIDTHS,
            DENSE_ROWS,
        ),
    )


NHD, HEAD_MAJOR = "vllm_reshape_and_cache_nhd", "vllm_reshape_and_cache_head_major"

KERNELS = (_kernel(NHD, ("nhd",), HEAD_MAJOR), _kernel(HEAD_MAJOR, ("head_major", "interleaved"), NHD))
