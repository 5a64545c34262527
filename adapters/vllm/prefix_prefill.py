"""vLLM's prefill of chunks, `context_attention_fwd` of vllm/v1/attention/ops/prefix_prefill.py, as kernels of our Op.

The launcher has a kernel for slopes of alibi and one for everything else.
"""

from __future__ import annotations

from typing import Any

from tridiff.adapters.head_major import PREFILL, WITHOUT_ALIBI, kernel, passed
from tridiff.adapters.importing import Launcher
from tridiff.adapters.vllm import readers
from tridiff.adapters.vllm.formats import Unsupported
from tridiff.adapters.vllm.readers import rounding
from tridiff.adapters.vllm.upstream import VLLM

__all__ = ["KERNELS", "LAUNCHER", "Unsupported", "prefix_prefill", "rounding"]

_NAMES = {**PREFILL, "fp8_out_scale": "output_scale", "sinks": "sinks", "causal": "causal"}

LAUNCHER = Launcher(
    VLLM,
    "vllm.v1.attention.ops.prefix_prefill",
    "context_attention_fwd",
    passes=(*_NAMES, "max_seq_len", "interleaved_v_pack_factor"),
)


def prefix_prefill(**inputs: Any) -> None:
    """Call vLLM's launcher. Raises `Unsupported`, see `readers.caches`."""
    LAUNCHER(
        max_seq_len=None,
        interleaved_v_pack_factor=16 // inputs["value_cache"].element_size() if inputs["interleaved"] else 0,
        **passed(_NAMES, inputs, **readers.caches(inputs)),
    )


KERNELS = (
    kernel(
        "vllm_prefix_prefill",
        op="prefix_prefill",
        module=__name__,
        domain=(readers.PAGE_SIZES, readers.OUTPUT_DTYPES, WITHOUT_ALIBI),
    ),
    kernel("vllm_prefix_prefill_alibi", op="prefix_prefill", module=__name__, domain=(readers.PAGE_SIZES, *readers.ALIBI)),
)
