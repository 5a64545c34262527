"""Every check that looks at a finished run fires on damage planted for it, says what it saw, and is silent otherwise."""

from __future__ import annotations

import math

import pytest
import torch

from tridiff.harness.api import Arena, Expected, Failure, Poison, Verdict
from tridiff.harness.checks.memory import check_memory
from tridiff.harness.checks.values import RATIO_LIMIT, check_poison, check_values, worst_ratio

INF, NAN = math.inf, math.nan


def staged(poison: Poison = Poison.LOUD) -> Arena:
    """A sealed arena with an input of zeros and an output [2, 3], one element of gap behind its first row."""
    arena = Arena(poison)
    arena.tensor("x", (4,), torch.float32).zero_()
    arena.output("out", (2, 3), torch.float32, strides=(4, 1))
    arena.seal()
    return arena


def write(arena: Arena, values: torch.Tensor) -> None:
    """Write the output."""
    arena.allocations["out"].view.copy_(values)


def tensor(*values: float) -> torch.Tensor:
    """A float64 vector."""
    return torch.tensor(values, dtype=torch.float64)


def verdict(value: torch.Tensor, bound: torch.Tensor, name: str = "out") -> Verdict:
    """What a reference says of one output."""
    return Verdict(outputs={name: Expected(value=value, bound=bound)})


def judged(actual: torch.Tensor, value: torch.Tensor, bound: torch.Tensor) -> list[Failure]:
    """Failures of the checks of values on one output."""
    return list(check_values(verdict(value, bound), {"out": actual}))


# Memory


def test_clean_memory() -> None:
    """A run that writes what it must, and nothing else, passes."""
    arena = staged()

    write(arena, torch.ones(2, 3))

    assert list(check_memory(arena)) == []


def test_corruption() -> None:
    """A changed input is named with its value before and after."""
    arena = staged()
    write(arena, torch.ones(2, 3))

    arena.allocations["x"].view[2] = 0.5
    failures = list(check_memory(arena))

    assert failures == [Failure(check="corruption", message="x[2] must not be written: it held 0, now 0.5")]


def test_corruption_by_the_bits_that_were_there() -> None:
    """A store that changes nothing is one all the same."""
    arena = staged()
    write(arena, torch.ones(2, 3))
    out = arena.allocations["out"]
    stores, gap = out.note_stores(), 4 * (int(out.view.storage_offset()) + 3)
    for line, start, stop in (("k.py:8", 0, 4), ("k.py:9", 6, 8)):
        stores.last[gap - 4 + start : gap - 4 + stop] = stores.number(line)

    failures = list(check_memory(arena))

    message = "1 element into the gap after out[0, 2] must not be written: it was written back as it was (nan)"
    assert failures == [Failure(check="corruption", message=message, line="k.py:9")]


def test_line_of_the_byte_that_changed() -> None:
    """Of an element that several stores wrote parts of, it is the one that wrote the first byte to hold other bits."""
    arena = Arena()
    x = arena.tensor("x", (4,), torch.int32).fill_(0x01020304)
    arena.seal()
    allocation = arena.allocations["x"]
    stores, first = allocation.note_stores(), 4 * int(x.storage_offset())
    for at, line in ((2, "k.py:5"), (3, "k.py:4"), (0, "k.py:3"), (1, "k.py:9")):
        stores.last[first + at] = stores.number(line)

    x[0] = 0x09080304
    (failure,) = check_memory(arena)

    assert failure.line == "k.py:5"


def test_changed_bits_come_first() -> None:
    """Of several elements that were written, those that changed are told, with the line that did it."""
    arena = staged()
    write(arena, torch.ones(2, 3))
    x = arena.allocations["x"]
    first = 4 * int(x.view.storage_offset())
    stores = x.note_stores()
    stores.last[first : first + 4] = stores.number("k.py:1")
    stores.last[first + 8 : first + 12] = stores.number("k.py:2")

    x.view[2] = 0.5
    failures = list(check_memory(arena))

    expected = Failure(check="corruption", message="x[2] must not be written: it held 0, now 0.5", line="k.py:2")
    assert failures == [expected]


@pytest.mark.parametrize(("value", "now"), [(NAN, "held nan, now nan of other bits"), (1.0000001, "held 1, now 1 of other bits")])
def test_numbers_that_read_alike(value: float, now: str) -> None:
    """A NaN in place of another one, or a number that differs in digits which are not shown."""
    arena = Arena()
    x = arena.tensor("x", (4,), torch.float32)
    x[0] = 1.0
    arena.seal()

    x[1 if math.isnan(value) else 0] = value
    (failure,) = check_memory(arena)

    assert now in failure.message


