"""Tests of `kvserver.commands.data`."""
