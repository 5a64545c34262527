"""How far a correct float32 softmax attention may be off: `Contract` is what a kernel computes, `bounds` how much it may err.

Throughout, n is the number of keys of a row and g the number of query heads that share one KV head. The derivation of every
term is told in `docs/explanation/tolerance.md`; the constants are explained where they are used.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from tridiff.reference.roundings import LARGEST, NORMAL, UNDERFLOW, UNIT, gamma, stored, subnormal_of, unit_of

UNIT_TF32 = 2.0**-10
"""Largest relative error of a float32 operand taken as tf32: 11 significant bits, the rest cut off and not rounded (H200)."""

UNIT_FLOAT64 = 2.0**-53
"""Unit roundoff of float64, in which the reference computes."""

UNDERFLOW_TF32 = 2.0**-136
"""What a float32 below the normal range may lose as a tf32 operand: all of its last 13 bits."""

FP8_DTYPES = (torch.float8_e4m3fn, torch.float8_e4m3fnuz, torch.float8_e5m2)
"""Cache dtypes that hold codes, to be multiplied by a scale."""

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
"""What a dequantised key or value, a product, a sum or the output of a split may be rounded to."""

NARROW = DTYPES | {str(dtype).removeprefix("torch."): dtype for dtype in FP8_DTYPES}
"""What p and the query may be rounded to: to FP8 where the caches are, so that both operands of a product have one dtype."""

FOLDED = "folded"
"""Instead of such a dtype: FP8 codes enter the products as they are, and their scales multiply the scores and the output."""

_CHOICES: dict[str, tuple[object, ...]] = {
    "p_dtype": tuple(NARROW),
    "dot_precision": ("ieee", "tf32"),
    "dequantised": (*DTYPES, FOLDED),
    "flushes_subnormals": (False, True),
    "query_dtype": tuple(NARROW),
    "scaled_query": (False, True),
    "product_dtype": tuple(DTYPES),
    "sum_dtype": tuple(DTYPES),
    "partial_dtype": tuple(DTYPES),
}
_NEEDED = ("p_dtype", "dot_precision")
_COUNTS = ("block_n", "num_kv_splits")
_OPTIONAL_COUNTS = ("query_columns", "split_multiple", "smallest_block_n")
_OPTIONAL_NUMBERS = {"epsilon": (0.0, 1e-6)}
"""Each with the least and the largest that it may be."""


@dataclass(frozen=True, kw_only=True)
class Operand:
    """What a matrix product may take from a number x before it multiplies: `cut` * |x|, and up to `lost` if |x| < `normal`."""

    cut: float = 0.0
    normal: float = 0.0
    lost: float = 0.0

    @classmethod
    def of(cls, dtype: torch.dtype, rounding: Mapping[str, Any], folded: float | None = None) -> Operand:
        """An operand held in `dtype`; `folded`: the scale of FP8 codes that are held there unscaled, and fit into tf32."""
        normal = float(torch.finfo(dtype).smallest_normal) * (1.0 if folded is None else folded)
        tf32 = rounding["dot_precision"] == "tf32" and dtype == torch.float32 and folded is None
        lost = normal if rounding.get("flushes_subnormals", False) else UNDERFLOW_TF32 if tf32 else 0.0
        return cls(cut=UNIT_TF32 if tf32 else 0.0, normal=normal, lost=lost)

    def loss(self, magnitude: Tensor) -> Tensor | None:
        """How much each of the numbers of these magnitudes may lose; None if nothing."""
        if not self.cut and not (self.lost and bool((magnitude < self.normal).any())):
            return None
        return self.cut * magnitude + magnitude.clamp(max=self.lost).masked_fill(magnitude >= self.normal, 0.0)


@dataclass(frozen=True, kw_only=True)
class Rounded:
    """Limits of a dtype that numbers are rounded to on their way: `unit` roundoff, smallest `subnormal`, `largest` number."""

    unit: float = 0.0
    subnormal: float = 0.0
    largest: float = math.inf

    @classmethod
    def to(cls, dtype: torch.dtype) -> Rounded:
        """Those of `dtype`; none for float32, whose roundings are counted one by one."""
        limits = torch.finfo(dtype)
        return cls() if dtype == torch.float32 else cls(unit=unit_of(limits), subnormal=subnormal_of(limits), largest=limits.max)


@dataclass(frozen=True, kw_only=True)
class Contract:
    """What the kernel computes and where it rounds, as far as the bound depends on it.

    `scale`, `cap`: sm_scale (1 where the query holds it) and logit_cap (0: off). `output`, `lse`: limits of the dtypes stored.
    `weight`: of the dtype that p is cast to before the PV product. `product`: of that of each single q k. `total`: of that in
    which the p of a tile are added up, after that cast; None: as float32, before it. `partial`: of that of a split's output.
    `query`, `key`, `value`, `p`: what the two products take from their operands. `underflow`: absolute error of a float32
    product or quotient below the normal range. `key_scale`, `value_scale`: scales of FP8 codes folded into scores and output,
    else None. `block_n`: keys per tile, the most; `smallest_block_n`: the least, where tiles differ. `splits`: KV splits, of a
    multiple of `split_multiple` keys each. `epsilon`: what a row's sum of p, at least 1, is increased by before it divides.
    `output_scale`: the output is divided by it, and saturated, before it is stored; None: neither.
    """

    scale: float
    cap: float
    output: torch.finfo
    lse: torch.finfo
    weight: Rounded
    product: Rounded
    total: Rounded | None
    partial: Rounded
    query: Operand
    key: Operand
    value: Operand
    p: Operand
    underflow: float
    key_scale: float | None
    value_scale: float | None
    block_n: int
    smallest_block_n: int
    splits: int
    split_multiple: int
    epsilon: float
    output_scale: float | None

    @classmethod
    def of(
        cls, inputs: Mapping[str, Any], rounding: Mapping[str, Any], *, key_scale: float = 1.0, value_scale: float = 1.0
    ) -> Contract:
        """Combine what `inputs` ask for with the `rounding` a kernel declares.

        `inputs` without `logit_cap`, `lse` or `output_scale` mean none of them. `key_scale`, `value_scale`: of FP8 caches. Raises
        KeyError for an entry of `rounding` that is missing (`dequantised` only where the caches are FP8), ValueError for one that
        is unknown.
        """
        _require_rounding(rounding)
        p_dtype, query_dtype, cache_dtype = NARROW[rounding["p_dtype"]], inputs["query"].dtype, inputs["key_cache"].dtype
        folded = cache_dtype in FP8_DTYPES and rounding["dequantised"] == FOLDED
        key_fold, value_fold = (key_scale, value_scale) if folded else (None, None)
        multiplied = query_dtype if folded else DTYPES[rounding["dequantised"]] if cache_dtype in FP8_DTYPES else cache_dtype
        sum_dtype = rounding.get("sum_dtype")
        return cls(
            scale=1.0 if rounding.get("scaled_query", False) else float(inputs["sm_scale"]),
            cap=float(inputs.get("logit_cap", 0.0)),
            output=torch.finfo(inputs["output"].dtype),
            lse=torch.finfo(inputs["lse"].dtype if "lse" in inputs else torch.float32),
            weight=Rounded.to(p_dtype),
            product=Rounded.to(DTYPES[rounding.get("product_dtype", "float32")]),
            total=None if sum_dtype is None else Rounded.to(DTYPES[sum_dtype]),
            partial=Rounded.to(DTYPES[rounding.get("partial_dtype", "float32")]),
            query=Operand.of(query_dtype, rounding),
            key=Operand.of(multiplied, rounding, key_fold),
            value=Operand.of(multiplied, rounding, value_fold),
            p=Operand.of(p_dtype, rounding),
            underflow=NORMAL if rounding.get("flushes_subnormals", False) else UNDERFLOW,
            key_scale=key_fold,
            value_scale=value_fold,
            block_n=int(rounding["block_n"]),
            smallest_block_n=int(rounding.get("smallest_block_n", rounding["block_n"])),
            splits=int(rounding["num_kv_splits"]),
            split_multiple=int(rounding.get("split_multiple", 1)),
            epsilon=float(rounding.get("epsilon", 0.0)),
            output_scale=None if inputs.get("output_scale") is None else float(inputs["output_scale"]),
        )

    def logits(self, query: Tensor, keys: Tensor) -> tuple[Tensor, Tensor]:
        """Exact logits [g, n] of `query` [g, Lk] and `keys` [n, Lk], and how far a kernel's logits may be off before softmax.

        The product has Lk multiplications and sums; two more roundings are of sm_scale and of the product with it, and a folded
        scale of the keys adds one. Single products may be rounded further. The cap passes an error on as its slope allows. Where
        a product may overflow the error is infinite.
        """
        raw = self.scale * (query @ keys.T)
        query, keys = query.abs(), keys.abs()
        products = query @ keys.T
        raw_error = (gamma(query.shape[1] + 2 + (self.key_scale is not None)) + self.product.unit) * products
        raw_error += query.shape[1] * self.product.subnormal / 2 * (self.key_scale or 1.0)
        query_loss, key_loss = self.query.loss(query), self.key.loss(keys)
        if query_loss is not None:
            raw_error += query_loss @ keys.T
        if key_loss is not None:
            raw_error += query @ key_loss.T
        raw_error *= abs(self.scale)
        exact = self.capped(raw)
        error = torch.maximum(self.capped(raw + raw_error) - exact, exact - self.capped(raw - raw_error))
        largest = max(1.0, abs(self.scale)) * max(1.0, 1.0 / (self.key_scale or 1.0))
        error[products * largest > LARGEST] = math.inf
        if query.amax() * keys.amax() > self.product.largest * (self.key_scale or 1.0):
            error.fill_(math.inf)
        return exact, error

    def biased(self, logits: Tensor, error: Tensor, bias: Tensor) -> tuple[Tensor, Tensor]:
        """`logits` + `bias`, all [g, n], and how far a kernel's may be off if `error` is how far its logits are.

        The bias is one product, the sum is rounded. In base 2 both summands are multiplied by log2(e) before, two roundings each,
        of which `softmax_roundings` knows only what is left where large summands cancel.
        """
        rounded = gamma(4) * (logits.abs() + bias.abs()) + error * (1 + gamma(4))
        return logits + bias, rounded + self.underflow

    def capped(self, logits: Tensor) -> Tensor:
        """`cap * tanh(logits / cap)`, or the logits themselves when there is no cap."""
        return self.cap * torch.tanh(logits / self.cap) if self.cap > 0 else logits

    def steps(self, keys: int) -> int:
        """Longest way of a key through a row of `keys` >= 1 keys: the tiles of the longest split, then the splits not empty."""
        length = -(-keys // (self.splits * self.split_multiple)) * self.split_multiple
        return -(-length // self.smallest_block_n) + -(-keys // length)

    def kept(self, output: Tensor) -> Tensor:
        """What is stored of the exact `output` before it is rounded: all of it, or divided by the scale and saturated."""
        if self.output_scale is None:
            return output
        return (output / self.output_scale).clamp(-self.output.max, self.output.max)

    def stored(self, output: Tensor, error: Tensor) -> Tensor:
        """Bound of what is stored of `output` +- `error`."""
        if self.output_scale is None:
            return stored(output, error, self.output)
        # A reciprocal of two ulps and a product, or a quotient; what saturates for certain is exact.
        scaled = (error + gamma(5) * (output.abs() + error)) / self.output_scale + self.underflow
        magnitude = output.abs() / self.output_scale
        largest = (magnitude + scaled).clamp(max=self.output.max)
        bound = scaled + unit_of(self.output) * largest + subnormal_of(self.output) / 2
        return bound.masked_fill(magnitude - scaled >= self.output.max, 0.0)


def bounds(
    contract: Contract, logits: Tensor, logit_error: Tensor, values: Tensor, exact: tuple[Tensor, Tensor]
) -> tuple[Tensor, Tensor]:
    """Bound the legitimate difference of output [g, Lv] and lse [g] from `exact`, for one KV head of one row.

    `logits` [g, n] and `logit_error` [g, n] as `Contract.logits` gives them, `values` [n, Lv]. A key that is masked for a
    head has the logit -inf there, and the error 0; each head needs one that is not. `exact` is the output before `Contract.kept`.
    """
    output, lse = exact
    error = logit_error + UNIT * softmax_roundings(contract, logits, lse)
    # 2 block_n: sums of a tile's products and of its p. 6 steps: joining a tile to its split, or a split to the row, takes a
    # product and a sum in numerator and denominator each, and an exp that is off by an ulp. 16: p, the weight of the split,
    # the divisions of the split and of the row, up to two ulps each. 1: the product with a folded scale of the values.
    steps = contract.steps(logits.shape[1])
    relative = gamma(2 * contract.block_n + 6 * steps + 16 + (contract.value_scale is not None))
    relative += _total_error(contract, logits.shape[1]) + contract.epsilon

    output_error = _output_error(contract, logits, error, values, output, relative)
    lse_error = torch.logsumexp(logits + error, dim=1) - lse + relative

    output_error[logit_error.isinf().any(dim=1)] = math.inf
    return contract.stored(output, output_error), stored(lse, lse_error, contract.lse)


def softmax_roundings(contract: Contract, logits: Tensor, lse: Tensor) -> Tensor:
    """Error, in unit roundoffs, that the softmax itself adds to each logit [g, n].

    4|s|: the factors log2(e) and ln(2) of a base-2 softmax. 4(max - s): the differences from running maxima add up to it; each
    is rounded, and so is the argument of exp. 2(|lse| + ln n): a split's keys are weighted by its lse, which is the rounded
    maximum + ln(sum). With a cap, 8 cap: tanh(x) as 2 sigmoid(2x) - 1 is off by up to 8 units for any x; and 5|s|: the division
    by the cap, two ulps, and the product with it.
    """
    below_maximum = logits.amax(dim=1, keepdim=True) - logits
    split_lse = lse.abs()[:, None] + math.log(logits.shape[1])
    around = 4 * logits.abs() + 4 * below_maximum + 2 * split_lse
    if contract.cap > 0:
        around = around + 5 * logits.abs() + 8 * contract.cap
    return around.masked_fill(logits == -math.inf, 0.0)


def _total_error(contract: Contract, keys: int) -> float:
    """Relative error of a row's sum of p, at least 1, where p is cast before and a tile is added up in that dtype."""
    if contract.total is None:
        return 0.0
    cast = contract.weight.unit + keys * contract.weight.subnormal / 2
    return cast + contract.block_n * contract.total.unit * (1 + cast)


