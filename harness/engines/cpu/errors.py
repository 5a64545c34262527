"""What can go wrong while a kernel executes, each as one exception type."""

from __future__ import annotations


class UnsupportedOperation(Exception):
    """The executor does not implement something the kernel uses; never a wrong result. `line`: FILE:LINE where known."""

    def __init__(self, what: str, line: str | None = None) -> None:
        super().__init__(what)
        self.what = what
        self.line = line


class KernelError(Exception):
    """A kernel misbehaved: `check` names the check that fired, `line` is FILE:LINE where known."""

    def __init__(self, check: str, message: str, line: str | None = None) -> None:
        super().__init__(message)
        self.check = check
        self.message = message
        self.line = line
