"""Targets: what a GPU that is not here would say to a kernel, from Triton's own compiler. Knows no Op and no Kernel.

`table`: the parts with their limits and the sources of these; plain data, which even `engines.spec` reads. `parts`: one of them.
"""
