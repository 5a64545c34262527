"""One Case, read: the launcher runs unmodified, what it launches is compiled to IR, and nothing is executed.

So one program can be told from another. A launcher that goes by what a kernel has written is read up to there.
"""

from __future__ import annotations

import json
from types import ModuleType
from typing import Any

import torch
from triton.compiler.errors import CompileTimeAssertionFailure

from tridiff.harness import blame
from tridiff.harness.api import Arena, Clean, Kernel, Outcome, Program, to_json
from tridiff.harness.capture import Launch, Specialisation, capturing, name_of, seeded
from tridiff.harness.declarations import check_inputs
from tridiff.harness.engines.cpu.errors import KernelError
from tridiff.harness.engines.cpu.fingerprint import called, digest
from tridiff.harness.engines.cpu.ttir import generic_text, without_places
from tridiff.harness.engines.spec import EngineSpec
from tridiff.harness.registry import Registry


class Reading:
    """Reads what `kernel` launches for one Case. The outcome is `Clean`, `conclusive` where the launcher came to its end."""

    def __init__(self, known: Registry, kernel: Kernel, module: ModuleType, spec: EngineSpec, case: Any) -> None:
        self._known = known
        self._kernel = kernel
        self._module = module
        self._spec = spec
        self._case = case
        self._programs: dict[str, Program] = {}

    def outcome(self) -> Outcome:
        """The programs that are launched. Raises `StagingError` where the Case cannot be staged."""
        op = self._known.op(self._kernel.op)
        arena = Arena()
        with blame.declared(self._known.source_of("op", op.name), f"build of {op.name}", self._case):
            inputs = op.build(self._case, arena)
            check_inputs(op, inputs)
        choose = seeded(json.dumps(to_json(self._case), sort_keys=True))  # what the engine that runs it chooses
        launcher, ended = getattr(self._module, self._kernel.launcher), True
        try:
            with capturing(self._spec.target, self._launched, _cleared, prepare=self._prepared, choose=choose):
                launcher(**inputs)
        except BaseException as error:
            # Nothing was computed: whatever the launcher makes of that says nothing.
            if isinstance(error, (KeyboardInterrupt, GeneratorExit)) or blame.is_ours(error):
                raise
            ended = False
        return Clean(ratio=0.0, conclusive=ended, programs=tuple(self._programs.values()))

    def _launched(self, launch: Launch) -> None:
        self._read(launch.specialisation)

    def _prepared(self, launch: Launch) -> None:
        """A configuration that the autotuner would time. Raises what makes it drop one."""
        error = self._read(launch.specialisation)
        if error is not None:
            raise error.__cause__ if isinstance(error.__cause__, CompileTimeAssertionFailure) else error from None

    def _read(self, specialisation: Specialisation) -> KernelError | None:
        """Keep what Triton's front end makes of it; the error where it refuses."""
        functions = tuple(map(name_of, called(specialisation)))
        memo = specialisation.memo
        if "digest" not in memo:
            try:
                text = generic_text(specialisation)
            except KernelError as error:
                self._programs[specialisation.name] = Program(
                    name=specialisation.name, digest="", refused=error.message, functions=functions
                )
                return error
            memo["digest"] = digest(without_places(text))
            if "function" not in memo:
                memo["text"] = text  # for the engine, if it is to run it
        self._programs[specialisation.name] = Program(name=specialisation.name, digest=memo["digest"], functions=functions)
        return None


def _cleared(tensor: torch.Tensor) -> None:
    """Zeroes for what a launcher allocates: no kernel fills it."""
    tensor.zero_()
