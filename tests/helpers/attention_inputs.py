"""Inputs of decode_attention for tests of its reference: rows of dense values, hostile value profiles, FP8 codes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

Dense = tuple[Tensor, Tensor, Tensor]
"""Query [Hq, Lk], keys [n, Hkv, Lk] and values [n, Hkv, Lv] of one row."""


def gaussian(seed: int, *shape: int) -> Tensor:
    """Float32 normal values; every call with one seed and shape gives the same."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def random_dense(count: int, heads: tuple[int, int] = (1, 1), widths: tuple[int, int] = (64, 16)) -> Dense:
    """Gaussian float32 values of `count` keys, `heads` (query, KV) and `widths` (Lk, Lv)."""
    query = gaussian(0, heads[0], widths[0])
    return query, gaussian(1, count, heads[1], widths[0]), gaussian(2, count, heads[1], widths[1])


def inputs_of(
    *rows: Dense,
    cap: float = 0.0,
    out_dtype: torch.dtype | None = None,
    scales: tuple[float | None, float | None] = (None, None),
    is_mla: bool = False,
) -> dict[str, Any]:
    """Launcher arguments for `rows`, a page per row; their number of keys may differ. `scales`: of FP8 keys and values."""
    lengths = [len(keys) for _, keys, _ in rows]
    query = torch.stack([query for query, _, _ in rows])
    keys, values = (padded([row[i] for row in rows]) for i in (1, 2))
    width = values.shape[-1]
    key_scale, value_scale = (None if scale is None else torch.tensor(scale, dtype=torch.float32) for scale in scales)
    return {
        "query": query,
        "key_cache": keys,
        "value_cache": keys[..., :width] if is_mla else values,
        "block_table": torch.arange(len(rows), dtype=torch.int32)[:, None],
        "seq_lens": torch.tensor(lengths, dtype=torch.int32),
        "output": torch.empty((*query.shape[:2], width), dtype=out_dtype or query.dtype),
        "lse": torch.empty(query.shape[:2]),
        "sm_scale": query.shape[-1] ** -0.5,
        "logit_cap": cap,
        "page_size": max(lengths),
        "num_kv_splits": 4,
        "platform": "hip",
        "k_scale": key_scale,
        "v_scale": key_scale if is_mla else value_scale,
        "is_mla": is_mla,
    }


def padded(tensors: Sequence[Tensor]) -> Tensor:
    """Tensors [n, ...] of different n, one above the other; what is missing is 0."""
    result = torch.zeros((len(tensors), max(map(len, tensors)), *tensors[0].shape[1:]), dtype=tensors[0].dtype)
    for row, tensor in zip(result, tensors, strict=True):
        row[: len(tensor)] = tensor
    return result


def rounding_of(
    p_dtype: str = "float32", block_n: int = 16, splits: int = 4, precision: str = "ieee", dequantised: str = "float32"
) -> dict[str, Any]:
    """What a kernel declares."""
    return {
        "p_dtype": p_dtype,
        "block_n": block_n,
        "num_kv_splits": splits,
        "dot_precision": precision,
        "dequantised": dequantised,
    }


def codes(numbers: Tensor, scale: float, dtype: torch.dtype) -> Tensor:
    """FP8 codes of `numbers` / `scale`, clamped to what the dtype holds."""
    largest = torch.finfo(dtype).max
    return (numbers.float() / scale).clamp(-largest, largest).to(dtype)


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


def dominate_by(distance: float) -> Callable[[Tensor, Tensor, Tensor, int, float], None]:
    """One key of value 0, in every head some `distance` above the others: what they weigh, almost alike, is all there is."""

    def change(query: Tensor, key: Tensor, value: Tensor, peak: int, largest: float) -> None:
        query[:] = query[:1]
        key.mul_(0.05)
        key[peak] = query[0] * (distance * WIDTH**0.5 / float(query[0] @ query[0]))
        value[peak] = 0

    return change


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
    "dominant key, value 0, others nearly 0": varied(dominate_by(98.0)),
    "dominant key, value 0, others subnormal": varied(dominate_by(88.0)),
    "dominant key, value 0, others subnormal in float16": varied(dominate_by(10.0)),
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
