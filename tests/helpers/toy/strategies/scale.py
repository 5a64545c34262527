"""The toy Op `scale`: rows of numbers times a factor, and the sum of each row."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from hypothesis import strategies as st

from tridiff.harness.api import Arena, Domain, Inputs, Op, Property, gaussian, require_range


@dataclass(frozen=True, kw_only=True)
class ScaleCase:
    """`rows` of `columns` numbers, with `gap` unused ones behind each row, times `factor`."""

    rows: int = 1
    columns: int = 1
    gap: int = 0
    factor: float = 1.0
    seed: int = 0
    preset: bool = False

    def __post_init__(self) -> None:
        """Raise `CaseError` for a field out of its range."""
        require_range("rows", self.rows, 1, 1000)
        require_range("columns", self.columns, 1, 1000)


def cases(_domain: Domain) -> st.SearchStrategy[ScaleCase]:
    """Cases over the whole contract; the smallest is `ScaleCase()`."""
    factors = st.sampled_from((1.0, 2.0, -0.5))
    return st.builds(
        ScaleCase,
        rows=st.integers(1, 4),
        columns=st.integers(1, 20),
        gap=st.integers(0, 3),
        factor=factors,
        seed=st.integers(0, 7),
    )


def presets(_domain: Domain) -> st.SearchStrategy[ScaleCase]:
    """Two rows of 8 or 16 columns."""
    columns = st.sampled_from((8, 16))
    return st.builds(ScaleCase, rows=st.just(2), columns=columns, seed=st.integers(0, 99), preset=st.sampled_from((True,)))


def build(case: ScaleCase, arena: Arena) -> Inputs:
    """Build the launcher's keyword arguments."""
    shape, strides = (case.rows, case.columns), (case.columns + case.gap, 1)
    x = arena.tensor("x", shape, torch.float32, strides=strides)
    return {
        "x": x.copy_(gaussian(case.seed, "x", shape)),
        "out": arena.output("out", shape, torch.float32, strides=strides),
        "total": arena.output("total", shape[:1], torch.float32),
        "factor": case.factor,
    }


OP = Op(
    name="scale",
    case=ScaleCase,
    strategy=cases,
    presets=presets,
    build=build,
    models={"Toy": ("Toy TP1",)},
    properties={
        "rows": Property(lambda case: "one" if case.rows == 1 else "several", ("one", "several")),
        "gap": lambda case: "a gap" if case.gap else "none",
    },
)
