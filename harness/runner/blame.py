"""Blame: whose fault an exception is that escaped from a launch, and which line of the kernel's author it came from."""

from __future__ import annotations

import itertools
import os
import traceback
from pathlib import PurePath

import numpy as np
import torch
import triton

_HARNESS = PurePath(__file__).parents[1]
_CAPTURE = _HARNESS / "capture"  # between a launcher and torch or Triton, on whose behalf it raises nothing itself
_TRITON = PurePath(str(triton.__file__)).parent
_STANDARD = PurePath(os.__file__).parent
_LIBRARIES = (_HARNESS, _TRITON, PurePath(str(torch.__file__)).parent, PurePath(np.__file__).parent)


def is_ours(error: BaseException) -> bool:
    """Whether our executor raised it, itself or in a library that it called; Triton's refusals are the kernel's."""
    paths = [PurePath(frame.filename) for frame in traceback.extract_tb(error.__traceback__)]
    # What leads to the launcher is ours, too, and raises nothing.
    below = list(itertools.dropwhile(lambda path: path.is_relative_to(_HARNESS), paths))
    ours = [place for place, path in enumerate(below) if path.is_relative_to(_HARNESS) and not path.is_relative_to(_CAPTURE)]
    return bool(ours) and not any(path.is_relative_to(_TRITON) for path in below[ours[-1] :])


def line(error: BaseException) -> str | None:
    """FILE:LINE of the innermost frame that is neither ours nor a library's: the kernel author's own."""
    for frame in reversed(traceback.extract_tb(error.__traceback__)):
        path = PurePath(frame.filename)
        if not (_is_standard(path) or any(path.is_relative_to(library) for library in _LIBRARIES)):
            return f"{path.name}:{frame.lineno}"
    return None


def _is_standard(path: PurePath) -> bool:
    """Whether it is part of Python; kernels may be installed, and installed packages lie below the standard library."""
    return path.is_relative_to(_STANDARD) and not {"site-packages", "dist-packages"} & set(path.parts)


def summary(error: BaseException) -> str:
    """Type and first line of the message."""
    lines = [text.strip() for text in str(error).splitlines() if text.strip()]
    return f"{type(error).__name__}: {lines[0] if lines else 'no message'}"
