"""Reference of `chunked_prefill_paged_decode`: a mixed batch, chunks of prompts beside sequences that decode one token.

What of it is attention, and how far a correct kernel may be off, is told in `prefix_prefill`; here is only which keys count.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tridiff.reference.prefix_prefill import Sequence, judged, sequences


def reference(inputs: Mapping[str, Any], rounding: Mapping[str, Any]) -> dict[str, Any]:
    """Attention of every query of the batch, as `prefix_prefill.reference` has it, and what that returns.

    A sequence of one query decodes: all its keys lie in the caches, its own token's as well, whether or not key and value hold
    the chunk; one of no keys at all has output 0. Those of more queries are chunks, whose own keys are taken from key and value
    where these are given. Where caches are FP8 that makes a difference: keys of a chunk are not quantised.
    Which kernels the driver chooses changes nothing of this, nor does `arch`. Raises as `prefix_prefill.reference` does.
    """
    chosen = [each for each in sequences(inputs) if each.count]
    return judged(inputs, rounding, chosen, chunk_in_rows=_is_chunk)


def _is_chunk(sequence: Sequence) -> bool:
    return sequence.count > 1
