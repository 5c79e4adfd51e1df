"""Backups of a store whose shards this process plays: every revision that one reaches is what the history says."""

from __future__ import annotations

import errno
import os
import random
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import msgspec
import pytest

from kvserver.serve.watch.housekeeping import Housekeeping
from shards.backup import archive
from shards.backup import take as backup
from shards.backup.archive import (
    NAME,
    UNFINISHED,
    Archive,
    ArchiveError,
    Cut,
    OutOfReach,
    RestoreTarget,
    find_cut,
    shorten,
)
from shards.backup.restore import UNFINISHED as RESTORING
from shards.backup.restore import NotEmpty, restore_backup, see_that_it_is_empty
from shards.backup.take import BackupError, RunningStore, StoppedStore, back_up
from shards.host.board import Board
from shards.log.epoch import boot_id, new_epoch
from shards.log.manifest import SNAPSHOTS, Manifest
from shards.log.pins import NoPlace, pin_log, pinned_lsns
from shards.log.reader import LogReader
from shards.log.records import HEADER, START, Start
from shards.log.recovery import begin_history, recover_log
from shards.log.segments import Segments
from shards.maps.snapshot import SnapshotError
from shards.wire.protocol import Atomic, Change, Event, PrefixMarked, TouchEvent, changes, decode_events
from tests.api.maps import Oracle, Run, delete, first_run, put, record_of
from tests.stores import Store
from tests.times import at

SEGMENT = 1 << 20
ALL = RestoreTarget()


def quiet(done: int, total: int) -> None:
    """A report that goes nowhere."""


class History:
    """What happened: every change with its revision and time, and which revisions lie within an atomic batch."""

    def __init__(self) -> None:
        self.changes: list[tuple[int, Change, int]] = []
        self.batches: list[range] = []

    def note(self, events: Sequence[Event], revision: int, time_ms: int) -> None:
        self.changes += [(number, change, time_ms) for number, change in changes(events, revision)]
        for event in events:
            size = len(event.changes) if isinstance(event, Atomic) else 1
            if size > 1:
                self.batches.append(range(revision, revision + size))
            revision += size

    def last_before(self, revision: int) -> int:
        """The last state at or before `revision`: none is within a batch."""
        for batch in self.batches:
            if batch.start <= revision < batch.stop - 1:
                return batch.start - 1
        return revision

    def oracle(self, revision: int) -> Oracle:
        """The store at `revision`."""
        oracle = Oracle()
        for number, change, time_ms in self.changes:
            if number <= revision:
                oracle.apply([change], number, time_ms)
        return oracle


def random_record(chance: random.Random, shard_keys: list[bytes], now_ms: int) -> list[Event]:
    """Some changes of the keys of one shard."""

    def change() -> Change:
        key = chance.choice(shard_keys)
        expires_ms = chance.choice([0, 0, now_ms + chance.randrange(1, 50), now_ms + 1_000_000])
        kind = chance.randrange(10)
        if kind < 5:
            return put(key, b"%d" % chance.randrange(10**9), chance.choice(["", "text/plain"]), expires_ms)
        return TouchEvent(key, expires_ms) if kind < 7 else delete(key)

    def event() -> Event:
        kind = chance.randrange(10)
        if kind == 0:
            return PrefixMarked(b"k")
        return Atomic([change() for _ in range(chance.randrange(2, 5))]) if kind < 4 else change()

    events = [event() for _ in range(chance.randrange(1, 5))]
    return events if any(not isinstance(each, PrefixMarked) for each in events) else [*events, change()]


def live_a_while(run: Run, history: History, chance: random.Random, records: int) -> None:
    """Append and apply records at random, on a clock that jumps ahead a little."""
    now_ms = run.board.now_ms() + 1000 * len(history.changes)
    for _ in range(records):
        now_ms += chance.randrange(0, 20)
        shard = chance.randrange(run.shards)
        keys = [key for key in KEYS if run_shard(key, run.shards) == shard]
        record = run.log(*random_record(chance, keys, now_ms), now_ms=now_ms)
        run.maps[shard].apply([record])
        run.board.shards[shard].clear_open()
        history.note(decode_events(record.payload), record.revision, record.time_ms)


