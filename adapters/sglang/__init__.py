"""SGLang's Triton kernels, whichever release is installed or was fetched.

`decode_attention`: the split-KV decode of MHA, GQA and MLA. `lean_decode_attention`: its variant with a persistent grid, for long
rows on AMD. `merge_attention_states`: the merge of two partial attentions. `reshape_and_cache`, `reshape_and_cache_shuffle`,
`set_mla_kv_buffer`: writers of KV caches. `upstream`: the package.
"""

from __future__ import annotations

from tridiff.adapters.sglang import (
    decode_attention,
    lean_decode_attention,
    merge_attention_states,
    reshape_and_cache,
    reshape_and_cache_shuffle,
    set_mla_kv_buffer,
)
from tridiff.adapters.sglang.upstream import SGLANG
from tridiff.harness.registry import Registry

FAMILIES = (
    decode_attention,
    lean_decode_attention,
    merge_attention_states,
    reshape_and_cache,
    reshape_and_cache_shuffle,
)


def register(registry: Registry) -> None:
    """Called by tridiff. Raises `UsageError` where there is no SGLang, or one whose launchers the adapter cannot call."""
    for family in FAMILIES:
        family.LAUNCHER.check()
        registry.register_kernel(family.KERNEL)
    for launcher in set_mla_kv_buffer.LAUNCHERS:
        launcher.check()
    for kernel in set_mla_kv_buffer.KERNELS:
        registry.register_kernel(kernel)
    registry.register_finder(SGLANG.find)
    registry.note(SGLANG.description)
