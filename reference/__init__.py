"""The pure-PyTorch references, a module per family: obviously right, float64, and with an elementwise error bound.

They import torch alone, neither Triton nor the harness, and share nothing with the kernels. Each has one entry point,
`reference(inputs, rounding)`, which returns plain data: value and bound per output, and whether a mismatch could be seen.

* `decode_attention`: one query token per row over a paged cache, with the log-sum-exp.
* `merge_attention_states`: two partial attentions joined into the attention over the keys of both.

Where the bounds come from, and what they cannot see: `docs/explanation/tolerance.md`.
"""
