"""What the records that fit add up to, and where they end to fit."""

from __future__ import annotations

from shards.log.image import LogFold
from shards.log.records import DATA, FILLER, HEADER, MARK, NO_SHARD, START, STOP, Record, Start, encode
from shards.wire.clock import Now

SECRET = 7
SEGMENT = 1 << 12
START_PAYLOAD = Start(store="s", epoch="e", boot_id="b", sync="always", version="1").encode()


def record(kind: int, lsn: int, revision: int, *, events: int = 0, payload: bytes = b"", time_ms: int = 1000) -> Record:
    return Record(kind, NO_SHARD, events, lsn, lsn + HEADER + len(payload), lsn, revision, time_ms, payload)


def folded(*records: Record) -> LogFold:
    fold = LogFold(0, 1, None)
    for each in records:
        assert fold.take(each)
    return fold


def test_records_move_the_end_and_the_next_revision() -> None:
    fold = folded(record(START, 0, 5, payload=START_PAYLOAD), record(DATA, 200, 5, events=3, time_ms=2000))
    assert (fold.lsn, fold.next_revision, fold.synced, fold.kind) == (200 + HEADER, 8, 200, DATA)
    assert fold.last == Now(2000, 2000)
    assert fold.last_start is not None and fold.last_start.epoch == "e"


def test_only_a_start_raises_the_revision() -> None:
    fold = folded(record(DATA, 0, 1, events=1))
    assert not fold.take(record(DATA, 64, 3, events=1))
    assert not fold.take(record(MARK, 64, 1))
    assert fold.lsn == HEADER, "what does not fit changes nothing"
    assert fold.take(record(START, 64, 9, payload=START_PAYLOAD))
    assert fold.next_revision == 9


def test_behind_a_stop_only_a_start_fits_and_a_filler_says_nothing() -> None:
    fold = folded(record(STOP, 0, 1), record(FILLER, 64, 0))
    assert fold.kind == STOP
    assert not fold.take(record(DATA, 128, 1, events=1))
    assert fold.take(record(START, 128, 1, payload=START_PAYLOAD))


def test_the_clock_of_a_filler_is_not_a_time_on_record() -> None:
    fold = folded(record(DATA, 0, 1, events=1, time_ms=500), record(FILLER, 64, 0, time_ms=9000))
    assert fold.last == Now(500, 500)


def test_a_walk_ends_at_what_does_not_fit_and_skips_a_rest_without_room_for_a_header() -> None:
    size = SEGMENT - HEADER // 2
    whole = record(DATA, 0, 1, events=1, payload=bytes(size - HEADER))
    fold = LogFold(0, 1, None)
    assert [found.end for found in fold.walk(encode(whole, SECRET).ljust(SEGMENT, b"\0"), 0, SECRET, SEGMENT)] == [size]
    assert fold.lsn == SEGMENT, "no header fits behind it"

    first, second = record(DATA, 0, 1, events=1), record(DATA, HEADER, 2, events=1)
    fold = LogFold(0, 1, None)
    damaged = encode(first, SECRET) + encode(second, SECRET + 1)
    assert [found.lsn for found in fold.walk(damaged, 0, SECRET, SEGMENT)] == [0]
    assert fold.lsn == HEADER
