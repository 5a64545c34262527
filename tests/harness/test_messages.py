"""What varies in a message is folded; what tells one defect from another stays."""

from __future__ import annotations

import dataclasses
import random
import re
import string
from collections.abc import Callable

import pytest

from tridiff.harness.api import Finding, findings, normalised

# From each of these rows, messages of one defect.
ONE_DEFECT = {
    "address": ("LLVM ERROR: Cannot select: 0x5581e0: v4f32 = fadd", "LLVM ERROR: Cannot select: 0x7f00aa1: v8bf16 = fadd"),
    "node": ("Cannot select: t12: f32 = fp_round t11, t2", "Cannot select: t7: f16 = fp_round t115, t40"),
    "memory fault": (
        "Memory access fault by GPU node-2 (Agent handle: 0x55d0c7) on address 0x7f2e4000. Reason: Unknown.",
        "Memory access fault by GPU node-10 (Agent handle: 0x1) on address 0xdead000. Reason: Unknown.",
    ),
    "temporary folder": (
        'loc("/tmp/tmpk3_x9a1b/kernel.py":12:30): error: bad',
        'loc("/home/ci/run-7/kernel.py":12:4): error: bad',
    ),
    "temporary file": ("cannot open /tmp/tmpabcdefgh", "cannot open /var/tmp/tmp0_1z9xq7"),
    "cache folder": (
        "~/.triton/cache/4GQW2YBKZ2MTV3C77NFEVRWZSHCZ6N5JXIYQ/k.hsaco: truncated",
        "/home/me/cache/2LX6BKW4ZHDM5XA3OTPYKRWQ7EJVNUCGFISD/k.hsaco: truncated",
    ),
    "process": ("worker 4711 (pid 4711) died", "worker 9 (pid 9) died"),
    "thread": ("Thread-3 (run): 0x7f1 gave up", "Thread-12 (run): 0x7f2 gave up"),
    "object": ("<function f at 0x7f01>: unhashable", "<function f at 0x55aa>: unhashable"),
    "UUID": ("job 3f2504e0-4f89-11d3-9a0c-0305e82c3301", "job 00000000-0000-4000-8000-000000000000"),
    "digest": ("kernel 9f86d081884c7d65 is stale", "kernel 2c26b46b68ffc68f is stale"),
    "cache key": ("key ABCDEFGHIJKLMNOPQRSTUVWXYZ23 is stale", "key 234567ABCDEFGHIJKLMNOPQRSTUV is stale"),
    "duration": ("took 1.5 s", "took 350 ms"),
    "memory": ("needs 64 KiB of shared memory", "needs 1.2 MB of shared memory"),
    "flag": ("causal=True is not supported", "causal=False is not supported"),
    "attribute": ("{transpose = false}", "{transpose = true}"),
    "nested list": ("offsets [[1, 2], [3]]", "offsets [[1]]"),
    "array": ("lengths [1. 2. 3.]", "lengths [0.5]"),
    "numbers in a row": ("index 3, 4 is too large", "index 3, 4, 5 is too large"),
    "product": ("tile of 16x32", "tile of 16x32x3"),
    "LLVM vector": ("store <4 x float> %12", "store <8 x bfloat> %7"),
    "value of MLIR": ("operand %arg3 of %12", "operand %arg10 of %9"),
    "register": ("spilled vgpr12 in bb3", "spilled vgpr7 in bb10"),
    "layout": ("#blocked1 to #mma", "#blocked12 to #mma"),
    "torch's dtype": ("expected scalar type Half but found BFloat16", "expected scalar type Float but found Half"),
    "quoted dtype": ("\"addmm\" not implemented for 'Float8_e4m3fnuz'", "\"addmm\" not implemented for 'Half'"),
    "dtypes of C++": ("same dtype, but got: float != c10::BFloat16", "same dtype, but got: c10::Half != double"),
    "short dtype": ("no product for torch.half", "no product for torch.float8_e5m2"),
    "dtypes": ("got (torch.float16, torch.float32)", "got (torch.bfloat16,)"),
    "target": ("no such instruction on gfx90a", "no such instruction on gfx1201"),
    "end of a sentence": ("it was 3.", "it was 3.5."),
}

