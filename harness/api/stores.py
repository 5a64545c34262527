"""Stores: which line of a kernel was the last to write each byte, so that a Finding can say who did it."""

from __future__ import annotations

import contextlib
import mmap

import numpy as np
import numpy.typing as npt

_LARGE = 2**20
"""Bytes from which on memory is mapped page by page."""


class Stores:
    """Which bytes of a storage a kernel wrote: what an engine notes that sees every store.

    `last`: for each byte the number of whatever was the last to write it, 0 where nothing did. An *update* is an atomic operation
    that makes the new value of the one it finds, as an addition does; everything else is a store.
    """

    MOST = 255

    def __init__(self, size: int) -> None:
        self.last = _zeros(size)
        self._numbers: dict[tuple[str, bool], int] = {}
        self._is_store = np.zeros(self.MOST + 1, dtype=np.bool_)

    def number(self, line: str, *, is_update: bool = False) -> int:
        """The number of the store or update in `line`; of more than `MOST` the others share one."""
        found = self._numbers.setdefault((line, is_update), min(len(self._numbers) + 1, self.MOST))
        self._is_store[found] |= not is_update
        return found

    def line(self, byte: int) -> str | None:
        """The line that was the last to write a byte; None where none did, or it is not known."""
        lines = [line for (line, _), number in self._numbers.items() if number == self.last[byte]]
        return lines[0] if len(lines) == 1 else None

    def stored(self, start: int, stop: int, size: int) -> npt.NDArray[np.bool_]:
        """Which of the elements [start, stop), of `size` bytes each, have a byte that a store was the last to write."""
        if self._is_store[1 : len(self._numbers) + 1].all():
            return np.asarray(self.last.view(f"u{size}")[start:stop] != 0)
        return np.asarray(self._is_store[self.last[start * size : stop * size]].reshape(-1, size).any(axis=1))


def _zeros(size: int) -> npt.NDArray[np.uint8]:
    """So many bytes, of which those take memory that are written; NumPy would ask for huge pages, 2 MiB for a byte."""
    if size < _LARGE:
        return np.zeros(size, dtype=np.uint8)
    try:
        memory = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    except OSError as error:
        raise MemoryError(f"{size} bytes to note stores: {error}") from error
    with contextlib.suppress(OSError):  # a system without huge pages
        memory.madvise(mmap.MADV_NOHUGEPAGE)
    return np.frombuffer(memory, dtype=np.uint8)
