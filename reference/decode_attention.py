"""Reference of `decode_attention`: gather a row's pages, float64, softmax, done; and how far a correct kernel may be off.

Read `reference` first, then `attend` (the mathematics), then `Contract` and `bounds` (the error bound). Throughout, n is the
number of keys of a row and g the number of query heads that share one KV head. The derivation of every term of the bound is
told in `docs/explanation/tolerance.md`; the constants are explained where they are used.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

UNIT = 2.0**-24
"""Unit roundoff of float32, in which every kernel accumulates."""

UNIT_TF32 = 2.0**-10
"""Largest relative error of a float32 operand taken as tf32: 11 significant bits, the rest cut off and not rounded (H200)."""

UNIT_FLOAT64 = 2.0**-53
"""Unit roundoff of float64, in which the reference computes."""

UNDERFLOW = 2.0**-150
"""Largest error of a float32 operation whose result underflows: half of the smallest subnormal."""

UNDERFLOW_TF32 = 2.0**-136
"""What a float32 below the normal range may lose as a tf32 operand: all of its last 13 bits."""

_LARGEST = torch.finfo(torch.float32).max
_P_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
_DOT_PRECISIONS = ("ieee", "tf32")


def reference(inputs: Mapping[str, Any], rounding: Mapping[str, Any]) -> dict[str, Any]:
    """Attention of one query token per row over its paged keys and values, and the log-sum-exp of its logits.

    `inputs`: the launcher's keyword arguments. query [B, Hq, Lk]; key_cache and value_cache [NB, page_size, Hkv, Lk or Lv]
    or [NB * page_size, Hkv, Lk or Lv], any strides; block_table [B, W]; seq_lens [B]; output and lse are read for shape and
    dtype only. Query head h reads KV head h // (Hq // Hkv). No input is written; of the caches only the tokens of a row
    are read, of the block table only the entries that hold them.
    `rounding`: the kernel's `p_dtype`, `block_n`, `num_kv_splits` and `dot_precision`.

    Returns {"outputs": {"output": (value, bound), "lse": (value, bound)}, "conclusive": bool}: float64 tensors on the CPU of
    shapes [B, Hq, Lv] and [B, Hq]. A row without keys has output 0, lse -inf and bound 0. A bound is finite, except where a
    correct kernel may overflow: there it is inf and nothing can be said of the element. `conclusive` is False when a kernel
    that drops the last key of every row would stay within the bound everywhere, in output and lse: comparing with this
    case then proves little. A case of empty rows only is conclusive, because its bound is 0.
    Raises KeyError for a missing argument, ValueError for a `rounding` outside what `Contract` knows.
    """
    contract = Contract.of(inputs, rounding)
    output = torch.zeros(inputs["output"].shape, dtype=torch.float64)
    lse = torch.full(inputs["lse"].shape, -math.inf, dtype=torch.float64)
    output_bound, lse_bound = torch.zeros_like(output), torch.zeros_like(lse)
    sensitive = []
    for row, length in enumerate(inputs["seq_lens"].tolist()):
        if length == 0:
            continue
        keys, values = (gather(inputs, name, row, length) for name in ("key_cache", "value_cache"))
        group = inputs["query"].shape[1] // keys.shape[1]
        for kv_head in range(keys.shape[1]):
            at = (row, slice(kv_head * group, (kv_head + 1) * group))
            logits, logit_error = contract.logits(inputs["query"][at].to("cpu", torch.float64), keys[:, kv_head])
            exact = attend(logits, values[:, kv_head])
            bound = bounds(contract, logits, logit_error, values[:, kv_head], exact)
            output[at], lse[at] = exact
            output_bound[at], lse_bound[at] = bound
            sensitive.append(_exceeds(attend(logits[:, :-1], values[:-1, kv_head]), exact, bound))
    outputs = {"output": (output, output_bound), "lse": (lse, lse_bound)}
    return {"outputs": outputs, "conclusive": any(sensitive) or not sensitive}


def gather(inputs: Mapping[str, Any], name: str, row: int, length: int) -> Tensor:
    """Read the first `length` >= 1 tokens of `row` from the cache `name`: float64 [length, Hkv, D] on the CPU.

    Indexes the cache in place and never copies it whole: its storage may be gigabytes of holes.
    """
    cache, page_size = inputs[name], int(inputs["page_size"])
    token = torch.arange(length, dtype=torch.int64, device=cache.device)
    pages = inputs["block_table"][row, : -(-length // page_size)].to(cache.device, torch.int64)
    page, offset = pages[token // page_size], token % page_size
    tokens: Tensor = cache[page, offset] if cache.dim() == 4 else cache[page * page_size + offset]
    return tokens.to("cpu", torch.float64)


def attend(logits: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
    """Softmax attention: `logits` [g, n], `values` [n, Lv] -> output [g, Lv] and lse [g]; without keys 0 and -inf."""
    return torch.softmax(logits, dim=1) @ values, torch.logsumexp(logits, dim=1)


@dataclass(frozen=True, kw_only=True)
class Contract:
    """What the kernel computes and where it rounds, as far as the bound depends on it.

    `scale`, `cap`: sm_scale and logit_cap (0: off). `output`, `lse`: limits of the dtypes stored. `p_unit`, `p_subnormal`:
    unit roundoff and smallest subnormal of the dtype that p is cast to before the PV product, 0 if it stays float32.
    `qk_unit`, `pv_unit`: what tf32 takes from the operands of the two products, 0 if they are exact. `underflow`: absolute
    error of a float32 result, or operand, below the normal range.
    `block_n`: keys per tile. `splits`: KV splits.
    """

    scale: float
    cap: float
    output: torch.finfo
    lse: torch.finfo
    p_unit: float
    p_subnormal: float
    qk_unit: float
    pv_unit: float
    underflow: float
    block_n: int
    splits: int

    @classmethod
    def of(cls, inputs: Mapping[str, Any], rounding: Mapping[str, Any]) -> Contract:
        """Combine what `inputs` ask for with the `rounding` a kernel declares; raises ValueError for an unknown one."""
        p_dtype, precision = rounding["p_dtype"], rounding["dot_precision"]
        _require_known("p_dtype", p_dtype, tuple(_P_DTYPES))
        _require_known("dot_precision", precision, _DOT_PRECISIONS)
        _require_positive("block_n", rounding["block_n"])
        _require_positive("num_kv_splits", rounding["num_kv_splits"])
        p_limits = None if p_dtype == "float32" else torch.finfo(_P_DTYPES[p_dtype])
        return cls(
            scale=float(inputs["sm_scale"]),
            cap=float(inputs["logit_cap"]),
            output=torch.finfo(inputs["output"].dtype),
            lse=torch.finfo(inputs["lse"].dtype),
            p_unit=_unit(p_limits) if p_limits else 0.0,
            p_subnormal=_subnormal(p_limits) if p_limits else 0.0,
            qk_unit=_tf32_loss(precision, inputs["query"].dtype, inputs["key_cache"].dtype),
            pv_unit=_tf32_loss(precision, _P_DTYPES[p_dtype], inputs["value_cache"].dtype),
            underflow=UNDERFLOW_TF32 if precision == "tf32" else UNDERFLOW,
            block_n=int(rounding["block_n"]),
            splits=int(rounding["num_kv_splits"]),
        )

    def logits(self, query: Tensor, keys: Tensor) -> tuple[Tensor, Tensor]:
        """Exact logits [g, n] of `query` [g, Lk] and `keys` [n, Lk], and how far a kernel's logits may be off before softmax.

        The product has Lk multiplications and sums; two more roundings are of sm_scale and of the product with it. The cap
        passes an error on as its slope allows. Where a float32 product may overflow the error is infinite.
        """
        raw = self.scale * (query @ keys.T)
        products = query.abs() @ keys.abs().T
        raw_error = (gamma(query.shape[1] + 2) + self.qk_unit) * abs(self.scale) * products
        exact = self.capped(raw)
        error = torch.maximum(self.capped(raw + raw_error) - exact, exact - self.capped(raw - raw_error))
        error[products * max(1.0, abs(self.scale)) > _LARGEST] = math.inf
        return exact, error

    def capped(self, logits: Tensor) -> Tensor:
        """`cap * tanh(logits / cap)`, or the logits themselves when there is no cap."""
        return self.cap * torch.tanh(logits / self.cap) if self.cap > 0 else logits

    def steps(self, keys: int) -> int:
        """Longest way of a key through a row of `keys` >= 1 keys: the tiles of the longest split, then the splits not empty."""
        length = -(-keys // self.splits)
        return -(-length // self.block_n) + -(-keys // length)


def bounds(
    contract: Contract, logits: Tensor, logit_error: Tensor, values: Tensor, exact: tuple[Tensor, Tensor]
) -> tuple[Tensor, Tensor]:
    """Bound the legitimate difference of output [g, Lv] and lse [g] from `exact`, for one KV head of one row.

    `logits` [g, n] and `logit_error` [g, n] as `Contract.logits` gives them, `values` [n, Lv].
    """
    output, lse = exact
    error = logit_error + UNIT * softmax_roundings(contract, logits, lse)
    steps = contract.steps(logits.shape[1])
    # 2 block_n: sums of a tile's products and of its p. 6 steps: joining a tile to its split, or a split to the row, takes a
    # product and a sum in numerator and denominator each, and an exp that is off by an ulp. 16: p, the weight of the split,
    # the divisions of the split and of the row, up to two ulps each.
    relative = gamma(2 * contract.block_n + 6 * steps + 16)

    output_error = _output_error(contract, logits, error, values, output, relative)
    # Underflow: each p, each product with a value and each step.
    output_error += contract.underflow * (1 + steps) * (values.abs().sum(dim=0) + len(values) + 2)
    lse_error = torch.logsumexp(logits + error, dim=1) - lse + relative

    output_error[logit_error.isinf().any(dim=1)] = math.inf
    return _stored(output, output_error, contract.output), _stored(lse, lse_error, contract.lse)


def softmax_roundings(contract: Contract, logits: Tensor, lse: Tensor) -> Tensor:
    """Error, in unit roundoffs, that the softmax itself adds to each logit [g, n].

    4|s|: the cap's division and product, or the factor log2(e) of a base-2 softmax. 4(max - s): the differences from running
    maxima add up to it; each is rounded, and so is the argument of exp. 8 cap: tanh(x) as 2 sigmoid(2x) - 1 is off by up to 8
    units for any x. 2(|lse| + ln n): a split's keys are weighted by its lse, which is the rounded maximum + ln(sum).
    """
    below_maximum = logits.amax(dim=1, keepdim=True) - logits
    split_lse = lse.abs()[:, None] + math.log(logits.shape[1])
    return 4 * logits.abs() + 4 * below_maximum + 8 * contract.cap + 2 * split_lse


def _output_error(contract: Contract, logits: Tensor, error: Tensor, values: Tensor, output: Tensor, relative: float) -> Tensor:
    """Error of the output [g, Lv] before it is stored, underflow apart; `relative`: of numerator and denominator together."""
    # The largest weight of key t when its logit is off by +error and all logits of the denominator by -error. No weight
    # exceeds 1; the exponent is clamped so that infinity never meets a zero.
    exponent = logits + error - torch.logsumexp(logits - error, dim=1, keepdim=True)
    heaviest = exponent.clamp(max=700.0).exp()
    weight = heaviest.clamp(max=1.0)
    magnitude = values.abs()

    # Wrong weights move the output towards some values; it stays between them. The float64 output makes the errors of a float32
    # one, 2^29 times smaller: a great gain would multiply them, so every distance includes them.
    gain = heaviest * -torch.expm1(-error)
    noise = (torch.softmax(logits, dim=1) * UNIT_FLOAT64 * (len(values) + error / UNIT)) @ magnitude
    moved = torch.stack([gain[head] @ ((values - output[head]).abs() + noise[head]) for head in range(len(gain))])
    moved = torch.minimum(moved, torch.maximum(values.amax(dim=0) - output, output - values.amin(dim=0)))
    # p as the PV product sees it; an absolute error of a subnormal p counts relative to the heaviest key.
    weighted = weight @ magnitude
    moved += (contract.p_unit + contract.pv_unit) * weighted
    moved += contract.p_subnormal / 2 * weight.amax(dim=1, keepdim=True) * magnitude.sum(dim=0)

    total = moved + relative * (weighted + output.abs() + moved)
    # The accumulator before division is at most sum |v|: beyond float32 it may legitimately overflow.
    total[:, magnitude.sum(dim=0) * (1 + contract.p_unit + relative) > _LARGEST] = math.inf
    return total


def _stored(value: Tensor, error: Tensor, dtype: torch.finfo) -> Tensor:
    """Bound after rounding `value` +- `error` to `dtype`; infinite where the rounded value may overflow."""
    bound = error + _unit(dtype) * (value.abs() + error) + _subnormal(dtype) / 2
    return bound.masked_fill(value.abs() + error > dtype.max, math.inf)


def gamma(roundings: float) -> float:
    """Relative error of `roundings` float32 roundings in a row: k u / (1 - k u) (Higham, Accuracy and Stability, 3.1)."""
    product = roundings * UNIT
    return product / (1 - product) if product < 1 else math.inf


def _exceeds(other: tuple[Tensor, Tensor], exact: tuple[Tensor, Tensor], bound: tuple[Tensor, Tensor]) -> bool:
    return any(bool(((a - b).abs() > limit).any()) for a, b, limit in zip(other, exact, bound, strict=True))


def _tf32_loss(precision: str, *operands: torch.dtype) -> float:
    # bf16 and fp16 fit into tf32 unrounded; only float32 loses bits.
    return UNIT_TF32 * operands.count(torch.float32) if precision == "tf32" else 0.0


def _unit(dtype: torch.finfo) -> float:
    return float(dtype.eps) / 2


def _subnormal(dtype: torch.finfo) -> float:
    return float(dtype.smallest_normal) * float(dtype.eps)


def _require_known(name: str, value: object, known: tuple[str, ...]) -> None:
    if value not in known:
        raise ValueError(f"rounding[{name!r}] is {value!r}: must be one of {', '.join(known)}")


def _require_positive(name: str, value: int) -> None:
    if value < 1:
        raise ValueError(f"rounding[{name!r}] is {value!r}: must be at least 1")
