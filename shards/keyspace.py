"""The keys of one shard and the rules by which changes are decided. Pure: time is an argument, nothing is stored.

`Keyspace` is a dict of key to entry: revision, revision of the value (which a touch leaves), expiry, size. Values live
in the map. A `Group` decides operations one after the other, each seeing what the earlier ones decided, and collects
the events that make up one log record. Until `Group.commit` nothing of it is in the dict, so a group whose record
could not be appended is undone by `Group.discard`.

Revisions are given by the log, after deciding. While a group is open its own are negative: ~0 is that of its first
event, ~1 of the second. `commit` turns them into real ones, in the entries and in the replies.
"""

from __future__ import annotations

import enum
import heapq
from collections.abc import Iterable, Sequence

from shards.errors import BadKey, BadRequest, InsufficientStorage, KVError, Overloaded, ProtocolError, ValueTooLarge
from shards.limits import MAX_KEY, MAX_TIME_MS, check_utf8, is_content_type
from shards.protocol import (
    Delete,
    Deleted,
    DeleteEvent,
    DeletePrefix,
    Done,
    Event,
    Failed,
    MarkPrefix,
    Operation,
    PrefixMarked,
    Put,
    PutEvent,
    Reply,
    Touch,
    TouchEvent,
)
from shards.slots import SLOTS, slot_of, slots_of

MAX_PREVIOUS = 256 << 20
"""Bytes of old values that the replies of one group may carry; further ones are refused, for they take memory."""

Entry = tuple[int, int, int, int]
"""What the dict holds for a key: revision, revision of the value, expires-at in ms or 0, bytes of the value.

Tuples of whole numbers, which the garbage collector learns to leave alone. Only the functions below and
`Group.commit` look inside.
"""


_UNTOUCHED: Entry = (0, 0, 0, 0)
"""Stands for a key that the open group has not changed."""


def is_live(entry: Entry | None, now_ms: int) -> bool:
    """Whether a key with `entry` exists at `now_ms`: there is one, and its time has not come."""
    return entry is not None and (entry[2] == 0 or entry[2] > now_ms)


class Room(enum.Enum):
    """What may still be written."""

    ALL = "all"
    NO_GROWTH = "no growth"  # the map is full: what replaces a value by a larger one, or adds a key, is refused
    DELETES = "deletes"  # the log is full: what is left is for deletes and expiries


class Keyspace:
    """The dict of a shard. Values and files are its callers' business.

    Attributes:
        bytes: sum of the sizes of keys and values, expired ones included until they are deleted.
    """

    def __init__(self, shard: int, shards: int, max_value: int) -> None:
        self.max_value = max_value
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
            self._entries[key] = (revision, value_revision, expires_ms, size)
            self.bytes += len(key) + size
            if expires_ms:
                self._expiring += 1
                self._heap.append((expires_ms, key))
                self._scheduled[key] = expires_ms
        heapq.heapify(self._heap)

    def begin(self, now_ms: int, room: Room = Room.ALL) -> Group:
        """A new group. Only one is open at a time: `commit` or `discard` it before the next."""
        return Group(self, now_ms, room)

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


