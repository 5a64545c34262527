"""What the `pytest11` entry point of tridiff names; the plug-in itself is `tridiff.harness.pytest_plugin`.

It stands at the top of the distribution for a reason. pytest rewrites the assertions of the top-level modules of every
distribution that brings a plug-in. Ours has none besides this one, since `tridiff` is a namespace package, and pytest then drops
the first component of all paths and takes `harness`, `kernels`, `reference` and `strategies` for ours: modules that a host
project may well have under these names.
"""

pytest_plugins = ["tridiff.harness.pytest_plugin"]
