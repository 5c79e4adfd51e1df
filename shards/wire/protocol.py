"""The wire: requests to a shard, its replies, the events it logs and publishes. Pure; this docstring is the spec.

**Request**, DEALER to the shard's ROUTER, one frame (besides the identity that ROUTER adds): a header and a body::

    header  magic b"KVQ1" | operations u32 | id u64 | incarnation u64 | deadline u64       little endian, 32 bytes
    body    MessagePack array of operations, each an array that starts with its tag

- `id` is the sender's; the reply repeats it. One id for a message, not for an operation: replies are in the order
  of the operations.
- `incarnation` names the shard process the message was written for (its word on the board). Another process MUST
  refuse it with `stale_incarnation` and execute nothing.
- `deadline` is CLOCK_MONOTONIC in nanoseconds. A message that is read later MUST NOT be executed and is refused with
  `deadline_passed`.
- A message holds at most `MESSAGE_OPS` operations (those of an atomic batch count singly) and `MESSAGE_BYTES` bytes,
  but one operation may be larger alone.
- Operations of one message on one key are executed in their order, not as a unit: other messages may come between
  them, and each succeeds or fails on its own. What has not begun at the deadline is refused.
- Once patches of a message have written `PATCHED_BYTES`, its further ones are refused with `patches_too_large`: each
  logs the whole value, whatever was sent.
- A message is **small** if it holds at most `SMALL_OPS` operations, takes at most `SMALL_BYTES`, and `is_plain`. It
  does not wait for those that are not, so a sender puts what may take long into messages of its own.

**Operations**, by tag (keys and values are `bin`)::

    1 Put           key, value, content_type str, ttl_ms, expires_ms, want_previous, condition
    2 Delete        key, want_previous, condition
    3 Touch         key, ttl_ms, expires_ms, condition      0, 0: never expires
    4 MarkPrefix    prefix                                  logs a `PrefixMarked`; its revision is the cut
    5 DeletePrefix  prefix, after, cut, limit, marked       deletes at most `limit` keys above `after` whose value's
                                                            revision is <= cut; marked: it is that of a MarkPrefix
    6 Incr          key, by, ttl_ms, condition              adds to a whole number in decimal; ttl_ms: of a new key
    7 Patch         key, patch, condition                   JSON merge patch (RFC 7396); `patch` is JSON text
    8 Get           key, batch u64, condition               what operations before it have decided, else the map
    9 AtomicBatch   array of operations                     1, 2, 3, 6, 7, 8 on keys of one slot: all or nothing
   10 Once          operation, identity, fingerprint        1, 2, 3, 6, 7 or 9, done at most once for an identity
   11 Expire        array of [key, revision]                deletes those that still have that revision and are due
   12 Evict         array of [key, revision]                deletes those that still have that revision

`ttl_ms` counts from the shard's clock when it decides; `expires_ms` is Unix time. At most one of them is not 0. A
lifetime is at most `keys.MAX_TTL_MS`, an expiry not in the past. `batch` is a number that the sender made up for the
batch it received; the gets of one batch in one group answer at most `ANSWER_BYTES` of values, further ones are refused
with `answer_too_large`.

**Conditions**: nil, or an array of if_match and if_none_match, each nil, "*" or an array of revisions. if_match holds
if the key exists and its revision is in the list (any with "*"; an empty list: none); if_none_match holds where
if_match would not. Both must hold. An operation whose condition does not hold fails with `precondition_failed`, but a
delete or touch of an absent key is answered as such, whatever its condition. A get with a condition is a check
that changes nothing.

**Once**: the shard remembers what it did for an `identity` (`IDENTITY_BYTES`, made by the sender of the client's
Idempotency-Key), with the `fingerprint` of the request. A repeat is answered with a `Replayed` and does nothing; one
of another fingerprint is refused with `idempotency_mismatch`. What was refused, or changed nothing, is not remembered.

**Expire and Evict** are what a shard proposes to itself, and shards of one order to each other: never what a client
asks for. So it makes no difference who proposes them, how often and how late: a key goes once, at its place in the
order. At most `PROPOSED_KEYS` keys in one.

**Reply**, one frame::

    header  magic b"KVR1" | replies u32 | id u64                                           little endian, 16 bytes
    body    MessagePack array of replies: one for each operation, or a single `Failed` if the whole message is refused

    1 Done      revision, existed, nil, expires_ms          of 1 to 4, 11, 12. revision 0: nothing changed, the key
                                                            is absent. Of 11 and 12 it is that of the last delete.
                                                            expires_ms: when the key expires now, 0: never
    2 Deleted   keys, next bin or nil                       of 5. next: pass as `after` for more; nil: the end
    3 Failed    code, detail, revision, members             a code of `shards.wire.errors`; of precondition_failed: the
                                                            revision that is there, 0: none. Else 0. members: nil, or
                                                            a map of names to numbers (of memory_limit)
    4 Replaced  revision, True, previous, expires_ms,       a Done that carries the old value: of 1 and 2 with
                previous_type, previous_revision            want_previous where there was one
    5 Value     revision, existed, value, content_type,     of 6 to 8. existed: before the operation. Of a Get of an
                expires_ms                                  absent key everything else is 0 or empty
    6 Results   replies, failed                             of 9, one for each operation. failed: index of the one for
                                                            which nothing was done (the others: failed_dependency), or
                                                            nil. What fails by no fault of its own (status 500 and
                                                            above) refuses the batch: its reply is that `Failed`
    7 Replayed  reply, withheld                             of 10: the `Done`, `Replaced`, `Value` or `Results` that was
                                                            answered before. withheld: its values were too large to
                                                            be remembered, and are left out

A reply whose parts are ready at different times comes in several frames, each with another magic, b"KVP1", and a body
of two: an array of places in the message, and one of as many replies.

Whatever arrives gets a reply. Where not even the header can be read, its id is 0.

**Events**, the payload of a log record: a MessagePack array of events; each takes one revision, in order::

    1 PutEvent      key, value, content_type, expires_ms    an expiry as in `clock`: 0 never, above 0 a wall time,
    2 TouchEvent    key, expires_ms                         below 0 a steady one. In requests and replies: a wall time
    3 DeleteEvent   key, cause str, cut                     cause: request, prefix, expire, evict; cut: of `prefix`,
                                                            the revision of the PrefixMarked it belongs to, 0 if none
    4 PrefixMarked  prefix                                  changes nothing: deletes of `cut` = its revision follow
    5 Atomic        array of events                         all or nothing; each event inside takes a revision
    6 Outcome       identity, fingerprint, at, slot,        takes no revision, and follows all others: what a
                    withheld, reply bin                     `Once` did. at: the place of its last event in the record,
                                                            from 0; slot: of its keys; reply: a reply as MessagePack,
                                                            whose revision ~n is that of the record's event n
    7 Placed        sequence, done, state bin               on a machine of a cluster, last of all: which message of the
                                                            order the record is of, how many of its operations are
                                                            decided with this record and those before it, and what the
                                                            messages before it add up to (`shards.order.replica`)

**PUB**, shard to gateways: one frame, a log record as in the log, or, where the record is larger than
`PUBLISH_BYTES`, its header alone. Messages may be lost; the log has them all.

**Activity**, PUB of every worker and gateway to the SUB that each gateway binds: one frame, a MessagePack array of
`Activity`. Best effort, and sent only while the board counts a listener.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator, Sequence
from typing import Annotated, Literal, NamedTuple, cast

import msgspec

from shards.wire.errors import KVError, PreconditionFailed, ProtocolError, from_code
from shards.wire.keys import SLOTS

MESSAGE_OPS = 1024
"""Most operations in one message, and the count at which a shard closes a group."""
MESSAGE_BYTES = 8 << 20
"""Most bytes of keys and values in one message of several operations, and the size at which a group closes."""
PROPOSED_KEYS = 1024
"""Most keys that an `Expire` or an `Evict` names."""
SMALL_OPS = 128
"""Most operations of a message that does not wait for large ones."""
SMALL_BYTES = 256 << 10
"""Most bytes of such a message."""
BATCH_OPS = 10_000
"""Most operations of an atomic batch."""
ANSWER_BYTES = 32 << 20
"""Most bytes of values that the gets of one batch answer."""
PATCHED_BYTES = 64 << 20
"""Bytes that patches of one message, or of one batch, may write before further ones are refused."""
PATCH_WORK_BYTES = 24 << 20
"""Bytes of values that the patches of an atomic batch may read and write, while all else waits."""
RECORD_BYTES = 48 << 20
"""Most bytes that an atomic batch may take in the log."""
REMEMBERED_BYTES = 4 << 10
"""Most bytes of values that are remembered of what a `Once` answered."""
IDENTITY_BYTES = 18
FINGERPRINT_BYTES = 16
PUBLISH_BYTES = 64 << 10
"""Records larger than this are announced on PUB by their header alone."""

_REQUEST = struct.Struct("<4sIQQQ")
_REPLY = struct.Struct("<4sIQ")
_REQUEST_MAGIC, _REPLY_MAGIC, _PART_MAGIC = b"KVQ1", b"KVR1", b"KVP1"


class _Wire(msgspec.Struct, array_like=True, gc=False, forbid_unknown_fields=True):
    """Base of everything on the wire: an array that starts with a tag, closed against further fields."""


Revisions = list[int] | Literal["*"]
"""What a key's revision is compared with: some revisions, or any."""