class Group:
    """Operations that are decided together: one log record. See the module's docstring.

    Attributes:
        now_ms: the time at which all of it happens.
        events: what is to be logged, one revision each.
        expired: how many of them are expiries.
        lag_ms: how late the first of these is.
        prefix_deleted: how many are deletes of a prefix.
        refused: how many operations were.
        previous_bytes: size of the old values that the replies will carry.
    """

    def __init__(self, keyspace: Keyspace, now_ms: int, room: Room) -> None:
        self.now_ms = now_ms
        self.events: list[Event] = []
        self.expired = self.prefix_deleted = self.refused = self.lag_ms = 0
        self.previous_bytes = 0
        self._keyspace = keyspace
        self._room = room
        self._entries = keyspace._entries
        self._slots = keyspace.slots if len(keyspace.slots) < SLOTS else None  # None: every key is this shard's
        self._staged: dict[bytes, Entry | None] = {}  # what commit will put into the dict; None: delete
        self._done: list[Done] = []  # replies with a revision of this group
        self._wanted: list[Done] = []  # replies that want the old value
        self._due: list[bytes] = []  # taken from the heap: to be put back if the group is discarded
        self._bytes = 0
        self._expiring = 0

    def decide(self, operation: Operation) -> Reply:
        """Decide one operation. Revisions in the reply are right after `commit`, and so are the old values after
        `answer`; a refusal is a `Failed` and leaves the group as it was. `DeletePrefix` has a method of its own."""
        try:
            if isinstance(operation, Put):
                return self.put(operation)
            if isinstance(operation, Delete):
                return self.delete(operation)
            if isinstance(operation, Touch):
                return self.touch(operation)
            if isinstance(operation, MarkPrefix):
                return self.mark_prefix(operation)
        except KVError as error:
            self.refused += 1
            return Failed.of(error)
        raise TypeError(f"{type(operation).__name__} is not decided here")

    def put(self, operation: Put) -> Reply:
        """Set value, type and expiry. An expired key that is not deleted yet expires first."""
        key, size = operation.key, len(operation.value)
        self._check_key(key)
        if size > self._keyspace.max_value:
            raise ValueTooLarge(f"the value has {size} bytes, at most {self._keyspace.max_value} are allowed")
        if not is_content_type(operation.content_type):
            raise BadRequest("the content type is not a media type of RFC 9110 in at most 255 ASCII characters")
        ttl_ms, expires_ms = operation.ttl_ms, operation.expires_ms
        if ttl_ms or expires_ms:
            expires_ms = self._expires_ms(ttl_ms, expires_ms)
        old = self._staged.get(key, _UNTOUCHED)
        if old is _UNTOUCHED:
            old = self._entries.get(key)
        existed = is_live(old, self.now_ms)
        if self._room is not Room.ALL:
            self._check_room(size, old)
        wanted = existed and operation.want_previous
        if wanted:
            self._count_previous(old)
        if old is not None and not existed:
            self._expire(key, old)
            old = None
        revision = ~len(self.events)
        self.events.append(PutEvent(key, operation.value, operation.content_type, expires_ms))
        self._stage(key, old, (revision, revision, expires_ms, size))
        done = Done(revision, existed)
        self._done.append(done)
        if wanted:
            self._wanted.append(done)
        return done

    def delete(self, operation: Delete) -> Reply:
        """Delete a key. An absent one logs nothing."""
        key = operation.key
        self._check_key(key)
        old = self._staged.get(key, _UNTOUCHED)
        if old is _UNTOUCHED:
            old = self._entries.get(key)
        if not is_live(old, self.now_ms):
            return Done(0, False)
        if operation.want_previous:
            self._count_previous(old)
        done = Done(~len(self.events), True)
        self.events.append(DeleteEvent(key, "request"))
        self._stage(key, old, None)
        self._done.append(done)
        if operation.want_previous:
            self._wanted.append(done)
        return done

    def touch(self, operation: Touch) -> Reply:
        """Change the expiry alone. An absent key logs nothing."""
        key = operation.key
        self._check_key(key)
        expires_ms = self._expires_ms(operation.ttl_ms, operation.expires_ms)
        old = self._staged.get(key, _UNTOUCHED)
        if old is _UNTOUCHED:
            old = self._entries.get(key)
        if old is None or not is_live(old, self.now_ms):
            return Done(0, False)
        if self._room is Room.DELETES:
            self._check_room(old[3], old)
        revision = ~len(self.events)
        self.events.append(TouchEvent(key, expires_ms))
        self._stage(key, old, (revision, old[1], expires_ms, old[3]))
        done = Done(revision, True)
        self._done.append(done)
        return done

    def mark_prefix(self, operation: MarkPrefix) -> Reply:
        """Log that the deletes of a prefix follow; the revision is their cut."""
        check_utf8(operation.prefix, "prefix")
        done = Done(~len(self.events), False)
        self.events.append(PrefixMarked(operation.prefix))
        self._done.append(done)
        return done

    def delete_prefix(self, operation: DeletePrefix, keys: Sequence[bytes], next: bytes | None) -> Deleted:
        """Delete those of `keys`, candidates in key order, that exist and whose value is not newer than the cut.

        Deleted keys, and `next` as it came, make the reply.
        """
        cut, entries, staged = operation.cut, self._entries, self._staged
        deleted = []
        for key in keys:
            entry = staged[key] if key in staged else entries.get(key)
            if entry is not None and 0 < entry[1] <= cut and is_live(entry, self.now_ms):
                self.events.append(DeleteEvent(key, "prefix", cut))
                self._stage(key, entry, None)
                deleted.append(key)
        self.prefix_deleted += len(deleted)
        return Deleted(deleted, next)

    def expire(self, limit: int) -> int:
        """Delete keys, at most `limit`, whose time has come; to be called first in a group. How many there were."""
        due = self._keyspace._take_due(self.now_ms, limit)
        if due:
            self.lag_ms = self.now_ms - self._entries[due[0]][2]
        for key in due:
            self._expire(key, self._entries[key])
        self._due += due
        return len(due)

    def commit(self, first_revision: int) -> set[int]:
        """Put what was decided into the dict; `first_revision` is that of the first event.

        Gives the revisions whose old values `answer` wants.
        """
        keyspace, entries = self._keyspace, self._entries
        last = first_revision - 1  # ~n becomes first_revision + n
        for key, entry in self._staged.items():
            if entry is None:
                entries.pop(key, None)
                continue
            revision, value_revision, expires_ms, size = entry
            if value_revision < 0:
                value_revision = last - value_revision
            entries[key] = (last - revision, value_revision, expires_ms, size)
            if expires_ms:
                keyspace._schedule(key, expires_ms)
        for done in self._done:
            done.revision = last - done.revision
        keyspace.bytes += self._bytes
        keyspace._expiring += self._expiring
        keyspace._tidy_heap()
        return {done.revision for done in self._wanted}

    def answer(self, previous: dict[int, bytes]) -> None:
        """Fill the old values, by revision, into the replies that wanted them."""
        for done in self._wanted:
            done.previous = previous[done.revision]

    def discard(self) -> None:
        """Undo the group: the dict is as it was, and what was due is due again. Its replies mean nothing."""
        for key in self._due:
            self._keyspace._schedule(key, self._entries[key][2])

    # Parts of the above.

    def _check_key(self, key: bytes) -> None:
        if not 0 < len(key) <= MAX_KEY or not key.isascii():  # most keys need no closer look
            if not key:
                raise BadKey("the key is empty")
            check_utf8(key, "key")
        if self._slots is not None and slot_of(key) not in self._slots:
            raise ProtocolError("the key belongs to another shard")

    def _expires_ms(self, ttl_ms: int, expires_ms: int) -> int:
        """The time of expiry that one of the two gives, 0 if both are 0."""
        if ttl_ms < 0 or expires_ms < 0 or (ttl_ms and expires_ms):
            raise BadRequest("at most one of ttl_ms and expires_ms is not 0, and none is negative")
        at_ms = self.now_ms + ttl_ms if ttl_ms else expires_ms
        if at_ms > MAX_TIME_MS:
            raise BadRequest("the expiry is too far in the future")
        return at_ms

    def _check_room(self, size: int, old: Entry | None) -> None:
        if self._room is Room.DELETES:
            raise InsufficientStorage("the log cannot grow any more")
        if old is None or size > old[3]:
            raise InsufficientStorage("the map cannot grow any more")

    def _expire(self, key: bytes, old: Entry) -> None:
        self.events.append(DeleteEvent(key, "expire"))
        self.expired += 1
        self._stage(key, old, None)

    def _stage(self, key: bytes, old: Entry | None, new: Entry | None) -> None:
        """Let commit replace `old`, which is the key's entry so far, by `new`."""
        self._staged[key] = new
        if old is not None:
            self._bytes -= len(key) + old[3]
            self._expiring -= old[2] != 0
        if new is not None:
            self._bytes += len(key) + new[3]
            self._expiring += new[2] != 0

    def _count_previous(self, old: Entry | None) -> None:
        """Note that a reply will carry the value of `old`. Raises `Overloaded`."""
        size = old[3] if old is not None else 0
        if self.previous_bytes + size > MAX_PREVIOUS:
            raise Overloaded("too many large old values were asked for at once")
        self.previous_bytes += size