def test_corruption_counts_what_else_changed() -> None:
    """Only the first damaged tensor is reported, its first element by name and the others by number."""
    arena = staged()
    write(arena, torch.ones(2, 3))

    arena.allocations["out"].storage[256 + 3] = 0.5
    arena.allocations["x"].view[1:] = 7.0
    failures = list(check_memory(arena))

    assert [failure.message for failure in failures] == [
        "x[1] must not be written: it held 0, now 7 (3 elements in all)",
    ]


def test_corruption_of_a_gap() -> None:
    """A gap held poison, and says so."""
    arena = staged()
    write(arena, torch.ones(2, 3))

    arena.allocations["out"].storage[256 + 3] = 0.5
    (failure,) = check_memory(arena)

    assert failure.message == "1 element into the gap after out[0, 2] must not be written: it held nan, now 0.5"


def test_unwritten() -> None:
    """An element that was left out is named."""
    arena = staged()

    arena.allocations["out"].view[0] = 1.0
    arena.allocations["out"].view[1, :2] = 1.0
    failures = list(check_memory(arena))

    assert failures == [Failure(check="unwritten", message="out[1, 2] was never written: it still holds its poison")]


def test_corruption_and_unwritten_together() -> None:
    """Both fire on one run, each once."""
    arena = staged()

    arena.allocations["x"].view.fill_(1.0)
    failures = list(check_memory(arena))

    assert [failure.check for failure in failures] == ["corruption", "unwritten"]
    assert failures[1].message == "out[0, 0] was never written: it still holds its poison (6 elements in all)"


# Values


def test_within_the_bound() -> None:
    """An error as large as the bound passes."""
    assert judged(tensor(1.5, 2.0), tensor(1.0, 2.0), tensor(0.5, 0.0)) == []


def test_mismatch_names_the_worst_element() -> None:
    """Not the first bad element but the one furthest beyond its bound is shown; one at its bound does not count."""
    actual, value = torch.tensor([[1.125, 3.0], [4.0, 9.0]]), torch.tensor([[1.0, 2.0], [4.0, 5.0]], dtype=torch.float64)

    failures = judged(actual, value, torch.full((2, 2), 0.125, dtype=torch.float64))

    assert failures == [
        Failure(check="mismatch", message="out[1, 1] is 9, expected 5: 32 times the error bound 0.125 (2 of 4 elements)")
    ]


def test_bound_zero_asks_for_equality() -> None:
    """Where the bound is 0 an equal value passes and any other fails, with a finite ratio."""
    assert judged(tensor(2.0), tensor(2.0), tensor(0.0)) == []

    (failure,) = judged(tensor(2.0 + 2**-40), tensor(2.0), tensor(0.0))

    assert failure.message == "out[0] is 2, expected 2: more than 1e+06 times the error bound 0"


@pytest.mark.parametrize(("actual", "value"), [(0.0, -0.0), (-0.0, 0.0)])
def test_sign_of_a_zero(actual: float, value: float) -> None:
    """Counts where the reference says so, and nothing may be off; elsewhere 0 and -0 are one number."""
    exact = Expected(value=tensor(value, value), bound=tensor(0.0, 1.0), signed_zeros=True)
    verdict_with_signs = Verdict(outputs={"out": exact})

    (failure,) = check_values(verdict_with_signs, {"out": tensor(actual, actual)})

    assert failure.message == f"out[0] is {actual:g}, expected {value:g}: more than 1e+06 times the error bound 0"
    assert list(check_values(verdict_with_signs, {"out": tensor(value, value)})) == []
    assert judged(tensor(actual), tensor(value), tensor(0.0)) == []


@pytest.mark.parametrize("actual", [1e30, INF, -INF, NAN])
def test_infinite_bound_accepts_everything(actual: float) -> None:
    """Where a right kernel may overflow nothing can be said, not even that NaN is wrong."""
    expected = verdict(tensor(0.0), tensor(INF))

    assert judged(tensor(actual), tensor(0.0), tensor(INF)) == []
    assert worst_ratio(expected, {"out": tensor(actual)}) == 0.0


