"""What a shard knows of a key, its entry; and the entries that an open group stages. Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Final, NamedTuple

from shards.wire import clock
from shards.wire.clock import Now
from shards.wire.outcomes import OutcomeRecord

Entry = tuple[int, int, int, int]
"""Revision, revision of the value, expiry (see `clock`), bytes of the value: indexes `REVISION` to `SIZE`.

Plain tuples of integers, not named ones: they are made for each change, and Python's garbage collector untracks only
plain tuples.
"""
REVISION: Final = 0
VALUE_REVISION: Final = 1
EXPIRY: Final = 2
SIZE: Final = 3

UNKNOWN: Final[Entry] = (0, 0, 0, 0)
"""Stands where there is no word on a key, neither an entry nor that it has none."""

FindEntry = Callable[[bytes], Entry | None]
"""Finds the entry of a key; None: it has none. Any bytes are allowed, also those that can be no key."""

ListEntries = Callable[[bytes | None, int, bool], tuple[list[tuple[bytes, Entry]], bytes | None]]
"""Walks over the next keys of the map above one (None: from the first), so many of them: lists all with their entries,
or, if True, only those that have an expiry. Also returns the last key that it came to; None: there are no more."""

ReadValue = Callable[[bytes], tuple[bytes, str]]
"""Reads value and content type of a key that has an entry."""

FindOutcome = Callable[[bytes], OutcomeRecord | None]
"""Finds what is remembered of an operation that was done once, by its identity."""


class Totals(NamedTuple):
    """What all keys of a shard add up to: their number, the bytes of keys and values, how many have an expiry.

    Expired ones count until they are deleted.
    """

    keys: int
    bytes: int
    expiring: int


def is_live(entry: Entry | None, now: Now) -> bool:
    """Whether a key with `entry` exists at `now`: it has an entry, which has not expired."""
    return entry is not None and (entry[EXPIRY] == 0 or clock.is_live(entry[EXPIRY], now))


class StagedEntries:
    """The entries that an open group will commit, in front of those that are committed.

    Args:
        find_committed: finds the entries that the shard has committed.

    Attributes:
        changes: from key to its new entry; None: commit removes the key.
        keys: by how many keys commit changes their number; may be negative.
        bytes: by how many bytes of keys and values; may be negative.
        expiring: by how many entries with an expiry; may be negative.
    """

    __slots__ = ("_find_committed", "bytes", "changes", "expiring", "keys")

    def __init__(self, find_committed: FindEntry) -> None:
        self._find_committed = find_committed
        self.changes: dict[bytes, Entry | None] = {}
        self.keys = 0
        self.bytes = 0
        self.expiring = 0

    def lookup(self, key: bytes) -> Entry | None:
        """Return the entry of `key` as the group has left it so far. It may have expired."""
        changes = self.changes
        return changes[key] if key in changes else self._find_committed(key)

    def stage(self, key: bytes, old: Entry | None, new: Entry | None) -> None:
        """Replace `old`, which `lookup` returned for `key`, by `new`; None: no entry."""
        self.changes[key] = new
        if old is not None:
            self.keys -= 1
            self.bytes -= len(key) + old[SIZE]
            self.expiring -= old[EXPIRY] != 0
        if new is not None:
            self.keys += 1
            self.bytes += len(key) + new[SIZE]
            self.expiring += new[EXPIRY] != 0

    def bytes_of(self, keys: Iterable[bytes]) -> int:
        """Return the bytes of those of `keys` that are staged and not removed, and of their values."""
        return sum(len(key) + entry[SIZE] for key in keys if (entry := self.changes.get(key)) is not None)

    def set_savepoint(self, keys: Sequence[bytes]) -> Callable[[], None]:
        """Return a function that restores `keys` to what is staged for them now."""
        before = {key: self.changes.get(key, UNKNOWN) for key in keys}
        counts = self.keys, self.bytes, self.expiring

        def restore() -> None:
            for key, entry in before.items():
                if entry is UNKNOWN:
                    self.changes.pop(key, None)
                else:
                    self.changes[key] = entry
            self.keys, self.bytes, self.expiring = counts

        return restore