# From each of these rows, messages of two defects.
TWO_DEFECTS = {
    "signal": ("killed by SIGSEGV", "killed by SIGABRT"),
    "number of a signal": ("killed by signal 11", "killed by signal 6"),
    "exit code": ("exited with code 3", "exited with code 134"),
    "errno": ("[Errno 2] it failed", "[Errno 13] it failed"),
    "assertion": ("Assertion `a < b' failed.", "Assertion `a > b' failed."),
    "line of a source file": ("Assertion 'x' failed. at file.cpp:123", "Assertion 'x' failed. at file.cpp:124"),
    "source file": ("Assertion 'x' failed. at /src/Lowering.cpp:7", "Assertion 'x' failed. at /src/Pipeliner.cpp:7"),
    "line of a kernel": ('loc("/tmp/a/kernel.py":12:30): error: bad', 'loc("/tmp/a/kernel.py":13:30): error: bad'),
    "line in Python's form": ('File "/a/k.py", line 3, in f', 'File "/a/k.py", line 4, in f'),
    "heap": ("malloc(): corrupted top size", "free(): invalid pointer"),
    "instruction": ("Cannot select: 0x1: v4f32 = fadd", "Cannot select: 0x1: v4f32 = fmul"),
    "operation": ("'tt.dot' op failed to verify", "'tt.reduce' op failed to verify"),
    "digit of an operation": ("'math.exp2' op is illegal", "'math.exp' op is illegal"),
    "argument": ("k1 must be contiguous", "k2 must be contiguous"),
    "name of a kernel": ("in _attention_stage1", "in _attention_stage2"),
    "pass": ("Running pass 'Greedy Register Allocator'", "Running pass 'Branch relaxation'"),
    "symbol": ("undefined symbol _ZN4mlir3fooEv", "undefined symbol _ZN4mlir3barEv"),
    "type of an exception": ("ValueError: 3", "TypeError: 3"),
    "keyword": ("missing argument: 'scale'", "missing argument: 'sink'"),
    "dtype or number": ("cannot take float16", "cannot take 16"),
    "reason": (
        "Memory access fault by GPU node-2 on address 0x1. Reason: Unknown.",
        "Memory access fault by GPU node-2 on address 0x1. Reason: Page not present or supervisor privilege.",
    ),
    "word of digits and letters": ("decoded feedback", "decoded facade"),
    "division": ("a / b is not finite", "a * b is not finite"),
}


def _letters(draw: random.Random, alphabet: str, length: int) -> str:
    return "".join(draw.choices(alphabet, k=length))


def _numbers(draw: random.Random) -> str:
    return str(tuple(draw.randrange(5000) for _ in range(draw.randrange(1, 5))))


