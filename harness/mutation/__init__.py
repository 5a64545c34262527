"""Mutants: a kernel's source with one small defect each, to tell what a fuzz run without findings is worth.

`text`: a function's source with the exact positions of what is in it. `operators`: what is changed, by name. `mutants`: the
mutants of the functions that a kernel launches, named, numbered and found again in another process. How Triton is made to
compile one is `capture.rewriting`; how they are hunted is `runner.mutating`.
"""
