"""The cpu engine against an independent evaluation, on random kernels: see tests/helpers/random_kernels.

`tools/check_engine.py` runs as many as one likes.
"""

from __future__ import annotations

import math
import random
import struct
import time
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from hypothesis import settings
from random_kernels import checking
from random_kernels.checking import Mismatch, check
from random_kernels.content import content
from random_kernels.defects import planted
from random_kernels.evaluate import Approximate, _any_order, evaluate
from random_kernels.expressions import binary, literal, variable
from random_kernels.numbers import FLOATS, decode, encode, nearest
from random_kernels.printing import source
from random_kernels.searching import search
from random_kernels.tree import Array, Atomic, Expect, Kernel, Let, Node, Store

SHARDS = 3
"""They run in parallel under xdist, every one with a seed of its own."""
KERNELS = settings().max_examples
"""Kernels of one shard: 100 in pull requests, so 300 in all, and 1,000 under the profile of nightly runs. Of Triton's other
releases each runs the first shard."""
OTHERS = pytest.mark.installed_triton("a hundred kernels show whether the front end prints something new")
FOUND_WITHIN = {
    "divergent values merged in the wrong order": 60,
    "unsigned to float is signed": 10,
    "sides of if swapped": 60,
    "arithmetic shift is logical": 60,
    "zero extension is sign extension": 40,
    "a branch reads other programs' values": 60,
    "`other` of a masked load ignored": 10,
    "program ids of the second axis ignored": 10,
}
"""Of the planted defects those that few kernels find; `tools/check_engine.py --defects` looks for all of them."""


