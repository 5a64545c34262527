"""vLLM's prefill of chunks, `context_attention_fwd` of vllm/v1/attention/ops/prefix_prefill.py, as kernels of our Op.

The launcher has a kernel for slopes of alibi and one for everything else.
"""

from __future__ import annotations

from typing import Any

import torch

from tridiff.adapters.importing import Launcher
from tridiff.adapters.vllm import readers
from tridiff.adapters.vllm.formats import Unsupported
from tridiff.adapters.vllm.readers import rounding
from tridiff.adapters.vllm.upstream import VLLM
from tridiff.harness.api import Kernel, Restriction

__all__ = ["KERNELS", "LAUNCHER", "Unsupported", "prefix_prefill", "rounding"]

LAUNCHER = Launcher(
    VLLM,
    "vllm.v1.attention.ops.prefix_prefill",
    "context_attention_fwd",
    passes=(
        *("q", "k", "v", "o", "kv_cache_dtype", "k_cache", "v_cache", "b_loc", "b_start_loc", "b_seq_len", "max_seq_len"),
        *("max_input_len", "k_scale", "v_scale", "alibi_slopes", "sliding_window", "sm_scale", "skip_decode", "fp8_out_scale"),
        *("sinks", "interleaved_v_pack_factor", "causal"),
    ),
)


def prefix_prefill(
    *,
    query: torch.Tensor,
    key: torch.Tensor | None,
    value: torch.Tensor | None,
    output: torch.Tensor,
    key_cache: torch.Tensor,
    value_cache: torch.Tensor,
    block_table: torch.Tensor,
    query_start_loc: torch.Tensor,
    seq_lens: torch.Tensor,
    max_query_len: int,
    sm_scale: float,
    k_scale: torch.Tensor | None,
    v_scale: torch.Tensor | None,
    alibi_slopes: torch.Tensor | None,
    sliding_window: int,
    sinks: torch.Tensor | None,
    output_scale: torch.Tensor | None,
    interleaved: bool,
    causal: bool,
    skip_decode: bool,
    platform: str,  # noqa: ARG001 - vLLM asks the machine
) -> None:
    """Call vLLM's launcher. Raises `Unsupported`, see `readers.shared`."""
    caches: dict[str, Any] = {"key_cache": key_cache, "value_cache": value_cache, "k_scale": k_scale, "v_scale": v_scale}
    given = readers.shared(query=query, output=output, **caches)
    LAUNCHER(
        q=query,
        k=key,
        v=value,
        o=output,
        k_cache=given.pop("key_cache"),
        v_cache=given.pop("value_cache"),
        b_loc=block_table,
        b_start_loc=query_start_loc,
        b_seq_len=seq_lens,
        max_seq_len=None,
        max_input_len=max_query_len,
        alibi_slopes=alibi_slopes,
        sliding_window=sliding_window,
        sm_scale=sm_scale,
        skip_decode=skip_decode,
        fp8_out_scale=output_scale,
        sinks=sinks,
        interleaved_v_pack_factor=16 // value_cache.element_size() if interleaved else 0,
        causal=causal,
        **given,
    )


def _kernel(name: str, domain: tuple[Restriction, ...]) -> Kernel:
    return Kernel(
        name=name,
        op="prefix_prefill",
        module=__name__,
        launcher="prefix_prefill",
        rounding="rounding",
        unsupported="Unsupported",
        domain=(readers.PAGE_SIZES, *domain),
    )


KERNELS = (
    _kernel("vllm_prefix_prefill", (readers.OUTPUT_DTYPES, readers.WITHOUT_ALIBI)),
    _kernel("vllm_prefix_prefill_alibi", readers.ALIBI),
)
