"""The error bound of decode_attention is sound, is not loose, and bites."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor

from tridiff.reference.decode_attention import reference

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
LN2 = math.log(2.0)
LARGEST = torch.finfo(torch.float32).max

Dense = tuple[Tensor, Tensor, Tensor]
"""Query [Hq, Lk], keys [n, Hkv, Lk] and values [n, Hkv, Lv] of one row."""


def gaussian(seed: int, *shape: int) -> Tensor:
    """Float32 normal values; every call with one seed and shape gives the same."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def random_dense(count: int, heads: tuple[int, int] = (1, 1), widths: tuple[int, int] = (64, 16)) -> Dense:
    """Gaussian float32 values of `count` keys, `heads` (query, KV) and `widths` (Lk, Lv)."""
    query = gaussian(0, heads[0], widths[0])
    return query, gaussian(1, count, heads[1], widths[0]), gaussian(2, count, heads[1], widths[1])


def inputs_of(*rows: Dense, cap: float = 0.0, out_dtype: torch.dtype | None = None) -> dict[str, Any]:
    """Launcher arguments for `rows`, a page per row; their number of keys may differ."""
    lengths = [len(keys) for _, keys, _ in rows]
    query = torch.stack([query for query, _, _ in rows])
    keys, values = (torch.nn.utils.rnn.pad_sequence([row[i] for row in rows], batch_first=True) for i in (1, 2))
    return {
        "query": query,
        "key_cache": keys,
        "value_cache": values,
        "block_table": torch.arange(len(rows), dtype=torch.int32)[:, None],
        "seq_lens": torch.tensor(lengths, dtype=torch.int32),
        "output": torch.empty((*query.shape[:2], values.shape[-1]), dtype=out_dtype or query.dtype),
        "lse": torch.empty(query.shape[:2]),
        "sm_scale": query.shape[-1] ** -0.5,
        "logit_cap": cap,
        "page_size": max(lengths),
        "num_kv_splits": 4,
        "platform": "hip",
    }


def rounding_of(p_dtype: str = "float32", block_n: int = 16, splits: int = 4, precision: str = "ieee") -> dict[str, Any]:
    """What a kernel declares."""
    return {"p_dtype": p_dtype, "block_n": block_n, "num_kv_splits": splits, "dot_precision": precision}


# Value profiles.

Profile = Callable[[int, int, torch.dtype], Dense]
"""(seed, number of keys, dtype) -> float32 values of one KV head, made to be hostile in that dtype."""

HEADS, WIDTH, VALUE_WIDTH = 3, 64, 16


def varied(change: Callable[[Tensor, Tensor, Tensor, int, float], object], sigma: float = 1.0) -> Profile:
    """Gaussian values of deviation `sigma`, then `change`d in place: query, keys, values, a key, the dtype's largest number."""

    def draw(seed: int, count: int, dtype: torch.dtype) -> Dense:
        shapes = (HEADS, WIDTH), (count, WIDTH), (count, VALUE_WIDTH)
        query, key, value = (sigma * gaussian(100 * seed + i, *shape) for i, shape in enumerate(shapes))
        change(query, key, value, (7 * seed) % count, torch.finfo(dtype).max)
        return query, key[:, None], value[:, None]

    return draw


def unchanged(*_: object) -> None:
    """Leave the values as they are."""


def dominate(query: Tensor, key: Tensor, value: Tensor, peak: int, largest: float) -> None:
    """Key `peak` gets a logit some 8 above the others in the first query head."""
    key[peak] += query[0]


def dominate_with_zero(query: Tensor, key: Tensor, value: Tensor, peak: int, largest: float) -> None:
    """One key far above the others, whose value is 0: what is left comes from small, partly subnormal, p."""
    key[peak] += 6 * query.sum(dim=0)
    value[peak] = 0


def dominate_and_one_huge(query: Tensor, key: Tensor, value: Tensor, peak: int, largest: float) -> None:
    """The same, and one of the small p has a value of some 10000."""
    dominate_with_zero(query, key, value, peak, largest)
    value[peak - 1] *= 1e4


def dominate_beyond_float32(query: Tensor, key: Tensor, value: Tensor, peak: int, largest: float) -> None:
    """One key of value 0 about 98 above the others, in every head: their p are the last subnormals of float32."""
    query[:] = query[:1]
    key.mul_(0.05)
    key[peak] = query[0] * (98 * WIDTH**0.5 / float(query[0] @ query[0]))
    value[peak] = 0


