"""The log's parts on real files in one process: appending over segments, reading, making, trimming, recovering."""

from __future__ import annotations

import errno
import os
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from shards.files import locks
from shards.files.disk import Disk
from shards.host.board import NONE
from shards.log.appender import LogAppender
from shards.log.files import LogError, Trimmed, segment_name, segment_numbers
from shards.log.pins import NAME, pin_log
from shards.log.records import DATA, FILLER, HEADER, MARK, NO_SHARD, START, STOP, Record, Start, encode
from shards.log.recovery import Damaged, StillRunning, begin_history, quiesce, recover_log
from shards.log.segments import Segments, trim_limit
from tests.stores import SECRET, Store, new_store
from tests.times import at

SEGMENT = 64 << 10
NOW = at(1_900_000_000_000)  # later than any START here


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    """A store of two shards with small segments."""
    made = new_store(tmp_path, 2, segment=SEGMENT)
    yield made
    made.close()


@pytest.fixture
def log(store: Store) -> Iterator[LogAppender]:
    """The handle of shard 0."""
    made = LogAppender(store.board, 0, segment=SEGMENT)
    yield made
    made.close()


def wait_for(condition: Callable[[], Any], what: str) -> None:
    give_up_at = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < give_up_at, what
        time.sleep(0.005)


def fill(store: Store, log: LogAppender, segments: int) -> list[Record]:
    """Append until the log ends in segment number `segments`, the supervisor's duties done between."""
    written = []
    while store.board.history()[0] < segments * SEGMENT:
        store.segments.prepare_next()
        written.append(log.append(b"%d " % len(written) + os.urandom(5000), 2, NOW))
        log.flush(written[-1].end)
    return written


def read_all(store: Store, lsn: int = 0, limit: int = 256 << 10) -> list[Record]:
    reader, found = store.reader(), list[Record]()
    tail, _ = store.board.history()
    while lsn < tail:
        some, lsn = reader.read(lsn, tail, limit)
        found += some
    assert lsn == tail
    reader.close()
    return found


def names(directory: Path) -> list[str]:
    return [path.name for path in directory.iterdir()]


