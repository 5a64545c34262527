"""Mutation operators: what is changed in a kernel's source, one place at a time.

Each takes a `Text` and one node of it and yields changes, a list of replacements for each mutant. `swap_strides` alone looks at
the whole function. They are the defects that kernels have had: `mutations` applies them all, in the order of the source.
"""

from __future__ import annotations

import ast
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import pairwise

from tridiff.harness.mutation.text import Replacement, Text, callee

Change = list[Replacement]
"""What makes one mutant."""
_MEMORY = ("load", "store")
_SYMBOLS: dict[type[ast.AST], str] = {
    **{ast.Lt: "<", ast.LtE: "<=", ast.Gt: ">", ast.GtE: ">=", ast.Eq: "==", ast.NotEq: "!="},
    **{ast.Add: "+", ast.Sub: "-", ast.Mult: "*", ast.Div: "/", ast.FloorDiv: "//", ast.Mod: "%", ast.BitAnd: "&"},
}
_REDUCTIONS = ("sum", "max", "min", "argmax", "argmin", "xor_sum", "cumsum", "cumprod", "sort", "flip")
_EXCHANGED = {"min": "max", "max": "min", "minimum": "maximum", "maximum": "minimum", "argmin": "argmax", "argmax": "argmin"}
_NARROW = {"int64": "int32", "uint64": "uint32"}


@dataclass(frozen=True, kw_only=True)
class Mutation:
    """`source`: the whole function with one change by `operator`, on `line`, counted from its `def`, which is line 1."""

    operator: str
    line: int
    source: str


def mutations(source: str) -> list[Mutation]:
    """All mutations of one function, in the order of the source, each text once. Raises SyntaxError where it is no function."""
    text = Text(source)
    seen = {source}
    found: list[Mutation] = []
    for node in (text.function, *text.nodes()):
        for name, operator in OPERATORS.items():
            for change in operator(text, node):
                mutated = text.with_(change)
                if mutated not in seen:
                    seen.add(mutated)
                    first = min(replacement.start for replacement in change)
                    found.append(Mutation(operator=name, line=source.count("\n", 0, first) + 1, source=mutated))
    return found


# Memory ---------------------------------------------------------------------------------------------------------------


def _reaches_memory(node: ast.AST) -> bool:
    return callee(node) in _MEMORY or callee(node).startswith("atomic_")


def _argument(node: ast.AST, name: str) -> ast.expr | None:
    """An argument of a load or store that is not None."""
    if not isinstance(node, ast.Call) or not _reaches_memory(node):
        return None
    places = {"load": {"mask": 1, "other": 2}, "store": {"mask": 2}}.get(callee(node), {})
    found = next((keyword.value for keyword in node.keywords if keyword.arg == name), None)
    if found is None and name in places and len(node.args) > places[name]:
        found = node.args[places[name]]
    return None if isinstance(found, ast.Constant) and found.value is None else found


def _drop_mask(text: Text, node: ast.AST) -> Iterator[Change]:
    """`mask=live, other=0.0` to None: Triton refuses the one without the other."""
    mask, other = _argument(node, "mask"), _argument(node, "other")
    if mask is not None:
        yield [text.replaced(argument, "None") for argument in (mask, other) if argument is not None]


def _drop_other(text: Text, node: ast.AST) -> Iterator[Change]:
    """`other=0.0` to None: a lane that is masked off holds anything."""
    other = _argument(node, "other")
    if other is not None:
        yield [text.replaced(other, "None")]


def _alter_other(text: Text, node: ast.AST) -> Iterator[Change]:
    """`other=0` to 1, minus infinity to 0."""
    other = _argument(node, "other")
    if other is not None and (new := _altered(other)) is not None:
        yield [text.replaced(other, new)]


def _drop_store(text: Text, node: ast.AST) -> Iterator[Change]:
    """A store, or an atomic operation whose result nobody takes, is left out."""
    if isinstance(node, ast.Expr) and _reaches_memory(node.value):
        yield [text.left_out(node)]


