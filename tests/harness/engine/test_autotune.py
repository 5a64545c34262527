"""Autotuned kernels: which configuration runs, what drops out, and what a Case has to do with it."""

# ruff: noqa: D103 - jit functions and hooks of a few lines
# mypy: allow-untyped-defs, allow-untyped-decorators

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import pytest
import torch
import triton
import triton.language as tl
from launching import BLOCKS, at, blocks, run
from toy.family import registry
from toy.strategies.scale import ScaleCase
from triton.runtime.autotuner import Autotuner
from triton.runtime.errors import AutotunerError, OutOfResources

from tridiff.harness.api import Clean, Fault, Found, Patch
from tridiff.harness.capture import Pick, Tuning, forced, seeded
from tridiff.harness.engines.cpu.errors import KernelError, UnsupportedOperation
from tridiff.harness.engines.spec import EngineSpec
from tridiff.harness.runner.examine import KernelRef, examine


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


# The choice


@pytest.mark.parametrize("index", range(3))
def test_picked_configuration_runs_once(index: int) -> None:
    """And no other; the grid is a function of its constants."""
    kernel, out, grids = tuned_mark(), torch.zeros(16), []

    def grid(meta: dict[str, Any]) -> tuple[int]:
        grids.append(meta["block"])
        return (triton.cdiv(16, meta["block"]),)

    engine = run(lambda: kernel[grid](out, 16), at(index))

    assert out.tolist() == [BLOCKS[index]] * 16
    assert set(grids) == {BLOCKS[index]}
    assert len(engine.specialisations) == 1


def test_configuration_is_in_the_record() -> None:
    """By name and value, behind the specialisation's own name; kernels that are not tuned have none."""
    kernel, out = tuned_mark(), torch.zeros(16)

    def launcher() -> None:
        kernel[(1,)](out, 16)
        mark[(1,)](out, 16, 8)

    with_config, without = run(launcher, at(1)).specialisations

    assert re.fullmatch(r"mark-[0-9a-f]{8}\[block=8, num_warps=4, num_ctas=1, num_stages=3\]", with_config)
    assert re.fullmatch(r"mark-[0-9a-f]{8}", without)


def test_configurations_are_specialisations() -> None:
    """Each has a name of its own, in its options as well as in its constants."""
    kernel = tuned_mark(configs=[triton.Config({"block": 4}, num_warps=warps) for warps in (1, 2)])
    out = torch.zeros(4)

    names = [run(lambda: kernel[(1,)](out, 4), at(index)).specialisations[0] for index in range(2)]

    assert len({name.partition("[")[0] for name in names}) == 2


def tuning(kernel: str = "k", key: str = "n=1", count: int = 5) -> Tuning:
    """A decision between `count` configurations."""
    return Tuning(kernel, key, tuple(triton.Config({"block": 2**at}) for at in range(count)))


def test_seeded_choice_is_deterministic_and_meets_everything() -> None:
    """The same seed, kernel and key give the same choice in any process; over seeds, every choice occurs about as often."""
    picks = [seeded(f"case {seed}")(tuning()) for seed in range(400)]

    assert seeded("case")(tuning()) == seeded("case")(tuning()) == Pick(2, tuned=False)
    counts = [picks.count(Pick(index, tuned)) for index in range(5) for tuned in (False, True)]
    assert min(counts) > 20
    assert sum(counts) == 400


def test_seeded_choice_depends_on_kernel_and_key() -> None:
    """Two kernels of one launcher, and two keys of one kernel, are chosen for independently."""
    choose = seeded("case")

    assert len({choose(tuning(kernel=f"k{at}")) for at in range(30)}) == 10
    assert len({choose(tuning(key=f"n={at}")) for at in range(30)}) == 10


def test_forced_choice() -> None:
    """By index or by options; kernels that are not named take their first."""
    choose = forced({"k": 2, "other": {"block": 8, "num_warps": 4}}, tuned=True)

    assert choose(tuning("k")) == Pick(2, tuned=True)
    assert choose(tuning("other")) == Pick(3, tuned=True)
    assert choose(tuning("third")) == Pick(0, tuned=True)


@pytest.mark.parametrize("wanted", [5, -1, {"block": 3}, {"blocks": 4}])
def test_forced_choice_that_is_not_there(wanted: Any) -> None:
    """Says what there is."""
    with pytest.raises(ValueError, match=r"k has no configuration .*: choose one of 0: block=1, .*; 4: block=16, "):
        forced({"k": wanted})(tuning())