def _output_error(contract: Contract, logits: Tensor, error: Tensor, values: Tensor, output: Tensor, relative: float) -> Tensor:
    """Error of the output [g, Lv] before it is stored; `relative`: of numerator and denominator together."""
    # The largest weight of key t when its logit is off by +error and all logits of the denominator by -error. No weight
    # exceeds 1; the exponent is clamped so that infinity never meets a zero.
    exponent = logits + error - torch.logsumexp(logits - error, dim=1, keepdim=True)
    heaviest = exponent.clamp(max=600.0).exp()
    weight = heaviest.clamp(max=1.0)
    magnitude = values.abs()
    weighted = weight @ magnitude
    total_magnitude = _total(logits, magnitude)

    moved = _moved(logits, error, heaviest * -torch.expm1(-error), values, output)
    moved += (contract.weight.unit + contract.p.cut + contract.partial.unit) * weighted
    moved += contract.partial.subnormal / 2
    value_loss = contract.value.loss(magnitude)
    if value_loss is not None:
        moved += weight @ value_loss
    moved += _subnormal_p(contract, logits, error, weight, magnitude)
    # A key whose p, or whose rescaling on its way to the row, is flushed is lost as a whole, once: it weighed less than NORMAL.
    moved += NORMAL * total_magnitude
    moved += _underflow(contract, len(values))

    total = moved + relative * (weighted + output.abs() + moved)
    # The accumulator before division is at most sum |v|: beyond float32 it may legitimately overflow. FP8 codes never do.
    return total.masked_fill_(total_magnitude * (1 + contract.weight.unit + relative) > LARGEST, math.inf)


