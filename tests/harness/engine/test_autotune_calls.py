"""Calls of autotuned kernels: production's hooks around the one that counts; nothing is timed or remembered."""

# ruff: noqa: D103 - jit functions and hooks of a few lines
# mypy: allow-untyped-defs, allow-untyped-decorators

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import triton
import triton.language as tl
from launching import BLOCKS, VERSION, at, blocks, run
from triton.runtime.autotuner import Autotuner

from tridiff.harness.capture import Launch, Pick, capturing


def ignore(_: object) -> None:
    """A receiver that drops what it gets."""


@triton.jit
def mark(out, n, block: tl.constexpr):
    """Adds `block` to its first n elements."""
    i = tl.program_id(0) * block + tl.arange(0, block)
    tl.store(out + i, tl.load(out + i, mask=i < n) + block, mask=i < n)


def tuned_mark(**options: Any) -> Any:
    """`mark`, with an autotuner of its own."""
    return triton.autotune(**{"configs": blocks(), "key": ["n"], **options})(mark)


@pytest.fixture(autouse=True)
def _nothing_of_triton_is_left_patched() -> Iterator[None]:
    """Whatever a test does, `Autotuner.run` is Triton's own afterwards."""
    before = Autotuner.run
    yield
    assert Autotuner.run is before


# Production's hooks. The values of first and later calls were seen on an H200 with Triton 3.6.0, starting from 5.


@triton.jit
def increment(x, n, block: tl.constexpr):
    tl.store(x, tl.load(x) + 1)


HOOKS: dict[str, tuple[dict[str, Any], list[float]]] = {
    "plain": ({}, [6, 7, 8]),  # there it was 3370 at first: timing increments, too, which is not copied
    "reset": ({"reset_to_zero": ["x"]}, [1, 2, 3]),
    "restore": ({"restore_value": ["x"]}, [6, 7, 8]),
    "both": ({"reset_to_zero": ["x"], "restore_value": ["x"]}, [1, 2, 3]),
    "single": ({"reset_to_zero": ["x"], "configs": [triton.Config({"block": 4})]}, [6, 7, 8]),
}


@pytest.mark.parametrize(("options", "values"), HOOKS.values(), ids=HOOKS)
def test_reset_and_restore(options: dict[str, Any], values: list[float]) -> None:
    """Three launches with one key, of which the first tunes."""
    kernel = triton.autotune(**{"configs": blocks(), "key": ["n"], **options})(increment)
    x, seen = torch.full((1,), 5.0), []

    def launcher() -> None:
        for _ in range(3):
            kernel[(1,)](x, 3)
            seen.append(x.item())

    run(launcher, at(1))

    assert seen == values


def test_reset_when_production_has_tuned_before() -> None:
    """Then nothing is zeroed: a kernel that counts on it is wrong in every call but the first."""
    kernel = triton.autotune(configs=blocks(), key=["n"], reset_to_zero=["x"])(increment)
    x = torch.full((1,), 5.0)

    run(lambda: kernel[(1,)](x, 3), at(1, tuned=True))

    assert x.item() == 6.0


def test_each_key_is_a_first_or_a_later_call() -> None:
    """What one key's call is says nothing of another's."""
    kernel = triton.autotune(configs=blocks(), key=["n"], reset_to_zero=["x"])(increment)
    x, seen = torch.full((1,), 5.0), []

    def launcher() -> None:
        for n in (3, 4):
            kernel[(1,)](x, n)
            seen.append(x.item())

    run(launcher, lambda decision: Pick(0, tuned=decision.key == "n=3"))

    assert seen == [6.0, 1.0]


@pytest.mark.parametrize("tuned", [False, True])
def test_order_of_hooks(tuned: bool) -> None:
    """As in production, with the kernel compiled where it would be timed; only the picked configuration's hook is called."""
    log: list[Any] = []
    configs = [triton.Config({"block": block}, pre_hook=lambda _, block=block: log.append(block)) for block in BLOCKS]
    kernel = triton.autotune(
        configs=configs,
        key=["n"],
        pre_hook=lambda _, reset_only=False: log.append("reset" if reset_only else "before"),
        post_hook=lambda _, exception: log.append(("after", exception)),
    )(increment)
    x = torch.zeros(1)

    run(lambda: [kernel[(1,)](x, 3) for _ in range(2)], at(1, tuned=tuned))

    tuning_hooks = [8] if tuned else [8, "before", ("after", None), "reset"]
    assert log == [*tuning_hooks, 8, 8]
    assert x.item() == 2.0