class Condition(_Wire):
    if_match: Revisions | None = None
    if_none_match: Revisions | None = None

    def check(self, revision: int) -> None:
        """Raise `PreconditionFailed` unless this holds for a key of `revision`; 0: it is absent."""
        if self.if_match is not None and not _is_among(revision, self.if_match):
            raise PreconditionFailed("the key has another revision" if revision else "the key does not exist", revision)
        if self.if_none_match is not None and _is_among(revision, self.if_none_match):
            raise PreconditionFailed("the key has a revision that the condition excludes", revision)


def _is_among(revision: int, revisions: Revisions) -> bool:
    """Whether a key of `revision` matches `revisions`. The revision of an open group of a shard, which is negative,
    matches "*" alone: no client can know it."""
    return revision != 0 and (revisions == "*" or (revision > 0 and revision in revisions))


MUST_EXIST = Condition(if_match="*")
MUST_NOT_EXIST = Condition(if_none_match="*")


class Put(_Wire, tag=1):
    key: bytes
    value: bytes
    content_type: str = ""
    ttl_ms: int = 0
    expires_ms: int = 0
    want_previous: bool = False
    condition: Condition | None = None


class Delete(_Wire, tag=2):
    key: bytes
    want_previous: bool = False
    condition: Condition | None = None


