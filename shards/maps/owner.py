"""Writes the map of a shard: one LMDB environment per shard in shared memory, the view of the log that answers reads.

The shard alone writes its map, one transaction a group; other processes read it (`reader`). A map is never flushed:
where its content is in doubt, it is built again from snapshot and log (`build`). `layout` specifies its records.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Sequence
from pathlib import Path
from typing import TypeVar

import lmdb
import msgspec

from shards.log.records import START, Record, Start
from shards.maps.layout import (
    APPLIED,
    HEADER,
    HEADER_SIZE,
    Identity,
    Item,
    check_record,
    decode_identity,
    parse_record,
    read_applied,
    scan,
)
from shards.maps.outcome_table import OutcomeTable
from shards.maps.storage import MapStorage
from shards.wire.clock import Now, is_live
from shards.wire.keys import shard_of, slot_of
from shards.wire.outcomes import OutcomeRecord
from shards.wire.protocol import DeleteEvent, Event, Outcome, PrefixMarked, PutEvent, changes, decode_record

NOT_MINE = 1 << 63
"""In a table of floors: no event of this slot is applied."""

_unpack = HEADER.unpack_from
_pack = HEADER.pack

_LARGE = 4 << 10
"""Bytes of a record from which on a touch, which has to write the value again, waits for later ones of its record."""

T = TypeVar("T")
Group = tuple[Record, Sequence[Event], Sequence[Outcome]]
"""A record with what its payload holds."""
Old = tuple[bytes, str, int]
"""What a key held before: value, content type, revision."""


class MapOwner:
    """The owner's handle on its map: what records do to it.

    Attributes:
        storage: the file, and how much room it has.
    """

    def __init__(self, path: Path, ballast: Path | None = None) -> None:
        """Open the map at `path`, or make an empty one there (then `applied` is (0, 0) and `identity` None).

        Raises `MapError`.
        """
        self.path = path
        self.storage = storage = MapStorage(path, ballast)
        self._env, self._data, self._meta = storage.env, storage.data, storage.meta
        self._outcomes = OutcomeTable(storage)
        with self._env.begin(buffers=True) as txn:
            self._applied = read_applied(txn, self._meta)

    @property
    def applied(self) -> tuple[int, int]:
        """LSN after the last record applied, and its last revision."""
        return self._applied

    def identity(self) -> Identity | None:
        """Read whose map it is; None while it is being filled. Raises `MapError` if that cannot be read."""
        with self._env.begin(self._meta) as txn:
            return decode_identity(txn.get(b"identity"), self.path)

    def identify(self, identity: Identity, lsn: int, revision: int) -> None:
        """Write identity and position: from now on the map is complete."""

        def write(txn: lmdb.Transaction[memoryview]) -> None:
            txn.put(b"identity", msgspec.json.encode(identity), db=self._meta)
            txn.put(b"applied", APPLIED.pack(lsn, revision), db=self._meta)

        self.storage.transact(write)
        self._applied = (lsn, revision)

    def get(self, key: bytes, now: Now) -> Item | None:
        """Return the item of `key` at `now`; None if it is absent or expired."""
        with self._env.begin(self._data, buffers=True) as txn:
            record = txn.get(key)
            return parse_record(record) if record is not None and is_live(_unpack(record)[2], now) else None

    def find_outcome(self, identity: bytes) -> OutcomeRecord | None:
        """Return what is remembered of the operation of `identity`; None if nothing is. It may be over."""
        return self._outcomes.find(identity)

    def apply_changes(
        self,
        events: Sequence[Event],
        record: Record,
        previous: Collection[int] = (),
        outcomes: Sequence[Outcome] = (),
    ) -> dict[int, Old]:
        """Apply one record whose events and outcomes are at hand; see `apply`."""
        return self._apply_groups([(record, events, outcomes)], None, previous)

    def apply(
        self, records: Iterable[Record], floors: Sequence[int] | None = None, previous: Collection[int] = ()
    ) -> dict[int, Old]:
        """Apply `records` in one transaction, `applied` included. What was applied before is skipped.

        `floors` has a number for each slot: its events up to this revision are skipped; `NOT_MINE` skips all. Without
        it every record that is new to the map belongs to it.
        Returns what the events with the revisions `previous` replaced or deleted, where there was a live value, by
        revision.
        Drops the ballast if the file system is full; raises `MapFull` if that does not help, `MapError` if LMDB fails
        otherwise, `ProtocolError` if a record cannot be read.
        """
        groups = [(record, *(decode_record(record.payload) if record.events else ((), ()))) for record in records]
        return self._apply_groups(groups, floors, previous)

    def _apply_groups(
        self, groups: Sequence[Group], floors: Sequence[int] | None, previous: Collection[int]
    ) -> dict[int, Old]:
        lsn, revision = self._applied
        for record, _, _ in groups:
            lsn, revision = max(lsn, record.end), max(revision, record.next_revision - 1)

        def write(txn: lmdb.Transaction[memoryview]) -> dict[int, Old]:
            replaced: dict[int, Old] = {}
            for record, events, outcomes in groups:
                if record.kind == START:
                    if record.lsn >= self._applied[0]:
                        _reset_clock(txn, record, floors)
                        self._outcomes.reset_clock(txn, record, floors)
                elif floors is not None or record.revision > self._applied[1]:
                    _apply_events(txn, events, record, floors, previous, replaced)
                    if outcomes:
                        self._outcomes.add(txn, outcomes, record, floors)
            txn.put(b"applied", APPLIED.pack(lsn, revision), db=self._meta)
            return replaced

        replaced = self.storage.transact(write)
        self._applied = (lsn, revision)
        return replaced

    def advance(self, lsn: int, revision: int) -> None:
        """Note that nothing up to there is missing, although the last records were not this shard's.

        A map whose `applied` the log has trimmed cannot be kept over a restart of the server. The caller's own last
        record must be applied; (lsn, revision) is the board's watermark.
        """
        if lsn > self._applied[0]:
            self.storage.transact(lambda txn: txn.put(b"applied", APPLIED.pack(lsn, revision), db=self._meta))
            self._applied = (lsn, revision)

    def load(self, items: Iterable[tuple[bytes, bytes]]) -> None:
        """Put raw records of another map's `data` into this one, in one transaction. Raises `MapFull`."""
        rows = list(items)
        self.storage.transact(lambda txn: [txn.put(key, record) for key, record in rows])

    def load_outcomes(self, rows: Sequence[tuple[bytes, bytes]]) -> None:
        """Put raw records of another map's `outcomes` into this one, in one transaction. Raises `MapFull`."""
        self.storage.transact(lambda txn: self._outcomes.load(txn, rows))

    def entries(self) -> Iterator[tuple[bytes, int, int, int, int]]:
        """Yield key, revision, revision of the value, expiry and size of every key, expired ones too, in key order.

        Holds a read transaction until it is exhausted or closed.
        """
        with self._env.begin(buffers=True) as txn:
            for key, record in txn.cursor(self._data):
                revision, value_revision, expires_ms, _, _, length = _unpack(record)
                yield bytes(key), revision, value_revision, expires_ms, len(record) - HEADER_SIZE - length

    def list_versions(self, prefix: bytes, after: bytes | None, limit: int) -> list[tuple[bytes, int, int]]:
        """List key, revision of the value and revision of at most `limit` keys, expired ones too, in key order.

        The keys start with `prefix` and are above `after`.
        """
        found: list[tuple[bytes, int, int]] = []
        with self._env.begin(buffers=True) as txn:
            for key, record in scan(txn, self._data, prefix, after):
                if len(found) >= limit:
                    break
                revision, value_revision, *_ = _unpack(record)
                found.append((bytes(key), value_revision, revision))
        return found

    def check(self, shards: int, shard: int, expected: dict[bytes, tuple[int, int, int, int]] | None = None) -> None:
        """Verify every record: its header makes sense, its slot is this shard's, and it says what `expected` (key to
        revision, revision of the value, expiry, size) says. Raises `AssertionError`."""
        count = 0
        with self._env.begin(buffers=True) as txn:
            for key_view, record in txn.cursor(self._data):
                key, count = bytes(key_view), count + 1
                entry = check_record(key, record)
                assert shard_of(key, shards) == shard, f"{key!r} belongs to shard {shard_of(key, shards)}, not {shard}"
                if expected is not None:
                    assert expected.get(key) == entry, f"{key!r}: map {entry}, expected {expected.get(key)}"
        self._outcomes.check(shards, shard)
        assert expected is None or count == len(expected), f"the map has {count} keys, expected {len(expected or ())}"

    def close(self) -> None:
        """Close the map, which stays."""
        self.storage.close()


