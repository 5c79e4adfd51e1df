"""Tests of `kvserver.commands.feed` with the real program and the real server."""
