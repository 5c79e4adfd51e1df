"""The entry that a shard's dict holds for a key, and the entries that an open group stages in front of them. Pure."""

from __future__ import annotations

import enum
from collections.abc import Callable, Sequence
from typing import Final

from shards.wire import clock
from shards.wire.clock import Now
from shards.wire.outcomes import OutcomeRecord

Entry = tuple[int, int, int, int]
"""Revision, revision of the value, expiry (see `clock`), bytes of the value: indexes `REVISION` to `SIZE`.

Plain tuples of integers, not named ones: Python's garbage collector untracks only plain tuples, and a shard holds
millions of them.
"""
REVISION: Final = 0
VALUE_REVISION: Final = 1
EXPIRY: Final = 2
SIZE: Final = 3

ReadValue = Callable[[bytes], tuple[bytes, str]]
"""Reads value and content type of a key that has an entry."""

FindOutcome = Callable[[bytes], OutcomeRecord | None]
"""Finds what is remembered of an operation that was done once, by its identity."""

_ABSENT: Final[Entry] = (0, 0, 0, 0)
"""Marks a key that the open group had not changed when a savepoint was made."""


def is_live(entry: Entry | None, now: Now) -> bool:
    """Whether a key with `entry` exists at `now`: it has an entry, which has not expired."""
    return entry is not None and (entry[EXPIRY] == 0 or clock.is_live(entry[EXPIRY], now))


class WritePolicy(enum.Enum):
    """Which writes a group accepts, given the free space of map and log."""

    ALL = "all"
    NO_GROWTH = "no growth"  # the map is full: new keys and larger values are refused
    DELETES = "deletes"  # the log is full: its reserve is for deletes and expiries


class StagedEntries:
    """The entries that an open group will commit, in front of those that are committed.

    Args:
        committed: the dict of the shard. It is only read here.

    Attributes:
        changes: from key to its new entry; None: commit removes the key.
        bytes: by how many bytes of keys and values commit changes the dict; may be negative.
        expiring: by how many entries with an expiry; may be negative.
    """

    __slots__ = ("_committed", "bytes", "changes", "expiring")

    def __init__(self, committed: dict[bytes, Entry]) -> None:
        self._committed = committed
        self.changes: dict[bytes, Entry | None] = {}
        self.bytes = 0
        self.expiring = 0

    def lookup(self, key: bytes) -> Entry | None:
        """Return the entry of `key` as the group has left it so far. It may have expired."""
        changes = self.changes
        return changes[key] if key in changes else self._committed.get(key)

    def stage(self, key: bytes, old: Entry | None, new: Entry | None) -> None:
        """Replace `old`, which `lookup` returned for `key`, by `new`; None: no entry."""
        self.changes[key] = new
        if old is not None:
            self.bytes -= len(key) + old[SIZE]
            self.expiring -= old[EXPIRY] != 0
        if new is not None:
            self.bytes += len(key) + new[SIZE]
            self.expiring += new[EXPIRY] != 0

    def set_savepoint(self, keys: Sequence[bytes]) -> Callable[[Sequence[bytes]], None]:
        """Return a function that restores `keys` to what is staged for them now.

        It takes further keys, which were not staged at the savepoint, and unstages them, too.
        """
        before = {key: self.changes.get(key, _ABSENT) for key in keys}
        counts = self.bytes, self.expiring

        def restore(added: Sequence[bytes]) -> None:
            for key, entry in before.items():
                if entry is _ABSENT:
                    self.changes.pop(key, None)
                else:
                    self.changes[key] = entry
            for key in added:
                self.changes.pop(key, None)
            self.bytes, self.expiring = counts

        return restore
