"""What a shard remembers of the operations that it did once: replies without large values, and their records. Pure.

A shard forgets an outcome after `KEEP_MS`. Sooner, the oldest first, if it has more than `KEEP_COUNT` of them, or more
than `KEEP_BYTES`; but not within `HELD_MS`, unless the map is full. That is longer than a message may wait: so no first
copy of a request that was held up on its way is executed after its outcome was forgotten.

A record of an outcome in a map is a header, little endian, and the reply as the log has it (see `protocol`)::

    revision u64 | steady_ms i64 | slot u16 | withheld u8 | identity 18 bytes | fingerprint 16 bytes

`revision` is that of the first event of the log's record; revisions in the reply count from it. `steady_ms` is when the
operation was done.
"""

from __future__ import annotations

import struct
from typing import NamedTuple

from shards.wire.clock import Now
from shards.wire.errors import ProtocolError
from shards.wire.protocol import (
    FINGERPRINT_BYTES,
    IDENTITY_BYTES,
    REMEMBERED_BYTES,
    Done,
    OfOne,
    Outcome,
    Remembered,
    Replaced,
    Results,
    Value,
    decode_remembered,
)

KEEP_MS = 600_000
"""Milliseconds after which an outcome is forgotten."""
KEEP_COUNT = 100_000
"""Outcomes that a shard keeps for as long."""
KEEP_BYTES = 64 << 20
"""Bytes of records of outcomes that a shard keeps for as long."""
HELD_MS = 30_000
"""Milliseconds for which an outcome is kept, however many follow."""

_HEADER = struct.Struct(f"<QqHB{IDENTITY_BYTES}s{FINGERPRINT_BYTES}s")


class OutcomeRecord(NamedTuple):
    """An outcome as a map has it; see the module's docstring."""

    revision: int
    steady_ms: int
    slot: int
    withheld: bool
    identity: bytes
    fingerprint: bytes
    reply: bytes

    @classmethod
    def of(cls, outcome: Outcome, revision: int, now: Now) -> OutcomeRecord:
        """Make the record of `outcome`, whose log record begins with `revision` and was written at `now`."""
        return cls(
            revision,
            now.steady_ms,
            outcome.slot,
            outcome.withheld,
            outcome.identity,
            outcome.fingerprint,
            outcome.reply,
        )

    @classmethod
    def decode(cls, record: bytes | memoryview) -> OutcomeRecord:
        """Decode a record. Raises `ProtocolError`."""
        try:
            revision, steady_ms, slot, withheld, identity, fingerprint = _HEADER.unpack_from(record)
        except struct.error as error:
            raise ProtocolError(f"an outcome: {error}") from None
        return cls(revision, steady_ms, slot, bool(withheld), identity, fingerprint, bytes(record[_HEADER.size :]))

    def encode(self) -> bytes:
        """Encode the record."""
        revision, steady_ms, slot, withheld, identity, fingerprint, reply = self
        return _HEADER.pack(revision, steady_ms, slot, withheld, identity, fingerprint) + reply

    def is_over(self, now: Now) -> bool:
        """Whether it is forgotten at `now` for its age."""
        return now.steady_ms - self.steady_ms >= KEEP_MS

    def is_spare(self, now: Now) -> bool:
        """Whether it may be forgotten at `now` to make room."""
        return now.steady_ms - self.steady_ms >= HELD_MS

    def decode_reply(self) -> Remembered:
        """Return the reply, with real revisions. Raises `ProtocolError`."""
        reply = decode_remembered(self.reply)
        for part in parts_of(reply):
            part.revision = _real(part.revision, self.revision)
            if isinstance(part, Replaced):
                part.previous_revision = _real(part.previous_revision, self.revision)
        return reply


def parts_of(reply: Remembered) -> list[Done | Value]:
    """Return the replies in `reply` to single operations."""
    if isinstance(reply, Results):
        return [part for part in reply.replies if isinstance(part, Done | Value)]
    return [reply]


def without_large_values(reply: Remembered, most: int = REMEMBERED_BYTES) -> tuple[Remembered, bool]:
    """Return what is remembered of `reply`, as a copy, and whether its values, above `most` bytes, are left out."""
    if isinstance(reply, Results):
        values = [part for part in reply.replies if isinstance(part, Value)]
        withheld = sum(len(part.value) + len(part.content_type) for part in values) > most
        return Results([_part_of_batch(part, withheld) for part in reply.replies]), withheld
    if isinstance(reply, Replaced):
        withheld = reply.previous is None or len(reply.previous) > most
        previous, kind = (None, "") if withheld else (reply.previous, reply.previous_type)
        kept = Replaced(reply.revision, reply.existed, previous, reply.expires_ms, kind, reply.previous_revision)
        return kept, withheld
    if isinstance(reply, Value):
        withheld = len(reply.value) > most
        value, kind = (b"", "") if withheld else (reply.value, reply.content_type)
        return Value(reply.revision, reply.existed, value, kind, reply.expires_ms), withheld
    return Done(reply.revision, reply.existed, None, reply.expires_ms), False


def _part_of_batch(part: OfOne, withheld: bool) -> OfOne:
    """Return what is remembered of the reply to an operation of an atomic batch: of a change without a value no client
    gets more than its revision."""
    if isinstance(part, Value):
        value, kind = (b"", "") if withheld else (part.value, part.content_type)
        return Value(part.revision, part.existed, value, kind, part.expires_ms)
    return Done(part.revision, part.existed) if isinstance(part, Done) else part


def _real(revision: int, first: int) -> int:
    return first - 1 - revision if revision < 0 else revision
