"""Precision: what Triton does to the float32 operands of a matrix product whose kernel does not say."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import torch
import triton
from triton.compiler.compiler import make_backend


def dot_precision(dtype: torch.dtype) -> str:
    """`rounding["dot_precision"]` of a plain `tl.dot` on operands of `dtype`, on this process's GPU, or pretended GPU.

    "tf32" for float32 where Triton's back end offers it, which it does for NVIDIA's parts and for gfx942: it is then the default
    (`tl.dot`, input_precision). Else "ieee".
    """
    return _default(triton.runtime.driver.active.get_current_target()) if dtype == torch.float32 else "ieee"


@lru_cache(maxsize=8)
def _default(target: Any) -> str:
    options = make_backend(target).parse_options({})
    return "tf32" if "tf32" in options.allowed_dot_input_precisions else "ieee"