def run_shard(key: bytes, shards: int) -> int:
    from shards.wire.keys import shard_of

    return shard_of(key, shards)


KEYS = [b"k%d" % n for n in range(16)]


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return first_run(tmp_path / "store", segment=SEGMENT).open()


def take(run: Run, target: Path) -> Archive:
    return back_up(RunningStore(run.board), target, "test", quiet, segment=SEGMENT)


def restore(source: Path, tmp_path: Path, until: RestoreTarget = ALL, shards: int = 3) -> tuple[Cut, Run]:
    """A restored store, started with another number of shards."""
    data_dir = tmp_path / "data"
    data_dir.mkdir(parents=True)
    see_that_it_is_empty(data_dir)
    found = Archive.load(source)
    cut = find_cut(found, source, until, SEGMENT)
    manifest = restore_backup(found, source, data_dir, cut, quiet, segment=SEGMENT)
    assert Manifest.load(data_dir) == manifest
    return cut, start(data_dir, tmp_path, shards)


def start(data_dir: Path, tmp_path: Path, shards: int) -> Run:
    manifest = Manifest.load(data_dir)
    for name in ("run", "maps", "data/locks"):
        (tmp_path / name).mkdir(exist_ok=True)
    log_dir = data_dir / "log"
    end = recover_log(
        log_dir,
        manifest.secret,
        manifest.replay_lsn,
        manifest.replay_revision,
        last_start=manifest.last_start,
        end_lsn=manifest.end_lsn,
        segment=SEGMENT,
    )
    begun = Start(store=manifest.store, epoch=new_epoch(), boot_id=boot_id(), sync="always", version="test")
    following = manifest.end_revision + 1000
    tail, following = begin_history(log_dir, manifest.secret, begun, end.tail, following, at(1), segment=SEGMENT)
    from shards.host.board import Facts

    facts = Facts(
        version="test",
        store=manifest.store,
        epoch=begun.epoch,
        boot_id=begun.boot_id,
        secret=manifest.secret,
        shards=shards,
        sync="always",
        in_memory=False,
        data_dir=str(data_dir),
        lock_dir=str(data_dir / "locks"),
        log_dir=str(log_dir),
        map_dir=str(tmp_path / "maps"),
        max_value=1 << 20,
        supervisor_pid=os.getpid(),
        started_ms=1,
        clock_offset_ms=0,
    )
    board = Board.create(tmp_path / "run" / "board", facts)
    segments = Segments(board, segment=SEGMENT)
    segments.adopt_history(tail, following)
    board.install()
    run_dir, map_dir = tmp_path / "run", tmp_path / "maps"
    return Run(Store(board, data_dir, run_dir, map_dir, log_dir, segments, SEGMENT)).open()


def check(restored: Run, oracle: Oracle) -> None:
    restored.oracle = oracle
    restored.check()
    restored.close_maps()


@pytest.mark.parametrize("seed", range(3))
def test_every_revision_it_reaches_is_what_the_history_says(run: Run, tmp_path: Path, seed: int) -> None:
    chance, history = random.Random(seed), History()
    first = run.board.last_revision()
    live_a_while(run, history, chance, 40)
    if seed % 2:
        run.snapshot()
        first = max(file.revision for file in Manifest.load(run.store.data_dir).files)
        live_a_while(run, history, chance, 40)
    taken = take(run, tmp_path / "backup")
    last = run.board.last_revision()
    assert (taken.first_revision, taken.last_revision) == (first, last)
    live_a_while(run, history, chance, 5)  # not in it
    for number, revision in enumerate({first, last, *(chance.randrange(first, last) for _ in range(6))}):
        cut, restored = restore(tmp_path / "backup", tmp_path / f"r{number}", RestoreTarget(revision=revision))
        assert cut.revision == history.last_before(revision)
        assert cut.within_batch == (cut.revision != revision)
        check(restored, history.oracle(cut.revision))
    cut, restored = restore(tmp_path / "backup", tmp_path / "all")
    assert (cut.revision, cut.rest) == (last, None)
    check(restored, history.oracle(last))


