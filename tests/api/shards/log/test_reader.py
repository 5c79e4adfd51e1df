"""A reader of the log beside appends and trims: what it finds, and what it says where there is nothing."""

from __future__ import annotations

import pytest

from shards.log.appender import LogAppender
from shards.log.files import LogError, Trimmed, segment_name
from shards.log.records import FILLER, HEADER, START
from shards.log.recovery import recover_log
from tests.api.shards.log.tools import NOW, SEGMENT, change_byte, fill, read_all, recovered
from tests.stores import SECRET, Store


@pytest.mark.parametrize("limit", [1, 3000, 20_000, 1 << 20])
def test_a_reader_finds_what_was_written_over_segments(store: Store, log: LogAppender, limit: int) -> None:
    written = fill(store, log, 4)
    start, *found = read_all(store, limit=limit)
    assert start.kind == START
    assert found == written
    assert all(record.kind != FILLER for record in found)
    assert len({record.lsn // SEGMENT for record in found}) == 5 - (written[-1].end % SEGMENT == 0)


def test_a_reader_stops_below_until_and_goes_on_from_there(store: Store, log: LogAppender) -> None:
    written = fill(store, log, 1)
    reader = store.reader()
    assert reader.read(written[3].lsn, written[5].lsn) == (written[3:5], written[5].lsn)
    assert reader.read(written[5].lsn, written[5].lsn) == ([], written[5].lsn)
    reader.close()


def test_less_than_a_header_at_a_segments_end_is_skipped(store: Store, log: LogAppender) -> None:
    tail, _ = store.board.history()
    first = log.append(bytes(SEGMENT - tail - HEADER - 10), 1, NOW)
    assert SEGMENT - first.end == 10
    store.segments.prepare_next()
    second = log.append(b"next", 1, NOW)
    assert second.lsn == SEGMENT
    assert read_all(store)[1:] == [first, second]
    log.flush(second.end)
    assert recovered(store).tail == second.end


def test_trimmed_segments_are_used_again_and_read_as_trimmed(store: Store, log: LogAppender) -> None:
    written = fill(store, log, 3)
    reader, until = store.reader(), written[-1].end
    assert reader.read(written[0].lsn, until, 1)[0] == written[:1]
    inode = (store.log_dir / segment_name(0)).stat().st_ino

    kept = next(record for record in written if record.lsn >= 2 * SEGMENT)
    assert store.segments.trim(kept.lsn + 1) == 2
    assert (store.board.log.oldest, store.board.log.oldest_revision) == (2 * SEGMENT, kept.revision)
    assert reader.read(written[0].lsn, until, 1)[0] == written[:1], "open already, and not written over yet"

    rest = fill(store, log, 6)
    used_again = [p.stat().st_ino for p in store.log_dir.glob("*.log")]
    assert inode in used_again
    for stale in (reader, store.reader()):
        with pytest.raises(Trimmed) as raised:
            stale.read(written[1].lsn, until)
        assert raised.value.oldest == 2 * SEGMENT
        stale.close()
    assert read_all(store, 2 * SEGMENT) == [r for r in written if r.lsn >= 2 * SEGMENT] + rest
    found = recover_log(store.log_dir, SECRET, 2 * SEGMENT, kept.revision - 1, segment=SEGMENT)
    assert (found.tail, found.next_revision) == store.board.history()


def test_a_missing_or_unreadable_segment_is_not_called_trimmed(store: Store, log: LogAppender) -> None:
    written = fill(store, log, 2)
    change_byte(store, written[2].lsn + 70)
    reader = store.reader()
    with pytest.raises(LogError, match=f"{segment_name(0)} is damaged at byte {written[2].lsn}"):
        reader.read(written[2].lsn, written[-1].end)
    reader.close()
