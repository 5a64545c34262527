"""Stores: which line of a kernel was the last to write each byte, so that a Finding can say who did it."""

from __future__ import annotations

import numpy as np


class Stores:
    """Which bytes of a storage the kernel's stores wrote: what an engine notes that sees every one of them.

    `last`: for each byte the number of the store that was the last to write it, 0 where none did.
    """

    MOST = 255

    def __init__(self, size: int) -> None:
        self.last = np.zeros(size, dtype=np.uint8)
        self._numbers: dict[str, int] = {}

    def number(self, line: str) -> int:
        """The number of the store in `line`; of more than `MOST` the others share one."""
        return self._numbers.setdefault(line, min(len(self._numbers) + 1, self.MOST))

    def line(self, start: int, size: int) -> str | None:
        """The line of a store that wrote one of `size` bytes from `start` on; None where none did, or it is not known."""
        numbers = self.last[start : start + size]
        lines = [line for line, number in self._numbers.items() if number == numbers.max(initial=0)]
        return lines[0] if len(lines) == 1 else None
