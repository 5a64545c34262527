"""Constructs that the generator can leave out; `ENABLED` is what it draws."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Features:
    """Each is drawn where it is True.

    `atomics`: integer tl.atomic_*; programs share cells where the old value is not used, else each lane has its own.
    `scans`: tl.cumsum and tl.cumprod of integers, along any axis, either way.
    `joins`: tl.join and tl.split.
    `gathers`: tl.gather along any axis.
    `sorts`: tl.sort of integers along the last axis.
    `noinline`: helpers of scalars that stay functions of their own.
    """

    atomics: bool = False
    scans: bool = False
    joins: bool = False
    gathers: bool = False
    sorts: bool = False
    noinline: bool = False


ENABLED = Features(atomics=True, scans=True, joins=True, gathers=True, sorts=True, noinline=True)
