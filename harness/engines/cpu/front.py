"""What Triton's front end makes of a specialisation, shared between targets where it cannot differ.

The front end is a third of a fast verdict. It reads a few options (is FP8 supported, which precisions may a dot have), and
seldom the target itself. So its text is kept together with what it read; it serves any other target for which that has the
same values: the same program that reads the same values does the same. A text is not kept where the front end asked the
driver for the target.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterable
from typing import Any

from tridiff.harness.capture import Specialisation, times_asked
from tridiff.harness.engines.cpu import cache, fingerprint

_log = logging.getLogger("tridiff")


class Watched:
    """Stands for a specialisation's options and notes which are read."""

    def __init__(self, options: Any) -> None:
        self._options = options
        self._read: set[str] = set()

    def __getattr__(self, name: str) -> Any:
        self._read.add(name)
        return getattr(self._options, name)

    @property
    def names(self) -> list[str]:
        """Those that were read."""
        return sorted(self._read)


def text(specialisation: Specialisation, backend: Any, make: Callable[[Any], str]) -> str:
    """What the front end says in MLIR's generic form, `make(options)` where no other target has left it here."""
    store = cache.store()
    if store is None:
        return make(specialisation.options)
    options = specialisation.options
    try:
        key = fingerprint.key_of_front(specialisation, backend.get_codegen_implementation(options))
    except fingerprint.Unkeyable as error:
        _log.debug("not shared between targets: %s", error)
        return make(options)
    read = store.get(key)
    known = None if read is None else store.get(_with_values(key, json.loads(read), options))
    return _kept(key, options, store, make) if known is None else known


def _kept(key: str, options: Any, store: cache.Store, make: Callable[[Any], str]) -> str:
    watched, before = Watched(options), times_asked()
    made = make(watched)
    if before is not None and times_asked() == before:
        store.put(_with_values(key, watched.names, options), made)
        store.put(key, json.dumps(watched.names))
    return made


def _with_values(key: str, names: Iterable[str], options: Any) -> str:
    values = [f"{name}={fingerprint.value_of(getattr(options, name, None))}" for name in names]
    return fingerprint.digest("\n".join([key, *values]))


__all__ = ["Watched", "text"]