class Touch(_Wire, tag=3):
    key: bytes
    ttl_ms: int = 0
    expires_ms: int = 0
    condition: Condition | None = None


class MarkPrefix(_Wire, tag=4):
    prefix: bytes


class DeletePrefix(_Wire, tag=5):
    prefix: bytes
    after: bytes
    cut: int
    limit: int
    marked: bool = True


class Incr(_Wire, tag=6):
    key: bytes
    by: int
    ttl_ms: int = 0
    condition: Condition | None = None


class Patch(_Wire, tag=7):
    key: bytes
    patch: bytes
    condition: Condition | None = None


class Get(_Wire, tag=8):
    key: bytes
    batch: int
    condition: Condition | None = None


OfOneKey = Put | Delete | Touch | Incr | Patch | Get


class AtomicBatch(_Wire, tag=9):
    operations: list[OfOneKey]


Identity = Annotated[bytes, msgspec.Meta(min_length=IDENTITY_BYTES, max_length=IDENTITY_BYTES)]
Fingerprint = Annotated[bytes, msgspec.Meta(min_length=FINGERPRINT_BYTES, max_length=FINGERPRINT_BYTES)]


class Once(_Wire, tag=10):
    operation: Put | Delete | Touch | Incr | Patch | AtomicBatch
    identity: Identity
    fingerprint: Fingerprint

    @property
    def key(self) -> bytes:
        """The key of the operation; of a batch the first, empty if it has none."""
        operation = self.operation
        if isinstance(operation, AtomicBatch):
            return operation.operations[0].key if operation.operations else b""
        return operation.key


Proposed = list[tuple[bytes, int]]
"""Keys, each with the revision that it must still have."""


class Expire(_Wire, tag=11):
    keys: Proposed


class Evict(_Wire, tag=12):
    keys: Proposed


Operation = Put | Delete | Touch | MarkPrefix | DeletePrefix | Incr | Patch | Get | AtomicBatch | Once | Expire | Evict


