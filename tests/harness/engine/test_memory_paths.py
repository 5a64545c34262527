"""`gather` and `scatter` against one lane after the other: whichever path they take, the result is the same."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from tridiff.harness.api import Stores
from tridiff.harness.engines.cpu import memory
from tridiff.harness.engines.cpu.formats import Array
from tridiff.harness.engines.cpu.memory import Memory, OutOfBounds, gather, scatter

pytestmark = pytest.mark.installed_triton("arrays of NumPy in and out: no kernel is compiled")

CELLS = 64


@dataclass(frozen=True, kw_only=True)
class Access:
    """What one load or store is made of. An axis set (bit 0: programs) names the axes along which something varies.

    `run`: the axis along which addresses count up, or None. `terms`, `masks`, `value`: axis sets of further address terms, of
    masks and of `other` or the stored value. `step`: how far apart addresses lie along other axes. `prefix`: how many leading
    lanes along `run` a mask lets through. `spans`: the legal cells. `transposed`: arrays lie in memory as tl.trans leaves them.
    """

    programs: int = 1
    shape: tuple[int, ...] = (4,)
    run: int | None = 0
    terms: tuple[int, ...] = ()
    masks: tuple[int, ...] = ()
    prefix: int | None = None
    value: int = 0
    step: int = 5
    spans: tuple[tuple[int, int], ...] = ((0, CELLS),)
    transposed: bool = False
    seed: int = 0

    def array(self, axes: int, low: int, high: int, salt: int) -> Array:
        """Random integers in [low, high) that vary along `axes`; size one along others."""
        sizes = [size if axes >> at & 1 else 1 for at, size in enumerate((self.programs, *self.shape))]
        array = np.random.default_rng((self.seed, salt)).integers(low, high, size=sizes, dtype=np.int64)
        return np.asfortranarray(array) if self.transposed else array

    def along_run(self, values: Array) -> Array:
        """`values` laid along the axis `run`."""
        assert self.run is not None
        return values.reshape([-1 if at == self.run + 1 else 1 for at in range(1 + len(self.shape))])

    def offsets(self) -> list[Array]:
        """Address terms."""
        terms = [self.array(axes, 0, 4, salt) * self.step for salt, axes in enumerate(self.terms)]
        if self.run is not None:
            terms.append(self.along_run(np.arange(self.shape[self.run], dtype=np.int64)))
        return terms or [self.array(0, 0, 4, 99)]

    def conditions(self) -> list[Array]:
        """Masks."""
        masks = [self.array(axes, 0, 4, 10 + salt) > 0 for salt, axes in enumerate(self.masks)]
        if self.run is not None and self.prefix is not None:
            masks.append(self.along_run(np.arange(self.shape[self.run]) < self.prefix))
        return masks

    def lanes(self, origin: int) -> Iterator[tuple[tuple[int, ...], int, bool]]:
        """(program and lane, cell, active), programs first and rows before columns."""
        shape = (self.programs, *self.shape)
        cells = [np.broadcast_to(term, shape) for term in self.offsets()]
        masks = [np.broadcast_to(mask, shape) for mask in self.conditions()]
        for lane in np.ndindex(shape):
            yield lane, origin + sum(int(term[lane]) for term in cells), all(mask[lane] for mask in masks)


ORIGIN = 3


def filled(access: Access, content: Array, stores: Stores | None = None) -> Memory:
    """Memory with that content and the legal spans of the access, which notes in `stores` what is stored into it."""
    return Memory(
        name="x",
        element="i32",
        cells=content,
        origin=ORIGIN,
        starts=np.array([start for start, _ in access.spans], dtype=np.int64),
        stops=np.array([stop for _, stop in access.spans], dtype=np.int64),
        locate=str,
        stores=None if stores is None else lambda: stores,
    )


def illegal(access: Access) -> set[tuple[int, int]]:
    """(cell, program) of every active lane outside the legal spans."""
    return {
        (cell, lane[0])
        for lane, cell, active in access.lanes(ORIGIN)
        if active and not any(start <= cell < stop for start, stop in access.spans)
    }


@st.composite
def accesses(draw: st.DrawFn) -> Access:
    """Accesses of rank 0 to 3, most of them with a run and within bounds."""
    shape = tuple(draw(st.lists(st.integers(1, 5), max_size=3)))
    axes = st.integers(0, (1 << 1 + len(shape)) - 1)
    run = draw(st.none() | st.integers(0, len(shape) - 1)) if shape else None
    holes = st.sampled_from([((0, CELLS),), ((0, CELLS),), ((0, 9), (11, CELLS)), ((4, 12),), ((3, 7), (8, 9), (12, 30)), ()])
    return Access(
        programs=draw(st.integers(1, 4)),
        shape=shape,
        run=run,
        terms=tuple(draw(st.lists(axes, max_size=3))),
        masks=tuple(draw(st.lists(axes, max_size=2))),
        prefix=draw(st.none() | st.integers(0, 5)),
        value=draw(axes),
        step=draw(st.sampled_from([0, 1, 2, 5])),
        spans=draw(holes),
        transposed=draw(st.booleans()),
        seed=draw(st.integers(0, 9)),
    )


# Loads whose `other` is larger than the rows that they read.
@example(access=Access(programs=3, prefix=2, value=0b1), with_other=True)
@example(access=Access(shape=(2, 4), run=1, prefix=3, value=0b10), with_other=True)
@given(access=accesses(), with_other=st.booleans())
@settings(max_examples=400)
def test_gather(*, access: Access, with_other: bool) -> None:
    """Active lanes hold their cells, the others `other`, or a recognisable value without one; or the error is a true one."""
    content = np.arange(100, 100 + CELLS, dtype=np.int32)
    other = access.array(access.value, -9, 0, 50).astype(np.int32) if with_other else None
    load = partial(gather, filled(access, content), access.offsets(), access.conditions(), other, access.shape)
    if wrong := illegal(access):
        with pytest.raises(OutOfBounds) as caught:
            load()
        assert (caught.value.element, caught.value.program) in wrong
        return
    shape = (access.programs, *access.shape)
    expected = np.full(shape, 0x7A7A7A7A, np.int32) if other is None else np.broadcast_to(other, shape).copy()
    for lane, cell, active in access.lanes(ORIGIN):
        if active:
            expected[lane] = content[cell]

    np.testing.assert_array_equal(np.broadcast_to(load(), shape), expected)


# Overlapping rows: where the index array comes from a broadcast, NumPy may assign in any order.
@example(access=Access(programs=4, shape=(5, 5), run=1, terms=(0b10,), value=0b111, step=1))
@example(access=Access(programs=4, shape=(5, 5), run=0, terms=(0b100,), value=0b111, step=1))
@example(access=Access(programs=4, shape=(5, 5), run=None, terms=(0b111,), value=0b111, step=1, transposed=True))
@given(access=accesses())
@settings(max_examples=400)
def test_scatter(access: Access) -> None:
    """Nothing but the cells of active lanes changes; of the programs that write a cell the last one stays, unless one errs.

    All bytes of these cells are noted, and no others.
    """
    before = np.arange(100, 100 + CELLS, dtype=np.int32)
    content = before.copy()
    values = access.array(access.value, 1000, 10**6, 50).astype(np.int32)
    stores = Stores(content.nbytes)
    store = partial(
        scatter, filled(access, content, stores), access.offsets(), access.conditions(), values, access.shape, line="k.py:1"
    )
    if wrong := illegal(access):
        with pytest.raises(OutOfBounds) as caught:
            store()
        assert (caught.value.element, caught.value.program) in wrong
        np.testing.assert_array_equal(content, before)
        assert not stores.last.any()
        return

    store()

    spread = np.broadcast_to(values, (access.programs, *access.shape))
    written: dict[int, tuple[int, set[int]]] = {}
    for lane, cell, active in access.lanes(ORIGIN):
        if active:
            program, candidates = written.get(cell, (lane[0], set()))
            kept = candidates if program == lane[0] else set()
            written[cell] = (lane[0], kept | {int(spread[lane])})
    noted = np.flatnonzero(stores.last) // content.itemsize
    assert noted.tolist() == [cell for cell in sorted(written) for _ in range(content.itemsize)]
    for cell in range(CELLS):
        program, candidates = written.get(cell, (0, {int(before[cell])}))
        assert int(content[cell]) in candidates, f"cell {cell}, last written by program {program}"


@pytest.mark.parametrize("transposed", [False, True])
@pytest.mark.parametrize("run", [None, 1])
def test_last_lane_stays(run: int | None, *, transposed: bool) -> None:
    """Of lanes of one program that share an address, the last in row-major order stays."""
    access = Access(shape=(6, 4), run=run, terms=(0b10, 0b110), step=1, value=0b110, transposed=transposed)
    content = np.zeros(CELLS, dtype=np.int32)
    values = access.array(access.value, 1000, 10**6, 50).astype(np.int32)
    expected = np.zeros(CELLS, dtype=np.int32)
    for lane, cell, _ in access.lanes(ORIGIN):
        expected[cell] = values[lane]

    scatter(filled(access, content), access.offsets(), [], values, access.shape)

    np.testing.assert_array_equal(content, expected)


@pytest.mark.parametrize(
    ("access", "path"),
    [
        (Access(programs=2, shape=(3, 4), run=1, terms=(0b11,)), "rows"),
        (Access(programs=2, shape=(3, 4), run=0, terms=(0b101,)), "rows"),
        (Access(programs=2, shape=(3, 4), run=1, terms=(0b11,), masks=(0b11,), prefix=3), "rows"),
        (Access(programs=2, shape=(3, 4), run=1, terms=(0b100,)), "lanes"),
        (Access(programs=2, shape=(3, 4), run=1, terms=(0b11,), masks=(0b111,)), "lanes"),
        (Access(programs=2, shape=(3, 4), run=None, terms=(0b110,)), "lanes"),
    ],
)
def test_path(access: Access, path: str) -> None:
    """Runs of consecutive cells are copied row by row; all else lane by lane."""
    rows = memory._as_rows(filled(access, np.zeros(CELLS, np.int32)), access.offsets(), access.conditions(), access.shape)

    assert ("lanes" if rows is None else "rows") == path


@pytest.mark.parametrize("order", [[0, 2, 1, 3], [0, 1, 2, 4], [3, 2, 1, 0], [0, 0, 0, 3], [0, 4, -1, 3]])
def test_what_only_looks_like_a_run(order: list[int]) -> None:
    """Rows are runs of consecutive cells from the first to the last, not just at both ends."""
    content = np.arange(100, 100 + CELLS, dtype=np.int32)
    terms = [np.array([[0], [10]]).reshape(1, 2, 1), np.array(order).reshape(1, 1, 4)]

    loaded = gather(filled(Access(), content), terms, [], None, (2, 4))

    assert loaded.tolist() == [[[100 + ORIGIN + row + at for at in order] for row in (0, 10)]]
