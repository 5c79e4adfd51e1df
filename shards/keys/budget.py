"""What one group may take: bytes of work and of events, and the bytes that the memory limit leaves. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, NamedTuple

from shards.keys.entries import StagedEntries
from shards.keys.keyspace import Keyspace
from shards.wire.errors import MemoryLimit
from shards.wire.protocol import Change, PrefixMarked, PutEvent

FULL_BYTES: Final = 4 << 20
"""Bytes after which a group takes no more operations: of its events, or of the values it has read, answered and put.
All other clients wait until a group is done. One operation alone may be larger, but its record must fit a segment."""

_EVENT_BYTES: Final = 24
"""Bytes of an event besides key, value and content type."""


class GroupLoad:
    """How much an open group has taken on, and whether it accepts more operations.

    Attributes:
        is_full: whether further operations must be decided in another group.
        work_bytes: bytes of the values that were read, answered, put or touched, small ones excepted. The map writes a
            value again that is touched, once a group.
        event_bytes: bytes of the events that `weigh` has seen.
    """

    __slots__ = ("_weighed", "event_bytes", "is_full", "work_bytes")

    def __init__(self) -> None:
        self.is_full = False
        self.work_bytes = 0
        self.event_bytes = 0
        self._weighed = 0  # the number of events in `event_bytes`

    def count_work(self, size: int) -> None:
        """Count a value of `size` bytes that is read or written. It stays counted if the operation is undone."""
        self.work_bytes += size
        if self.work_bytes > FULL_BYTES:
            self.is_full = True

    def weigh(self, events: Sequence[Change]) -> int:
        """Count those of `events` that are new since the last call; return the bytes of all of them."""
        for index in range(self._weighed, len(events)):
            event = events[index]
            self.event_bytes += _EVENT_BYTES
            if isinstance(event, PrefixMarked):
                self.event_bytes += len(event.prefix)
            else:
                self.event_bytes += len(event.key)
            if isinstance(event, PutEvent):
                self.event_bytes += len(event.value) + len(event.content_type)
        self._weighed = len(events)
        self._update_full()
        return self.event_bytes

    def rewind_events(self, count: int, event_bytes: int) -> None:
        """Forget all but the first `count` events, which `weigh` gave `event_bytes`."""
        self._weighed, self.event_bytes = count, event_bytes
        self._update_full()

    def _update_full(self) -> None:
        self.is_full = self.event_bytes > FULL_BYTES or self.work_bytes > FULL_BYTES


class Starved(NamedTuple):
    """Stands for the reply to an operation that was not done: so many bytes of keys and values must be evicted first.

    Who decides for itself does so and decides again; who has an order proposes an `Evict` ahead of the operation.
    """

    needed: int


class MemoryBudget:
    """The memory limit, as it applies to one group.

    Where keys are evicted, a shard that is over the limit at the beginning, or because of other shards, may stay as
    large as it is.

    Args:
        keyspace: has the limit and the bytes that are committed.
        staged: the entries of the group.
        others_bytes: bytes of keys and values in the other shards, which count towards the limit.

    Attributes:
        shrinks: whether such a shard needs evictions until it is back at the limit, or at its fair share: so it shrinks
            write by write. Not in an order.
    """

    __slots__ = ("_keyspace", "_least", "_most", "_others_bytes", "_staged", "shrinks")

    def __init__(self, keyspace: Keyspace, staged: StagedEntries, others_bytes: int) -> None:
        self._keyspace, self._staged, self._others_bytes = keyspace, staged, others_bytes
        self._least = self._most = keyspace.max_memory - others_bytes
        if keyspace.evictor is not None:
            self._least = max(self._most, min(keyspace.bytes, keyspace.fair_share))
            self._most = max(self._most, keyspace.bytes)
        self.shrinks = False

    def find_excess(self, growth: int) -> int:
        """Return by how many bytes a growth would exceed what the shard may hold; 0 or less: it fits."""
        held = self._keyspace.bytes + self._staged.bytes
        return held + growth - (self._least if self.shrinks else self._most)

    def may_ever_hold(self, size: int) -> bool:
        """Whether keys and values of `size` bytes fit if nothing else is left."""
        return size <= self._most

    def slack_bytes(self) -> int:
        """Return how much of what an operation needs it can do without: then the shard does not shrink for it."""
        return self._most - self._least if self.shrinks else 0

    def refuse_growth(self, growth: int) -> MemoryLimit:
        """Make the error that refuses a growth by so many bytes."""
        held = self._others_bytes + self._keyspace.bytes + self._staged.bytes
        return MemoryLimit.of(self._keyspace.max_memory, held, growth)

    def refuse_starved(self, needed: int) -> MemoryLimit:
        """Make the error that refuses what was not done as `needed` bytes must be evicted first."""
        return self.refuse_growth(needed - self.find_excess(0))
