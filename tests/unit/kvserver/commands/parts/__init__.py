"""Tests of `kvserver.commands.parts`."""
