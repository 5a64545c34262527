"""Which grids production's launcher starts, and what it raises for the others.

Facts measured on an H200 with Triton 3.6.0: sizes are C ints, so 2^31 is an OverflowError and 2.0 a TypeError; y and z end
at 65,535; the number of programs is computed in 32 bits, and where it comes out as zero or negative nothing is launched and
nothing said: (65536, 32768) runs no program. On AMD, from Triton's launcher and AMD's documentation, unverified on hardware:
a launch is left out only where that number comes out as zero; HIP takes fewer than 2^32 work-items along an axis, so that x
ends at 2^32 / (threads of a program) - 1; y and z end at 65,535, which ROCm did not enforce before 7.2, but which Triton's
range analysis relies on.
"""

from __future__ import annotations

import operator
from collections.abc import Sequence
from typing import Any

from triton.backends.compiler import GPUTarget
from triton.runtime.errors import OutOfResources

from tridiff.harness.targets.table import known, name_of

MAX_YZ = 65_535
MAX_X = 2**31 - 1


def launched_grid(grid: Sequence[Any], target: GPUTarget, options: Any) -> tuple[int, int, int]:
    """The grid to execute, (0, 0, 0) where production would rightly launch nothing.

    Raises what production's launcher raises (TypeError, OverflowError, OutOfResources, RuntimeError), and RuntimeError, too,
    for a grid with programs of which production would silently start none.
    """
    threads = options.num_warps * target.warp_size
    most = known()[name_of(target.backend, target.arch)].threads
    if threads > most:
        raise OutOfResources(threads, most, "threads")
    x, y, z = (_c_int(size) for size in grid)
    counted = _c_wrapped(x * y * z)
    if counted == 0 or (counted < 0 and target.backend == "cuda"):
        if min(x, y, z) > 0:
            raise RuntimeError(
                f"grid {(x, y, z)} has {x * y * z} programs: Triton's launcher counts them in 32 bits, gets {counted} and "
                "silently starts none; launch fewer programs"
            )
        return (0, 0, 0)
    limit = _limit_x(target, threads, options.num_ctas)
    if not (0 < x <= limit and 0 < y <= MAX_YZ and 0 < z <= MAX_YZ):
        raise RuntimeError(
            f"Triton Error [{target.backend.upper()}]: invalid argument: the grid {(x, y, z)} is not within "
            f"{(limit, MAX_YZ, MAX_YZ)}, what {target.arch} takes of programs of {threads} threads"
        )
    return x, y, z


def _limit_x(target: GPUTarget, threads: int, clusters: int) -> int:
    if target.backend == "cuda":
        return MAX_X // clusters
    return min(MAX_X, (2**32 - 1) // threads) // clusters


def _c_int(size: Any) -> int:
    value = operator.index(size)
    if not -(2**31) <= value < 2**31:
        raise OverflowError(
            f"signed integer is {'greater than maximum' if value > 0 else 'less than minimum'}: grid size {value}"
        )
    return value


def _c_wrapped(value: int) -> int:
    return (value + 2**31) % 2**32 - 2**31
