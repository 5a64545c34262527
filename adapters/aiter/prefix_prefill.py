"""AITER's prefill of chunks, `context_attention_fwd` of aiter/ops/triton/pa_prefill.py, as kernels of our Op.

The launcher has a kernel for slopes of alibi and one for everything else.
"""

from __future__ import annotations

from typing import Any

from tridiff.adapters.aiter import readers
from tridiff.adapters.aiter.readers import rounding
from tridiff.adapters.aiter.upstream import AITER, Unsupported, require_hip
from tridiff.adapters.head_major import PREFILL, WITH_ALIBI, WITHOUT_ALIBI, kernel, passed
from tridiff.adapters.importing import Launcher

__all__ = ["KERNELS", "LAUNCHER", "Unsupported", "prefix_prefill", "rounding"]

LAUNCHER = Launcher(AITER, "aiter.ops.triton.pa_prefill", "context_attention_fwd", passes=tuple(PREFILL))


def prefix_prefill(**inputs: Any) -> None:
    """Call AITER's launcher. Raises `Unsupported` on NVIDIA."""
    require_hip(inputs["platform"])
    LAUNCHER(**passed(PREFILL, inputs, **readers.caches(inputs)))


KERNELS = (
    kernel("aiter_prefix_prefill", op="prefix_prefill", module=__name__, domain=(*readers.DOMAIN, WITHOUT_ALIBI)),
    kernel("aiter_prefix_prefill_alibi", op="prefix_prefill", module=__name__, domain=(*readers.DOMAIN, WITH_ALIBI)),
)