def seed_of(shard: int) -> int:
    """The shard's number, so that pull requests draw the same kernels; under the nightly profile other ones every day."""
    is_nightly = settings.get_current_profile_name() == "tridiff-nightly"
    return shard + (SHARDS * int(time.time() // 86400) if is_nightly else 0)


@pytest.mark.parametrize("shard", [0, *(pytest.param(shard, marks=OTHERS) for shard in range(1, SHARDS))])
def test_engine_agrees_with_evaluation(shard: int, tmp_path: Path) -> None:
    """Every output of every kernel is bit for bit what the evaluation says (float sums: within a proven bound)."""
    outcome = search(seed_of(shard), KERNELS, tmp_path)

    assert outcome.failure is None, outcome.failure
    assert outcome.kernels == KERNELS
    assert not list(tmp_path.iterdir())


@pytest.mark.installed_triton("the defects are planted into the engine, and it is the search that is tested")
@pytest.mark.parametrize("defect", FOUND_WITHIN)
def test_defect_is_found(defect: str, tmp_path: Path) -> None:
    """A defect planted into the engine shows within some dozens of kernels."""
    with planted(defect):
        outcome = search(0, FOUND_WITHIN[defect], tmp_path, minimise=False)

    assert outcome.failure is not None


def doubled(kind: str = "int8") -> Kernel:
    """out0[lane] = 2 * a0[lane] of one program of four lanes."""
    lanes = Node("arange", "int32", (4,), value=0)
    node = binary("mul", Node("load", kind, (4,), (lanes,), "a0"), literal(2))
    arrays = Array("a0", kind, 4, "small", 7), Array("out0", kind, 4, output=True)
    body = Let("v0", node), Expect("v0", kind), Store("out0", lanes, variable("v0", kind, (4,)))
    return Kernel((1,), arrays, (), (), body)


def test_source() -> None:
    """A kernel is printed as a person would write it."""
    assert source(doubled()).splitlines() == [
        "import triton",
        "import triton.language as tl",
        "",
        "",
        "@triton.jit",
        "def kernel(a0, out0):",
        "    pid = tl.program_id(0)",
        "    v0 = (tl.load(a0 + tl.arange(0, 4)) * 2)",
        "    tl.static_assert(v0.dtype == tl.int8)",
        "    tl.store(out0 + tl.arange(0, 4), v0)",
    ]


def test_message_shows_all_that_is_needed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A disagreement names the first element that differs, both values, the source and the inputs."""
    kernel = doubled()
    before = content(kernel.arrays[0])
    at = next(at for at, value in enumerate(before) if value)
    text = source(kernel)

    monkeypatch.setattr(checking, "evaluate", lambda _: {"out0": [0] * 4})

    with pytest.raises(Mismatch) as caught:
        check(kernel, tmp_path)

    message = str(caught.value)
    assert message.startswith(f"out0[{at}] of 4 (int8): the engine gives {2 * int(before[at])} (0x")
    assert "expected 0 (0x00)" in message.splitlines()[0]
    assert text in message
    assert f"a0: int8[4] = {before}" in message


def test_wrong_type_rule_is_found(tmp_path: Path) -> None:
    """The types that the evaluation assumes are asserted in the kernel itself."""
    kernel = doubled()
    wrong = replace(kernel, body=(kernel.body[0], Expect("v0", "int16"), kernel.body[2]))

    with pytest.raises(Mismatch, match="Triton refuses the kernel"):
        check(wrong, tmp_path)


@pytest.mark.parametrize("kind", ["float16", "float32"])
def test_nearest_is_the_rounding_of_the_standard_library(kind: str) -> None:
    """Fractions round as `struct` does; ties, subnormal numbers and overflow included."""
    generator = random.Random(kind)
    form, letter = FLOATS[kind], {"float16": "e", "float32": "f"}[kind]
    for _ in range(2000):
        exponent = generator.randint(form.low - form.precision - 2, form.high + 1)
        value = math.ldexp(generator.randint(2**11, 2**12) if kind == "float16" else generator.randint(2**24, 2**26), exponent)
        value = math.ldexp(value, -11 if kind == "float16" else -24)
        try:
            expected = struct.unpack(f"<{letter}", struct.pack(f"<{letter}", value))[0]
        except OverflowError:
            expected = math.inf

        assert nearest(kind, Fraction(value)) == expected


def test_nearest_bfloat16_by_search() -> None:
    """No bfloat16 is nearer, and of two that are as near the one with an even pattern is taken."""
    generator = random.Random(0)
    for _ in range(500):
        low = generator.randrange(0x7F7F)
        below, above = (Fraction(decode("bfloat16", pattern.to_bytes(2, "little"))) for pattern in (low, low + 1))
        exact = below + (above - below) * Fraction(generator.choice([1, 2, 3]), 4)
        distance = [abs(exact - below), abs(exact - above)]
        chosen = low if distance[0] < distance[1] or (distance[0] == distance[1] and low % 2 == 0) else low + 1

        assert encode("bfloat16", nearest("bfloat16", exact)) == chosen.to_bytes(2, "little")


@pytest.mark.parametrize("kind", ["float16", "float32"])
def test_bound_of_sums_holds_in_any_order(kind: str) -> None:
    """Sums in shuffled orders, each addition rounded, stay within the bound; a lost addend does not."""
    generator = random.Random(1)
    for _ in range(50):
        values = [nearest(kind, Fraction(generator.randint(-1000, 1000), 64)) for _ in range(16)]
        bounded = _any_order(kind, values)
        assert isinstance(bounded, Approximate)
        assert bounded.exact is not None
        for _ in range(20):
            generator.shuffle(values)
            total = np.array(0, dtype=kind)
            for value in values:
                total = total + np.array(value, dtype=kind)
            assert abs(Fraction(float(total)) - bounded.exact) <= bounded.bound
        largest = max(values, key=abs)
        assert abs(Fraction(largest)) > bounded.bound


@pytest.mark.parametrize(
    ("values", "expected"),
    [([1.0, math.nan], math.nan), ([math.inf, -math.inf], math.nan), ([math.inf, 1.0], math.inf), ([-math.inf, 1.0], -math.inf)],
)
def test_sums_of_special_values(values: list[float], expected: float) -> None:
    """Infinities and NaN come out the same in every order."""
    result = _any_order("float32", values)

    assert isinstance(result, float)
    assert encode("float32", result)[2:] == encode("float32", expected)[2:]


def test_sum_that_may_overflow_is_anything() -> None:
    """Whether a partial sum overflows depends on the order."""
    greatest = float(np.finfo(np.float32).max)

    assert _any_order("float32", [greatest, greatest, -greatest]) == Approximate(None)


def one_statement(node: Node, *inputs: Array) -> list[object]:
    """What the evaluation gives for one expression in one program."""
    target = Array("out0", node.kind, 4, output=True)
    kernel = Kernel((1,), (*inputs, target), (), (), (Store("out0", Node("arange", "int32", (4,), value=0), node),))
    return evaluate(kernel)["out0"]


LANES = Node("arange", "int32", (4,), value=0)
"""[0, 1, 2, 3]"""


@pytest.mark.parametrize(
    ("node", "expected"),
    [
        (Node("scan", "int32", (4,), (LANES,), ("sum", 0, False)), [0, 1, 3, 6]),
        (Node("scan", "int32", (4,), (binary("add", LANES, literal(1)),), ("prod", 0, True)), [24, 24, 12, 4]),
        (
            Node("reshape", "int32", (4,), (Node("sort", "int32", (4,), (binary("xor", LANES, literal(1)),), value=True),)),
            [3, 2, 1, 0],
        ),
        (Node("gather", "int32", (4,), (binary("mul", LANES, literal(5)), binary("xor", LANES, literal(3))), 0), [15, 10, 5, 0]),
        (
            Node("split", "int32", (4,), (Node("join", "int32", (4, 2), (LANES, binary("add", LANES, literal(9)))),), 1),
            [9, 10, 11, 12],
        ),
    ],
)
def test_constructs_that_are_not_enabled_yet(node: Node, expected: list[int]) -> None:
    """The evaluation of what the engine is only learning, on examples worked out by hand."""
    assert one_statement(node) == expected


def test_atomics_are_evaluated_lane_by_lane() -> None:
    """Lanes that share a cell each see what the ones before left, and masked-off lanes nothing."""
    shared = binary("and", LANES, literal(1))
    mask = binary("ne", LANES, literal(2))
    update = Atomic("add", "out0", shared, binary("add", LANES, literal(10)), mask, "old")
    arrays = Array("out0", "int32", 2, output=True), Array("out1", "int32", 4, output=True)
    kernel = Kernel((1,), arrays, (), (), (update, Store("out1", LANES, variable("old", "int32", (4,)))))

    assert evaluate(kernel) == {"out0": [10, 24], "out1": [0, 0, None, 11]}