# Masks and comparisons ------------------------------------------------------------------------------------------------


def _drop_conjunct(text: Text, node: ast.AST) -> Iterator[Change]:
    """`a & b` to `a`, and to `b`; likewise `a and b`."""
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.BitAnd):
        for operand in _operands(text, node):
            yield [text.replaced(node, operand)]
    if isinstance(node, ast.BoolOp) and isinstance(node.op, ast.And):
        for left_out in node.values:
            kept = [f"({text.code(value)})" for value in node.values if value is not left_out]
            yield [text.replaced(node, " and ".join(kept))]


def _compared(node: ast.AST) -> Iterator[tuple[ast.expr, ast.cmpop, ast.expr]]:
    if isinstance(node, ast.Compare):
        yield from zip((node.left, *node.comparators), node.ops, node.comparators, strict=False)


def _weaken_bound(text: Text, node: ast.AST) -> Iterator[Change]:
    """`<` to `<=`, `>` to `>=`."""
    yield from _with_symbol(text, node, {ast.Lt: "<=", ast.Gt: ">="})


def _strengthen_bound(text: Text, node: ast.AST) -> Iterator[Change]:
    """`<=` to `<`, `>=` to `>`; of integers, `a < b` to `a < b - 1` and `a > b` to `a > b + 1`."""
    yield from _with_symbol(text, node, {ast.LtE: "<", ast.GtE: ">"})
    for _, symbol, right in _compared(node):
        closer = {ast.Lt: "- 1", ast.Gt: "+ 1"}.get(type(symbol))
        if closer and not _is_float(right):
            yield [text.replaced(right, f"(({text.code(right)}) {closer})")]


def _change_comparison(text: Text, node: ast.AST) -> Iterator[Change]:
    """`==` to `!=` and back, `<` to `>` and back."""
    turned = {ast.Lt: ">", ast.Gt: "<", ast.LtE: ">=", ast.GtE: "<=", ast.Eq: "!=", ast.NotEq: "=="}
    yield from _with_symbol(text, node, turned)


def _with_symbol(text: Text, node: ast.AST, symbols: dict[type[ast.cmpop], str]) -> Iterator[Change]:
    for left, operator, right in _compared(node):
        if type(operator) in symbols:
            at = text.operator(left, right, _SYMBOLS[type(operator)])
            yield [Replacement(*at, symbols[type(operator)])]


def _negate_condition(text: Text, node: ast.AST) -> Iterator[Change]:
    """`if a:` to `if not (a):`; `tl.where(a, b, c)` to `tl.where(a, c, b)`."""
    if isinstance(node, ast.If | ast.IfExp | ast.While):
        yield [text.replaced(node.test, f"not ({text.code(node.test)})")]
    if isinstance(node, ast.Call) and callee(node) == "where" and len(node.args) == _ARMS:
        _, first, second = node.args
        yield [text.replaced(first, text.code(second)), text.replaced(second, text.code(first))]


_ARMS = 3
"""Arguments of `tl.where`."""


def _drop_select(text: Text, node: ast.AST) -> Iterator[Change]:
    """`tl.where(a, b, c)` to `b`."""
    if isinstance(node, ast.Call) and callee(node) == "where" and len(node.args) == _ARMS:
        yield [text.replaced(node, f"({text.code(node.args[1])})")]


# Arithmetic -----------------------------------------------------------------------------------------------------------


def _operands(text: Text, node: ast.BinOp) -> tuple[str, str]:
    """Left and right of an operator, with the parentheses that belong to them."""
    start, stop = text.operator(node.left, node.right, _SYMBOLS[type(node.op)])
    return text.source[text.start(node) : start].strip(), text.source[stop : text.stop(node)].strip()


