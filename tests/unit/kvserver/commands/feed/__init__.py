"""Tests of `kvserver.commands.feed`."""
