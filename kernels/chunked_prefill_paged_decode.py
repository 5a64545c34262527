"""A mixed batch over one paged cache: chunks of prompts are computed by `prefix_prefill`, single tokens by `paged_decode`.

`chunked_prefill_paged_decode` is the driver: it launches either kernel, or both, on the same output, of which each leaves the
other's rows alone. Which reader decodes, vLLM's native one or ours, is told by `native_choice`; ours runs in either case, in the
native one's place with the packed strides that it assumes.
"""

from __future__ import annotations

from typing import Any

import torch

from tridiff.kernels import prefix_prefill as prefill
from tridiff.kernels.arguments import require
from tridiff.kernels.native_choice import NATIVE, choose_reader, current_arch, packed
from tridiff.kernels.paged_arguments import Unsupported, check_numbers, check_tensors, refuse_formats
from tridiff.kernels.paged_decode import paged_decode

__all__ = ["KERNELS", "Unsupported", "chunked_prefill_paged_decode", "rounding"]

KERNELS = (
    {
        "name": "chunked_prefill_paged_decode",
        "op": "chunked_prefill_paged_decode",
        "launcher": "chunked_prefill_paged_decode",
        "rounding": "rounding",
        "unsupported": "Unsupported",
        "engines": ("cpu",),
    },
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
    platform: str,
    k_scale: torch.Tensor | None = None,
    v_scale: torch.Tensor | None = None,
    alibi_slopes: torch.Tensor | None = None,
    sliding_window: int = 0,
    sinks: torch.Tensor | None = None,
    output_scale: torch.Tensor | None = None,
    interleaved: bool = False,
    causal: bool = True,
    arch: str | None = None,
) -> None:
    """Attend from the queries of every sequence to its keys; write their rows of `output`.

    A sequence of one query is a decode, whose keys all lie in the caches, its own token's too: `paged_decode`. One of more is a
    chunk, whose own keys are rows of `key` and `value`, or lie in the caches where these are None: `prefix_prefill`. One of none
    is left alone.

    The arguments are those of `prefix_prefill`. `max_query_len`: at least the most queries of a sequence; up to 1 there are no
    chunks, and no prefill is launched. `causal`: of the chunks; a decode sees all its keys. `arch`: the GPU by which the reader
    is chosen, "gfx942", say; None for the one that Triton compiles for.
    Raises ValueError for what either kernel does not allow, and `Unsupported` where the GPU lacks an FP8 format.
    """
    caches: dict[str, Any] = {"key_cache": key_cache, "value_cache": value_cache}
    sequences = {"block_table": block_table, "query_start_loc": query_start_loc, "seq_lens": seq_lens}
    scales = {"k_scale": k_scale, "v_scale": v_scale, "output_scale": output_scale}
    extras = {"alibi_slopes": alibi_slopes, "sinks": sinks}
    check_tensors(
        {"query": query, "key": key, "value": value, "output": output, **caches, **sequences, **scales, **extras},
        interleaved=interleaved,
    )
    check_numbers(sm_scale, sliding_window, platform)
    require(max_query_len >= 0, f"{max_query_len=}: must be at least 0")
    require(causal or alibi_slopes is None, "alibi_slopes without causal: must be None")
    if seq_lens.shape[0] == 0:
        return
    refuse_formats(platform, key_cache, output)
    common: dict[str, Any] = {
        **{"query": query, "output": output, **sequences, **scales, **extras},
        **{"sm_scale": sm_scale, "sliding_window": sliding_window, "interleaved": interleaved, "platform": platform},
    }
    if max_query_len > 1:
        prefill.prefix_prefill(
            **common, **caches, key=key, value=value, max_query_len=max_query_len, causal=causal, skip_decode=True
        )
    reader = choose_reader(
        key_cache,
        value_cache,
        arch=arch or current_arch(),
        query_dtype=query.dtype,
        num_heads=query.shape[1],
        max_seq_len=block_table.shape[1] * key_cache.shape[3],
        sliding_window=sliding_window,
        has_alibi=alibi_slopes is not None,
        has_sinks=sinks is not None,
    )
    if reader == NATIVE:
        caches = {name: packed(cache) for name, cache in caches.items()}
    paged_decode(**common, **caches)


def rounding(*, query: torch.Tensor, max_query_len: int, platform: str, **_: object) -> dict[str, str | int]:
    """Where the kernels round, for the launcher's keyword arguments; both have tiles of as many keys."""
    return prefill.rounding(query=query, max_query_len=max_query_len, platform=platform)
