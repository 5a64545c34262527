"""AITER's readers of head-major caches: what the adapter passes and declares, and a fetched release where there is one."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from releases import calls_of, fetched, require

from tridiff.adapters.aiter import chunked_prefill_paged_decode, prefix_prefill
from tridiff.harness.api import Clean, Domain, Found
from tridiff.harness.capture import targeting
from tridiff.harness.domains import contains
from tridiff.harness.engines.spec import EngineSpec
from tridiff.harness.registry import Registry, builtin
from tridiff.harness.runner.examine import KernelRef, examine

SPEC = EngineSpec()
FAMILIES: tuple[Any, ...] = (prefix_prefill, chunked_prefill_paged_decode)


@pytest.fixture(scope="module")
def known() -> Registry:
    """The registry with the adapter, for a release that was fetched."""
    return fetched("aiter")


@pytest.fixture
def passed(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """What the adapter passes to AITER's launchers, which do nothing."""
    return calls_of(FAMILIES, monkeypatch)


def inputs_of(dtype: torch.dtype = torch.bfloat16, **changed: Any) -> dict[str, Any]:
    """Arguments of both Ops: a chunk of two queries, page of 16, no context."""
    pack = 16 // dtype.itemsize
    return {
        "query": torch.zeros(2, 4, 32, dtype=torch.bfloat16),
        "key": torch.zeros(2, 2, 32, dtype=torch.bfloat16),
        "value": torch.zeros(2, 2, 32, dtype=torch.bfloat16),
        "output": torch.zeros(2, 4, 32, dtype=torch.bfloat16),
        "key_cache": torch.zeros(1, 2, 32 // pack, 16, pack).to(dtype),
        "value_cache": torch.zeros(1, 2, 32, 16).to(dtype),
        "block_table": torch.zeros(1, 1, dtype=torch.int32),
        "query_start_loc": torch.tensor([0, 2], dtype=torch.int32),
        "seq_lens": torch.tensor([2], dtype=torch.int32),
        "alibi_slopes": torch.zeros(4),
        "v_scale": torch.tensor(2.0),
        **{"sm_scale": 0.5, "sliding_window": 7, "max_query_len": 3, "skip_decode": True, "platform": "hip", "causal": True},
        **{"k_scale": None, "sinks": None, "output_scale": None, "interleaved": False, "arch": "gfx942"},
        **changed,
    }


PREFILL = {
    **{"q": "query", "k": "key", "v": "value", "o": "output", "k_cache": "key_cache", "v_cache": "value_cache"},
    **{"b_loc": "block_table", "b_start_loc": "query_start_loc", "b_seq_len": "seq_lens", "max_input_len": "max_query_len"},
}
"""Names of `context_attention_fwd` that are not the Op's."""


@pytest.mark.parametrize(
    ("family", "names", "own"), [(prefix_prefill, PREFILL, {"skip_decode"}), (chunked_prefill_paged_decode, {}, set())]
)
@pytest.mark.parametrize(("dtype", "name"), [(torch.float16, "auto"), (torch.float8_e4m3fnuz, "fp8")])
def test_arguments(
    family: Any, names: dict[str, str], own: set[str], dtype: torch.dtype, name: str, passed: list[dict[str, Any]]
) -> None:
    """Every tensor as it is, under the launcher's name; scales have one element each, and 1 where there is none."""
    inputs = inputs_of(dtype)

    getattr(family, family.KERNELS[0].launcher)(**inputs)

    (call,) = passed
    assert (call.pop("kv_cache_dtype"), call.pop("k_scale").tolist(), call.pop("v_scale").tolist()) == (name, [1.0], [2.0])
    same = {"alibi_slopes", "sliding_window", "sm_scale"} | own
    expected = names or dict.fromkeys(PREFILL.values())
    assert {parameter: value is inputs[names.get(parameter, parameter)] for parameter, value in call.items()} == dict.fromkeys(
        expected.keys() | same, True
    )


@pytest.mark.parametrize(
    ("target", "dtype", "page_size", "expected"),
    [
        ("gfx942", torch.float32, 16, {"block_n": 32, "smallest_block_n": 16, "dot_precision": "tf32"}),
        ("gfx950", torch.float32, 544, {"block_n": 544, "smallest_block_n": 32, "dot_precision": "ieee"}),
        ("gfx942", torch.float16, 64, {"block_n": 64, "smallest_block_n": 64, "dot_precision": "ieee"}),
    ],
)
def test_rounding(target: str, dtype: torch.dtype, page_size: int, expected: dict[str, Any]) -> None:
    """Weights and what is dequantised have the query's dtype; where it decodes, a page is a tile."""
    inputs = inputs_of(query=torch.zeros(1, 1, 32, dtype=dtype), key_cache=torch.zeros(1, 2, 8, page_size, 4))

    with targeting(target):
        prefill, driver = prefix_prefill.rounding(**inputs), chunked_prefill_paged_decode.rounding(**inputs)

    name = str(dtype).removeprefix("torch.")
    common = {"p_dtype": name, "dequantised": name, "num_kv_splits": 1}
    assert driver == common | expected
    assert prefill == common | {"block_n": 32 if dtype == torch.float32 else 64, "dot_precision": expected["dot_precision"]}


LEFT_OUT: list[dict[str, Any]] = [
    {"kind": "interleaved"},
    {"chunk": "cache"},
    {"causal": False},
    {"sinks": "normal"},
    {"output_dtype": "float8_e4m3fnuz"},
]


@pytest.mark.parametrize("family", FAMILIES)
def test_domain(family: Any) -> None:
    """What the launchers have no parameter for is left out; slopes of alibi have a kernel of their own; pages may be any."""
    plain, alibi = family.KERNELS
    op = builtin().op(plain.op)
    fields = {kernel: {"alibi": "steep" if kernel is alibi else "none"} for kernel in family.KERNELS}

    def covers(kernel: Any, **changed: Any) -> bool:
        return contains(op, op.case(**fields[kernel] | changed), Domain(target="gfx942", limits=kernel.limits))

    for kernel in family.KERNELS:
        assert covers(kernel)
        assert covers(kernel, page_size=544, window=2, far="pages", value_pages="layers", query_lens=(0,))
        assert not covers(kernel, alibi=fields[plain if kernel is alibi else alibi]["alibi"])
    for changed in LEFT_OUT:
        assert not covers(plain, **changed), changed


# With a release

CLEAN: dict[str, dict[str, Any]] = {
    "aiter_prefix_prefill": {"query_lens": (3,), "seq_lens": (35,), "page_size": 48, "window": 20},
    "aiter_prefix_prefill_alibi": {"alibi": "standard", "query_lens": (2,), "seq_lens": (9,)},
    "aiter_chunked_prefill_paged_decode": {"query_lens": (1, 2), "seq_lens": (32, 34)},
}


@pytest.mark.parametrize("name", CLEAN)
def test_release_runs(known: Registry, name: str) -> None:
    """A case that upstream computes rightly is clean."""
    case = known.op(known.kernel(name).op).case(**CLEAN[name])

    assert isinstance(examine(KernelRef(kernel=name), SPEC, case, known), Clean)


DRIVER = "aiter_chunked_prefill_paged_decode"
KNOWN: list[tuple[str, dict[str, Any], str, str]] = [
    ("aiter_prefix_prefill", {"query_lens": (1, 1), "seq_lens": (1, 2), "far": "pages"}, "bounds", "elements before key_cache"),
    ("aiter_prefix_prefill", {"seq_lens": (2,), "window": 1, "pattern": "very_negative", "dtype": "bfloat16"}, "mismatch", ""),
    ("aiter_prefix_prefill_alibi", {"alibi": "standard", "window": 1, "seq_lens": (2,)}, "mismatch", ""),
    (DRIVER, {}, "nan", ""),
    (DRIVER, {"page_size": 48}, "launch", "arange's range must be a power of 2"),
]


@pytest.mark.parametrize(("name", "fields", "check", "message"), KNOWN)
def test_release_fails_where_it_is_known_to(known: Registry, name: str, fields: dict[str, Any], check: str, message: str) -> None:
    """As docs/trophies.md says of 0.1.7.post2.dev18."""
    require(known, "amd_aiter 0.1.7.post2.dev18", "aiter")
    case = known.op(known.kernel(name).op).case(**fields)

    outcome = examine(KernelRef(kernel=name), SPEC, case, known)

    assert isinstance(outcome, Found)
    assert outcome.finding.check == check
    assert message in outcome.finding.message
