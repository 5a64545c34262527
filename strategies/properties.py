"""Words for what reports count of Cases (`Op.properties`): classes of blocks, groups and lengths."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from tridiff.harness.api import Property

BLOCK_CLASSES = ("16 or 32", "power of two", "whole tiles", "straddled", "odd")
"""Page sizes by what they ask of a kernel. "16 or 32": what native kernels serve. "power of two": any other, which a tile may be
as large as. "whole tiles": multiples of 32. "straddled": other multiples of 16, where tiles of 32 lie across two pages. "odd":
the rest, which backends do not offer."""

OFFERED_BLOCK_CLASSES = BLOCK_CLASSES[:-1]
"""Those of page sizes that backends offer."""

GROUPS = ("1", "power of two", "other")
"""Query heads that share a KV head."""

LENGTHS = ("0", "1", "up to a page", "several pages")
"""The longest row in pages."""


def block_class(page_size: int) -> str:
    """Which of `BLOCK_CLASSES`."""
    if page_size in {16, 32}:
        return "16 or 32"
    if is_power_of_two(page_size):
        return "power of two"
    return "whole tiles" if page_size % 32 == 0 else "odd" if page_size % 16 else "straddled"


def of_block(words: tuple[str, ...] = OFFERED_BLOCK_CLASSES) -> Property:
    """The property `block_class` of Cases with a `page_size`."""
    return Property(lambda case: block_class(case.page_size), words)


def group_class(group_size: int) -> str:
    """Which of `GROUPS`."""
    return "1" if group_size == 1 else "power of two" if is_power_of_two(group_size) else "other"


def length_class(lengths: Iterable[int], page_size: int) -> str:
    """Which of `LENGTHS`."""
    longest = max(lengths, default=0)
    return str(longest) if longest < 2 else "up to a page" if longest <= page_size else "several pages"


def is_power_of_two(number: int) -> bool:
    """Whether a positive number is one."""
    return number & (number - 1) == 0


def of_field(name: str, words: Iterable[Any]) -> Property:
    """The value of a field of the Case, spelt out; `words`: the values that are drawn."""
    return Property(_spelt(name), tuple(map(str, words)))


def _spelt(name: str) -> Callable[[Any], str]:
    return lambda case: str(getattr(case, name))
