"""The pure-PyTorch references, a module per family: obviously right, float64, and with an elementwise error bound.

They import torch alone, neither Triton nor the harness, and share nothing with the kernels. Each has one entry point,
`reference(inputs, rounding)`, which returns plain data: value and bound per output, and whether a mismatch could be seen.

* `decode_attention`: one query token per row over a paged cache, with the log-sum-exp.
* `merge_attention_states`: two partial attentions joined into the attention over the keys of both.
* `reshape_and_cache`, `reshape_and_cache_diffkv`, `reshape_and_cache_per_token_head`, `concat_and_cache_mla`: what the slots of a
  cache must hold; `cache_slots` and `cache_codes` say which slot and which code.
* `paged_decode`, `prefix_prefill`, `chunked_prefill_paged_decode`: attention over head-major caches, by `paged_attention`.
* `cache_round_trip`: attention over the tokens that were written, which knows no layout.

Where the bounds come from, and what they cannot see: `docs/explanation/tolerance.md`.
"""
