"""What a machine has room for: the free space of its map and its log, and which operations it refuses for want of it.

Room is a matter of one machine, so it has no say in what an operation means (see `shards.keys.rules`): a shard that is
alone decides an operation, looks what that would take, and undoes and refuses it if there is no room. Pure.
"""

from __future__ import annotations

import enum
from collections.abc import Sequence
from typing import Final, NamedTuple

from shards.keys import rules
from shards.keys.budget import FULL_BYTES, Starved
from shards.keys.entries import SIZE, FindEntry
from shards.keys.group import UNBOUNDED, Group
from shards.wire.errors import InsufficientStorage
from shards.wire.protocol import (
    RECORD_BYTES,
    REMEMBERED_BYTES,
    AtomicBatch,
    Change,
    DeleteEvent,
    Failed,
    Incr,
    OfOneKey,
    Operation,
    Patch,
    Put,
    PutEvent,
    Reply,
    Touch,
    TouchEvent,
    bare,
)

_LOG_FULL: Final = "the log cannot grow"
_MAP_FULL: Final = "the map cannot grow any more"


class WritePolicy(enum.Enum):
    """Which writes are accepted, given the free space of map and log."""

    ALL = "all"
    NO_GROWTH = "no growth"  # the map is full: new keys and larger values are refused
    DELETES = "deletes"  # the log is full: its reserve is for deletes and expiries


class Room(NamedTuple):
    """What there is room for.

    Attributes:
        policy: which writes are accepted.
        bytes_left: most bytes of changes in a group, as far as their size is known only after deciding.
    """

    policy: WritePolicy = WritePolicy.ALL
    bytes_left: int = UNBOUNDED

    def is_plenty(self, put_bytes: int, max_value: int) -> bool:
        """Whether nothing in a group whose requests put `put_bytes` can be refused."""
        return self.policy is WritePolicy.ALL and self.bytes_left >= put_bytes + FULL_BYTES + RECORD_BYTES + max_value

    @property
    def remembered_bytes(self) -> int:
        """Most bytes of values that are remembered of what is done once: none if the map has no room for them."""
        return REMEMBERED_BYTES if self.policy is WritePolicy.ALL else 0

    def decide(self, group: Group, operation: Operation) -> Reply | Starved:
        """Decide `operation`, as `rules.decide` does; refuse it if there is no room for what it does."""
        parts = _parts_of(operation)
        if not any(map(self._may_refuse, parts)):
            return rules.decide(group, operation)
        keys = [part.key for part in parts]
        sizes = {key: _size_of(key, group.staged.lookup) for key in keys}
        begin, begin_bytes = len(group.events), group.load.weigh(group.events)
        undo = group.set_savepoint(keys)
        reply = rules.decide(group, operation)
        is_starved = type(reply) is Starved or (isinstance(reply, Failed) and reply.code == "memory_limit")
        refusal = self._refusal(group.events[begin:], sizes, begin_bytes, is_starved=is_starved)
        if refusal is None:
            return reply
        undo()
        return Failed.of(InsufficientStorage(refusal))

    def foresee_refusal(self, operation: Operation, find: FindEntry) -> Failed | None:
        """Return the refusal of `operation` if it may need room that is not there, before anything is decided.

        For an operation that is to be proposed to an order. `find`: finds the entries as far as they are decided. An
        increment counts as growing where its key is absent, a patch always.
        """
        if self.policy is WritePolicy.ALL:
            return None
        for part in _parts_of(operation):
            if not self._may_refuse(part):
                continue
            old = _size_of(part.key, find)
            grows = isinstance(part, Patch) or old is None or (isinstance(part, Put) and len(part.value) > old)
            if self.policy is WritePolicy.DELETES:
                return Failed.of(InsufficientStorage(_LOG_FULL))
            if grows:
                return Failed.of(InsufficientStorage(_MAP_FULL))
        return None

    def _may_refuse(self, part: OfOneKey) -> bool:
        if self.policy is WritePolicy.ALL:  # it was asked for room for what is sent
            return isinstance(part, Incr | Patch)
        return isinstance(part, Put | Incr | Patch) or (self.policy is WritePolicy.DELETES and isinstance(part, Touch))

    def _refusal(
        self, events: Sequence[Change], sizes: dict[bytes, int | None], before: int, *, is_starved: bool
    ) -> str | None:
        """Return why an operation that has logged `events` is refused; None: it is not.

        `sizes`: of the values of its keys until then. `before`: bytes of earlier events. `is_starved`: it has logged
        nothing, because keys and values would take more memory than they may.
        """
        if self.policy is WritePolicy.DELETES:
            writes = is_starved or any(isinstance(event, PutEvent | TouchEvent) for event in events)
            return _LOG_FULL if writes else None
        if self.policy is WritePolicy.ALL:
            size = sum(len(event.value) for event in events if isinstance(event, PutEvent))
            if before + size <= self.bytes_left:
                return None
        return _MAP_FULL if (is_starved and self.policy is not WritePolicy.ALL) or _grows(events, sizes) else None


def _parts_of(operation: Operation) -> Sequence[OfOneKey]:
    """Return the operations on single keys that `operation` consists of."""
    operation = bare(operation)
    if isinstance(operation, AtomicBatch):
        return operation.operations
    return [operation] if isinstance(operation, OfOneKey) else []


def _size_of(key: bytes, find: FindEntry) -> int | None:
    """Return the bytes of the value of `key`; None: it has no entry."""
    entry = find(key)
    return None if entry is None else entry[SIZE]


def _grows(events: Sequence[Change], sizes: dict[bytes, int | None]) -> bool:
    """Whether `events` put a new key or a larger value. `sizes`: of the values until then; it is changed.

    An expired value counts until another one is put.
    """
    for event in events:
        if isinstance(event, PutEvent):
            old = sizes[event.key]
            if old is None or len(event.value) > old:
                return True
            sizes[event.key] = len(event.value)
        elif isinstance(event, DeleteEvent) and event.cause != "expire":
            sizes[event.key] = None
    return False
