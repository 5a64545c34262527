"""The oracles that look at a run after it ended. `memory`: corruption and unwritten. `values`: nan, mismatch and poison.

Checks that end a run (launch, hang, bounds) are raised by the engines.
"""
