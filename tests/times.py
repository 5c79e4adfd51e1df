"""Moments for tests in which both clocks say the same."""

from __future__ import annotations

from shards.wire.clock import Now


def at(ms: int) -> Now:
    """The moment at which either clock says `ms`."""
    return Now(ms, ms)
