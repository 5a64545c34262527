"""Isolation: Cases run in worker processes, so that a kernel that aborts, faults, hangs or eats all memory ends none but its own.

`worker`: what runs in the process. `process`: one such process, seen from here. `deaths`: how it died, and what that says of
the kernel. `isolated`: an Examiner that keeps a worker and a spare, and replays a death before it is believed. `journal`: the
Case in flight, for the run after one that was killed.
"""
