"""A kernel as Triton source, with the helpers that make an operation well defined and are themselves nested jit functions."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

from random_kernels.elementwise import TABLE
from random_kernels.numbers import FLOATS, INTEGERS, bits, limits
from random_kernels.tree import (
    Advance,
    Atomic,
    Expect,
    For,
    If,
    Kernel,
    Let,
    LetPair,
    LetPointer,
    Node,
    ReturnIf,
    Scalar,
    Statement,
    Store,
    While,
)


def _safe_range(source: str, target: str) -> tuple[float, float]:
    """Floats within become integers of `target` exactly defined; both ends are values of every 16-bit float format."""
    low, high = limits(target)
    if bits(target) == 8:
        return float(low), float(high)
    if bits(target) == 16:
        return (-32000.0, 32000.0) if low else (0.0, 64000.0)
    greatest = 64000.0 if source == "float16" else 2.0 ** (bits(target) - 2)
    return (-greatest, greatest) if low else (0.0, greatest)


SAFE_RANGE = {(source, target): _safe_range(source, target) for source in FLOATS for target in INTEGERS}

PRELUDE = {
    "to_integer": """@triton.jit
def to_integer(x, low: tl.constexpr, high: tl.constexpr, kind: tl.constexpr):
    return tl.where((x >= low) & (x <= high), x, 0.0).to(kind)
""",
    "bits_of": """@triton.jit
def bits_of(x, kind: tl.constexpr):
    return tl.where(x == x, x, tl.zeros_like(x)).to(kind, bitcast=True)
""",
    "combine_prod": """@triton.jit
def combine_prod(a, b):
    return a * b
""",
    "combine_and": """@triton.jit
def combine_and(a, b):
    return a & b
""",
    "combine_or": """@triton.jit
def combine_or(a, b):
    return a | b
""",
    "first_half": """@triton.jit
def first_half(x):
    a, b = tl.split(x)
    return a
""",
    "second_half": """@triton.jit
def second_half(x):
    a, b = tl.split(x)
    return b