def _total(logits: Tensor, magnitude: Tensor) -> Tensor:
    """Sum of `magnitude` [n, Lv] over the keys: [Lv], or [g, Lv] where some are masked."""
    seen = logits != -math.inf
    return magnitude.sum(dim=0) if bool(seen.all()) else seen.to(torch.float64) @ magnitude


def _moved(logits: Tensor, error: Tensor, gain: Tensor, values: Tensor, output: Tensor) -> Tensor:
    """How far wrong weights move the output [g, Lv]: towards some values by `gain` [g, n] each; it stays between them.

    The float64 output makes the errors of a float32 one, 2^29 times smaller: a great gain would multiply them, so every
    distance includes them.
    """
    noise = (torch.softmax(logits, dim=1) * UNIT_FLOAT64 * (len(values) + error / UNIT)) @ values.abs()
    moved = gain.sum(dim=1, keepdim=True) * noise
    distance = torch.empty_like(values)
    for head in range(len(gain)):
        moved[head] += gain[head] @ torch.sub(values, output[head], out=distance).abs_()
    return torch.minimum(moved, torch.maximum(values.amax(dim=0) - output, output - values.amin(dim=0)))


def _subnormal_p(contract: Contract, logits: Tensor, error: Tensor, weight: Tensor, magnitude: Tensor) -> Tensor:
    """What subnormal p lose in the cast, and in a product that flushes them; p is relative to at most the heaviest key."""
    top = weight.amax(dim=1, keepdim=True)
    lost = contract.weight.subnormal / 2 * top * _total(logits, magnitude)
    if contract.p.lost < contract.p.normal:
        return lost
    least = torch.exp(logits - error - (logits + error).amax(dim=1, keepdim=True))
    flushed = torch.minimum(weight, contract.p.normal * top)
    # 1 %: far more than the roundings of the softmax and of the cast.
    return lost + flushed.masked_fill(least > 1.01 * contract.p.normal, 0.0) @ magnitude


