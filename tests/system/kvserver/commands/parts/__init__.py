"""Tests of `kvserver.commands.parts` with the real program and the real server."""
