"""Deliberate defects of our kernels, by which every check is shown to fail when it should.

A module per family, named like the kernel module whose source it patches; importing one needs neither torch nor Triton.
`FAULTS` is a tuple of dicts: `name`, the `kernel`'s name, a one-sentence `description`, `patches` as (old, new) pairs of
source text, where `old` occurs exactly once, and `checks`, of which one must catch the Fault.

`decode_attention`: faults of split-KV decode attention. `merge_attention_states`: of the merge of attention states.
"""