""",
}


def source(kernel: Kernel) -> str:
    """The text of a module that defines `kernel`."""
    functions = [
        _function(helper.name, [name for name, _, _ in helper.parameters], helper.body, helper.result, noinline=helper.noinline)
        for helper in kernel.helpers
    ]
    parameters = [array.name for array in kernel.arrays]
    parameters += [_parameter(scalar) for scalar in sorted(kernel.scalars, key=lambda scalar: scalar.default)]
    functions.append(_function("kernel", parameters, kernel.body, None, first=f"pid = {_program(kernel.grid)}"))
    text = "\n\n".join(functions)
    prelude = [body for name, body in PRELUDE.items() if f"{name}(" in text or f", {name})" in text or f", {name}," in text]
    return "\n\n".join(["import triton\nimport triton.language as tl\n", *prelude, text])


def _parameter(scalar: Scalar) -> str:
    if scalar.constexpr:
        return f"{scalar.name}: tl.constexpr"
    return f"{scalar.name}={scalar.value}" if scalar.default else scalar.name


def _program(grid: Sequence[int]) -> str:
    text = f"tl.program_id({len(grid) - 1})"
    for axis in reversed(range(len(grid) - 1)):
        inner = f"({text})" if " " in text else text
        text = f"tl.program_id({axis}) + tl.num_programs({axis}) * {inner}"
    return text


def _function(
    name: str,
    parameters: Iterable[str],
    body: Sequence[Statement],
    result: Node | None,
    *,
    noinline: bool = False,
    first: str = "",
) -> str:
    lines = [first] if first else []
    lines += _lines(body)
    if result is not None:
        lines.append(f"return {text_of(result)}")
    decorator = "@triton.jit(noinline=True)" if noinline else "@triton.jit"
    indented = "\n".join(f"    {line}" for line in lines or ["pass"])
    return f"{decorator}\ndef {name}({', '.join(parameters)}):\n{indented}\n"


def _lines(statements: Sequence[Statement]) -> list[str]:
    return [line for statement in statements for line in _STATEMENTS[type(statement)](statement)]


def _indented(statements: Sequence[Statement]) -> Iterator[str]:
    yield from (f"    {line}" for line in _lines(statements) or ["pass"])


def _if(statement: If) -> Iterator[str]:
    yield f"if {text_of(statement.condition)}:"
    yield from _indented(statement.then)
    if statement.other:
        yield "else:"
        yield from _indented(statement.other)


def _for(statement: For) -> Iterator[str]:
    bounds = [text_of(node) for node in (statement.low, statement.high, statement.step)]
    if bounds[2] == "1":
        bounds.pop()
        if bounds[0] == "0":
            bounds.pop(0)
    kind = "tl.static_range" if statement.static else "range"
    yield f"for {statement.name} in {kind}({', '.join(bounds)}):"
    yield from _indented(statement.body)


def _while(statement: While) -> Iterator[str]:
    yield f"while {text_of(statement.condition)}:"
    yield from _indented(statement.body)


def _store(statement: Store) -> Iterator[str]:
    mask = f", mask={text_of(statement.mask)}" if statement.mask else ""
    yield f"tl.store({statement.array} + {text_of(statement.index)}, {text_of(statement.value)}{mask})"


def _atomic(statement: Atomic) -> Iterator[str]:
    mask = f", mask={text_of(statement.mask)}" if statement.mask else ""
    target = f"{statement.result} = " if statement.result else ""
    where = f"{statement.array} + {text_of(statement.index)}"
    yield f"{target}tl.atomic_{statement.operation}({where}, {text_of(statement.value)}{mask})"


_STATEMENTS: dict[type, Callable[[Any], Iterable[str]]] = {
    Let: lambda s: [f"{s.name} = {text_of(s.node)}"],
    LetPair: lambda s: [f"{s.names[0]}, {s.names[1]} = {text_of(s.node)}"],
    LetPointer: lambda s: [f"{s.name} = {s.array} + {text_of(s.index)}"],
    Advance: lambda s: [f"{s.name} += {text_of(s.by)}"],
    If: _if,
    For: _for,
    While: _while,
    Store: _store,
    Atomic: _atomic,
    ReturnIf: lambda s: [f"if {text_of(s.condition)}:", "    return"],
    Expect: lambda s: [f"tl.static_assert({s.name}.dtype == tl.{s.kind})"],
}


def text_of(node: Node) -> str:
    """An expression."""
    args = [text_of(arg) for arg in node.args]
    if node.op in TABLE:
        return TABLE[node.op].template.format(*args, mask=node.value) if node.op not in _ZEROLESS else _without_sign(node, args)
    return _NODES[node.op](node, args)


_ZEROLESS = {"minimum", "maximum", "neg"}


def _without_sign(node: Node, args: list[str]) -> str:
    """Zeros of either sign become +0."""
    plain = TABLE[node.op].template.format(*args)
    if node.kind not in FLOATS:
        return plain
    # Of two bf16 Triton makes the extreme in float32, but from 3.9 on in bf16, where it is the same number.
    widened = f".to(tl.{node.kind})" if {arg.kind for arg in node.args} == {"bfloat16"} else ""
    return f"({plain}{widened} + 0.0)"


def _literal(node: Node, _args: list[str]) -> str:
    return f"({node.value})" if node.value < 0 else str(node.value)


def _load(node: Node, args: list[str]) -> str:
    index, *rest = args
    options = "".join(f", {name}={text}" for name, text in zip(("mask", "other"), rest, strict=False))
    return f"tl.load({node.value} + {index}{options})"


def _reduce(node: Node, args: list[str]) -> str:
    name, axis, keep = node.value
    options = f", axis={axis}" + (", keep_dims=True" if keep else "")
    if name in {"prod", "and", "or"}:
        return f"tl.reduce({args[0]}{options.replace('axis=', '')}, combine_{name})" if not keep else _kept(node, args)
    text = f"tl.{name}({args[0]}{options})"
    return f"({text} + 0.0)" if name in {"max", "min"} and node.kind in FLOATS else text


def _kept(node: Node, args: list[str]) -> str:
    name, axis, _ = node.value
    return f"tl.reduce({args[0]}, {axis}, combine_{name}, keep_dims=True)"


def _arg_extreme(node: Node, args: list[str]) -> str:
    name, axis, keep = node.value
    return f"tl.{name}({args[0]}, axis={axis}{', keep_dims=True' if keep else ''})"


def _pair(node: Node, args: list[str]) -> str:
    return f"tl.{node.value[0]}({args[0]}, axis={node.value[1]}, return_indices=True)"


def _dot(node: Node, args: list[str]) -> str:
    precision = f', input_precision="{node.value}"' if node.value else ""
    acc = f", acc={args[2]}" if len(args) > 2 else ""
    # Triton wants to be told, where there is an accumulator.
    result = ", out_dtype=tl.int32" if node.kind == "int32" else ""
    return f"tl.dot({args[0]}, {args[1]}{acc}{precision}{result})"


def _safe(node: Node, args: list[str]) -> str:
    low, high = SAFE_RANGE[node.args[0].kind, node.kind]
    return f"to_integer({args[0]}, {low}, {high}, tl.{node.kind})"


def _scan(node: Node, args: list[str]) -> str:
    name = {"sum": "cumsum", "prod": "cumprod"}[node.value[0]]
    text = f"tl.{name}({args[0]}, axis={node.value[1]}{', reverse=True' if node.value[2] else ''})"
    # Triton 3.9 widens the operand of a product, of which the low bits are the same.
    return f"{text}.to(tl.{node.kind})" if name == "cumprod" else text


_NODES: dict[str, Callable[[Node, list[str]], str]] = {
    "variable": lambda n, _a: str(n.value),
    "constexpr": lambda n, _a: str(n.value),
    "literal": _literal,
    "full": lambda n, _a: f"tl.full({_shape(n)}, {n.value}, tl.{n.kind})",
    "arange": lambda n, _a: f"tl.arange({n.value}, {n.value + n.shape[0]})",
    "num_programs": lambda n, _a: f"tl.num_programs({n.value})",
    "cast": lambda n, a: f"{a[0]}.to(tl.{n.kind})",
    "cast_safe": _safe,
    "bits": lambda n, a: f"bits_of({a[0]}, tl.{n.kind})",
    "where": lambda _n, a: f"tl.where({a[0]}, {a[1]}, {a[2]})",
    "ternary": lambda _n, a: f"({a[1]} if {a[0]} else {a[2]})",
    "load": _load,
    "load_pointer": lambda n, _a: f"tl.load({n.value[0]})",
    "expand": lambda n, a: f"{a[0]}[{', '.join('None' if axis == n.value else ':' for axis in range(len(n.shape)))}]",
    "broadcast": lambda n, a: f"tl.broadcast_to({a[0]}, {_shape(n)})",
    "trans": lambda _n, a: f"tl.trans({a[0]})",
    "reshape": lambda n, a: f"tl.reshape({a[0]}, {_shape(n)})",
    "dot": _dot,
    "reduce": _reduce,
    "sum_rounded": lambda n, a: f"tl.sum({a[0]}, axis={n.value[1]})",
    "arg_extreme": _arg_extreme,
    "extreme_pair": _pair,
    "call": lambda n, a: f"{n.value}({', '.join(a)})",
    "scan": _scan,
    "join": lambda _n, a: f"tl.join({a[0]}, {a[1]})",
    "split": lambda n, a: f"{('first_half', 'second_half')[n.value]}({a[0]})",
    "gather": lambda n, a: f"tl.gather({a[0]}, {a[1]}, {n.value})",
    "sort": lambda n, a: f"tl.sort({a[0]}, descending={n.value})",
}


def _shape(node: Node) -> str:
    return f"({', '.join(str(extent) for extent in node.shape)}{',' if len(node.shape) == 1 else ''})"
