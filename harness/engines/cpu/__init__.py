"""The cpu engine: Triton's TTIR, executed in lockstep.

`selftest`: does the installed Triton say what we think it says? `ttir`: front end and IR text. `cache`, `fingerprint`: that
text on disk, and its key. `mlir`, `ir`: parser and parsed form. `program`: operations compiled to steps.
`values`, `formats`, `memory`: what values are, how numbers are held, how memory is reached and checked.
`ops_arith`, `ops_tensor`, `control`: the tables of operations. `liveness`, `threads`: how many
programs run at a time, on how many BLAS threads. `machine`, `engine`: a launch in progress, and all of them.
"""
