"""What tests of backups share: a store that lives a while and knows its history, backup, restore, damage."""

from __future__ import annotations

import os
import random
from collections.abc import Sequence
from pathlib import Path

from shards.backup.archive import (
    Archive,
    Cut,
    RestoreTarget,
    find_cut,
)
from shards.backup.check import (
    LogCheck,
    check_log,
)
from shards.backup.restore import restore_backup, see_that_it_is_empty
from shards.backup.take import RunningStore, back_up
from shards.host.board import Board
from shards.log.epoch import boot_id, new_epoch
from shards.log.manifest import SNAPSHOTS, Manifest
from shards.log.records import Start
from shards.log.recovery import begin_history, examine_log, recover_log
from shards.log.segments import Segments
from shards.wire.protocol import Atomic, Change, Event, PrefixMarked, TouchEvent, changes, decode_events
from tests.api.maps import Oracle, Run, delete, first_run, put
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


def damage(path: Path, at: int = -1) -> None:
    """Change one byte of a file."""
    data = bytearray(path.read_bytes())
    data[at] ^= 1
    path.write_bytes(data)


def log_file(directory: Path) -> Path:
    return next((directory / "log").iterdir())


def snapshot_file(directory: Path) -> Path:
    return next((directory / SNAPSHOTS).glob("*/*"))


def manifest_of(run: Run) -> Manifest:
    return Manifest.load(run.store.data_dir)


def look(run: Run) -> LogCheck:
    """At the log of a store that stands still."""
    manifest = manifest_of(run)
    found = examine_log(run.store.log_dir, manifest, segment=SEGMENT)
    return check_log(run.store.log_dir, manifest, found.fold.lsn, found, SEGMENT)


def several_segments(tmp_path: Path) -> tuple[Run, int]:
    segment = 4096
    run = first_run(tmp_path / "small", shards=1, segment=segment)
    for n in range(30):
        run.store.segments.prepare_next()
        run.log(put(b"k", b"%d" % n * 300))
    return run, segment


class Broken(Exception):
    """Whatever goes wrong."""


def lived_store(tmp_path: Path) -> Run:
    """A store with some history, then a snapshot, then more history."""
    run = first_run(tmp_path / "store", segment=SEGMENT).open()
    live_a_while(run, History(), random.Random(1), 10)
    run.snapshot()
    live_a_while(run, History(), random.Random(2), 20)
    return run
