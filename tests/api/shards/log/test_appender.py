"""The log's parts on real files in one process: appending over segments, reading, making, trimming, recovering."""

from __future__ import annotations

import errno
import os
import threading
from pathlib import Path

import msgspec
import pytest

from shards.files.disk import Disk
from shards.host.board import NONE
from shards.log.appender import LogAppender
from shards.log.files import LogError, segment_name
from shards.log.records import DATA, HEADER, MARK, NO_SHARD, STOP, OrderPosition, Record
from tests.api.shards.log.tools import NOW, SEGMENT, read_all, recovered, wait_for
from tests.stores import Store, new_store
from tests.times import at

POSITION = OrderPosition(sequence=7, state=b"state", shown_lsn=64, shown_revision=3)

# Append, flush, read.


def test_an_append_is_open_until_its_owner_clears_it_and_not_flushed(store: Store, log: LogAppender) -> None:
    tail, revision = store.board.history()
    synced = store.board.log.synced
    record = log.append(b"payload", 3, NOW)
    row = store.board.shards[0]
    assert record == Record(DATA, 0, 3, tail, tail + HEADER + 7, synced, revision, NOW.wall_ms, b"payload")
    assert (row.open, row.open_revision) == (tail, revision)
    assert store.board.history() == (record.end, revision + 3)
    assert store.board.watermark() == (tail, revision - 1)
    assert store.board.log.synced == synced
    log.flush(record.end)
    row.clear_open()
    assert store.board.log.synced == record.end
    assert store.board.watermark() == (record.end, revision + 2)
    assert log.appended == (store.log_dir / segment_name(0)).read_bytes()[tail : record.end]


def test_an_order_record_opens_nothing_and_a_recovery_finds_the_last_one(store: Store, log: LogAppender) -> None:
    assert recovered(store).order is None
    log.append_order(POSITION, NOW)
    assert store.board.shards[0].open == NONE
    last = msgspec.structs.replace(POSITION, sequence=8)
    log.append_order(last, NOW)
    log.append(b"payload", 1, NOW)
    found = recovered(store)
    assert found.order == last
    assert found.next_revision == store.board.history()[1]


def test_one_flush_covers_all_that_stands_before_it(store: Store, log: LogAppender) -> None:
    other = LogAppender(store.board, 1, segment=SEGMENT)
    first = log.append(b"a", 1, NOW)
    second = other.append(b"b", 1, NOW)
    log.flush(first.end)
    assert store.board.log.synced == second.end
    other.close()


def test_a_record_as_large_as_a_segment_fits_and_a_larger_one_is_refused(store: Store, log: LogAppender) -> None:
    store.segments.prepare_next()
    with pytest.raises(LogError, match="does not fit"):
        log.append(bytes(SEGMENT - HEADER + 1), 1, NOW)
    assert store.board.shards[0].open == NONE
    record = log.append(bytes(SEGMENT - HEADER), 1, NOW)
    assert (record.lsn, record.end) == (SEGMENT, 2 * SEGMENT)
    log.flush(record.end)
    assert read_all(store)[1:] == [record]
    assert recovered(store).tail == record.end


