"""Other people's kernels as plug-ins: each module registers the released Triton kernels of one package.

`tridiff fuzz --plugin tridiff.adapters.vllm` and so on. An adapter translates an Op's arguments to those of the package's
launcher, which runs unmodified, and declares which part of the Op's contract the package supports, with a reason for each
restriction. Nothing of a package is imported before its adapter registers.
"""
