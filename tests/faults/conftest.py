"""Hunts of faults are shared with other tests."""

from hunting import caught

__all__ = ["caught"]
