"""The parser of MLIR's generic form: what it understands, and that it refuses everything else in one way."""

from __future__ import annotations

import random
import struct
from pathlib import Path

import numpy as np
import pytest
from triton._C.libtriton import ir

from tridiff.harness.engines.cpu import ttir
from tridiff.harness.engines.cpu.engine import execute
from tridiff.harness.engines.cpu.errors import KernelError, UnsupportedOperation
from tridiff.harness.engines.cpu.formats import COMPUTE, Array
from tridiff.harness.engines.cpu.ir import Frame, Location, Operation, Type
from tridiff.harness.engines.cpu.machine import Budget
from tridiff.harness.engines.cpu.memory import Memory
from tridiff.harness.engines.cpu.mlir import ParseError, parse, parse_attribute, parse_type, split_top
from tridiff.harness.engines.cpu.program import Compiler
from tridiff.harness.engines.cpu.space import Space
from tridiff.harness.engines.cpu.values import Pointer

TEXT = """\
#loc = loc("/home/user/a (b)/kernel.py":3:0)
#loc1 = loc(unknown)
#loc2 = loc("/lib/triton/language/standard.py":40:4)
#loc3 = loc("kernel.py":9:11)
#loc4 = loc("acc"(#loc3))
#loc5 = loc(callsite(#loc2 at #loc4))
#loc6 = loc(fused[#loc3, #loc2])
"builtin.module"() ({
  "tt.func"() <{function_type = (!tt.ptr<f32>, i32) -> (), sym_name = "kernel", sym_visibility = "public"}> ({
  ^bb0(%x: !tt.ptr<f32> loc("x"(#loc)), %n: i32 loc("n"(#loc))):
    %c = "arith.constant"() <{value = dense<[1, 2]> : tensor<2xi32>}> : () -> tensor<2xi32> loc(#loc1)
    %0:2 = "scf.if"(%n) ({
      "scf.yield"(%n, %n) : (i32, i32) -> () loc(#loc5)
    }, {
      "scf.yield"(%n, %n) : (i32, i32) -> () loc(#loc6)
    }) {tag = "a } : b"} : (i32) -> (i32, i32) loc(#loc4)
    "cf.cond_br"(%n, %0#1, %c)[^bb1, ^bb2] <{operandSegmentSizes = array<i32: 1, 1, 1>}> : (i32, i32, tensor<2xi32>) -> () loc(#loc2)
  ^bb1(%a: i32 loc("a"(#loc))):  // pred: ^bb0
    "tt.return"() : () -> () loc(#loc)
  ^bb2(%b: tensor<2xi32> loc(unknown)):  // pred: ^bb0
    "tt.return"() : () -> () loc(#loc)
  }) {noinline = false} : () -> () loc(#loc)
}) : () -> () loc(#loc)
"""  # noqa: E501 - lines as MLIR prints them


def test_structure() -> None:
    """Regions, blocks with arguments, several results, successors, properties and types."""
    (function,) = parse(TEXT).regions[0].blocks[0].operations
    entry, first, second = function.regions[0].blocks
    constant, branch, jump = entry.operations

    assert function.properties["sym_name"] == "kernel"
    assert entry.arguments == [("%x", Type("*f32")), ("%n", Type("i32"))]
    assert constant.properties["value"] == (["1", "2"], Type("i32", (2,)))
    assert branch.results == ["%0#0", "%0#1"]
    assert [[op.name for op in region.blocks[0].operations] for region in branch.regions] == [["scf.yield"], ["scf.yield"]]
    assert branch.result_types == [Type("i32"), Type("i32")]
    assert jump.operands == ["%n", "%0#1", "%c"]
    assert jump.successors == ["bb1", "bb2"]
    assert jump.properties["operandSegmentSizes"] == [1, 1, 1]
    assert [first.label, first.arguments] == ["bb1", [("%a", Type("i32"))]]
    assert [second.label, second.arguments] == ["bb2", [("%b", Type("i32", (2,)))]]


