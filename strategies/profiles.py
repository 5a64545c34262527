"""Value profiles: what queries, keys and values hold, so that a wrong result is also a visible one.

With benign values a dropped key hides among hundreds; with a key that outweighs all others, placed where kernels change
their course, it cannot. All arithmetic is elementwise in float32, so the bits are the same on every machine.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from hypothesis import strategies as st

from tridiff.harness.api import Domain, gaussian, integers, words
from tridiff.strategies.draws import UNLIMITED, allowed, choose
from tridiff.strategies.lengths import TILE_SIZES, cdiv

PATTERNS = {
    **{"gaussian": 6, "peaked": 10, "sink": 1, "identical": 2, "mixed_norms": 2},
    **{"near_duplicates": 1, "one_hot": 1, "constant": 1, "limits": 1},
}
"""See `key_values`."""

SIGMAS = {1.0: 5, 0.1: 1, 10.0: 2, 100.0: 1, 1e-3: 1, 1e-6: 1}
"""Standard deviations; queries always have 1, so that of the keys is also that of the logits. 100: huge norms, 1e-6: tiny."""

VALUE_SIGMAS = {1.0: 6, 0.1: 1, 10.0: 1, 100.0: 1, 1e-3: 1, 1e-6: 1}
"""Standard deviations of the values."""

QUIET_SIGMAS = {1.0: 3, 0.1: 1, 1e-3: 1}
"""Those of the other keys beside a peak, which they must not drown."""

PEAK_HEIGHTS = {10.0: 3, 30.0: 2, 300.0: 1}
"""Logit of a peak before any cap; at 300 every other probability underflows in float32."""

PEAKS = {
    **{"last": 3, "first": 1, "before_page": 1, "after_page": 1, "before_split": 1, "after_split": 1},
    **{"before_tile": 1, "after_tile": 1, "anywhere": 1},
}
"""Where the peak of a row lies: at an end, as the last key before or the first after a boundary, or anywhere."""

LOGIT_CAPS = {0.0: 6, 50.0: 1, 30.0: 1, 1.0: 1}
SCALE_FACTORS = {1.0: 5, 0.5: 1, 2.0: 1}

MAX_SIGMA = 100.0
MAX_HEIGHT = 1000.0
MIN_SCALE_FACTOR = 0.1
_NORMS = (1e-3, 1e2)
_CHUNK = 2**13

# Mean of |x| for the sum of four uniforms that `gaussian` yields, computed by summation over 4 million values.
MEAN_MAGNITUDE = 0.8087


def _any(_: float) -> bool:
    return True


@st.composite
def profile_fields(
    draw: st.DrawFn,
    *,
    suits_keys: Callable[[float], bool] = _any,
    suits_values: Callable[[float], bool] = _any,
    domain: Domain = UNLIMITED,
) -> dict[str, Any]:
    """`pattern`, `sigma` (of keys), `value_sigma`, `peak_at`, `peak_height`, `logit_cap` and `scale_factor`.

    Peaks are drawn only where the pattern has one. `suits_keys`, `suits_values`: which standard deviations are on offer.
    `domain`: what it allows for the facets `pattern`, `logit_cap` and `scale_factor`. Simplest: gaussian, standard
    deviation 1, no cap.
    """
    pattern = draw(choose(allowed(PATTERNS, domain, "pattern")))
    fields: dict[str, Any] = {"pattern": pattern}
    if has_peak(pattern):
        fields["peak_at"] = draw(choose(PEAKS))
        fields["peak_height"] = draw(choose(PEAK_HEIGHTS))
    fields["sigma"] = draw(choose(QUIET_SIGMAS if has_peak(pattern) else SIGMAS, suits_keys))
    fields["value_sigma"] = draw(choose(VALUE_SIGMAS, suits_values))
    fields["logit_cap"] = draw(choose(allowed(LOGIT_CAPS, domain, "logit_cap")))
    fields["scale_factor"] = draw(choose(allowed(SCALE_FACTORS, domain, "scale_factor")))
    return fields


def has_peak(pattern: str) -> bool:
    """Whether one key of every row outweighs the others."""
    return pattern in {"peaked", "sink"}


def normals(seed: int, name: str, shape: Sequence[int]) -> torch.Tensor:
    """float32 tensor of `shape` of standard normals, from a stream per chunk: seven times as fast for large tensors."""
    count = math.prod(shape)
    chunks = [gaussian(seed, f"{name}/{start}", [min(_CHUNK, count - start)]) for start in range(0, count, _CHUNK)]
    return torch.cat(chunks or [torch.empty(0)]).reshape(tuple(shape))


def query_values(pattern: str, seed: int, shape: tuple[int, int, int], num_kv_heads: int) -> torch.Tensor:
    """float32 [rows, query heads, width], standard normal.

    Beside a peak, signs are those of the KV head's direction, so that all heads of a group meet the peak at its height.
    """
    values = normals(seed, "query", shape)
    if not has_peak(pattern):
        return values
    direction = _direction(seed, num_kv_heads, shape[2])
    return values.abs() * direction.repeat_interleave(shape[1] // num_kv_heads, dim=0)


def key_values(
    pattern: str,
    sigma: float,
    seed: int,
    shape: tuple[int, int, int],
    peaks: Sequence[int],
    peak_dot: float,
    *,
    limit: float = 0.0,
) -> torch.Tensor:
    """float32 [slots, KV heads, width], normal with standard deviation `sigma`, changed by `pattern`.

    "gaussian": nothing. "peaked", "sink": keys in slots `peaks` are raised so that their product with any query is
    about `peak_dot`. "identical": all keys of a head are equal; "near_duplicates": up to 1/64 of their norm. "mixed_norms":
    every key is scaled by 1e-3 or 1e2. "one_hot": one element of a key is not zero. "constant": one number is every element.
    "limits": every eighth element is `limit` or -`limit`, unless that is 0.
    """
    slots, num_heads, width = shape
    if pattern in {"identical", "near_duplicates"}:
        common = (normals(seed, "key", (1, num_heads, width)) * sigma).expand(shape)
        return common if pattern == "identical" else common + normals(seed, "difference", shape) * (sigma / 64)
    values = normals(seed, "key", shape) * sigma
    if pattern == "mixed_norms":
        return values * _norms(seed, slots)
    if pattern == "limits" and limit:
        return _limited(values, limit, seed)
    if pattern == "one_hot":
        hot = torch.from_numpy(integers(seed, "hot", slots * num_heads, width)).reshape(slots, num_heads, 1)
        return torch.where(torch.arange(width) == hot, values * math.sqrt(width), 0.0)
    if pattern == "constant":
        return torch.full(shape, sigma)
    if has_peak(pattern):
        step = peak_dot / (width * MEAN_MAGNITUDE)
        values[sorted(set(peaks))] += _direction(seed, num_heads, width) * step
    return values


def value_values(
    pattern: str, sigma: float, seed: int, shape: tuple[int, int, int], peaks: Sequence[int], limit: float
) -> torch.Tensor:
    """float32 [slots, KV heads, width], normal with standard deviation `sigma`.

    "mixed_norms": scaled like the keys. "sink": zero in slots `peaks`, as attention sinks nearly are. "constant": `sigma`
    everywhere, which is then the output as well. "limits": every eighth element is `limit` or -`limit`.
    """
    values = normals(seed, "value", shape) * sigma
    if pattern == "limits":
        return _limited(values, limit, seed)
    if pattern == "constant":
        return torch.full(shape, sigma)
    if pattern == "mixed_norms":
        return values * _norms(seed, shape[0])
    if pattern == "sink":
        values[sorted(set(peaks))] = 0.0
    return values


def peak_position(peak_at: str, length: int, *, page_size: int, num_kv_splits: int, pick: int) -> int:
    """Position of the peak of a row of `length` >= 1 keys; `pick`, any number, selects among the boundaries of its kind.

    A row without such a boundary has its peak at the end.
    """
    if peak_at == "first":
        return 0
    if peak_at == "anywhere":
        return pick % length
    side, _, kind = peak_at.partition("_")
    inside = _boundaries(kind, length, page_size, num_kv_splits, pick)
    if not inside:
        return length - 1
    return inside[pick % len(inside)] - (1 if side == "before" else 0)


def picks(seed: int, rows: int) -> list[int]:
    """Draw a number for each row, for `peak_position`."""
    return [int(pick) for pick in integers(seed, "peaks", rows, 2**31)]


def _boundaries(kind: str, length: int, page_size: int, num_kv_splits: int, pick: int) -> range | list[int]:
    """Positions in (0, length) at which a page, split or tile begins; none for kind "" ("last")."""
    if kind == "page":
        return range(page_size, length, page_size)
    split = cdiv(length, num_kv_splits)
    if kind == "split":
        return range(split, length, split)
    if kind == "tile":
        tile = TILE_SIZES[(pick >> 16) % len(TILE_SIZES)]
        starts = range(0, length, split)
        return [at for start in starts for at in range(start + tile, min(start + split, length), tile)]
    return []


def _direction(seed: int, num_heads: int, width: int) -> torch.Tensor:
    """float32 [heads, width] of signs, one direction per KV head, the same for all rows because rows can share keys."""
    bits = (words(seed, "direction", num_heads * width) & np.uint64(1)).astype(np.float32)
    return torch.from_numpy(bits * np.float32(2.0) - np.float32(1.0)).reshape(num_heads, width)


def _limited(values: torch.Tensor, limit: float, seed: int) -> torch.Tensor:
    """`values` with about every eighth element at `limit` times its sign."""
    at_limit = torch.from_numpy(integers(seed, "limits", values.numel(), 8) == 0).reshape(values.shape)
    return torch.where(at_limit, torch.sign(values) * limit, values)


def _norms(seed: int, slots: int) -> torch.Tensor:
    """float32 [slots, 1, 1]: the norm of each token, which its key and its value share."""
    large = integers(seed, "norms", slots, 2).astype(bool)
    return torch.from_numpy(np.where(large, np.float32(_NORMS[1]), np.float32(_NORMS[0])))[:, None, None]
