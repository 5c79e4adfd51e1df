"""The maps: one LMDB environment per shard in shared memory, the view of the log that answers reads.

Its owner, the shard, alone writes a map, one transaction a group; everybody else reads it in transactions as short as
one lookup. It is never flushed: what is in doubt is built again from snapshot and log (`restore`). The layout is that
of `layout`.

Readers learn from the shard's row of the board which generation of the map to open, and compare it at each
transaction.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

import lmdb
import msgspec

from shards.host.board import Board, ShardRow
from shards.log.records import START, Record, Start
from shards.maps.cursor import MapCursor
from shards.maps.layout import (
    APPLIED,
    HEADER,
    HEADER_SIZE,
    Identity,
    Item,
    MapError,
    MapFull,
    check_record,
    decode_identity,
    map_path,
    means_full,
    open_environment,
    parse,
    parse_without_value,
    read_applied,
    scan,
    told,
)
from shards.maps.space import (
    GROWTH_BYTES,
    Ballast,
    PinWatch,
    Reserve,
    free_bytes,
    growth_left,
    in_memory,
    parse_readers,
)
from shards.wire.clock import Now, is_live
from shards.wire.errors import Unavailable
from shards.wire.protocol import DeleteEvent, Event, PrefixMarked, PutEvent, changes, decode_events
from shards.wire.slots import shard_of, slot_of

__all__ = ["PAGE_BYTES", "Item", "MapError", "MapFull", "MapReader", "ShardMap"]

PAGE_BYTES = 1 << 20
"""Bytes of values after which a page of a listing ends."""
NOT_MINE = 1 << 63
"""In a table of floors: no event of this slot is applied."""

_unpack = HEADER.unpack_from
_pack = HEADER.pack

_LARGE = 4 << 10
"""Bytes of a record from which on a touch, which has to write the value again, waits for later ones of its record."""

T = TypeVar("T")
Old = tuple[bytes, str, int]
"""What a key held before: value, content type, revision."""


class MapReader:
    """A reader's handle on the map of one shard: one per process and shard, from one thread.

    LMDB opens an environment once per process: the shard itself, which has a `ShardMap`, cannot have a reader too.
    """

    def __init__(self, board: Board, shard: int) -> None:
        self._map_dir, self._shard = Path(board.facts.map_dir), shard
        self._row = row = board.shards[shard]
        self._words, self._generation_at = row.words, row.base + ShardRow.map_generation.index
        self._generation = -1  # of the open environment; no word is negative
        self._env: lmdb.Environment | None = None

    def get(self, key: bytes, now: Now) -> Item | None:
        """What `key` (1 to 511 bytes) holds at `now`, `told`; None if it is absent or expired.

        Raises `Unavailable` if the shard has no map at the moment.
        """
        if self._words[self._generation_at] != self._generation:
            self._reopen()
        txn = self._begin(self._data, None, False, True)
        record = txn.get(key)
        item = None if record is None else parse(record)
        txn.abort()
        if item is None or not is_live(item[2], now):
            return None
        return told(item, now)

    def describe(self, key: bytes, now: Now) -> Item | None:
        """`get` without the value: however large it is, nothing of it is copied."""
        with self._transaction() as txn:
            record = txn.get(key)
            if record is None or not is_live(_unpack(record)[2], now):
                return None
            return told(parse_without_value(record), now)

    def record(self, key: bytes) -> bytes | None:
        """The record of `key` (1 to 511 bytes) as `layout` lays it out; it may have expired. None: there is none.

        For those who want little of it, fast. Raises `Unavailable` if the shard has no map at the moment.
        """
        if self._words[self._generation_at] != self._generation:
            self._reopen()
        txn = self._begin(self._data, None, False, False)
        record: bytes | None = txn.get(key)
        txn.abort()
        return record

    def page(
        self,
        prefix: bytes,
        after: bytes | None,
        limit: int,
        now: Now,
        *,
        values: bool = False,
        max_bytes: int = PAGE_BYTES,
    ) -> list[tuple[bytes, Item]]:
        """At most `limit` live keys that start with `prefix` and stand above `after`, with their items, in key order.

        Values are left empty unless `values`; then the page ends with the item that takes it past `max_bytes` of
        values. The listing is over when a page is empty. Raises `Unavailable`.
        """
        return self.page_at(prefix, after, limit, now, values=values, max_bytes=max_bytes)[1]

    def page_at(
        self,
        prefix: bytes,
        after: bytes | None,
        limit: int,
        now: Now,
        *,
        values: bool = False,
        max_bytes: int = PAGE_BYTES,
        expired: bool = False,
    ) -> tuple[tuple[int, int], list[tuple[bytes, Item]]]:
        """`page`, and what was applied (LSN, revision) to the very state it shows. `expired`: expired keys, too."""
        found: list[tuple[bytes, Item]] = []
        with self._transaction() as txn:
            applied = read_applied(txn, self._meta)
            for key, record in scan(txn, self._data, prefix, after):
                if len(found) >= limit or max_bytes <= 0:
                    break
                if expired or is_live(_unpack(record)[2], now):
                    item = told(parse(record) if values else parse_without_value(record), now)
                    max_bytes -= len(item.value)
                    found.append((bytes(key), item))
        return applied, found

    def get_at(
        self, key: bytes, now: Now, *, values: bool = False, expired: bool = False
    ) -> tuple[tuple[int, int], Item | None]:
        """`get`, or `describe` unless `values`, and what was applied (LSN, revision) to the very state it shows.
        `expired`: also what has expired."""
        with self._transaction() as txn:
            applied = read_applied(txn, self._meta)
            record = txn.get(key)
            if record is None or not (expired or is_live(_unpack(record)[2], now)):
                return applied, None
            return applied, told(parse(record) if values else parse_without_value(record), now)

    def keys(self, prefix: bytes, after: bytes | None, limit: int, now: Now) -> list[bytes]:
        """At most `limit` live keys that start with `prefix` and stand above `after`, in key order; fewer only if
        there are no more. Raises `Unavailable`."""
        found: list[bytes] = []
        with self._transaction() as txn:
            for key, record in scan(txn, self._data, prefix, after):
                if len(found) >= limit:
                    break
                if is_live(_unpack(record)[2], now):
                    found.append(bytes(key))
        return found

    def count(
        self, prefix: bytes, after: bytes | None, before: bytes | None, cut: int | None, steps: int, now: Now
    ) -> tuple[int, bytes | None]:
        """How many of the next `steps` keys that start with `prefix` and stand between `after` and `before` are live
        (and, with a cut, hold a value that is not newer), and the last of them; None: there are no others.

        Raises `Unavailable`.
        """
        count = 0
        with self._transaction() as txn:
            for key, record in scan(txn, self._data, prefix, after):
                if before is not None and key >= before:
                    break
                _, value_revision, expires_ms, *_ = _unpack(record)
                count += is_live(expires_ms, now) and (cut is None or value_revision <= cut)
                steps -= 1
                if not steps:
                    return count, key
        return count, None

    @contextmanager
    def cursor(self, now: Now, *, values: bool = False) -> Iterator[MapCursor]:
        """A cursor at `now`, whose items hold values if `values`; gone, with its transaction, on leaving `with`.

        Raises `Unavailable`.
        """
        with self._transaction() as txn:
            yield MapCursor(txn, self._data, now, values)

    def applied(self) -> tuple[int, int]:
        """LSN after the last record applied, and its last revision. Raises `Unavailable`."""
        with self._transaction() as txn:
            return read_applied(txn, self._meta)

    def close(self) -> None:
        """Close the map; the next read opens it again."""
        if self._env is not None:
            self._env.close()
        self._env, self._generation = None, -1

    def _transaction(self) -> lmdb.Transaction[memoryview]:
        if self._words[self._generation_at] != self._generation:
            self._reopen()
        return self._begin(self._data, None, False, True)

    def _reopen(self) -> None:
        self.close()
        generation = self._row.told_of_file(ShardRow.map_generation)
        if generation == 0:
            raise Unavailable(f"shard {self._shard} has no map yet")
        try:
            env = open_environment(map_path(self._map_dir, self._shard, generation), readonly=True)
            self._data = env.open_db(b"data", create=False)
            self._meta = env.open_db(b"meta", create=False)
        except (MapError, lmdb.Error) as error:
            raise Unavailable(f"the map of shard {self._shard} cannot be opened: {error}") from None
        self._env, self._begin, self._generation = env, env.begin, generation


class ShardMap:
    """The owner's handle on its map."""

    def __init__(self, path: Path, ballast: Path | None = None) -> None:
        """Open the map at `path`, or make an empty one there (then `applied` is (0, 0) and `identity` None).

        Raises `MapError`.
        """
        self.path = path
        self._reserve, self._env = _open_to_write(path)
        self._data, self._meta = self._env.open_db(b"data"), self._env.open_db(b"meta")
        with self._env.begin(buffers=True) as txn:
            self._applied = read_applied(txn, self._meta)
        self.ballast = Ballast(ballast) if ballast else None
        self._pins = PinWatch()

    @property
    def applied(self) -> tuple[int, int]:
        """LSN after the last record applied, and its last revision."""
        return self._applied

    def identity(self) -> Identity | None:
        """Whose map it is; None while it is being filled. Raises `MapError` if that cannot be read."""
        with self._env.begin(self._meta) as txn:
            return decode_identity(txn.get(b"identity"), self.path)

    def identify(self, identity: Identity, lsn: int, revision: int) -> None:
        """Write whose map it is and what is applied to it: from now on it is complete."""

        def write(txn: lmdb.Transaction[memoryview]) -> None:
            txn.put(b"identity", msgspec.json.encode(identity), db=self._meta)
            txn.put(b"applied", APPLIED.pack(lsn, revision), db=self._meta)

        self._transact(write)
        self._applied = (lsn, revision)

    def get(self, key: bytes, now: Now) -> Item | None:
        """What `key` holds at `now`; None if it is absent or expired."""
        with self._env.begin(self._data, buffers=True) as txn:
            record = txn.get(key)
            return parse(record) if record is not None and is_live(_unpack(record)[2], now) else None

    def apply_changes(self, events: Sequence[Event], record: Record, previous: Collection[int] = ()) -> dict[int, Old]:
        """`apply` for one record whose events are at hand."""
        return self._apply([(record, events)], None, previous)

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
        groups = [(record, decode_events(record.payload) if record.events else ()) for record in records]
        return self._apply(groups, floors, previous)

    def _apply(
        self, groups: Sequence[tuple[Record, Sequence[Event]]], floors: Sequence[int] | None, previous: Collection[int]
    ) -> dict[int, Old]:
        lsn, revision = self._applied
        for record, _ in groups:
            lsn, revision = max(lsn, record.end), max(revision, record.next_revision - 1)

        def write(txn: lmdb.Transaction[memoryview]) -> dict[int, Old]:
            replaced: dict[int, Old] = {}
            for record, events in groups:
                if record.kind == START:
                    if record.lsn >= self._applied[0]:
                        _reset_clock(txn, record, floors)
                elif floors is not None or record.revision > self._applied[1]:
                    _apply_events(txn, events, record, floors, previous, replaced)
            txn.put(b"applied", APPLIED.pack(lsn, revision), db=self._meta)
            return replaced

        replaced = self._transact(write)
        self._applied = (lsn, revision)
        return replaced

    def advance(self, lsn: int, revision: int) -> None:
        """Note that nothing up to there is missing, although the last records were not this shard's.

        A map whose `applied` the log has trimmed cannot be kept over a restart of the server. The caller's own last
        record must be applied; (lsn, revision) is the board's watermark.
        """
        if lsn > self._applied[0]:
            self._transact(lambda txn: txn.put(b"applied", APPLIED.pack(lsn, revision), db=self._meta))
            self._applied = (lsn, revision)

    def load(self, items: Iterable[tuple[bytes, bytes]]) -> None:
        """Put raw records of another map's `data` into this one, in one transaction. Raises `MapFull`."""
        rows = list(items)
        self._transact(lambda txn: [txn.put(key, record) for key, record in rows])

    def entries(self) -> Iterator[tuple[bytes, int, int, int, int]]:
        """Key, revision, revision of the value, expiry and size of every key, expired ones too, in key order.

        Holds a read transaction until it is exhausted or closed.
        """
        with self._env.begin(buffers=True) as txn:
            for key, record in txn.cursor(self._data):
                revision, value_revision, expires_ms, _, _, length = _unpack(record)
                yield bytes(key), revision, value_revision, expires_ms, len(record) - HEADER_SIZE - length

    def range(self, prefix: bytes, after: bytes | None, limit: int) -> list[tuple[bytes, int, int]]:
        """Key, revision of the value and revision of at most `limit` keys that start with `prefix` and stand above
        `after`, expired ones too, in key order."""
        found: list[tuple[bytes, int, int]] = []
        with self._env.begin(buffers=True) as txn:
            for key, record in scan(txn, self._data, prefix, after):
                if len(found) >= limit:
                    break
                revision, value_revision, *_ = _unpack(record)
                found.append((bytes(key), value_revision, revision))
        return found

    @property
    def full(self) -> bool:
        """Whether the ballast had to be dropped: what grows must be refused until `restore_ballast` succeeds."""
        return self.ballast is not None and not self.ballast.there

    def restore_ballast(self) -> bool:
        """Put the ballast back if there is room again; whether it is there now."""
        return self.ballast is None or self.ballast.restore()

    def free_bytes(self) -> int:
        """How much the map can take: its free pages, and what file system and memory still give."""
        used = self.size_bytes()
        size = self._reserve.size if self._reserve is not None else used
        return size - used + self.spare_bytes() + min(free_bytes(self.path), growth_left(size))

    def spare_bytes(self) -> int:
        """Bytes of the map's free pages. Old readers may still need some, and few of them may be neighbours."""
        with self._env.begin() as txn:
            stats = [txn.stat(), txn.stat(self._data), txn.stat(self._meta)]
        used = sum(stat["branch_pages"] + stat["leaf_pages"] + stat["overflow_pages"] for stat in stats)
        return max(self._env.info()["last_pgno"] - 1 - used, 0) * stats[0]["psize"]

    @property
    def map_size(self) -> int:
        """Bytes of address space: how far the map can grow."""
        return self._env.info()["map_size"]

    def size_bytes(self) -> int:
        """Bytes of the map's file, free pages included."""
        return (self._env.info()["last_pgno"] + 1) * self._env.stat()["psize"]

    def reader_check(self) -> int:
        """Free the slots of readers that died; how many there were."""
        return self._env.reader_check()

    def pinned(self, now_s: float) -> list[tuple[int, float]]:
        """Readers that keep old pages while the map grows: pid, and for how many seconds. Call it once a second."""
        return self._pins.observe(now_s, parse_readers(self._env.readers()), self._env.info()["last_pgno"])

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
        assert expected is None or count == len(expected), f"the map has {count} keys, expected {len(expected or ())}"

    def close(self) -> None:
        """Close the environment; the map stays."""
        self._env.close()
        if self._reserve is not None:
            self._reserve.close()
            self._reserve = None

    def _transact(self, write: Callable[[lmdb.Transaction[memoryview]], T]) -> T:
        growth = GROWTH_BYTES
        while True:
            try:
                return self._once(write)
            except MapFull:
                if not self._make_room(growth):
                    raise
                growth *= 2

    def _make_room(self, growth: int) -> bool:
        """Let the map grow, and drop the ballast if it cannot; False if neither can be done."""
        if self._reserve is not None and self._reserve.grow(growth):
            self._env.set_mapsize(self._reserve.size)
            return True
        return self.ballast is not None and self.ballast.drop()

    def _once(self, write: Callable[[lmdb.Transaction[memoryview]], T]) -> T:
        try:
            with self._env.begin(self._data, None, True, True) as txn:
                return write(txn)
        except lmdb.Error as error:
            failure = MapFull if means_full(error, self.path) else MapError
            raise failure(f"{self.path}: {error}") from None


