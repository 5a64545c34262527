"""The IR on disk: what is found again, what is not, and that nothing about it can go wrong loudly."""

from __future__ import annotations

import importlib.util
import logging
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
import triton
import triton.language as tl
from triton import knobs

from tridiff.harness.capture import Launch, Specialisation, capturing
from tridiff.harness.engines.cpu import cache, fingerprint, ttir
from tridiff.harness.engines.cpu.errors import KernelError

SOURCE = """
import triton
import triton.language as tl
import settings_of_test as settings

SIZE = tl.constexpr(4)
KIND = tl.float32
FACTOR = 2.0

@triton.jit
def helper(x, by=FACTOR):
    return x * by

FACTOR = 5.0

@triton.jit
def kernel(x, out, block: tl.constexpr = 4):
    i = tl.arange(0, SIZE)
    tl.store(out + i, helper(tl.load(x + i)).to(KIND) + settings.EXTRA)
"""
SETTINGS = "import triton.language as tl\nEXTRA = tl.constexpr(1.0)\n"


@triton.jit
def _plus_one(x, out, block: tl.constexpr):
    i = tl.arange(0, block)
    tl.store(out + i, tl.load(x + i) + 1)


@triton.jit
def _with_function(x, out, function: tl.constexpr):
    tl.store(out, function(tl.load(x)))


@triton.jit
def _twice(x):
    return x + x


@triton.jit
def _thrice(x):
    return x + x + x


@triton.jit
def _refused(x, out):
    tl.store(out + tl.arange(0, 3), 1.0)


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An empty cache folder for each test."""
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setenv("TRIDIFF_CACHE", "1")
    yield tmp_path / "cache"
    cache._store.cache_clear()


def specialised(kernel: Any, *arguments: Any, target: str = "gfx942", **options: Any) -> Specialisation:
    """The specialisation of a launch, as a process that has not met it before would capture it."""
    launches: list[Launch] = []
    kernel.device_caches.clear()
    with capturing(target, launches.append, lambda _tensor: None):
        kernel[(1,)](*arguments, **options)
    return launches[0].specialisation


def one(block: int = 8, **options: Any) -> Specialisation:
    """A specialisation of _plus_one."""
    return specialised(_plus_one, torch.zeros(64), torch.zeros(64), block, **options)


def entries(folder: Path) -> list[Path]:
    """The files of the cache, in order of their names."""
    return sorted(folder.rglob("*.tridiff"))


@pytest.fixture
def front_end(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the kernels that Triton's front end compiled."""
    compiled: list[str] = []
    build = ttir.built_text

    def counted(specialisation: Specialisation, **options: bool) -> str:
        compiled.append(specialisation.function.__name__)
        return build(specialisation, **options)

    monkeypatch.setattr(ttir, "built_text", counted)
    return compiled


