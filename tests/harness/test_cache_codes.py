"""What a KV cache holds of numbers: the nearest code, saturated, and which codes an inexact division may reach."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from tridiff.reference.cache_codes import DIVISIONS, FP8_DTYPES, division_of, reachable, saturated, scale_of, stored

E4M3FN, E4M3FNUZ, E5M2 = FP8_DTYPES
LARGEST = {E4M3FN: 448.0, E4M3FNUZ: 240.0, E5M2: 57344.0}


def numbers_of(dtype: torch.dtype) -> Tensor:
    """All finite numbers of an FP8 format, ascending, by torch's own conversion from codes."""
    every = torch.arange(256, dtype=torch.uint8).view(dtype).to(torch.float32).to(torch.float64)
    return torch.tensor(sorted(set(every[every.isfinite()].tolist())), dtype=torch.float64)


@pytest.mark.parametrize("dtype", FP8_DTYPES)
def test_every_number_is_its_own_code(dtype: torch.dtype) -> None:
    """And what lies between two of them goes to the nearer one; a tie to the one whose code is even, as torch has it."""
    exact = numbers_of(dtype)
    middle, gap = (exact[1:] + exact[:-1]) / 2, exact[1:] - exact[:-1]

    assert torch.equal(saturated(exact, dtype), exact)
    assert torch.equal(saturated(middle - gap / 64, dtype), exact[:-1])
    assert torch.equal(saturated(middle + gap / 64, dtype), exact[1:])
    assert torch.equal(saturated(middle, dtype), middle.to(torch.float32).to(dtype).to(torch.float32).to(torch.float64))


@pytest.mark.parametrize("dtype", FP8_DTYPES)
def test_what_lies_beyond_is_the_largest_number(dtype: torch.dtype) -> None:
    """Infinities as well, of either sign; NaN stays NaN."""
    largest = LARGEST[dtype]
    values = torch.tensor([largest, largest * 1.001, 1e30, math.inf, -largest * 1.5, -math.inf, math.nan])

    found = saturated(values, dtype)

    assert found[:6].tolist() == [largest] * 4 + [-largest] * 2
    assert bool(found[6].isnan())


@pytest.mark.parametrize(("dtype", "signed"), [(E4M3FN, True), (E4M3FNUZ, False), (E5M2, True)])
def test_zeros_have_signs(dtype: torch.dtype, signed: bool) -> None:
    """Also that of a number too small for the format; in e4m3fnuz there is one zero, and the code of -0 is NaN."""
    found = saturated(torch.tensor([-0.0, -1e-30, 0.0]), dtype)

    assert found.tolist() == [0.0] * 3
    assert found.signbit().tolist() == [signed, signed, False]


@pytest.mark.parametrize(
    ("value", "scale", "dtype", "expected"),
    [
        (1.0, 1.0, E4M3FN, 1.0),
        (100.0, 0.25, E4M3FN, 384.0),  # 400 lies between 384 and 416, and 384 has the even code
        (1000.0, 1.0, E4M3FN, 448.0),
        (-500.0, 2.0, E4M3FNUZ, -240.0),
        (1.0625, 1.0, E4M3FN, 1.0),
        (1.1875, 1.0, E4M3FN, 1.25),
        (2.0**-10, 1.0, E4M3FN, 0.0),  # half of the smallest number
        (3 * 2.0**-10, 1.0, E4M3FN, 2.0**-8),
        (2.0**-10, 1.0, E4M3FNUZ, 2.0**-10),
        (1e30, 1.0, E5M2, 57344.0),
        (0.37, 0.37, E5M2, 1.0),
    ],
)
@pytest.mark.parametrize("division", DIVISIONS)
def test_quotients_by_hand(value: float, scale: float, dtype: torch.dtype, expected: float, division: str) -> None:
    """Worked out with pencil and paper."""
    found, bound = stored(torch.tensor([value]), dtype, scale, division)

    assert found.tolist() == [expected]
    # Where 400 or 1.0625 is a tie, an inexact quotient may lead either way.
    assert bound.tolist() == [0.0] or division != "ieee"


