"""Figures as they are shown; light to import, as every pytest run does."""

from __future__ import annotations

from decimal import ROUND_FLOOR, Decimal


def ratio(value: float) -> str:
    """The ratio of an error to its bound with three decimals, rounded down: what is below 1, no finding, is not shown as 1."""
    return str(Decimal(str(value)).quantize(Decimal("0.001"), ROUND_FLOOR))
