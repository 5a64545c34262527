"""Parts of a run: how they are written, which seeds they have, and that their shares add up."""

from __future__ import annotations

import pytest

from tridiff.harness.engines.spec import UsageError
from tridiff.harness.runner.shards import WHOLE, Shard, shards


@pytest.mark.parametrize("shard", [Shard(), Shard(0, 4), Shard(3, 4), Shard(11, 120)], ids=str)
def test_text(shard: Shard) -> None:
    """A shard is read again from what is written."""
    assert Shard.parsed(str(shard)) == shard


@pytest.mark.parametrize("text", ["", "1", "1/", "/4", "1/4/2", " 1/4", "1/4\n", "1 / 4", "+1/4", "-1/4", "1.0/4", "a/b", "٣/٤"])
def test_wrong_text(text: str) -> None:
    """Anything else is one line that says what is expected."""
    with pytest.raises(UsageError) as caught:
        Shard.parsed(text)

    assert str(caught.value) == f"{text!r}: must be I/N, shard I (0 to N - 1) of N, such as 0/4"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("4/4", "4/4: the first number must be 0 to 3: shards are counted from 0"),
        ("0/0", "0/0: the number of shards must be at least 1"),
    ],
)
def test_no_such_shard(text: str, message: str) -> None:
    """A shard beyond the last one is told from a text that is none."""
    with pytest.raises(UsageError) as caught:
        Shard.parsed(text)

    assert str(caught.value) == message


@pytest.mark.parametrize("examples", [0, 1, 3, 4, 5, 800, 801])
@pytest.mark.parametrize("count", [1, 2, 3, 4, 7, 128])
def test_shares(examples: int, count: int) -> None:
    """Every example is run once, no shard has two more than another, and the first is the last to go without."""
    shares = [shard.share(examples) for shard in shards(count)]

    assert sum(shares) == examples
    assert max(shares) - min(shares) <= 1
    assert shares == sorted(shares, reverse=True)


def test_shares_of_a_share() -> None:
    """Parts can be divided again, into numbers of their own."""
    inner = [part.share(outer.share(1000)) for outer, count in zip(shards(3), (2, 5, 1), strict=True) for part in shards(count)]

    assert sum(inner) == 1000


def test_seeds() -> None:
    """The whole keeps the seed of the run; all others have seeds of their own, whatever the run's and the number of shards."""
    runs = (0, 1, -1, 2**70)
    derived = [shard.seed(run) for run in runs for count in (2, 3, 64) for shard in shards(count)]

    assert [WHOLE.seed(run) for run in runs] == list(runs)
    assert len({*derived, *runs}) == len(derived) + len(runs)
    assert all(0 <= seed < 2**48 for seed in derived)


def test_seed_is_the_same_for_ever() -> None:
    """A seed that somebody has written down means the same shard of the same run in later releases."""
    assert Shard(1, 4).seed(7) == 175064619916095


def test_no_shards() -> None:
    """A run has at least one part."""
    with pytest.raises(UsageError, match="0/0: the number of shards must be at least 1"):
        shards(0)
