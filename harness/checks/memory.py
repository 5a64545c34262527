"""Checks of memory against the Op's write declarations, bit for bit."""

from __future__ import annotations

from collections.abc import Iterator

from tridiff.harness.api import Arena, Damage, Failure


def check_memory(arena: Arena) -> Iterator[Failure]:
    """`corruption` and `unwritten`, one each at most: the first damaged tensor in the order of allocation."""
    for damage in (allocation.changed() for allocation in arena):
        if damage is not None:
            yield Failure(check="corruption", message=_corrupted(damage))
            break
    for damage in (allocation.unwritten() for allocation in arena):
        if damage is not None:
            yield Failure(check="unwritten", message=_kept(damage))
            break


def _corrupted(damage: Damage) -> str:
    more = f" ({damage.count} elements in all)" if damage.count > 1 else ""
    return f"{damage.where} must not be written: it held {damage.before:g}, now {damage.after:g}{more}"


def _kept(damage: Damage) -> str:
    more = f" ({damage.count} elements in all)" if damage.count > 1 else ""
    return f"{damage.where} was never written: it still holds its poison{more}"
