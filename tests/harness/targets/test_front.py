"""The front end's text is shared between targets where what it read is the same, and nowhere else."""

# ruff: noqa: ANN001, ANN201 - arguments of jit functions have no Python type, nor have their results
# mypy: allow-untyped-defs, allow-incomplete-defs, allow-untyped-decorators

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
import triton
import triton.language as tl
from compiled_kernels import copied
from launching import captured
from triton.backends.compiler import GPUTarget
from triton.language.target_info import is_hip_cdna3
from verdict_samples import tiled

from tridiff.harness.capture import Specialisation, backend_for, targeting
from tridiff.harness.engines.cpu import fingerprint, front, ttir
from tridiff.harness.engines.cpu.errors import KernelError
from tridiff.harness.engines.cpu.front import Watched
from tridiff.harness.engines.cpu.ttir import built_text, loaded_context, parsed_module, printed

FLOATS = torch.zeros(256)
CDNA = ("gfx90a", "gfx942", "gfx950")


@triton.jit
def multiplied(x, out, block: tl.constexpr):
    """A product of float32, in the precision that is the target's default."""
    i, j = tl.arange(0, block)[:, None], tl.arange(0, block)[None, :]
    tl.store(out + i * block + j, tl.dot(tl.load(x + i * block + j), tl.load(x + j * block + i)))


@triton.jit
def asking(x, out, block: tl.constexpr):
    """Another program on gfx942."""
    at = tl.arange(0, block)
    if is_hip_cdna3():
        tl.store(out + at, tl.load(x + at))
    else:
        tl.store(out + at, tl.load(x + at) + 1)


def of(kernel: Any, *arguments: Any, target: str, **options: Any) -> Specialisation:
    """What a launch is specialised to."""
    return captured(lambda: kernel[(1,)](*arguments, **options), target)[0].specialisation


def shared(specialisation: Specialisation, target: str) -> str:
    """The text, as a process that looks like one with the target makes it."""
    with targeting(target):
        return built_text(specialisation, shared=True)


@pytest.fixture
def runs(monkeypatch: pytest.MonkeyPatch, cold: None) -> list[str]:
    """The targets for which Triton's front end runs from now on."""
    seen: list[str] = []
    front_end = ttir._front_end

    def counting(source: Any, specialisation: Specialisation, *rest: Any) -> Any:
        seen.append(str(specialisation.target.arch))
        return front_end(source, specialisation, *rest)

    monkeypatch.setattr(ttir, "_front_end", counting)
    return seen


def alone(specialisation: Specialisation, target: str) -> str:
    """The text without sharing."""
    with targeting(target):
        return built_text(specialisation)


@pytest.mark.parametrize("targets", [("gfx950", "gfx90a"), ("sm_90", "sm_80", "sm_100"), ("gfx1201", "gfx1100")])
def test_text_is_that_without_sharing(runs: list[str], targets: tuple[str, ...]) -> None:
    """Byte for byte, whether it is made for others, or theirs is taken; and the second target runs no front end."""
    made = {target: shared(tiled(target, 16, 32, 32), target) for target in targets}
    asked = list(runs)

    assert len(asked) == 1
    assert made == {target: alone(tiled(target, 16, 32, 32), target) for target in targets}


def test_option_that_was_read_and_differs(runs: list[str]) -> None:
    """gfx942 multiplies float32 as tf32 unless told otherwise, and gfx950 cannot: its text is not that of gfx942."""
    made = {
        target: shared(of(multiplied, FLOATS, FLOATS, 16, target=target), target) for target in ("gfx942", "gfx950", "gfx90a")
    }
    asked = list(runs)

    assert asked == ["gfx942", "gfx950"]  # gfx90a allows what gfx950 does
    for target, text in made.items():
        assert text == alone(of(multiplied, FLOATS, FLOATS, 16, target=target), target)


def test_kernel_that_asks_for_the_target(runs: list[str]) -> None:
    """Its text is kept for nobody."""
    made = {target: shared(of(asking, FLOATS, FLOATS, 16, target=target), target) for target in CDNA}

    assert runs == list(CDNA)
    assert "arith.addf" in made["gfx950"]
    assert "arith.addf" not in made["gfx942"]