class Done(_Wire, tag=1):
    revision: int
    existed: bool
    previous: bytes | None = None
    expires_ms: int = 0


class Replaced(Done, tag=4):
    previous_type: str = ""
    previous_revision: int = 0


class Deleted(_Wire, tag=2):
    keys: list[bytes]
    next: bytes | None


class Failed(_Wire, tag=3):
    code: str
    detail: str = ""
    revision: int = 0
    members: dict[str, object] | None = None

    @classmethod
    def of(cls, error: KVError) -> Failed:
        """Build the reply that carries `error`."""
        return cls(error.code, error.detail, error.revision, error.members or None)

    def error(self) -> KVError:
        """Rebuild the error that this reply carries."""
        error = from_code(self.code, self.detail)
        error.revision = self.revision
        error.members = self.members or {}
        return error


class Value(_Wire, tag=5):
    revision: int
    existed: bool
    value: bytes = b""
    content_type: str = ""
    expires_ms: int = 0


OfOne = Done | Replaced | Value | Failed


class Results(_Wire, tag=6):
    replies: list[OfOne]
    failed: int | None = None


Remembered = Done | Replaced | Value | Results
"""What a shard remembers of an operation that it did once."""


class Replayed(_Wire, tag=7):
    reply: Remembered
    withheld: bool = False


Reply = Done | Deleted | Failed | Replaced | Value | Results | Replayed

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


class Outcome(_Wire, tag=6):
    identity: Identity
    fingerprint: Fingerprint
    at: Annotated[int, msgspec.Meta(ge=0, lt=1 << 32)]
    slot: Annotated[int, msgspec.Meta(ge=0, lt=SLOTS)]
    withheld: bool
    reply: bytes


class Placed(_Wire, tag=7):
    sequence: int
    done: int
    state: bytes


ActivityKind = Literal["read", "list", "list_prefix", "delete", "delete_prefix", "delete_all", "heartbeat"]


class Activity(_Wire):
    """Something that changed nothing. `subject`: the key, the prefix or the peer's address. `end`: the place where the
    line belongs, the history's end as read after a read, a list or a heartbeat, and before a delete was sent."""

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


_NO_EVENTS = frozenset({Outcome, Placed})  # of what a record's payload holds
_UNREADABLE = (msgspec.MsgspecError, UnicodeDecodeError)  # msgspec leaves a `str` of bad UTF-8 to Python's own error

_encoder = msgspec.msgpack.Encoder()
_encode, _encode_into = _encoder.encode, _encoder.encode_into
_decode_operations = msgspec.msgpack.Decoder(list[Operation]).decode
_decode_replies = msgspec.msgpack.Decoder(list[Reply]).decode
_decode_part = msgspec.msgpack.Decoder(tuple[list[int], list[Reply]]).decode
_decode_events = msgspec.msgpack.Decoder(list[Event | Outcome | Placed]).decode
_decode_placed = msgspec.msgpack.Decoder(Placed).decode
_decode_remembered = msgspec.msgpack.Decoder(Remembered).decode
_decode_activity = msgspec.msgpack.Decoder(list[Activity]).decode


def bare(operation: Operation) -> Operation:
    """Return the operation in a `Once`, and any other unchanged."""
    return operation.operation if type(operation) is Once else operation


def size_of(operation: Operation) -> int:
    """Count the bytes of keys and values in `operation`, which is what counts towards `MESSAGE_BYTES`."""
    if type(operation) is Put:
        return len(operation.key) + len(operation.value)
    if isinstance(operation, Patch):
        return len(operation.key) + len(operation.patch)
    if isinstance(operation, AtomicBatch):
        return sum(map(size_of, operation.operations))
    if isinstance(operation, Once):
        return size_of(operation.operation)
    if isinstance(operation, Expire | Evict):
        return sum(len(key) for key, _ in operation.keys)
    return len(operation.prefix if isinstance(operation, MarkPrefix | DeletePrefix) else operation.key)


def count_of(operation: Operation) -> int:
    """Count the operations in `operation`, which is what counts towards `MESSAGE_OPS`."""
    operation = bare(operation)
    if isinstance(operation, AtomicBatch):
        return max(len(operation.operations), 1)
    return max(len(operation.keys), 1) if isinstance(operation, Expire | Evict) else 1


