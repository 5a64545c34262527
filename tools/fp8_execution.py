"""Run emulated FP8 conversions for AMD targets on this machine: `fp8_execution.py TARGET PROBE...`; needs gcc.

Triton's LLVM IR for a cast is a sequence of integer operations. Its library translates that for this machine as well, once the
few names of the GPU in it are those of C functions. Started by `fp8_table.py`, like `fp8_probes.py`: an answer is a line of JSON
with the numbers that were tried, those that came out `wrong`, and by how many units in the last place at most.
"""

from __future__ import annotations

import ctypes
import json
import os
import re
import subprocess
import sys
import tempfile
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
import triton
from fp8_probes import FAILS, FP8, kernel
from triton._C.libtriton import llvm
from triton.backends.compiler import GPUTarget

from tridiff.harness.engines.cpu.target import RELEASE
from tridiff.harness.engines.spec import backend_of

TOGETHER = (1, 4)
"""Numbers to a thread: with more, threads would have to exchange them before they are stored."""
TYPES = {
    "f32": torch.float32,
    "bf16": torch.bfloat16,
    "f16": torch.float16,
    "f8E4M3FN": torch.float8_e4m3fn,
    "f8E4M3FNUZ": torch.float8_e4m3fnuz,
    "f8E5M2": torch.float8_e5m2,
    "f8E5M2FNUZ": torch.float8_e5m2fnuz,
}
_REWRITTEN = (
    (r"^(?:target|attributes|!).*\n", ""),
    (r",? ![a-z.]+ !\d+", ""),
    (r" #\d+", ""),
    (r"amdgpu_kernel | inreg| addrspace\(1\)| immarg", ""),
    (r"@llvm\.amdgcn\.workitem\.id\.x", "@lane"),
    (r"@llvm\.amdgcn\.s\.setreg", "@set_mode"),
    (r"^declare <2 x half> @llvm\.amdgcn\.cvt\.pkrtz.*\n", ""),
    (r"@llvm\.amdgcn\.cvt\.pkrtz", "@cut_both"),
    (r"(?:noundef )?range\(i32 \d+, \d+\) ", ""),
    (r"^declare bfloat @llvm\.fabs\.bf16.*\n", ""),  # LLVM's back end for this machine fails on it
    (r"@llvm\.fabs\.bf16", "@magnitude"),
)
_ADDED = """
declare i32 @cut(float, float)
define internal <2 x half> @cut_both(float %x, float %y) {
  %bits = call i32 @cut(float %x, float %y)
  %result = bitcast i32 %bits to <2 x half>
  ret <2 x half> %result
}
define internal bfloat @magnitude(bfloat %x) {
  %bits = bitcast bfloat %x to i16
  %rest = and i16 %bits, 32767
  %result = bitcast i16 %rest to bfloat
  ret bfloat %result
}
"""
_DRIVER = """
#include <immintrin.h>
static int at;
int lane(void) { return at; }
void set_mode(int which, int value) {}
unsigned cut(float x, float y) { return _cvtss_sh(x, 3) | (unsigned)_cvtss_sh(y, 3) << 16; }
void convert(char *x, char *out, char *scratch, char *profile);
void run(char *x, int size, char *out, int wide, long count, int block, int lanes) {
    for (long i = 0; i < count; i += block)
        for (at = 0; at < lanes; at++)
            convert(x + i * size, out + i * wide, 0, 0);
}
"""


def answer(probe: str, target: str) -> dict[str, Any]:
    """What comes out of all numbers that both formats can hold, against torch's conversion of one number."""
    _, source, result, rounding = probe.split()
    given = numbers(source)
    wanted = expected(given, TYPES[result], toward_zero=rounding == "rtz")
    within = given.float().isfinite() & wanted.float().isfinite() & (given.float().abs() <= largest(source, result))
    apart = torch.cat([distance(converted(probe, target, given, each), wanted)[within] for each in TOGETHER])
    found = {"tried": len(apart), "wrong": int((apart > 0).sum()), "units": int(apart.max())}
    return {"probe": probe, **found}


def numbers(source: str) -> torch.Tensor:
    """All numbers of 8 or 16 bits; of float32 each upper half of the bits with six lower halves, and all of float16."""
    if source in FP8:
        return torch.arange(4096).to(torch.uint8).view(TYPES[source])
    halves = torch.arange(-(1 << 15), 1 << 15).to(torch.int16)
    if source != "f32":
        return halves.view(TYPES[source])
    upper = torch.arange(1 << 16, dtype=torch.int64) << 16
    lower = (0, 1, 0x7FFF, 0x8000, 0x8001, 0xFFFF)
    return torch.cat(
        [*((upper + each).to(torch.int32).view(torch.float32) for each in lower), halves.view(torch.float16).float()]
    )


