"""Checks of memory against the Op's write declarations, bit for bit."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from tridiff.harness.api import Allocation, Arena, Damage, Failure

Said = Callable[[Damage], str]
"""What stood in memory that was overwritten, and by which token, one phrase; "" where nothing is known of it."""


def check_memory(arena: Arena, again: Arena | None = None, victim: Said | None = None) -> Iterator[Failure]:
    """`corruption` and `unwritten`, one each at most: the first damaged tensor in the order of allocation.

    Memory that was written back as it was is corrupted as well: what another program, or another stream, writes between the
    kernel's load and its store is lost.

    `again`: memory after a run that differs only in its poison, see `Allocation.unwritten`. `victim`: see `Op.victim`.
    """
    for found, said in ((Allocation.changed, _changed), (Allocation.stored, _stored)):
        damage = next((damage for damage in map(found, arena) if damage is not None), None)
        if damage is not None:
            yield Failure(check="corruption", message=_of(said(damage), damage, victim), line=damage.line)
            break
    for damage in (each.unwritten(None if again is None else again.allocations[each.name]) for each in arena):
        if damage is not None:
            yield Failure(check="unwritten", message=_kept(damage))
            break


def _changed(damage: Damage) -> str:
    before, after = f"{damage.before:g}", f"{damage.after:g}"
    others = " of other bits" if before == after else ""
    return f"{damage.where} must not be written: it held {before}, now {after}{others}{_more(damage)}"


def _stored(damage: Damage) -> str:
    return f"{damage.where} must not be written: it was written back as it was ({damage.before:g}){_more(damage)}"


def _of(what: str, damage: Damage, victim: Said | None) -> str:
    said = "" if victim is None else victim(damage)
    return f"{said}: {what}" if said else what


def _kept(damage: Damage) -> str:
    return f"{damage.where} was never written: it still holds its poison{_more(damage)}"


def _more(damage: Damage) -> str:
    return f" ({damage.count} elements in all)" if damage.count > 1 else ""
