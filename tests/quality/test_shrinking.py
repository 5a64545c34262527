"""How well findings shrink: a planted defect ends as the case that a person would write into a bug report."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest

from tridiff.harness.engines.spec import EngineSpec
from tridiff.harness.registry import builtin
from tridiff.harness.runner.events import CaseDone, Event
from tridiff.harness.runner.prove import prove_fault

KERNEL = "decode_attention"
MOST_RUNS = 60
"""Cases that may be run to minimise one finding."""

# What differs from the default case; where several cases are equally simple, each of them. One row, one head, pages of 16,
# packed layouts, benign values and no model go without saying: they are the defaults.
MINIMAL: dict[str, list[dict[str, Any]]] = {
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
    "mla_pe_counted_twice": [{"is_mla": True, "head_dim": 18, "head_dim_v": 17}],
    "fnuz_read_as_ocp": [{"cache_dtype": "float8_e4m3fnuz"}],
    "v_scale_ignored": [{"cache_dtype": "float8_e4m3fnuz", "v_scale": scale} for scale in (0.37, 1.7)],
}


@pytest.mark.parametrize("name", MINIMAL)
def test_minimal_case(name: str) -> None:
    """Nothing is left in the case that the defect does not need, and it takes no more than some hundred runs to get there."""
    known = builtin()
    runs: Counter[bool] = Counter()

    def listen(event: Event) -> None:
        if isinstance(event, CaseDone):
            runs[event.shrinking] += 1

    proof = prove_fault(known.fault(KERNEL, name), EngineSpec(), shrink_seconds=150.0, listener=listen)

    case_type = known.op(KERNEL).case
    assert proof.finding is not None
    assert proof.shrunk
    assert proof.finding.case in [case_type(**fields) for fields in MINIMAL[name]]
    assert runs[True] <= MOST_RUNS
