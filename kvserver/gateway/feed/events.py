"""Events as clients of `/v1/feed` share them: decoded once, in blocks of the history. Pure.

A `Block` is a stretch of the history. What a client gets next of it depends on its filter and its place alone, so
envelopes are shared, too, by all clients that want the same.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Collection, Iterable, Iterator
from typing import Final, NamedTuple

from shards.log.records import DATA, Record
from shards.wire.clock import Now, unix_ms
from shards.wire.protocol import (
    Activity,
    Atomic,
    Change,
    DeleteEvent,
    PrefixMarked,
    PutEvent,
    TouchEvent,
    decode_events,
)

OCTETS: Final = "application/octet-stream"
"""The type of a value that was stored without one."""

_WEIGHT: Final = 400  # bytes that an event takes besides key and value
_COPIES: Final = 3  # a value is kept raw, encoded, and in an envelope
_SHARED_WEIGHT: Final = 300  # bytes that a shared message takes besides its body, also if there is no message
_SHARED_FREE: Final = 2048  # bytes of shared messages that the smallest block has room for
_FEW: Final = 8  # events that are faster to scan than to look up


class Message:
    """An encoded message.

    Attributes:
        cursor: where a client is once it has this message.
        body: JSON or MessagePack.
        events: how many events or items are in it.
    """

    __slots__ = ("_framed", "body", "cursor", "events")

    def __init__(self, cursor: bytes, body: bytes, events: int = 0) -> None:
        self.cursor, self.body, self.events = cursor, body, events
        self._framed: tuple[Framer, bytes] | None = None

    def framed(self, framer: Framer) -> bytes:
        """Return what is written of the message, made once for all clients that share it and have the same framer."""
        if self._framed is None or self._framed[0] is not framer:
            self._framed = (framer, framer(self))
        return self._framed[1]


Framer = Callable[[Message], bytes]
"""Makes what is written to a connection of a message."""


class Event:
    """One change.

    Attributes:
        op: `put`, `touch`, `delete:<cause>`, as filters name it; `mark` for the mark of a prefix delete.
        unit: the last revision of its atomic batch; its own if it is not part of one.
        time_ms: wall time as the clock was set then.
        expires_ms: of a put or touch, wall time as the clock was set then; 0: never.
        encoded: itself, by encoding and by whether values are wanted; None where it was not encoded yet.
    """

    __slots__ = ("content_type", "encoded", "expires_ms", "key", "op", "revision", "time_ms", "unit", "value")

    def __init__(self, change: Change, revision: int, unit: int, now: Now) -> None:
        self.revision, self.unit, self.time_ms = revision, unit, now.wall_ms
        self.content_type, self.expires_ms, self.value = "", 0, b""
        self.encoded: list[bytes | None] = [None, None, None, None]
        match change:
            case PutEvent(key, value, content_type, expiry):
                self.op, self.key, self.value = "put", key, value
                self.content_type, self.expires_ms = content_type or OCTETS, unix_ms(expiry, now)
            case TouchEvent(key, expiry):
                self.op, self.key, self.expires_ms = "touch", key, unix_ms(expiry, now)
            case DeleteEvent(key, cause):
                self.op, self.key = "delete:" + cause, key
            case PrefixMarked(prefix):
                self.op, self.key = "mark", prefix


class SnapshotItem(NamedTuple):
    """A key and what it holds, as a snapshot shows it. `size` is that of the value, even where that is left out."""

    key: bytes
    revision: int
    modified_ms: int
    expires_ms: int
    content_type: str
    value: bytes
    size: int


class Block:
    """The events of a stretch of the history: of every revision from `begin` + 1 to `end`.

    Attributes:
        lsn: of the log, after it.
        weight: the bytes of memory that it takes, about.
    """

    __slots__ = ("_places", "_revisions", "_shared", "_shared_bytes", "begin", "end", "events", "lsn", "weight")

    def __init__(self, begin: int, end: int, lsn: int, events: list[Event]) -> None:
        self.begin, self.end, self.lsn, self.events = begin, end, lsn, events
        self._shared: dict[tuple[str, int], tuple[Message | None, int]] = {}
        self._shared_bytes = 0
        self._places: dict[bytes, list[int]] | None = None  # of the events of each key
        self._revisions = [event.revision for event in events]
        self.weight = _WEIGHT + sum(_WEIGHT + _COPIES * (len(event.key) + len(event.value)) for event in events)

    def find_shared(self, name: str, revision: int) -> tuple[Message | None, int] | None:
        """Return the message and the revision that `share_message` kept; None: nothing was kept."""
        return self._shared.get((name, revision))

    def share_message(self, name: str, revision: int, message: Message | None, reached: int) -> None:
        """Keep `message` for clients at `revision` whose filter and encoding have this `name`, if there is room.

        It brings them to `reached`; None: nothing up to there is for them.
        """
        size = _SHARED_WEIGHT + (len(message.body) if message is not None else 0)
        if self._shared_bytes + size <= self.weight + _SHARED_FREE:
            self._shared_bytes += size
            self._shared[name, revision] = (message, reached)

    def events_after(self, revision: int) -> Iterator[Event]:
        """Yield the events above `revision`."""
        events = self.events
        return (events[i] for i in range(bisect_right(self._revisions, revision), len(events)))

    def events_of(self, keys: Collection[bytes], revision: int) -> Iterator[Event]:
        """Yield the events above `revision` of certain keys; of a block with few events, all of them."""
        events = self.events
        if len(events) <= _FEW:
            return self.events_after(revision)
        if self._places is None:
            self._places = {}
            for i, event in enumerate(events):
                self._places.setdefault(event.key, []).append(i)
        first, places = bisect_right(self._revisions, revision), self._places
        return (events[i] for i in sorted(i for key in keys for i in places.get(key, ()) if i >= first))


def block_of(records: Iterable[Record], begin: int, lsn: int) -> Block:
    """Decode `records`, which follow revision `begin`, to a block. `lsn`: of the log, after them.

    Changes up to `begin` are left out: the first record may have begun before. Raises `ProtocolError`.
    """
    events: list[Event] = []
    end = begin
    for record in records:
        end = max(end, record.next_revision - 1)  # the START of a run has revisions, too
        if record.kind != DATA:
            continue
        revision = record.revision
        for event in decode_events(record.payload):
            changes: list[Change] = event.changes if isinstance(event, Atomic) else [event]
            unit = revision + len(changes) - 1
            for change in changes:
                if revision > begin:
                    events.append(Event(change, revision, unit, record.now))
                revision += 1
    return Block(begin, end, lsn, events)


class ActivityLine:
    """A line of activity, and the revision `place` after which it is shown."""

    __slots__ = ("activity", "place")

    def __init__(self, activity: Activity, place: int) -> None:
        self.activity, self.place = activity, place
