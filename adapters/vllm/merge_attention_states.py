"""vLLM's merge of attention states, `merge_attn_states` of triton_merge_attn_states.py, as a kernel of our Op.

merge_attn_states.py beside it in vllm/v1/attention/ops calls it where vLLM's CUDA and HIP kernel does not do: on gfx90a and RDNA,
and for widths of a head that are no multiple of 16 bytes. The documentation of that function is the contract.
"""

from __future__ import annotations

import torch

from tridiff.adapters.importing import Launcher
from tridiff.adapters.vllm.upstream import VLLM
from tridiff.harness.api import Kernel, Restriction

LAUNCHER = Launcher(
    VLLM,
    "vllm.v1.attention.ops.triton_merge_attn_states",
    "merge_attn_states",
    passes=(
        *("output", "prefix_output", "prefix_lse", "suffix_output", "suffix_lse", "output_lse"),
        "prefill_tokens_with_context",
    ),
)


def merge_attention_states(
    *,
    prefix_output: torch.Tensor,
    prefix_lse: torch.Tensor,
    suffix_output: torch.Tensor,
    suffix_lse: torch.Tensor,
    output: torch.Tensor,
    output_lse: torch.Tensor | None,
    tokens_with_context: int,
    platform: str,  # noqa: ARG001 - vLLM asks the machine
) -> None:
    """Call vLLM's launcher, which takes log-sum-exps as [H, T]."""
    LAUNCHER(
        output=output,
        prefix_output=prefix_output,
        prefix_lse=prefix_lse.T,
        suffix_output=suffix_output,
        suffix_lse=suffix_lse.T,
        output_lse=None if output_lse is None else output_lse.T,
        prefill_tokens_with_context=tokens_with_context,
    )


_PACKED = "The launcher takes the stride of a head alone, and a token for as long as its heads: its comments know padded heads."

DOMAIN = (
    Restriction(
        facet="strides",
        allowed=("alike",),
        reason="merge_attn_states.py documents and asserts that the suffix has the head stride of the prefix.",
    ),
    *(Restriction(facet=f"{name}_token_stride", allowed=("packed",), reason=_PACKED) for name in ("prefix", "suffix", "output")),
    Restriction(
        facet="empty_holds",
        allowed=("zeros",),
        reason="The kernel's comments take both sides from FlashAttention, which writes zeros into rows without keys.",
    ),
)

KERNELS = (
    Kernel(
        name="vllm_merge_attn_states",
        op="merge_attention_states",
        module=__name__,
        launcher="merge_attention_states",
        domain=DOMAIN,
    ),
)
