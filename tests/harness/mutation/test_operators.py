"""Mutation operators: what each one makes of a line, word for word."""

from __future__ import annotations

import ast
import inspect
from textwrap import dedent

import pytest

from tridiff.harness.mutation.operators import OPERATORS, mutations
from tridiff.kernels import decode_attention


def changed(operator: str, line: str) -> list[str]:
    """What `operator` makes of a line of a function of `a`, `b`, `c` and strides."""
    source = f"def kernel(a, b, c, stride_x, stride_y, stride_z):\n    {line}\n"
    return [mutation.source.splitlines()[1].strip() for mutation in mutations(source) if mutation.operator == operator]


@pytest.mark.parametrize(
    ("operator", "line", "expected"),
    [
        ("drop_mask", "tl.load(a, mask=b, other=0.0)", ["tl.load(a, mask=None, other=None)"]),
        ("drop_mask", "tl.load(a, b, c)", ["tl.load(a, None, None)"]),
        ("drop_mask", "tl.store(a, b, mask=c & 1)", ["tl.store(a, b, mask=None)"]),
        ("drop_mask", "tl.atomic_add(a, b, mask=c)", ["tl.atomic_add(a, b, mask=None)"]),
        ("drop_mask", "tl.load(a, mask=None)", []),
        ("drop_mask", "helper(a, mask=b)", []),
        ("drop_conjunct", "x = (a < 1)[:, None] & b[None, :]", ["x = (a < 1)[:, None]", "x = b[None, :]"]),
        ("drop_conjunct", "x = a and (b or c)", ["x = (b or c)", "x = (a)"]),
        ("drop_select", "x = tl.where(a, b + 1, c) * 2", ["x = (b + 1) * 2"]),
        ("weaken_bound", "x = (a) < (b)", ["x = (a) <= (b)"]),
        ("weaken_bound", "x = a > b", ["x = a >= b"]),
        ("weaken_bound", "x = a <= b", []),
        ("strengthen_bound", "x = a <= b", ["x = a < b"]),
        ("strengthen_bound", "x = a < b", ["x = a < ((b) - 1)"]),
        ("strengthen_bound", "x = a > b", ["x = a > ((b) + 1)"]),
        ("strengthen_bound", 'x = a > float("-inf")', []),
        ("change_comparison", "x = a == b", ["x = a != b"]),
        ("change_comparison", "x = a < b < c", ["x = a > b < c", "x = a < b > c"]),
        ("change_comparison", "x = a is None", []),
        ("negate_condition", "x = a if b else c", ["x = a if not (b) else c"]),
        ("negate_condition", "while a: pass", ["while not (a): pass"]),
        ("negate_condition", "x = tl.where(a, b, c)", ["x = tl.where(a, c, b)"]),
        ("narrow_integer", "x = a.to(tl.int64)", ["x = a.to(tl.int32)"]),
        ("narrow_integer", "x = tl.zeros([1], tl.uint64)", ["x = tl.zeros([1], tl.uint32)"]),
        ("swap_strides", "x = a * stride_x + b * stride_y", ["x = a * stride_y + b * stride_x"]),
        (
            "swap_strides",
            "x = stride_z + stride_x + stride_z + stride_y",
            ["x = stride_x + stride_z + stride_x + stride_y", "x = stride_z + stride_y + stride_z + stride_x"],
        ),
        ("swap_strides", "x = a * stride_x", []),
        ("shift_range", "for i in range(a): pass", [f"for i in range({x}): pass" for x in ("1, a", "(a) + 1", "(a) - 1")]),
        (
            "shift_range",
            "for i in tl.range(a, b, 2): pass",
            [f"for i in tl.range({x}, 2): pass" for x in ("(a) + 1, b", "a, (b) + 1", "a, (b) - 1")],
        ),
        ("shift_range", "x = tl.arange(0, 16)", ["x = (tl.arange(0, 16) + 1)"]),
        ("shift_range", "x = tl.cdiv(a, b + 1)", ["x = ((a) // (b + 1))"]),
        ("change_axis", "x = tl.max(a, axis=1)", ["x = tl.max(a, axis=0)"]),
        ("change_axis", "x = tl.sum(a, 0)", ["x = tl.sum(a, 1)"]),
        ("change_axis", "x = tl.program_id(2)", ["x = tl.program_id(0)"]),
        ("change_axis", "x = tl.program_id(axis=0)", ["x = tl.program_id(axis=1)"]),
        ("drop_other", "tl.load(a, mask=b, other=0)", ["tl.load(a, mask=b, other=None)"]),
        ("alter_other", "tl.load(a, mask=b, other=0)", ["tl.load(a, mask=b, other=1)"]),
        ("alter_other", "tl.load(a, mask=b, other=-float('inf'))", ["tl.load(a, mask=b, other=0.0)"]),
        ("alter_other", "tl.load(a, mask=b, other=c)", []),
        ("drop_factor", "x = (a + 1) * b", ["x = (a + 1)", "x = b"]),
        ("drop_factor", "x = a / b // c % 7", ["x = a / b // c", "x = a / b % 7", "x = a // c % 7"]),
        (
            "swap_min_max",
            "x = tl.maximum(a, tl.min(b, 0))",
            ["x = tl.minimum(a, tl.min(b, 0))", "x = tl.maximum(a, tl.max(b, 0))"],
        ),
        ("swap_sign", "x = a + (b - c)", ["x = a - (b - c)", "x = a + (b + c)"]),
        ("swap_sign", "a += b", ["a -= b"]),
        ("change_constant", "x = a + 0.0 + 1.0", ["x = a + 1.0 + 1.0", "x = a + 0.0 + 2.0"]),
        ("change_constant", 'x = float("-inf")', ["x = 0.0"]),
        ("change_constant", "x = 3", []),
        ("drop_cast", "x = (a * b).to(tl.float32) + c", ["x = (a * b) + c"]),
        ("drop_cast", "x = a.to(tl.int64)", []),
        ("drop_store", "tl.store(a, b)", ["pass"]),
        ("drop_store", "tl.atomic_add(a, b)", ["pass"]),
        ("drop_store", "x = tl.atomic_add(a, b)", []),
        ("drop_update", "a *= b", ["pass"]),
        ("drop_update", "b = a", ["pass"]),
        ("drop_update", "x = a", []),
    ],
)
def test_operator(operator: str, line: str, expected: list[str]) -> None:
    """Each place gives a mutant, in the order of the line; nothing else is touched."""
    assert changed(operator, line) == expected


