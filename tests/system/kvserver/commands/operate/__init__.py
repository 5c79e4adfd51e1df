"""Tests of `kvserver.commands.operate` with the real program and the real server."""
