"""What this machine offers, and what it lacks: `tridiff doctor`.

`host`: what can be said without importing torch. `probe`: what needs torch and Triton, section by section; it runs in a
process of its own, because either may hang, or take its process with it. `inquiry`: starts that process and outlives it.
`fp8`: how each target comes by each FP8 format. `diagnosis`: from all these facts, plain data, to what is wrong and what to
do about it.
"""
