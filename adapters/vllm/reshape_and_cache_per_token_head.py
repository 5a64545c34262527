"""vLLM's writer with a scale for each token and head, `triton_reshape_and_cache_flash_per_token_head_quant`.

It is in vllm/v1/attention/ops/triton_reshape_and_cache_flash.py; its caller is the backend TRITON_ATTN.
"""

from __future__ import annotations

import torch

from tridiff.adapters.importing import Launcher
from tridiff.adapters.stubs import VllmQuantMode, vllm_fp8_dtype
from tridiff.adapters.vllm.formats import PAGE_SIZES, Unsupported, check_format
from tridiff.adapters.vllm.upstream import VLLM
from tridiff.harness.api import Kernel, Restriction

__all__ = ["KERNELS", "LAUNCHER", "Unsupported", "reshape_and_cache_per_token_head", "rounding"]

LAUNCHER = Launcher(
    VLLM,
    "vllm.v1.attention.ops.triton_reshape_and_cache_flash",
    "triton_reshape_and_cache_flash_per_token_head_quant",
    passes=(*("key", "value", "key_cache", "value_cache", "k_scale_cache", "v_scale_cache", "slot_mapping", "kv_quant_mode"),),
)


def reshape_and_cache_per_token_head(
    *,
    key: torch.Tensor,
    value: torch.Tensor,
    key_cache: torch.Tensor,
    value_cache: torch.Tensor,
    k_scale_cache: torch.Tensor,
    v_scale_cache: torch.Tensor,
    slot_mapping: torch.Tensor,
    platform: str,  # noqa: ARG001 - vLLM asks the machine
) -> None:
    """Call vLLM's launcher. Raises `Unsupported` for codes of another FP8 format than the platform's."""
    check_format(key_cache.dtype)
    if key_cache.dtype not in {torch.int8, vllm_fp8_dtype()}:
        raise Unsupported(f"vLLM has scales per token and head of int8 and {vllm_fp8_dtype()}, not of {key_cache.dtype}")
    modes = {True: VllmQuantMode.INT8_PER_TOKEN_HEAD, False: VllmQuantMode.FP8_PER_TOKEN_HEAD}
    LAUNCHER(
        key=key,
        value=value,
        key_cache=key_cache,
        value_cache=value_cache,
        k_scale_cache=k_scale_cache,
        v_scale_cache=v_scale_cache,
        slot_mapping=slot_mapping,
        kv_quant_mode=modes[key_cache.dtype == torch.int8],
    )


def rounding(**_: object) -> dict[str, str]:
    """Where it rounds: `/` of Triton, which is no IEEE 754 division."""
    return {"division": "approximate"}


KERNELS = (
    Kernel(
        name="vllm_reshape_and_cache_per_token_head",
        op="reshape_and_cache_per_token_head",
        module=__name__,
        launcher="reshape_and_cache_per_token_head",
        rounding="rounding",
        unsupported="Unsupported",
        domain=(
            PAGE_SIZES,
            Restriction(
                facet="padding_rows",
                allowed=(0,),
                reason="gpu_model_runner.py: slot mappings must use padded dimensions to match the key/value tensors; the "
                "launcher asks for a slot of each of their rows.",
            ),
        ),
    ),
)
