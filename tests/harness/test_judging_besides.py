"""Verdicts in a fuzz run: which cases the compilers are asked about besides the engine; all of them are pretended here."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from pretended_compiler import finding
from toy.strategies.scale import ScaleCase

from tridiff.harness.api import Clean, Found, Outcome, Skipped, Unsupported
from tridiff.harness.engines.spec import COMPILER, EngineSpec
from tridiff.harness.runner.judging import PLACEMENT, Judging

CASE, SPEC = ScaleCase(), EngineSpec(name="cpu", target="gfx1201")
WRONG = Found(finding=finding("scale", EngineSpec(name=COMPILER, target="gfx1201"), CASE, check="fp8_semantics"))
MISMATCH = Found(finding=finding("scale", SPEC, CASE, check="mismatch"))


class Answering:
    """An examiner with one answer, which keeps what it was asked."""

    def __init__(self, outcome: Outcome) -> None:
        self.outcome = outcome
        self.asked: list[EngineSpec] = []

    def examine(self, _ref: Any, spec: EngineSpec, *_: Any, **__: Any) -> Outcome:
        """The answer."""
        self.asked.append(spec)
        return self.outcome


@pytest.mark.parametrize(
    ("ran", "compiled", "expected"),
    [
        (Clean(ratio=0.5), WRONG, WRONG),
        (Unsupported(reason="a cast that is wrong here"), WRONG, WRONG),
        (Unsupported(reason="inline assembly"), Clean(ratio=0.0), Unsupported(reason="inline assembly")),
        (MISMATCH, WRONG, MISMATCH),
        (Skipped(reason="address space"), WRONG, Skipped(reason="address space")),
    ],
)
def test_what_is_compiled_besides(ran: Outcome, compiled: Outcome, expected: Outcome) -> None:
    """What is clean, and what the engine could not judge, such as a cast that it knows to be wrong."""
    compiler = Answering(compiled)
    registry: Any = SimpleNamespace(
        kernel=lambda _: SimpleNamespace(op="scale", limits={}), op=lambda _: SimpleNamespace(within=None)
    )
    examiner: Any = Judging(Answering(ran), {"gfx1201": compiler})  # type: ignore[arg-type, dict-item]  # Answering has of Examiner what is called
    ref: Any = SimpleNamespace(kernel="scale")

    outcome = examiner.examine(ref, SPEC, CASE, registry, shrinking=False, announce=print)

    wanted = EngineSpec(name=COMPILER, target="gfx1201", placement=PLACEMENT)
    assert outcome == expected
    assert compiler.asked == ([wanted] if isinstance(ran, Clean | Unsupported) else [])
