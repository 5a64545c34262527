"""Faults of `tridiff.kernels.decode_attention`: those that show when it runs, and those that show when it is compiled."""

from tridiff.kernels.faults.decode_attention import compiling, running

FAULTS = (*running.FAULTS, *compiling.FAULTS)
