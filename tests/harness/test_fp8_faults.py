"""FP8 casts of a kernel: which there are, on which line, and what is said of those that will not do."""

# mypy: allow-untyped-defs, allow-incomplete-defs, allow-untyped-decorators
# ruff: noqa: ANN001, ANN201 - arguments of jit functions have no Python type, nor have their results

from __future__ import annotations

from pathlib import Path
from typing import Any

import fp8_probes
import pytest
import triton
import triton.language as tl
from triton._C.libtriton import ir
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from tridiff.harness.api import Failure
from tridiff.harness.capture import backend_for
from tridiff.harness.engines.cpu.mlir import ParseError
from tridiff.harness.engines.spec import backend_of
from tridiff.harness.targets.fp8 import Cast, conversions, faults_of

HERE = Path(__file__).name


@triton.jit
def through_helpers(x, y, out, count, half: tl.constexpr):
    """Reads FP8 in a helper, and writes it toward zero."""
    i = tl.arange(0, 64)
    total = tl.zeros((64,), tl.float32)
    for _ in range(count):
        total += widened(x, i, half)
        total += tl.load(y + i).to(tl.float32)  # bf16
    tl.store(out + i, total.to(tl.float8e5, fp_downcast_rounding="rtz"))


@triton.jit
def widened(x, i, half: tl.constexpr):
    """FP8 by way of another format."""
    if half:
        return tl.load(x + i).to(tl.float16).to(tl.float32)
    return tl.load(x + i).to(tl.bfloat16).to(tl.float32)


def lines(snippet: str) -> list[str]:
    """FILE:LINE of the lines of this file that contain `snippet`."""
    source = Path(__file__).read_text(encoding="utf-8").splitlines()
    return [f"{HERE}:{at}" for at, line in enumerate(source, 1) if snippet in line]


def text(source: Any, target: str, stages: tuple[str, ...] = ("ttir",)) -> str:
    """The kernel's module behind these stages, in MLIR's generic form."""
    gpu = GPUTarget(*backend_of(target))
    backend = backend_for(gpu)
    options = backend.parse_options({"num_warps": 4})
    context = ir.context()
    ir.load_dialects(context)
    backend.load_dialects(context)
    functions, modules = backend.get_codegen_implementation(options), backend.get_module_map()
    module = source.make_ir(gpu, options, functions, modules, context)
    known: dict[str, Any] = {}
    backend.add_stages(known, options, source.language)
    metadata: dict[str, Any] = {}
    for stage in stages:
        module = known[stage](module, metadata)
    module.set_attr("tridiff", ir.builder(context).get_unit_attr())
    found: str = module.str()
    return found


def probe(name: str, target: str, stages: tuple[str, ...] = ("ttir",)) -> str:
    """Likewise, of a probe."""
    return text(fp8_probes.kernel(name, 64)[0], target, stages)


def kernel(pointer: str, *, half: bool = False) -> Any:
    """`through_helpers` for an FP8 pointer."""
    signature = {"x": f"*{pointer}", "y": "*bf16", "out": "*fp8e5", "count": "i32", "half": "constexpr"}
    return ASTSource(through_helpers, signature, constexprs={"half": half})


def test_casts_of_a_kernel_in_loops_and_helpers() -> None:
    """Only those that FP8 has a part in, with their rounding and the author's line, which may be a helper's."""
    found = conversions(text(kernel("fp8e4b8"), "gfx942"))

    read, written = lines("(tl.bfloat16).to(tl.float32)")[0], lines("total.to(tl.float8e5")[0]
    assert found == [
        Cast("f8E4M3FNUZ", "bf16", read, toward_zero=False, operation="tt.fp_to_fp"),
        Cast("f32", "f8E5M2", written, toward_zero=True, operation="tt.fp_to_fp"),
    ]


def test_casts_that_a_back_end_adds_for_a_product() -> None:
    """TTGIR of a part that has not those formats: the operands are converted to fp16, where TTIR has the product only."""
    name = "dot f8E4M3FN f8E5M2"

    assert conversions(probe(name, "gfx942")) == []
    added = conversions(probe(name, "gfx942", ("ttir", "ttgir")))
    assert {(cast.source, cast.result) for cast in added} == {("f8E4M3FN", "f16"), ("f8E5M2", "f16")}


