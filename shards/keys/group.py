"""Operations that are decided together, one log record: what they have decided so far. Pure; see `keyspace`."""

from __future__ import annotations

from collections.abc import Callable, Container, Sequence
from typing import TYPE_CHECKING

from shards.keys import rules
from shards.keys.entries import Entry, Room, is_live
from shards.wire.clock import Now, overdue_ms, unix_ms
from shards.wire.errors import MemoryLimit, Overloaded
from shards.wire.keys import SLOTS
from shards.wire.protocol import (
    Atomic,
    Change,
    DeleteEvent,
    Done,
    Event,
    Failed,
    OfOneKey,
    PrefixMarked,
    PutEvent,
    Replaced,
    Value,
    size_of,
)

if TYPE_CHECKING:
    from shards.keys.keyspace import Keyspace

MAX_ANSWERS = 256 << 20
"""Bytes of values that the replies of one group may carry; further ones are refused, for they take memory."""
FULL_BYTES = 4 << 20
"""Bytes after which a group takes no more operations: of what it logs, or of the values it has read, answered and put.
All others wait until a group is done. One operation may be larger alone, but its record must fit into a segment."""
UNBOUNDED = 1 << 62

_EVENT_BYTES = 24  # what an event takes beside key, value and content type

_UNTOUCHED: Entry = (0, 0, 0, 0)
"""Stands for a key that the open group has not changed."""


