"""Jit functions with another source for a while: it is what Triton compiles, and afterwards all is as before."""

# mypy: allow-untyped-defs, allow-untyped-decorators

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any

import mutated_kernels
import pytest
import torch
import triton
import triton.language as tl
from launching import captured
from mutated_kernels import _guarded, _times

from tridiff.harness.capture import Elsewhere, Rewrite, Specialisation, located, name_of, rewritten
from tridiff.harness.engines.cpu import ttir
from tridiff.harness.engines.cpu.fingerprint import called
from tridiff.harness.engines.cpu.ttir import compiled, generic_text, without_places

TIMES, GUARDED = "mutated_kernels:_times", "mutated_kernels:_guarded"


def rewrite(function: Any, old: str, new: str) -> Rewrite:
    """A rewrite of one place in a function's source."""
    assert function.src.count(old) == 1
    return Rewrite(
        function=name_of(function),
        source=function.src.replace(old, new),
        replaces=function.src,
        affected=(GUARDED, TIMES),
    )


SUM = rewrite(_times, "values * factor", "values + factor")


def launch() -> None:
    """A launcher."""
    x = torch.zeros(2, 3)
    mutated_kernels.guarded(x=x, out=torch.zeros(2, 3), total=torch.zeros(2), factor=2.5)


def specialisation() -> Specialisation:
    """That of the one kernel that is launched."""
    (only,) = captured(launch)
    return only.specialisation


def test_callee() -> None:
    """Who calls it compiles the other source, and afterwards its own again."""
    before = generic_text(specialisation())

    with rewritten(SUM):
        within = generic_text(specialisation())
    after = generic_text(specialisation())

    assert after == before
    assert (before.count('"arith.mulf"'), within.count('"arith.mulf"')) == (1, 0)
    assert without_places(within) != without_places(before)


def test_compiled_kernels_are_kept_apart() -> None:
    """What was compiled before serves again afterwards; and what the last rewrite compiled, for the same one."""
    before = specialisation()
    with rewritten(SUM):
        first = specialisation()
    with rewritten(SUM):
        again = specialisation()
    with rewritten(rewrite(_times, "values * factor", "values - factor")):
        other = specialisation()

    assert specialisation() is before
    assert first is again
    assert len({id(each) for each in (before, first, other)}) == 3
    assert before.name == first.name == other.name
    assert len({id(compiled(each)) for each in (before, first)}) == 2


def test_not_kept_on_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of mutants there are thousands, seldom met again: they would drive out what is."""
    asked: list[str] = []

    def cached(_key: Callable[[], str], make: Callable[[], str]) -> str:
        asked.append("asked")
        return make()

    monkeypatch.setattr(ttir, "cached", cached)

    with rewritten(SUM):
        generic_text(specialisation())
    assert asked == []

    generic_text(specialisation())
    assert asked == ["asked"]


def test_left_by_an_exception() -> None:
    """Whatever happens within, the source is as before."""
    with contextlib.suppress(KeyError), rewritten(SUM):
        within = _times.src
        raise KeyError

    assert (within, _times.src) == (SUM.source, SUM.replaces)


def test_hashes_of_callers() -> None:
    """Triton's key of whoever calls the function is another one within, and the old one afterwards."""
    before = _guarded.cache_key

    with rewritten(SUM):
        within = _guarded.cache_key

    assert within != before
    assert _guarded.cache_key == before


@pytest.mark.parametrize("name", ["mutated_kernels:_nothing", "mutated_kernels:guarded", "no.such_module:f"])
def test_elsewhere(name: str) -> None:
    """What no module has as a jit function is refused."""
    with pytest.raises(Elsewhere, match=name), rewritten(Rewrite(function=name, source="", replaces="")):
        pass


def test_another_source() -> None:
    """A function whose source is not what was read is left alone."""
    changed = Rewrite(function=TIMES, source="def _times(): pass", replaces="def _times(): return 0")

    with pytest.raises(Elsewhere, match="file changed"), rewritten(changed):
        pass

    assert _times.src == SUM.replaces


@triton.autotune([triton.Config({}, num_warps=4)], key=[])
@triton.heuristics({"block": lambda _: 4})
@triton.jit
def _tuned(x, block: tl.constexpr):
    tl.store(x + tl.arange(0, block), _times(1.0, 2.0))


def test_located() -> None:
    """Autotuners and heuristics stand before a function; functions of functions are not found."""
    (found,) = located(f"{__name__}:_tuned")

    assert found is _tuned.fn.fn
    assert located("mutated_kernels:_made.<locals>.inner") == []


def test_called() -> None:
    """The kernel and whatever it calls, but for what Triton brings."""
    assert [name_of(function) for function in called(specialisation())] == [GUARDED, TIMES]


@triton.jit
def _apply(x, function: tl.constexpr):
    tl.store(x, function(tl.load(x), 2.0))


def test_called_as_a_constant() -> None:
    """A function may be handed over, too."""
    (only,) = captured(lambda: _apply[(1,)](torch.zeros(1), _times))

    assert [name_of(function) for function in called(only.specialisation)] == [f"{__name__}:_apply", TIMES]


def test_places_are_no_difference() -> None:
    """The same program on another line has the same text but for its locations."""
    with rewritten(rewrite(_times, "    return values * factor", "    return  values  *  factor")):
        moved = generic_text(specialisation())
    text = generic_text(specialisation())

    assert moved != text
    assert without_places(moved) == without_places(text)
    assert "loc" not in without_places(text)
