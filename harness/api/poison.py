"""Poison: what fills every byte that a kernel must not let influence its result."""

from __future__ import annotations

import enum

import torch

RAW = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
"""Integer dtype of a given item size in bytes, for comparing memory bit for bit."""


class Poison(enum.Enum):
    """`LOUD`: NaN for floats and a huge positive index for integers, which a wrong kernel shows at once.

    `QUIET`: a finite float and a negative index: what survives a NaN-swallowing maximum shows here, because the result
    differs from that under `LOUD`.
    """

    LOUD = "loud"
    QUIET = "quiet"


class Zone(enum.Enum):
    """Whose memory it is; each zone has a NaN payload of its own, so that a copied poison is told from a kept one."""

    INPUT = 0
    OUTPUT = 1
    SCRATCH = 2


# Quiet NaNs whose payload names the zone, none of them one that conversions or invalid operations produce.
_NAN = {
    torch.float64: (0x7FF85A5A5A5A5A5A, 0x7FF8353535353535, 0x7FF82E2E2E2E2E2E),
    torch.float32: (0x7FC05A5A, 0x7FC03535, 0x7FC02E2E),
    torch.bfloat16: (0x7FDA, 0x7FD5, 0x7FCE),
    torch.float16: (0x7E5A, 0x7E35, 0x7E2E),
}
# FP8 formats have one or few NaN codes: e4m3fn 0x7f, e4m3fnuz and e5m2fnuz 0x80, e5m2 0x7d-0x7f (OCP FP8 and its FNUZ variant).
_NAN_FP8 = {torch.float8_e4m3fn: 0x7F, torch.float8_e4m3fnuz: 0x80, torch.float8_e5m2: 0x7E, torch.float8_e5m2fnuz: 0x80}
_QUIET_VALUE = 30000.0
_QUIET_FP8 = 0x5B


def pattern(dtype: torch.dtype, poison: Poison, zone: Zone) -> int:
    """The bit pattern, as a signed integer of the item size, that fills poisoned elements of `dtype`."""
    if poison is Poison.QUIET:
        return _quiet(dtype)
    if dtype in _NAN:
        return _signed(_NAN[dtype][zone.value], dtype.itemsize)
    if dtype in _NAN_FP8:
        return _signed(_NAN_FP8[dtype], 1)
    return int.from_bytes(bytes([0x7A - zone.value] * dtype.itemsize), "little", signed=True)


def _quiet(dtype: torch.dtype) -> int:
    if dtype in _NAN:
        return int(torch.tensor(_QUIET_VALUE, dtype=dtype).view(RAW[dtype.itemsize]).item())
    if dtype in _NAN_FP8:
        return _QUIET_FP8
    return int.from_bytes(bytes([0x85] * dtype.itemsize), "little", signed=True)


def _signed(bits: int, itemsize: int) -> int:
    return int.from_bytes(bits.to_bytes(itemsize, "little"), "little", signed=True)
