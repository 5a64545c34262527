"""What can go wrong while a kernel executes, each as one exception type."""

from __future__ import annotations


class UnsupportedOperation(Exception):
    """The executor does not implement something the kernel uses; never a wrong result. `line`: FILE:LINE where known."""

    def __init__(self, what: str, line: str | None = None) -> None:
        super().__init__(what)
        self.what = what
        self.line = line


class KernelError(Exception):
    """A kernel misbehaved: `check`, `message`, `line` and `subject` are those of the Failure it becomes."""

    def __init__(self, check: str, message: str, line: str | None = None, subject: str = "") -> None:
        super().__init__(message)
        self.subject = subject
        self.check = check
        self.message = message
        self.line = line
