"""What an FP8 probe's assembly, or its error, says: native, emulated, forbidden or wrong, and the evidence."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

NATIVE, EMULATED, FORBIDDEN, WRONG = "native", "emulated", "forbidden", "wrong"

OCP, FNUZ = ("f8E4M3FN", "f8E5M2"), ("f8E4M3FNUZ", "f8E5M2FNUZ")
OWN = {
    # AMD, "Low precision floating point types" (HIP documentation): FNUZ on CDNA3, OCP on CDNA4 and RDNA4. LLVM's pull request
    # 106160: gfx12 has the OCP formats behind the opcodes that read and write FNUZ on gfx942.
    "gfx942": FNUZ,
    "gfx950": OCP,
    "gfx1200": OCP,
    "gfx1201": OCP,
    # PTX ISA, cvt: .e4m3x2 and .e5m2x2 from sm_89 on.
    **dict.fromkeys(("sm_89", "sm_90", "sm_100", "sm_120"), OCP),
}
"""The formats that a part's FP8 instructions read and write; a part that is missing here has no such instructions."""

BIAS = {"f8E4M3FN": 7, "f8E4M3FNUZ": 8, "f8E5M2": 15, "f8E5M2FNUZ": 16}
"""Of the exponent: OCP 8-bit Floating Point 1.0; Noune et al. 2022 for FNUZ."""
TWIN = {"f8E4M3FN": "f8E4M3FNUZ", "f8E4M3FNUZ": "f8E4M3FN", "f8E5M2": "f8E5M2FNUZ", "f8E5M2FNUZ": "f8E5M2"}
"""The format with the same fields and the other bias."""

NONE = "no FP8 instruction"

_INSTRUCTION = re.compile(r"(?:@!?%p\d+\s+)?([a-z][\w.:]*)(?:\s|;|$)")
_ENCODING = re.compile(r"_(?:e32|e64|sdwa|dpp)$")
_FP8 = re.compile(r"v_\w*(?:fp8|bf8|f8f6f4)|\S*\.(?:e4m3|e5m2)(?:x2)?\b|tcgen05\.mma\S*f8f6f4")
_MATRIX = re.compile(r"v_(?:mfma|wmma)_|v_(?:pk_)?fmac?_|fma\.rn|mma\.sync|wgmma\.mma_async|tcgen05\.mma\.")
_BESIDES = re.compile(
    r"[sv]_(?:nop|endpgm|wait\w*|delay_alu|load_\w+)$|s_|buffer_|global_|flat_|ds_|(?:ld|st|mov|cvta|bar|ret)\b"
)
"""Instructions that do not compute: moves, memory, waiting, and AMD's scalar ones, which hold addresses and constants."""
_ERRORS = (
    re.compile(r"LLVM ERROR: (.*)"),
    re.compile(r"error: (Unsupported conversion .*)"),
    re.compile(r"(Unsupported conversion .*)"),
    re.compile(r"(Assertion .* failed)"),
    re.compile(r"(type \w+ not supported in this architecture)"),
    re.compile(r"error: (.*)"),
    re.compile(r"(.+)"),
)
"""The line of a compiler's output that names the cause; the first of these that is found."""


class Undecided(Exception):
    """Assembly that these rules cannot judge; the message says which and why. Read it, and add a rule."""


@dataclass(frozen=True, order=True)
class Verdict:
    """Of one probe. `evidence`: instructions or the compiler's message. `stage`: who refuses, "" unless forbidden.

    `factor`: a wrong conversion's result over the right one, for all numbers in the range of both formats; 1 if not wrong.
    """

    kind: str
    evidence: str
    stage: str = ""
    factor: float = 1.0


def verdicts(target: str, answers: Mapping[str, Mapping[str, Any]]) -> dict[str, Verdict]:
    """Of all `answers` for `target`, by probe. Raises `Undecided`."""
    return {probe: _verdict(target, probe, answers) for probe in answers}


def executable(target: str, found: Mapping[str, Verdict]) -> list[str]:
    """The emulated casts of `found` that can be run here: for AMD their LLVM IR has all of it, for NVIDIA it has PTX."""
    if not target.startswith("gfx"):
        return []
    return [probe for probe, verdict in found.items() if verdict.kind == EMULATED and probe.startswith("cast ")]


def executed(target: str, found: Mapping[str, Verdict], answers: Mapping[str, Mapping[str, Any]]) -> dict[str, Verdict]:
    """`found`, with what running those conversions showed. Raises `Undecided` for one that cannot be run, or is wrong."""
    shown = dict(found)
    for probe, verdict in found.items():
        if verdict.kind == EMULATED and probe.startswith("cast ") and probe not in answers:
            shown[probe] = Verdict(EMULATED, f"{NONE}; PTX, not run")
    for probe, answer in answers.items():
        if "error" in answer:
            raise Undecided(f"{probe} for {target} cannot be run here: {cause(answer['error'])}")
        if answer["units"] > 1:
            raise Undecided(
                f"{probe} for {target}: {answer['wrong']} of {answer['tried']} numbers are off, by {answer['units']} units"
            )
        few = answer["wrong"] / answer["tried"]
        right = f"{few:.1%} of the numbers tried are one unit off" if answer["wrong"] else "all numbers tried are right"
        shown[probe] = Verdict(EMULATED, f"{NONE}; run from LLVM IR: {right}")
    return shown


