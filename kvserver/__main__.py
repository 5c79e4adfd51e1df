"""`python -m kvserver` is `kvserver`."""

from kvserver.cli import main

main(prog_name="kvserver")
