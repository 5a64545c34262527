"""vLLM's Triton kernels, whichever release is installed or was fetched.

`decode_attention`: the split-KV decode of MHA, GQA and MLA. `merge_attention_states`: the merge of two partial attentions.
`reshape_and_cache`, `reshape_and_cache_diffkv`, `reshape_and_cache_per_token_head`: the cache writers. `paged_decode`,
`prefix_prefill`, `chunked_prefill_paged_decode`: the readers of head-major caches, with `readers` for what they share.
`formats`: dtypes of caches. `upstream`: the package. vLLM has no Triton twin of `concat_and_cache_mla`: its writer is compiled,
and what Triton it has for latent caches does more than write (rotary embedding, norms).
"""

from __future__ import annotations

from tridiff.adapters.vllm import (
    chunked_prefill_paged_decode,
    decode_attention,
    merge_attention_states,
    paged_decode,
    prefix_prefill,
    reshape_and_cache,
    reshape_and_cache_diffkv,
    reshape_and_cache_per_token_head,
)
from tridiff.adapters.vllm.upstream import VLLM
from tridiff.harness.registry import Registry

FAMILIES = (
    decode_attention,
    merge_attention_states,
    reshape_and_cache,
    reshape_and_cache_diffkv,
    reshape_and_cache_per_token_head,
    paged_decode,
    prefix_prefill,
    chunked_prefill_paged_decode,
)


def register(registry: Registry) -> None:
    """Called by tridiff. Raises `UsageError` where there is no vLLM, or one whose launchers the adapter cannot call."""
    for family in FAMILIES:
        family.LAUNCHER.check()
        for kernel in family.KERNELS:
            registry.register_kernel(kernel)
    registry.register_finder(VLLM.find)
    registry.note(VLLM.description)
