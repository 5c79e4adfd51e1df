"""The log's records as bytes. Pure; this docstring is the spec.

The log is one sequence of bytes over all its segments; a byte's place in it is its **LSN**. A record is what one shard
commits together: a header of 64 bytes, little endian, and the payload::

    magic     4s   b"KVL1"
    kind      u8   1 DATA, 2 START, 3 STOP, 4 MARK, 5 FILLER, 6 ORDER
    -         u8   0
    shard     u16  of its writer; 0xFFFF: the supervisor. Another shard may own its keys today
    events    u32  how many revisions it takes
    length    u32  of what follows the header
    lsn       u64  its own place
    synced    u64  LSN up to which the log was known to be flushed when this was written; at most `lsn`
    revision  u64  of its first event; with no events: the revision that comes next; of a FILLER 0
    time_ms   u64  wall time in milliseconds: Unix time as the machine's clock was set, which may go back
    behind_ms i64  by how much that was behind the store's steady time (see `clock`), which never goes back
    -         4    0
    crc       u32  CRC-32 of the payload and then of the 60 bytes above, seeded with the low half of the store's secret

- DATA carries events (see `protocol`). START carries a `Start`, begins a run of the server, and is the only one that
  may raise the revision. STOP is the last record of a run that ended cleanly. MARK says by its `synced`, which is its
  own place, that everything before it is flushed.
- A record never crosses a segment's end. FILLER skips to it: `length` counts the bytes left, which may be anything
  and are not in its CRC. Where not even a header fits, no record is written, and the next one starts the next segment.
- Segments are used again without being cleared. Old bytes are not records: their LSN is another. Bytes that a client
  made up are not records: the CRC needs the secret.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator
from typing import Annotated, NamedTuple
from zlib import crc32

import msgspec

from shards.wire.clock import Now

DATA, START, STOP, MARK, FILLER, ORDER = 1, 2, 3, 4, 5, 6
KINDS = frozenset((DATA, START, STOP, MARK, FILLER, ORDER))

NO_SHARD = 0xFFFF
"""`shard` of the supervisor's records."""

_MAGIC = b"KVL1"
_HEAD = struct.Struct("<4sBxHIIQQQQq4x")  # all but the CRC
_CRC = struct.Struct("<I")
HEADER = _HEAD.size + _CRC.size
"""Bytes of a header: 64."""
_CRC_AT = _HEAD.size


class Record(NamedTuple):
    """A record. `end` is the LSN of the byte after it; its events take the revisions from `revision` on."""

    kind: int
    shard: int
    events: int
    lsn: int
    end: int
    synced: int
    revision: int
    time_ms: int
    payload: bytes
    behind_ms: int = 0

    @property
    def now(self) -> Now:
        """When it was written."""
        return Now(self.time_ms, self.time_ms + self.behind_ms)

    @property
    def next_revision(self) -> int:
        """The revision that comes after this record."""
        return self.revision + self.events


_Milliseconds = Annotated[int, msgspec.Meta(ge=-(1 << 53), le=1 << 53)]
_Word = Annotated[str, msgspec.Meta(pattern=r"^[!-~]{1,64}\Z")]  # printable: it is shown


class Start(msgspec.Struct, frozen=True, kw_only=True):
    """Payload of a START record: which history this is, and under which promise the run writes it.

    Attributes:
        store: id of the store.
        epoch: name of the history.
        boot_id: of the machine's boot in which the run began.
        sync: `always`, `everysec` or `os`.
        version: of the server.
        clock_offset_ms: what made steady time of CLOCK_BOOTTIME; None: written by a version that had no steady time.
        reset_ms: by how much steady time was moved here, so that it is the wall time; what is left of lifetimes stays,
            and nothing written before counts as written later than this. None: nothing of the kind.
    """

    store: _Word
    epoch: _Word
    boot_id: _Word
    sync: _Word
    version: _Word
    clock_offset_ms: _Milliseconds | None = None
    reset_ms: _Milliseconds | None = None

    def encode(self) -> bytes:
        """The payload."""
        return msgspec.msgpack.encode(self)

    @classmethod
    def decode(cls, payload: bytes) -> Start:
        """The START in `payload`. Raises `msgspec.MsgspecError`."""
        return msgspec.msgpack.decode(payload, type=cls)


class OrderPosition(msgspec.Struct, frozen=True, kw_only=True):
    """Payload of an ORDER record: which messages of the order are in the log before it, all others are not.

    Attributes:
        sequence: of the last message that was decided; 0: none.
        state: what the messages up to there add up to (see `shards.order.replica`), in its own encoding.
        shown_lsn, shown_revision: up to where every member of the cluster had what the log holds when this was written:
            an LSN, and the last revision below it.
    """

    sequence: Annotated[int, msgspec.Meta(ge=0)]
    state: bytes
    shown_lsn: Annotated[int, msgspec.Meta(ge=0)]
    shown_revision: Annotated[int, msgspec.Meta(ge=0, lt=1 << 53)]

    def encode(self) -> bytes:
        """The payload."""
        return msgspec.msgpack.encode(self)

    @classmethod
    def decode(cls, payload: bytes) -> OrderPosition:
        """The position in `payload`. Raises `msgspec.MsgspecError`."""
        return msgspec.msgpack.decode(payload, type=cls)


