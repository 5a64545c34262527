"""What the death of a worker says of the kernel: a check, a sentence, and the line on which its author will find the cause."""

from __future__ import annotations

import re
import signal
import sys
from collections.abc import Iterable, Iterator
from typing import Any

from tridiff.harness import blame
from tridiff.harness.api import Finding
from tridiff.harness.engines.spec import COMPILER, EngineSpec
from tridiff.harness.isolation.process import Death

WORDS = 6
"""Lines of these that a Finding shows, before the interpreter's stack, of which the Finding has the author's line."""
TAIL = 12
"""Lines of standard error that are told with a death."""

_FRAME = re.compile(r'\s*File "(?P<file>.*)", line (?P<line>\d+) in .*')
_CURRENT = re.compile(r"Current thread 0x\w+.*\(most recent call first\):")
_TELLING = re.compile(
    r"LLVM ERROR|Assertion|terminate called|what\(\):|Memory access fault|corrupt|free\(\)|bad_alloc|[Ff]ailed|[Ee]rror"
)
_MEANING = {
    signal.SIGSEGV: "a segmentation fault",
    signal.SIGABRT: "an abort",
    signal.SIGBUS: "a bus error",
    signal.SIGFPE: "an arithmetic error",
}


def described(death: Death) -> str:
    """How the process died, in one sentence."""
    if death.overtime is not None:
        line = blame.author_line(frames(death.lines))
        return f"the case took longer than the {death.overtime:g} s that one may take" + (f"; it was at {line}" if line else "")
    if death.overweight is not None:
        return f"the case needed more than the {death.overweight / 2**30:.3g} GiB of memory that a process may have"
    if death.garbled:
        return "the process wrote into, or closed, the connection by which it answers"
    how = _ending(death.code)
    said = _said(death.lines)
    return f"the process that ran the kernel {how}{': ' + said if said else ''}"


def check_of(death: Death, engine: str = "") -> str:
    """The check that fires: a process that only compiles dies of the code generator, or takes too long for it."""
    check = _check_of(death)
    return _OF_COMPILER.get(check, check) if engine == COMPILER else check


_OF_COMPILER = {"crash": "codegen", "hang": "compile_time"}


def _check_of(death: Death) -> str:
    if death.overtime is not None:
        return "hang"
    if death.garbled:
        return "crash"
    return "memory" if death.overweight is not None or death.code == -signal.SIGKILL else "crash"


def finding_of(death: Death, *, op: str, kernel: str, spec: EngineSpec, case: Any) -> Finding:
    """The Finding of a Case whose process died so."""
    check = check_of(death, spec.name)
    crashed = check_of(death) == "crash"
    return Finding(
        check=check,
        message=described(death) if spec.name != COMPILER else _of_compiler(death),
        # Where a clock or a scale stopped it is a matter of chance.
        line=blame.author_line(frames(death.lines)) if crashed else None,
        op=op,
        kernel=kernel,
        engine=spec.name,
        target=spec.target,
        case=case,
        subject=_subject(death) if crashed else "",
        tail=_words(death.lines),
    )


def _of_compiler(death: Death) -> str:
    """Likewise of a process that only compiled, with whose compiler it was: part of every verdict on a target."""
    release = getattr(sys.modules.get("triton"), "__version__", "of unknown version")  # loaded by now, where cases are drawn
    return f"{described(death).replace('that ran the kernel', 'that compiled the kernel')} (Triton {release})"


def is_ours(death: Death) -> bool:
    """Whether the process crashed within our executor or a library that it called, Triton's compiler excepted."""
    return check_of(death) == "crash" and blame.is_ours_at([file for file, _ in reversed(list(frames(death.lines)))])


def tail(death: Death) -> tuple[str, ...]:
    """The last lines that it wrote, but for the names of all modules in C, some thousand characters that tell nothing."""
    return tuple(line for line in death.lines if not line.startswith("Extension modules: "))[-TAIL:]


def last_words(death: Death) -> str:
    """What it wrote before the interpreter printed its stack, and the author's line on which it was, as far as known."""
    line = blame.author_line(frames(death.lines))
    said = "; ".join(_before_stack(death.lines)[-3:]) or "it said nothing"
    return said + (f" ({line})" if line else "")


def frames(lines: Iterable[str]) -> Iterator[tuple[str, int]]:
    """File and line of each Python frame, innermost first, as faulthandler prints them when a signal ends the process."""
    within = False
    for line in lines:
        if _CURRENT.match(line):
            within = True
        elif within:
            match = _FRAME.fullmatch(line)
            if match is None:
                return
            yield match["file"], int(match["line"])


def _subject(death: Death) -> str:
    return "garbled" if death.garbled else f"{_ending(death.code)} {_said(death.lines)}"


def _ending(code: int) -> str:
    if code >= 0:
        return f"exited with code {code}"
    try:
        number = signal.Signals(-code)
    except ValueError:
        return f"was killed by signal {-code}"
    if number is signal.SIGKILL:
        return "was killed by SIGKILL, which is what the system does when memory runs out"
    return f"was killed by {number.name}" + (f" ({_MEANING[number]})" if number in _MEANING else "")


def _said(lines: tuple[str, ...]) -> str:
    """The most telling line of what it wrote before the interpreter printed its stack; "" if none is."""
    return next((line for line in reversed(_before_stack(lines)) if _TELLING.search(line)), "")


def _words(lines: tuple[str, ...]) -> tuple[str, ...]:
    """The last lines before the stack, unless the message says all of it already."""
    words = _before_stack(lines)[-WORDS:]
    return () if words == [_said(lines)] else tuple(words)


def _before_stack(lines: tuple[str, ...]) -> list[str]:
    before = []
    for line in lines:
        if line.startswith("Fatal Python error") or _CURRENT.match(line):
            break
        before.append(line.strip())
    return before