@pytest.mark.parametrize("index", [-1, 3])
def test_choice_beyond_the_configurations(index: int) -> None:
    """Is a mistake, and no other configuration runs instead."""
    out = torch.zeros(4)

    with pytest.raises(IndexError, match=f"configuration {index} of mark was picked: it has 3"):
        run(lambda: tuned_mark()[(1,)](out, 4), at(index))

    assert out.tolist() == [0.0] * 4


def test_choice_is_told_kernel_key_and_survivors() -> None:
    """The key with its arguments' names and values, also those that are passed by keyword."""
    told: list[Tuning] = []
    kernel = tuned_mark(key=["n", "out"])

    def choose(decision: Tuning) -> Pick:
        told.append(decision)
        return Pick(0)

    run(lambda: kernel[(1,)](torch.zeros(4), n=3), choose)

    (decision,) = told
    assert (decision.kernel, decision.key) == ("mark", "n=3, out=torch.float32")
    assert [config.kwargs["block"] for config in decision.configs] == list(BLOCKS)


def test_one_choice_a_key() -> None:
    """A launcher's later launches with a key take the configuration of its first, as in production; other keys may differ."""
    kernel, out, asked = tuned_mark(), torch.zeros(16), []

    def choose(decision: Tuning) -> Pick:
        asked.append(decision.key)
        return Pick(len(asked))

    def launcher() -> None:
        for n in (4, 3, 4):
            kernel[(1,)](out, n)

    names = run(launcher, choose).specialisations

    assert asked == ["n=4", "n=3"]
    assert [name.partition("block=")[2].partition(",")[0] for name in names] == ["8", "16", "8"]


def test_best_configuration_can_be_read() -> None:
    """Launchers look at it after a launch; afterwards there is none."""
    kernel, seen = tuned_mark(), []

    def launcher() -> None:
        kernel[(1,)](torch.zeros(4), 4)
        seen.append(kernel.best_config.kwargs)

    run(launcher, at(2))

    assert seen == [{"block": 16}]
    assert not hasattr(kernel, "best_config")


# Pruning


def test_pruned_configurations_are_not_picked() -> None:
    """The function gets the arguments as in production."""
    told: list[Any] = []
    left: list[int] = []

    def prune(configs: list[Any], named: dict[str, Any], **kwargs: Any) -> list[Any]:
        told.append((sorted(named), sorted(kwargs)))
        return [config for config in configs if config.kwargs["block"] > named["n"]]

    kernel, out = tuned_mark(prune_configs_by={"early_config_prune": prune}), torch.zeros(16)

    def choose(decision: Tuning) -> Pick:
        left.extend(config.kwargs["block"] for config in decision.configs)
        return Pick(0)

    run(lambda: kernel[(1,)](out, 4), choose)

    assert out[0] == 8
    assert left == [8, 16]
    assert told == [(["n", "out"], ["grid", "warmup"])]


def test_performance_model_prunes() -> None:
    """Only the best of the model are left to choose from."""
    prune = {"perf_model": lambda **arguments: -arguments["block"], "top_k": 2}
    kernel, out = tuned_mark(prune_configs_by=prune), torch.zeros(16)

    run(lambda: kernel[(1,)](out, 16), at(1))

    assert out.tolist() == [8] * 8 + [0] * 8


def test_nothing_left_by_pruning() -> None:
    """Triton's own error comes through."""
    kernel = tuned_mark(prune_configs_by={"early_config_prune": lambda *_, **__: []})

    with pytest.raises(AutotunerError, match="No valid autotuner configs"):
        run(lambda: kernel[(1,)](torch.zeros(4), 4))


@triton.jit
def asserting(out, limit, block: tl.constexpr, most: tl.constexpr):
    tl.static_assert(block <= most, "too large")
    tl.store(out + tl.arange(0, block), tl.full((block,), block, tl.float32))


@pytest.mark.parametrize(("most", "blocks_met"), [(16, {4, 8, 16}), (8, {4, 8}), (4, {4})])
def test_configurations_that_fail_a_static_assertion_drop_out(most: int, blocks_met: set[int]) -> None:
    """Production drops them while it tunes, so they must not be blamed; the next one is taken."""
    kernel = triton.autotune(configs=blocks(), key=[])(asserting)
    met = set()

    for index in range(3):
        out = torch.zeros(16)
        run(lambda out=out: kernel[(1,)](out, 1, most=most), at(index))
        met.add(int(out[0]))

    assert met == blocks_met


def test_what_follows_the_last_configuration_is_the_first() -> None:
    """Where the last drops out, all before it are tried, in order."""
    configs = [triton.Config({"block": block}) for block in (16, 4, 8)]
    out = torch.zeros(16)

    run(lambda: triton.autotune(configs=configs, key=[])(asserting)[(1,)](out, 1, most=4), at(2))

    assert out[0] == 4