def test_kernel_without_fp8() -> None:
    """Its text is not even parsed, so that it costs nothing; other text must be a module."""
    assert conversions("no module") == []
    with pytest.raises(ParseError):
        conversions("no module of f8E5M2")


def only(failures: list[Failure]) -> Failure:
    """The one failure."""
    (failure,) = failures
    return failure


def test_wrong_cast_is_a_failure_of_fp8_semantics() -> None:
    """The message says which cast, the target, the release, the instruction, the factor, and what to do."""
    failure = only(faults_of("gfx1201", text(kernel("fp8e4b8"), "gfx1201"), "3.7.1"))

    assert failure.check == "fp8_semantics"
    assert failure.line == lines("(tl.bfloat16).to(tl.float32)")[0]
    assert failure.subject == "f8E4M3FNUZ to bf16"
    assert failure.message == (
        "f8E4M3FNUZ to bf16 is silently wrong on gfx1201 with triton 3.7.1: it compiles to v_cvt_pk_f32_fp8 alone, so that"
        " numbers come out twice as large; convert to float32 first"
    )


def test_wrong_cast_to_fp8_gives_half() -> None:
    """The other direction."""
    failure = only(faults_of("gfx1200", probe("cast bf16 f8E4M3FNUZ -", "gfx1200"), "3.6.0"))

    assert failure.check == "fp8_semantics"
    assert "come out half as large; convert to float32 first" in failure.message


def test_aborting_cast_is_a_failure_of_codegen() -> None:
    """With the compiler's words."""
    failure = only(faults_of("gfx90a", text(kernel("fp8e4b8"), "gfx90a"), "3.7.1"))

    assert failure.check == "codegen"
    assert failure.message == (
        "f8E4M3FNUZ to bf16 does not compile for gfx90a with triton 3.7.1: the compiler aborts, and the process with it"
        " (Cannot select: intrinsic %llvm.amdgcn.cvt.pk.f32.fp8); convert to float32 first"
    )


@pytest.mark.parametrize(
    ("target", "source", "release"),
    [
        ("gfx942", kernel("fp8e4b8"), "3.7.1"),  # native
        ("gfx90a", kernel("fp8e4nv"), "3.7.1"),  # emulated
        ("gfx90a", kernel("fp8e4b8", half=True), "3.7.1"),
        ("gfx1201", kernel("fp8e4b8"), "3.8.0"),  # no longer wrong
    ],
)
def test_casts_that_are_right(target: str, source: Any, release: str) -> None:
    """Native or emulated, there is nothing to say."""
    assert faults_of(target, text(source, target), release) == []


def test_target_that_nobody_probed() -> None:
    """Nothing is said of it, in particular not that it is wrong."""
    assert faults_of("gfx1250", text(kernel("fp8e4b8"), "gfx1201"), "3.7.1") == []


def test_release_that_nobody_probed() -> None:
    """The message says of which one this is known."""
    failure = only(faults_of("gfx1201", text(kernel("fp8e4b8"), "gfx1201"), "3.7.1+rocm7"))

    assert "with triton 3.7.1+rocm7" in failure.message
    assert "(known of triton 3.7.1, the nearest that was probed); convert" in failure.message


@pytest.mark.parametrize(
    ("name", "check", "advice"),
    [
        ("cast bf16 f8E5M2 rtz", "codegen", "leave out fp_downcast_rounding"),
        ("cast f8E4M3FN f8E5M2 -", "codegen", "convert to float32 first"),
        ("cast f64 f8E5M2 -", "codegen", "convert to float32 first"),
        ("full f8E5M2", "codegen", "fill with a float32 number and convert that"),
        ("cast f16 f8E5M2FNUZ rtz", "fp8_semantics", "leave out fp_downcast_rounding"),
    ],
)
def test_advice(name: str, check: str, advice: str) -> None:
    """What to write instead is right for that target."""
    failure = only(faults_of("gfx942", probe(name, "gfx942"), "3.9.0"))

    assert failure.check == check
    assert failure.message.endswith(f"; {advice}")


def test_one_line_says_a_thing_once() -> None:
    """An unrolled loop repeats a cast; its line is one."""
    once = probe("cast f8E4M3FNUZ bf16 -", "gfx1201")
    cast = next(line for line in once.splitlines() if '"tt.fp_to_fp"' in line)
    twice = once.replace(cast, f"{cast}\n{cast.replace('%', '%again_', 1)}")

    assert len(faults_of("gfx1201", twice, "3.7.1")) == 1