def _open_to_write(path: Path) -> tuple[Reserve | None, lmdb.Environment]:
    """The environment at `path`, which is made if it is not there. In memory it is written by way of its mapping, which
    applies a group in half the time; where there is no room for that, and on a disk, by system calls."""
    data = path / "data.mdb"
    if not in_memory(path):
        return None, open_environment(path, readonly=False)
    if not data.exists() or data.stat().st_size == 0:
        open_environment(path, readonly=False).close()
    try:
        reserve = Reserve(data)
    except OSError:
        return None, open_environment(path, readonly=False)
    try:
        return reserve, open_environment(path, readonly=False, size=reserve.size)
    except BaseException:
        reserve.close()
        raise


def _reset_clock(txn: lmdb.Transaction[memoryview], record: Record, floors: Sequence[int] | None) -> None:
    """Do to all that was written before `record`, a START, what that says of the clock."""
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
            continue  # changes nothing by itself
        key = change.key
        if floors is not None and revision <= floors[slot_of(key)]:
            continue
        old = get(key)
        created_ms = time_ms
        if old is not None:
            header = (touched.pop(key, None) if touched else None) or _unpack(old)
            old_revision, value_revision, expires_ms, old_created_ms, modified_ms, length = header
            if is_live(expires_ms, now):
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
