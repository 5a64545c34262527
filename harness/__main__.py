"""`python -m tridiff.harness` is `tridiff`."""

from tridiff.harness.cli import main

main()
