"""Spreading one run over several processes or machines: each takes a share of the examples, and draws with a seed of its own."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass

from tridiff.harness.engines.spec import UsageError

_FORM = re.compile(r"([0-9]{1,6})/([0-9]{1,6})")


@dataclass(frozen=True)
class Shard:
    """Part `index` of `count` equal parts of a run, 0 <= index < count; by default the whole.

    Parts can be divided again: apply the outer shard first, to seeds and to budgets.
    """

    index: int = 0
    count: int = 1

    def __post_init__(self) -> None:
        """Raise `UsageError` unless 0 <= index < count."""
        if self.count < 1:
            raise UsageError(f"{self}: the number of shards must be at least 1")
        if not 0 <= self.index < self.count:
            raise UsageError(f"{self}: the first number must be 0 to {self.count - 1}: shards are counted from 0")

    def __str__(self) -> str:
        return f"{self.index}/{self.count}"

    @classmethod
    def parsed(cls, text: str) -> Shard:
        """The shard whose text form `text` is, "I/N". Raises `UsageError` with one line."""
        match = _FORM.fullmatch(text)
        if match is None:
            raise UsageError(f"{text!r}: must be I/N, shard I (0 to N - 1) of N, such as 0/4")
        return cls(int(match[1]), int(match[2]))

    def seed(self, run: int) -> int:
        """The shard's own seed, from that of the run; 48 bits. The whole keeps the run's."""
        if self.count == 1:
            return run
        digest = hashlib.blake2b(f"{run}/{self}".encode(), digest_size=6).digest()
        return int.from_bytes(digest, "little")

    def share(self, examples: int) -> int:
        """How many of `examples` are the shard's: those of all shards sum to `examples`, and none differs by more than one.

        The first shards get what is left over; 0 where there are fewer examples than shards.
        """
        return (examples + self.count - 1 - self.index) // self.count


WHOLE = Shard()
"""The only part of a run that is not spread."""


def shards(count: int) -> tuple[Shard, ...]:
    """All `count` parts. Raises `UsageError` unless there is at least one."""
    return tuple(Shard(index, count) for index in range(count)) or (Shard(0, count),)
