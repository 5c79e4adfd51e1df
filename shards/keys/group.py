"""Operations that are decided together and make up one log record. Pure: time is an argument, nothing is stored.

A `Group` holds what the operations of one record have decided so far; each operation sees the decisions of the earlier
ones. `rules` decides them. Until `Group.commit` nothing of it is in the keyspace, so a group whose record could not be
appended is undone by `Group.discard`.

The log gives out revisions, after deciding. While a group is open, its own revisions are negative: ~0 is that of its
first event, ~1 of the second. `commit` turns them into real ones, in the entries and in the replies.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

from shards.keys.budget import GroupLoad, MemoryBudget
from shards.keys.entries import EXPIRY, REVISION, VALUE_REVISION, Entry, StagedEntries, WritePolicy, is_live
from shards.keys.keyspace import Keyspace
from shards.keys.replies import PendingReplies
from shards.wire.clock import Now, overdue_ms
from shards.wire.errors import IdempotencyMismatch
from shards.wire.keys import slot_of
from shards.wire.outcomes import without_large_values
from shards.wire.protocol import (
    REMEMBERED_BYTES,
    Atomic,
    Change,
    DeleteEvent,
    Event,
    OfOneKey,
    Once,
    Outcome,
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
        policy: which writes are accepted.
        map_bytes_left: most bytes of events, as far as their size is known only after deciding.
        others_bytes: bytes of keys and values in the other shards, which count towards the memory limit.
        put_bytes: most bytes of the keys and values that requests put. If all of them fit, the limit is not checked.

    Attributes:
        events: the changes to be logged, one revision each; `record` returns them as they are logged.
        staged, replies, load: what has been decided so far, by its kind.
        checks_budget: whether puts must be checked against `policy` and the memory limit.
        outcomes: what the operations that are done once have done, to be logged after the events.
        batch_spans: where the events of each atomic batch begin and end.
        batch_start: where those of the batch begin that is being decided; None: outside of a batch.
        expiry_lag_ms: how late the first expiry of `expire_due` is.
    """

    __slots__ = (
        "_answered",
        "_budget",
        "_due",
        "_others_bytes",
        "batch_spans",
        "batch_start",
        "checks_budget",
        "events",
        "expiry_lag_ms",
        "keyspace",
        "load",
        "map_bytes_left",
        "now",
        "outcomes",
        "policy",
        "replies",
        "staged",
    )

    def __init__(
        self,
        keyspace: Keyspace,
        now: Now,
        policy: WritePolicy = WritePolicy.ALL,
        map_bytes_left: int = UNBOUNDED,
        others_bytes: int = 0,
        put_bytes: int = UNBOUNDED,
    ) -> None:
        self.keyspace, self.now, self.policy, self.map_bytes_left = keyspace, now, policy, map_bytes_left
        self.events: list[Change] = []
        self.staged = StagedEntries(keyspace.find_entry)
        self.load = GroupLoad()
        self.replies = PendingReplies(now, self.load)
        self._others_bytes = others_bytes
        self._budget: MemoryBudget | None = None  # made when it is needed, which it is only near the limit
        self.checks_budget = (
            policy is not WritePolicy.ALL or 0 < keyspace.max_memory < others_bytes + keyspace.bytes + put_bytes
        )
        self.outcomes: list[Outcome] = []
        self._answered: dict[bytes, tuple[bytes, Replayed]] = {}  # by identity: the fingerprint, and what repeats get
        self.batch_spans: list[tuple[int, int]] = []
        self.batch_start: int | None = None
        self.expiry_lag_ms = 0
        self._due: list[tuple[bytes, Entry]] = []  # to be scheduled again if the group is discarded

    @property
    def budget(self) -> MemoryBudget:
        """The memory limit as it applies to this group, and the keys that it has evicted."""
        if self._budget is None:
            self._budget = MemoryBudget(
                self.keyspace, self.staged, self.events, self.load, self.now, self._others_bytes
            )
        return self._budget

    def expire_due(self, limit: int) -> int:
        """Delete at most `limit` keys that have expired; return their number. To be called first in a group."""
        keyspace = self.keyspace
        due = keyspace.expiries.take_due(self.now, limit, keyspace.find_entry)
        if due:
            self.expiry_lag_ms = overdue_ms(due[0][1][EXPIRY], self.now)
        for key, entry in due:
            self.expire_key(key, entry)
        self._due += due
        return len(due)

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
        most = REMEMBERED_BYTES if self.policy is WritePolicy.ALL else 0  # else the map has no room for values
        kept, withheld = without_large_values(reply, most)
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
        if self.keyspace.evictor is not None:
            self.budget.put_back_recreated()
        self.keyspace.commit(self.staged, first_revision, self.now.steady_ms)
        return self.replies.set_revisions(first_revision)

    def discard(self) -> None:
        """Undo the group: the keyspace is unchanged, and due keys are due again. Its replies are void."""
        for key, entry in self._due:
            self.keyspace.expiries.schedule(key, entry[EXPIRY])
        self.budget.take_back()

    def set_savepoint(self, operations: Sequence[OfOneKey]) -> Callable[[], None]:
        """Return a function that undoes all decisions on `operations`, an atomic batch, made from now on."""
        events, event_bytes, evicted = len(self.events), self.load.weigh(self.events), self.budget.count_evicted()
        restore_replies = self.replies.set_savepoint()
        restore_entries = self.staged.set_savepoint([operation.key for operation in operations])

        def undo() -> None:
            restore_entries(self.budget.take_back(evicted))
            restore_replies()
            del self.events[events:]
            self.load.rewind_events(events, event_bytes)

        return undo