@pytest.mark.parametrize("seed", range(2))
def test_a_time_is_the_state_before_the_first_later_record(run: Run, tmp_path: Path, seed: int) -> None:
    chance, history = random.Random(seed), History()
    live_a_while(run, history, chance, 40)
    if seed:
        run.snapshot()
        live_a_while(run, history, chance, 40)
    now_ms = run.board.now_ms() + 1_000_000
    run.board.now_ms = lambda: now_ms  # type: ignore[method-assign]
    taken = take(run, tmp_path / "backup")
    times = [time_ms for number, _, time_ms in history.changes if number > taken.first_revision]
    for number, time_ms in enumerate([taken.first_ms, *chance.sample(times, 5)]):
        cut, restored = restore(tmp_path / "backup", tmp_path / f"r{number}", RestoreTarget(time_ms=time_ms))
        until = [revision for revision, _, at in history.changes if at <= time_ms]
        assert cut.revision == max([taken.first_revision, *until])
        check(restored, history.oracle(cut.revision))


def test_what_it_does_not_reach_is_refused(run: Run, tmp_path: Path) -> None:
    live_a_while(run, History(), random.Random(1), 10)
    run.snapshot()
    live_a_while(run, History(), random.Random(2), 10)
    taken = take(run, tmp_path / "backup")
    for until in (
        RestoreTarget(revision=taken.first_revision - 1),
        RestoreTarget(revision=taken.last_revision + 1),
        RestoreTarget(time_ms=taken.first_ms - 1),
        RestoreTarget(time_ms=taken.taken_ms + 1),
    ):
        with pytest.raises(OutOfReach):
            find_cut(taken, tmp_path / "backup", until, SEGMENT)


def test_the_log_is_cut_where_it_was_asked_for(tmp_path: Path) -> None:
    """Over several segments, with fillers between them: records behind the cut are gone, the rest is as it was."""
    segment = 4096
    run = first_run(tmp_path / "store", segment=segment)
    written = []
    for n in range(40):
        run.store.segments.prepare_next()
        written.append(run.log(put(b"k", bytes(200 + n * 37), ""), put(b"k", b"%d" % n)))
    end = run.board.history()
    source = RunningStore(run.board)
    source.end = lambda manifest: backup.LogEnd(end[0], end[1] - 1, run.board.now_ms())  # type: ignore[method-assign]
    taken = back_up(source, tmp_path / "backup", "test", quiet, segment=segment)
    assert len(taken.log) > 5
    for record in written[::7]:
        for revision in (record.revision, record.revision + 1):
            data_dir = tmp_path / f"r{revision}"
            data_dir.mkdir()
            cut = find_cut(taken, tmp_path / "backup", RestoreTarget(revision=revision), segment)
            restore_backup(taken, tmp_path / "backup", data_dir, cut, quiet, segment=segment)
            reader = LogReader(data_dir / "log", taken.manifest.secret, segment=segment)
            kept, _ = reader.read(0, cut.end, 1 << 30)
            reader.close()
            logged = [each for each in kept if each.kind != START]
            assert [each.revision for each in logged] == [
                each.revision for each in written if each.revision <= revision
            ]
            assert logged[-1].next_revision - 1 == revision
            found = recover_log(data_dir / "log", taken.manifest.secret, 0, 0, end_lsn=cut.end, segment=segment)
            assert 0 <= found.tail - cut.end < HEADER
            assert (found.next_revision, found.repaired) == (revision + 1, False)


