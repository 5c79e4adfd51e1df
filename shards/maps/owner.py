"""Writes the map of a shard: one LMDB environment per shard in shared memory, the view of the log that answers reads.

The shard alone writes its map, one transaction a group; other processes read it (`reader`). A map is never flushed:
where its content is in doubt, it is built again from snapshot and log (`build`). `layout` specifies its records.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from itertools import islice
from pathlib import Path
from typing import TypeVar

import lmdb
import msgspec

from shards.keys.entries import Entry, Totals
from shards.log.records import ORDER, START, OrderPosition, Record, Start
from shards.maps.layout import (
    APPLIED,
    HEADER,
    HEADER_SIZE,
    TOTALS,
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
from shards.wire.protocol import (
    DeleteEvent,
    Event,
    Outcome,
    Placed,
    PrefixMarked,
    PutEvent,
    TouchEvent,
    changes,
    decode_placed,
    decode_placed_record,
    encode_placed,
)

NOT_MINE = 1 << 63
"""In a table of floors: no event of this slot is applied."""

_unpack = HEADER.unpack_from
_pack = HEADER.pack

_LARGE = 4 << 10
"""Bytes of a record from which on a touch, which has to write the value again, waits for later ones of its record."""

_MOST_SEEN = 4096
"""Keys of which is remembered what `find_entry` saw, between two records."""

T = TypeVar("T")
Group = tuple[Record, Sequence[Event], Sequence[Outcome], Placed | None]
"""A record with what its payload holds."""
Sums = tuple[int, int]
"""Bytes of keys and values, and how many keys have an expiry: of all keys, or by how much that changes."""
Seen = tuple[tuple[int, int, int, int, int, int] | None, int]
"""The header of a record and its bytes; None: there is no record."""
Old = tuple[bytes, str, int]
"""What a key held before: value, content type, revision."""


class MapOwner:
    """The owner's handle on its map: what records do to it.

    Attributes:
        storage: the file, and how much room it has.
    """

    def __init__(self, path: Path, ballast: Path | None = None, *, follows_order: bool = False) -> None:
        """Open the map at `path`, or make an empty one there (then `applied` is (0, 0) and `identity` None).

        `follows_order`: other machines apply the same records, and must remember the same outcomes. Raises `MapError`.
        """
        self.path = path
        self.storage = storage = MapStorage(path, ballast)
        self._env, self._data, self._meta = storage.env, storage.data, storage.meta
        self._outcomes = OutcomeTable(storage)
        self._outcomes.follows_order = follows_order
        self._begin = storage.env.begin
        self._seen: dict[bytes, Seen] = {}
        with self._env.begin(self._data, buffers=True) as txn:
            self._applied = read_applied(txn, self._meta)
            self._sums = _read_sums(txn, self._meta, self._applied[0])

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
            self._put_position(txn, lsn, revision, self._sums)

        self.storage.transact(write)
        self._applied = (lsn, revision)

    def get(self, key: bytes, now: Now) -> Item | None:
        """Return the item of `key` at `now`; None if it is absent or expired."""
        with self._env.begin(self._data, buffers=True) as txn:
            record = txn.get(key)
            return parse_record(record) if record is not None and is_live(_unpack(record)[2], now) else None

    def find_entry(self, key: bytes) -> Entry | None:
        """Return the entry of `key`, expired or not; None if it has none. Any bytes are allowed.

        What it sees is remembered, so that a put or a delete of the key need not look again.
        """
        if len(self._seen) >= _MOST_SEEN:
            self._seen.clear()
        txn = self._begin(self._data, None, False, True)
        try:
            record = txn.get(key)
            if record is None:
                self._seen[key] = None, 0
                return None
            header, size = _unpack(record), len(record)
            self._seen[key] = header, size
            return header[0], header[1], header[2], size - HEADER_SIZE - header[5]
        except lmdb.BadValsizeError:  # empty or too long
            return None
        finally:
            txn.abort()

    def find_outcome(self, identity: bytes) -> OutcomeRecord | None:
        """Return what is remembered of the operation of `identity`; None if nothing is. It may be over."""
        return self._outcomes.find(identity)

    def apply_changes(
        self,
        events: Sequence[Event],
        record: Record,
        previous: Collection[int] = (),
        outcomes: Sequence[Outcome] = (),
        placed: Placed | None = None,
    ) -> dict[int, Old]:
        """Apply one record whose payload is at hand; see `apply`."""
        return self._apply_groups([(record, events, outcomes, placed)], None, previous, self._seen)

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
        groups = [
            (record, *(decode_placed_record(record.payload) if record.events else ((), (), None))) for record in records
        ]
        return self._apply_groups(groups, floors, previous, {})

    def _apply_groups(
        self,
        groups: Sequence[Group],
        floors: Sequence[int] | None,
        previous: Collection[int],
        seen: dict[bytes, Seen],
    ) -> dict[int, Old]:
        lsn, revision = self._applied
        for record, *_ in groups:
            lsn, revision = max(lsn, record.end), max(revision, record.next_revision - 1)

        def write(txn: lmdb.Transaction[memoryview]) -> tuple[dict[int, Old], Sums]:
            replaced: dict[int, Old] = {}
            size, expiring = self._sums
            for record, events, outcomes, placed in groups:
                if record.kind == ORDER:
                    if record.lsn >= self._applied[0]:
                        txn.put(b"order", encode_placed(_after(record)), db=self._meta)
                elif record.kind == START:
                    if record.lsn >= self._applied[0]:
                        _reset_clock(txn, record, floors)
                        self._outcomes.reset_clock(txn, record, floors)
                elif floors is not None or record.revision > self._applied[1]:
                    more_bytes, more_expiring = _apply_events(txn, events, record, floors, previous, seen, replaced)
                    size, expiring = size + more_bytes, expiring + more_expiring
                    if outcomes:
                        self._outcomes.add(txn, outcomes, record, floors)
                    if placed is not None:
                        txn.put(b"order", encode_placed(placed), db=self._meta)
            self._put_position(txn, lsn, revision, (size, expiring))
            return replaced, (size, expiring)

        replaced, self._sums = self.storage.transact(write)
        self._applied = (lsn, revision)
        self._seen.clear()
        return replaced

    def place_in_order(self) -> Placed | None:
        """Return where in the order of the cluster a restart goes on: at which message, after how many of its
        operations, and what the messages before it add up to. None: nothing of an order was applied.

        Raises `ProtocolError` if that cannot be read.
        """
        with self._env.begin(self._meta) as txn:
            found = txn.get(b"order")
        return None if found is None else decode_placed(found)

    def advance(self, lsn: int, revision: int) -> None:
        """Note that nothing up to there is missing, although the last records were not this shard's.

        A map whose `applied` the log has trimmed cannot be kept over a restart of the server. The caller's own last
        record must be applied; (lsn, revision) is the board's watermark.
        """
        if lsn > self._applied[0]:
            self.storage.transact(lambda txn: self._put_position(txn, lsn, revision, self._sums))
            self._applied = (lsn, revision)

    def load(self, items: Iterable[tuple[bytes, bytes]]) -> None:
        """Put raw records of another map's `data`, of keys that are not in this one, in one transaction.

        Raises `MapFull`.
        """
        rows = list(items)
        more_bytes, more_expiring = _sum_up(rows)
        sums = self._sums[0] + more_bytes, self._sums[1] + more_expiring

        def write(txn: lmdb.Transaction[memoryview]) -> None:
            for key, record in rows:
                txn.put(key, record)
            self._put_position(txn, *self._applied, sums)

        self.storage.transact(write)
        self._sums = sums
        self._seen.clear()

    def load_outcomes(self, rows: Sequence[tuple[bytes, bytes]]) -> None:
        """Put raw records of another map's `outcomes` into this one, in one transaction. Raises `MapFull`."""
        self.storage.transact(lambda txn: self._outcomes.load(txn, rows))

    @property
    def totals(self) -> Totals:
        """What its keys add up to, expired ones included."""
        with self._env.begin() as txn:
            return Totals(txn.stat(self._data)["entries"], *self._sums)

    def list_entries(self, prefix: bytes, after: bytes | None, limit: int) -> list[tuple[bytes, Entry]]:
        """List at most `limit` keys with their entries, expired ones too, in key order.

        The keys start with `prefix` and are above `after`.
        """
        with self._env.begin(buffers=True) as txn:
            rows = islice(scan(txn, self._data, prefix, after), limit)
            return [(key, _entry_of(record)) for key, record in rows]

    def survey_entries(
        self, after: bytes | None, steps: int, expiring: bool
    ) -> tuple[list[tuple[bytes, Entry]], bytes | None]:
        """Walk over at most `steps` keys above `after`; see `entries.ListEntries`."""
        found: list[tuple[bytes, Entry]] = []
        key: bytes | None = None
        with self._env.begin(buffers=True) as txn:
            for key, record in islice(scan(txn, self._data, b"", after), steps):
                steps -= 1
                if not expiring or _unpack(record)[2]:
                    found.append((key, _entry_of(record)))
        return found, None if steps else key

    def check(self, shards: int, shard: int) -> None:
        """Verify every record: its header makes sense, and its slot is this shard's; and the totals.

        Raises `AssertionError`.
        """
        size = expiring = 0
        with self._env.begin(buffers=True) as txn:
            for key_view, record in txn.cursor(self._data):
                key = bytes(key_view)
                _, _, expiry, value_size = check_record(key, record)
                size, expiring = size + len(key) + value_size, expiring + (expiry != 0)
                assert shard_of(key, shards) == shard, f"{key!r} belongs to shard {shard_of(key, shards)}, not {shard}"
        assert (size, expiring) == self._sums, f"the totals are {(size, expiring)}, not {self._sums}"
        self._outcomes.check(shards, shard)

    def close(self) -> None:
        """Close the map, which stays."""
        self.storage.close()

    def _put_position(self, txn: lmdb.Transaction[memoryview], lsn: int, revision: int, sums: Sums) -> None:
        """Write how far the log is applied, and what the keys add up to then."""
        txn.put(b"applied", APPLIED.pack(lsn, revision), db=self._meta)
        txn.put(b"totals", TOTALS.pack(lsn, *sums), db=self._meta)


