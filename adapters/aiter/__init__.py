"""AITER's kernels, whichever release is installed or was fetched.

`paged_attention_decode` and `unified_attention`: Triton kernels of decode attention. `prefix_prefill` and
`chunked_prefill_paged_decode`: readers of head-major caches, with `readers` for what they share. `mla_decode`: assembly, for GPUs
alone. `upstream`: the package. AITER has no Triton twin of a cache writer: its writers are compiled, and what Triton it has for
them applies rotary embeddings as well.
"""

from __future__ import annotations

from tridiff.adapters.aiter import (
    chunked_prefill_paged_decode,
    mla_decode,
    paged_attention_decode,
    prefix_prefill,
    unified_attention,
)
from tridiff.adapters.aiter.upstream import AITER
from tridiff.harness.registry import Registry

FAMILIES = (paged_attention_decode, unified_attention, prefix_prefill, chunked_prefill_paged_decode)


def register(registry: Registry) -> None:
    """Called by tridiff. Raises `UsageError` where there is no AITER, or one whose launchers the adapter cannot call.

    Where the target is NVIDIA's, AITER cannot be imported; its kernels then refuse every Case.
    """
    for family in FAMILIES:
        if not registry.target.startswith("sm_"):
            family.LAUNCHER.check()
        for kernel in family.KERNELS:
            registry.register_kernel(kernel)
    registry.register_kernel(mla_decode.KERNEL)
    registry.register_finder(AITER.find)
    registry.note(AITER.description)
