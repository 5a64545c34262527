"""What Triton makes of FP8 conversions for each target: native, emulated, forbidden or wrong, from `fp8_casts.json`.

The data is what `tools/fp8_table.py` read from the machine code that Triton's releases emit; docs/reference/fp8.md has it as
tables, and says how it was established. Light to import: neither torch nor Triton.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

DATA = Path(__file__).with_name("fp8_casts.json")
NATIVE, EMULATED, FORBIDDEN, WRONG, UNKNOWN = "native", "emulated", "forbidden", "wrong", "unknown"
FORMATS = ("f8E4M3FN", "f8E4M3FNUZ", "f8E5M2", "f8E5M2FNUZ")
"""MLIR's names, as they stand in TTIR and TTGIR."""


@dataclass(frozen=True, kw_only=True)
class Conversion:
    """What Triton makes of a conversion for a target.

    `kind`: NATIVE, EMULATED, FORBIDDEN, WRONG, or UNKNOWN for what was not probed. `evidence`: the instructions, or the
    compiler's message. `stage`: who forbids: "refused" by the front end, "fails" or "aborts" in the back end. `factor`: a wrong
    result over the right one. `release`: of Triton, that was probed; "" if unknown.
    """

    kind: str
    evidence: str = ""
    stage: str = ""
    factor: float = 1.0
    release: str = ""

    @property
    def is_right(self) -> bool:
        """Whether it compiles, and converts what it says."""
        return self.kind in {NATIVE, EMULATED}


def conversion(target: str, source: str, result: str, release: str | None = None, *, toward_zero: bool = False) -> Conversion:
    """What `release` (the installed one by default, or else the nearest that was probed) makes of a cast for `target`.

    `source`, `result`: MLIR's names of the elements, one of which at least is of `FORMATS`.
    """
    return _made_of(f"cast {source} {result} {'rtz' if toward_zero else '-'}", target, release)


def constant(target: str, result: str, release: str | None = None) -> Conversion:
    """Likewise of `tl.full` in FP8 with a number that the format does not have, for which the front end emits arith.truncf."""
    return _made_of(f"full {result}", target, release)


def product(target: str, left: str, right: str, release: str | None = None) -> Conversion:
    """Likewise of `tl.dot` of blocks of 64 x 64 of two FP8 formats: emulated where the operands are converted first."""
    return _made_of(f"dot {left} {right}", target, release)


def _made_of(probe: str, target: str, release: str | None) -> Conversion:
    known = _table().get((probe, target))
    return Conversion(kind=UNKNOWN) if known is None else known[_nearest(release or installed(), tuple(known))]


def installed() -> str:
    """The version of the Triton that is installed."""
    import triton  # noqa: PLC0415 - not needed where the caller names the release

    return str(triton.__version__)


@lru_cache(maxsize=1)
def _table() -> dict[tuple[str, str], dict[str, Conversion]]:
    """By probe and target: what each release that was probed makes of it."""
    table: dict[tuple[str, str], dict[str, Conversion]] = {}
    for row in json.loads(DATA.read_text(encoding="utf-8"))["rows"]:
        for target in row["targets"].split():
            releases = table.setdefault((row["probe"], target), {})
            for release in row["releases"].split():
                releases[release] = _conversion(row, release)
    return table


def _conversion(row: dict[str, Any], release: str) -> Conversion:
    return Conversion(
        kind=row["kind"],
        evidence=row["evidence"],
        stage=row.get("stage", ""),
        factor=row.get("factor", 1.0),
        release=release,
    )


def _nearest(release: str, probed: tuple[str, ...]) -> str:
    """The release of `probed` whose minor version is closest to that of `release`, then its patch; of two, the older one."""
    major, minor, patch = _numbers(release)

    def distance(known: str) -> tuple[int, int, int, tuple[int, int, int]]:
        other = _numbers(known)
        return abs(other[0] - major), abs(other[1] - minor), abs(other[2] - patch), other

    return min(probed, key=distance)


def _numbers(release: str) -> tuple[int, int, int]:
    """(3, 7, 1) of 3.7.1+rocm7.0."""
    found = [int(part) for part in re.findall(r"\d+", release.partition("+")[0])[:3]]
    major, minor, patch = [*found, 0, 0, 0][:3]
    return major, minor, patch