def largest(source: str, result: str) -> float:
    """The largest number that both formats have."""
    return float(min(torch.finfo(TYPES[form]).max for form in (source, result)))


def expected(given: torch.Tensor, result: torch.dtype, *, toward_zero: bool) -> torch.Tensor:
    """To nearest even, by torch; toward zero, the code below where that is too large."""
    nearest = given.float().to(result)
    if not toward_zero:
        return nearest
    codes = nearest.view(torch.uint8)
    past = nearest.float().abs() > given.float().abs()
    return torch.where(past, codes.int() - 1, codes.int()).to(torch.uint8).view(result)


def distance(left: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
    """Units in the last place between numbers of one format; zeros of both signs are one number."""
    kind = {1: torch.uint8, 2: torch.int16, 4: torch.int32}[left.element_size()]
    bits = 8 * left.element_size()

    def place(x: torch.Tensor) -> torch.Tensor:
        code = x.view(kind).to(torch.int64) & ((1 << bits) - 1)
        magnitude = code & ((1 << (bits - 1)) - 1)
        return torch.where(code >> (bits - 1) == 1, -magnitude, magnitude)

    return (place(left) - place(right)).abs()


def converted(probe: str, target: str, given: torch.Tensor, each: int) -> torch.Tensor:
    """`given` by the code that Triton emits for `target`, `each` numbers to a thread."""
    backend, arch, lanes = backend_of(target)
    source, warps = kernel(probe, each * lanes)
    text = triton.compile(source, GPUTarget(backend, arch, lanes), {"num_warps": warps}).asm["llir"]
    out = torch.zeros(given.shape, dtype=TYPES[probe.split()[2]])
    with tempfile.TemporaryDirectory() as folder:
        library = ctypes.CDLL(str(built(text, Path(folder))))
        pointers = [ctypes.c_void_p(x.data_ptr()) for x in (given, out)]
        sizes = [x.element_size() for x in (given, out)]
        library.run(pointers[0], sizes[0], pointers[1], sizes[1], ctypes.c_long(len(given)), each * lanes, lanes)
    return out


def built(text: str, folder: Path) -> Path:
    """A library of the LLVM IR `text` with a function that runs it over all blocks and lanes."""
    for pattern, replacement in _REWRITTEN:
        text = re.sub(pattern, replacement, text, flags=re.MULTILINE)
    llvm.init_targets()
    # Whether to fuse, to make an object file, and, from 3.8 on, to canonicalise addresses.
    switches = (False, True) if RELEASE < (3, 8) else (False, True, False)
    machine_code = llvm.translate_to_asm(text + _ADDED, "x86_64-unknown-linux-gnu", "x86-64-v3", "", [], *switches)
    (folder / "kernel.o").write_bytes(machine_code)
    library = folder / "kernel.so"
    _gcc("-shared", "-Wl,-z,defs", "-o", library, Path(_driver().name, "driver.o"), folder / "kernel.o", "-lm")
    return library


@lru_cache(maxsize=1)
def _driver() -> tempfile.TemporaryDirectory[str]:
    """The folder in which the loop over blocks and lanes lies compiled."""
    folder = tempfile.TemporaryDirectory()
    source = Path(folder.name, "driver.c")
    source.write_text(_DRIVER, encoding="utf-8")
    _gcc("-O1", "-mf16c", "-fPIC", "-c", "-o", source.with_suffix(".o"), source)
    return folder


def _gcc(*arguments: str | Path) -> None:
    subprocess.run(["gcc", *arguments], check=True, stdout=sys.stderr)  # noqa: S603, S607 - the command is ours


def main(target: str, *wanted: str) -> None:
    """Answer the probes, as `fp8_probes.main` does."""
    torch.set_num_threads(1)
    os.environ["AMDGCN_USE_BUFFER_OPS"] = "0"  # loads and stores of the C kind; conversions are the same
    for probe in wanted:
        print(f"\n<{probe}>", file=sys.stderr, flush=True)
        try:
            found = answer(probe, target)
        except Exception as error:  # noqa: BLE001 - an operation that this machine does not have
            found = {"probe": probe, "stage": FAILS, "error": str(error)}
        print(json.dumps(found), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