def test_static_assertion_that_no_configuration_meets() -> None:
    """Is the kernel's own failure."""
    kernel = triton.autotune(configs=blocks(), key=[])(asserting)

    with pytest.raises(KernelError, match="Triton refuses the kernel: CompileTimeAssertionFailure"):
        run(lambda: kernel[(1,)](torch.zeros(16), 1, most=2))


def test_configurations_of_too_many_threads_drop_out() -> None:
    """32 warps of 64 lanes are more than a workgroup holds; of 32 lanes they are not."""
    configs = [triton.Config({"block": 4}, num_warps=32), triton.Config({"block": 8}, num_warps=4)]
    kernel = triton.autotune(configs=configs, key=[])(mark)
    out, wide = torch.zeros(8), torch.zeros(8)

    run(lambda: kernel[(1,)](out, 8), at(0))
    run(lambda: kernel[(1,)](wide, 8), at(0), target="sm_90")

    assert out.tolist() == [8] * 8
    assert wide.tolist() == [4] * 4 + [0] * 4
    with pytest.raises(OutOfResources, match="threads, Required: 2048, Hardware limit: 1024"):
        run(lambda: mark[(1,)](out, 8, 4, num_warps=32))


def test_redefined_symbol() -> None:
    """A constant that both the launcher and the configuration give is refused as in production."""
    with pytest.raises(ValueError, match="Conflicting meta-parameters: block"):
        run(lambda: tuned_mark()[(1,)](torch.zeros(4), 4, block=4))


# Decorators


def twice(arguments: dict[str, Any]) -> int:
    return 2 * int(arguments["block"])


@triton.jit
def put(out, block: tl.constexpr, value: tl.constexpr):
    tl.store(out + tl.arange(0, block), tl.full((block,), value, tl.float32))


@pytest.mark.parametrize("order", ["inside", "outside"])
def test_heuristics(order: str) -> None:
    """Below an autotuner they see its configuration; above it, the launcher's arguments alone."""
    tune = triton.autotune(configs=blocks(), key=[])
    out = torch.zeros(16)
    if order == "inside":
        kernel = tune(triton.heuristics({"value": twice})(put))
    else:
        kernel = triton.heuristics({"value": lambda arguments: 7 + ("block" in arguments)})(tune(put))

    run(lambda: kernel[(1,)](out), at(1))

    assert out.tolist() == [16 if order == "inside" else 7] * 8 + [0] * 8


def test_kernel_below_its_decorators() -> None:
    """`kernel.fn` is launched as the jit function that it is."""
    out = torch.zeros(16)

    names = run(lambda: tuned_mark().fn[(1,)](out, 16, 16), at(1)).specialisations

    assert out[0] == 16
    assert "[" not in names[0]


def test_warmup_executes_nothing() -> None:
    """Neither of a jit function nor of an autotuned one; a launch afterwards is as without it."""
    kernel, out = tuned_mark(), torch.zeros(16)

    def launcher() -> None:
        mark.warmup(torch.float32, 16, 16, grid=(1,))
        kernel.warmup(out, 16, grid=(1,))
        assert out[0] == 0
        kernel[(1,)](out, 16)
        kernel.warmup(out, 16, grid=(1,))

    engine = run(launcher, at(1))

    assert out[0] == 8
    assert len(engine.specialisations) == 1


def test_machine_code_is_unsupported() -> None:
    """A launcher that asks for registers or shared memory gets no invented number."""
    with pytest.raises(UnsupportedOperation, match="asks for 'n_regs' of the compiled kernel mark"):
        run(lambda: mark.warmup(torch.float32, 16, 16, grid=(1,)).n_regs)


# From a Case


TUNED = "@triton.autotune(configs=[triton.Config({}, num_warps=warps) for warps in (1, 2, 4)], key=[])\n@triton.jit"


def test_a_case_decides() -> None:
    """The same Case always runs the same configuration; over Cases, all of them run."""
    known = registry()
    patch = Patch(old="@triton.jit\ndef _scale(", new=f"{TUNED}\ndef _scale(")
    known.register_fault(Fault(name="tuned", kernel="scale", description="-", patches=(patch,), checks=frozenset({"nan"})))

    def outcome(columns: int) -> tuple[str, ...]:
        case = ScaleCase(rows=2, columns=columns, gap=2, factor=2.0)
        result = examine(KernelRef(kernel="scale", fault="tuned"), EngineSpec(), case, known)
        assert isinstance(result, (Clean, Found))
        return result.specialisations

    met = [outcome(columns) for columns in range(1, 13)]

    assert met == [outcome(columns) for columns in range(1, 13)]
    assert {names[0].partition("num_warps=")[2][0] for names in met} == {"1", "2", "4"}
    assert all(len(names) == 1 for names in met)
