"""An independent float32 emulation of tiled split-KV decode attention, with what hardware does to its numbers."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
FP8_DTYPES = {
    "e4m3fn": torch.float8_e4m3fn,
    "e4m3fnuz": torch.float8_e4m3fnuz,
    "e5m2": torch.float8_e5m2,
}
LOG2E = torch.tensor(1 / math.log(2.0), dtype=torch.float32)
NORMAL = torch.finfo(torch.float32).smallest_normal


class Part(NamedTuple):
    """Maximum and sum [g, 1] and weighted values [g, Lv] of some keys, relative to that maximum."""

    top: Tensor
    total: Tensor
    output: Tensor


class Hardware(NamedTuple):
    """How a device computes.

    `rough`: sums one product after the other, takes exp as exp2 of a rounded product, and applies folded scales as late as it
    can. `flushes_exp`: an exponential below the normal range is 0. `flushes`: so are operands and results of everything.
    """

    rough: bool = False
    flushes_exp: bool = False
    flushes: bool = False


@dataclass(frozen=True)
class Emulation:
    """A tiled split-KV decode kernel in float32: online softmax in a split, then online merging by lse.

    `rounding`: as a kernel declares it. `scales`: of FP8 keys and values.
    """

    rounding: dict[str, Any]
    scale: float
    cap: float = 0.0
    hardware: Hardware = Hardware()  # noqa: RUF009 - a NamedTuple, which nobody can change
    scales: tuple[float, float] = (1.0, 1.0)

    def run(self, query: Tensor, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """Output [g, Lv] and lse [g] of `query` [g, Lk], `keys` [n, Lk] and `values` [n, Lv]; the output not yet rounded."""
        if values.dtype in FP8_DTYPES.values():
            keys, values = (self.dequantised(x, scale, query.dtype) for x, scale in zip((keys, values), self.scales, strict=True))
        part = self.merge(self.splits(query, keys, values))
        return self.flushed(self.flushed(part.output / part.total) * self.last_scale()), (part.top + torch.log(part.total))[:, 0]

    def folded(self) -> bool:
        """Whether FP8 codes are multiplied unscaled."""
        return self.rounding.get("dequantised") == "folded"

    def dequantised(self, codes: Tensor, scale: float, dtype: torch.dtype) -> Tensor:
        """Operands from FP8 codes: rounded as declared, or the codes themselves."""
        if self.folded():
            return codes.to(dtype)
        return (codes.float() * torch.tensor(scale, dtype=torch.float32)).to(DTYPES[self.rounding["dequantised"]])

    def split_scale(self) -> Tensor:
        """What a split multiplies its output with."""
        return torch.tensor(self.scales[1] if self.folded() and not self.hardware.rough else 1.0, dtype=torch.float32)

    def last_scale(self) -> Tensor:
        """What the row multiplies its output with."""
        return torch.tensor(self.scales[1] if self.folded() and self.hardware.rough else 1.0, dtype=torch.float32)

    def flushed(self, x: Tensor, normal: float = NORMAL) -> Tensor:
        """Zeros for what lies below `normal`, if the device does that."""
        return torch.where(x.abs() < normal, torch.zeros_like(x), x) if self.hardware.flushes else x

    def exp(self, x: Tensor) -> Tensor:
        """Float32 exponential."""
        result = torch.exp2(x * LOG2E) if self.hardware.rough else torch.exp(x)
        if self.hardware.flushes_exp or self.hardware.flushes:
            result = torch.where(result < NORMAL, torch.zeros_like(result), result)
        return result

    def operand(self, x: Tensor) -> Tensor:
        """What the matrix product takes of an operand: float32."""
        taken = self.flushed(x.float(), torch.finfo(x.dtype).smallest_normal)
        if self.rounding["dot_precision"] == "tf32":
            # Tensor cores cut the last 13 bits off.
            taken = (taken.contiguous().view(torch.int32) & ~0x1FFF).view(torch.float32)
        return taken

    def dot(self, a: Tensor, b: Tensor) -> Tensor:
        """Product of the matrices `a` and `b`, float32."""
        a, b = self.operand(a), self.operand(b)
        if not self.hardware.rough:
            return self.flushed(a @ b)
        total = torch.zeros(a.shape[0], b.shape[1])
        for i in range(a.shape[1]):
            total = self.flushed(total + self.flushed(a[:, i : i + 1] * b[i]))
        return total

    def logits(self, query: Tensor, keys: Tensor) -> Tensor:
        """Scaled and capped; tanh as 2 sigmoid(2x) - 1."""
        scale = torch.tensor(self.scale, dtype=torch.float32)
        key_scale = torch.tensor(self.scales[0] if self.folded() else 1.0, dtype=torch.float32)
        products = self.dot(query, keys.T)
        logits = products * scale * key_scale if self.hardware.rough else products * (scale * key_scale)
        if not self.cap:
            return logits
        return self.cap * (2 * (1 / (1 + self.exp(-2 * (logits / self.cap)))) - 1)

    def merge(self, parts: Iterator[Part]) -> Part:
        """Combine parts as they come."""
        merged = next(parts)
        for part in parts:
            top = torch.maximum(merged.top, part.top)
            old, new = self.exp(merged.top - top), self.exp(part.top - top)
            total = merged.total * old + part.total * new
            output = self.flushed(self.flushed(merged.output * old) + self.flushed(part.output * new))
            merged = Part(top, total, output)
        return merged

    def tiles(self, query: Tensor, keys: Tensor, values: Tensor) -> Iterator[Part]:
        """The tiles of one split; p relative to the running maximum, and rounded before it meets the values."""
        top = torch.full((len(query), 1), -math.inf)
        step = self.rounding["block_n"]
        for start in range(0, len(keys), step):
            logits = self.logits(query, keys[start : start + step])
            top = torch.maximum(top, logits.amax(dim=1, keepdim=True))
            p = self.exp(logits - top)
            weighted = self.dot(p.to(DTYPES[self.rounding["p_dtype"]]), values[start : start + step])
            yield Part(top, p.sum(dim=1, keepdim=True), weighted)

    def splits(self, query: Tensor, keys: Tensor, values: Tensor) -> Iterator[Part]:
        """Each split as its lse and normalised output."""
        step = -(-len(keys) // self.rounding["num_kv_splits"])
        for start in range(0, len(keys), step):
            part = slice(start, start + step)
            top, total, output = self.merge(self.tiles(query, keys[part], values[part]))
            normalised = self.flushed(self.flushed(output / total) * self.split_scale())
            yield Part(top + torch.log(total), torch.ones_like(total), normalised)