def _underflow(contract: Contract, keys: int) -> float:
    """Absolute error of results below the normal range.

    One product per key, one per step, the divisions of the split and of the row and a product with a folded scale; where
    subnormals are flushed, the sums too.
    """
    results = 2 * (keys + contract.steps(keys)) + 3
    return contract.underflow * results * max(1.0, contract.value_scale or 1.0)


def _require_rounding(rounding: Mapping[str, Any]) -> None:
    known = (*_CHOICES, *_COUNTS, *_OPTIONAL_COUNTS, *_OPTIONAL_NUMBERS)
    unknown = sorted(set(rounding) - set(known))
    if unknown:
        raise ValueError(f"rounding has the unknown entry {unknown[0]!r}: known are {', '.join(known)}")
    for name, choices in _CHOICES.items():
        if name in rounding and rounding[name] not in choices:
            raise ValueError(f"rounding[{name!r}] is {rounding[name]!r}: must be one of {', '.join(map(str, choices))}")
    for name, (low, high) in _OPTIONAL_NUMBERS.items():
        if not low <= rounding.get(name, low) <= high:
            raise ValueError(f"rounding[{name!r}] is {rounding[name]!r}: must be between {low} and {high}")
    missing = [name for name in (*_NEEDED, *_COUNTS) if name not in rounding]
    if missing:
        raise KeyError(f"rounding lacks {', '.join(missing)}")
    for name in (*_COUNTS, *(name for name in _OPTIONAL_COUNTS if name in rounding)):
        if rounding[name] < 1:
            raise ValueError(f"rounding[{name!r}] is {rounding[name]!r}: must be at least 1")
