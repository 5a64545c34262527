"""Tensor values are a function of (seed, name, index) alone: the same bits everywhere."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from tridiff.harness.api import gaussian, integers, permutation, uniform, words


def test_words_are_pinned() -> None:
    """The bits are those that SplitMix64 gives in plain Python integers."""
    assert words(0, "query", 3).tolist() == [11682117350799228479, 1302581299781230199, 18194458069784241372]
    assert words(2**63 - 1, "", 1).tolist() == [4032482851894132061]


def test_gaussian_bits_are_pinned() -> None:
    """Exact integers and one rounding: the float32 bits are the same on every machine."""
    values = gaussian(7, "key_cache", (2, 2))

    assert values.dtype == torch.float32
    assert values.view(torch.int32).tolist() == [[1059070066, -1105475907], [1015600383, 1067879022]]


def test_uniform_bits_are_pinned() -> None:
    """Likewise for uniform values."""
    assert uniform(7, "scale", (3,), -2.0, 2.0).view(torch.int32).tolist() == [-1095778512, 1057796856, -1087557568]


def test_integers_and_permutation_are_pinned() -> None:
    """Likewise for integers and orders."""
    assert integers(1, "lengths", 6, 100).tolist() == [0, 57, 7, 81, 84, 27]
    assert permutation(1, "pages", 8).tolist() == [2, 1, 7, 5, 3, 4, 6, 0]


@pytest.mark.parametrize("count", [1, 2, 1000])
def test_an_element_does_not_depend_on_the_count(count: int) -> None:
    """Element i of a shorter tensor is element i of a longer one."""
    assert np.array_equal(words(3, "x", count), words(3, "x", 2000)[:count])
    assert torch.equal(gaussian(3, "x", (count,)), gaussian(3, "x", (2000,))[:count])


def test_shape_only_folds_the_stream() -> None:
    """A matrix holds the stream in row-major order; an empty shape holds nothing."""
    assert torch.equal(gaussian(3, "x", (4, 5)).flatten(), gaussian(3, "x", (20,)))
    assert gaussian(3, "x", ()).shape == ()
    assert gaussian(3, "x", (0, 5)).shape == (0, 5)


@pytest.mark.parametrize(("seed", "name"), [(0, "y"), (1, "x"), (10, "x"), (0, "x0"), (0, "")])
def test_streams_are_independent(seed: int, name: str) -> None:
    """Another seed or another name gives numbers that have nothing to do with the first ones."""
    count = 20_000
    one, other = gaussian(0, "x", (count,)), gaussian(seed, name, (count,))

    correlation = float((one * other).mean())

    assert abs(correlation) < 5 / math.sqrt(count)
    assert not set(words(0, "x", count).tolist()) & set(words(seed, name, count).tolist())


def test_neighbours_are_independent() -> None:
    """Element i says nothing of element i + 1."""
    values = gaussian(0, "x", (20_001,))

    assert abs(float((values[1:] * values[:-1]).mean())) < 5 / math.sqrt(20_000)


def test_gaussian_moments() -> None:
    """Mean 0, variance 1, no skew, and a fourth moment of 2.7, which is that of the sum of four uniforms."""
    values = gaussian(5, "x", (200_000,)).double()

    moments = [float((values**power).mean()) for power in (1, 2, 3, 4)]

    assert moments == pytest.approx([0.0, 1.0, 0.0, 2.7], abs=0.03)
    assert float(values.abs().max()) < 3.47


def test_uniform_fills_its_range() -> None:
    """Values reach from `low` to just below `high`, every tenth of the range alike."""
    values = uniform(5, "x", (50_000,), -3.0, 5.0)

    counts = torch.histc(values, bins=10, min=-3.0, max=5.0)

    assert float(values.min()) >= -3.0
    assert float(values.max()) < 5.0
    assert counts.tolist() == pytest.approx([5000.0] * 10, rel=0.06)


def test_integers_fill_their_range() -> None:
    """Every integer below the bound occurs, none at or beyond it."""
    drawn = integers(5, "x", 2000, 7)

    assert set(drawn.tolist()) == set(range(7))


@pytest.mark.parametrize("count", [0, 1, 2, 1000])
def test_permutation_holds_every_index_once(count: int) -> None:
    """A permutation of range(count) is one."""
    assert sorted(permutation(5, "x", count).tolist()) == list(range(count))


def test_permutations_differ() -> None:
    """Another seed gives another order, and no order is the identity."""
    orders = [tuple(permutation(seed, "x", 50).tolist()) for seed in range(20)]

    assert len(set(orders)) == 20
    assert tuple(range(50)) not in orders
