"""What the dict of a shard holds for a key, and where its value comes from. Pure."""

from __future__ import annotations

import enum
from collections.abc import Callable

from shards.wire import clock
from shards.wire.clock import Now

Entry = tuple[int, int, int, int]
"""What the dict holds for a key: revision, revision of the value, expiry (see `clock`), bytes of the value.

Tuples of whole numbers, which the garbage collector learns to leave alone. Only `Keyspace` and `Group` look inside.
"""
Read = Callable[[bytes], tuple[bytes, str]]
"""From a key that has an entry to its value and content type."""


def is_live(entry: Entry | None, now: Now) -> bool:
    """Whether a key with `entry` exists at `now`: there is one, and its time has not come."""
    return entry is not None and (entry[2] == 0 or clock.is_live(entry[2], now))


class Room(enum.Enum):
    """What may still be written."""

    ALL = "all"
    NO_GROWTH = "no growth"  # the map is full: what replaces a value by a larger one, or adds a key, is refused
    DELETES = "deletes"  # the log is full: what is left is for deletes and expiries
