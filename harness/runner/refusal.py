"""A launcher's refusal: the exception that its Kernel declares for what the GPU cannot do."""

from __future__ import annotations

from types import ModuleType

from tridiff.harness.api import Kernel


def is_refusal(error: BaseException, kernel: Kernel, module: ModuleType) -> bool:
    """Whether the launcher says by `error` that it does not support the Case; see `Kernel.unsupported`."""
    if kernel.unsupported is None:
        return False
    kind = getattr(module, kernel.unsupported, None)
    return isinstance(kind, type) and isinstance(error, kind)
