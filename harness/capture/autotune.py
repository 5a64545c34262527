"""Autotuned kernels: one configuration is picked and runs once, nothing is timed, and nothing is remembered.

What production does (`triton.runtime.autotuner`, the same in 3.6 to 3.9 but for one case; seen on an H200 with 3.6.0): the
*first* call with a tuning key prunes the configurations and runs each survivor many times, every time between the
configuration's pre-hook and the autotuner's own pre- and post-hook (`reset_to_zero` zeroes, `restore_value` saves and puts
back). A configuration that fails a `tl.static_assert` or needs too many threads drops out. The fastest is then launched
after one more pre-hook with `reset_only=True` (so `reset_to_zero` tensors are zero) and its own pre-hook; no post-hook
follows. *Later* calls with that key launch it after its own pre-hook alone: nothing is zeroed. A single configuration is
launched like that, too; a single survivor is tuned up to 3.7 and launched at once from 3.8 on.

A first call is copied, with Triton's own code, except that a configuration is only compiled where it would be timed, and
only until one compiles. What timing leaves behind in tensors that are neither reset nor restored is not copied. `Pick`
says whether a launcher meets a key for the first time or was called with it before: a kernel must be right in both cases.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from triton.runtime.autotuner import Autotuner, Config


@dataclass(frozen=True)
class Tuning:
    """What is to be decided: a kernel's name, its tuning key as text, and the configurations that survived pruning."""

    kernel: str
    key: str
    configs: tuple[Config, ...]


@dataclass(frozen=True)
class Pick:
    """`index` into the configurations of a `Tuning`; `tuned`: production has tuned for this key in an earlier call."""

    index: int
    tuned: bool = False


Choose = Callable[[Tuning], Pick]


def first(_tuning: Tuning) -> Pick:
    """The first configuration, at the first call with its key."""
    return Pick(0)


def seeded(seed: str) -> Choose:
    """Any configuration and either kind of call, as a digest of `seed`, the kernel's name and the tuning key has it."""

    def choose(tuning: Tuning) -> Pick:
        text = f"{seed}\0{tuning.kernel}\0{tuning.key}"
        number = int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little")
        return Pick(number // 2 % len(tuning.configs), bool(number % 2))

    return choose


def forced(choices: Mapping[str, int | Mapping[str, Any]], *, tuned: bool = False) -> Choose:
    """For each kernel named, the configuration of that index, or the first that has these options; else the first.

    `forced({"scale": 2})`, `forced({"scale": {"block": 64, "num_warps": 4}})`. The choice raises ValueError where no
    configuration that survived pruning fits.
    """

    def choose(tuning: Tuning) -> Pick:
        wanted = choices.get(tuning.kernel, 0)
        for index, config in enumerate(tuning.configs):
            if index == wanted or (isinstance(wanted, Mapping) and wanted.items() <= config.all_kwargs().items()):
                return Pick(index, tuned)
        known = "; ".join(f"{index}: {described(config)}" for index, config in enumerate(tuning.configs))
        raise ValueError(f"{tuning.kernel} has no configuration {wanted!r}: choose one of {known}")

    return choose


def described(config: Config) -> str:
    """A configuration as short text: what it sets, and what it leaves at a default is not said of `maxnreg` and the like."""
    return ", ".join(f"{name}={value}" for name, value in config.all_kwargs().items())


class Tuner:
    """One autotuner within one capture: what it would time is compiled, and `choose` says which one wins.

    Everything that the autotuner has learnt since is forgotten by `restore`.
    """

    def __init__(self, autotuner: Any, choose: Choose, preparing: Callable[[], Any], *, every: bool = False) -> None:
        self._autotuner = autotuner
        self._every = every
        self._trying: Config | None = None
        self._choose = choose
        self._preparing = preparing
        self._before = dict(vars(autotuner))
        self._hooks = autotuner.pre_hook, autotuner.post_hook
        self._survivors: Sequence[Config] = ()
        self._winner: Config | None = None
        self._prune, self._bench = autotuner.prune_configs, autotuner._bench
        # On the instance, so that Triton's own `run` goes on around them.
        autotuner.cache = {}
        autotuner.cache_results = False
        autotuner.prune_configs = self._pruned
        autotuner._bench = self._timing
        autotuner.do_bench = self._compiles

    def restore(self) -> None:
        """Leave the autotuner as it was found."""
        vars(self._autotuner).clear()
        vars(self._autotuner).update(self._before)

    @contextmanager
    def call(self) -> Iterator[None]:
        """Around one call of the kernel; calls do not nest."""
        self._winner = None
        try:
            yield
        finally:
            self._autotuner.pre_hook, self._autotuner.post_hook = self._hooks

    @property
    def config(self) -> str:
        """The configuration that is being compiled or launched."""
        return described(self._trying or self._autotuner.best_config)

    def _pruned(self, kwargs: dict[str, Any]) -> list[Config]:
        self._survivors = self._prune(kwargs)
        return list(self._survivors)

    def _timing(self, *args: Any, config: Config, **meta: Any) -> list[float]:
        """Stands for `Autotuner._bench`: the winner takes no time, any other one second."""
        if self._winner is None:
            self._winner = self._decide(args, meta)
        return [0.0 if config == self._winner else 1.0] * 3

    def _decide(self, args: tuple[Any, ...], meta: dict[str, Any]) -> Config:
        tuning = Tuning(self._autotuner.base_fn.__name__, self._key(meta), tuple(self._survivors))
        pick = self._choose(tuning)
        if not 0 <= pick.index < len(tuning.configs):
            raise IndexError(f"configuration {pick.index} of {tuning.kernel} was picked: it has {len(tuning.configs)}")
        if pick.tuned:
            self._autotuner.pre_hook = self._autotuner.post_hook = _no_hook
        order = [*tuning.configs[pick.index :], *tuning.configs[: pick.index]]
        works = (config for config in order if self._tried(config, args, meta))
        return next(iter(list(works) if self._every else works), tuning.configs[0])

    def _tried(self, config: Config, args: tuple[Any, ...], meta: dict[str, Any]) -> bool:
        """Whether production would not drop the configuration."""
        self._trying = config
        try:
            return bool(self._bench(*args, config=config, **meta)[0] < math.inf)
        finally:
            self._trying = None

    def _compiles(self, kernel_call: Callable[[], None], **_: Any) -> list[float]:
        """Stands for `do_bench`: a call with all its hooks, of which the kernel is compiled and not executed."""
        with self._preparing():
            kernel_call()
        return [0.0] * 3

    def _key(self, meta: dict[str, Any]) -> str:
        values = {**self._autotuner.nargs, **meta}
        return ", ".join(f"{name}={_plain(values[name])}" for name in self._autotuner.keys if name in values)


def _no_hook(*_: object, **__: object) -> None:
    """Nothing to do: production tuned in an earlier call."""


def _plain(value: Any) -> str:
    """A value of a tuning key, the same in every process: an object's own text may hold an address."""
    return repr(value) if isinstance(value, (int, float, str, type(None))) else str(getattr(value, "dtype", type(value).__name__))


__all__ = ["Autotuner", "Choose", "Pick", "Tuner", "Tuning", "described", "first", "forced", "seeded"]