class Group:
    """Operations that are decided together: one log record. See `keyspace`.

    Attributes:
        now: the time at which all of it happens.
        events: what is to be logged, one revision each; `record` gives them as they are logged.
        full: whether further operations must be decided in another group.
        expired: how many events are expiries.
        lag_ms: how late the first of these is.
        prefix_deleted: how many are deletes of a prefix.
        evicted: how many are evictions.
        starved: the group is full because it has evicted what it may, and that was too little for the operation that
            was decided last: it may be decided again in another group.
        refused: how many operations were.
        answer_bytes: size of the values that the replies will carry.
        work: bytes of the values that were read, answered or put, but for small ones.

    Attributes for the rules:
        keyspace: whose group it is.
        room, spare: what may still be written.
        guarded: whether what is put must be looked at for that, or for the memory limit.
        slots: those of the shard; None: every key is this shard's.
        answered: bytes that the gets of a batch have answered.
        numbered: replies with a revision of this group.
        atomic: where the events of an atomic batch begin and end.
        batch_at: where those of the one begin that is being decided; None: none is.
    """

    decide = rules.decide
    delete_prefix = rules.delete_prefix

    def __init__(self, keyspace: Keyspace, now: Now, room: Room, spare: int, others: int, size: int) -> None:
        self.now = now
        self.events: list[Change] = []
        self.full = self.starved = False
        self.expired = self.prefix_deleted = self.evicted = self.refused = self.lag_ms = 0
        self.answer_bytes = self.work = 0
        self.keyspace = keyspace
        self.room, self.spare = room, spare
        self.guarded = room is not Room.ALL or 0 < keyspace.max_memory < others + keyspace.bytes + size
        self.slots = keyspace.slots if len(keyspace.slots) < SLOTS else None
        self.answered: dict[int, int] = {}
        self.numbered: list[Done | Value | Failed] = []
        self.atomic: list[tuple[int, int]] = []
        self.batch_at: int | None = None
        self._entries = keyspace._entries
        self._staged: dict[bytes, Entry | None] = {}  # what commit will put into the dict; None: delete
        self._wanted: list[Replaced] = []  # replies that want the old value
        self._due: list[bytes] = []  # taken from the schedules: to be put back if the group is discarded
        self._weighed = self._weight = 0  # so many events have that many bytes
        self._bytes = 0
        self._expiring = 0
        self._others = others
        self._gone: list[bytes] = []  # keys that went to make room

    def expire(self, limit: int) -> int:
        """Delete keys, at most `limit`, whose time has come; to be called first in a group. How many there were."""
        due = self.keyspace._take_due(self.now, limit)
        if due:
            self.lag_ms = overdue_ms(self._entries[due[0]][2], self.now)
        for key in due:
            self.expire_first(key, self._entries[key])
        self._due += due
        return len(due)

    def record(self) -> Sequence[Event]:
        """The events as they are logged: those of an atomic batch are one."""
        if not self.atomic:
            return self.events
        logged: list[Event] = []
        at = 0
        for begin, end in self.atomic:
            logged += self.events[at:begin]
            logged.append(Atomic(self.events[begin:end]))
            at = end
        return logged + self.events[at:]

    def commit(self, first_revision: int) -> set[int]:
        """Put what was decided into the dict; `first_revision` is that of the first event.

        Gives the revisions whose old values `answer` wants.
        """
        keyspace, entries = self.keyspace, self._entries
        last = first_revision - 1  # ~n becomes first_revision + n
        evictor = keyspace.evictor
        if evictor is not None:
            evictor.use_all(self._staged, entries, self.now.steady_ms)
            evictor.keep(key for key in self._gone if self._staged[key] is not None)  # it came back
        for key, entry in self._staged.items():
            if entry is None:
                entries.pop(key, None)
                continue
            staged, value_revision, expiry, size = entry
            revision = last - staged
            if value_revision == staged:
                value_revision = revision  # the same object: 32 bytes less for each key
            elif value_revision < 0:
                value_revision = last - value_revision
            entries[key] = (revision, value_revision, expiry, size)
            if expiry:
                keyspace._schedule(key, expiry)
        for reply in self.numbered:
            reply.revision = last - reply.revision
        keyspace.bytes += self._bytes
        keyspace._expiring += self._expiring
        keyspace._tidy_schedules()
        if evictor is not None:
            evictor.tidy(entries)
        return {done.revision for done in self._wanted}

    def answer(self, previous: dict[int, tuple[bytes, str, int]]) -> None:
        """Fill the old values, by revision, into the replies that wanted them: value, content type, revision."""
        for done in self._wanted:
            done.previous, done.previous_type, done.previous_revision = previous[done.revision]

    def discard(self) -> None:
        """Undo the group: the dict is as it was, and what was due is due again. Its replies mean nothing."""
        for key in self._due:
            self.keyspace._schedule(key, self._entries[key][2])
        self._keep_gone(0)

    # For the rules.

    def entry(self, key: bytes) -> Entry | None:
        """What the key has by now; it may have expired."""
        return self._staged[key] if key in self._staged else self._entries.get(key)

    def live_revision(self, entry: Entry | None) -> int:
        """The revision of a key with `entry`, 0 if it does not exist."""
        return entry[0] if entry is not None and is_live(entry, self.now) else 0

    def value(self, key: bytes, entry: Entry) -> tuple[bytes, str]:
        """Value and content type of a key with `entry`."""
        if entry[1] >= 0:
            return self.keyspace.read(key)
        event = self.events[~entry[1]]
        assert isinstance(event, PutEvent)
        return event.value, event.content_type

    def stage(self, key: bytes, old: Entry | None, new: Entry | None) -> None:
        """Let commit replace `old`, which is the key's entry so far, by `new`."""
        self._staged[key] = new
        if old is not None:
            self._bytes -= len(key) + old[3]
            self._expiring -= old[2] != 0
        if new is not None:
            self._bytes += len(key) + new[3]
            self._expiring += new[2] != 0

    def expire_first(self, key: bytes, old: Entry) -> None:
        """Log that a key with `old` has expired."""
        self.events.append(DeleteEvent(key, "expire"))
        self.expired += 1
        self.stage(key, old, None)

    def done(self, revision: int, existed: bool, wanted: bool, expiry: int = 0) -> Done:
        """The reply to a change. `wanted`: it shall carry the old value."""
        expires_ms = unix_ms(expiry, self.now) if expiry < 0 else expiry
        if not wanted:
            done = Done(revision, existed, None, expires_ms)
        else:
            done = replaced = Replaced(revision, existed, None, expires_ms)
            self._wanted.append(replaced)
        self.numbered.append(done)
        return done

    def count_answer(self, size: int) -> None:
        """Note that a reply will carry a value of `size` bytes. Raises `Overloaded`."""
        if self.answer_bytes + size > MAX_ANSWERS:
            raise Overloaded("too many large values were asked for at once")
        self.answer_bytes += size
        self.count_work(size)

    def count_work(self, size: int) -> None:
        """Note that a value of `size` bytes is read or written. It stays counted if the operation is undone."""
        self.work += size
        if self.work > FULL_BYTES:
            self.full = True

    def weigh(self) -> int:
        """How many bytes the events so far take."""
        for index in range(self._weighed, len(self.events)):
            event = self.events[index]
            self._weight += _EVENT_BYTES
            if isinstance(event, PrefixMarked):
                self._weight += len(event.prefix)
            else:
                self._weight += len(event.key)
            if isinstance(event, PutEvent):
                self._weight += len(event.value) + len(event.content_type)
        self._weighed = len(self.events)
        self.full = self.starved or self._weight > FULL_BYTES or self.work > FULL_BYTES
        return self._weight

    def make_room(self, key: bytes, size: int, old: Entry | None) -> None:
        """See that the value of `key`, whose entry is `old`, may grow to `size` bytes; evict what has to go for it.

        Raises `MemoryLimit`; or `Overloaded`, and sets `starved`, if another group can evict what this one may not.
        """
        keyspace = self.keyspace
        growth = size - old[3] if old is not None else len(key) + size
        most = keyspace.max_memory - self._others
        if keyspace.bytes + self._bytes + growth <= most:
            return
        if keyspace.evictor is not None:
            # What is over the limit from the beginning, or because of others, is worked off above the fair share alone.
            goal = max(most, min(keyspace.bytes, keyspace.fair_share))
            most = max(most, keyspace.bytes)
            if len(key) + size <= most:
                begun = len(self.events) if self.batch_at is None else self.batch_at
                self._evict(goal - growth, (key,))
                if keyspace.bytes + self._bytes + growth <= most:
                    return
                if begun or len(self._gone) >= keyspace.evictor.most:
                    self.starved = self.full = True
                    raise Overloaded("more keys have to be evicted for this value than can be at once")
        raise MemoryLimit.of(keyspace.max_memory, self._others + keyspace.bytes + self._bytes, growth)

    def make_room_for(self, operations: Sequence[OfOneKey]) -> None:
        """Evict what may have to go for all of them, as far as the group may."""
        needed = sum(map(size_of, operations))
        self._evict(self.keyspace.max_memory - self._others - needed, {operation.key for operation in operations})

    def _evict(self, most: int, spared: Container[bytes]) -> None:
        """Evict until the shard holds at most `most` bytes, as far as the group may, what it has changed spared."""
        keyspace, evictor = self.keyspace, self.keyspace.evictor
        while evictor is not None and keyspace.bytes + self._bytes > most and len(self._gone) < evictor.most:
            key = evictor.oldest(self._entries, self._staged, spared, self.now.steady_ms)
            if key is None:
                break
            entry = self._entries[key]
            if is_live(entry, self.now):
                self.events.append(DeleteEvent(key, "evict"))
                self.evicted += 1
                self.stage(key, entry, None)
            else:
                self.expire_first(key, entry)
            self._gone.append(key)

    def _keep_gone(self, number: int) -> None:
        """What had to go is there again, but for the first `number` keys."""
        if self.keyspace.evictor is not None:
            self.keyspace.evictor.keep(self._gone[number:])
        del self._gone[number:]

    def undo(self, operations: Sequence[OfOneKey]) -> Callable[[], None]:
        """What takes back all that `operations`, an atomic batch, will have done."""
        staged = {operation.key: self._staged.get(operation.key, _UNTOUCHED) for operation in operations}
        events, numbered, wanted = len(self.events), len(self.numbered), len(self._wanted)
        numbers = self.weigh(), self._bytes, self._expiring, self.expired, self.evicted, self.answer_bytes
        gone = len(self._gone)

        def undo() -> None:
            for key, entry in staged.items():
                if entry is _UNTOUCHED:
                    self._staged.pop(key, None)
                else:
                    self._staged[key] = entry
            for key in self._gone[gone:]:
                self._staged.pop(key, None)
            self._keep_gone(gone)
            del self.events[events:], self.numbered[numbered:], self._wanted[wanted:]
            self._weighed = events
            self._weight, self._bytes, self._expiring, self.expired, self.evicted, self.answer_bytes = numbers
            self.full = self.starved or self._weight > FULL_BYTES or self.work > FULL_BYTES

        return undo
