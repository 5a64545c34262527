"""Parts: the limits of GPUs that are not here, the sources of these, and what a process adds to them."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from tridiff.harness.engines.spec import TARGETS, UsageError, backend_of
from tridiff.harness.targets import table
from tridiff.harness.targets.parts import Part, part

PAGE = Path(__file__).resolve().parents[2] / "docs/reference/parts.md"
FIGURES = {
    "shared_bytes": "shared memory, bytes",
    "threads": "threads",
    "tensor_memory": "tensor memory, columns",
    "processors": "processors",
}
"""Fields that need a source, and how the page calls them."""
KIB = 1024


@pytest.mark.parametrize("name", TARGETS)
def test_every_figure_has_its_source(name: str) -> None:
    """Nobody needs to believe a number; and the name is one that settings would allow."""
    known = part(name)

    assert known.name == name
    assert re.fullmatch(table.NAME, name)
    assert set(known.sources) == set(FIGURES)
    assert all(known.sources.values())
    assert min(known.shared_bytes, known.threads, known.processors) > 0
    assert known.device
    assert (known.backend, known.arch, known.warp_size) == backend_of(name)


def test_limits() -> None:
    """What vendors document: LDS of a workgroup, and what a block may have beyond the 1 KiB that CUDA keeps."""
    limits = {name: known.shared_bytes / KIB for name, known in table.BUILT_IN.items()}

    assert limits == {
        **dict.fromkeys(("gfx90a", "gfx942", "gfx1100", "gfx1200", "gfx1201"), 64),
        **{"gfx950": 160, "sm_80": 164 - 1, "sm_90": 228 - 1, "sm_100": 228 - 1},
        **dict.fromkeys(("sm_86", "sm_89", "sm_120"), 100 - 1),
    }
    assert {name for name, known in table.BUILT_IN.items() if known.tensor_memory} == {"sm_100"}
    assert part("sm_100").tensor_memory == 512
    assert {known.threads for known in table.BUILT_IN.values()} == {1024}


@pytest.mark.parametrize(
    ("name", "capability", "warp_size"),
    [
        ("gfx90a", (9, 0), 64),
        ("gfx942", (9, 4), 64),
        ("gfx950", (9, 5), 64),
        ("gfx1030", (10, 3), 32),
        ("gfx1100", (11, 0), 32),
        ("gfx1201", (12, 0), 32),
        ("sm_86", (8, 6), 32),
        ("sm_103", (10, 3), 32),
    ],
)
def test_what_follows_from_the_name(name: str, capability: tuple[int, int], warp_size: int) -> None:
    """Version and wave size, also of a part that the table does not have."""
    known = Part(name=name, shared_bytes=1)

    assert (known.capability, known.warp_size) == (capability, warp_size)
    assert table.name_of(known.backend, known.arch) == name


def test_unknown_part() -> None:
    """One line with the nearest, all there are, and where others come from."""
    with pytest.raises(UsageError) as caught:
        part("gfx943")

    assert str(caught.value) == (
        f"unknown target 'gfx943': did you mean 'gfx942'?; targets: {', '.join(TARGETS)}; `targets` in the settings adds others"
    )


# Added


@pytest.fixture(autouse=True)
def _nothing_stays() -> Iterator[None]:
    """What a test adds ends with it."""
    with table.scope():
        yield
    assert table.added() == ()


def test_added_parts_end_with_their_scope() -> None:
    """Within it they are known, and stand in place of built-in ones; after it all is as before."""
    mine, other = Part(name="gfx1151", shared_bytes=65536), Part(name="gfx942", shared_bytes=7)

    with table.scope():
        table.add([mine])
        with table.scope():
            table.add([other])
            assert (part("gfx1151"), part("gfx942")) == (mine, other)
            assert table.added() == (mine, other)
            assert list(table.known()) == [*TARGETS, "gfx1151"]
        assert table.added() == (mine,)
        assert part("gfx942") == table.BUILT_IN["gfx942"]

    with pytest.raises(UsageError, match="gfx1151"):
        part("gfx1151")


# The page


def row(*cells: object) -> str:
    """A line of a table in Markdown."""
    return f"| {' | '.join(map(str, cells))} |"


def rows() -> list[str]:
    """The tables of the page, from the data: the figures of each part, then each source with those it is for."""
    lines = [
        row(f"`{known.name}`", known.device, known.backend, known.warp_size, *(f"{getattr(known, name):,}" for name in FIGURES))
        for known in table.BUILT_IN.values()
    ]
    sources: dict[tuple[str, str], list[str]] = {}
    for figure, title in FIGURES.items():
        for known in table.BUILT_IN.values():
            sources.setdefault((title, known.sources[figure]), []).append(f"`{known.name}`")
    return [*lines, *(row(title, ", ".join(names), source) for (title, source), names in sources.items())]


def test_page_shows_the_table() -> None:
    """`docs/reference/parts.md` has every figure and source of the table, and no others."""
    text = PAGE.read_text(encoding="utf-8").partition("## Your own")[0]

    shown = [line for line in text.splitlines() if re.match(r"\| (`|shared|threads|tensor|processors)", line)]

    assert shown == rows()