_PLAIN = frozenset({Put, Delete, Touch, Incr, MarkPrefix})


def is_plain(operations: Sequence[Operation]) -> bool:
    """Whether none of `operations` can take longer than its size suggests, judged without the values in the shard."""
    if len(operations) == 1 and type(operations[0]) in _PLAIN:
        return True
    kinds = set(map(type, operations))
    if Once in kinds:
        return is_plain([bare(operation) for operation in operations])
    if AtomicBatch not in kinds:
        return kinds <= _PLAIN
    batches = [operation.operations for operation in operations if isinstance(operation, AtomicBatch)]
    return kinds <= _PLAIN | {AtomicBatch} and all(map(is_plain, batches))


def encode_request(id: int, incarnation: int, deadline_ns: int, operations: Sequence[Operation]) -> bytearray:
    """Encode a request as one frame."""
    frame = bytearray(_REQUEST.size)
    _encode_into(operations, frame, _REQUEST.size)
    _REQUEST.pack_into(frame, 0, _REQUEST_MAGIC, len(operations), id, incarnation, deadline_ns)
    return frame


def decode_request(frame: bytes) -> Request:
    """Decode the request in `frame`. Raises `MalformedRequest`."""
    if len(frame) < _REQUEST.size:
        raise MalformedRequest("a request is a header of 32 bytes and a body")
    magic, count, id, incarnation, deadline_ns = _REQUEST.unpack_from(frame)
    if magic != _REQUEST_MAGIC:
        raise MalformedRequest(f"unknown magic {magic!r}, expected {_REQUEST_MAGIC!r}")
    try:
        operations = _decode_operations(memoryview(frame)[_REQUEST.size :])
    except _UNREADABLE as error:
        raise MalformedRequest(f"body: {error}", id) from None
    if len(operations) != count or not operations:
        raise MalformedRequest(f"the header counts {count} operations, the body holds {len(operations)}", id)
    return Request(id, incarnation, deadline_ns, operations)


def encode_operations(operations: Sequence[Operation]) -> bytes:
    """Encode `operations` as in the body of a request."""
    return _encode(operations)


def decode_operations(body: bytes) -> list[Operation]:
    """Decode the body of a request. Raises `ProtocolError`."""
    try:
        return _decode_operations(body)
    except _UNREADABLE as error:
        raise ProtocolError(f"operations: {error}") from None


def encode_reply(id: int, replies: Sequence[Reply]) -> bytearray:
    """Encode the replies to a message as one frame."""
    frame = bytearray(_REPLY.size)
    _encode_into(replies, frame, _REPLY.size)
    _REPLY.pack_into(frame, 0, _REPLY_MAGIC, len(replies), id)
    return frame


def decode_reply(frame: bytes) -> tuple[int, list[Reply]]:
    """Decode id and replies. Raises `ProtocolError`."""
    if len(frame) < _REPLY.size:
        raise ProtocolError("a reply is a header of 16 bytes and a body")
    magic, count, id = _REPLY.unpack_from(frame)
    if magic != _REPLY_MAGIC:
        raise ProtocolError(f"unknown magic {magic!r}, expected {_REPLY_MAGIC!r}")
    try:
        replies = _decode_replies(memoryview(frame)[_REPLY.size :])
    except _UNREADABLE as error:
        raise ProtocolError(f"body: {error}") from None
    if len(replies) != count:
        raise ProtocolError(f"the header counts {count} replies, the body holds {len(replies)}")
    return id, replies


def encode_part(id: int, places: Sequence[int], replies: Sequence[Reply]) -> bytearray:
    """Encode some of the replies, those to the operations at `places`, as one frame."""
    frame = bytearray(_REPLY.size)
    _encode_into((places, replies), frame, _REPLY.size)
    _REPLY.pack_into(frame, 0, _PART_MAGIC, len(replies), id)
    return frame


def is_part(frame: bytes) -> bool:
    """Whether `frame` carries only some of the replies to a message."""
    return frame.startswith(_PART_MAGIC)


def decode_part(frame: bytes) -> tuple[int, list[int], list[Reply]]:
    """Decode id, places and replies. Raises `ProtocolError`."""
    try:
        _, count, id = _REPLY.unpack_from(frame)
        places, replies = _decode_part(memoryview(frame)[_REPLY.size :])
    except (struct.error, *_UNREADABLE) as error:
        raise ProtocolError(f"part: {error}") from None
    if not len(places) == len(replies) == count:
        raise ProtocolError(f"the header counts {count} replies, the body holds {len(replies)} for {len(places)}")
    return id, places, replies


