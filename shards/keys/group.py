"""Operations that are decided together and make up one log record. Pure: time is an argument, nothing is stored.

A `Group` holds what the operations of one record have decided so far; each operation sees the decisions of the earlier
ones. `rules` decides them. Until `Group.commit` nothing of it is in the keyspace, so a group whose record could not be
appended is undone by `Group.discard`.

The log gives out revisions, after deciding. While a group is open, its own revisions are negative: ~0 is that of its
first event, ~1 of the second. `commit` turns them into real ones, in the entries and in the replies.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from typing import Final

from shards.keys.budget import GroupLoad, MemoryBudget
from shards.keys.entries import EXPIRY, REVISION, SIZE, VALUE_REVISION, Entry, StagedEntries, is_live
from shards.keys.keyspace import Keyspace
from shards.keys.replies import PendingReplies
from shards.wire.clock import Now, overdue_ms
from shards.wire.errors import IdempotencyMismatch, ProtocolError
from shards.wire.keys import slot_of
from shards.wire.outcomes import without_large_values
from shards.wire.protocol import (
    PROPOSED_KEYS,
    REMEMBERED_BYTES,
    Atomic,
    Change,
    DeleteEvent,
    Done,
    Event,
    Once,
    Outcome,
    Proposed,
    PutEvent,
    Remembered,
    Replayed,
    encode_remembered,
)

UNBOUNDED: Final = 1 << 62


class Group:
    """An open group. A keyspace has at most one: `commit` or `discard` it before the next.

    Args:
        keyspace: whose keys it changes.
        now: the time at which all of it happens.
        others_bytes: bytes of keys and values in the other shards, which count towards the memory limit.
        put_bytes: most bytes of the keys and values that requests put. If all of them fit, the limit is not checked.
        remembered_bytes: most bytes of values that are remembered of what is done once.

    Attributes:
        events: the changes to be logged, one revision each; `record` returns them as they are logged.
        staged, replies, load: what has been decided so far, by its kind.
        memory: the memory limit as it applies to this group.
        checks_memory: whether puts must be checked against the memory limit.
        outcomes: what the operations that are done once have done, to be logged after the events.
        batch_spans: where the events of each atomic batch begin and end.
        batch_start: where those of the batch begin that is being decided; None: outside of a batch.
        batch_excess: by how many bytes the batch would exceed the memory limit, if it evicts.
        evicted: number of keys that were evicted.
        expiry_lag_ms: how late the first key was deleted that was proposed as expired.
    """

    __slots__ = (
        "_answered",
        "_remembered_bytes",
        "batch_excess",
        "batch_spans",
        "batch_start",
        "checks_memory",
        "events",
        "evicted",
        "expiry_lag_ms",
        "keyspace",
        "load",
        "memory",
        "now",
        "outcomes",
        "replies",
        "staged",
    )

    def __init__(
        self,
        keyspace: Keyspace,
        now: Now,
        others_bytes: int = 0,
        put_bytes: int = UNBOUNDED,
        remembered_bytes: int = REMEMBERED_BYTES,
    ) -> None:
        self.keyspace, self.now = keyspace, now
        self.events: list[Change] = []
        self.staged = StagedEntries(keyspace.find_entry)
        self.load = GroupLoad()
        self.replies = PendingReplies(now, self.load)
        self.memory = MemoryBudget(keyspace, self.staged, others_bytes)
        self._remembered_bytes = remembered_bytes
        self.checks_memory = 0 < keyspace.max_memory < others_bytes + keyspace.bytes + put_bytes
        self.outcomes: list[Outcome] = []
        self._answered: dict[bytes, tuple[bytes, Replayed]] = {}  # by identity: the fingerprint, and what repeats get
        self.batch_spans: list[tuple[int, int]] = []
        self.batch_start: int | None = None
        self.batch_excess = self.evicted = self.expiry_lag_ms = 0

    def admit_growth(self, key: bytes, size: int, old: Entry | None) -> int:
        """Let the value of `key`, whose entry is `old`, grow to `size` bytes.

        Returns how many bytes must be evicted first, 0 if none. Within a batch that waits for its end: see
        `batch_excess`. Raises `MemoryLimit` if it cannot fit.
        """
        growth = size - old[SIZE] if old is not None else len(key) + size
        excess = self.memory.find_excess(growth)
        if excess <= 0:
            return 0
        if self.keyspace.evictor is None or not self.memory.may_ever_hold(len(key) + size):
            raise self.memory.refuse_growth(growth)
        if self.batch_start is not None:
            self.batch_excess = max(self.batch_excess, excess)
            return 0
        if key not in self.staged.changes:
            self.keyspace.recent.setdefault(key, old)  # it is looked up again when it is decided again
        return excess

    def find_proposed(self, proposed: Proposed) -> dict[bytes, Entry]:
        """Return the entries of those of the keys that still have the revisions they were proposed with.

        Raises `ProtocolError` if they are more than may be proposed at once.
        """
        if len(proposed) > PROPOSED_KEYS:
            raise ProtocolError(f"{len(proposed)} keys are proposed at once, at most {PROPOSED_KEYS} are allowed")
        lookup = self.staged.lookup
        found = ((key, revision, lookup(key)) for key, revision in proposed)
        return {key: entry for key, revision, entry in found if entry is not None and entry[REVISION] == revision}

    def delete_due(self, due: Sequence[tuple[bytes, Entry]]) -> Done:
        """Delete keys that have expired, with their entries as the group has left them; return the reply."""
        if due:
            self.expiry_lag_ms = max(self.expiry_lag_ms, overdue_ms(due[0][1][EXPIRY], self.now))
        events, stage = self.events, self.staged.stage
        for key, entry in due:
            events.append(DeleteEvent(key, "expire"))
            stage(key, entry, None)
        return self._answer_deletes(len(due))

    def delete_victims(self, victims: Collection[tuple[bytes, Entry]]) -> Done:
        """Delete keys that are to be evicted, with their entries as the group has left them; return the reply.

        Where one has expired, that is logged.
        """
        events, stage, now = self.events, self.staged.stage, self.now
        for key, entry in victims:
            events.append(DeleteEvent(key, "evict" if is_live(entry, now) else "expire"))
            stage(key, entry, None)
        self.evicted += len(victims)
        return self._answer_deletes(len(victims))

    def _answer_deletes(self, deleted: int) -> Done:
        """Make the reply to so many deletes, which are the last events."""
        return self.replies.add_done(-len(self.events), True, False) if deleted else Done(0, False)

    def expire_key(self, key: bytes, old: Entry) -> None:
        """Log that `key`, whose entry is `old`, has expired."""
        self.log(DeleteEvent(key, "expire"))
        self.staged.stage(key, old, None)

    def log(self, event: Change) -> int:
        """Append `event`; return its revision, which is the group's own."""
        self.events.append(event)
        return -len(self.events)

    def live_revision(self, entry: Entry | None) -> int:
        """Return the revision of a key with `entry`; 0 if the key does not exist."""
        return entry[REVISION] if entry is not None and is_live(entry, self.now) else 0

    def value_of(self, key: bytes, entry: Entry) -> tuple[bytes, str]:
        """Return value and content type of `key`, whose entry is `entry`: from this group, or from the map."""
        if entry[VALUE_REVISION] >= 0:
            return self.keyspace.read_value(key)
        event = self.events[~entry[VALUE_REVISION]]
        assert isinstance(event, PutEvent)
        return event.value, event.content_type

    def find_replay(self, once: Once) -> Replayed | None:
        """Return the answer to a repeat of `once`; None if nothing was done for its identity, as far as is remembered.

        Raises `IdempotencyMismatch`.
        """
        answered = self._answered.get(once.identity)
        if answered is not None:
            fingerprint, replayed = answered
        else:
            found = self.keyspace.find_outcome(once.identity)
            if found is None or found.is_over(self.now):
                return None
            fingerprint, replayed = found.fingerprint, Replayed(found.decode_reply(), found.withheld)
        if fingerprint != once.fingerprint:
            raise IdempotencyMismatch
        return replayed

    def remember(self, once: Once, reply: Remembered) -> None:
        """Log that `once`, whose last event is the group's last, was done with `reply`, which has its values."""
        kept, withheld = without_large_values(reply, self._remembered_bytes)
        encoded = encode_remembered(kept)
        slot = slot_of(once.key)
        outcome = Outcome(once.identity, once.fingerprint, len(self.events) - 1, slot, withheld, encoded)
        self.outcomes.append(outcome)
        self._answered[once.identity] = once.fingerprint, Replayed(kept, withheld)
        self.replies.await_remembered(kept)
        self.load.count_work(len(encoded))

    def record(self) -> Sequence[Event | Outcome]:
        """Return what is logged: the events, those of an atomic batch as one, and the outcomes."""
        if not (self.batch_spans or self.outcomes):
            return self.events
        return [*self._nest_batches(), *self.outcomes]

    def _nest_batches(self) -> Sequence[Event]:
        """Return the events with those of each atomic batch as one."""
        logged: list[Event] = []
        at = 0
        for begin, end in self.batch_spans:
            logged += self.events[at:begin]
            logged.append(Atomic(self.events[begin:end]))
            at = end
        return logged + self.events[at:]

    def commit(self, first_revision: int) -> set[int]:
        """Put all decisions into the keyspace; `first_revision` is the revision of the first event.

        Returns the revisions whose old values `replies.fill_old_values` needs.
        """
        self.keyspace.commit(self.staged, first_revision, self.now.steady_ms)
        return self.replies.set_revisions(first_revision)

    def discard(self) -> None:
        """Undo the group: the keyspace is unchanged, and what was proposed is found again. Its replies are void."""
        self.keyspace.restore_taken()

    def set_savepoint(self, keys: Sequence[bytes]) -> Callable[[], None]:
        """Return a function that undoes all decisions, made from now on, of an operation on `keys`."""
        events, event_bytes = len(self.events), self.load.weigh(self.events)
        outcomes, spans = len(self.outcomes), len(self.batch_spans)
        restore_replies = self.replies.set_savepoint()
        restore_entries = self.staged.set_savepoint(keys)

        def undo() -> None:
            restore_entries()
            restore_replies()
            for outcome in self.outcomes[outcomes:]:
                del self._answered[outcome.identity]
            del self.events[events:], self.outcomes[outcomes:], self.batch_spans[spans:]
            self.load.rewind_events(events, event_bytes)

        return undo