def identical(*tensors: Tensor) -> None:
    """All rows of each tensor become its first."""
    for tensor in tensors:
        tensor[:] = tensor[:1].clone()


def mix_norms(query: Tensor, key: Tensor, value: Tensor, peak: int, largest: float) -> None:
    """Every other key is 1e-3 of the rest, its value 1e2 times."""
    key[::2] *= 1e-3
    value[::2] *= 1e2
    key[peak] *= 10


def huge_norms(query: Tensor, key: Tensor, value: Tensor, peak: int, largest: float) -> None:
    """Logits of about 1e8 (1e4 in float16), values of the root of the largest number."""
    query *= min(1e5, largest**0.25)
    key *= 1e3
    value *= largest**0.5


def tiny_values(query: Tensor, key: Tensor, value: Tensor, peak: int, largest: float) -> None:
    """Values near the smallest normal number, so that outputs are subnormal in the dtype."""
    value *= 0.1 * largest**-0.9


def values_at_the_limit(query: Tensor, key: Tensor, value: Tensor, peak: int, largest: float) -> None:
    """Values that add up to the largest number."""
    value[:] = value.sign() * (largest / len(value))


def logits_at_the_limit(query: Tensor, key: Tensor, value: Tensor, peak: int, largest: float) -> None:
    """Products of the same magnitude, so large and so cancelling that float32 can be wrong about any logit."""
    for tensor in (query, key):
        tensor[:] = tensor.sign() * min(largest, 1e9)


def cancel(query: Tensor, key: Tensor, value: Tensor, peak: int, largest: float) -> None:
    """Two products of 2^24 that cancel, with 62 too small to count between them in the odd keys."""
    query[:] = 1
    query[:, [0, -1]] = 2.0**12
    key.zero_()
    key[1::2] = 0.96875
    key[:, 0], key[:, -1] = 2.0**12, -(2.0**12)


PROFILES: dict[str, Profile] = {
    "sigma 1e-3": varied(unchanged, sigma=1e-3),
    "sigma 0.1": varied(unchanged, sigma=0.1),
    "sigma 1": varied(unchanged),
    "sigma 10": varied(unchanged, sigma=10.0),
    "dominant key": varied(dominate),
    "dominant key, value 0": varied(dominate_with_zero),
    "dominant key, value 0, one huge": varied(dominate_and_one_huge),
    "dominant key, value 0, others subnormal": varied(dominate_beyond_float32),
    "identical keys": varied(lambda query, key, value, *_: identical(key)),
    "identical keys and values": varied(lambda query, key, value, *_: identical(key, value)),
    "mixed norms": varied(mix_norms),
    "huge norms": varied(huge_norms),
    "tiny values": varied(tiny_values, sigma=0.5),
    "tiny values, wide logits": varied(tiny_values, sigma=6.0),
    "values at the limit": varied(values_at_the_limit, sigma=0.5),
    "cancelling products": varied(cancel),
    "logits at the limit": varied(logits_at_the_limit),
}
TILINGS = [(1, 8, 1), (2, 8, 5), (9, 8, 8), (33, 16, 3), (127, 16, 4), (255, 32, 1), (300, 64, 5)]
CAPS = [0.0, 1.0, 30.0, 50.0]
MODES = [(x, p, out) for x in DTYPES for p in dict.fromkeys((x, "float32")) for out in dict.fromkeys((x, "float32"))]


# Soundness: an independent float32 emulation of tiled split-KV attention stays within the bound.


