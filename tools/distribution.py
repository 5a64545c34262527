"""Print what the cases of runs were, as the table in the README: `python tools/distribution.py RUN.json...`.

Each RUN.json is what `tridiff fuzz --json` printed; runs of the same Op are added up. Shares are percent of the Op's cases, in
the order that the heading names. Exit status: 0; 2 for a file that is no such document.
"""

from __future__ import annotations

import json
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tridiff.strategies.properties import OFFERED_BLOCK_CLASSES

NARROW = ("same", "bfloat16", "float16", "float32")
"""Cache dtypes of which a code is a number as it is; the others have scales."""

HEADINGS = (
    "op",
    "cases",
    f"page size: {' / '.join(OFFERED_BLOCK_CLASSES)}",
    "strided",
    "bfloat16 / float16 / float32 / FP8",
    "cache with scales: e4m3fnuz / e4m3fn / e5m2 / int8",
    "group: 1 / power of two / other",
    "window",
    "sinks",
)

Counts = Mapping[str, Mapping[str, int]]
"""How often each word of each property was counted."""


def main(paths: Sequence[str]) -> int:
    """Print the table of the runs in `paths`."""
    totals: dict[str, dict[str, Counter[str]]] = {}
    cases: Counter[str] = Counter()
    for path in paths:
        kernels = _kernels(path)
        if kernels is None:
            print(f"distribution: {path}: not what `tridiff fuzz --json` prints: give such documents", file=sys.stderr)
            return 2
        for kernel in kernels:
            cases[kernel["op"]] += kernel["cases"]
            for name, words in kernel["properties"].items():
                totals.setdefault(kernel["op"], {}).setdefault(name, Counter()).update(words)
    print(_line(HEADINGS), _line(["---"] * len(HEADINGS)), sep="\n")
    for op in sorted(totals):
        print(_line([f"`{op}`", f"{cases[op]:,}", *_shares(totals[op])]))
    return 0


def _kernels(path: str) -> list[dict[str, Any]] | None:
    """The kernels of the run, or None where `path` is no such document."""
    try:
        document = json.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    kernels = document.get("kernels") if isinstance(document, dict) else None
    return kernels if isinstance(kernels, list) else None


def _shares(counts: Counts) -> list[str]:
    dtypes = {name if name in NARROW else "FP8": 0 for name in counts["dtype"]}
    for name, count in counts["dtype"].items():
        dtypes[name if name in NARROW else "FP8"] += count
    groups = Counter[str]()
    for group, count in counts.get("group", {}).items():
        size = int(group)
        groups["1" if size == 1 else "other" if size & (size - 1) else "power of two"] += count
    return [
        _of(counts["block_class"], OFFERED_BLOCK_CLASSES),
        _but(counts["layout_class"], "packed"),
        _of(dtypes, ("bfloat16", "float16", "float32", "FP8")),
        _of(counts["cache_dtype"], ("float8_e4m3fnuz", "float8_e4m3fn", "float8_e5m2", "int8")),
        _of(groups, ("1", "power of two", "other")),
        _but(counts.get("window", {}), "none"),
        _but(counts.get("sinks", {}), "none"),
    ]


def _of(counts: Mapping[str, int], words: Sequence[str]) -> str:
    total = sum(counts.values())
    return " / ".join(_percent(counts.get(word, 0), total) for word in words) if total else "-"


def _but(counts: Mapping[str, int], last_word: str) -> str:
    """Of the cases whose word does not end so."""
    total = sum(counts.values())
    return _percent(sum(count for word, count in counts.items() if not word.endswith(last_word)), total) if total else "-"


def _percent(count: int, total: int) -> str:
    share = 100 * count / total
    return "0" if not count else "<1" if share < 0.5 else f"{share:.0f}"


def _line(cells: Sequence[Any]) -> str:
    return f"| {' | '.join(map(str, cells))} |"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