def checksum(payload: bytes, secret: int) -> int:
    """Compute the payload's part of a record's CRC, which does not depend on the record's place."""
    return crc32(payload, secret)


def seal(
    kind: int, shard: int, events: int, length: int, lsn: int, synced: int, revision: int, now: Now, begun: int
) -> bytes:
    """Build the header of a record whose payload has `length` bytes and the `checksum` `begun`."""
    wall_ms, steady_ms = now
    head = _HEAD.pack(_MAGIC, kind, shard, events, length, lsn, synced, revision, wall_ms, steady_ms - wall_ms)
    return head + _CRC.pack(crc32(head, begun))


def filler(lsn: int, length: int, synced: int, now: Now, secret: int) -> bytes:
    """Build the header of a FILLER that skips `length` bytes after itself."""
    return seal(FILLER, NO_SHARD, 0, length, lsn, synced, 0, now, checksum(b"", secret))


def encode(record: Record, secret: int) -> bytes:
    """Encode the whole record as it is in the log; of a FILLER only the header."""
    begun, length = checksum(record.payload, secret), record.end - record.lsn - HEADER
    return (
        seal(
            record.kind,
            record.shard,
            record.events,
            length,
            record.lsn,
            record.synced,
            record.revision,
            record.now,
            begun,
        )
        + record.payload
    )


def decode_header(buffer: bytes, at: int = 0) -> Record | None:
    """Decode the header at `at`, UNCHECKED and without its payload; None if there is no header."""
    if len(buffer) - at < HEADER:
        return None
    magic, kind, shard, events, length, lsn, synced, revision, time_ms, behind_ms = _HEAD.unpack_from(buffer, at)
    if magic != _MAGIC or kind not in KINDS:
        return None
    return Record(kind, shard, events, lsn, lsn + HEADER + length, synced, revision, time_ms, b"", behind_ms)


def decode(buffer: bytes, secret: int, at: int = 0, expected: int | None = None) -> Record | None:
    """Decode the whole record at `at`, of LSN `expected` if that is given.

    None if there is no record, it is damaged, or it continues after the buffer's end.
    """
    if len(buffer) - at < HEADER:
        return None
    magic, kind, shard, events, length, lsn, synced, revision, time_ms, behind_ms = _HEAD.unpack_from(buffer, at)
    body = at + HEADER
    if magic != _MAGIC or (expected is not None and lsn != expected):
        return None
    if kind == FILLER:
        payload = b""
    elif body + length <= len(buffer):
        payload = buffer[body : body + length]
    else:
        return None
    (crc,) = _CRC.unpack_from(buffer, at + _CRC_AT)
    if crc32(buffer[at : at + _CRC_AT], crc32(payload, secret)) != crc or kind not in KINDS:
        return None
    return Record(kind, shard, events, lsn, lsn + HEADER + length, synced, revision, time_ms, payload, behind_ms)


def walk(buffer: bytes, lsn: int, secret: int, at: int = 0) -> Iterator[Record]:
    """Yield consecutive records from `at` on in `buffer`, whose first byte is `lsn`.

    Stops at the first byte that doesn't fit: no record, another LSN, a wrong CRC, or the buffer's end. Fillers are
    yielded too.
    """
    while True:
        record = decode(buffer, secret, at, lsn + at)
        if record is None:
            return
        yield record
        at = record.end - lsn


def search(buffer: bytes, lsn: int, secret: int, at: int = 0) -> Iterator[Record]:
    """Yield every whole record anywhere from `at` on in `buffer`, whose first byte is `lsn`.

    For what is after a place at which `walk` stopped: it says how far the log once was flushed.
    """
    while (at := buffer.find(_MAGIC, at)) >= 0:
        record = decode(buffer, secret, at, lsn + at)
        if record is None:
            at += 1
            continue
        yield record
        at = record.end - lsn


def follows(record: Record, next_revision: int) -> bool:
    """Whether `record` may be where `next_revision` comes next: only a START may raise it, a FILLER has none."""
    if record.kind == START:
        return record.revision >= next_revision
    return record.revision == next_revision or record.kind == FILLER


def place(tail: int, size: int, segment: int) -> int:
    """Return the LSN for a record of `size` bytes when the log ends at `tail`: there, or in the next segment."""
    left = segment - tail % segment
    return tail if size <= left else tail + left


def is_trace(head: bytes, lsn: int, revision: int) -> bool:
    """Whether `head`, the bytes at `lsn`, may be left of a record that was there and began with `revision`.

    Of two fields that are in no other record's header, damage would have to hit both.
    """
    if len(head) < HEADER:
        return False
    _, _, _, _, _, its_lsn, _, its_revision, _, _ = _HEAD.unpack_from(head)
    return bool(its_lsn == lsn or its_revision == revision)


def is_torn(cut: int, flushed: Iterable[int]) -> bool:
    """Whether what is missing from `cut` on is the torn tail that a crash may leave.

    `flushed`: every LSN that something says the log was flushed to. If one of them is above `cut`, bytes that had
    reached the disk are gone or changed: damage.
    """
    return all(lsn <= cut for lsn in flushed)
