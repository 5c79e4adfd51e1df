"""The keys of one shard. Pure: time is an argument, nothing is stored.

`Keyspace` is a dict of key to entry: revision, revision of the value (which a touch leaves), expiry, size. Values live
in the map, and are asked for where a change depends on one. A `Group` decides operations one after the other, each
seeing what the earlier ones decided, and collects the events that make up one log record. Until `Group.commit` nothing
of it is in the dict, so a group whose record could not be appended is undone by `Group.discard`.

Revisions are given by the log, after deciding. While a group is open its own are negative: ~0 is that of its first
event, ~1 of the second. `commit` turns them into real ones, in the entries and in the replies.
"""

from __future__ import annotations

from collections.abc import Iterable
from itertools import chain

from shards.keys.entries import Entry, Read, Room, is_live
from shards.keys.eviction import Evictor
from shards.keys.expiries import Schedule
from shards.keys.group import UNBOUNDED, Group
from shards.wire.clock import Now
from shards.wire.keys import MAX_KEY, slot_of, slots_of

__all__ = ["Group", "Keyspace", "Room"]


def _unreadable(key: bytes) -> tuple[bytes, str]:
    raise LookupError(f"there is no map to read {key!r} from")


class Keyspace:
    """The dict of a shard. Values and files are its callers' business.

    Args:
        shard: the index of the shard,
        shards: of how many.
        max_value: most bytes of a value.
        read: gives value and content type of a key that is in the dict, when no group is being applied.
        max_memory: most bytes of keys and values in all shards together; 0: no limit.
        evictor: finds what makes room for more; None: more is refused.

    Attributes:
        bytes: sum of the sizes of keys and values, expired ones included until they are deleted.
    """

    def __init__(
        self,
        shard: int,
        shards: int,
        max_value: int,
        read: Read = _unreadable,
        *,
        max_memory: int = 0,
        evictor: Evictor | None = None,
    ) -> None:
        self.max_value, self.read, self.max_memory, self.evictor = max_value, read, max_memory, evictor
        self.fair_share = max_memory // shards
        self.slots = slots_of(shard, shards)
        self.bytes = 0
        self._entries: dict[bytes, Entry] = {}
        self._expiring = 0  # entries with an expiry
        self._by_wall, self._by_steady = Schedule(), Schedule()

    def __len__(self) -> int:
        return len(self._entries)

    def load(self, entries: Iterable[tuple[bytes, int, int, int, int]]) -> None:
        """Fill the empty dict from a map: key, revision, revision of the value, expiry, size of the value."""
        for key, revision, value_revision, expiry, size in entries:
            if value_revision == revision:
                value_revision = revision  # the same object: 32 bytes less for each key
            self._entries[key] = (revision, value_revision, expiry, size)
            self.bytes += len(key) + size
            self._expiring += expiry != 0
        self._reschedule()
        if self.evictor is not None:
            self.evictor.load(self._entries)

    def begin(
        self, now: Now, room: Room = Room.ALL, spare: int = UNBOUNDED, others: int = 0, size: int = UNBOUNDED
    ) -> Group:
        """A new group. Only one is open at a time: `commit` or `discard` it before the next.

        `spare`: how many bytes of events there is room for, as far as they are not known before they are decided.
        `others`: bytes of keys and values in the other shards, which count towards the limit.
        `size`: keys and values to be put have no more bytes, so that they need not be looked at far below the limit.
        """
        return Group(self, now, room, spare, others, size)

    def size_of(self, key: bytes) -> int:
        """Bytes of the value that the key has, expired or not; 0 if it has none."""
        entry = self._entries.get(key)
        return entry[3] if entry is not None else 0

    def entries(self) -> dict[bytes, Entry]:
        """A copy of the dict, to compare with a map."""
        return dict(self._entries)

    def due_in_ms(self, now: Now) -> int | None:
        """How long after `now` `Group.expire` may have something to do, 0 or less: at once; None: never."""
        by_wall, by_steady = self._by_wall.next_ms(), self._by_steady.next_ms()
        waits = [] if by_wall is None else [by_wall - now.wall_ms]
        if by_steady is not None:
            waits.append(by_steady - now.steady_ms)
        return min(waits, default=None)

    def check(self) -> None:
        """Raise AssertionError if anything in here contradicts anything else. Slow; changes nothing."""
        entries = self._entries
        assert self.bytes == sum(len(key) + entry[3] for key, entry in entries.items()), "bytes"
        assert self._expiring == sum(1 for entry in entries.values() if entry[2]), "expiring entries"
        if self.evictor is not None:
            self.evictor.check(entries)
        for key, (revision, value_revision, _, size) in entries.items():
            assert 0 < len(key) <= MAX_KEY, key
            assert slot_of(key) in self.slots, key
            assert 0 < value_revision <= revision, (key, value_revision, revision)
            assert size >= 0, (key, size)
        self._by_wall.check({key: entry[2] for key, entry in entries.items() if entry[2] > 0})
        self._by_steady.check({key: -entry[2] for key, entry in entries.items() if entry[2] < 0})

    # For groups.

    def _schedule(self, key: bytes, expiry: int) -> None:
        """Have `expire` look at `key` at `expiry`, if it would not look earlier."""
        if expiry > 0:
            self._by_wall.add(key, expiry)
        else:
            self._by_steady.add(key, -expiry)

    def _take_due(self, now: Now, limit: int) -> list[bytes]:
        """Keys, at most `limit`, that are in the dict and expired. Their items are gone: delete or reschedule them."""
        keys: list[bytes] = []
        for key in chain(self._by_steady.take(now.steady_ms), self._by_wall.take(now.wall_ms)):
            entry = self._entries.get(key)
            if entry is None or not entry[2]:
                continue
            if is_live(entry, now):
                self._schedule(key, entry[2])
                continue
            keys.append(key)
            if len(keys) == limit:
                break
        return keys

    def _tidy_schedules(self) -> None:
        """Make the schedules anew if most of them is about keys that were deleted or no longer expire."""
        if self._by_wall.is_untidy(self._expiring) or self._by_steady.is_untidy(self._expiring):
            self._reschedule()

    def _reschedule(self) -> None:
        entries = self._entries
        self._by_wall.load((entry[2], key) for key, entry in entries.items() if entry[2] > 0)
        self._by_steady.load((-entry[2], key) for key, entry in entries.items() if entry[2] < 0)
