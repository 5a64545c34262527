"""A plug-in for tridiff: the Op `rms_norm`, and a kernel of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
import triton
import triton.language as tl
from hypothesis import strategies as st

from tridiff.harness.api import Arena, Domain, Inputs, Kernel, Op, gaussian, require_one_of, require_range, uniform
from tridiff.harness.registry import Registry

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


def rms_norm(*, x: torch.Tensor, weight: torch.Tensor, out: torch.Tensor, eps: float) -> None:
    """Write x / sqrt(mean(x^2) + eps) * weight to `out`, row by row; x and out are [rows, columns], columns adjacent."""
    rows, columns = x.shape
    block = triton.next_power_of_2(columns)
    _rms_norm[(rows,)](x, weight, out, x.stride(0), out.stride(0), columns, eps, block)


@triton.jit
def _rms_norm(x, weight, out, x_stride, out_stride, columns, eps, block: tl.constexpr):
    row = tl.program_id(0)
    at = tl.arange(0, block)
    live = at < columns
    values = tl.load(x + row * x_stride + at, mask=live, other=0.0).to(tl.float32)
    mean = tl.sum(values * values, axis=0) / block
    scaled = values * tl.rsqrt(mean + eps) * tl.load(weight + at, mask=live).to(tl.float32)
    tl.store(out + row * out_stride + at, scaled.to(out.dtype.element_ty), mask=live)


@dataclass(frozen=True, kw_only=True)
class RmsNormCase:
    """`rows` of `columns` numbers of `dtype`, with `gap` others behind each row, as in a slice of a wider tensor."""

    rows: int = 1
    columns: int = 1
    gap: int = 0
    dtype: str = "float32"
    seed: int = 0

    def __post_init__(self) -> None:
        """Raise `CaseError` for a field out of its range."""
        require_range("rows", self.rows, 1, 1000)
        require_range("columns", self.columns, 1, 8192)
        require_range("gap", self.gap, 0, 1000)
        require_one_of("dtype", self.dtype, DTYPES)


def cases(_domain: Domain) -> st.SearchStrategy[RmsNormCase]:
    """Cases over the whole contract."""
    return st.builds(
        RmsNormCase,
        rows=st.integers(1, 8),
        columns=st.integers(1, 300),
        gap=st.integers(0, 8),
        dtype=st.sampled_from(tuple(DTYPES)),
        seed=st.integers(0, 999),
    )


def presets(_domain: Domain) -> st.SearchStrategy[RmsNormCase]:
    """The widths of real models."""
    columns = st.sampled_from((2048, 4096, 5120, 7168, 8192))
    return st.builds(RmsNormCase, rows=st.integers(1, 4), columns=columns, dtype=st.just("bfloat16"), seed=st.integers(0, 999))


def build(case: RmsNormCase, arena: Arena) -> Inputs:
    """Build the launcher's keyword arguments."""
    shape, dtype = (case.rows, case.columns), DTYPES[case.dtype]
    strides = (case.columns + case.gap, 1)
    x = arena.tensor("x", shape, dtype, strides=strides)
    weight = arena.tensor("weight", shape[1:], dtype)
    return {
        "x": x.copy_(gaussian(case.seed, "x", shape)),
        "weight": weight.copy_(uniform(case.seed, "weight", shape[1:], 0.5, 1.5)),
        "out": arena.output("out", shape, dtype, strides=strides),
        "eps": 1e-6,
    }


def reference(inputs: Mapping[str, Any], _rounding: Mapping[str, Any]) -> dict[str, Any]:
    """The value in float64, and the most by which a right kernel may miss it."""
    x, weight, dtype = inputs["x"].double(), inputs["weight"].double(), inputs["out"].dtype
    value = x * torch.rsqrt((x * x).mean(dim=1, keepdim=True) + inputs["eps"]) * weight
    roundings = (x.shape[1] / 2 + 9) * 2.0**-24
    computed = roundings / (1 - roundings)
    stored = torch.finfo(dtype).eps / 2
    return {"outputs": {"out": (value, value.abs() * ((1 + computed) * (1 + stored) - 1))}, "conclusive": True}


OP = Op(name="rms_norm", case=RmsNormCase, strategy=cases, presets=presets, build=build)
KERNEL = Kernel(name="my_rms_norm", op="rms_norm", module=__name__, launcher="rms_norm")


def register(registry: Registry) -> None:
    """Called by tridiff."""
    registry.register_op(OP, reference)
    registry.register_kernel(KERNEL)
