"""Faults are hunted once for all tests and all of pytest's workers; those with a known minimal case are made minimal as well."""

from __future__ import annotations

import contextlib
import json
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from filelock import FileLock

from tridiff.harness.api import DEADLY, Fault, to_json
from tridiff.harness.engines.spec import EngineSpec
from tridiff.harness.isolation.isolated import Isolated, Limits
from tridiff.harness.profiles import is_nightly
from tridiff.harness.runner.events import CaseDone, Event
from tridiff.harness.runner.prove import prove_fault

EXAMPLES = 200
"""Examples within which every fault must be caught."""
SPEC = EngineSpec(max_steps=2_000)
"""Legal cases take some hundred steps, so a hang need not run for a minute until it counts as one."""
LIMITS = Limits(most_bytes=2 << 30)
"""So that memory need not be filled further than it takes to tell."""
SHRINK_SECONDS = 150.0
"""Time to make a finding minimal: on a busy machine as well."""

# What differs from the default case; where several cases are equally simple, each of them. One row, one head, packed layouts,
# benign values and no model go without saying: they are the defaults.
_NEGATIVE = [{"negatives": negatives} for negatives in ("all", "head", "tail", "middle", "scattered")]
_OTHER_PAGES = ("block_interior", "padded", "layers")

MINIMAL: dict[str, dict[str, list[dict[str, Any]]]] = {
    "decode_attention": {
        "zero_length_rows_skipped": [{"seq_lens": (0,)}],
        "last_split_dropped": [{"seq_lens": (2,), "num_kv_splits": 2}],
        "lse_stride_packed": [{"seq_lens": (1, 1), "lse_layout": "padded_rows"}],
        "page_offset_32bit": [{"far": "pages"}],
        "head_blocks_cross_groups": [{"num_kv_heads": 2, "group_size": 17}],
        "output_tail_unmasked": [{"head_dim_v": 17}],
        # A page must begin inside a tile, which has 8 keys.
        "key_dropped_at_page_start": [{"seq_lens": (17,), "num_kv_splits": 2}, {"seq_lens": (2,), "page_size": 1}],
        "mla_slab_from_key_width": [{"is_mla": True, "head_dim": 17}],
        "mla_pe_dropped": [{"is_mla": True, "head_dim": 17}],
        "fnuz_read_as_ocp": [{"cache_dtype": "float8_e4m3fnuz"}],
        "v_scale_ignored": [{"cache_dtype": "float8_e4m3fnuz", "v_scale": scale} for scale in (0.37, 1.7)],
    },
    "paged_decode": {
        "key_dropped_at_page_end": [{"seq_lens": (17,)}],
        "window_off_by_one": [{"seq_lens": (2,), "window": 1}],
        "rows_of_chunks_written": [{"query_lens": (2,), "seq_lens": (2,)}],
    },
    "prefix_prefill": {
        "alibi_from_chunk": [{"seq_lens": (2,), "alibi": "standard"}],
        "sink_per_tile": [{"seq_lens": (2,), "sinks": sinks} for sinks in ("normal", "mixed", "large")],
    },
    "chunked_prefill_paged_decode": {
        "causality_dropped": [{"query_lens": (2,), "seq_lens": (2,), "causal": False}],
        "max_query_len_ignored": [{"query_lens": (17,), "seq_lens": (17,)}],
    },
    "cache_round_trip": {
        "chunks_told_as_single_queries": [{"kind": "head_major", "seq_lens": (2,), "chunk": 2}],
        # Slot 0 is the token's own, or nobody's.
        "skipped_tokens_in_slot_0": [{"skipped": 1}, {"skipped": 1, "page_order": "shuffled"}],
    },
    "merge_attention_states": {
        "empty_side_times_zero": [{"empty": "prefix", "empty_holds": "poison"}],
        "equal_sides_counted_once": [{"lse_gap": 0.0}],
        "token_stride_packed": [{"num_tokens": 2, "prefix_layout": "padded_rows"}],
        "lse_strides_swapped": [{"num_heads": 2}],
        "context_one_too_long": [{"tokens_without_context": 1}],
        # A tile of 2048 elements has room for 16 heads of 128 columns, padding included.
        "last_heads_dropped": [{"num_heads": 17, "head_dim": 65}],
    },
    "reshape_and_cache": {
        "negative_slots_clamped": _NEGATIVE,
        "padding_rows_written": [{"padding_rows": 1}],
        "head_offset_32bit": [{"far": "heads", "num_heads": 3}],
    },
    "reshape_and_cache_diffkv": {
        "value_as_wide_as_key": [{"head_dim": 17}, {"head_dim_v": 15}, {"head_dim_v": 17}],
        "page_stride_packed": [
            *({"pages": pages} for pages in _OTHER_PAGES),
            {"order": "padded_heads"},
        ],
    },
    "reshape_and_cache_per_token_head": {
        "halves_toward_zero": [{"pattern": "ties"}],
        "zeros_divided_by_zero": [{"pattern": "zeros"}],
        "first_tile_alone": [{"head_dim": 129}, {"head_dim_v": 129}],
    },
    "concat_and_cache_mla": {
        "negative_slots_unguarded": _NEGATIVE,
        "padding_rows_written": [{"padding_rows": 1}],
    },
}
"""By kernel and fault, the simplest cases in which it shows."""
_LENGTHY = {
    "decode_attention": ("head_blocks_cross_groups", "page_offset_32bit", "v_scale_ignored"),
    "paged_decode": ("window_off_by_one",),
    "chunked_prefill_paged_decode": ("causality_dropped",),
    "reshape_and_cache_per_token_head": ("first_tile_alone",),
}
"""Of those, what takes longest to hunt and to make minimal: a third of the time of all. Nightly runs do it."""
DUE = {
    kernel: {name: found for name, found in cases.items() if is_nightly() or name not in _LENGTHY.get(kernel, ())}
    for kernel, cases in MINIMAL.items()
}
"""Of `MINIMAL`, what this run hunts and makes minimal."""


