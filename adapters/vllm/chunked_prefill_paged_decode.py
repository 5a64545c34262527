"""vLLM's driver of chunks beside decodes, `chunked_prefill_paged_decode` of the module of that name in vllm/v1/attention/ops.

With slopes of alibi it has another kernel for chunks, and so another name here.
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

__all__ = ["KERNELS", "LAUNCHER", "Unsupported", "chunked_prefill_paged_decode", "rounding"]

LAUNCHER = Launcher(
    VLLM,
    "vllm.v1.attention.ops.chunked_prefill_paged_decode",
    "chunked_prefill_paged_decode",
    passes=(
        *("query", "key", "value", "output", "kv_cache_dtype", "key_cache", "value_cache", "block_table", "query_start_loc"),
        *("seq_lens", "max_seq_len", "max_query_len", "k_scale", "v_scale", "alibi_slopes", "sliding_window", "sm_scale"),
        *("output_scale", "sinks", "use_interleaved_v_cache", "causal"),
    ),
)


def chunked_prefill_paged_decode(
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
    platform: str,  # noqa: ARG001 - vLLM asks the machine
    **_: object,
) -> None:
    """Call vLLM's driver. Raises `Unsupported`, see `readers.shared`."""
    caches: dict[str, Any] = {"key_cache": key_cache, "value_cache": value_cache, "k_scale": k_scale, "v_scale": v_scale}
    LAUNCHER(
        query=query,
        key=key,
        value=value,
        output=output,
        block_table=block_table,
        query_start_loc=query_start_loc,
        seq_lens=seq_lens,
        max_seq_len=int(seq_lens.max()) if len(seq_lens) else 0,
        max_query_len=max_query_len,
        alibi_slopes=alibi_slopes,
        sliding_window=sliding_window,
        sm_scale=sm_scale,
        output_scale=output_scale,
        sinks=sinks,
        use_interleaved_v_cache=interleaved,
        causal=causal,
        **readers.shared(query=query, output=output, **caches),
    )


def _kernel(name: str, domain: tuple[Restriction, ...]) -> Kernel:
    return Kernel(
        name=name,
        op="chunked_prefill_paged_decode",
        module=__name__,
        launcher="chunked_prefill_paged_decode",
        rounding="rounding",
        unsupported="Unsupported",
        domain=(readers.PAGE_SIZES, *domain),
    )


KERNELS = (
    _kernel("vllm_chunked_prefill_paged_decode", (readers.OUTPUT_DTYPES, readers.WITHOUT_ALIBI)),
    _kernel("vllm_chunked_prefill_paged_decode_alibi", readers.ALIBI),
)