@pytest.mark.parametrize("values", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("cache", [torch.float32, torch.bfloat16, torch.float16])
def test_casts(values: torch.dtype, cache: torch.dtype) -> None:
    """Into other formats a number is cast, whatever the scale: overflow is infinite, and nothing is saturated."""
    given = torch.tensor([1.0, -0.3, 3e38, math.inf]).to(values)

    found, bound = stored(given, cache, 0.5, "approximate")

    assert torch.equal(found, given.to(cache).to(torch.float64))
    assert not bool(bound.any())
    assert bool(found[2].isinf()) == (torch.float16 in {values, cache})


@pytest.mark.parametrize("dtype", FP8_DTYPES)
def test_codes_are_stored_as_they_are(dtype: torch.dtype) -> None:
    """Unscaled, NaN included."""
    given = torch.tensor([1.0, -0.375, 96.0, math.nan]).to(dtype)

    found, bound = stored(given, dtype, 0.37, "approximate")

    assert found[:3].tolist() == [1.0, -0.375, 96.0]
    assert bool(found[3].isnan())
    assert not bool(bound.any())


def test_float32_division_is_no_exact_one() -> None:
    """The quotient is rounded to float32 first: a kernel that divides by IEEE has no freedom at all."""
    value = torch.tensor([float.fromhex("0x1.ce6668p+0")])  # by 1.7 above a tie; in float32 a tie

    found, bound = stored(value, E4M3FN, 1.7, "ieee")
    exact, _ = stored(value, E4M3FN, 1.7, "approximate")

    assert found.tolist() == [1.0]
    assert bound.tolist() == [0.0]
    assert exact.tolist() == [1.125]


@pytest.mark.parametrize("division", ["approximate", "reciprocal"])
def test_near_a_tie_either_code_will_do(division: str) -> None:
    """And only there: the bound is the step to the other code."""
    near = torch.tensor([1.0625, 1.0625 * (1 + 2.0**-23), 1.0625 * (1 - 2.0**-20), 1.07, 448.0, math.inf, math.nan])

    value, bound = stored(near, E4M3FN, 1.0, division)

    assert value[:6].tolist() == [1.0, 1.125, 1.0, 1.125, 448.0, 448.0]
    assert bound.tolist() == [0.125, 0.125, 0.0, 0.0, 0.0, 0.0, 0.0]


@pytest.mark.parametrize("dtype", FP8_DTYPES)
def test_inexact_divisions_stay_within_the_bound(dtype: torch.dtype) -> None:
    """By a reciprocal, or off by two ulps either way: on ties and near them, for every scale. Some do reach another code."""
    exact = numbers_of(dtype)
    ties = ((exact[1:] + exact[:-1]) / 2).to(torch.float32)
    moved = 0
    for scale in (0.37, 1.7, 2.0**-10, 64.0, 3.0):
        divisor = torch.tensor(scale, dtype=torch.float32)
        values = torch.cat(
            [torch.nextafter(ties * divisor, torch.tensor(sign * math.inf)) for sign in (-1.0, 1.0)] + [ties * divisor]
        )
        quotient = values / divisor
        up = torch.nextafter(torch.nextafter(quotient, torch.tensor(math.inf)), torch.tensor(math.inf))
        down = torch.nextafter(torch.nextafter(quotient, torch.tensor(-math.inf)), torch.tensor(-math.inf))
        emulated = {"reciprocal": [values * (1 / divisor)], "approximate": [up, down, values * (1 / divisor)]}
        for division, quotients in emulated.items():
            value, bound = stored(values, dtype, float(divisor), division)
            for each in quotients:
                error = (saturated(each, dtype) - value).abs()
                moved += int((error > 0).sum())

                assert bool((error <= bound).all())

    assert moved > 100


def test_bound_is_the_farthest_code() -> None:
    """Also where a large error leads over several of them."""
    value, bound = reachable(torch.tensor([1.0], dtype=torch.float64), 0.3, E4M3FN)

    assert value.tolist() == [1.0]
    assert bound.tolist() == [pytest.approx(0.3125)]  # 0.6875; above it is 1.25


@pytest.mark.parametrize(
    ("rounding", "message"),
    [
        ({"division": "fast"}, "rounding has division='fast': must be one of ieee, approximate, reciprocal"),
        ({"product": 1}, "rounding has the unknown entry 'product': known is division"),
    ],
)
def test_unknown_roundings(rounding: dict[str, object], message: str) -> None:
    """Are refused."""
    with pytest.raises(ValueError, match=message):
        division_of(rounding)


def test_scales() -> None:
    """None is 1, of caches that hold no FP8 nobody reads one, and one that is not positive is refused."""
    poison = torch.tensor(math.nan)

    assert scale_of(None, E5M2) == 1.0
    assert scale_of(poison, torch.bfloat16) == 1.0
    assert scale_of(torch.tensor([0.25]), E5M2) == 0.25
    assert division_of({}) == "ieee"
    for wrong in (poison, torch.tensor(0.0), torch.tensor(-1.0), torch.tensor(math.inf)):
        with pytest.raises(ValueError, match="must be a positive number"):
            scale_of(wrong, E5M2)