@pytest.mark.parametrize("bad", [NAN, INF, -INF])
def test_not_finite_where_the_reference_is(bad: float) -> None:
    """That is `nan`, and not a mismatch on top."""
    failures = judged(tensor(0.0, bad, bad), tensor(0.0, 1.25, 3.0), tensor(1.0, 1.0, 1.0))

    assert failures == [Failure(check="nan", message=f"out[1] is {bad:g}, expected 1.25 (2 of 3 elements)")]


@pytest.mark.parametrize("value", [INF, -INF])
@pytest.mark.parametrize("bound", [0.0, 1.0, INF])
def test_infinities_must_be_equal(value: float, bound: float) -> None:
    """The log-sum-exp of nothing is -inf: that and nothing else passes, whatever the bound."""
    assert judged(tensor(value), tensor(value), tensor(bound)) == []
    assert [failure.check for failure in judged(tensor(-value), tensor(value), tensor(bound))] == ["mismatch"]
    assert [failure.check for failure in judged(tensor(NAN), tensor(value), tensor(bound))] == ["mismatch"]

    (failure,) = judged(tensor(3.0), tensor(value), tensor(bound))

    assert failure.message.startswith(f"out[0] is 3, expected {value:g}: more than 1e+06 times the error bound")


def test_nan_and_mismatch_together() -> None:
    """Both fire where one element is NaN and another is wrong; the mismatch does not count the NaN."""
    failures = judged(tensor(NAN, 2.0), tensor(1.0, 1.0), tensor(0.5, 0.5))

    assert [failure.check for failure in failures] == ["nan", "mismatch"]
    assert failures[1].message == "out[1] is 2, expected 1: 2 times the error bound 0.5"


def test_every_output_is_judged() -> None:
    """An error in the second output alone is found; of errors in both the first is reported."""
    expected = Expected(value=tensor(1.0), bound=tensor(0.5))
    both = Verdict(outputs={"out": expected, "lse": expected})

    second = list(check_values(both, {"out": tensor(1.0), "lse": tensor(3.0)}))
    first = list(check_values(both, {"out": tensor(5.0), "lse": tensor(3.0)}))

    assert [failure.message.partition(" ")[0] for failure in second] == ["lse[0]"]
    assert [failure.message.partition(" ")[0] for failure in first] == ["out[0]"]


def test_low_precision_outputs_are_compared_in_float64() -> None:
    """The comparison itself rounds nothing: half a unit in the last place of bfloat16 is seen."""
    actual = torch.tensor([1.0], dtype=torch.bfloat16)

    assert judged(actual, tensor(1.0 + 2**-9), tensor(2**-9)) == []
    assert [failure.check for failure in judged(actual, tensor(1.0 + 2**-9), tensor(0.9 * 2**-9))] == ["mismatch"]


def test_empty_outputs_pass() -> None:
    """There is nothing to judge, and no maximum of nothing."""
    empty = torch.empty(0, 4, dtype=torch.float64)

    assert judged(empty, empty, empty) == []
    assert worst_ratio(verdict(empty, empty), {"out": empty}) == 0.0


# Ratio


def test_worst_ratio() -> None:
    """The largest ratio over all outputs."""
    expected = Expected(value=tensor(0.0, 0.0), bound=tensor(2.0, 4.0))
    both = Verdict(outputs={"out": expected, "lse": expected})

    ratio = worst_ratio(both, {"out": tensor(1.0, 1.0), "lse": tensor(0.0, -3.0)})

    assert ratio == 0.75


@pytest.mark.parametrize(
    ("actual", "value", "bound", "ratio"),
    [
        (1e300, 0.0, 1e-300, RATIO_LIMIT),
        (1.0, 0.0, 0.0, RATIO_LIMIT),
        (NAN, 0.0, 1.0, RATIO_LIMIT),
        (INF, 0.0, 1.0, RATIO_LIMIT),
        (0.0, INF, 1.0, RATIO_LIMIT),
        (INF, -INF, INF, RATIO_LIMIT),
        (INF, INF, 0.0, 0.0),
        (0.0, 0.0, 0.0, 0.0),
        (5.0, 0.0, INF, 0.0),
    ],
)
def test_ratio_is_finite_and_clamped(actual: float, value: float, bound: float, ratio: float) -> None:
    """Whatever is divided by whatever, the ratio is a number from 0 to the limit, so it can be reported and compared."""
    assert worst_ratio(verdict(tensor(value), tensor(bound)), {"out": tensor(actual)}) == ratio