def test_hook_sees_all_arguments() -> None:
    """The launcher's, the configuration's, by name."""
    seen: list[dict[str, Any]] = []
    configs = [triton.Config({"block": block}, pre_hook=seen.append) for block in BLOCKS]
    x = torch.zeros(1)

    run(lambda: triton.autotune(configs=configs, key=["n"])(increment)[(1,)](x, n=3), at(2))

    assert {(arguments["x"] is x, arguments["n"], arguments["block"]) for arguments in seen} == {(True, 3, 16)}


def test_single_survivor() -> None:
    """Up to 3.7 it is tuned, so its tensors are reset; from 3.8 on it is launched at once."""
    keep = {"early_config_prune": lambda configs, *_, **__: configs[1:2]}
    kernel = triton.autotune(configs=blocks(), key=[], prune_configs_by=keep, reset_to_zero=["x"])(increment)
    x = torch.full((1,), 5.0)

    run(lambda: kernel[(1,)](x, 3))

    assert x.item() == (6.0 if VERSION >= (3, 8) else 1.0)


def test_error_while_tuning_reaches_the_post_hook() -> None:
    """And then the launcher, as it was raised."""
    seen = []
    kernel = tuned_mark(post_hook=lambda _, exception: seen.append(exception))

    with pytest.raises(TypeError, match="'float' object cannot be interpreted as an integer") as caught:
        run(lambda: kernel[(2.0,)](torch.zeros(4), 4))

    assert seen == [caught.value]


# Nothing is timed or remembered


def test_nothing_is_timed() -> None:
    """A benchmark function of the kernel's own is not called."""

    def refuse(*_: Any, **__: Any) -> Any:
        raise AssertionError("timed")

    out = torch.zeros(16)

    run(lambda: tuned_mark(do_bench=refuse)[(1,)](out, 16), at(2))

    assert out[0] == 16


def test_no_choice_outlives_its_capture() -> None:
    """Two Cases of one key get choices of their own, and the autotuner is as it was."""
    kernel, values = tuned_mark(), []
    before = dict(vars(kernel))

    for index in (2, 0, 1):
        out = torch.zeros(1)
        run(lambda out=out: kernel[(1,)](out, 1), at(index))
        values.append(out.item())

    assert values == [16, 4, 8]
    assert vars(kernel) == before
    assert kernel.cache == {}


def test_nothing_is_remembered_after_an_error() -> None:
    """The autotuner is restored whatever the launcher raises."""
    kernel = tuned_mark(reset_to_zero=["out"])
    before = dict(vars(kernel))

    def launcher() -> None:
        kernel[(1,)](torch.zeros(4), 4)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(launcher)

    assert vars(kernel) == before


def test_captures_nest() -> None:
    """The inner one chooses for itself, and the outer one's choice stands afterwards."""
    kernel = tuned_mark()
    seen: list[Launch] = []
    inner: list[Launch] = []

    def launch() -> None:
        kernel[(1,)](torch.zeros(4), 4)

    def config(launches: list[Launch]) -> list[int]:
        return [launch.arguments["block"] for launch in launches]

    with capturing("gfx942", seen.append, ignore, choose=at(2)):
        launch()
        with capturing("gfx942", inner.append, ignore, choose=at(1)):
            launch()
        launch()

    assert config(seen) == [16, 16]
    assert config(inner) == [8]


def test_disk_cache_is_not_touched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither read nor written, though the kernel asks for it."""
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    monkeypatch.setenv("TRIDIFF_CACHE", "0")  # ours lies there too
    kernel, out = tuned_mark(cache_results=True), torch.zeros(16)
    assert kernel.cache_results

    run(lambda: kernel[(1,)](out, 16), at(1))

    assert out[0] == 8
    assert list(tmp_path.iterdir()) == []