def test_locations() -> None:
    """An operation's line is the innermost one outside Triton's own library; names, call chains and fusions resolve."""
    (function,) = parse(TEXT).regions[0].blocks[0].operations
    constant, branch, jump = function.regions[0].blocks[0].operations
    (called,), (fused,) = (region.blocks[0].operations for region in branch.regions)

    assert str(function.location) == "kernel.py:3"
    assert function.location.frames == (Frame("/home/user/a (b)/kernel.py", 3),)
    assert str(constant.location) == ""
    assert [str(op.location) for op in (branch, called, fused)] == ["kernel.py:9"] * 3
    # Nothing else is known: better Triton's line than none.
    assert str(jump.location) == "standard.py:40"
    assert str(Location()) == ""


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("f32", Type("f32")),
        ("!tt.ptr<bf16>", Type("*bf16")),
        ("!tt.ptr<f8E4M3FNUZ, 1>", Type("*f8E4M3FNUZ")),
        ("tensor<16xi1>", Type("i1", (16,))),
        ("tensor<16x64x!tt.ptr<bf16>>", Type("*bf16", (16, 64))),
        ("tensor<4x2x8xf16, #blocked>", Type("f16", (4, 2, 8))),
        ("tensor<8x!tt.ptr<f32, 3>>", Type("*f32", (8,))),
        ("!tt.ptr<tensor<16x8xf16>>", Type("*tensor<16x8xf16>")),
        ("!tt.tensordesc<tensor<16x16xbf16, #shared>>", Type("!tt.tensordesc<tensor<16x16xbf16, #shared>>")),
        ("(i32, tensor<4xf32>) -> ()", Type("(i32, tensor<4xf32>) -> ()")),
    ],
)
def test_types(text: str, expected: Type) -> None:
    """Scalars, pointers, tensors of either, address spaces and layouts, which do not matter here."""
    assert parse_type(text) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("true", True),
        ("-7 : i64", -7),
        ("1.5 : f32", ("1.5", Type("f32"))),
        ("0x7F800000 : f32", ("0x7F800000", Type("f32"))),
        ("1.000980e-01 : bf16", ("1.000980e-01", Type("bf16"))),
        ('"public"', "public"),
        ("array<i32: 1, 0, 0>", [1, 0, 0]),
        ("array<i32>", []),
        ("array<i1: true, false>", [True, False]),
        ("array<f32: 1.5, 0x7F800000>", [("1.5", Type("f32")), ("0x7F800000", Type("f32"))]),
        ('[1 : i32, [], "a, b"]', [1, [], "a, b"]),
        ("{tt.divisibility = 16 : i32, b, c = {d = false}}", {"tt.divisibility": 16, "b": True, "c": {"d": False}}),
        (r'" \22} > \\ \C3\A9"', ' "} > \\ é'),
        ("dense<> : tensor<0xi32>", ([], Type("i32", (0,)))),
        ('dense<"0x0100FFFF"> : tensor<2xi16>', (["1", "-1"], Type("i16", (2,)))),
        ('dense<"0x0000803F0000C07F"> : tensor<2x1xf32>', ([["0x3F800000"], ["0x7FC00000"]], Type("f32", (2, 1)))),
        ('dense<"0x05"> : tensor<3xi1>', (["true", "false", "true"], Type("i1", (3,)))),
        ('dense<"0x010001"> : tensor<3xi1>', (["true", "false", "true"], Type("i1", (3,)))),
        ("dense_resource<big> : tensor<2xf32>", "dense_resource<big> : tensor<2xf32>"),
        ("affine_map<(d0)[s0] -> (d0 + s0)>", "affine_map<(d0)[s0] -> (d0 + s0)>"),
        ("affine_set<(d0) : (d0 - 1 >= 0)>", "affine_set<(d0) : (d0 - 1 >= 0)>"),
        ("dense<true> : tensor<4xi1>", ("true", Type("i1", (4,)))),
        ("dense<[[1, 2], [3, 4]]> : tensor<2x2xi32>", ([["1", "2"], ["3", "4"]], Type("i32", (2, 2)))),
        ("#arith.fastmath<none>", "#arith.fastmath<none>"),
        ("(i32) -> ()", "(i32) -> ()"),
    ],
)
def test_attributes(text: str, expected: object) -> None:
    """Properties as Python data; what is of no use stays text."""
    assert parse_attribute(text) == expected


