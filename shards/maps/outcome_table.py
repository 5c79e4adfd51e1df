"""What a shard has done once, in its map: found by identity, forgotten by age and number. See `shards.wire.outcomes`.

All of it is changed in the transactions that apply records, by what records say alone: so shards that replay the same
log remember the same, from wherever they begin. Only where the map is full outcomes are forgotten sooner, unless others
follow the same order.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Sequence

import lmdb

from shards.log.records import Record, Start
from shards.maps.storage import MapStorage
from shards.wire.clock import Now
from shards.wire.keys import slots_of
from shards.wire.outcomes import KEEP_BYTES, KEEP_COUNT, OutcomeRecord
from shards.wire.protocol import Outcome

_PLACE = struct.Struct(">Q")
_BYTES = struct.Struct("<Q")
_BYTES_NAME = b"outcome_bytes"
_FEW = 16


class OutcomeTable:
    """The outcomes in a map. Writes are part of a transaction of the caller.

    Attributes:
        follows_order: whether other machines remember the same: then room has no say in what is forgotten.
    """

    def __init__(self, storage: MapStorage) -> None:
        self.follows_order = False
        self._storage, self._env, self._meta = storage, storage.env, storage.meta
        self._outcomes, self._identities = storage.outcomes, storage.identities

    def find(self, identity: bytes) -> OutcomeRecord | None:
        """Return what is remembered for `identity`, in a transaction of its own; None if nothing is. It may be over."""
        with self._env.begin(self._outcomes, buffers=True) as txn:
            place = txn.get(identity, db=self._identities)
            record = None if place is None else txn.get(place)
            return None if record is None else OutcomeRecord.decode(record)

    def add(
        self,
        txn: lmdb.Transaction[memoryview],
        outcomes: Sequence[Outcome],
        record: Record,
        floors: Sequence[int] | None,
    ) -> None:
        """Remember `outcomes` of the log's record `record`, and forget what is over then. `floors`: see
        `MapOwner.apply`.

        A record that a map has had forgets nothing more: its outcomes were followed by what was forgotten then.
        """
        places = [(record.revision + outcome.at, outcome) for outcome in outcomes]
        if floors is not None:
            places = [(revision, outcome) for revision, outcome in places if revision > floors[outcome.slot]]
            if not places:
                return
        size = self._load_bytes(txn)
        for revision, outcome in places:
            size += self._put(txn, revision, OutcomeRecord.of(outcome, record.revision, record.now))
        self._forget(txn, record.now, size, 2 * len(places) + _FEW)

    def load(self, txn: lmdb.Transaction[memoryview], rows: Iterable[tuple[bytes, bytes]]) -> None:
        """Put records of other maps' tables into this one, with their keys."""
        size = self._load_bytes(txn)
        for place, row in rows:
            size += self._put(txn, _PLACE.unpack(place)[0], OutcomeRecord.decode(row))
        self._store_bytes(txn, size)

    def reset_clock(self, txn: lmdb.Transaction[memoryview], record: Record, floors: Sequence[int] | None) -> None:
        """Apply the clock reset of `record`, a START, to what was done before it."""
        reset_ms = Start.decode(record.payload).reset_ms
        if reset_ms is None:
            return
        for place, row in list(txn.cursor(self._outcomes)):
            outcome = OutcomeRecord.decode(row)
            (revision,) = _PLACE.unpack(place)
            if revision >= record.revision or (floors is not None and record.revision <= floors[outcome.slot] + 1):
                continue  # what was applied to the file that this outcome came from
            moved = outcome._replace(steady_ms=outcome.steady_ms + reset_ms)
            txn.put(bytes(place), moved.encode(), db=self._outcomes)

    def check(self, shards: int, shard: int) -> None:
        """Verify that outcomes and identities agree, and are of shard `shard` of `shards`. Raises `AssertionError`."""
        slots, size, identities = slots_of(shard, shards), 0, {}
        with self._env.begin(self._outcomes) as txn:
            for place, row in txn.cursor():
                outcome = OutcomeRecord.decode(row)
                size += len(row)
                identities[outcome.identity] = place
                assert outcome.slot in slots, f"an outcome of slot {outcome.slot} belongs to another shard"
                assert outcome.revision <= _PLACE.unpack(place)[0], f"an outcome of {outcome.revision} is misplaced"
            assert identities == dict(txn.cursor(self._identities)), "outcomes and identities differ"
            assert size == self._load_bytes(txn), "the bytes of outcomes"

    def _put(self, txn: lmdb.Transaction[memoryview], revision: int, outcome: OutcomeRecord) -> int:
        """Put one outcome; return by how many bytes the table grows.

        Where an identity has come twice, by different requests at different shards, the later one stays.
        """
        place, row = _PLACE.pack(revision), outcome.encode()
        before = txn.get(place, db=self._outcomes)
        size = len(row) - (len(before) if before is not None else 0)
        txn.put(place, row, db=self._outcomes)
        known = txn.get(outcome.identity, db=self._identities)
        if known is None or bytes(known) < place:
            txn.put(outcome.identity, place, db=self._identities)
        return size

    def _forget(self, txn: lmdb.Transaction[memoryview], now: Now, size: int, most: int) -> None:
        """Forget at most `most` outcomes that are over at `now`, or too much; `size` bytes are there.

        After a pause thousands may be over: one group must not be held up by all of them.
        """
        is_full = self._storage.full and not self.follows_order
        count = txn.stat(self._outcomes)["entries"]
        cursor = txn.cursor(self._outcomes)
        more = cursor.first()
        while more and most:
            most -= 1
            oldest = OutcomeRecord.decode(cursor.value())
            too_much = count > KEEP_COUNT or size > KEEP_BYTES
            if not (oldest.is_over(now) or (too_much and (is_full or oldest.is_spare(now)))):
                break
            place = bytes(cursor.key())
            known = txn.get(oldest.identity, db=self._identities)
            if known is not None and bytes(known) == place:
                txn.delete(oldest.identity, db=self._identities)
            count, size = count - 1, size - len(cursor.value())
            more = cursor.delete()
        self._store_bytes(txn, size)

    def _load_bytes(self, txn: lmdb.Transaction[memoryview] | lmdb.Transaction[bytes]) -> int:
        stored = txn.get(_BYTES_NAME, db=self._meta)
        return 0 if stored is None else int(_BYTES.unpack(stored)[0])

    def _store_bytes(self, txn: lmdb.Transaction[memoryview], size: int) -> None:
        txn.put(_BYTES_NAME, _BYTES.pack(size), db=self._meta)
