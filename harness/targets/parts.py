"""Parts: the GPUs to compile for, each with its limits. Nothing here imports torch or Triton."""

from __future__ import annotations

from tridiff.harness.engines.spec import check_target
from tridiff.harness.targets.table import Part, known

__all__ = ["Part", "part"]


def part(name: str) -> Part:
    """The part called `name`, built-in or of the user's settings. Raises `UsageError` for an unknown one."""
    return known()[check_target(name)]
