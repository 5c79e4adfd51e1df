"""Tests of `kvserver.commands.operate`."""
