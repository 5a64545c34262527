"""A capture with `every`: each configuration of an autotuned kernel is prepared, and one is launched."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import triton
from compiled_kernels import asserting, copied
from triton.runtime.errors import OutOfResources

from tridiff.harness.capture import Launch, Pick, capturing

FLOATS = torch.zeros(64)
BLOCKS = (4, 8, 16)


def tuned(kernel: Any = copied, **options: Any) -> Any:
    """A kernel with three configurations, and an autotuner of its own."""
    configs = [triton.Config({"block": block}) for block in BLOCKS]
    return triton.autotune(configs=configs, key=[], **options)(kernel)


def met(
    kernel: Any, *, every: bool, index: int = 0, is_tuned: bool = False, without: tuple[int, ...] = (), **arguments: Any
) -> tuple[list[int], list[int]]:
    """The blocks that were prepared, and those that were launched; `without`: those that cannot be."""
    prepared: list[int] = []
    launched: list[int] = []

    def prepare(launch: Launch) -> None:
        prepared.append(_block(launch))
        if prepared[-1] in without:
            raise OutOfResources(0, 0, "shared memory")

    def receive(launch: Launch) -> None:
        launched.append(_block(launch))

    with capturing("gfx942", receive, lambda _: None, prepare=prepare, choose=lambda _: Pick(index, is_tuned), every=every):
        kernel[(1,)](FLOATS, FLOATS, **arguments)
    return prepared, launched


def _block(launch: Launch) -> int:
    return int(launch.specialisation.constants[2,])


@pytest.mark.parametrize(("index", "order"), [(0, [4, 8, 16]), (1, [8, 16, 4]), (2, [16, 4, 8])])
def test_every_one_is_prepared(index: int, order: list[int]) -> None:
    """The chosen one first, which is then launched; without `every` it is the only one."""
    assert met(tuned(), every=True, index=index) == (order, [order[0]])
    assert met(tuned(), every=False, index=index) == (order[:1], [order[0]])


def test_first_that_works_is_launched() -> None:
    """Those that drop out are prepared all the same."""
    assert met(tuned(), every=True, without=(4,)) == ([4, 8, 16], [8])
    assert met(tuned(), every=True, without=(8,)) == ([4, 8, 16], [4])
    assert met(tuned(), every=False, without=(4,)) == ([4, 8], [8])


def test_none_works() -> None:
    """The first is launched, as production does."""
    assert met(tuned(), every=True, without=BLOCKS) == ([4, 8, 16], [4])


def test_hooks_run_around_each() -> None:
    """A launcher's own hooks see every configuration, as in production, and the one that is launched once more."""
    seen: list[bool] = []
    kernel = tuned(pre_hook=lambda _arguments, reset_only=False: seen.append(reset_only))

    met(kernel, every=True)

    assert seen == [False, False, False, True]


def test_what_was_pruned_is_not_prepared() -> None:
    """Production does not time it."""
    kernel = tuned(prune_configs_by={"early_config_prune": lambda configs, *_, **__: configs[1:]})

    assert met(kernel, every=True) == ([8, 16], [8])


def test_calls_in_a_tuned_process() -> None:
    """The same holds where production has tuned before."""
    assert met(tuned(), every=True, index=2, is_tuned=True) == ([16, 4, 8], [16])


def test_constants_of_the_launcher() -> None:
    """Every configuration gets them."""
    assert met(tuned(asserting), every=True, most=99) == ([4, 8, 16], [4])