@dataclass(frozen=True)
class Catch:
    """What became of a hunt.

    `check`: the one that caught the fault, "" for none; `examples`: after how many; `strays`: how many failed with other checks.
    `shrunk`: whether the `case` (its JSON form) is minimal, and the `runs` that this took.
    """

    check: str
    examples: int
    strays: int
    shrunk: bool = False
    case: dict[str, Any] | None = None
    runs: int = 0


@pytest.fixture(scope="session")
def caught(tmp_path_factory: pytest.TempPathFactory, worker_id: str) -> Iterator[Callable[[Fault], Catch]]:
    """Hunts a fault, in a process of its own where it would end this one; once for all workers."""
    base = tmp_path_factory.getbasetemp()
    folder = (base if worker_id == "master" else base.parent) / "faults"
    folder.mkdir(exist_ok=True)
    with contextlib.closing(Isolated(LIMITS)) as examiner:
        yield lambda fault: _once(
            folder / f"{fault.kernel}-{fault.name}.json", fault, examiner if fault.checks <= DEADLY else None
        )


def _once(path: Path, fault: Fault, examiner: Isolated | None) -> Catch:
    with FileLock(f"{path}.lock"):
        if not path.exists():
            path.write_text(json.dumps(vars(_hunted(fault, examiner))), encoding="utf-8")
    return Catch(**json.loads(path.read_text(encoding="utf-8")))


def _hunted(fault: Fault, examiner: Isolated | None) -> Catch:
    runs: Counter[bool] = Counter()

    def listen(event: Event) -> None:
        if isinstance(event, CaseDone):
            runs[event.shrinking] += 1

    seconds = SHRINK_SECONDS if fault.name in DUE.get(fault.kernel, {}) else 0.0
    proof = prove_fault(fault, SPEC, examples=EXAMPLES, shrink_seconds=seconds, listener=listen, examiner=examiner)
    if proof.finding is None:
        return Catch("", proof.examples, proof.strays)
    case = to_json(proof.finding.case)
    return Catch(proof.finding.check, proof.examples, proof.strays, proof.shrunk, case, runs[True])