def test_without_the_stub_driver_nothing_is_kept(runs: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody counts what is asked of another driver."""
    monkeypatch.setattr(front, "times_asked", lambda: None)

    for target in CDNA[:2]:
        shared(of(copied, FLOATS, FLOATS, 16, target=target), target)

    assert runs == list(CDNA[:2])


def test_other_constants_and_other_platforms(runs: list[str]) -> None:
    """Are other programs."""
    for target, block in (("gfx942", 16), ("gfx942", 32), ("sm_90", 16)):
        shared(of(copied, FLOATS, FLOATS, block, target=target), target)

    assert len(runs) == 3


@pytest.mark.parametrize("reason", ["no cache", "unkeyable"])
def test_what_is_not_shared(runs: list[str], monkeypatch: pytest.MonkeyPatch, reason: str) -> None:
    """Is made anew, with the same text."""
    if reason == "no cache":
        monkeypatch.setenv("TRIDIFF_CACHE", "0")
    else:

        def unkeyable(*_: object) -> str:
            raise fingerprint.Unkeyable("a value")

        monkeypatch.setattr(fingerprint, "key_of_front", unkeyable)

    texts = [shared(of(copied, FLOATS, FLOATS, 16, target=target), target) for target in CDNA[:2]]

    assert runs == list(CDNA[:2])
    assert texts == [alone(of(copied, FLOATS, FLOATS, 16, target=target), target) for target in CDNA[:2]]


def test_refusal_is_not_kept(runs: list[str]) -> None:
    """It is asked again, with its line."""
    for _ in range(2):
        with pytest.raises(KernelError, match="power of 2") as caught:
            shared(of(copied, FLOATS, FLOATS, 24, target="gfx942"), "gfx942")
        assert (caught.value.line or "").startswith("compiled_kernels.py:")

    assert len(runs) == 2


def test_functions_that_may_know_the_target(monkeypatch: pytest.MonkeyPatch) -> None:
    """A function of the back end with variables of its own is not one that all targets share."""
    specialisation = of(copied, FLOATS, FLOATS, 16, target="gfx942")
    backend = backend_for(specialisation.target)
    named = backend.get_codegen_implementation(specialisation.options)

    def closing(known: str) -> Any:
        return lambda: known

    assert fingerprint.key_of_front(specialisation, {"f": next(iter(named.values()))})
    with pytest.raises(fingerprint.Unkeyable, match="the back end's function f, which may know the target"):
        fingerprint.key_of_front(specialisation, {"f": closing("gfx942")})


def test_key_of_the_front_end() -> None:
    """Parts of one platform share it, whatever their options; other functions of the back end, or another platform, do not."""
    hip = of(copied, FLOATS, FLOATS, 16, target="gfx942")
    functions = backend_for(hip.target).get_codegen_implementation(hip.options)
    keys = [
        fingerprint.key_of_front(specialisation, called)
        for specialisation, called in (
            (hip, functions),
            (of(copied, FLOATS, FLOATS, 16, target="gfx90a", num_warps=2), functions),
            (hip, {}),
            (replace(hip, target=GPUTarget("cuda", 90, 32)), functions),
        )
    ]

    assert keys[0] == keys[1]
    assert len(set(keys)) == 3


def test_watched_options() -> None:
    """Those that are read are noted by name, once, also where there are none of that name."""
    specialisation = of(copied, FLOATS, FLOATS, 16, target="gfx942", num_warps=2)
    watched = Watched(specialisation.options)

    assert watched.num_warps == 2
    assert watched.num_warps == 2
    assert getattr(watched, "no_such_option", None) is None
    assert watched.names == ["no_such_option", "num_warps"]


@pytest.mark.parametrize("target", ["gfx942", "sm_90"])
def test_round_trip(target: str) -> None:
    """What is printed and parsed again prints the same; our mark is gone from the module in between."""
    specialisation = tiled(target, 16, 32, 32)
    context = loaded_context(backend_for(specialisation.target))
    text = alone(specialisation, target)

    module = parsed_module(text, context)

    assert "tridiff}" in text or "{tridiff" in text
    assert "{tridiff" not in module.str()
    assert printed(module) == text
