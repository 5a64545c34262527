"""What `context_attention_fwd` and `chunked_prefill_paged_decode` take in vLLM and in AITER.

Both read head-major paged caches, and have one origin: LightLLM the former, vLLM the latter. Each package adds what only its own
release knows: formats, scales, further parameters.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from tridiff.adapters.precision import dot_precision
from tridiff.harness.api import Kernel, Restriction

_ALIKE = ("alibi_slopes", "sliding_window", "sm_scale", "kv_cache_dtype", "k_scale", "v_scale")

PREFILL: Mapping[str, str] = {
    **{"q": "query", "k": "key", "v": "value", "o": "output", "k_cache": "key_cache", "v_cache": "value_cache"},
    **{"b_loc": "block_table", "b_start_loc": "query_start_loc", "b_seq_len": "seq_lens", "max_input_len": "max_query_len"},
    **{name: name for name in (*_ALIKE, "skip_decode")},
}
"""Parameters of `context_attention_fwd`, each with the name that our Op has for it. `kv_cache_dtype`: see `passed`."""

DRIVER: Mapping[str, str] = {
    name: name
    for name in (
        *("query", "key", "value", "output", "key_cache", "value_cache", "block_table", "query_start_loc", "seq_lens"),
        *("max_query_len", *_ALIKE),
    )
}
"""Those of `chunked_prefill_paged_decode`, likewise."""


def passed(names: Mapping[str, str], inputs: Mapping[str, Any], **replaced: Any) -> dict[str, Any]:
    """What is passed under each of `names`: the Op's inputs, or what `replaced` has instead or besides, as `kv_cache_dtype`."""
    given = {**inputs, **replaced}
    return {parameter: given[name] for parameter, name in names.items()}


def rounding(dtype: torch.dtype, *, tile: int) -> dict[str, str | int]:
    """Where these round for queries of `dtype`: weights, and FP8 once dequantised, to it; float32 products as Triton does.

    `tile`: keys per tile.
    """
    name = str(dtype).removeprefix("torch.")
    return {"p_dtype": name, "dequantised": name, "block_n": tile, "num_kv_splits": 1, "dot_precision": dot_precision(dtype)}


def kernel(name: str, *, op: str, module: str, domain: tuple[Restriction, ...]) -> Kernel:
    """The kernel `name` of `op`, whose launcher in `module` has the Op's name."""
    return Kernel(name=name, op=op, module=module, launcher=op, rounding="rounding", unsupported="Unsupported", domain=domain)


WITHOUT_ALIBI = Restriction(
    facet="alibi", allowed=("none",), reason="With slopes the launcher takes another kernel, which has a name of its own here."
)
WITH_ALIBI = Restriction(
    facet="alibi",
    allowed=("standard", "steep"),
    reason="Without slopes the launcher takes another kernel, with another name here.",
)
