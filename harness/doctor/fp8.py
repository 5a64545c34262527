"""How a kernel that Triton compiles for a target converts to and from each FP8 format.

From docs/reference/number_formats.md, which has the evidence: what Triton's back ends emit; AMD's "Low precision floating
point types" (HIP documentation: gfx942 has the FNUZ formats, gfx950 the OCP's); the PTX ISA (cvt of e4m3x2 and e5m2x2 needs
sm_89). gfx12 has instructions of the OCP formats as well, but Triton 3.6 to 3.9 do not use them for conversions.
"""

from __future__ import annotations

from collections.abc import Collection

FORMATS = {"e4m3fn": "fp8e4nv", "e4m3fnuz": "fp8e4b8", "e5m2": "fp8e5", "e5m2fnuz": "fp8e5b16"}
"""torch's names (float8_...), with Triton's."""

NATIVE, EMULATED, NOT_BF16, REFUSED = "native", "emulated", "emulated, not bf16", "refused"
MEANING = {
    NATIVE: "the target's own instructions convert",
    EMULATED: "a sequence of integer operations converts",
    NOT_BF16: "likewise, but conversions with bf16 fail to compile or give wrong numbers (Triton before 3.8)",
    REFUSED: "a kernel with this format does not compile",
}

_OCP, _FNUZ = ("e4m3fn", "e5m2"), ("e4m3fnuz", "e5m2fnuz")
_FNUZ_WITH_BF16 = (3, 8)
"""The first Triton whose sequences between bf16 and the FNUZ formats are right on every AMD target."""


def flavour(target: str, name: str, supported: Collection[str], release: tuple[int, ...]) -> str:
    """One of `MEANING` for format `name` on `target`.

    `supported`: the target's `supported_fp8_dtypes`, in Triton's names; `release`: Triton's (major, minor).
    """
    if FORMATS[name] not in supported:
        return REFUSED
    if name in _native(target):
        return NATIVE
    safe = target == "gfx942" or (target, name) == ("gfx950", "e4m3fnuz")
    if name in _FNUZ and not safe and release < _FNUZ_WITH_BF16:
        return NOT_BF16
    return EMULATED


def _native(target: str) -> tuple[str, ...]:
    if target.startswith("sm_"):
        return _OCP if int(target.removeprefix("sm_")) >= 89 else ()
    return {"gfx942": _FNUZ, "gfx950": _OCP}.get(target, ())
