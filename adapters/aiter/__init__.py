"""AITER's kernels, whichever release is installed or was fetched.

`paged_attention_decode` and `unified_attention`: Triton kernels of decode attention. `mla_decode`: assembly, for a GPU alone.
`upstream`: the package.
"""

from __future__ import annotations

from tridiff.adapters.aiter import mla_decode, paged_attention_decode, unified_attention
from tridiff.adapters.aiter.upstream import AITER
from tridiff.harness.registry import Registry

FAMILIES = (paged_attention_decode, unified_attention)


def register(registry: Registry) -> None:
    """Called by tridiff. Raises `UsageError` where there is no AITER, or one whose launchers the adapter cannot call.

    Where the target is NVIDIA's, AITER cannot be imported; its kernels then refuse every Case.
    """
    for family in FAMILIES:
        if not registry.target.startswith("sm_"):
            family.LAUNCHER.check()
        registry.register_kernel(family.KERNEL)
    registry.register_kernel(mla_decode.KERNEL)
    registry.register_finder(AITER.find)
    registry.note(AITER.description)
