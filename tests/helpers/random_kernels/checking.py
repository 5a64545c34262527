"""Runs a random kernel on the cpu engine, compares every output with the evaluation, and says where they part."""

from __future__ import annotations

import hashlib
import importlib.util
import linecache
import math
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from fractions import Fraction
from pathlib import Path
from typing import Any
from unittest import mock

import torch

from random_kernels import numbers
from random_kernels.content import content
from random_kernels.evaluate import Approximate, Lane, evaluate
from random_kernels.printing import source
from random_kernels.tree import Array, Kernel
from tridiff.harness.api import Arena
from tridiff.harness.engines.cpu import ttir
from tridiff.harness.engines.cpu.engine import CpuEngine
from tridiff.harness.engines.cpu.ir import Operation
from tridiff.harness.engines.cpu.mlir import parse
from tridiff.harness.engines.spec import EngineSpec


class Mismatch(AssertionError):
    """The engine and the evaluation disagree, or the engine failed; the message holds all that is needed to see why."""


def check(kernel: Kernel, folder: Path) -> None:
    """Run `kernel` (its source goes to `folder`) and raise `Mismatch` at the first element that differs."""
    text = source(kernel)
    expected = evaluate(kernel)
    tensors = {array.name: tensor(array) for array in kernel.arrays}
    try:
        _run(kernel, text, tensors, folder)
    except Exception as error:
        raise Mismatch(f"{type(error).__name__}: {error}\n{described(kernel, text)}") from error
    for array in kernel.arrays:
        if array.output:
            _compare(array, tensors[array.name], expected[array.name], kernel, text)


def tensor(array: Array) -> torch.Tensor:
    """The tensor argument, made from bytes."""
    raw = b"".join(numbers.encode(array.kind, value) for value in content(array))
    dtype = torch.bool if array.kind == "int1" else getattr(torch, array.kind)
    return torch.frombuffer(bytearray(raw), dtype=dtype).clone()  # the clone is aligned like any tensor


def _elements(array: Array, result: torch.Tensor) -> list[numbers.Number]:
    raw = bytes(result.view(torch.uint8).numpy())
    step = numbers.size(array.kind)
    return [numbers.decode(array.kind, raw[at : at + step]) for at in range(0, len(raw), step)]


def _run(kernel: Kernel, text: str, tensors: dict[str, torch.Tensor], folder: Path) -> None:
    path = folder / f"kernel_{hashlib.sha256(text.encode()).hexdigest()[:16]}.py"
    path.write_text(text, encoding="utf-8")
    try:
        function = _imported(path)
        arguments = {**tensors, **{scalar.name: scalar.value for scalar in kernel.scalars if not scalar.default}}

        def launcher() -> None:
            function[kernel.grid](**arguments)

        CpuEngine(EngineSpec()).run(launcher, {}, Arena())
    finally:
        path.unlink()
        linecache.cache.pop(str(path), None)


def _imported(path: Path) -> Any:
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    # No bytecode: nothing is imported twice.
    exec(compile(path.read_text(encoding="utf-8"), str(path), "exec"), module.__dict__)  # noqa: S102 - we wrote it
    return module.__dict__["kernel"]


def _compare(array: Array, result: torch.Tensor, expected: list[Lane], kernel: Kernel, text: str) -> None:
    for at, (got, wanted) in enumerate(zip(_elements(array, result), expected, strict=True)):
        if not _agrees(array.kind, got, wanted):
            where = f"{array.name}[{at}] of {array.length} ({array.kind})"
            raise Mismatch(
                f"{where}: the engine gives {_shown(array.kind, got)}, expected {_shown(array.kind, wanted)}\n"
                f"{described(kernel, text)}"
            )


def _agrees(kind: str, got: numbers.Number, wanted: Lane) -> bool:
    if wanted is None:
        return True
    if not isinstance(wanted, Approximate):
        return numbers.same(kind, got, wanted)
    if wanted.exact is None:
        return True
    return math.isfinite(got) and abs(Fraction(got) - wanted.exact) <= wanted.bound


def _shown(kind: str, value: Lane) -> str:
    if isinstance(value, Approximate):
        return f"{float(value.exact or 0)!r} within {float(value.bound)!r}"
    if value is None:
        return "anything"
    raw = numbers.encode(kind, value)[::-1].hex()
    return f"{value!r} (0x{raw})"


def described(kernel: Kernel, text: str) -> str:
    """Source and inputs."""
    lines = [text, f"grid: {kernel.grid}"]
    lines += [f"{scalar.name} = {scalar.value}" for scalar in kernel.scalars]
    for array in kernel.arrays:
        shown = "zeros" if array.flavour == "zeros" else str(content(array))
        lines.append(f"{array.name}: {array.kind}[{array.length}] = {shown}")
    return "\n".join(lines)


@contextmanager
def counting_operations(counts: Counter[str]) -> Iterator[None]:
    """Within this context `counts` counts, per operation name, the kernels whose TTIR contains it."""

    def counted(text: str) -> Operation:
        module = parse(text)
        counts.update(set(_names(module)))
        return module

    with mock.patch.object(ttir, "parse", counted):
        yield


def _names(operation: Operation) -> Iterator[str]:
    yield operation.name
    for region in operation.regions:
        for block in region.blocks:
            for inner in block.operations:
                yield from _names(inner)
