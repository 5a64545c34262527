"""Verdicts on a specialisation: what a part has not, FP8 that it gets wrong, time; and what is remembered."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from compiled_kernels import copied, narrowed, turned
from launching import VERSION, captured
from verdict_samples import tiled

from tridiff.harness.api import Failure
from tridiff.harness.capture import Specialisation
from tridiff.harness.engines.cpu import fingerprint
from tridiff.harness.engines.cpu.mlir import ParseError
from tridiff.harness.targets import fp8, machine_code, pipeline, verdicts
from tridiff.harness.targets.machine_code import Object
from tridiff.harness.targets.parts import part
from tridiff.harness.targets.pipeline import RELEASE, Figures, Refused
from tridiff.harness.targets.selftest_kernel import attend
from tridiff.harness.targets.verdicts import Judgement

FLOATS = torch.zeros(64)
BUDGET = 120.0
pytestmark = pytest.mark.usefixtures("cold")


def of(kernel: Any, *arguments: Any, target: str = "gfx942", **options: Any) -> Specialisation:
    """What a launch is specialised to."""
    return captured(lambda: kernel[(1,)](*arguments, **options), target)[0].specialisation


def narrowing(target: str) -> Specialisation:
    """A cast of e4m3fnuz to bf16."""
    codes = torch.zeros(64, dtype=torch.uint8).view(torch.float8_e4m3fnuz)
    return of(narrowed, codes, torch.zeros(64, dtype=torch.bfloat16), 64, target=target)


def asked(monkeypatch: pytest.MonkeyPatch) -> list[Specialisation]:
    """What Triton is asked to compile from now on."""
    seen: list[Specialisation] = []
    allocated = pipeline.allocated

    def counting(specialisation: Specialisation) -> Any:
        seen.append(specialisation)
        return allocated(specialisation)

    monkeypatch.setattr(pipeline, "allocated", counting)
    return seen


def whole(monkeypatch: pytest.MonkeyPatch, answer: Object | Refused) -> None:
    """From now on the whole pipeline says this."""

    def compiled(_: object) -> Object:
        if isinstance(answer, Refused):
            raise answer
        return answer

    monkeypatch.setattr(machine_code, "compiled", compiled)


# What the part has


def test_shared_memory() -> None:
    """As much as the part has is enough; one byte more is not, and the message names the largest buffer and the release."""
    specialisation = tiled("gfx942", 16, 256, 64, stages=1)
    needed = pipeline.allocated(specialisation).figures.shared
    small, enough = (replace(part("gfx942"), shared_bytes=size) for size in (needed - 1, needed))

    assert verdicts.fast(specialisation, enough).failures == ()
    (failure,) = verdicts.fast(specialisation, small).failures
    assert failure.check == "resources"
    assert re.fullmatch(
        rf"attend needs {needed} bytes of shared memory \(LDS\), gfx942 has {needed - 1} \({re.escape(RELEASE)}\); "
        r"most of it is \w+, 256x64xbf16, 32768 bytes \(selftest_kernel\.py:\d+\)",
        failure.message,
    )
    assert (failure.line or "").startswith("selftest_kernel.py:")
    assert failure.subject == "attend shared memory"


def test_line_is_that_of_the_function() -> None:
    """That of the largest buffer changes from case to case, and one defect would become several."""
    source = Path(str(attend.fn.__code__.co_filename)).read_text(encoding="utf-8").splitlines()

    (failure,) = verdicts.fast(tiled("gfx942", 16, 1024, 64, stages=1), part("gfx942")).failures

    assert source[int((failure.line or "").removeprefix("selftest_kernel.py:")) - 1] == "@triton.jit"


def test_threads_and_tensor_memory() -> None:
    """As with shared memory: what is there is enough; tensor memory is complained of before threads."""
    specialisation = tiled("sm_100", 128, 64, 16)
    figures = pipeline.allocated(specialisation).figures
    have = replace(part("sm_100"), threads=figures.threads, tensor_memory=figures.tensor_memory)

    assert verdicts.fast(specialisation, have).failures == ()
    lacking = replace(have, threads=figures.threads - 1, tensor_memory=figures.tensor_memory - 1)
    failures = verdicts.fast(specialisation, lacking).failures
    assert [failure.message for failure in failures] == [
        f"attend needs {figures.tensor_memory} columns of tensor memory, sm_100 has {lacking.tensor_memory} ({RELEASE})",
        f"attend needs {figures.threads} threads, sm_100 has {lacking.threads} ({RELEASE})",
    ]
    assert {failure.check for failure in failures} == {"resources"}
    assert len({failure.subject for failure in failures}) == 2


# FP8


@pytest.mark.skipif(VERSION >= (3, 8), reason="from 3.8 on the cast is right (docs/reference/fp8.md; Triton PR 10458)")
@pytest.mark.parametrize(("target", "check"), [("gfx1201", "fp8_semantics"), ("gfx90a", "codegen")])
def test_cast_that_will_not_do(target: str, check: str) -> None:
    """It compiles as far as memory, so there are figures, too."""
    judgement = verdicts.fast(narrowing(target), part(target))

    (failure,) = judgement.failures
    assert judgement.figures is not None
    assert (failure.check, failure.subject) == (check, "f8E4M3FNUZ to bf16")
    assert (failure.line or "").startswith("compiled_kernels.py:")


def test_cast_that_is_native() -> None:
    """Nothing is said."""
    assert verdicts.fast(narrowing("gfx942"), part("gfx942")).failures == ()


def test_casts_are_looked_for_behind_the_passes(monkeypatch: pytest.MonkeyPatch) -> None:
    """In TTGIR, where those of Triton's passes stand, too; in TTIR where that cannot be read; nowhere without FP8."""
    seen: list[str] = []

    def unreadable(_target: str, text: str) -> list[Failure]:
        seen.append(text)
        if '"ttg.' in text or "ttg.num-warps" in text:
            raise ParseError("an attribute")
        return [Failure(check="fp8_semantics", message="of TTIR")]

    monkeypatch.setattr(fp8, "faults_of", unreadable)

    (failure,) = verdicts._asked(narrowing("gfx942"), "gfx942")[1]
    assert failure.message == "of TTIR"
    assert len(seen) == 2
    assert verdicts._asked(of(copied, FLOATS, FLOATS, 16), "gfx942")[1] == ()
    assert len(seen) == 2