# Poison


def test_equal_runs_do_not_depend_on_poison() -> None:
    """Two runs with the same outputs pass, although the gap behind each row differs between them."""
    loud, quiet = staged(Poison.LOUD), staged(Poison.QUIET)

    for arena in (loud, quiet):
        write(arena, torch.ones(2, 3))

    assert list(check_poison(loud, quiet)) == []


def test_poison() -> None:
    """The first element that comes out differently is named with both its values."""
    loud, quiet = staged(Poison.LOUD), staged(Poison.QUIET)
    write(loud, torch.ones(2, 3))
    write(quiet, torch.ones(2, 3))

    quiet.allocations["out"].view[1, 1:] = 30001.0
    failures = list(check_poison(loud, quiet))

    assert failures == [
        Failure(
            check="poison",
            message="out[1, 1] depends on memory that must not influence it: 1 with NaN there, 30001 with a finite value there",
        )
    ]


def test_poison_is_compared_bit_for_bit() -> None:
    """A zero of the other sign is another result; a NaN that comes out twice is the same."""
    loud, quiet = staged(Poison.LOUD), staged(Poison.QUIET)
    write(loud, torch.full((2, 3), NAN))
    write(quiet, torch.full((2, 3), NAN))

    equal = list(check_poison(loud, quiet))
    loud.allocations["out"].view[0, 0] = 0.0
    quiet.allocations["out"].view[0, 0] = -0.0

    assert equal == []
    assert [failure.check for failure in check_poison(loud, quiet)] == ["poison"]


def test_poison_ignores_what_need_not_be_written() -> None:
    """In a tensor that is written in part, a cache say, the rest keeps its poison, which differs from run to run."""
    arenas = []
    for poison in Poison:
        arena = Arena(poison)
        cache = arena.tensor("cache", (4,), torch.float32)
        arena.declare_writes("cache", torch.tensor([False, True, False, False]))
        arena.seal()
        cache[1] = 1.0
        arenas.append(arena)

    assert list(check_poison(*arenas)) == []

    arenas[1].allocations["cache"].view[1] = 2.0
    (failure,) = check_poison(*arenas)
    assert failure.message.startswith("cache[1] depends on memory that must not influence it")


# Outputs that are written in part


def _partly(row: float) -> list[Failure]:
    """Judge an output of 2 x 3 of which a reference speaks of row 1 alone."""
    at = (torch.tensor([[1]]), torch.tensor([[2, 0]]))
    expected = Expected(value=tensor(1.0, 2.0)[None], bound=tensor(0.1, 0.1)[None], at=at)
    output = torch.full((2, 3), NAN)
    output[1] = torch.tensor([2.0, NAN, row])
    return list(check_values(Verdict(outputs={"out": expected}), {"out": output}))


def test_only_what_the_reference_speaks_of_is_judged() -> None:
    """Elsewhere anything may stand; a finding names the output's element."""
    assert _partly(1.0) == []
    (failure,) = _partly(1.5)

    assert failure.message.startswith("out[1, 2] is 1.5, expected 1: 5 times the error bound 0.1")


def test_codes_are_judged_as_numbers() -> None:
    """FP8 elements, from which torch itself takes no part."""
    output = torch.tensor([1.0, 448.0, NAN]).to(torch.float8_e4m3fn)
    at = (torch.tensor([2, 1]),)

    expected = Expected(value=tensor(NAN, 448.0), bound=tensor(0.0, 0.0), at=at)
    assert list(check_values(Verdict(outputs={"out": expected}), {"out": output})) == []

    other = Expected(value=tensor(NAN, NAN), bound=tensor(0.0, 0.0), at=at)
    (failure,) = check_values(Verdict(outputs={"out": other}), {"out": output})
    assert failure.check == "mismatch"


def test_victim_is_named_first() -> None:
    """What the Op says of overwritten memory stands before the elements; where it says nothing, they stand alone."""
    arena = staged()
    write(arena, torch.ones(2, 3))
    arena.allocations["x"].view[2] = 0.5

    (named,) = check_memory(arena, victim=lambda damage: f"slot {damage.cells[0]} of {damage.tensor}")
    (alone,) = check_memory(arena, victim=lambda _: "")

    assert named.message == "slot 2 of x: x[2] must not be written: it held 0, now 0.5"
    assert alone.message == "x[2] must not be written: it held 0, now 0.5"
