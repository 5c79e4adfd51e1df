"""What one group may take: bytes of work and of events, and the memory limit with its evictions. Pure."""

from __future__ import annotations

from collections.abc import Container, Sequence
from typing import Final

from shards.keys.entries import SIZE, Entry, StagedEntries, is_live
from shards.keys.keyspace import Keyspace
from shards.wire.clock import Now
from shards.wire.errors import MemoryLimit, Overloaded
from shards.wire.protocol import Change, DeleteEvent, OfOneKey, PrefixMarked, PutEvent, size_of

FULL_BYTES: Final = 4 << 20
"""Bytes after which a group takes no more operations: of its events, or of the values it has read, answered and put.
All other clients wait until a group is done. One operation alone may be larger, but its record must fit a segment."""

_EVENT_BYTES: Final = 24
"""Bytes of an event besides key, value and content type."""


class GroupLoad:
    """How much an open group has taken on, and whether it accepts more operations.

    Attributes:
        is_full: whether further operations must be decided in another group.
        needs_eviction: whether it is full because it has evicted as much as it may, and the last operation, which was
            refused for it, needs more. It may be decided again in another group.
        work_bytes: bytes of the values that were read, answered, put or touched, small ones excepted. The map writes a
            value again that is touched, once a group.
        event_bytes: bytes of the events that `weigh` has seen.
    """

    __slots__ = ("_weighed", "event_bytes", "is_full", "needs_eviction", "work_bytes")

    def __init__(self) -> None:
        self.is_full = False
        self.needs_eviction = False
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

    def require_eviction(self) -> None:
        """Close the group: more has to be evicted than it may."""
        self.needs_eviction = self.is_full = True

    def _update_full(self) -> None:
        self.is_full = self.needs_eviction or self.event_bytes > FULL_BYTES or self.work_bytes > FULL_BYTES


class MemoryBudget:
    """The memory limit, as it applies to one group, and the keys that the group has evicted for it.

    Args:
        keyspace: has the limit, the evictor and the committed entries.
        staged: the entries of the group.
        events: the events of the group; evictions are appended to it.
        load: closed if the group may not evict as much as an operation needs.
        now: the time of the group.
        others_bytes: bytes of keys and values in the other shards, which count towards the limit.
    """

    __slots__ = ("_events", "_evicted", "_keyspace", "_load", "_now", "_others_bytes", "_staged")

    def __init__(
        self,
        keyspace: Keyspace,
        staged: StagedEntries,
        events: list[Change],
        load: GroupLoad,
        now: Now,
        others_bytes: int,
    ) -> None:
        self._keyspace, self._staged, self._events, self._load = keyspace, staged, events, load
        self._now, self._others_bytes = now, others_bytes
        self._evicted: list[bytes] = []

    def admit_growth(self, key: bytes, size: int, old: Entry | None, *, is_first: bool) -> None:
        """Let the value of `key`, whose entry is `old`, grow to `size` bytes; evict what has to go for it.

        `is_first`: the group had no events before this operation, or before the batch it belongs to.

        Raises `MemoryLimit` if it cannot fit; `Overloaded`, after closing the group, if another group could evict
        enough for it.
        """
        keyspace = self._keyspace
        growth = size - old[SIZE] if old is not None else len(key) + size
        limit = keyspace.max_memory - self._others_bytes
        if self._held_bytes() + growth <= limit:
            return
        if keyspace.evictor is not None:
            # A shard that is over the limit at the beginning, or because of other shards, may stay as large as it is.
            # It shrinks towards the limit write by write, but not below its fair share.
            goal = max(limit, min(keyspace.bytes, keyspace.fair_share))
            limit = max(limit, keyspace.bytes)
            if len(key) + size <= limit:
                self._evict_down_to(goal - growth, (key,))
                if self._held_bytes() + growth <= limit:
                    return
                # A later group can evict what this one has changed, or more than one group may. A first operation that
                # got all there is to evict will never fit.
                if not is_first or len(self._evicted) >= keyspace.evictor.max_per_group:
                    self._load.require_eviction()
                    raise Overloaded("this value needs more evictions than one write may make")
        raise MemoryLimit.of(keyspace.max_memory, self._others_bytes + self._held_bytes(), growth)

    def evict_for_batch(self, operations: Sequence[OfOneKey]) -> None:
        """Evict as much as all of `operations` may need, as far as the group may."""
        needed = sum(map(size_of, operations))
        limit = self._keyspace.max_memory - self._others_bytes
        self._evict_down_to(limit - needed, {operation.key for operation in operations})

    def count_evicted(self) -> int:
        """Return how many keys the group has evicted so far: a savepoint for `take_back`."""
        return len(self._evicted)

    def take_back(self, first: int = 0) -> list[bytes]:
        """Undo the evictions from the one at `first` on, as far as the evictor goes; return their keys."""
        keys = self._evicted[first:]
        if self._keyspace.evictor is not None:
            self._keyspace.evictor.add_keys(keys)
        del self._evicted[first:]
        return keys

    def put_back_recreated(self) -> None:
        """Give the evictor back the keys that were evicted and written again in the same group; before commit."""
        if self._keyspace.evictor is not None:
            self._keyspace.evictor.add_keys(key for key in self._evicted if self._staged.changes[key] is not None)

    def _held_bytes(self) -> int:
        """Bytes of keys and values in the shard once the group is committed."""
        return self._keyspace.bytes + self._staged.bytes

    def _evict_down_to(self, most_bytes: int, spared: Container[bytes]) -> None:
        """Evict until the shard holds `most_bytes`, as far as the group may: not what it has changed, nor `spared`."""
        evictor, staged = self._keyspace.evictor, self._staged
        if evictor is None:
            return
        while self._held_bytes() > most_bytes and len(self._evicted) < evictor.max_per_group:
            oldest = self._keyspace.take_oldest(staged.changes, spared, self._now.steady_ms)
            if oldest is None:
                break
            key, entry = oldest
            self._events.append(DeleteEvent(key, "evict" if is_live(entry, self._now) else "expire"))
            staged.stage(key, entry, None)
            self._evicted.append(key)
