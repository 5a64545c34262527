"""Targets: what a GPU that is not here would say to a kernel, from Triton's own compiler. Knows no Op and no Kernel."""
