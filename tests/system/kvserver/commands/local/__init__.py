"""Tests of `kvserver.commands.local`."""
