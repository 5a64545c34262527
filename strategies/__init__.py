"""Hypothesis strategies: which inputs an Op accepts, drawn hostile but legal.

Shared atoms, each a module that any family imports:

* `draws`: weighted choices whose first element is the simplest;
* `budget`: how much work and memory one case may cost, and how parts of it are kept inside by construction;
* `heads`, `dims`: head counts with their groups, and the widths of keys and values;
* `models`: the attention shapes of real models, split over tensor-parallel ranks;
* `lengths`: sequence lengths around the boundaries where kernels go wrong;
* `paging`: which page holds which token: order, sharing between rows, table and slots;
* `kv_caches`: how a paged KV cache lies in memory, and `hybrid`: the page sizes that hybrid models have, and why;
* `fp8`: formats, scales and codes;
* `layouts`: strides of caches and of row-wise tensors, and page offsets beyond 2^31 elements;
* `profiles`: what values queries, keys and values hold;
* `case_fields`, `properties`: what Cases check alike, and the words by which reports count them.

`cache_writes...` is what the writers of caches share, `paged_readers...` what the readers do, `prefill_...` those of chunks.

Then a module per family, which declares its Op: `decode_attention`, `merge_attention_states`, `reshape_and_cache`,
`reshape_and_cache_diffkv`, `reshape_and_cache_per_token_head`, `concat_and_cache_mla`, `paged_decode`, `prefix_prefill`,
`chunked_prefill_paged_decode`, `cache_round_trip`. What would make one long (Case, inputs, facets) stands beside it.

Rules that make failures read well: the first element of every choice is the simplest, what should shrink first is drawn
first, and nothing is ever filtered or rejected; a choice that the budget forbids is not on offer.
"""
