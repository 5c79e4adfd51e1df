"""The wire: requests to a shard, its replies, the events it logs and publishes. Pure; this docstring is the spec.

**Request**, DEALER to the shard's ROUTER, two frames (beside the identity that ROUTER adds)::

    header  magic b"KVQ1" | operations u32 | id u64 | incarnation u64 | deadline u64       little endian, 32 bytes
    body    MessagePack array of operations, each an array that starts with its tag

- `id` is the sender's; the reply repeats it. One id for a message, not for an operation: replies stand in the order
  of the operations.
- `incarnation` names the shard process the message was written for (its word on the board). Another process MUST
  refuse it with `stale_incarnation` and execute nothing.
- `deadline` is CLOCK_MONOTONIC in nanoseconds. A message that is read later MUST NOT be executed and is refused with
  `deadline_passed`.
- A message holds at most `MESSAGE_OPS` operations and `MESSAGE_BYTES` bytes, but one operation may be larger alone.
- Operations of one message are executed in their order, not as a unit: other messages may come between them, and each
  succeeds or fails by itself.

**Operations**, by tag (keys and values are `bin`)::

    1 Put           key, value, content_type str, ttl_ms, expires_ms, want_previous
    2 Delete        key, want_previous
    3 Touch         key, ttl_ms, expires_ms                 0, 0: never expires
    4 MarkPrefix    prefix                                  logs a `PrefixMarked`; its revision is the cut
    5 DeletePrefix  prefix, after, cut, limit               deletes at most `limit` keys above `after` whose value's
                                                            revision is <= cut

`ttl_ms` counts from the shard's clock when it decides; `expires_ms` is Unix time. At most one of them is not 0.

**Reply**, two frames::

    header  magic b"KVR1" | replies u32 | id u64                                           little endian, 16 bytes
    body    MessagePack array of replies: one for each operation, or a single `Failed` if the whole message is refused

    1 Done     revision, existed, previous bin or nil       revision 0: nothing changed (a delete of an absent key)
    2 Deleted  keys, next bin or nil                        next: pass as `after` to go on; nil: the range is done
    3 Failed   code, detail                                 a code of `shards.errors`

Whatever arrives gets a reply. Where not even the header can be read, its id is 0.

**Events**, the payload of a log record: a MessagePack array of events; each takes one revision, in order::

    1 PutEvent      key, value, content_type, expires_ms    expires_ms 0: never
    2 TouchEvent    key, expires_ms
    3 DeleteEvent   key, cause str, cut                     cause: request, prefix, expire, evict; cut: of `prefix`,
                                                            the revision of the PrefixMarked it belongs to, else 0
    4 PrefixMarked  prefix                                  changes nothing: deletes of `cut` = its revision follow
    5 Atomic        array of events                         all or nothing; each event inside takes a revision

**PUB**, shard to gateways: one frame, a log record as it stands in the log, or, where the record is larger than
`PUBLISH_BYTES`, its header alone. Messages may be lost; whoever needs all reads the log.

**Activity**, PUB of every worker and gateway to the SUB that each gateway binds: one frame, a MessagePack array of
`Activity`. Best effort, and sent only while the board says that somebody listens.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator, Sequence
from typing import Literal, NamedTuple

import msgspec

from shards.errors import KVError, ProtocolError, from_code

MESSAGE_OPS = 1024
"""Most operations in one message, and the count at which a shard closes a group."""
MESSAGE_BYTES = 8 << 20
"""Most bytes of keys and values in one message of several operations, and the size at which a group closes."""
PUBLISH_BYTES = 64 << 10
"""Records larger than this are announced on PUB by their header alone."""

_REQUEST = struct.Struct("<4sIQQQ")
_REPLY = struct.Struct("<4sIQ")
_REQUEST_MAGIC, _REPLY_MAGIC = b"KVQ1", b"KVR1"


class _Wire(msgspec.Struct, array_like=True, gc=False, forbid_unknown_fields=True):
    """Base of everything on the wire: an array that starts with a tag, closed against further fields."""


class Put(_Wire, tag=1):
    key: bytes
    value: bytes
    content_type: str = ""
    ttl_ms: int = 0
    expires_ms: int = 0
    want_previous: bool = False


class Delete(_Wire, tag=2):
    key: bytes
    want_previous: bool = False


class Touch(_Wire, tag=3):
    key: bytes
    ttl_ms: int = 0
    expires_ms: int = 0


class MarkPrefix(_Wire, tag=4):
    prefix: bytes


class DeletePrefix(_Wire, tag=5):
    prefix: bytes
    after: bytes
    cut: int
    limit: int


Operation = Put | Delete | Touch | MarkPrefix | DeletePrefix


class Done(_Wire, tag=1):
    revision: int
    existed: bool
    previous: bytes | None = None


class Deleted(_Wire, tag=2):
    keys: list[bytes]
    next: bytes | None


class Failed(_Wire, tag=3):
    code: str
    detail: str = ""

    @classmethod
    def of(cls, error: KVError) -> Failed:
        """The reply that carries `error`."""
        return cls(error.code, error.detail)

    def error(self) -> KVError:
        """The error this reply carries."""
        return from_code(self.code, self.detail)


Reply = Done | Deleted | Failed

Cause = Literal["request", "prefix", "expire", "evict"]


class PutEvent(_Wire, tag=1):
    key: bytes
    value: bytes
    content_type: str
    expires_ms: int


class TouchEvent(_Wire, tag=2):
    key: bytes
    expires_ms: int


class DeleteEvent(_Wire, tag=3):
    key: bytes
    cause: Cause
    cut: int = 0


class PrefixMarked(_Wire, tag=4):
    prefix: bytes


Change = PutEvent | TouchEvent | DeleteEvent | PrefixMarked


class Atomic(_Wire, tag=5):
    changes: list[Change]


Event = PutEvent | TouchEvent | DeleteEvent | PrefixMarked | Atomic

ActivityKind = Literal["read", "list", "list_prefix", "delete", "delete_prefix", "delete_all", "heartbeat"]


class Activity(_Wire):
    """Something that changed nothing. `subject`: the key, the prefix or the peer's address. `end`: the history's end as
    read after the answer was known, the place where the line belongs."""

    end: int
    kind: ActivityKind
    subject: bytes
    time_ms: int


class Request(NamedTuple):
    """A decoded request message."""

    id: int
    incarnation: int
    deadline_ns: int
    operations: list[Operation]


class MalformedRequest(ProtocolError):
    """A request that cannot be read; `id` is its id, or 0 where not even that could be read."""

    def __init__(self, detail: str, id: int = 0) -> None:
        super().__init__(detail)
        self.id = id


_UNREADABLE = (msgspec.MsgspecError, UnicodeDecodeError)  # msgspec leaves a `str` of bad UTF-8 to Python's own error

_encode = msgspec.msgpack.Encoder().encode
_decode_operations = msgspec.msgpack.Decoder(list[Operation]).decode
_decode_replies = msgspec.msgpack.Decoder(list[Reply]).decode
_decode_events = msgspec.msgpack.Decoder(list[Event]).decode
_decode_activity = msgspec.msgpack.Decoder(list[Activity]).decode


def encode_request(id: int, incarnation: int, deadline_ns: int, operations: Sequence[Operation]) -> list[bytes]:
    """The two frames of a request."""
    header = _REQUEST.pack(_REQUEST_MAGIC, len(operations), id, incarnation, deadline_ns)
    return [header, _encode(operations)]


def decode_request(frames: Sequence[bytes]) -> Request:
    """The request in `frames` (without the identity). Raises `MalformedRequest`."""
    if len(frames) != 2 or len(frames[0]) != _REQUEST.size:
        raise MalformedRequest("a request is a header of 32 bytes and a body")
    magic, count, id, incarnation, deadline_ns = _REQUEST.unpack(frames[0])
    if magic != _REQUEST_MAGIC:
        raise MalformedRequest(f"unknown magic {magic!r}, expected {_REQUEST_MAGIC!r}")
    try:
        operations = _decode_operations(frames[1])
    except _UNREADABLE as error:
        raise MalformedRequest(f"body: {error}", id) from None
    if len(operations) != count or not operations:
        raise MalformedRequest(f"the header counts {count} operations, the body holds {len(operations)}", id)
    return Request(id, incarnation, deadline_ns, operations)


def encode_reply(id: int, replies: Sequence[Reply]) -> list[bytes]:
    """The two frames of a reply."""
    return [_REPLY.pack(_REPLY_MAGIC, len(replies), id), _encode(replies)]


def decode_reply(frames: Sequence[bytes]) -> tuple[int, list[Reply]]:
    """Id and replies. Raises `ProtocolError`."""
    if len(frames) != 2 or len(frames[0]) != _REPLY.size:
        raise ProtocolError("a reply is a header of 16 bytes and a body")
    magic, count, id = _REPLY.unpack(frames[0])
    if magic != _REPLY_MAGIC:
        raise ProtocolError(f"unknown magic {magic!r}, expected {_REPLY_MAGIC!r}")
    try:
        replies = _decode_replies(frames[1])
    except _UNREADABLE as error:
        raise ProtocolError(f"body: {error}") from None
    if len(replies) != count:
        raise ProtocolError(f"the header counts {count} replies, the body holds {len(replies)}")
    return id, replies


def encode_events(events: Sequence[Event]) -> bytes:
    """The payload of the log record that commits `events`."""
    return _encode(events)


def decode_events(payload: bytes | memoryview) -> list[Event]:
    """The events of a record's payload. Raises `ProtocolError`."""
    try:
        return _decode_events(payload)
    except _UNREADABLE as error:
        raise ProtocolError(f"events: {error}") from None


def changes(events: Iterable[Event], first_revision: int) -> Iterator[tuple[int, Change]]:
    """Each change with its revision, atomic batches flattened."""
    revision = first_revision
    for event in events:
        for change in event.changes if isinstance(event, Atomic) else (event,):
            yield revision, change
            revision += 1


def count_changes(events: Iterable[Event]) -> int:
    """How many revisions `events` take."""
    return sum(len(event.changes) if isinstance(event, Atomic) else 1 for event in events)


def encode_activity(lines: Sequence[Activity]) -> bytes:
    """The one frame that carries `lines`."""
    return _encode(lines)


def decode_activity(frame: bytes) -> list[Activity]:
    """The lines of an activity frame. Raises `ProtocolError`."""
    try:
        return _decode_activity(frame)
    except _UNREADABLE as error:
        raise ProtocolError(f"activity: {error}") from None