def test_a_handle_that_never_flushes_keeps_two_segments_open_at_most(store: Store, log: LogAppender) -> None:
    for _ in range(5):
        store.segments.prepare_next()
        log.append(bytes(SEGMENT // 2), 1, NOW)
    opened = [path.readlink() for path in Path("/proc/self/fd").iterdir() if path.is_symlink()]
    assert sorted(path.name for path in opened if path.parent == store.log_dir) == [segment_name(3), segment_name(4)]


def test_an_appender_waits_for_its_segment_without_the_lock(store: Store, log: LogAppender) -> None:
    log.append(bytes(SEGMENT // 2), 1, NOW)
    before, done = store.board.shards[0].heartbeat_ns, list[Record]()
    waiting = threading.Thread(target=lambda: done.append(log.append(bytes(SEGMENT // 2), 1, NOW)))
    waiting.start()
    wait_for(lambda: store.board.shards[0].heartbeat_ns > before, "a sign of life of one who waits")
    other = LogAppender(store.board, 1, segment=SEGMENT)
    small = other.append(b"small", 1, NOW)  # goes before the segment's end meanwhile
    assert store.segments.prepare_next()
    waiting.join()
    other.close()
    assert done[0].lsn == SEGMENT and done[0].revision == small.next_revision


def test_one_who_waits_gives_up_when_the_run_is_over(store: Store, log: LogAppender) -> None:
    log.append(bytes(SEGMENT // 2), 1, NOW)
    store.board.path.unlink()
    with pytest.raises(LogError, match="has ended"):
        log.append(bytes(SEGMENT // 2), 1, NOW)


def test_in_memory_nothing_is_flushed(tmp_path: Path) -> None:
    store = new_store(tmp_path, 1, in_memory=True, segment=SEGMENT)
    log = LogAppender(store.board, 0, segment=SEGMENT)
    synced, record = store.board.log.synced, log.append(b"", 1, NOW)
    log.flush(record.end)
    assert store.board.log.synced == synced
    assert log.append_mark(NOW) is None
    assert log.append_mark(NOW) is None
    log.close()
    store.close()


def test_the_flusher_flushes_by_itself_and_at_its_end(tmp_path: Path) -> None:
    store = new_store(tmp_path, 1, sync="everysec", segment=SEGMENT)
    log = LogAppender(store.board, 0, segment=SEGMENT)
    log.flush_every_second()
    record = log.append(b"", 1, NOW)
    wait_for(lambda: store.board.log.synced == record.end, "a flush within a second or so")
    record = log.append(b"", 1, NOW)
    log.close()
    assert store.board.log.synced == record.end
    store.close()


class Short(Disk):
    """A disk of a process that has no descriptor left, as long as `wants` says so."""

    wants = False

    def open(self, path: Path) -> int:
        if self.wants:
            raise OSError(errno.EMFILE, os.strerror(errno.EMFILE), str(path))
        return super().open(path)


def test_want_of_descriptors_is_no_failed_flush(store: Store, log: LogAppender) -> None:
    """Nothing was told by a disk: the log goes on, whoever has descriptors may flush, and so may this one later."""
    disk = Short()
    other = LogAppender(store.board, None, segment=SEGMENT, disk=disk)
    record = log.append(b"x", 1, NOW)
    disk.wants = True
    with pytest.raises(LogError, match="could not be opened") as failed:
        other.flush(record.end)
    assert type(failed.value) is LogError
    assert (store.board.log.broken, store.board.log.synced < record.end) == (0, True)
    disk.wants = False
    other.flush(record.end)
    assert store.board.log.synced >= record.end
    other.close()


def test_a_mark_comes_once_after_an_idle_second(store: Store, log: LogAppender) -> None:
    supervisor = LogAppender(store.board, None, segment=SEGMENT)
    supervisor.append_mark(NOW)
    log.append(b"", 1, NOW)
    assert supervisor.append_mark(NOW) is None, "something was appended since"
    tail, revision = store.board.history()
    mark = supervisor.append_mark(NOW)
    assert mark == Record(MARK, NO_SHARD, 0, tail, tail + HEADER, tail, revision, NOW.wall_ms, b"")
    assert store.board.log.synced == mark.end
    assert supervisor.append_mark(NOW) is None and supervisor.append_mark(NOW) is None, "once"
    supervisor.close()


def test_a_stop_says_that_everything_is_flushed(tmp_path: Path) -> None:
    store = new_store(tmp_path, 1, sync="os", segment=SEGMENT)
    shard, supervisor = LogAppender(store.board, 0, segment=SEGMENT), LogAppender(store.board, None, segment=SEGMENT)
    record = shard.append(b"", 1, NOW)
    stop = supervisor.append_stop(at(NOW.wall_ms + 5))
    assert (stop.kind, stop.lsn, stop.synced) == (STOP, record.end, record.end)
    found = recovered(store)
    assert found.stopped_clean and found.last == at(NOW.wall_ms + 5) and found.tail == stop.end
    assert found.last_start is not None and found.last_start.sync == "os"
    supervisor.close()
    shard.close()
    store.close()


# Segments.


# Recovery.