@pytest.mark.parametrize(
    "text",
    [
        "",
        "dense<1",
        "dense<1>",
        "dense<[1, 2]> : tensor<3xi32>",
        "dense<[[1, 2]]> : tensor<2xi32>",
        "dense<[1, 2]> : tensor<1x2xi32>",
        'dense<"0x01"> : tensor<2xi32>',
        'dense<"0x0100"> : tensor<3xi8>',
        'dense<"0x010"> : tensor<1xi16>',
        'dense<"0x00"> : tensor<9xi1>',
        "array<i32: a>",
        "1.5 : i32",
        "1 : f32",
        '"open',
        '"one" "two"',
        "{a = 1 : i32, a = 2 : i32}",
        "{= 1}",
        "[1, , 2]",
        "#x<(>)",
        "7 : tensor<2x",
    ],
)
def test_damaged_attributes(text: str) -> None:
    """An attribute that does not fit its own type, or whose brackets or quotes do not match, is refused."""
    with pytest.raises(ParseError):
        parse_attribute(text)


@pytest.mark.parametrize("text", ["", "tensor<", "tensor<2xf32", "tensor<?xf32>", "tensor<2xf32>>", "!tt.ptr<>", "a b", "x<1>"])
def test_damaged_types(text: str) -> None:
    """Text that is no type is refused, and so is a tensor whose shape is not known."""
    with pytest.raises(ParseError):
        parse_type(text)


def module(body: str, *, before: str = "", after: str = "") -> str:
    """A module of one function with one block; `body` are its lines but the last."""
    opening = '"builtin.module"() ({\n"tt.func"() <{sym_name = "kernel"}> ({\n^bb0(%x: i32 loc(unknown)):'
    closing = '"tt.return"() : () -> () loc(unknown)\n}) : () -> () loc(unknown)\n}) : () -> () loc(unknown)'
    return f"{before}\n{opening}\n{body}\n{closing}\n{after}"


def parsed(body: str, **around: str) -> Operation:
    """The first operation of `body`."""
    return parse(module(body, **around)).regions[0].blocks[0].operations[0].regions[0].blocks[0].operations[0]


@pytest.mark.parametrize(
    ("place", "expected"),
    [
        ("unknown", []),
        (r'"k\C3\A9 \22 loc(at) [.py":3:1', [('ké " loc(at) [.py', 3)]),
        ('"k.py":3:1 to :9', [("k.py", 3)]),
        ('"k.py":3:1 to 4:9', [("k.py", 3)]),
        ('"name"', []),
        ('"name at"("k.py":3:1)', [("k.py", 3)]),
        ('callsite("a at b.py":1:1 at callsite("b.py":2:1 at "c.py":3:1))', [("a at b.py", 1), ("b.py", 2), ("c.py", 3)]),
        ('fused<{a = "]"}>["a.py":1:1, "b.py":2:1]', [("a.py", 1)]),
    ],
)
def test_forms_of_locations(place: str, expected: list[tuple[str, int]]) -> None:
    """Files of any name, ranges, names, call chains and fusions, in place as through a definition."""
    operation = parsed(f'%y = "tt.a"(%x) : (i32) -> i32 loc({place})')
    by_name = parsed('%y = "tt.a"(%x) : (i32) -> i32 loc(#loc7)', after=f"#loc7 = loc({place})")

    assert [(frame.file, frame.line) for frame in operation.location.frames] == expected
    assert by_name.location == operation.location


@pytest.mark.parametrize("place", ["#loc9", "#loc1", "", "k.py:1:1", '"k.py":1', 'callsite("k.py":1:1)', "fused[]", "unknown)"])
def test_damaged_locations(place: str) -> None:
    """A location that is not defined, defined by itself or in no known form is refused."""
    with pytest.raises(ParseError):
        parsed(f'%y = "tt.a"(%x) : (i32) -> i32 loc({place})', before="#loc1 = loc(#loc1)")


