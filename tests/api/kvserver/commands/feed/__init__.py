"""Tests of `kvserver.commands.feed` that need files."""