def _drop_factor(text: Text, node: ast.AST) -> Iterator[Change]:
    """`a * b` to `a`, and to `b`; `a / b`, `a // b` and `a % b` to `a`."""
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Mult | ast.Div | ast.FloorDiv | ast.Mod):
        left, right = _operands(text, node)
        yield [text.replaced(node, left)]
        if isinstance(node.op, ast.Mult):
            yield [text.replaced(node, right)]


def _swap_sign(text: Text, node: ast.AST) -> Iterator[Change]:
    """`+` to `-` and back, `+=` to `-=` and back."""
    opposite = {ast.Add: "-", ast.Sub: "+"}
    if isinstance(node, ast.BinOp) and type(node.op) in opposite:
        at = text.operator(node.left, node.right, _SYMBOLS[type(node.op)])
        yield [Replacement(*at, opposite[type(node.op)])]
    if isinstance(node, ast.AugAssign) and type(node.op) in opposite:
        at = text.operator(node.target, node.value, f"{_SYMBOLS[type(node.op)]}=")
        yield [Replacement(*at, f"{opposite[type(node.op)]}=")]


def _swap_min_max(text: Text, node: ast.AST) -> Iterator[Change]:
    """`tl.maximum` to `tl.minimum`, `tl.max` to `tl.min`, and back."""
    if isinstance(node, ast.Call) and (new := _EXCHANGED.get(callee(node))) is not None:
        stop = text.stop(node.func)
        yield [Replacement(stop - len(callee(node)), stop, new)]


def _drop_cast(text: Text, node: ast.AST) -> Iterator[Change]:
    """`x.to(a)` to `x`; a cast to 64 bits is for `narrow_integer`."""
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "to" and node.args:
        kind = node.args[0]
        if not (isinstance(kind, ast.Attribute) and kind.attr in _NARROW):
            dot = text.source.rindex(".", text.start(node), text.stop(node.func))
            yield [text.replaced(node, text.source[text.start(node) : dot].strip())]


def _narrow_integer(text: Text, node: ast.AST) -> Iterator[Change]:
    """`tl.int64` to `tl.int32`, `tl.uint64` to `tl.uint32`."""
    if isinstance(node, ast.Attribute) and node.attr in _NARROW:
        stop = text.stop(node)
        yield [Replacement(stop - len(node.attr), stop, _NARROW[node.attr])]


def _change_constant(text: Text, node: ast.AST) -> Iterator[Change]:
    """A number with a point to one more, infinity to 0."""
    if _is_float(node) and (new := _altered(node)) is not None:
        yield [text.replaced(node, new)]


def _is_float(node: ast.AST) -> bool:
    return (isinstance(node, ast.Constant) and isinstance(node.value, float)) or callee(node) == "float"


def _altered(node: ast.AST) -> str | None:
    """Another constant for this one; None where it is none."""
    if isinstance(node, ast.Constant) and type(node.value) in (int, float):
        return repr(node.value + 1)  # type: ignore[operator]  # a number by now
    return "0.0" if _is_float(node) or (isinstance(node, ast.UnaryOp) and _is_float(node.operand)) else None


# Ranges, axes, strides, updates ---------------------------------------------------------------------------------------


def _shift_range(text: Text, node: ast.AST) -> Iterator[Change]:
    """A loop begins one later, or ends one later or sooner; `tl.arange(a, b)` plus 1; `tl.cdiv(a, b)` rounded down."""
    name = callee(node)
    if not isinstance(node, ast.Call) or any(isinstance(argument, ast.Starred) for argument in node.args) or not node.args:
        return
    if name in {"range", "static_range"}:
        start, stop = (None, node.args[0]) if len(node.args) == 1 else node.args[:2]
        begin = text.start(node.args[0])
        code = text.code(node.args[0])
        yield [Replacement(begin, begin, "1, ") if start is None else text.replaced(start, f"({code}) + 1")]
        for sign in "+-":
            yield [text.replaced(stop, f"({text.code(stop)}) {sign} 1")]
    if name == "arange":
        yield [text.replaced(node, f"({text.code(node)} + 1)")]
    if name == "cdiv" and len(node.args) == len(("dividend", "divisor")):
        yield [text.replaced(node, "(({}) // ({}))".format(*map(text.code, node.args)))]


