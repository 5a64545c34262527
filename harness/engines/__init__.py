"""How kernels are executed. `spec`: which engine, for which target, within which budget. `cpu`: our executor of Triton's IR."""
