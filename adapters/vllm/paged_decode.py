"""vLLM's decode over head-major caches, the Triton kernel behind `chunked_prefill_paged_decode`, as a kernel of our Op.

The driver launches it alone where no sequence has more than one query. Where a native kernel would be chosen it runs as well,
since there is none without vLLM's compiled operators.
"""

from __future__ import annotations

from typing import Any

import torch

from tridiff.adapters.importing import Launcher
from tridiff.adapters.vllm import readers
from tridiff.adapters.vllm.formats import Unsupported
from tridiff.adapters.vllm.readers import rounding
from tridiff.adapters.vllm.upstream import VLLM
from tridiff.harness.api import Kernel

__all__ = ["KERNELS", "LAUNCHER", "Unsupported", "paged_decode", "rounding"]

LAUNCHER = Launcher(
    VLLM,
    "vllm.v1.attention.ops.chunked_prefill_paged_decode",
    "chunked_prefill_paged_decode",
    passes=(
        *("query", "key", "value", "output", "kv_cache_dtype", "key_cache", "value_cache", "block_table", "query_start_loc"),
        *("seq_lens", "max_seq_len", "max_query_len", "k_scale", "v_scale", "alibi_slopes", "sliding_window", "sm_scale"),
        *("output_scale", "sinks", "use_interleaved_v_cache"),
    ),
)


def paged_decode(
    *,
    query: torch.Tensor,
    key_cache: torch.Tensor,
    value_cache: torch.Tensor,
    block_table: torch.Tensor,
    query_start_loc: torch.Tensor,
    seq_lens: torch.Tensor,
    output: torch.Tensor,
    sm_scale: float,
    k_scale: torch.Tensor | None,
    v_scale: torch.Tensor | None,
    alibi_slopes: torch.Tensor | None,
    sliding_window: int,
    sinks: torch.Tensor | None,
    output_scale: torch.Tensor | None,
    interleaved: bool,
    platform: str,  # noqa: ARG001 - vLLM asks the machine
) -> None:
    """Call vLLM's driver as for a batch of decodes, whose keys are all in the cache. `Unsupported`: see `readers.shared`."""
    caches: dict[str, Any] = {"key_cache": key_cache, "value_cache": value_cache, "k_scale": k_scale, "v_scale": v_scale}
    LAUNCHER(
        query=query,
        key=None,
        value=None,
        output=output,
        block_table=block_table,
        query_start_loc=query_start_loc,
        seq_lens=seq_lens,
        max_seq_len=int(seq_lens.max()) if len(seq_lens) else 0,
        max_query_len=1,
        alibi_slopes=alibi_slopes,
        sliding_window=sliding_window,
        sm_scale=sm_scale,
        output_scale=output_scale,
        sinks=sinks,
        use_interleaved_v_cache=interleaved,
        **readers.shared(query=query, output=output, **caches),
    )


KERNELS = (
    Kernel(
        name="vllm_paged_decode",
        op="paged_decode",
        module=__name__,
        launcher="paged_decode",
        rounding="rounding",
        unsupported="Unsupported",
        domain=(readers.PAGE_SIZES, readers.OUTPUT_DTYPES),
    ),
)
