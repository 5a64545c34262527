"""A float32 emulation of kernels that merge attention states, in several right ways and on bad hardware; and wrong ones.

Written for the tests of the error bound: it shares nothing with the reference. Tensors are float32 throughout, but for the single
rounding in which `off` puts the error of a function.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

LOG2E = 1.4426950408889634
LN2 = 0.6931471805599453
NORMAL = 2.0**-126
ULP = 2.0**-23


@dataclass(frozen=True, kw_only=True)
class Hardware:
    """By how many ulps, -2 to 2, exp, division and log are off; whether exp goes by exp2, and loses subnormal results.

    `scaled`: log-sum-exps are multiplied by log2(e) before their difference is taken; then exp goes by exp2 in any case.
    """

    exp: float = 0.0
    division: float = 0.0
    log: float = 0.0
    base_2: bool = False
    flushes: bool = False
    scaled: bool = False

    def exponential(self, x: Tensor) -> Tensor:
        """exp(x); exact at 0, as hardware has it."""
        scaled = x if self.scaled else x * LOG2E
        power = torch.exp2(scaled.double()) if self.base_2 or self.scaled else torch.exp(x.double())
        result = torch.where(x == 0, 1.0, off(power, self.exp))
        return torch.where(result < NORMAL, 0.0, result) if self.flushes else result

    def quotient(self, x: Tensor, y: Tensor) -> Tensor:
        """The quotient x / y."""
        return off(x.double() / y.double(), self.division)

    def logarithm(self, x: Tensor) -> Tensor:
        """ln(x), 1 <= x <= 2; log2(x) where log-sum-exps are scaled."""
        if self.scaled:
            return off(torch.log2(x.double()), self.log)
        return off(torch.log2(x.double()), self.log) * LN2 if self.base_2 else off(torch.log(x.double()), self.log)


def off(exact: Tensor, ulps: float) -> Tensor:
    """The float32 next to a float64 that is off by so many ulps, less what the rounding itself adds."""
    most = abs(ulps) - 0.5
    return (exact * (1 + max(most, 0.0) * ULP * (1 if ulps > 0 else -1))).float()


Divide = Callable[[Hardware, tuple[Tensor, Tensor], tuple[Tensor, Tensor]], Tensor]
"""(hardware, weights of prefix and suffix [T, H, 1], outputs [T, H, D]) -> their mean."""


def by_sum(hardware: Hardware, weights: tuple[Tensor, Tensor], outputs: tuple[Tensor, Tensor]) -> Tensor:
    """The weighted sum, divided by that of the weights."""
    return hardware.quotient(weights[0] * outputs[0] + weights[1] * outputs[1], weights[0] + weights[1])


def by_share(hardware: Hardware, weights: tuple[Tensor, Tensor], outputs: tuple[Tensor, Tensor]) -> Tensor:
    """Each weight divided first."""
    shares = [hardware.quotient(weight, weights[0] + weights[1]) for weight in weights]
    return shares[0] * outputs[0] + shares[1] * outputs[1]


def by_reciprocal(hardware: Hardware, weights: tuple[Tensor, Tensor], outputs: tuple[Tensor, Tensor]) -> Tensor:
    """Times one over the sum."""
    total = weights[0] + weights[1]
    return (weights[0] * outputs[0] + weights[1] * outputs[1]) * hardware.quotient(torch.ones_like(total), total)


WAYS: Mapping[str, Divide] = {"sum": by_sum, "share": by_share, "reciprocal": by_reciprocal}


def emulated(inputs: Mapping[str, Any], hardware: Hardware, way: Divide) -> dict[str, Tensor]:
    """What such a kernel writes: "output" in its dtype, and "output_lse" where it is asked for."""
    joined = inputs["tokens_with_context"]
    prefix_lse, suffix_lse = inputs["prefix_lse"].clone(), inputs["suffix_lse"].clone()
    prefix_lse[joined:] = -torch.inf
    lses = [torch.where(lse.isinf(), -torch.inf, lse) for lse in (prefix_lse, suffix_lse)]
    if hardware.scaled:
        lses = [lse * LOG2E for lse in lses]
    largest = torch.maximum(*lses)
    largest = torch.where(largest.isinf(), 0.0, largest)
    weights = [torch.where(lse.isinf(), 0.0, hardware.exponential(lse - largest)) for lse in lses]
    outputs = [
        torch.where(weight[..., None] == 0, 0.0, inputs[f"{side}_output"].float())
        for side, weight in zip(("prefix", "suffix"), weights, strict=True)
    ]
    total = weights[0] + weights[1]
    mean = way(hardware, (weights[0][..., None], weights[1][..., None]), (outputs[0], outputs[1]))
    output = torch.where(total[..., None] > 0, mean, 0.0)
    logarithm = largest + hardware.logarithm(torch.where(total > 0, total, 1.0))
    lse = torch.where(total > 0, hardware.quotient(logarithm, torch.tensor(LOG2E)) if hardware.scaled else logarithm, -torch.inf)
    output[joined:] = outputs[1][joined:]
    copied = torch.where(inputs["suffix_lse"].isinf(), -torch.inf, inputs["suffix_lse"])
    return written(inputs, output, torch.cat([lse[:joined], copied[joined:]]))


def written(inputs: Mapping[str, Any], output: Tensor, lse: Tensor) -> dict[str, Tensor]:
    """The results, rounded to what is stored."""
    stored = {"output": output.to(inputs["output"].dtype)}
    return stored if inputs["output_lse"] is None else stored | {"output_lse": lse.float()}
