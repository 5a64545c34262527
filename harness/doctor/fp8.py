"""How a kernel that Triton compiles for a target converts to and from each FP8 format, in a word.

From the data behind docs/reference/fp8.md, which has each cast by itself, and the evidence.
"""

from __future__ import annotations

from collections.abc import Collection

from tridiff.harness.targets import fp8_casts

FORMATS = {"e4m3fn": "fp8e4nv", "e4m3fnuz": "fp8e4b8", "e5m2": "fp8e5", "e5m2fnuz": "fp8e5b16"}
"""torch's names (float8_...), with Triton's."""

NATIVE, EMULATED, NOT_BF16, REFUSED, UNKNOWN = "native", "emulated", "emulated, not bf16", "refused", "unknown"
MEANING = {
    NATIVE: "the target's own instructions convert",
    EMULATED: "a sequence of integer operations converts",
    NOT_BF16: "likewise, but conversions with bf16 fail to compile or give wrong numbers (Triton before 3.8)",
    REFUSED: "a kernel with this format does not compile",
    UNKNOWN: "nobody has looked what Triton makes of this target",
}

_WIDE = ("f32", "f16", "bf16")


def flavour(target: str, name: str, supported: Collection[str], release: tuple[int, ...]) -> str:
    """One of `MEANING` for format `name` on `target`.

    `supported`: the target's `supported_fp8_dtypes`, in Triton's names; `release`: Triton's (major, minor).
    """
    if FORMATS[name] not in supported:
        return REFUSED
    form, version = f"f8{name.upper()}", ".".join(map(str, release))
    casts = {wide: [fp8_casts.conversion(target, *pair, version) for pair in ((form, wide), (wide, form))] for wide in _WIDE}
    kinds = {cast.kind for pair in casts.values() for cast in pair}
    if fp8_casts.UNKNOWN in kinds:
        return UNKNOWN
    if not all(cast.is_right for cast in casts["bf16"]):
        return NOT_BF16
    return NATIVE if fp8_casts.NATIVE in kinds else EMULATED
