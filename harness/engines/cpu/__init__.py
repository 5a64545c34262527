"""The cpu engine: Triton's TTIR, executed in lockstep.

`ttir`: front end and IR text. `mlir`, `ir`: parser and parsed form. `program`: operations compiled to steps.
`values`, `formats`, `memory`: what values are, how numbers are held, how memory is reached and checked.
`ops_arith`, `ops_tensor`, `control`: the tables of operations. `machine`, `engine`: a launch in progress, and all of them.
"""