def change_byte(store: Store, lsn: int) -> None:
    with (store.log_dir / segment_name(lsn // SEGMENT)).open("r+b") as file:
        file.seek(lsn % SEGMENT)
        byte = file.read(1)[0]
        file.seek(lsn % SEGMENT)
        file.write(bytes([byte ^ 1]))


def recovered(store: Store, **more: Any) -> Any:
    return recover_log(store.log_dir, SECRET, 0, 0, segment=SEGMENT, **more)


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


def test_one_flush_covers_all_that_stands_before_it(store: Store, log: LogAppender) -> None:
    other = LogAppender(store.board, 1, segment=SEGMENT)
    first = log.append(b"a", 1, NOW)
    second = other.append(b"b", 1, NOW)
    log.flush(first.end)
    assert store.board.log.synced == second.end
    other.close()


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
    with pytest.raises(LogError, match="over"):
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


def test_nothing_continues_a_log_behind_its_stop_but_a_start(store: Store, log: LogAppender) -> None:
    store.segments.prepare_next()
    tail, _ = store.board.history()
    log.append(bytes(SEGMENT - tail - HEADER - (HEADER + 10)), 1, NOW)  # leaves room for a STOP, then for no header
    supervisor = LogAppender(store.board, None, segment=SEGMENT)
    stop = supervisor.append_stop(NOW)
    supervisor.close()
    # A shard was killed before the STOP: its record did not fit there any more, and was never shown.
    killed = Record(DATA, 0, 1, SEGMENT, SEGMENT + HEADER + 80, 0, stop.revision, NOW.wall_ms, bytes(80))
    with (store.log_dir / segment_name(1)).open("r+b") as file:
        file.write(encode(killed, SECRET))
    found = recovered(store)
    assert found.stopped_clean and (found.tail, found.next_revision) == (SEGMENT, stop.revision)
    assert recovered(store).stopped_clean


# Segments.


def test_a_segment_is_kept_ready_ahead(store: Store, log: LogAppender) -> None:
    assert store.segments.prepare_next()
    assert store.board.log.ready == 2 * SEGMENT
    assert not store.segments.prepare_next(), "a whole one is ready"
    fill(store, log, 1)
    assert store.segments.prepare_next()
    assert store.board.log.ready == 3 * SEGMENT == store.segments.count() * SEGMENT
    assert (store.log_dir / segment_name(2)).read_bytes() == bytes(SEGMENT)
    assert not list(store.log_dir.glob("*.new"))


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


def test_the_last_segment_and_what_reaches_above_are_never_trimmed(store: Store, log: LogAppender) -> None:
    fill(store, log, 2)
    assert store.segments.trim(SEGMENT - 1) == 0
    assert store.segments.trim(1 << 40) == store.board.log.ready // SEGMENT - 1
    assert store.segments.count() == 1


def test_what_a_restart_a_backup_or_the_feed_needs_is_not_trimmed() -> None:
    assert trim_limit(1000, 900, 300) == 700
    assert trim_limit(1000, 500, 300) == 500
    assert trim_limit(1000, 900, 300, (100, 800)) == 100
    assert trim_limit(100, 90, 300) == 0


def test_a_missing_or_unreadable_segment_is_not_called_trimmed(store: Store, log: LogAppender) -> None:
    written = fill(store, log, 2)
    change_byte(store, written[2].lsn + 70)
    reader = store.reader()
    with pytest.raises(LogError, match=f"{segment_name(0)} is damaged at byte {written[2].lsn}"):
        reader.read(written[2].lsn, written[-1].end)
    reader.close()


def test_on_a_full_disk_the_feed_gives_up_what_no_restart_needs(store: Store, log: LogAppender) -> None:
    fill(store, log, 3)
    words = store.board.log

    def no_space(*_: object) -> None:
        raise OSError(errno.ENOSPC, "no space")

    segments = Segments(store.board, segment=SEGMENT, disk=Disk())
    segments._disk.allocate = no_space  # type: ignore[method-assign]
    while words.ready - store.board.history()[0] >= SEGMENT:
        log.append(bytes(5000), 1, NOW)
    assert not segments.prepare_next() and words.full
    assert not segments.prepare_next(lambda: SEGMENT - 1) and words.full, "a restart needs the first"
    assert segments.prepare_next(lambda: 2 * SEGMENT + 1) and not words.full
    assert segment_numbers(names(store.log_dir)) == [2, 3, 4]
    assert words.oldest == 2 * SEGMENT


# Recovery.


def test_a_torn_tail_is_cut_zeroed_and_everything_behind_it_removed(store: Store, log: LogAppender) -> None:
    written = fill(store, log, 1)
    torn = [log.append(os.urandom(900), 1, NOW) for _ in range(8)]  # not flushed
    change_byte(store, torn[0].end - 1)
    found = recovered(store)
    assert (found.tail, found.next_revision) == (torn[0].lsn, torn[0].revision)
    assert found.synced == written[-1].end and not found.stopped_clean and not found.repaired
    number, offset = divmod(torn[0].lsn, SEGMENT)
    assert not any((store.log_dir / segment_name(number)).read_bytes()[offset:])
    assert segment_numbers(names(store.log_dir))[-1] == number
    assert recovered(store)._replace(synced=0) == found._replace(synced=0), "again, from what the first left"


@pytest.mark.parametrize("evidence", ["a later record", "the old board", "a map", "a mark"])
def test_damage_of_what_was_flushed_is_refused(store: Store, log: LogAppender, evidence: str) -> None:
    fill(store, log, 1)
    victim = log.append(b"victim", 1, NOW)
    more: dict[str, Any] = {}
    if evidence == "a later record":
        log.flush(victim.end)
        log.append(b"later", 1, NOW)
    elif evidence == "the old board":
        log.flush(victim.end)
        more["old_board"] = store.board
    elif evidence == "a map":
        more["applied"] = [0, victim.end]
    else:
        supervisor = LogAppender(store.board, None, segment=SEGMENT)
        supervisor.append_mark(NOW)
        assert supervisor.append_mark(NOW)
        supervisor.close()
    change_byte(store, victim.lsn + 3)
    before = {path.name: path.read_bytes() for path in store.log_dir.iterdir()}
    with pytest.raises(Damaged) as raised:
        recovered(store, **more)
    name, offset = segment_name(victim.lsn // SEGMENT), victim.lsn % SEGMENT
    assert (raised.value.segment, raised.value.offset) == (name, offset)
    assert f"segment {name} at byte {offset}" in str(raised.value)
    assert {path.name: path.read_bytes() for path in store.log_dir.iterdir()} == before, "nothing is touched"

    found = recovered(store, repair=True, **more)
    assert found.repaired and (found.tail, found.next_revision) == (victim.lsn, victim.revision)


def test_a_lost_segment_is_damage(store: Store, log: LogAppender) -> None:
    written = fill(store, log, 3)
    (store.log_dir / segment_name(1)).unlink()
    with pytest.raises(Damaged, match=f"{segment_name(1)} at byte 0"):
        recovered(store)
    middle = next(record for record in written if record.lsn > SEGMENT)
    with pytest.raises(Damaged, match="missing"):
        recover_log(store.log_dir, SECRET, middle.lsn, middle.revision - 1, segment=SEGMENT)


@pytest.mark.parametrize("lost", [[0], [1], [3], [0, 1], [2, 3, 4], [0, 1, 2, 3, 4], [1, 2, 3, 4]])
def test_segments_that_the_log_must_have_are_missed(store: Store, log: LogAppender, lost: list[int]) -> None:
    written = fill(store, log, 3)
    store.segments.prepare_next()
    for number in lost:
        (store.log_dir / segment_name(number)).unlink(missing_ok=True)
    before = names(store.log_dir)
    with pytest.raises(Damaged, match=f"{segment_name(lost[0])} at byte 0: the segment is missing; restore"):
        recovered(store, end_lsn=written[-1].end)
    assert names(store.log_dir) == before

    found = recovered(store, end_lsn=written[-1].end, repair=True)
    assert found.repaired and found.tail <= lost[0] * SEGMENT
    begun = begin_history(
        store.log_dir,
        SECRET,
        Start(store="test", epoch="e", boot_id="b", sync="always", version="1"),
        found.tail,
        written[-1].next_revision,
        NOW,
        segment=SEGMENT,
    )
    again = recovered(store, end_lsn=begun[0])
    assert (again.tail, again.next_revision) == begun, "and it goes on from there"


def test_a_segment_is_missed_that_only_the_feed_would_read(store: Store, log: LogAppender) -> None:
    kept = next(record for record in fill(store, log, 4) if record.lsn >= 3 * SEGMENT)
    (store.log_dir / segment_name(1)).unlink()
    arguments = (store.log_dir, SECRET, kept.lsn, kept.revision - 1)
    with pytest.raises(Damaged, match=segment_name(1)):
        recover_log(*arguments, segment=SEGMENT)
    found = recover_log(*arguments, repair=True, segment=SEGMENT)
    assert segment_numbers(names(store.log_dir))[0] == 2
    assert recover_log(*arguments, segment=SEGMENT)._replace(synced=0, repaired=True) == found._replace(synced=0)


@pytest.mark.parametrize("number", [0, 1, 2])
@pytest.mark.parametrize("left", [0, 1, SEGMENT // 2, SEGMENT - 1])
def test_a_segment_that_is_cut_short_is_damage(store: Store, log: LogAppender, number: int, left: int) -> None:
    written = fill(store, log, 1)
    store.segments.prepare_next()
    os.truncate(store.log_dir / segment_name(number), left)
    with pytest.raises(Damaged, match=f"{segment_name(number)} at byte {left}: the segment ends there"):
        recovered(store)
    found = recovered(store, repair=True)
    whole = [r for r in written if r.end <= number * SEGMENT + left or (left == SEGMENT - 1 and number == 0)]
    assert found.next_revision == (whole[-1].next_revision if whole else 1)
    assert recovered(store)._replace(synced=0) == found._replace(synced=0, repaired=False)


def test_a_log_that_ends_before_its_known_end_is_damage(store: Store, log: LogAppender) -> None:
    written = fill(store, log, 1)
    log.append(b"more", 1, NOW)
    change_byte(store, written[-1].lsn)
    before = {path.name: path.read_bytes() for path in store.log_dir.iterdir()}
    with pytest.raises(Damaged, match=f"byte {written[-1].lsn % SEGMENT}"):
        recovered(store, end_lsn=written[-1].end)
    assert {path.name: path.read_bytes() for path in store.log_dir.iterdir()} == before, "nothing is touched"


def test_a_log_of_another_secret_is_not_erased(store: Store, log: LogAppender) -> None:
    written = fill(store, log, 1)
    before = {path.name: path.read_bytes() for path in store.log_dir.iterdir()}
    with pytest.raises(Damaged, match=f"{segment_name(0)} at byte 0"):
        recover_log(store.log_dir, SECRET ^ 1, 0, 0, end_lsn=written[0].end, segment=SEGMENT)
    assert {path.name: path.read_bytes() for path in store.log_dir.iterdir()} == before


def test_a_log_may_end_with_its_last_segment(store: Store, log: LogAppender) -> None:
    store.segments.prepare_next()
    record = log.append(bytes(SEGMENT - HEADER), 1, NOW)
    log.flush(record.end)
    assert record.end == 2 * SEGMENT == store.board.log.ready
    found = recover_log(store.log_dir, SECRET, record.end, record.revision, end_lsn=record.end, segment=SEGMENT)
    assert (found.tail, found.next_revision) == (record.end, record.next_revision)


def test_a_start_follows_what_was_recovered_in_a_segment_of_its_own_if_need_be(store: Store, log: LogAppender) -> None:
    tail, _ = store.board.history()
    record = log.append(bytes(SEGMENT - tail - HEADER - 100), 1, NOW)
    log.flush(record.end)
    found = recovered(store)
    start = Start(store="test", epoch="next", boot_id="b", sync="always", version="2")
    tail, revision = begin_history(
        store.log_dir, SECRET, start, found.tail, found.next_revision + 1000, NOW, segment=SEGMENT
    )
    assert tail // SEGMENT == 1 and revision == found.next_revision + 1000
    again = recovered(store)
    assert (again.tail, again.next_revision, again.last_start) == (tail, revision, start)


def test_a_new_log_begins_at_nothing(tmp_path: Path) -> None:
    found = recover_log(tmp_path, SECRET, 0, 0, segment=SEGMENT)
    assert (found.tail, found.next_revision, found.last_start, found.stopped_clean) == (0, 1, None, False)
    start = Start(store="test", epoch="first", boot_id="b", sync="always", version="1")
    begun = begin_history(tmp_path, SECRET, start, 0, 7, NOW, segment=SEGMENT)
    again = recover_log(tmp_path, SECRET, 0, 0, segment=SEGMENT)
    assert (again.tail, again.next_revision) == begun and begun[1] == 7
    assert again.last_start == start
    assert names(tmp_path) == [segment_name(0)]


def test_the_log_stands_still_while_every_lock_is_held(tmp_path: Path) -> None:
    shard = locks.open_lock(tmp_path / "shard-0")
    with quiesce(tmp_path, 0.0):
        assert locks.is_held(shard)
        with pytest.raises(StillRunning, match="append"), quiesce(tmp_path, 0.0):
            pass
    with locks.Turn(tmp_path / "flush"), pytest.raises(StillRunning, match="flush"), quiesce(tmp_path, 0.0):
        pass
    assert locks.try_acquire_for_life(shard)
    with pytest.raises(StillRunning, match="shard-0"), quiesce(tmp_path, 0.02):
        pass
    threading.Timer(0.05, os.close, [shard]).start()  # the dying
    with quiesce(tmp_path, 20.0):
        pass


@pytest.mark.skipif(os.geteuid() != 0, reason="only root makes files for others")
def test_a_lock_that_root_makes_is_the_server_s(tmp_path: Path) -> None:
    os.chown(tmp_path, 12345, 23456)
    with pin_log(tmp_path):  # a backup as root
        pass
    status = (tmp_path / NAME).stat()
    assert (status.st_uid, status.st_gid, status.st_mode & 0o777) == (12345, 23456, 0o600)
    assert names(tmp_path) == [NAME]
