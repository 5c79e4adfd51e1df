"""Recovery finds the end of a log: torn tails are cut, damage is refused."""

from __future__ import annotations

import os
import threading
from pathlib import Path
from typing import Any

import pytest

from shards.files import locks
from shards.log.appender import LogAppender
from shards.log.files import segment_name, segment_numbers
from shards.log.records import DATA, HEADER, Record, Start, encode
from shards.log.recovery import Damaged, StillRunning, begin_history, quiesce, recover_log
from tests.api.shards.log.tools import NOW, SEGMENT, change_byte, fill, names, recovered
from tests.stores import SECRET, Store


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