def _verdict(target: str, probe: str, answers: Mapping[str, Mapping[str, Any]]) -> Verdict:
    answer = answers[probe]
    if "error" in answer:
        return Verdict(FORBIDDEN, cause(answer["error"]), answer["stage"])
    listings = [instructions(text) for text in answer["assembly"]]
    kind, *formats = probe.split()
    if kind == "full":
        raise Undecided(f"{probe} compiles for {target}: no release before did")
    if kind == "dot":
        return _product(target, probe, formats, listings)
    source, result, _ = formats
    if source in BIAS and result in BIAS:
        raise Undecided(f"{probe} compiles for {target}: no release before did")
    return _cast(target, probe, answers, listings)


def _cast(target: str, probe: str, answers: Mapping[str, Mapping[str, Any]], listings: Sequence[Sequence[str]]) -> Verdict:
    _, source, result, rounding = probe.split()
    form = source if source in BIAS else result
    used = [_of_fp8(listing) for listing in listings]
    if any(used) and not all(used):
        raise Undecided(f"{probe} for {target}: some kernels use FP8 instructions, others do not: {used}")
    if any(used):
        _check_fields(target, probe, form, used)
        evidence = ", ".join(sorted({name for names in used for name in names}))
        if form in OWN.get(target, ()):
            return Verdict(NATIVE, evidence)
        return Verdict(WRONG, f"{evidence} alone: {_sequence(listings[0])}", factor=_factor(form, decodes=form == source))
    twin = " ".join(("cast", *(TWIN[form] if each == form else each for each in (source, result)), rounding))
    if answers[twin].get("assembly") == answers[probe]["assembly"]:
        return _shared(target, probe, form, listings[0])
    return Verdict(EMULATED, NONE)


def _check_fields(target: str, probe: str, form: str, used: Sequence[Sequence[str]]) -> None:
    """See that the instructions are for as many bits of exponent as the format has. Raises `Undecided`."""
    wanted = re.compile("fp8|e4m3" if "E4M3" in form else "bf8|e5m2")
    if odd := [name for names in used for name in names if not wanted.search(name)]:
        raise Undecided(f"{probe} for {target}: uses {odd}")


def _shared(target: str, probe: str, form: str, listing: Sequence[str]) -> Verdict:
    """The same code for two formats with different biases: right for e5m2 and f16, as one is the upper byte of the other."""
    if form not in {"f8E5M2", "f8E5M2FNUZ"}:
        raise Undecided(f"{probe} for {target}: the same code as for {TWIN[form]}")
    if form == "f8E5M2":
        return Verdict(EMULATED, NONE)
    evidence = f"the sequence of f8E5M2: {_sequence(listing)}"
    return Verdict(WRONG, evidence, factor=_factor(form, decodes=probe.split()[1] == form))


def _factor(form: str, *, decodes: bool) -> float:
    """What comes of reading (or writing) codes of `form` with the bias of its twin."""
    difference = BIAS[form] - BIAS[TWIN[form]]
    return 2.0 ** (difference if decodes else -difference)


def _product(target: str, probe: str, formats: Sequence[str], listings: Sequence[Sequence[str]]) -> Verdict:
    """Native if matrix instructions take the operands; emulated if those are converted first."""
    used = _of_fp8(listings[0])
    multiplied = sorted({name for name in listings[0] if _MATRIX.match(name)})
    if not multiplied:
        raise Undecided(f"{probe} for {target}: multiplies with none of the known instructions")
    own = OWN.get(target, ())
    if any(name in used for name in multiplied):
        return Verdict(NATIVE if set(formats) <= set(own) else WRONG, ", ".join(name for name in multiplied if name in used))
    if used and not set(formats) & set(own):
        raise Undecided(f"{probe} for {target}: converts with {used}, whose formats are neither operand's")
    main = [name for name in multiplied if not re.match(r"v_(?:pk_)?fma|fma", name)] or multiplied
    return Verdict(EMULATED, ", ".join([*used, *main]))


def _of_fp8(listing: Sequence[str]) -> list[str]:
    return sorted({name for name in listing if _FP8.match(name)})


def _computing(listing: Sequence[str]) -> list[str]:
    return [name for name in listing if not _BESIDES.match(name)]


def _sequence(listing: Sequence[str]) -> str:
    return " ".join(_computing(listing))


def instructions(assembly: str) -> list[str]:
    """The mnemonics of AMDGCN or PTX, in order, without the suffixes of encodings."""
    found = []
    for line in assembly.splitlines():
        code = line.partition("//")[0].strip().lstrip("{").strip()
        match = _INSTRUCTION.match(code)
        if match and not code.startswith(".") and not match[1].endswith(":"):
            found.append(_ENCODING.sub("", match[1]))
    return found


def cause(error: str) -> str:
    """The line of `error` that says why, without places in files."""
    text = re.sub(r"\(\\?'.*?\\?'\)", "", error)
    for pattern in _ERRORS:
        if match := pattern.search(text):
            return match[1].strip().rstrip(".,;")
    return "no message"
