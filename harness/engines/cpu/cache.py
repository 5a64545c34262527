"""IR texts and verdicts of the self-test, kept on disk between processes.

Entries lie where Triton keeps its own: `triton.runtime.cache.get_cache_manager` is the same in 3.6 to 3.9, heeds
TRITON_CACHE_DIR and a cache manager of the user's, and writes atomically, so processes share it without locks. One manager,
which is one folder, serves a build of Triton; a file is an entry. A file names its key and a digest of its content: one that
is damaged, cut short or foreign counts as absent, and is written anew. No failure of the cache is an error: what is lost is
time. TRIDIFF_CACHE=0 switches it off, and so does Triton's own TRITON_ALWAYS_COMPILE.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
import zlib
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import Any

from triton import knobs
from triton.runtime.cache import get_cache_manager

from tridiff.harness import config
from tridiff.harness.engines.cpu import fingerprint

FORMAT = "tridiff-1"
"""Raised when texts are made or stored in another way than before, so that old entries are not found."""
MAX_ENTRIES = 8192
"""Files in the folder of one build, 4 to 12 kB each; the oldest eighth goes when there are more."""
_SUFFIX = ".tridiff"
_PRUNE_EVERY = 128
_log = logging.getLogger("tridiff")


class Store:
    """Texts by key, in one folder of Triton's cache. After a failure to write it stays quiet and only reads."""

    def __init__(self) -> None:
        self._manager: Any = None
        self._writable = True
        self._written = 0

    def get(self, key: str) -> str | None:
        """The text stored under `key`, or None."""
        try:
            path = self._opened().get_file(key + _SUFFIX)
            return None if path is None else _unpacked(Path(path).read_bytes(), key)
        except Exception as error:  # noqa: BLE001 - a manager of the user's may raise anything, and the cache is never needed
            self._give_up(error)
            return None

    def put(self, key: str, text: str) -> None:
        """Store `text` under `key`, if that is possible."""
        if not self._writable:
            return
        try:
            path = Path(self._opened().put(_packed(text, key), key + _SUFFIX, binary=True))
            if self._written % _PRUNE_EVERY == 0:
                _prune(path.parent)
            self._written += 1
        except Exception as error:  # noqa: BLE001 - as above
            self._give_up(error)

    def _opened(self) -> Any:
        if self._manager is None:
            self._manager = get_cache_manager(hashlib.sha256(f"{FORMAT}{fingerprint.build()}".encode()).hexdigest())
        return self._manager

    def _give_up(self, error: Exception) -> None:
        if self._writable:
            self._writable = False
            reason = f"{type(error).__name__}: {error}"
            _log.warning(
                "the cache of compiled kernels in %s cannot be used (%s): every process compiles them again",
                knobs.cache.dir,
                reason,
            )


def _packed(text: str, key: str) -> bytes:
    payload = zlib.compress(text.encode(), 6)
    return _header(payload, key) + payload


def _unpacked(data: bytes, key: str) -> str | None:
    line, _, payload = data.partition(b"\n")
    if line + b"\n" != _header(payload, key):
        return None
    return zlib.decompress(payload).decode()


def _header(payload: bytes, key: str) -> bytes:
    return f"{FORMAT} {key} {fingerprint.digest(payload)}\n".encode()


def _prune(folder: Path) -> None:
    """Remove the oldest entries of a folder that has too many; other processes may be at it, too."""
    files = [entry for entry in os.scandir(folder) if entry.name.endswith(_SUFFIX)]
    if len(files) <= MAX_ENTRIES:
        return
    ages: list[tuple[float, str]] = []
    for entry in files:
        with contextlib.suppress(FileNotFoundError):
            ages.append((entry.stat().st_mtime, entry.path))
    for _, path in sorted(ages)[: len(files) - MAX_ENTRIES * 7 // 8]:
        Path(path).unlink(missing_ok=True)


@lru_cache(maxsize=8)
def _store(_manager_class: object, _folder: str) -> Store:
    return Store()


def store() -> Store | None:
    """The store that Triton's settings and ours lead to now; None where caching is switched off."""
    if knobs.compilation.always_compile or not config.caches_ir():
        return None
    return _store(knobs.cache.manager_class, knobs.cache.dir)


def cached(key: Callable[[], str], make: Callable[[], str]) -> str:
    """The text stored under `key()`, or `make()`, which is then stored. What `make` raises is raised, and not remembered."""
    known = store()
    if known is None:
        return make()
    try:
        name = key()
    except fingerprint.Unkeyable as error:
        _log.debug("not cached: %s", error)
        return make()
    text = known.get(name)
    if text is None:
        text = make()
        known.put(name, text)
    return text
