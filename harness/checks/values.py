"""Checks of the outputs against the reference, and of their independence from poison."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch

from tridiff.harness.api import RAW, Arena, Expected, Failure, Verdict

RATIO_LIMIT = 1e6
"""Ratios are clamped to this, so that they stay finite in reports."""


def check_values(verdict: Verdict, outputs: Mapping[str, torch.Tensor]) -> Iterator[Failure]:
    """`nan` and `mismatch`, one each at most: the worst element of the first output concerned."""
    for check, judge in (("nan", _nan), ("mismatch", _mismatch)):
        for name, expected in verdict.outputs.items():
            message = judge(name, expected, judged_part(expected, outputs[name]))
            if message is not None:
                yield Failure(check=check, message=message)
                break


def worst_ratio(verdict: Verdict, outputs: Mapping[str, torch.Tensor]) -> float:
    """The largest |output - reference| / bound over all elements, clamped to `RATIO_LIMIT`."""
    ratios = [ratio(expected, judged_part(expected, outputs[name])) for name, expected in verdict.outputs.items()]
    return max((float(r.max()) for r in ratios if r.numel()), default=0.0)


def judged_part(expected: Expected, output: torch.Tensor) -> torch.Tensor:
    """The elements of which `expected` speaks, float64."""
    if expected.at is None:
        return output.to(torch.float64)
    raw = output.view(RAW[output.element_size()])  # torch takes no elements out of FP8 tensors
    return raw[expected.at].view(output.dtype).to(torch.float64)


def ratio(expected: Expected, actual: torch.Tensor) -> torch.Tensor:
    """|actual - value| / bound elementwise, `RATIO_LIMIT` at most.

    0 where they are equal (infinities and NaN included), and where the bound is infinite: there a right kernel may overflow.
    Where zeros have signs (`Expected.signed_zeros`), a wrong one is as far off as any other number.
    """
    error = (actual - expected.value).abs()
    equal = (actual == expected.value) | (actual.isnan() & expected.value.isnan())
    if expected.signed_zeros:
        swapped = (actual == 0) & equal & (actual.signbit() != expected.value.signbit()) & (expected.bound == 0)
        equal, error = equal & ~swapped, error.masked_fill(swapped, torch.inf)
    at_ease = equal | (torch.isinf(expected.bound) & torch.isfinite(expected.value))
    quotient = torch.where(at_ease, 0.0, error / expected.bound)
    return torch.nan_to_num(quotient, nan=RATIO_LIMIT, posinf=RATIO_LIMIT).clamp(max=RATIO_LIMIT)


def check_poison(loud: Arena, quiet: Arena) -> Iterator[Failure]:
    """`poison`: what a second run wrote, over memory in which only the poison differs, must have the same bits."""
    for first, second in zip(loud, quiet, strict=True):
        cells = first.writable
        differing = cells[first.raw[cells] != second.raw[cells]]
        if differing.size:
            cell = int(differing[0])
            yield Failure(
                check="poison",
                message=f"{first.locate(cell)} depends on memory that must not influence it: "
                f"{first.storage[cell].item():g} with NaN there, {second.storage[cell].item():g} with a finite value there",
            )
            return


def _nan(name: str, expected: Expected, actual: torch.Tensor) -> str | None:
    bad = ~torch.isfinite(actual) & torch.isfinite(expected.value) & torch.isfinite(expected.bound)
    if not bool(bad.any()):
        return None
    index = _first(bad)
    return f"{_element(name, index, expected)} is {_at(actual, index):g}, expected {_at(expected.value, index):.6g}{_more(bad)}"


def _mismatch(name: str, expected: Expected, actual: torch.Tensor) -> str | None:
    ratios = ratio(expected, actual)
    # Not finite where the reference is: that is `nan`.
    ratios = torch.where(~torch.isfinite(actual) & torch.isfinite(expected.value), 0.0, ratios)
    if ratios.numel() == 0 or float(ratios.max()) <= 1.0:
        return None
    index = _index(int(ratios.argmax()), ratios.shape)
    more_than = "more than " if _at(ratios, index) >= RATIO_LIMIT else ""
    return (
        f"{_element(name, index, expected)} is {_at(actual, index):.6g}, expected {_at(expected.value, index):.6g}: "
        f"{more_than}{_at(ratios, index):.3g} times the error bound {_at(expected.bound, index):.3g}{_more(ratios > 1.0)}"
    )


def _more(bad: torch.Tensor) -> str:
    count = int(bad.sum())
    return f" ({count} of {bad.numel()} elements)" if count > 1 else ""


def _first(mask: torch.Tensor) -> tuple[int, ...]:
    return _index(int(mask.flatten().to(torch.int8).argmax()), mask.shape)


def _index(flat: int, shape: torch.Size) -> tuple[int, ...]:
    index = []
    for size in reversed(shape):
        index.append(flat % size)
        flat //= size
    return tuple(reversed(index))


def _element(name: str, index: tuple[int, ...], expected: Expected) -> str:
    if expected.at is not None:
        index = tuple(int(part[index]) for part in torch.broadcast_tensors(*expected.at))
    return f"{name}[{', '.join(map(str, index))}]"


def _at(tensor: torch.Tensor, index: tuple[int, ...]) -> Any:
    return tensor[index].item()
