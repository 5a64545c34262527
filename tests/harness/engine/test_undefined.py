"""Values that the language leaves open: what masked-off lanes hold, and that results which depend on it are findings."""

# mypy: allow-untyped-defs, allow-untyped-decorators

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import numpy as np
import pytest
import torch
import triton
import triton.language as tl
from toy.family import registry
from toy.strategies.scale import ScaleCase

from tridiff.harness.api import Arena, Clean, Found, Patch, Poison
from tridiff.harness.engines.cpu import formats, memory
from tridiff.harness.engines.spec import EngineSpec
from tridiff.harness.runner.examine import KernelRef, examine

Run = Callable[..., None]


@pytest.mark.parametrize("element", sorted(set(formats.COMPUTE) - {"index"}))
def test_undefined_values_differ_between_poisons(element: str) -> None:
    """Of every element type, in the representation that values of the type are held in, exactly."""
    loud, quiet = (memory.undefined(element, 3, poison) for poison in Poison)

    for value in (loud, quiet):
        assert value.shape == (1, 1, 1)
        assert value.dtype == formats.compute_dtype(element)
        assert np.array_equal(formats.decode(formats.encode(value, element), element), value, equal_nan=loud.dtype.kind == "f")
    assert loud.ravel()[0] != quiet.ravel()[0]
    if loud.dtype.kind == "f":
        assert np.isnan(loud).all()
        assert np.isfinite(quiet).all()


@triton.jit
def every_lane(x, out, n: tl.constexpr):
    """What lanes hold that a mask lets load nothing."""
    i = tl.arange(0, n)
    tl.store(out + i, tl.load(x + i, mask=i < 1))


@pytest.mark.operations("tt.load")
@pytest.mark.parametrize(
    "dtype",
    [
        torch.bool,
        torch.int8,
        torch.uint8,
        torch.int16,
        torch.int32,
        torch.int64,
        torch.float16,
        torch.bfloat16,
        torch.float32,
        torch.float64,
    ],
    ids=str,
)
def test_masked_off_lanes_differ_between_poisons(run: Run, dtype: torch.dtype) -> None:
    """A load without `other` gives every type another value under other poison; never what lies there."""
    results = []
    for poison in Poison:
        x, out = torch.zeros(2).to(dtype), torch.zeros(2).to(dtype)
        run(every_lane, (1,), x, out, 2, arena=Arena(poison))
        assert out[0] == 0
        results.append(out[1].item())

    assert results[0] != results[1]


NO_OTHER = ("mask=live, other=0.0)", "mask=live)")
SWALLOWED = Patch(
    old="tl.sum(values, axis=0)",
    # A maximum drops NaN, so only the run with a finite value there shows it.
    new="tl.sum(tl.where(live, values, 0.0), axis=0) + 0.01 * tl.minimum(tl.maximum(tl.max(values, axis=0), 8.0), 40.0) - 0.08",
)
CHOSEN = Patch(
    old="tl.sum(values, axis=0)",
    # An integer, whose sign decides.
    new="tl.sum(tl.where(live, values, 0.0), axis=0) + tl.where(tl.min(codes, axis=0) < -2000000000, 0.25, 0.0)",
)
CODES = Patch(
    old="    tl.store(out + row",
    new="    codes = tl.load((x + row * stride + at).to(tl.pointer_type(tl.int32)), mask=live)\n    tl.store(out + row",
)


@pytest.mark.parametrize(
    "patches", [(Patch(old=NO_OTHER[0], new=NO_OTHER[1]), SWALLOWED), (CODES, CHOSEN)], ids=["nan", "integer"]
)
def test_result_that_depends_on_masked_off_lanes(patches: tuple[Patch, ...]) -> None:
    """Even where the first run looks right, the second differs: a finding of `poison`, that names the output."""
    known = registry()
    fault = dataclasses.replace(known.fault("scale", "factor_off"), name="planted", patches=patches)
    known.register_fault(fault)
    case = ScaleCase(rows=2, columns=3)

    outcome = examine(KernelRef(kernel="scale", fault="planted"), EngineSpec(), case, known)

    assert isinstance(outcome, Found)
    assert outcome.finding.check == "poison"
    assert outcome.finding.message.startswith("total[0] depends on memory that must not influence it: ")


def test_masked_off_lanes_that_are_not_used() -> None:
    """A load without `other` is no finding by itself."""
    known = registry()
    patches = (Patch(old=NO_OTHER[0], new=NO_OTHER[1]), Patch(old="tl.sum(values", new="tl.sum(tl.where(live, values, 0.0)"))
    known.register_fault(dataclasses.replace(known.fault("scale", "factor_off"), name="planted", patches=patches))

    outcome = examine(KernelRef(kernel="scale", fault="planted"), EngineSpec(), ScaleCase(rows=2, columns=3), known)

    assert isinstance(outcome, Clean)
