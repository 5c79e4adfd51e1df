"""Tests of `kvserver.commands.data` with the real program and the real server."""