def test_every_operator_is_shown() -> None:
    """The table above has each of them at work."""
    marks = test_operator.pytestmark  # type: ignore[attr-defined]  # pytest puts it there

    assert {operator for operator, _, expected in marks[0].args[1] if expected} == set(OPERATORS)


LONG = '''\
def kernel(a, b: tl.constexpr = 1.0):
    """A * b and 0.0."""
    tl.static_assert(a < 1)
    x = tl.load(
        a,  # a * b
        mask=(a <
              b),
    )
    if a:
        y = x
    else:
        y = a
    tl.store(
        a,
        x * (
            y
        ),
    )
'''


def test_lines_keep_their_numbers() -> None:
    """Whatever is left out, the lines below stay where they are, and the text is Python."""
    found = mutations(LONG)

    assert {"drop_mask", "drop_store", "drop_factor"} <= {mutation.operator for mutation in found}
    for mutation in found:
        ast.parse(mutation.source)
        assert len(mutation.source.splitlines()) == len(LONG.splitlines())
        lines = zip(LONG.splitlines(), mutation.source.splitlines(), strict=True)
        first = next(at for at, (old, new) in enumerate(lines, 1) if old != new)
        assert mutation.line == first


def test_what_computes_nothing_is_left_alone() -> None:
    """Neither signature nor docstring nor assertions; and two branches that set a variable are no update."""
    lines = {mutation.line for mutation in mutations(LONG)}

    assert not lines & {1, 2, 3, 5}
    assert "drop_update" not in {mutation.operator for mutation in mutations(LONG)}


def test_update_in_a_loop() -> None:
    """What a loop sets again is an update, and what it sets first is none."""
    source = dedent(
        """\
        def kernel(a):
            peak = a
            for i in range(a):
                new = peak + i
                peak = new
        """
    )

    assert [mutation.line for mutation in mutations(source) if mutation.operator == "drop_update"] == [5]


def test_wide_characters() -> None:
    """Python counts columns in bytes."""
    assert changed("drop_factor", "x = f('é') * a") == ["x = f('é')", "x = a"]


def test_each_text_once() -> None:
    """Two operators that would write the same give one mutant; a real kernel has them in a fixed order."""
    source = inspect.getsource(decode_attention._merge_splits.fn).partition("\n")[2]
    found = mutations(source)

    assert len({mutation.source for mutation in found}) == len(found) > 50
    assert source not in {mutation.source for mutation in found}
    assert found == mutations(source)


def test_no_function() -> None:
    """What is no function is refused."""
    with pytest.raises(SyntaxError):
        mutations("x = 1\n")
