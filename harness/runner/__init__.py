"""Running Cases. `examine`: one Case through all checks. `campaign`: many, drawn and shrunk by Hypothesis.

`prove`: every Fault against its expected checks. `events`: what all of them report while they run.
"""