def _after(record: Record) -> Placed:
    """Return the place after the messages that `record`, an ORDER, counts."""
    position = OrderPosition.decode(record.payload)
    return Placed(position.sequence + 1, 0, position.state)


def _entry_of(record: memoryview) -> Entry:
    revision, value_revision, expiry, _, _, length = _unpack(record)
    return revision, value_revision, expiry, len(record) - HEADER_SIZE - length


def _content_of(record: memoryview, length: int) -> tuple[bytes, str]:
    """Return value and content type of `record`, whose type has `length` bytes."""
    value_at = HEADER_SIZE + length
    return record[value_at:].tobytes(), str(record[HEADER_SIZE:value_at], "utf-8") if length else ""


def _read_sums(txn: lmdb.Transaction[memoryview], meta: lmdb._Database, lsn: int) -> Sums:
    """Read the sums of a map that is applied up to `lsn`; add them up if a version without them has written it."""
    totals = txn.get(b"totals", db=meta)
    if totals is not None and len(totals) == TOTALS.size:
        at, size, expiring = TOTALS.unpack(totals)
        if at == lsn:
            return size, expiring
    return _sum_up(txn.cursor())


def _sum_up(rows: Iterable[tuple[bytes | memoryview, bytes | memoryview]]) -> Sums:
    """Return the sums of `rows`, keys and records."""
    size = expiring = 0
    for key, record in rows:
        _, _, expiry, _, _, length = _unpack(record)
        size += len(key) + len(record) - HEADER_SIZE - length
        expiring += expiry != 0
    return size, expiring


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
    seen: dict[bytes, Seen],
    replaced: dict[int, Old],
) -> Sums:
    """Apply `events` of `record`; put what they replaced into `replaced`. Return by how much the sums change.

    `seen`: what some keys hold. What is used of it is removed, as it is true only once.
    """
    size = expiring = 0
    get, put, now, time_ms = txn.get, txn.put, record.now, record.time_ms
    touched: dict[bytes, tuple[int, int, int, int, int, int]] = {}  # headers to be written, each once, at the end
    for revision, change in changes(events, record.revision):
        if isinstance(change, PrefixMarked):
            continue  # changes nothing on its own
        key = change.key
        if floors is not None and revision <= floors[slot_of(key)]:
            continue
        found = seen.pop(key, None) if seen else None
        old: memoryview | None = None
        if found is not None and not isinstance(change, TouchEvent) and not (previous and revision in previous):
            header, old_size = found
        elif (old := get(key)) is not None:
            header, old_size = (touched.pop(key, None) if touched else None) or _unpack(old), len(old)
        else:
            header = None
        created_ms = time_ms
        if header is not None:
            old_revision, value_revision, expires_ms, old_created_ms, modified_ms, length = header
            if not expires_ms or is_live(expires_ms, now):
                if old_created_ms < time_ms:  # else the clock was set back
                    created_ms = old_created_ms
                if old is not None and previous and revision in previous:
                    replaced[revision] = *_content_of(old, length), old_revision
            if expires_ms:
                expiring -= 1
            size -= len(key) + old_size - HEADER_SIZE - length
        if isinstance(change, PutEvent):
            if change.expires_ms:
                expiring += 1
            size += len(key) + len(change.value)
            kind = change.content_type.encode()
            put(key, _pack(revision, revision, change.expires_ms, created_ms, time_ms, len(kind)) + kind + change.value)
        elif header is None:
            continue  # deletes and touches of what is not there: a replay over a state that is ahead
        elif isinstance(change, DeleteEvent):
            txn.delete(key)
        elif old is not None:  # a touch
            if change.expires_ms:
                expiring += 1
            size += len(key) + old_size - HEADER_SIZE - length
            new_header = revision, value_revision, change.expires_ms, old_created_ms, modified_ms, length
            if old_size < _LARGE:
                put(key, _pack(*new_header) + bytes(old[HEADER_SIZE:]))
            else:
                touched[key] = new_header
    for key, new_header in touched.items():
        old = get(key)
        assert old is not None, f"the map has no {key!r}"
        put(key, b"".join((_pack(*new_header), old[HEADER_SIZE:])))  # one copy: it may have megabytes
    return size, expiring
