"""SGLang's cache writer `launch_reshape_and_cache_flash` of sglang/kernels/ops/kvcache/cache_ops.py, as a kernel of our Op.

Its callers are the AITER backend (sglang/srt/layers/attention/aiter_backend.py), for FP8 caches and for sliding windows, and on
NVIDIA the pool whose pages are [heads, page size, width] (sglang/srt/mem_cache/memory_pool.py). The second mapping, of sliding
windows, is not used here.
"""

from __future__ import annotations

import torch

from tridiff.adapters.importing import Launcher
from tridiff.adapters.sglang.decode_attention import FP8_DTYPES, Unsupported, check_format
from tridiff.adapters.sglang.upstream import SGLANG
from tridiff.harness.api import Kernel, Restriction

__all__ = ["DOMAIN", "KERNEL", "LAUNCHER", "Unsupported", "reshape_and_cache", "rounding"]

LAUNCHER = Launcher(
    SGLANG,
    "sglang.kernels.ops.kvcache.cache_ops",
    "launch_reshape_and_cache_flash",
    passes=("key", "value", "key_cache", "value_cache", "slot_mapping", "k_scale", "v_scale"),
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
    platform: str,
    **_: object,
) -> None:
    """Call SGLang's launcher with as many rows as there are slots; scales where the caches are in FP8, and none elsewhere.

    Raises `Unsupported` for an FP8 format that SGLang has not on this GPU.
    """
    check_format(key_cache.dtype, platform)
    tokens, is_fp8 = slot_mapping.shape[0], key_cache.dtype in FP8_DTYPES
    LAUNCHER(
        key=key[:tokens],
        value=value[:tokens],
        key_cache=key_cache,
        value_cache=value_cache,
        slot_mapping=slot_mapping,
        k_scale=_scale(k_scale, key) if is_fp8 else None,
        v_scale=_scale(v_scale, key) if is_fp8 else None,
    )


def _scale(given: torch.Tensor | None, like: torch.Tensor) -> torch.Tensor:
    """A scale as its callers pass it: a tensor in any case."""
    return torch.ones(1, dtype=torch.float32, device=like.device) if given is None else given


def rounding(**_: object) -> dict[str, str]:
    """Where it rounds: Triton's `/`, which on NVIDIA may be off by two ulps."""
    return {"division": "approximate"}


TOKENS = Restriction(
    facet="num_tokens", allowed=range(1, 4097), reason="a forward pass without tokens does not reach the pools: a batch has some"
)
SLOTS = Restriction(
    facet="slot_dtype", allowed=("int64",), reason="out_cache_loc, the mapping of all callers, is int64 (mem_cache/allocator)"
)
NEAR = Restriction(
    facet="far",
    allowed=("none", "pages"),
    reason="callers give rows of one projection and the pool of a layer, whose tokens and heads are dense: pages alone are far",
)
DOMAIN = (
    TOKENS,
    SLOTS,
    NEAR,
    Restriction(facet="kind", allowed=("nhd",), reason="the docstring gives caches as [pages, page size, heads, width]"),
    Restriction(
        facet="widths",
        allowed=("equal",),
        reason="one head_size is taken, that of the keys; memory_pool.py asks for head_dim == v_head_dim before the call",
    ),
    Restriction(
        facet="row_strides",
        allowed=("dense",),
        reason="memory_pool.py asks for heads that are dense in a token, and aiter_backend.py views them so",
    ),
    Restriction(
        facet="dtype",
        allowed=("float32", "bfloat16", "float16"),
        reason="key and value are the model's activations; of what is FP8 already the kernel knows nothing",
    ),
    Restriction(
        facet="cache_dtype",
        allowed=("same", "float8_e4m3fn", "float8_e4m3fnuz", "float8_e5m2"),
        reason="set_kv_buffer casts to the pool's dtype before the call; only FP8 caches are written from wider tokens",
    ),
    Restriction(
        facet="overflow",
        allowed=("fits",),
        reason="nothing is clamped: what exceeds FP8 becomes what the GPU's conversion makes of it; scales are calibrated",
    ),
)

KERNEL = Kernel(
    name="sglang_reshape_and_cache_flash",
    op="reshape_and_cache",
    module=__name__,
    launcher="reshape_and_cache",
    rounding="rounding",
    unsupported="Unsupported",
    domain=DOMAIN,
)