def _change_axis(text: Text, node: ast.AST) -> Iterator[Change]:
    """Axis 0 of a reduction to 1 and back; axis 0 of the grid to 1, any other to 0."""
    if not isinstance(node, ast.Call):
        return
    axis = next((keyword.value for keyword in node.keywords if keyword.arg == "axis"), None)
    if callee(node) in {"program_id", "num_programs"}:
        axis = node.args[0] if node.args else axis
    elif callee(node) in _REDUCTIONS and len(node.args) > 1:
        axis = node.args[1]
    if isinstance(axis, ast.Constant) and type(axis.value) is int:
        yield [text.replaced(axis, "1" if axis.value == 0 else "0")]


def _swap_strides(text: Text, node: ast.AST) -> Iterator[Change]:
    """Two strides for each other, wherever they are used; of all that a function uses, those used one after the other."""
    if node is not text.function:
        return
    uses: dict[str, list[ast.Name]] = {}
    for each in text.nodes():
        if isinstance(each, ast.Name) and isinstance(each.ctx, ast.Load) and "stride" in each.id.lower():
            uses.setdefault(each.id, []).append(each)
    for first, second in pairwise(uses):
        exchanged = ((first, second), (second, first))
        yield [text.replaced(use, new) for name, new in exchanged for use in uses[name]]


def _drop_update(text: Text, node: ast.AST) -> Iterator[Change]:
    """`a += b` is left out, and so is `a = b` where there was an `a` before."""
    if isinstance(node, ast.AugAssign) or (isinstance(node, ast.Assign) and _is_again(text, node)):
        yield [text.left_out(node)]


def _is_again(text: Text, node: ast.Assign) -> bool:
    """Whether a variable had a value before, on whatever path."""
    if len(node.targets) != 1 or not isinstance(node.targets[0], ast.Name):
        return False
    name, parameters = node.targets[0].id, text.function.args
    if any(name == parameter.arg for parameter in (*parameters.posonlyargs, *parameters.args, *parameters.kwonlyargs)):
        return True
    before = (each for each in text.nodes() if isinstance(each, ast.Name) and isinstance(each.ctx, ast.Store) and each.id == name)
    first = next(before)
    return first is not node.targets[0] and not _is_other_branch(text, first, node)


def _is_other_branch(text: Text, first: ast.AST, node: ast.AST) -> bool:
    """Whether they stand in the two branches of one `if`."""
    for each in text.nodes():
        if isinstance(each, ast.If) and each.orelse:
            bodies = [
                [any(child is wanted for statement in body for child in ast.walk(statement)) for wanted in (first, node)]
                for body in (each.body, each.orelse)
            ]
            if bodies == [[True, False], [False, True]]:
                return True
    return False


OPERATORS: dict[str, Callable[[Text, ast.AST], Iterator[Change]]] = {
    "drop_mask": _drop_mask,
    "drop_conjunct": _drop_conjunct,
    "drop_select": _drop_select,
    "weaken_bound": _weaken_bound,
    "strengthen_bound": _strengthen_bound,
    "change_comparison": _change_comparison,
    "negate_condition": _negate_condition,
    "narrow_integer": _narrow_integer,
    "swap_strides": _swap_strides,
    "shift_range": _shift_range,
    "change_axis": _change_axis,
    "drop_other": _drop_other,
    "alter_other": _alter_other,
    "drop_factor": _drop_factor,
    "swap_min_max": _swap_min_max,
    "swap_sign": _swap_sign,
    "change_constant": _change_constant,
    "drop_cast": _drop_cast,
    "drop_store": _drop_store,
    "drop_update": _drop_update,
}
"""By name, in the order in which they are shown."""