def test_definitions_resources_and_attributes() -> None:
    """Definitions of attributes hold where their name is used, data at the end is left alone, other attributes count."""
    operation = parsed(
        '%a, %b:2 = "tt.a"(%x) <{m = #map, n = "}>"}> {tag = "a } : b", p} : (i32) -> (i32, f32, !tt.ptr<f32>) loc(unknown)',
        before="#map = affine_map<(d0) -> (d0)>",
        after="{-#\n  dialect_resources: {\n    builtin: {\n    }\n  }\n#-}",
    )

    assert operation.results == ["%a", "%b#0", "%b#1"]
    assert operation.result_types == [Type("i32"), Type("f32"), Type("*f32")]
    assert operation.properties == {"m": "affine_map<(d0) -> (d0)>", "n": "}>", "tag": "a } : b", "p": True}


@pytest.mark.parametrize(
    "body",
    [
        '%y = "tt.a"(%unknown) : (i32) -> i32 loc(unknown)',
        '%y = "tt.a"(%x, %x) : (i32) -> i32 loc(unknown)',
        '%y:2 = "tt.a"(%x) : (i32) -> i32 loc(unknown)',
        '%y, %y = "tt.a"(%x) : (i32) -> (i32, i32) loc(unknown)',
        '%y = "tt.a"(%x) : (i32) -> i32',
        '%y = "tt.a"(%x) (i32) -> i32 loc(unknown)',
        '"cf.br"()[^bb7] : () -> () loc(unknown)',
        '"cf.br"()[bb0] : () -> () loc(unknown)',
        "^bb1:\n^bb2:",
        "^bb0:",
        "^bb1(%y):",
        "#text",
    ],
)
def test_inconsistent_modules(body: str) -> None:
    """Values and blocks that nothing defines, types that differ in number, and empty blocks are refused."""
    assert parse(module("")).name == "builtin.module"
    with pytest.raises(ParseError):
        parse(module(body))


def test_text_after_the_module_is_refused() -> None:
    """The module is all there is."""
    with pytest.raises(ParseError, match="after the module"):
        parse(module("", after='"tt.return"() : () -> () loc(unknown)'))


@pytest.mark.installed_triton("the text is ours")
def test_deep_nesting_is_refused() -> None:
    """Text that is nested too deeply for recursion is refused as such."""
    with pytest.raises(ParseError):
        parse('"builtin.module"() ({\n' * 5000)
    with pytest.raises(ParseError):
        parsed(f'%y = "tt.a"(%x) <{{a = {"[" * 5000 + "]" * 5000}}}> : (i32) -> i32 loc(unknown)')


def test_blobs_are_what_triton_prints(tmp_path: Path) -> None:
    """Constants of more than a hundred elements come as one number of their bytes."""
    values = {
        "i1": [str(at % 3 == 0).lower() for at in range(160)],
        "i8": [str(at - 80) for at in range(160)],
        "i64": [str((at - 80) << 40) for at in range(160)],
        "f32": [f"{at}.5" for at in range(160)],
    }
    path = tmp_path / "constants.mlir"
    lines = [f"%{kind} = arith.constant dense<[{', '.join(each)}]> : tensor<160x{kind}>" for kind, each in values.items()]
    path.write_text("module {\ntt.func public @k() {\n" + "\n".join(lines) + "\ntt.return\n}\n}\n", encoding="utf-8")
    context = ir.context()
    ir.load_dialects(context)
    triton_module = ir.parse_mlir_module(str(path), context)
    triton_module.set_attr("tridiff", ir.builder(context).get_unit_attr())

    text = triton_module.str()
    constants = parse(text).regions[0].blocks[0].operations[0].regions[0].blocks[0].operations[:-1]

    assert 'dense<"0x' in text
    found = {op.result_types[0].element: op.properties["value"][0] for op in constants}
    assert {kind: found[kind] for kind in ("i1", "i8", "i64")} == {kind: values[kind] for kind in ("i1", "i8", "i64")}
    assert [struct.unpack("<f", int(bits, 16).to_bytes(4, "little"))[0] for bits in found["f32"]] == [
        at + 0.5 for at in range(160)
    ]


