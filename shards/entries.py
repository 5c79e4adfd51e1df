"""What the dict of a shard holds for a key, and where its value comes from. Pure."""

from __future__ import annotations

import enum
from collections.abc import Callable

Entry = tuple[int, int, int, int]
"""What the dict holds for a key: revision, revision of the value, expires-at in ms or 0, bytes of the value.

Tuples of whole numbers, which the garbage collector learns to leave alone. Only `Keyspace` and `Group` look inside.
"""
Read = Callable[[bytes], tuple[bytes, str]]
"""From a key that has an entry to its value and content type."""


def is_live(entry: Entry | None, now_ms: int) -> bool:
    """Whether a key with `entry` exists at `now_ms`: there is one, and its time has not come."""
    return entry is not None and (entry[2] == 0 or entry[2] > now_ms)


class Room(enum.Enum):
    """What may still be written."""

    ALL = "all"
    NO_GROWTH = "no growth"  # the map is full: what replaces a value by a larger one, or adds a key, is refused
    DELETES = "deletes"  # the log is full: what is left is for deletes and expiries
