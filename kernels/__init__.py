"""Triton kernels and their launchers; they need torch and Triton and know no harness.

A module per family, named like its Op. Each holds the launcher first, then the functions it is made of, the `@triton.jit`
ones last, and says as plain data what it exports: `KERNELS`, with the name of its Op, of the launcher, and of a function
that tells from the launcher's arguments where the kernel rounds. What would make it long stands in a module beside it, whose
name begins with the family's; Faults patch the family's module alone.

`decode_attention`: split-KV decode attention over a paged cache, MHA, GQA and MLA, FP8 caches too. `decode_attention_arguments`:
what its launcher accepts.
`merge_attention_states`: the attentions over a prefix and a suffix of the keys, joined.
`reshape_and_cache`, `reshape_and_cache_diffkv`, `reshape_and_cache_per_token_head`, `concat_and_cache_mla`: writers of caches.
`paged_decode`, `prefix_prefill`, `chunked_prefill_paged_decode`: readers of head-major ones. `cache_round_trip`: both.
`arguments`: what launchers of several families check.
`faults`: deliberate defects, as patches of these modules' sources.
"""