def test_known_specialisation_needs_no_front_end(front_end: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """The second time the same text comes from disk, and no MLIR context is made."""
    text = ttir.generic_text(one())
    monkeypatch.setattr("triton._C.libtriton.ir.context", lambda: pytest.fail("an MLIR context was made"))

    again = ttir.generic_text(one())

    assert again == text
    assert '"tt.load"' in text
    assert front_end == ["_plus_one"]


def test_text_of_the_cache_is_what_is_executed(run: Callable[..., None], folder: Path) -> None:
    """A kernel that was read from disk computes the same, and its lines are right."""
    x, first, second = torch.arange(8.0), torch.zeros(8), torch.zeros(8)
    run(_plus_one, (1,), x, first, 8)
    _plus_one.device_caches.clear()
    run(_plus_one, (1,), x, second, 8)

    assert first.tolist() == second.tolist() == [1, 2, 3, 4, 5, 6, 7, 8]
    assert entries(folder)


@pytest.mark.parametrize(
    "other",
    [
        lambda: one(16),
        lambda: one(num_warps=8),
        lambda: one(target="gfx950"),
        lambda: one(target="sm_80"),
        lambda: specialised(_plus_one, torch.zeros(64, dtype=torch.int32), torch.zeros(64), 8),
        lambda: specialised(_plus_one, torch.zeros(64)[1:], torch.zeros(64), 8),
        lambda: specialised(_twice, 1),
    ],
    ids=["constant", "option", "target", "backend", "signature", "alignment", "function"],
)
def test_another_specialisation_has_another_key(other: Callable[[], Specialisation]) -> None:
    """Whatever a specialisation consists of is part of the key."""
    assert fingerprint.key_of(other()) != fingerprint.key_of(one())


def test_jit_function_as_a_constant() -> None:
    """Functions passed as constants are told apart by what they do."""
    x = torch.zeros(4)
    keys = [fingerprint.key_of(specialised(_with_function, x, x, function)) for function in (_twice, _thrice, _twice)]

    assert keys[0] == keys[2] != keys[1]


@pytest.mark.parametrize(
    ("group", "name", "value"),
    [("language", "fp32_default", "ieee"), ("compilation", "disable_line_info", True), ("amd", "use_buffer_ops", False)],
)
def test_settings_of_triton_are_in_the_key(monkeypatch: pytest.MonkeyPatch, group: str, name: str, value: Any) -> None:
    """A setting of Triton's that the compiler reads makes another key, whether by environment or by program."""
    before = fingerprint.key_of(one())
    with getattr(knobs, group).scope():
        setattr(getattr(knobs, group), name, value)
        during = fingerprint.key_of(one())

    assert during != before == fingerprint.key_of(one())


def loaded(folder: Path, source: str, settings: str = SETTINGS) -> ModuleType:
    """A module with that source, freshly imported, beside a module of settings."""
    modules = {}
    for each, text in (("settings_of_test", settings), ("kernels_of_test", source)):
        path = folder / f"{each}.py"
        path.write_text(text, encoding="utf-8")
        spec = importlib.util.spec_from_file_location(each, path)
        assert spec is not None
        assert spec.loader is not None
        modules[each] = sys.modules[each] = importlib.util.module_from_spec(spec)
        sys.dont_write_bytecode, before = True, sys.dont_write_bytecode
        try:
            exec(compile(text, str(path), "exec"), modules[each].__dict__)  # noqa: S102 - no stale bytecode: files change within a second
        finally:
            sys.dont_write_bytecode = before
    return modules["kernels_of_test"]


def key_of_module(module: ModuleType) -> str:
    """The key of a launch of its kernel."""
    import linecache  # noqa: PLC0415 - of this helper alone

    linecache.checkcache()
    return fingerprint.key_of(specialised(module.kernel, torch.zeros(4), torch.zeros(4)))


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("x * by", "x + by"),
        ("FACTOR = 2.0", "FACTOR = 3.0"),
        ("tl.constexpr(4)", "tl.constexpr(2)"),
        ("KIND = tl.float32", "KIND = tl.float16"),
        ("\nSIZE", "\n\nSIZE"),
        ("@triton.jit\ndef helper", "@triton.jit(noinline=True)\ndef helper"),
    ],
    ids=["helper", "default", "constexpr", "dtype", "line", "noinline"],
)
def test_source_is_in_the_key(tmp_path: Path, old: str, new: str) -> None:
    """A change of a helper, of its defaults, of a global, or of the lines makes another key."""
    import linecache  # noqa: PLC0415 - the source is read anew from the changed file

    assert old in SOURCE
    before = key_of_module(loaded(tmp_path, SOURCE))
    linecache.clearcache()
    after = key_of_module(loaded(tmp_path, SOURCE.replace(old, new)))

    assert after != before


def test_value_in_another_module_is_in_the_key(tmp_path: Path) -> None:
    """A constant that is read through a module counts, which Triton's own key does not hold."""
    before = key_of_module(loaded(tmp_path, SOURCE))

    assert key_of_module(loaded(tmp_path, SOURCE)) == before
    assert key_of_module(loaded(tmp_path, SOURCE, SETTINGS.replace("1.0", "2.0"))) != before


def test_file_is_in_the_key(tmp_path: Path) -> None:
    """Locations print the file's name, so the same source in another file is another entry."""
    first = key_of_module(loaded(tmp_path, SOURCE))

    (tmp_path / "elsewhere").mkdir()

    assert key_of_module(loaded(tmp_path / "elsewhere", SOURCE)) != first


