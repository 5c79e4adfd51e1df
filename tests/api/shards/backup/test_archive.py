"""What a backup reaches, where its log is cut, and what its file must say."""

from __future__ import annotations

import random
from pathlib import Path

import msgspec
import pytest

from shards.backup import archive
from shards.backup import take as backup
from shards.backup.archive import (
    NAME,
    UNFINISHED,
    Archive,
    ArchiveError,
    OutOfReach,
    RestoreTarget,
    find_cut,
    shorten,
)
from shards.backup.restore import restore_backup
from shards.backup.take import RunningStore, back_up
from shards.log.reader import LogReader
from shards.log.records import HEADER, START
from shards.log.recovery import recover_log
from shards.wire.protocol import Atomic, Outcome, changes, decode_events, decode_record, encode_events
from tests.api.maps import Run, delete, first_run, put, record_of
from tests.api.shards.backup.tools import (
    SEGMENT,
    History,
    check,
    live_a_while,
    quiet,
    restore,
    take,
)


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


@pytest.mark.parametrize(("revision", "kept"), [(5, [0]), (7, [0]), (8, [0, 3]), (9, [0, 3])])
def test_what_was_done_once_goes_with_its_change(revision: int, kept: list[int]) -> None:
    batch = Atomic([put(b"a"), put(b"b"), delete(b"a")])
    outcomes = [Outcome(b"%018d" % at, bytes(16), at, 0, False, b"") for at in (0, 3, 5)]
    record = record_of([put(b"x"), batch, put(b"y"), put(b"z")], revision=5)
    payload = encode_events([put(b"x"), batch, put(b"y"), put(b"z"), *outcomes])
    rest, _ = shorten(record._replace(payload=payload), revision)
    assert rest is not None
    assert [outcome.at for outcome in decode_record(rest.payload)[1]] == kept


def test_the_file_of_a_backup_is_read_by_format_first(run: Run, tmp_path: Path) -> None:
    taken = take(run, tmp_path / "backup")
    later = msgspec.structs.replace(taken, format=archive.FORMAT + 1)
    archive.checksummed_json.write(later, tmp_path / "backup" / NAME, tmp_path / "backup" / UNFINISHED)
    with pytest.raises(ArchiveError, match="this program knows"):
        Archive.load(tmp_path / "backup")
