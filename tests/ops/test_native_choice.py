"""Which kernels write and read a paged cache: the rules one by one, and that both sides address the same memory."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

from tridiff.kernels.native_choice import (
    NATIVE,
    TRITON,
    choose_reader,
    choose_writer,
    has_native_kv_cache_layout,
    packed,
    supports_native_decode,
)
from tridiff.strategies.kv_caches import HEAD_MAJOR_ORDERS, PAGE_SIZES, PAGES, KVCache

FP8 = torch.float8_e4m3fn
CDNA = ("gfx90a", "gfx942", "gfx950")
RDNA = ("gfx1100", "gfx1151", "gfx1200", "gfx1201")


def caches(
    page_size: int = 16, *, key_gap: int = 0, value_gap: int = 0, head_dim: int = 128
) -> tuple[torch.Tensor, torch.Tensor]:
    """Caches of 3 pages, 2 heads, in 16 bits, with so many elements between pages; without memory."""
    elements = 2 * head_dim * page_size
    keys = torch.empty_strided(
        (3, 2, head_dim // 8, page_size, 8),
        (elements + key_gap, elements // 2, page_size * 8, 8, 1),
        dtype=torch.bfloat16,
        device="meta",
    )
    values = torch.empty_strided(
        (3, 2, head_dim, page_size), (elements + value_gap, elements // 2, page_size, 1), dtype=torch.bfloat16, device="meta"
    )
    return keys, values


@pytest.mark.parametrize(("key_gap", "value_gap", "native"), [(0, 0, True), (16, 0, False), (0, 16, False), (16, 16, False)])
def test_layout_is_native_where_both_caches_are_packed(key_gap: int, value_gap: int, *, native: bool) -> None:
    """One strided cache is enough for the layout not to be the native one."""
    assert has_native_kv_cache_layout(*caches(key_gap=key_gap, value_gap=value_gap)) is native


@pytest.mark.parametrize("page_size", sorted({*PAGE_SIZES, 8, 512, 1024}))
def test_native_writer_has_small_packed_pages(page_size: int) -> None:
    """The native writer is for pages of 16 and 32 tokens, and only where they are packed."""
    assert choose_writer(*caches(page_size)) == (NATIVE if page_size in {16, 32} else TRITON)
    assert choose_writer(*caches(page_size, key_gap=64, value_gap=64)) == TRITON


SUPPORTED: dict[str, Any] = {
    "query_dtype": torch.bfloat16,
    "cache_dtype": torch.bfloat16,
    "head_dim": 128,
    "page_size": 16,
    "group": 4,
    "max_seq_len": 4096,
    "sliding_window": 0,
    "has_alibi": False,
    "has_sinks": False,
}
VARIED: list[tuple[str, tuple[Any, ...], tuple[Any, ...], tuple[Any, ...]]] = [
    ("query_dtype", (torch.float16, torch.bfloat16, torch.float32), (torch.float16, torch.bfloat16), (torch.bfloat16,)),
    ("cache_dtype", (torch.bfloat16, FP8, torch.float8_e5m2), (torch.bfloat16, FP8, torch.float8_e5m2), (torch.bfloat16,)),
    ("head_dim", (32, 64, 80, 96, 128, 160, 192, 224, 256), (64, 128), (128,)),
    ("page_size", tuple(PAGE_SIZES), (16, 32), (16,)),
    ("group", tuple(range(1, 33)), tuple(range(1, 17)), tuple(range(3, 17))),
    ("max_seq_len", (0, 1, 131072, 131073), (0, 1, 131072), (0, 1, 131072)),
    ("sliding_window", (0, 1, 4096), (0,), (0,)),
    ("has_alibi", (False, True), (False, True), (False,)),
    ("has_sinks", (False, True), (False,), (False,)),
]


@pytest.mark.parametrize(("name", "values", "cdna", "rdna"), VARIED, ids=[each[0] for each in VARIED])
def test_native_decode_supports_what_it_is_documented_for(
    name: str, values: tuple[Any, ...], cdna: tuple[Any, ...], rdna: tuple[Any, ...]
) -> None:
    """Of each parameter either kind of parts supports just the values that vLLM's rules have; others support nothing."""
    for arches, supported in ((CDNA, cdna), (RDNA, rdna), (("sm_90", "gfx908", "gfx1030"), ())):
        for arch in arches:
            assert [value for value in values if supports_native_decode(arch=arch, **(SUPPORTED | {name: value}))] == [*supported]