def encode_events(events: Sequence[Event | Outcome | Placed]) -> bytes:
    """Encode `events`, then outcomes, then the place in the order if there is one, as the payload of the log record
    that commits them."""
    return _encode(events)


def decode_events(payload: bytes | memoryview) -> list[Event]:
    """Decode the events of a record's payload, without its outcomes. Raises `ProtocolError`."""
    return decode_record(payload)[0]


def decode_record(payload: bytes | memoryview) -> tuple[list[Event], list[Outcome]]:
    """Decode the events of a record's payload, and the outcomes after them. Raises `ProtocolError`."""
    events, outcomes, _ = decode_placed_record(payload)
    return events, outcomes


def decode_placed_record(payload: bytes | memoryview) -> tuple[list[Event], list[Outcome], Placed | None]:
    """Decode a record's payload as `decode_record` does, and its place in the order of a cluster, if it has one."""
    try:
        decoded = _decode_events(payload)
    except _UNREADABLE as error:
        raise ProtocolError(f"events: {error}") from None
    if _NO_EVENTS.isdisjoint(map(type, decoded)):
        return cast("list[Event]", decoded), [], None
    placed = decoded.pop() if isinstance(decoded[-1], Placed) else None
    events: list[Event] = [event for event in decoded if not isinstance(event, Outcome | Placed)]
    outcomes = [event for event in decoded[len(events) :] if isinstance(event, Outcome)]
    if len(events) + len(outcomes) < len(decoded):
        raise ProtocolError("events: an outcome comes before an event, or a place in the order before another part")
    return events, outcomes, cast("Placed | None", placed)


def encode_placed(placed: Placed) -> bytes:
    """Encode a place in the order by itself."""
    return _encode(placed)


def decode_placed(place: bytes) -> Placed:
    """Decode what `encode_placed` made. Raises `ProtocolError`."""
    try:
        return _decode_placed(place)
    except _UNREADABLE as error:
        raise ProtocolError(f"a place in the order: {error}") from None


def encode_remembered(reply: Remembered) -> bytes:
    """Encode what is remembered of a reply, whose revisions may be a group's own."""
    return _encode(reply)


def decode_remembered(reply: bytes) -> Remembered:
    """Decode what `encode_remembered` made. Raises `ProtocolError`."""
    try:
        return _decode_remembered(reply)
    except _UNREADABLE as error:
        raise ProtocolError(f"a remembered reply: {error}") from None


def changes(events: Sequence[Event], first_revision: int) -> Iterator[tuple[int, Change]]:
    """Yield each change with its revision, atomic batches flattened."""
    if Atomic not in map(type, events):
        return enumerate(cast("Sequence[Change]", events), first_revision)
    return _flatten_changes(events, first_revision)


def _flatten_changes(events: Sequence[Event], revision: int) -> Iterator[tuple[int, Change]]:
    for event in events:
        for change in event.changes if isinstance(event, Atomic) else (event,):
            yield revision, change
            revision += 1


def count_changes(events: Iterable[Event]) -> int:
    """Count the revisions that `events` take."""
    return sum(len(event.changes) if isinstance(event, Atomic) else 1 for event in events)


_PRESENT = b"present "


def encode_presence(pid: int) -> bytes:
    """Encode the answer of process `pid` to a gateway's roll call."""
    return _PRESENT + b"%d" % pid


def decode_presence(frame: bytes) -> int | None:
    """Return the pid in an answer to a roll call; None if `frame` is something else, as lines of activity are."""
    pid = frame.removeprefix(_PRESENT)
    return int(pid) if pid != frame and pid.isdigit() else None


def encode_activity(lines: Sequence[Activity]) -> bytes:
    """Encode `lines` as one frame."""
    return _encode(lines)


def decode_activity(frame: bytes) -> list[Activity]:
    """Decode the lines of an activity frame. Raises `ProtocolError`."""
    try:
        return _decode_activity(frame)
    except _UNREADABLE as error:
        raise ProtocolError(f"activity: {error}") from None
