"""Random Triton kernels, and an independent evaluation of them.

`tree`: the abstract syntax. `strategy`, `expressions`, `features`: a Hypothesis strategy that draws it (what is left out, and
why, is said in `strategy`). `printing`: a tree as Triton source. `evaluate`, `elementwise`, `promotion`, `numbers`, `content`:
what a tree means, scalar by scalar. `checking`: the comparison with the cpu engine. `defects`: what it must be able to find.
"""
