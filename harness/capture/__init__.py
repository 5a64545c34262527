"""Captures Triton launches without a GPU; the only package that touches Triton's global state.

`launches`: what is handed over, a specialisation with its grid and arguments. `grids`: which grids production's launcher
starts. `autotune`: which configuration of an autotuned kernel is the one that runs. `capturing`: the context in which all
of that happens. `stub`: the driver that stands in for the GPU's. `pretending`: a whole process that looks like one elsewhere.
`rewriting`: jit functions with another source for a while.
"""

from __future__ import annotations

from tridiff.harness.capture.autotune import Choose, Pick, Tuning, first, forced, seeded
from tridiff.harness.capture.capturing import backend_for, capturing, is_interpreting
from tridiff.harness.capture.launches import Argument, Launch, Specialisation
from tridiff.harness.capture.pretending import pretend, targeting
from tridiff.harness.capture.rewriting import Elsewhere, Finder, Rewrite, is_rewritten, located, name_of, rewritten
from tridiff.harness.capture.stub import NotCompiled, times_asked

__all__ = [
    "Argument",
    "Choose",
    "Elsewhere",
    "Finder",
    "Launch",
    "NotCompiled",
    "Pick",
    "Rewrite",
    "Specialisation",
    "Tuning",
    "backend_for",
    "capturing",
    "first",
    "forced",
    "is_interpreting",
    "is_rewritten",
    "located",
    "name_of",
    "pretend",
    "rewritten",
    "seeded",
    "targeting",
    "times_asked",
]