@dataclass(frozen=True)
class Emulation:
    """A tiled split-KV decode kernel in float32: online softmax in a split, then online merging by lse.

    `rough`: sums one product after the other and takes exp as exp2 of a rounded product, as GPUs do.
    """

    rounding: dict[str, Any]
    scale: float
    cap: float
    rough: bool

    def exp(self, x: Tensor) -> Tensor:
        """Float32 exponential."""
        return torch.exp2(x * torch.tensor(1 / LN2, dtype=torch.float32)) if self.rough else torch.exp(x)

    def dot(self, a: Tensor, b: Tensor) -> Tensor:
        """Product of float32 matrices."""
        if self.rounding["dot_precision"] == "tf32":
            # Tensor cores cut the last 13 bits off.
            a, b = ((x.contiguous().view(torch.int32) & ~0x1FFF).view(torch.float32) for x in (a, b))
        if not self.rough:
            return a @ b
        total = torch.zeros(a.shape[0], b.shape[1])
        for i in range(a.shape[1]):
            total = total + a[:, i : i + 1] * b[i]
        return total

    def logits(self, query: Tensor, keys: Tensor) -> Tensor:
        """Scaled and capped; tanh as 2 sigmoid(2x) - 1."""
        logits = self.dot(query.float(), keys.float().T) * torch.tensor(self.scale, dtype=torch.float32)
        if not self.cap:
            return logits
        return self.cap * (2 * (1 / (1 + self.exp(-2 * (logits / self.cap)))) - 1)

    def merge(self, parts: Iterator[tuple[Tensor, Tensor, Tensor]]) -> tuple[Tensor, Tensor, Tensor]:
        """Combine (maximum, sum, weighted values) of parts, each relative to its maximum, as they come."""
        top, total, output = next(parts)
        for part_top, part_total, part_output in parts:
            new_top = torch.maximum(top, part_top)
            old, new = self.exp(top - new_top), self.exp(part_top - new_top)
            top, total, output = new_top, total * old + part_total * new, output * old + part_output * new
        return top, total, output

    def tiles(self, query: Tensor, keys: Tensor, values: Tensor) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        """The tiles of one split; p relative to the running maximum, and rounded before it meets the values."""
        top = torch.full((len(query), 1), -math.inf)
        step = self.rounding["block_n"]
        for start in range(0, len(keys), step):
            logits = self.logits(query, keys[start : start + step])
            top = torch.maximum(top, logits.amax(dim=1, keepdim=True))
            p = self.exp(logits - top)
            weighted = self.dot(p.to(DTYPES[self.rounding["p_dtype"]]).float(), values[start : start + step].float())
            yield top, p.sum(dim=1, keepdim=True), weighted

    def splits(self, query: Tensor, keys: Tensor, values: Tensor) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        """Each split as its lse and normalised output."""
        step = -(-len(keys) // self.rounding["num_kv_splits"])
        for start in range(0, len(keys), step):
            part = slice(start, start + step)
            top, total, output = self.merge(self.tiles(query, keys[part], values[part]))
            yield top + torch.log(total), torch.ones_like(total), output / total

    def run(self, query: Tensor, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """Output [g, Lv] and lse [g] of `query` [g, Lk], `keys` [n, Lk] and `values` [n, Lv]; the output not yet rounded."""
        top, total, output = self.merge(self.splits(query, keys, values))
        return output / total, (top + torch.log(total))[:, 0]


class Ratios(NamedTuple):
    """Worst |emulated - reference| / bound of one example, and the share of output elements whose bound is finite."""

    output: float
    lse: float
    finite: float


def ratios(dense: Dense, rounding: dict[str, Any], cap: float, out_dtype: torch.dtype, *, rough: bool) -> Ratios:
    """Compare an emulated kernel with the reference, on values of one KV head."""
    inputs = inputs_of(dense, cap=cap, out_dtype=out_dtype)
    query, keys, values = dense[0], dense[1][:, 0], dense[2][:, 0]

    output, lse = Emulation(rounding, inputs["sm_scale"], cap, rough).run(query, keys, values)
    expected = reference(inputs, rounding)["outputs"]

    output_ratio = _ratio(output.to(out_dtype), *expected["output"])
    finite = expected["output"][1].isfinite().double().mean()
    return Ratios(output_ratio, _ratio(lse, *expected["lse"]), float(finite))


def _ratio(actual: Tensor, value: Tensor, bound: Tensor) -> float:
    known = bound.isfinite()
    ratio = (actual.double() - value[0]).abs()[known[0]] / bound[known]
    assert value.isfinite().all()
    assert not bound.isnan().any()
    assert not ratio.isnan().any()
    return float(ratio.amax()) if len(ratio) else 0.0


def sweep(mode: tuple[str, str, str], precision: str, seed: int = 0) -> Iterator[tuple[str, Ratios]]:
    """All profiles and caps, each with three of the tilings and in turn accurate and rough: the profile and its ratios."""
    dtype, p_dtype, out_dtype = mode
    for turn, ((name, profile), cap, _) in enumerate(itertools.product(PROFILES.items(), CAPS, range(3)), start=seed):
        count, block_n, splits = TILINGS[turn % len(TILINGS)]
        query, keys, values = (x.to(DTYPES[dtype]) for x in profile(turn % 11 + seed, count, DTYPES[dtype]))
        rounding = rounding_of(p_dtype, block_n, splits, precision)
        yield name, ratios((query, keys, values), rounding, cap, DTYPES[out_dtype], rough=bool(turn % 2))


@pytest.mark.parametrize("precision", ["ieee", "tf32"])
@pytest.mark.parametrize("mode", MODES, ids="/".join)
def test_emulated_kernels_stay_within_a_bound_that_is_not_loose(
    mode: tuple[str, str, str], precision: str, record_property: Callable[[str, object], None]
) -> None:
    """No emulated element leaves its bound; ordinary values use a fair part of it, and it is finite."""
    found = list(sweep(mode, precision))

    worst_output, worst_lse = max(r.output for _, r in found), max(r.lse for _, r in found)
    record_property("worst output ratio", worst_output)
    record_property("worst lse ratio", worst_lse)
    assert worst_output <= 1
    assert worst_lse <= 1
    assert max(r.output for name, r in found if "limit" not in name) > 0.05
    assert max(r.lse for name, r in found if "limit" not in name) > 0.05
    assert all(r.finite == 1 for name, r in found if name != "values at the limit")


def test_unknowable_logits_leave_the_output_between_its_values() -> None:
    """Where float32 cannot tell the logits apart, the bound is the distance to the farthest value, and not infinite."""
    query, keys, values = random_dense(5)

    value, bound = reference(inputs_of((query * 1e12, keys * 1e12, values)), rounding_of())["outputs"]["output"]

    farthest = (values[:, 0].double() - value[0]).abs().amax(dim=0)
    assert torch.all(bound[0, 0] >= farthest)
    assert torch.all(bound[0, 0] <= 1.001 * farthest + 1e-4)


# Overflow: a bound may be infinite, and is never NaN.


def test_accumulator_that_may_overflow_has_no_bound() -> None:
    """Five values of a quarter of the largest number may add up beyond it before the division; the others are unaffected."""
    query, keys, values = random_dense(5)
    values[..., 0] = LARGEST / 4

    value, bound = reference(inputs_of((query, keys, values)), rounding_of())["outputs"]["output"]

    assert value.isfinite().all()
    assert bound[0, 0, 0] == math.inf
    assert bound[0, 0, 1:].amax() < 1e-3


def test_logits_that_may_overflow_have_no_bound() -> None:
    """Head 1 multiplies 1e25 by 1e25: its output and lse are free, those of head 0 are not."""
    query, keys, values = random_dense(5, heads=(2, 1))
    query[1] *= 1e25

    outputs = reference(inputs_of((query, keys * 1e25, values)), rounding_of())["outputs"]

    for value, bound in outputs.values():
        assert value.isfinite().all()
        assert bound[0, 0].isfinite().all()
        assert torch.all(bound[0, 1] == math.inf)


def test_half_output_that_may_round_to_infinity_has_no_bound() -> None:
    """65504 plus what p may have been rounded up by does not fit into float16."""
    query, keys, _ = random_dense(3)
    values = torch.tensor([65504.0, 1.0]).expand(3, 1, 2)
    half = (query.half(), keys.half(), values.half())

    _, bound = reference(inputs_of(half), rounding_of("float16"))["outputs"]["output"]

    assert bound[0, 0, 0] == math.inf
    assert bound[0, 0, 1] < 0.01


# The bound bites: what is wrong exceeds it.

COUNT = 100
BOUNDARIES = {
    "first key": 0,
    "end of a tile": 15,
    "start of a tile": 16,
    "end of a split": 24,
    "start of a split": 25,
    "end of a page": 31,
    "start of a page": 32,
    "last key": 99,
}
Outputs = dict[str, Tensor]


def peaked(dtype: torch.dtype, peak: int) -> Dense:
    """COUNT keys for heads 4 and 2; key `peak` takes about half of every head's weight."""
    query, keys, values = random_dense(COUNT, heads=(4, 2))
    towards = query * (5 * WIDTH**0.5 / query.square().sum(dim=1, keepdim=True))
    keys[peak] += towards.view(2, 2, WIDTH).sum(dim=1)
    return query.to(dtype), keys.to(dtype), values.to(dtype)


def plain_attention(dense: Dense, heads: Sequence[int] = (0, 0, 1, 1)) -> Outputs:
    """Float64 attention in which query head h reads KV head heads[h]."""
    query, keys, values = (x.double() for x in dense)
    logits = torch.einsum("hd,nhd->hn", query, keys[:, list(heads)]) * query.shape[1] ** -0.5
    output = torch.einsum("hn,nhd->hd", logits.softmax(dim=1), values[:, list(heads)])
    return {"output": output, "lse": logits.logsumexp(dim=1)}


def drop(dense: Dense, peak: int) -> Outputs:
    """Key `peak` forgotten."""
    kept = torch.arange(len(dense[1])) != peak
    return plain_attention((dense[0], dense[1][kept], dense[2][kept]))


def duplicate(dense: Dense, peak: int) -> Outputs:
    """Key `peak` counted twice."""
    keys, values = (torch.cat([x, x[peak : peak + 1]]) for x in dense[1:])
    return plain_attention((dense[0], keys, values))


def zero(dense: Dense, peak: int) -> Outputs:
    """An output that was never computed."""
    return plain_attention(dense) | {"output": torch.zeros(4, VALUE_WIDTH, dtype=torch.float64)}


def swap_heads(dense: Dense, peak: int) -> Outputs:
    """Heads 0 and 1, of one group, in each other's place."""
    return {name: value[[1, 0, 2, 3]] for name, value in plain_attention(dense).items()}


def base_2(dense: Dense, peak: int) -> Outputs:
    """The log-sum-exp as a base-2 logarithm."""
    right = plain_attention(dense)
    return right | {"lse": right["lse"] / LN2}


def interleave_heads(dense: Dense, peak: int) -> Outputs:
    """Query head h reads KV head h % Hkv."""
    return plain_attention(dense, heads=(0, 1, 0, 1))


ALL = (0, 1, 2, 3)
MUTANTS = {
    drop: {"output": ALL, "lse": ALL},
    duplicate: {"output": ALL, "lse": ALL},
    zero: {"output": ALL, "lse": ()},
    swap_heads: {"output": (0, 1), "lse": (0, 1)},
    base_2: {"output": (), "lse": ALL},
    interleave_heads: {"output": (1, 2), "lse": (1, 2)},
}
"""Every mutant with the heads in which each output must show it, and no other may."""


def exceeding(mutant: Tensor, value: Tensor, bound: Tensor) -> tuple[int, ...]:
    """Heads of which an element of `mutant` lies outside the bound of a one-row reference."""
    outside = ((mutant - value[0]).abs() > bound[0]).view(len(mutant), -1)
    return tuple(torch.nonzero(outside.any(dim=1))[:, 0].tolist())


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("peak", BOUNDARIES.values(), ids=BOUNDARIES)
def test_mutants_exceed_the_bound(dtype: str, peak: int) -> None:
    """A kernel wrong about the peaked key, about heads or about units is seen in exactly the heads that it gets wrong."""
    dense = peaked(DTYPES[dtype], peak)

    expected = reference(inputs_of(dense), rounding_of(dtype))["outputs"]

    for name, value in plain_attention(dense).items():
        torch.testing.assert_close(expected[name][0][0], value, rtol=1e-12, atol=1e-13)
    for mutant, visible in MUTANTS.items():
        outputs = mutant(dense, peak)
        assert {name: exceeding(outputs[name], *expected[name]) for name in outputs} == visible, mutant.__name__


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("count", [127, 700, 2049])
def test_any_ordinary_key_is_seen_in_the_lse(dtype: str, count: int) -> None:
    """Forgetting any one of many like keys may hide in a bf16 output, but in no lse."""
    query, keys, values = (x.to(DTYPES[dtype]) for x in random_dense(count, heads=(4, 2)))

    result = reference(inputs_of((query, keys, values)), rounding_of(dtype))

    assert result["conclusive"]
    for key in range(0, count, count // 7):
        assert exceeding(drop((query, keys, values), key)["lse"], *result["outputs"]["lse"]) == ALL


@pytest.mark.parametrize(("peak", "expected"), [(0, False), (COUNT - 1, True)])
def test_conclusive_tells_whether_a_dropped_last_key_shows(peak: int, expected: bool) -> None:
    """A last key of negligible weight hides, one that dominates does not."""
    query, keys, values = random_dense(COUNT)
    keys[peak] = 20 * query

    assert reference(inputs_of((query, keys, values)), rounding_of())["conclusive"] is expected


def test_one_visible_row_makes_a_case_conclusive() -> None:
    """A row of one key, without which nothing is left, shows what a longer row hides."""
    query, keys, values = random_dense(COUNT)
    keys[0] = 20 * query
    long, short = (query, keys, values), (query, keys[:1], values[:1])

    assert reference(inputs_of(long, long), rounding_of())["conclusive"] is False
    assert reference(inputs_of(long, short), rounding_of())["conclusive"] is True


def test_case_without_bounds_is_inconclusive() -> None:
    """What may overflow everywhere proves nothing."""
    query, keys, values = random_dense(5)

    assert reference(inputs_of((query * 1e25, keys * 1e25, values)), rounding_of())["conclusive"] is False
