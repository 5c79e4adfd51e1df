"""The keys of one shard. Pure: time is an argument, nothing is stored.

`Keyspace` is a dict of key to entry: revision, revision of the value (which a touch leaves), expiry, size. Values live
in the map, and are asked for where a change depends on one. A `Group` decides operations one after the other, each
seeing what the earlier ones decided, and collects the events that make up one log record. Until `Group.commit` nothing
of it is in the dict, so a group whose record could not be appended is undone by `Group.discard`.

Revisions are given by the log, after deciding. While a group is open its own are negative: ~0 is that of its first
event, ~1 of the second. `commit` turns them into real ones, in the entries and in the replies.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterable

from shards.entries import Entry, Read, Room, is_live
from shards.eviction import Evictor
from shards.group import UNBOUNDED, Group
from shards.limits import MAX_KEY, MAX_TIME_MS
from shards.slots import slot_of, slots_of

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
        self, shard: int, shards: int, max_value: int, read: Read = _unreadable, *,
        max_memory: int = 0, evictor: Evictor | None = None,
    ) -> None:  # fmt: skip
        self.max_value, self.read, self.max_memory, self.evictor = max_value, read, max_memory, evictor
        self.fair_share = max_memory // shards
        self.slots = slots_of(shard, shards)
        self.bytes = 0
        self._entries: dict[bytes, Entry] = {}
        self._expiring = 0  # entries with an expiry
        # Expiries: a heap of (time, key) that holds an item not later than each expiring entry's own time. An item
        # that is too early, or whose entry is gone, is set right when its time comes; `_scheduled` knows the earliest
        # item of a key, so that a key whose expiry is moved on again and again has one item, not thousands.
        self._heap: list[tuple[int, bytes]] = []
        self._scheduled: dict[bytes, int] = {}

    def __len__(self) -> int:
        return len(self._entries)

    def load(self, entries: Iterable[tuple[bytes, int, int, int, int]]) -> None:
        """Fill the empty dict from a map: key, revision, revision of the value, expires-at, size of the value."""
        for key, revision, value_revision, expires_ms, size in entries:
            if value_revision == revision:
                value_revision = revision  # the same object: 32 bytes less for each key
            self._entries[key] = (revision, value_revision, expires_ms, size)
            self.bytes += len(key) + size
            if expires_ms:
                self._expiring += 1
                self._heap.append((expires_ms, key))
                self._scheduled[key] = expires_ms
        heapq.heapify(self._heap)
        if self.evictor is not None:
            self.evictor.load(self._entries)

    def begin(
        self, now_ms: int, room: Room = Room.ALL, spare: int = UNBOUNDED, others: int = 0, size: int = UNBOUNDED
    ) -> Group:
        """A new group. Only one is open at a time: `commit` or `discard` it before the next.

        `spare`: how many bytes of events there is room for, as far as they are not known before they are decided.
        `others`: bytes of keys and values in the other shards, which count towards the limit.
        `size`: keys and values to be put have no more bytes, so that they need not be looked at far below the limit.
        """
        return Group(self, now_ms, room, spare, others, size)

    def size_of(self, key: bytes) -> int:
        """Bytes of the value that the key has, expired or not; 0 if it has none."""
        entry = self._entries.get(key)
        return entry[3] if entry is not None else 0

    def entries(self) -> dict[bytes, Entry]:
        """A copy of the dict, to compare with a map."""
        return dict(self._entries)

    def next_due_ms(self) -> int | None:
        """When `Group.expire` may have something to do; None: never."""
        return self._heap[0][0] if self._heap else None

    def check(self) -> None:
        """Raise AssertionError if anything in here contradicts anything else. Slow; changes nothing."""
        entries = self._entries
        assert self.bytes == sum(len(key) + entry[3] for key, entry in entries.items()), "bytes"
        assert self._expiring == sum(1 for entry in entries.values() if entry[2]), "expiring entries"
        if self.evictor is not None:
            self.evictor.check(entries)
        items = set(self._heap)
        for key, (revision, value_revision, expires_ms, size) in entries.items():
            assert 0 < len(key) <= MAX_KEY, key
            assert slot_of(key) in self.slots, key
            assert 0 < value_revision <= revision, (key, value_revision, revision)
            assert size >= 0, (key, size)
            if expires_ms:
                assert self._scheduled[key] <= expires_ms, (key, "would expire late")
                assert (self._scheduled[key], key) in items, (key, "has no item in the heap")
        assert all((at_ms, key) in items for key, at_ms in self._scheduled.items()), "scheduled without an item"

    # For groups.

    def _schedule(self, key: bytes, expires_ms: int) -> None:
        """Have `expire` look at `key` at `expires_ms`, if it would not look earlier."""
        if self._scheduled.get(key, MAX_TIME_MS + 1) > expires_ms:
            self._scheduled[key] = expires_ms
            heapq.heappush(self._heap, (expires_ms, key))

    def _take_due(self, now_ms: int, limit: int) -> list[bytes]:
        """Keys, at most `limit`, that are in the dict and expired. Their items are gone: delete or reschedule them."""
        keys: list[bytes] = []
        heap, scheduled = self._heap, self._scheduled
        while heap and heap[0][0] <= now_ms and len(keys) < limit:
            at_ms, key = heapq.heappop(heap)
            if scheduled.get(key) != at_ms:
                continue  # another item of this key came earlier and decided
            del scheduled[key]
            entry = self._entries.get(key)
            if entry is None or not entry[2]:
                continue
            if is_live(entry, now_ms):
                self._schedule(key, entry[2])
            else:
                keys.append(key)
        return keys

    def _tidy_heap(self) -> None:
        """Rebuild the heap if most of it is about keys that were deleted or no longer expire."""
        if len(self._heap) > 2 * self._expiring + 4096:
            self._heap = [(entry[2], key) for key, entry in self._entries.items() if entry[2]]
            heapq.heapify(self._heap)
            self._scheduled = {key: at_ms for at_ms, key in self._heap}