def read_by(keys: torch.Tensor, values: torch.Tensor, **changes: Any) -> str:
    """The reader of 8 query heads in bfloat16 on gfx942."""
    given: dict[str, Any] = {"arch": "gfx942", "query_dtype": torch.bfloat16, "num_heads": 8, "max_seq_len": 4096}
    return choose_reader(keys, values, **(given | changes))


def test_native_reader_has_packed_caches_and_a_supported_attention() -> None:
    """The reader is the native one where the layout is, and what it is asked for is supported; each argument counts."""
    assert read_by(*caches()) == NATIVE
    assert read_by(*caches(32)) == NATIVE
    assert read_by(*caches(value_gap=8)) == TRITON
    assert read_by(*caches(key_gap=8)) == TRITON
    assert read_by(*caches(48)) == TRITON
    assert read_by(*caches(head_dim=256)) == TRITON
    changes: list[dict[str, Any]] = [
        *({"arch": "sm_90"}, {"query_dtype": torch.float32}, {"num_heads": 34}, {"max_seq_len": 2**18}),
        *({"sliding_window": 5}, {"has_sinks": True}, {"arch": "gfx1201", "has_alibi": True}),
    ]
    assert [read_by(*caches(), **change) for change in changes] == [TRITON] * len(changes)


def test_refuses_caches_of_another_kind() -> None:
    """Caches that are not head-major have no native kernels of these; the message says which one is at fault."""
    keys, values = caches()

    with pytest.raises(ValueError, match="key_cache has 4 dimensions: must be 5, as in head-major caches"):
        choose_writer(values, values)
    with pytest.raises(ValueError, match="value_cache has 5 dimensions: must be 4"):
        read_by(keys, keys)


LAYOUTS = st.fixed_dictionaries(
    {
        "order": st.sampled_from(list(HEAD_MAJOR_ORDERS)),
        "pages": st.sampled_from(list(PAGES)),
        "gap": st.sampled_from((1, 16)),
    }
)


@settings(deadline=None)
@example(
    key={"order": "token_major", "pages": "packed", "gap": 16},
    value={"order": "token_major", "pages": "packed", "gap": 16},
    page_size=16,
    num_heads=2,
    group=4,
    arch="gfx942",
    kind="head_major",
)
@example(
    key={"order": "token_major", "pages": "packed", "gap": 16},
    value={"order": "padded_heads", "pages": "packed", "gap": 16},
    page_size=16,
    num_heads=2,
    group=4,
    arch="gfx1201",
    kind="interleaved",
)
@given(
    key=LAYOUTS,
    value=LAYOUTS,
    page_size=st.sampled_from(list(PAGE_SIZES)),
    num_heads=st.integers(1, 4),
    group=st.integers(1, 16),
    arch=st.sampled_from(CDNA + RDNA),
    kind=st.sampled_from(("head_major", "interleaved")),
)
def test_writer_and_reader_address_the_same_memory(
    key: dict[str, Any], value: dict[str, Any], page_size: int, num_heads: int, group: int, arch: str, kind: str
) -> None:
    """Whichever kernels are chosen, what each takes for the strides of the caches are the caches' own."""
    dims: dict[str, Any] = {"kind": kind, "page_size": page_size, "num_heads": num_heads, "itemsize": 2}
    layouts = [
        KVCache(role=role, width=128, neighbour=128, **dims, **layout) for role, layout in (("key", key), ("value", value))
    ]
    tensors = [torch.empty_strided(layout.sizes(3), layout.strides, dtype=torch.bfloat16, device="meta") for layout in layouts]

    writer = choose_writer(tensors[0], tensors[1])
    reader = read_by(tensors[0], tensors[1], arch=arch, num_heads=group * num_heads)

    for choice in (writer, reader):
        for tensor in tensors:
            seen = packed(tensor) if choice == NATIVE else tensor
            assert _steps(seen) == _steps(tensor)


def _steps(tensor: torch.Tensor) -> list[int]:
    """Strides of the dimensions that have more than one element."""
    return [step for size, step in zip(tensor.shape, tensor.stride(), strict=True) if size > 1]