def test_split_minds_brackets_strings_and_arrows() -> None:
    """Separators inside brackets or strings do not count, and the `>` of an arrow closes nothing."""
    assert split_top('a<1, 2>, (b, c) -> (d, e), "f, <g", {h = [i, j]}') == [
        "a<1, 2>",
        "(b, c) -> (d, e)",
        '"f, <g"',
        "{h = [i, j]}",
    ]


GARBAGE = [
    "",
    "hello",
    "module {\n}",
    '"builtin.module"() ({',
    '"builtin.module"() ({\n}, {',
    '"tt.func"() : () -> () loc(unknown)',
    '"builtin.module"() : (tensor<2 -> () loc(unknown)',
    '"builtin.module"() {a = 1 : () -> () loc(unknown)',
    TEXT.replace("<{value", "{value"),
    TEXT.replace("^bb1(%a", "bb1(%a"),
    TEXT.replace("%c = ", "%c := "),
]


@pytest.mark.parametrize("text", GARBAGE)
def test_garbage(text: str) -> None:
    """Text in another form is refused as such."""
    with pytest.raises(ParseError):
        parse(text)


def test_damaged_text_raises_nothing_else() -> None:
    """Whatever is wrong with a text, the parser either reads it or raises ParseError."""
    draw = random.Random(0)
    refused = 0
    for _ in range(3000):
        at = draw.randrange(len(TEXT))
        tail = draw.choice([TEXT[at + draw.randrange(4) :], "", TEXT[draw.randrange(len(TEXT)) :]])
        damaged = TEXT[:at] + draw.choice(["", "\\", "\u2028", "\u00e9", *'<>(){}[]",:%^#x0-= \n']) + tail
        try:
            parse(damaged)
        except ParseError:
            refused += 1

    assert refused > 500


# ------------------------------------------------------------------------------- operations that Triton 3.7 does not print

PROGRAM = """\
"builtin.module"() ({{
  "tt.func"() <{{sym_name = "kernel"}}> ({{
  ^bb0(%x: !tt.ptr<f32> loc(unknown), %out: !tt.ptr<{element}> loc(unknown)):
    %a = "tt.load"(%x) <{{operandSegmentSizes = array<i32: 1, 0, 0>}}> : (!tt.ptr<f32>) -> f32 loc(unknown)
    {lines}
    "tt.store"(%out, %r) : (!tt.ptr<{element}>, {element}) -> () loc(unknown)
    "tt.return"() : () -> () loc(unknown)
  }}) : () -> () loc(unknown)
}}) : () -> () loc(unknown)
"""


def execute_text(text: str, x: float) -> list[Array]:
    """Run a program on two tensors of one element, the first of which holds `x`; what they hold afterwards."""
    function = Compiler(ttir.BUILDERS).function(parse(text))
    cells = [np.zeros(1, COMPUTE[kind.element[1:]]) for _, kind in function.arguments]
    cells[0][0] = x
    regs: list[object] = [None] * function.slots
    for (slot, kind), array in zip(function.arguments, cells, strict=True):
        memory = Memory("m", kind.element[1:], array, 0, np.array([0]), np.array([1]), str)
        regs[slot] = Pointer(memory, (np.zeros(1, np.int64),))
    execute(function, (1, 1, 1), regs, Budget(100, 10.0), Space(list))
    return cells


def executed(lines: str, element: str, x: float) -> Array:
    """What `lines` make of %a, as the value %r of type `element`."""
    return execute_text(PROGRAM.format(lines=lines, element=element), x)[1]


@pytest.mark.parametrize("x", [1.5, -0.0, 0.0, float("inf")])
def test_negation(x: float) -> None:
    """arith.negf, printed from Triton 3.8 on, flips the sign of zero too."""
    result = executed('%r = "arith.negf"(%a) : (f32) -> f32 loc(unknown)', "f32", x)

    assert repr(float(result[0])) == repr(-x)