@pytest.mark.parametrize(
    ("revision", "kept", "within"),
    [(4, 0, False), (5, 1, False), (6, 1, True), (7, 1, True), (8, 4, False), (9, 5, False)],
)
def test_a_record_is_shortened_between_its_events(revision: int, kept: int, within: bool) -> None:
    batch = Atomic([put(b"a"), put(b"b"), delete(b"a")])
    record = record_of([put(b"x"), batch, put(b"y"), put(b"z")], revision=5)
    rest, divided = shorten(record, revision)
    assert divided == within
    if not kept:
        assert rest is None
        return
    assert rest is not None
    assert rest.next_revision == 5 + kept == rest.revision + rest.events
    assert list(changes(decode_events(rest.payload), 5)) == list(changes(decode_events(record.payload), 5))[:kept]


def test_a_stopped_store_is_backed_up_as_it_lies_there(run: Run, tmp_path: Path) -> None:
    history = History()
    live_a_while(run, history, random.Random(5), 20)
    end = run.board.last_revision()
    run.close_maps()
    with (run.store.log_dir / "000000000000.log").open("r+b") as log:  # what a crash leaves
        log.seek(run.board.history()[0])
        log.write(b"KVL1 half a record")
    taken = back_up(StoppedStore(run.store.data_dir, SEGMENT), tmp_path / "backup", "test", quiet, segment=SEGMENT)
    assert taken.last_revision == end
    check(restore(tmp_path / "backup", tmp_path / "r")[1], history.oracle(end))


class Broken(Exception):
    """Whatever goes wrong."""


@pytest.mark.parametrize("at", [1, 2, 3])
def test_a_backup_that_fails_leaves_nothing(run: Run, tmp_path: Path, at: int) -> None:
    live_a_while(run, History(), random.Random(1), 5)
    run.snapshot()
    calls = []

    def report(done: int, total: int) -> None:
        calls.append(done)
        if len(calls) == at:
            assert (tmp_path / "new" / "backup" / UNFINISHED).exists()
            assert (tmp_path / "new" / "backup").stat().st_mode & 0o777 == 0o700
            raise Broken

    with pytest.raises(Broken):
        back_up(RunningStore(run.board), tmp_path / "new" / "backup", "test", report, segment=SEGMENT)
    assert not (tmp_path / "new").exists()
    assert pinned_lsns(run.store.data_dir / "locks") == ()
    with pytest.raises(ArchiveError, match="there is no backup"):
        Archive.load(tmp_path / "new" / "backup")


def test_a_full_disk_is_said_and_nothing_is_left(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "backup").mkdir()
    monkeypatch.setattr(backup.os, "write", lambda fd, data: len(data) // 2)
    with pytest.raises(OSError, match="No space left") as raised:
        take(run, tmp_path / "backup")
    assert raised.value.errno == errno.ENOSPC
    assert "backup" in str(raised.value.filename)
    assert list((tmp_path / "backup").iterdir()) == []


def test_a_target_must_be_empty_and_apart(run: Run, tmp_path: Path) -> None:
    for target, why in (
        (run.store.data_dir, "is the data directory"),
        (run.store.data_dir / "log" / "x", "or lies in it"),
        (run.store.data_dir.parent, "holds the data directory"),
    ):
        with pytest.raises(BackupError, match=why):
            take(run, target)
    (tmp_path / "link").symlink_to(run.store.data_dir)
    with pytest.raises(BackupError, match="is the data directory"):
        take(run, tmp_path / "link")
    (tmp_path / "file").write_text("x")
    with pytest.raises(BackupError, match="is a file"):
        take(run, tmp_path / "file")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "x").touch()
    with pytest.raises(BackupError, match="is not empty"):
        take(run, tmp_path / "full")
    take(run, tmp_path / "twice")
    with pytest.raises(BackupError, match="holds a backup already"):
        take(run, tmp_path / "twice")
    (tmp_path / "twice" / NAME).rename(tmp_path / "twice" / UNFINISHED)
    with pytest.raises(BackupError, match="was not finished"):
        take(run, tmp_path / "twice")
    with pytest.raises(ArchiveError, match="was not finished"):
        Archive.load(tmp_path / "twice")


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can make what is another user's")
@pytest.mark.parametrize("harm", ["target", "parent", "link"])
def test_a_directory_of_another_user_is_refused(run: Run, tmp_path: Path, harm: str) -> None:
    parent = tmp_path / "theirs"
    target = parent / "backup"
    target.mkdir(parents=True)
    if harm == "target":
        os.chown(target, 12345, 12345)
    elif harm == "parent":
        os.chown(parent, 12345, 12345)
        target = parent / "new" / "backup"
    else:
        target.rename(tmp_path / "elsewhere")
        target.symlink_to(tmp_path / "elsewhere")
        os.chown(target, 12345, 12345, follow_symlinks=False)
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(BackupError, match="belongs to the user with id 12345"):
        take(run, target)
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize("mode", [0o777, 0o707, 0o1777])
@pytest.mark.parametrize("which", ["target", "parent"])
def test_a_directory_in_which_others_may_write_is_refused(run: Run, tmp_path: Path, mode: int, which: str) -> None:
    parent = tmp_path / "open"
    (parent / "backup").mkdir(parents=True)
    (parent / "backup" if which == "target" else parent).chmod(mode)
    if mode & 0o1000 and which == "parent":  # as /tmp: what is ours there stays ours
        take(run, parent / "backup")
        take(run, parent / "new")
        return
    with pytest.raises(BackupError, match=r"to where others could change it: others can .*"):
        take(run, parent / "backup")
    assert list((parent / "backup").iterdir()) == []