def test_unknown_kinds_of_values_are_not_cached(tmp_path: Path, folder: Path, front_end: list[str]) -> None:
    """Where the key cannot be told, nothing is stored, and everything works."""
    module = loaded(tmp_path, SOURCE.replace("SIZE = tl.constexpr(4)", "SIZE = tl.constexpr(4)\nblock = object()"))
    specialisation = specialised(module.kernel, torch.zeros(4), torch.zeros(4))
    with pytest.raises(fingerprint.Unkeyable, match=r"a value of builtins\.object"):
        fingerprint.key_of(specialised(loaded(tmp_path, SOURCE.replace("EXTRA", "OTHER"), "OTHER = object()").kernel, 1, 2))

    assert '"tt.store"' in ttir.generic_text(specialisation)
    assert front_end == ["kernel"]


def _truncated(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-20])


def _flipped(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[-30] ^= 1
    path.write_bytes(bytes(data))


def _empty(path: Path) -> None:
    path.write_bytes(b"")


def _foreign(path: Path) -> None:
    """The entry of another kernel under this one's name."""
    data = path.read_bytes()
    path.unlink()
    ttir.generic_text(one(32))
    (other,) = entries(path.parent)
    path.write_bytes(other.read_bytes())
    assert other.read_bytes() != data


@pytest.mark.parametrize("damage", [_truncated, _flipped, _empty, _foreign])
def test_damaged_entry_is_built_again(folder: Path, front_end: list[str], damage: Callable[[Path], None]) -> None:
    """An entry that is not intact, or not this kernel's, is not trusted: it is made anew."""
    text = ttir.generic_text(one())
    (path,) = entries(folder)
    intact = path.read_bytes()
    damage(path)
    front_end.clear()

    assert ttir.generic_text(one()) == text
    assert front_end == ["_plus_one"]
    assert path.read_bytes() == intact


def test_folder_that_cannot_be_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, front_end: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    """Kernels are compiled each time, and one line says so once."""
    (tmp_path / "file").write_text("", encoding="utf-8")
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path / "file"))

    with caplog.at_level(logging.WARNING, "tridiff"):
        texts = [ttir.generic_text(one()) for _ in range(3)]

    assert texts[0] == texts[2]
    assert front_end == ["_plus_one"] * 3
    (record,) = caplog.records
    assert "cannot be used" in record.getMessage()
    assert str(tmp_path / "file") in record.getMessage()


@pytest.mark.parametrize(("name", "value"), [("TRIDIFF_CACHE", "0"), ("TRITON_ALWAYS_COMPILE", "1")])
def test_switched_off(folder: Path, monkeypatch: pytest.MonkeyPatch, front_end: list[str], name: str, value: str) -> None:
    """Our variable, or Triton's, keeps everything off the disk."""
    monkeypatch.setenv(name, value)
    ttir.generic_text(one())
    ttir.generic_text(one())

    assert front_end == ["_plus_one"] * 2
    assert entries(folder) == []


def test_refusal_is_not_remembered(folder: Path, front_end: list[str]) -> None:
    """A kernel that Triton refuses is _refused again, for the same reason."""
    messages = []
    for _ in range(2):
        with pytest.raises(KernelError, match="Triton refuses the kernel") as caught:
            ttir.generic_text(specialised(_refused, torch.zeros(4), torch.zeros(4)))
        messages.append(str(caught.value))

    assert messages[0] == messages[1]
    assert len(front_end) == 2
    assert entries(folder) == []


def test_oldest_entries_go(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The number of entries is bounded: the oldest are removed, the others stay readable."""
    monkeypatch.setattr(cache, "MAX_ENTRIES", 16)
    monkeypatch.setattr(cache, "_PRUNE_EVERY", 1)
    store = cache.Store()
    for number in range(40):
        store.put(f"{number:032x}", f"text {number}")

    kept = [number for number in range(40) if store.get(f"{number:032x}") == f"text {number}"]

    assert len(kept) == len(entries(folder)) <= 16
    assert kept == list(range(kept[0], 40))


def test_entries_are_small(folder: Path) -> None:
    """Entries are compressed."""
    text = ttir.generic_text(one())
    (path,) = entries(folder)

    assert path.stat().st_size < len(text) / 2