def _reset_clock(txn: lmdb.Transaction[memoryview], record: Record, floors: Sequence[int] | None) -> None:
    """Apply the clock reset of `record`, a START, to all records written before it."""
    reset_ms = Start.decode(record.payload).reset_ms
    if reset_ms is None:
        return
    time_ms = record.time_ms
    for key, old in txn.cursor():
        revision, value_revision, expiry, created_ms, modified_ms, length = _unpack(old)
        if revision >= record.revision or (floors is not None and record.revision <= floors[slot_of(bytes(key))] + 1):
            continue  # what was applied to the file that this key came from
        if expiry < 0:
            expiry -= reset_ms
        header = revision, value_revision, expiry, min(created_ms, time_ms), min(modified_ms, time_ms), length
        txn.put(bytes(key), _pack(*header) + bytes(old[HEADER_SIZE:]))


def _apply_events(
    txn: lmdb.Transaction[memoryview],
    events: Sequence[Event],
    record: Record,
    floors: Sequence[int] | None,
    previous: Collection[int],
    replaced: dict[int, Old],
) -> None:
    get, put, now, time_ms = txn.get, txn.put, record.now, record.time_ms
    touched: dict[bytes, tuple[int, int, int, int, int, int]] = {}  # headers to be written, each once, at the end
    for revision, change in changes(events, record.revision):
        if isinstance(change, PrefixMarked):
            continue  # changes nothing on its own
        key = change.key
        if floors is not None and revision <= floors[slot_of(key)]:
            continue
        old = get(key)
        created_ms = time_ms
        if old is not None:
            header = (touched.pop(key, None) if touched else None) or _unpack(old)
            old_revision, value_revision, expires_ms, old_created_ms, modified_ms, length = header
            if not expires_ms or is_live(expires_ms, now):
                created_ms = min(old_created_ms, time_ms)  # the clock may have been set back
                if revision in previous:
                    value_at = HEADER_SIZE + length
                    content_type = old[HEADER_SIZE:value_at].tobytes().decode() if length else ""
                    replaced[revision] = old[value_at:].tobytes(), content_type, old_revision
        if isinstance(change, PutEvent):
            kind = change.content_type.encode()
            put(key, _pack(revision, revision, change.expires_ms, created_ms, time_ms, len(kind)) + kind + change.value)
        elif old is None:
            continue  # deletes and touches of what is not there: a replay over a state that is ahead
        elif isinstance(change, DeleteEvent):
            txn.delete(key)
        else:
            header = revision, value_revision, change.expires_ms, old_created_ms, modified_ms, length
            if len(old) < _LARGE:
                put(key, _pack(*header) + bytes(old[HEADER_SIZE:]))
            else:
                touched[key] = header
    for key, header in touched.items():
        old = get(key)
        assert old is not None, f"the map has no {key!r}"
        put(key, b"".join((_pack(*header), old[HEADER_SIZE:])))  # one copy: it may have megabytes
