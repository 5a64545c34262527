"""Tensor values from an integer counter generator: the same bits on every machine, device and library version.

Element i of a tensor is a function of (seed, tensor name, i) alone. The mixing function is SplitMix64's finaliser
(Steele, Lea and Flood, "Fast splittable pseudorandom number generators", OOPSLA 2014).
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_MIX_1 = np.uint64(0xBF58476D1CE4E5B9)
_MIX_2 = np.uint64(0x94D049BB133111EB)
_FIELD = np.uint64(0xFFFF)


def words(seed: int, name: str, count: int) -> npt.NDArray[np.uint64]:
    """`count` 64-bit words of the stream (seed, name)."""
    digest = hashlib.blake2b(f"{seed}/{name}".encode(), digest_size=8).digest()
    start = np.uint64(int.from_bytes(digest, "little"))
    with np.errstate(over="ignore"):
        x = start + _GOLDEN * np.arange(1, count + 1, dtype=np.uint64)
        x = (x ^ (x >> np.uint64(30))) * _MIX_1
        x = (x ^ (x >> np.uint64(27))) * _MIX_2
    return np.asarray(x ^ (x >> np.uint64(31)))


def gaussian(seed: int, name: str, shape: Sequence[int]) -> torch.Tensor:
    """float32 tensor of `shape`, mean 0 and variance 1: the sum of four 16-bit uniforms of one word, centred and scaled.

    The sum is exact integer arithmetic and the scaling is one rounding, so no machine can disagree. |value| < 3.47.
    """
    word = words(seed, name, math.prod(shape))
    total = sum((word >> np.uint64(shift)) & _FIELD for shift in (0, 16, 32, 48))
    centred = np.asarray(total, dtype=np.int64) - 2 * 0xFFFF
    # Var of one 16-bit uniform is (2^32 - 1) / 12; four of them add up.
    scale = np.float32(1.0 / math.sqrt((2**32 - 1) / 3.0))
    return torch.from_numpy(centred.astype(np.float32) * scale).reshape(tuple(shape))


def uniform(seed: int, name: str, shape: Sequence[int], low: float, high: float) -> torch.Tensor:
    """float32 tensor of `shape` with values in [low, high), 24 bits of resolution."""
    fraction = (words(seed, name, math.prod(shape)) >> np.uint64(40)).astype(np.float32) * np.float32(2.0**-24)
    return torch.from_numpy(fraction * np.float32(high - low) + np.float32(low)).reshape(tuple(shape))


def integers(seed: int, name: str, count: int, bound: int) -> npt.NDArray[np.int64]:
    """`count` integers in [0, bound); the modulo bias (below bound / 2^64) is immaterial here."""
    return np.asarray(words(seed, name, count) % np.uint64(bound), dtype=np.int64)


def permutation(seed: int, name: str, count: int) -> npt.NDArray[np.int64]:
    """A permutation of range(count): the stable order of the stream's words."""
    return np.argsort(words(seed, name, count), kind="stable").astype(np.int64)
