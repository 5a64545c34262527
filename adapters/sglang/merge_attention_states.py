"""SGLang's merge of attention states, `merge_state_triton` of sglang/kernels/ops/attention/merge_state.py, as a kernel of our Op.

The AITER backend calls it, and on NVIDIA the others where their compiled kernels do not fit (layers/attention/merge_state.py).
"""

from __future__ import annotations

import torch

from tridiff.adapters.importing import Launcher
from tridiff.adapters.sglang.upstream import SGLANG
from tridiff.harness.api import Kernel, Restriction

LAUNCHER = Launcher(
    SGLANG,
    "sglang.kernels.ops.attention.merge_state",
    "merge_state_triton",
    passes=("prefix_output", "prefix_lse", "suffix_output", "suffix_lse", "output", "output_lse"),
)


def merge_attention_states(
    *,
    prefix_output: torch.Tensor,
    prefix_lse: torch.Tensor,
    suffix_output: torch.Tensor,
    suffix_lse: torch.Tensor,
    output: torch.Tensor,
    output_lse: torch.Tensor | None,
    **_: object,
) -> None:
    """Call SGLang's launcher."""
    LAUNCHER(
        prefix_output=prefix_output,
        prefix_lse=prefix_lse,
        suffix_output=suffix_output,
        suffix_lse=suffix_lse,
        output=output,
        output_lse=output_lse,
    )


_DENSE = (
    "the kernel's comments give all shapes as [tokens, heads, width] and no strides; its caller in aiter_backend.py says that it "
    "reads its inputs as contiguous"
)
DOMAIN = (
    *(
        Restriction(facet=f"{name}_layout", allowed=("packed",), reason=_DENSE)
        for name in ("prefix", "suffix", "output", "prefix_lse", "suffix_lse", "output_lse")
    ),
    Restriction(facet="far", allowed=("none",), reason=_DENSE),
    Restriction(facet="context", allowed=("all",), reason="there is no parameter for tokens without a prefix"),
    Restriction(
        facet="empty",
        allowed=("none", "prefix", "suffix"),
        reason="a token always has keys: its own is in the suffix (the callers, flashinfer_backend.py and aiter_backend.py)",
    ),
    Restriction(
        facet="empty_holds",
        allowed=("zeros",),
        reason="what FlashAttention and FlashInfer, whose outputs are merged, write for a row without keys is 0",
    ),
)

KERNEL = Kernel(
    name="sglang_merge_state",
    op="merge_attention_states",
    module=__name__,
    launcher="merge_attention_states",
    domain=DOMAIN,
)