FILLINGS: dict[str, Callable[[random.Random], str]] = {
    "number": lambda draw: f"{draw.randrange(10 ** draw.randrange(1, 12))}",
    "ratio": lambda draw: f"{draw.choice((-1, 1)) * draw.lognormvariate(0, 20):g}",
    "address": lambda draw: f"{draw.getrandbits(47):#x}",
    "dtype": lambda draw: draw.choice(("torch.float16", "torch.bfloat16", "torch.float8_e4m3fnuz", "torch.int32")),
    "type": lambda draw: draw.choice(("f32", "bf16", "v4f32", "v8bf16", "f8E4M3FNUZ", "i32")),
    "tensor": lambda draw: f"tensor<{draw.randrange(1, 999)}x{draw.randrange(1, 999)}x{draw.choice(('f32', 'bf16', 'i1'))}>",
    "shape": _numbers,
    "folder": lambda draw: f"/scratch/tmp{_letters(draw, string.ascii_lowercase + string.digits + '_', 8)}",
    "cache": lambda draw: f"/home/u{draw.randrange(99)}/.triton/cache/{_letters(draw, string.ascii_uppercase + '234567', 52)}",
    "thread": lambda draw: f"Thread-{draw.randrange(1, 300)}",
    "object": lambda draw: f"<function build at {draw.getrandbits(47):#x}>",
    "time": lambda draw: draw.choice((f"{draw.random() * 90:.1f} s", f"{draw.randrange(999)} ms", f"{draw.randrange(9)} min")),
    "size": lambda draw: f"{draw.randrange(1, 2000)} {draw.choice(('B', 'KiB', 'MB', 'GiB'))}",
    "flag": lambda draw: str(draw.random() < 0.5),
    "target": lambda draw: draw.choice(("gfx90a", "gfx942", "gfx950")),
}
"""What a message may be full of, each drawn anew."""

DEFECTS = (
    "LLVM ERROR: Cannot select: {address}: {type} = fadd {address}, {address} in {cache}/kernel.ttgir on {target}",
    "{thread} ({number}): {object} took {time} and {size}: {tensor} of {dtype}, shape {shape}, causal={flag}, ratio {ratio}",
    "loc(\"{folder}/kernel.py\":12:{number}): error: 'tt.dot' op has {shape} with {tensor} and {ratio} for {dtype}",
)


def messages(count: int, seed: int = 0) -> list[str]:
    """That many messages of the three `DEFECTS`, in turns."""
    draw = random.Random(seed)
    fields = string.Formatter()

    def filled(template: str) -> str:
        return "".join(text + (FILLINGS[name](draw) if name else "") for text, name, _, _ in fields.parse(template))

    return [filled(DEFECTS[at % len(DEFECTS)]) for at in range(count)]


def signatures(texts: list[str]) -> set[str]:
    """Signatures of findings that differ in nothing else."""
    finding = Finding(
        check="crash", message="", line=None, op="scale", kernel="scale", engine="cpu", target="gfx942", case=None
    )  # fmt: skip
    return {dataclasses.replace(finding, subject=text).signature() for text in texts}


def test_a_thousand_failing_cases_of_three_defects() -> None:
    """They give three signatures, although hardly two messages are the same."""
    texts = messages(1000)

    assert len(set(texts)) == 1000
    assert len(signatures(texts)) == len(DEFECTS)


def test_each_of_the_things_that_vary_must_be_folded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where messages are left as they are, or only their numbers are folded, three defects become hundreds."""
    texts = messages(1000)

    for folded in (str, lambda text: re.sub(r"\d+", "#", text)):
        monkeypatch.setattr(findings, "normalised", folded)
        assert len(signatures(texts)) > 100


@pytest.mark.parametrize("name", ONE_DEFECT)
def test_one_defect(name: str) -> None:
    """What differs is chance: the machine, the process, the case."""
    one, other = ONE_DEFECT[name]

    assert one != other
    assert normalised(one) == normalised(other)


@pytest.mark.parametrize("name", TWO_DEFECTS)
def test_two_defects(name: str) -> None:
    """What differs says which defect it is."""
    one, other = TWO_DEFECTS[name]

    assert normalised(one) != normalised(other)


def test_every_row_of_defects_is_another() -> None:
    """Nothing is folded so far that messages of different kinds become one."""
    folded = [normalised(one) for one, _ in ONE_DEFECT.values()]

    assert len(set(folded)) == len(folded)


@pytest.mark.parametrize("text", [text for pair in [*ONE_DEFECT.values(), *TWO_DEFECTS.values()] for text in pair])
def test_folding_twice_changes_nothing(text: str) -> None:
    """A message that was folded, and came back from a file, keeps its signature."""
    assert normalised(normalised(text)) == normalised(text)
