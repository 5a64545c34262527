"""Running Cases. `examine`: one Case through all checks. `campaign`: many, drawn and shrunk by Hypothesis.

`prove`: every Fault against its expected checks. `surveying`: Kernels compiled for targets, with `simplifying` of what fails
and `surveyed`, what that told. `events`: what all of them report while they run.
"""
