"""`python -m kvserver` is `kvserver`."""

from kvserver.cli import run

run("kvserver")
