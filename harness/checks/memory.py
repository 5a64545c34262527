"""Checks of memory against the Op's write declarations, bit for bit."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from tridiff.harness.api import Arena, Damage, Failure

Victim = Callable[[Damage], str]
"""What stood in memory that was overwritten, and by which token, one phrase; "" where nothing is known of it."""


def check_memory(arena: Arena, again: Arena | None = None, victim: Victim | None = None) -> Iterator[Failure]:
    """`corruption` and `unwritten`, one each at most: the first damaged tensor in the order of allocation.

    `again`: memory after a run that differs only in its poison, see `Allocation.unwritten`. `victim`: see `Op.victim`.
    """
    for damage in (allocation.changed() for allocation in arena):
        if damage is not None:
            yield Failure(check="corruption", message=_corrupted(damage, victim))
            break
    for damage in (each.unwritten(None if again is None else again.allocations[each.name]) for each in arena):
        if damage is not None:
            yield Failure(check="unwritten", message=_kept(damage))
            break


def _corrupted(damage: Damage, victim: Victim | None) -> str:
    more = f" ({damage.count} elements in all)" if damage.count > 1 else ""
    what = f"{damage.where} must not be written: it held {damage.before:g}, now {damage.after:g}{more}"
    said = "" if victim is None else victim(damage)
    return f"{said}: {what}" if said else what


def _kept(damage: Damage) -> str:
    more = f" ({damage.count} elements in all)" if damage.count > 1 else ""
    return f"{damage.where} was never written: it still holds its poison{more}"