COMPARED = '%b = "arith.cmpf"(%a, %a) <{{predicate = 1 : i64}}> : (f32, f32) -> i1 loc(unknown)\n'


@pytest.mark.parametrize(
    ("line", "what"),
    [
        ('%r = "arith.sitofp"(%b) : (i1) -> f32 loc("k.py":5:1)', "arith.sitofp: on booleans"),
        ('%r = "arith.maxsi"(%b, %b) : (i1, i1) -> i1 loc("k.py":5:1)', "arith.maxsi: on booleans"),
        ('%r = "arith.cmpi"(%b, %b) <{predicate = 2 : i64}> : (i1, i1) -> i1 loc("k.py":5:1)', "signed order of booleans"),
        ('%r = "arith.frobnicate"(%b) : (i1) -> f32 loc("k.py":5:1)', "the operation arith.frobnicate"),
        ('%r = "tt.bitcast"(%x) : (!tt.ptr<f32>) -> !tt.ptr<i4> loc("k.py":5:1)', "the element type i4"),
    ],
)
def test_what_is_not_implemented_is_refused(line: str, what: str) -> None:
    """An operation, or a form of one, that we would get wrong raises with its name and line, before anything runs."""
    with pytest.raises(UnsupportedOperation, match=what) as caught:
        executed(COMPARED.format() + line, "f32", 1.0)

    assert caught.value.line == "k.py:5"


def test_sign_extension_of_booleans() -> None:
    """arith.extsi makes -1 of true."""
    result = executed(COMPARED.format() + '%r = "arith.extsi"(%b) : (i1) -> i32 loc(unknown)', "i32", 1.0)

    assert result.tolist() == [-1]


@pytest.mark.parametrize(("x", "expected"), [(2.0, 0.0), (3.0, 1.0), (-1.0, 1.0)])
def test_truncation_to_booleans(x: float, expected: float) -> None:
    """arith.trunci keeps the lowest bit."""
    lines = (
        '%i = "arith.fptosi"(%a) : (f32) -> i32 loc(unknown)\n'
        '%b = "arith.trunci"(%i) : (i32) -> i1 loc(unknown)\n'
        '%r = "arith.uitofp"(%b) : (i1) -> f32 loc(unknown)'
    )

    assert executed(lines, "f32", x).tolist() == [expected]


def test_endless_jumps_are_a_hang() -> None:
    """A block that jumps back to itself, which Triton does not print, ends by the budget."""
    jump = '"cf.br"()[^bb1] : () -> () loc("k.py":7:1)'
    text = PROGRAM.format(lines=f'%r = "arith.negf"(%a) : (f32) -> f32 loc(unknown)\n{jump}\n^bb1:\n{jump}\n^bb2:', element="f32")

    with pytest.raises(KernelError, match="more than 100 loop steps") as caught:
        execute_text(text, 1.0)

    assert (caught.value.check, caught.value.line) == ("hang", "k.py:7")


def test_several_kernels_are_refused() -> None:
    """Which of them is launched, the module does not say."""
    function = PROGRAM.format(lines='%r = "arith.negf"(%a) : (f32) -> f32 loc(unknown)', element="f32")
    inner = function.split("\n", 1)[1].rsplit("\n", 2)[0]
    other = inner.replace('sym_name = "', 'sym_name = "other_')
    assert other != inner

    with pytest.raises(UnsupportedOperation, match="a module of 2 kernels"):
        Compiler(ttir.BUILDERS).function(parse(f'"builtin.module"() ({{\n{inner}\n{other}\n}}) : () -> () loc(unknown)'))


@pytest.mark.parametrize(
    "text", ["garbage", PROGRAM.format(lines='%r = "arith.constant"() : () -> f32 loc(unknown)', element="f32")]
)
def test_drift_of_the_printed_form(text: str) -> None:
    """Text that cannot be read, or lacks a property, is a drift of Triton's, which the message says with its version."""
    with pytest.raises(
        ttir.FrontEndDrift, match=r"triton \d+\.\d+.* prints IR that tridiff cannot read .*supported: 3\.6 to 3\.9"
    ):
        ttir._function(text)
