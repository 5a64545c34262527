"""Faults of `tridiff.kernels.paged_decode`: where it looks in memory, and what it computes."""

from tridiff.kernels.faults.paged_decode import addressing, arithmetic

FAULTS = (*addressing.FAULTS, *arithmetic.FAULTS)