def test_an_own_link_to_a_directory_is_followed(run: Run, tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()
    (tmp_path / "link").symlink_to("there")
    take(run, tmp_path / "link" / "backup")
    assert (tmp_path / "there" / "backup" / NAME).exists()


def test_a_new_snapshot_may_take_the_place_of_the_one_that_is_copied(run: Run, tmp_path: Path) -> None:
    history = History()
    live_a_while(run, history, random.Random(1), 20)
    run.snapshot()
    first = Manifest.load(run.store.data_dir)

    def report(done: int, total: int) -> None:
        if Manifest.load(run.store.data_dir) == first:
            live_a_while(run, history, random.Random(2), 20)
            run.snapshot()

    taken = back_up(RunningStore(run.board), tmp_path / "backup", "test", report, segment=SEGMENT)
    assert taken.manifest == first
    assert taken.last_revision == run.board.last_revision()
    check(restore(tmp_path / "backup", tmp_path / "r")[1], history.oracle(taken.last_revision))


def test_the_log_is_held_while_a_backup_lives(run: Run, tmp_path: Path) -> None:
    lock_dir = run.store.data_dir / "locks"
    assert pinned_lsns(lock_dir) == ()
    with pin_log(lock_dir) as first:
        assert pinned_lsns(lock_dir) == (0,), "until it says from where on, it holds everything"
        first.keep_from(7)
        with pin_log(lock_dir) as second:
            second.keep_from(5)
            assert pinned_lsns(lock_dir) == (7, 5)
        assert pinned_lsns(lock_dir) == (7,)
    assert pinned_lsns(lock_dir) == ()
    with pin_log(lock_dir):
        assert pinned_lsns(lock_dir) == (0,), "what an earlier holder said is forgotten"


def test_there_is_an_end_to_backups_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shards.log.pins.PLACES", 1)
    with pin_log(tmp_path), pytest.raises(NoPlace), pin_log(tmp_path):
        pass


def damage(path: Path, at: int = -1) -> None:
    """Change one byte of a file."""
    data = bytearray(path.read_bytes())
    data[at] ^= 1
    path.write_bytes(data)


def log_file(directory: Path) -> Path:
    return next((directory / "log").iterdir())


def snapshot_file(directory: Path) -> Path:
    return next((directory / SNAPSHOTS).glob("*/*"))


@pytest.mark.parametrize(
    ("harm", "why"),
    [
        (lambda d: damage(d / NAME, 40), "damaged"),
        (lambda d: damage(log_file(d)), "damaged, its checksum is another"),
        (lambda d: damage(snapshot_file(d)), "damaged or another store's"),
        (lambda d: log_file(d).unlink(), "cannot be read"),
        (lambda d: snapshot_file(d).unlink(), "is missing"),
    ],
)
def test_a_damaged_backup_is_refused(run: Run, tmp_path: Path, harm: Callable[[Path], Any], why: str) -> None:
    live_a_while(run, History(), random.Random(1), 5)
    run.snapshot()
    take(run, tmp_path / "backup")
    harm(tmp_path / "backup")
    with pytest.raises((ArchiveError, SnapshotError), match=why):
        restore(tmp_path / "backup", tmp_path / "r")
    assert not (tmp_path / "r" / "data" / "manifest").exists()


def test_a_damaged_store_is_not_backed_up(run: Run, tmp_path: Path) -> None:
    live_a_while(run, History(), random.Random(1), 5)
    run.snapshot()
    damage(snapshot_file(run.store.data_dir))
    with pytest.raises(BackupError, match=r"snapshot file .* is damaged"):
        take(run, tmp_path / "backup")
    assert not (tmp_path / "backup").exists()


def test_a_damaged_log_is_not_backed_up(run: Run, tmp_path: Path) -> None:
    live_a_while(run, History(), random.Random(1), 5)
    damage(run.store.log_dir / "000000000000.log", run.board.history()[0] // 2)
    with pytest.raises(BackupError, match=r"segment 000000000000\.log at byte"):
        take(run, tmp_path / "backup")


def test_a_restore_that_broke_off_is_repeated(run: Run, tmp_path: Path) -> None:
    history = History()
    live_a_while(run, history, random.Random(1), 10)
    run.snapshot()
    taken = take(run, tmp_path / "backup")
    data_dir = tmp_path / "r" / "data"
    data_dir.mkdir(parents=True)

    def report(done: int, total: int) -> None:
        raise Broken

    cut = find_cut(taken, tmp_path / "backup", RestoreTarget(), SEGMENT)
    with pytest.raises(Broken):
        restore_backup(taken, tmp_path / "backup", data_dir, cut, report, segment=SEGMENT)
    assert (data_dir / RESTORING).exists()
    see_that_it_is_empty(data_dir)
    restore_backup(taken, tmp_path / "backup", data_dir, cut, quiet, segment=SEGMENT)
    assert not (data_dir / RESTORING).exists()
    check(start(data_dir, tmp_path / "r", 1), history.oracle(taken.last_revision))
    with pytest.raises(NotEmpty, match="holds a store"):
        see_that_it_is_empty(data_dir)


def test_the_file_of_a_backup_is_read_by_format_first(run: Run, tmp_path: Path) -> None:
    taken = take(run, tmp_path / "backup")
    later = msgspec.structs.replace(taken, format=archive.FORMAT + 1)
    archive.checksummed_json.write(later, tmp_path / "backup" / NAME, tmp_path / "backup" / UNFINISHED)
    with pytest.raises(ArchiveError, match="this program knows"):
        Archive.load(tmp_path / "backup")


def test_nothing_that_a_backup_needs_is_trimmed(tmp_path: Path) -> None:
    segment = 4096
    run = first_run(tmp_path / "store", shards=1, segment=segment)
    for n in range(30):
        run.store.segments.prepare_next()
        run.log(put(b"k", b"%d" % n * 300))
    tail, _ = run.board.history()
    keeping = Housekeeping(run.board, run.store.segments, retention=0, replay_lsn=tail)

    def oldest() -> int:
        keeping._trim()
        assert keeping._expendable() == min([tail, *pinned_lsns(run.store.data_dir / "locks")])
        return run.board.log.oldest

    with pin_log(run.store.data_dir / "locks") as whole:
        assert oldest() == 0
        with pin_log(run.store.data_dir / "locks") as part:
            whole.keep_from(3 * segment)
            part.keep_from(5 * segment)
            assert oldest() == 3 * segment
        whole.keep_from(4 * segment)
        assert oldest() == 4 * segment
    assert oldest() == tail - tail % segment
