"""Blame: whose fault an exception is that escaped from a launch or from what a plug-in declares, and which line it came from."""

from __future__ import annotations

import itertools
import os
import traceback
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import PurePath

import hypothesis
import numpy as np
import torch
import triton

from tridiff.harness.api import StagingError
from tridiff.harness.declarations import Malformed
from tridiff.harness.engines.spec import UsageError

BUILT_IN = "tridiff"
"""The source of what tridiff itself registers."""

_HARNESS = PurePath(__file__).parent
_CAPTURE = _HARNESS / "capture"  # between a launcher and torch or Triton, on whose behalf it raises nothing itself
_TRITON = PurePath(str(triton.__file__)).parent
_STANDARD = PurePath(os.__file__).parent
_LIBRARIES = (_HARNESS, _TRITON, *(PurePath(str(library.__file__)).parent for library in (torch, np, hypothesis)))


def is_ours(error: BaseException) -> bool:
    """Whether our executor raised it, itself or in a library that it called; Triton's refusals are the kernel's."""
    return is_ours_at(frame.filename for frame in traceback.extract_tb(error.__traceback__))


def is_ours_at(files: Iterable[str]) -> bool:
    """Likewise, from the files of a stack, outermost first."""
    paths = [PurePath(file) for file in files]
    # What leads to the launcher is ours, too, and raises nothing.
    below = list(itertools.dropwhile(lambda path: path.is_relative_to(_HARNESS) or path.name.startswith("<"), paths))
    ours = [place for place, path in enumerate(below) if path.is_relative_to(_HARNESS) and not path.is_relative_to(_CAPTURE)]
    return bool(ours) and not any(path.is_relative_to(_TRITON) for path in below[ours[-1] :])


def line(error: BaseException) -> str | None:
    """FILE:LINE of the innermost frame that is neither ours nor a library's: the kernel author's own."""
    return author_line((frame.filename, frame.lineno or 0) for frame in reversed(traceback.extract_tb(error.__traceback__)))


def author_line(frames: Iterable[tuple[str, int]]) -> str | None:
    """Likewise, from file and line of each frame of a stack, innermost first."""
    for file, number in frames:
        path = PurePath(file)
        if path.name.startswith("<"):  # Python's own import, what a dataclass generates
            continue
        if not (_is_standard(path) or any(path.is_relative_to(library) for library in _LIBRARIES)):
            return f"{path.name}:{number}"
    return None


def _is_standard(path: PurePath) -> bool:
    """Whether it is part of Python; kernels may be installed, and installed packages lie below the standard library."""
    return path.is_relative_to(_STANDARD) and not {"site-packages", "dist-packages"} & set(path.parts)


def summary(error: BaseException) -> str:
    """Type and first line of the message."""
    lines = [text.strip() for text in str(error).splitlines() if text.strip()]
    return f"{type(error).__name__}: {lines[0] if lines else 'no message'}"


def described(error: BaseException) -> str:
    """Type, first line of the message, and in brackets FILE:LINE of the author's own code, where known."""
    if isinstance(error, SyntaxError) and error.filename is not None:
        place = f"{PurePath(error.filename).name}:{error.lineno}" if error.lineno else PurePath(error.filename).name
        return f"{type(error).__name__}: {error.msg} ({place})"
    place = line(error) or ""
    return summary(error) + (f" ({place})" if place else "")


@contextmanager
def declared(source: str | None, part: str, case: object = None) -> Iterator[None]:
    """Turn what `part` ("build of op 'scale'") of the plug-in `source` raises into a `UsageError` of one line.

    What is built in (`source` is `BUILT_IN`, or None in a registry made by hand) raises a bug of ours: it passes through, and
    so do a machine's limits. `case`: named in the message where there is one.
    """
    try:
        yield
    except (StagingError, MemoryError, UsageError):
        raise
    except (Exception, SystemExit) as error:
        if source in {None, BUILT_IN}:
            raise
        what = str(error) if isinstance(error, Malformed) else f"{part} raised {described(error)}"
        raise UsageError(f"plug-in {source}: {what}" + (f", with {case}" if case is not None else "")) from error
