"""Deliberate defects of our kernels, by which every check is shown to fail when it should.

A module per family, named like the kernel module whose source it patches; importing one needs neither torch nor Triton.
`FAULTS` is a tuple of dicts: `name`, the `kernel`'s name, a one-sentence `description`, `patches` as (old, new) pairs of
source text, where `old` occurs exactly once, and `checks`, of which one must catch the Fault.

`decode_attention`, `merge_attention_states`; of the writers of caches `reshape_and_cache`, `reshape_and_cache_diffkv`,
`reshape_and_cache_per_token_head`, `concat_and_cache_mla`; of the readers `paged_decode`, `prefix_prefill`,
`chunked_prefill_paged_decode`; and `cache_round_trip`: of what writer and reader must share.
"""