# The whole pipeline


def test_full_verdict_is_that_of_the_object(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its figures are judged, not the fast ones; what the fast verdict said of casts stays, but that they abort: none has."""
    small = replace(part("gfx942"), shared_bytes=0)
    specialisation = of(turned, FLOATS, FLOATS, 16, 32)
    found = Figures(shared=8, threads=64)
    whole(monkeypatch, Object(figures=found, registers=(("vgpr", 8),), seconds=BUDGET))
    cast = Failure(check="fp8_semantics", message="a cast")
    monkeypatch.setattr(verdicts, "_wrong_casts", lambda *_: [cast, replace(cast, check="codegen")])

    judgement = verdicts.full(specialisation, small, BUDGET)

    kept, excess = judgement.failures
    assert kept == cast
    assert excess.message.startswith("turned needs 8 bytes of shared memory (LDS), gfx942 has 0 ")
    assert judgement.figures == found
    assert judgement.registers == (("vgpr", 8),)


def test_too_long(monkeypatch: pytest.MonkeyPatch) -> None:
    """More than the budget."""
    whole(monkeypatch, Object(figures=Figures(shared=0, threads=64), registers=(), seconds=BUDGET + 1))

    (failure,) = verdicts.full(of(copied, FLOATS, FLOATS, 16), part("gfx942"), BUDGET).failures

    assert failure.check == "compile_time"
    assert failure.message == f"copied takes 121 s to compile, more than the 120 s that it may ({RELEASE})"
    assert (failure.line or "").startswith("compiled_kernels.py:")


def test_code_generator_that_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    """Is told besides what the fast verdict found, with the figures of that."""
    failure = Failure(check="codegen", message="no such instruction")
    whole(monkeypatch, Refused(failure))

    judgement = verdicts.full(tiled("gfx942", 16, 1024, 64, stages=1), part("gfx942"), BUDGET)

    assert [each.check for each in judgement.failures] == ["resources", "codegen"]
    assert judgement.failures[1] == failure
    assert judgement.figures is not None


def test_what_is_refused_gets_no_further(monkeypatch: pytest.MonkeyPatch) -> None:
    """The whole pipeline is not asked."""
    whole(monkeypatch, Refused(Failure(check="codegen", message="asked all the same")))

    judgement = verdicts.full(of(copied, FLOATS, FLOATS, 544), part("gfx942"), BUDGET)

    assert judgement.figures is None
    assert [failure.check for failure in judgement.failures] == ["compile"]


# Memory


@pytest.mark.parametrize("block", [16, 544])
def test_remembered_in_this_process(monkeypatch: pytest.MonkeyPatch, block: int) -> None:
    """What compiles, and what is refused; another launch with the same specialisation asks no more."""
    monkeypatch.setenv("TRIDIFF_CACHE", "0")
    seen = asked(monkeypatch)

    first, again = (verdicts.fast(of(copied, FLOATS, FLOATS, block), part("gfx942")) for _ in range(2))

    assert first == again
    assert len(seen) == 1


@pytest.mark.parametrize("block", [16, 544])
def test_remembered_on_disk(monkeypatch: pytest.MonkeyPatch, block: int) -> None:
    """By another process, to the last word."""
    seen = asked(monkeypatch)
    first = verdicts.fast(of(copied, FLOATS, FLOATS, block), part("gfx942"))
    monkeypatch.setattr(verdicts, "_verdicts", {})

    again = verdicts.fast(of(copied, FLOATS, FLOATS, block), part("gfx942"))

    assert first == again
    assert len(seen) == 1


def test_limits_are_not_remembered() -> None:
    """A part whose limits the user changes is judged by the new ones."""
    specialisation = of(turned, FLOATS, FLOATS, 16, 32)

    assert verdicts.fast(specialisation, part("gfx942")).failures == ()
    assert len(verdicts.fast(specialisation, replace(part("gfx942"), shared_bytes=1)).failures) == 1


def test_what_makes_another_verdict(monkeypatch: pytest.MonkeyPatch) -> None:
    """Another target, other constants, another table of casts; the launch's own arguments do not."""
    seen = asked(monkeypatch)
    for target, block in (("gfx942", 16), ("gfx950", 16), ("gfx942", 32)):
        verdicts.fast(of(copied, FLOATS, FLOATS, block, target=target), part(target))
    verdicts.fast(of(copied, torch.ones(32), FLOATS, 16), part("gfx942"))
    assert len(seen) == 3

    monkeypatch.setattr(verdicts, "_casts", lambda: "edited")
    verdicts.fast(of(copied, FLOATS, FLOATS, 16), part("gfx942"))

    assert len(seen) == 4


def test_what_cannot_be_told_apart_is_asked_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """A kernel that depends on a value of a kind that we do not know."""

    def unkeyable(_: object) -> str:
        raise fingerprint.Unkeyable("a value")

    monkeypatch.setattr(fingerprint, "key_of", unkeyable)
    monkeypatch.setattr("tridiff.harness.engines.cpu.ttir.key_of", unkeyable)
    seen = asked(monkeypatch)

    for _ in range(2):
        judgement = verdicts.fast(of(copied, FLOATS, FLOATS, 16), part("gfx942"))
        assert judgement == Judgement(figures=Figures(shared=0, threads=256), failures=())

    assert len(seen) == 2
