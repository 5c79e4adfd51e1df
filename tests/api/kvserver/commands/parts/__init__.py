"""Tests of `kvserver.commands.parts` that need files."""
