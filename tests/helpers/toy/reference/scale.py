"""The reference of the toy Op `scale`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch


def reference(inputs: Mapping[str, Any], rounding: Mapping[str, Any]) -> dict[str, Any]:
    """Values in float64; roundings of the factor, of a product and of each addition."""
    x = inputs["x"].to(torch.float64)
    scaled = x * inputs["factor"]
    slack = x.abs().sum(dim=1) * rounding.get("additions", x.shape[1]) * 2.0**-24
    return {"outputs": {"out": (scaled, scaled.abs() * 2.0**-23), "total": (x.sum(dim=1), slack)}, "conclusive": True}
