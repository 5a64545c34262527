"""vLLM's split-KV decode, `decode_attention_fwd` of vllm/v1/attention/ops/triton_decode_attention.py, as a kernel of our Op.

Its callers are the backends TRITON_MLA (vllm/v1/attention/backends/mla/triton_mla.py) and, for the verification of drafted
tokens on gfx942, ROCM_AITER_MLA (rocm_aiter_mla.py beside it). It has two paths, which its functions call *grouped*, with matrix
instructions, where heads share a KV head, and *normal* where each has its own.
"""

from __future__ import annotations

import torch

from tridiff.adapters.importing import Launcher
from tridiff.adapters.stubs import is_hip
from tridiff.adapters.vllm.upstream import VLLM
from tridiff.harness.api import Kernel, Restriction

LAUNCHER = Launcher(
    VLLM,
    "vllm.v1.attention.ops.triton_decode_attention",
    "decode_attention_fwd",
    passes=(
        *("q", "k_buffer", "v_buffer", "o", "lse", "req_to_token", "b_seq_len", "attn_logits", "num_kv_splits", "sm_scale"),
        *("page_size", "logit_cap", "k_scale", "v_scale", "is_mla"),
    ),
)


FP8_SINCE = (8, 9)
"""The compute capability that TritonMLAImpl in triton_mla.py asks for before it takes FP8 caches on NVIDIA."""


class Unsupported(NotImplementedError):
    """The GPU lacks the caches' FP8 format, which vLLM's backend refuses before it calls the launcher."""


def decode_attention(
    *,
    query: torch.Tensor,
    key_cache: torch.Tensor,
    value_cache: torch.Tensor,
    block_table: torch.Tensor,
    seq_lens: torch.Tensor,
    output: torch.Tensor,
    lse: torch.Tensor,
    sm_scale: float,
    logit_cap: float,
    page_size: int,
    num_kv_splits: int,
    k_scale: torch.Tensor | None,
    v_scale: torch.Tensor | None,
    is_mla: bool,
    platform: str,  # noqa: ARG001 - vLLM asks the machine
) -> None:
    """Call vLLM's launcher; the scratch of its first phase is not initialised, as in TRITON_MLA.

    One row of it holds a split's partial output, and behind that its log-sum-exp. Raises `Unsupported` where vLLM refuses.
    """
    _check_format(key_cache.dtype)
    sizes = (*query.shape[:2], num_kv_splits, value_cache.shape[-1] + 1)
    LAUNCHER(
        q=query,
        k_buffer=key_cache,
        v_buffer=value_cache,
        o=output,
        lse=lse,
        req_to_token=block_table,
        b_seq_len=seq_lens,
        attn_logits=torch.empty(sizes, dtype=torch.float32, device=query.device),
        num_kv_splits=num_kv_splits,
        sm_scale=sm_scale,
        page_size=page_size,
        logit_cap=logit_cap,
        k_scale=k_scale,
        v_scale=v_scale,
        is_mla=is_mla,
    )


def _check_format(dtype: torch.dtype) -> None:
    """Refuse FP8 caches where TritonMLAImpl does, and the format that no vLLM on NVIDIA has: its FP8 type is e4m3fn there."""
    if dtype.itemsize > 1 or is_hip():
        return
    if torch.cuda.get_device_capability() < FP8_SINCE:
        raise Unsupported("TritonMLAImpl takes FP8 caches from compute capability 8.9 on: use caches of bfloat16 or float16")
    if dtype != torch.float8_e4m3fn:
        raise Unsupported(f"vLLM's FP8 type is float8_e4m3fn on NVIDIA, not {dtype}: convert the caches")


def rounding(
    *, query: torch.Tensor, value_cache: torch.Tensor, num_kv_splits: int, platform: str, **_: object
) -> dict[str, str | int]:
    """Where it rounds: the grouped path rounds its weights to V's dtype; FP8 becomes the query's dtype. Sums are float32."""
    dtype = str(query.dtype).removeprefix("torch.")
    is_normal = query.shape[1] == value_cache.shape[-2]
    keys = {("hip", True): 8, ("cuda", True): 64, ("hip", False): 16, ("cuda", False): 32}
    return {
        "p_dtype": "float32" if is_normal else dtype,
        "dequantised": dtype,
        "block_n": keys[platform, is_normal],
        "num_kv_splits": num_kv_splits,
        "dot_precision": "ieee",
    }


_COMMON = (
    Restriction(
        facet="dtype",
        allowed=("bfloat16", "float16"),
        reason="TritonMLABackend.supported_dtypes in triton_mla.py names these two, and no other backend calls it.",
    ),
    Restriction(
        facet="cache_dtype",
        allowed=("same", "float8_e4m3fn", "float8_e4m3fnuz"),
        reason="TritonMLABackend.supported_kv_cache_dtypes in triton_mla.py has fp8_e4m3 and fp8, which is the same.",
    ),
    Restriction(
        facet="seq_lens",
        allowed=range(1, 2**20 + 1),
        reason="rocm_aiter_mla.py documents that a row without keys comes back as NaN, which its callers never read.",
    ),
)


def _kernel(name: str, group_sizes: range, other: str) -> Kernel:
    """The path of the launcher that heads in groups of `group_sizes` take; a defect of one must not hide one of the other."""
    reason = f"The launcher computes other groups on another path, which is a kernel of its own here: {other}."
    return Kernel(
        name=name,
        op="decode_attention",
        module=__name__,
        launcher="decode_attention",
        rounding="rounding",
        unsupported="Unsupported",
        domain=(Restriction(facet="group_size", allowed=group_sizes, reason=reason), *_COMMON),
    )


GROUPED, NORMAL = "vllm_decode_attention_grouped", "vllm_decode_attention_normal"

KERNELS = (_kernel(GROUPED, range(2, 1025), NORMAL), _kernel(NORMAL, range(1, 2), GROUPED))
