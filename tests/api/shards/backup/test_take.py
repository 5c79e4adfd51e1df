"""Backups of a store whose shards this process plays: every revision that one reaches is what the history says."""

from __future__ import annotations

import errno
import io
import os
import random
import subprocess
import tarfile
from pathlib import Path

import pytest

from shards.backup import copies
from shards.backup.archive import (
    NAME,
    UNFINISHED,
    Archive,
    ArchiveError,
    RestoreTarget,
)
from shards.backup.copies import BackupError
from shards.backup.take import RunningStore, StoppedStore, back_up, stream_backup
from shards.log.manifest import Manifest
from shards.log.pins import pin_log, pinned_lsns
from tests.api.maps import Run
from tests.api.shards.backup.tools import (
    SEGMENT,
    Broken,
    History,
    check,
    damage,
    live_a_while,
    quiet,
    restore,
    snapshot_file,
    take,
)


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


@pytest.mark.parametrize("snapshot", [False, True])
def test_a_stream_unpacks_to_the_same_backup(run: Run, tmp_path: Path, snapshot: bool) -> None:
    history = History()
    live_a_while(run, history, random.Random(7), 20)
    if snapshot:
        run.snapshot()
        live_a_while(run, history, random.Random(8), 20)
    with (tmp_path / "store.tar").open("wb") as file:
        streamed = stream_backup(RunningStore(run.board), file, "test", quiet, segment=SEGMENT)
    subprocess.run(["tar", "-x", "-f", "store.tar", "--one-top-level=streamed"], cwd=tmp_path, check=True)
    taken = take(run, tmp_path / "taken")
    assert Archive.load(tmp_path / "streamed") == streamed
    assert streamed.log == taken.log and streamed.manifest == taken.manifest
    assert {path.stat().st_mode & 0o077 for path in (tmp_path / "streamed").rglob("*")} == {0}
    check(restore(tmp_path / "streamed", tmp_path / "r")[1], history.oracle(run.board.last_revision()))


def test_a_stream_that_breaks_off_is_no_backup(run: Run, tmp_path: Path) -> None:
    live_a_while(run, History(), random.Random(1), 5)
    run.snapshot()
    whole = io.BytesIO()
    stream_backup(RunningStore(run.board), whole, "test", quiet, segment=SEGMENT)
    with tarfile.open(fileobj=io.BytesIO(whole.getvalue())) as tar:
        last = tar.getmembers()[-1]
    assert last.name == NAME
    for number, size in enumerate((0, last.offset // 2, last.offset, last.offset_data + last.size - 1)):
        (tmp_path / str(number)).mkdir()
        unpack = ["tar", "-x", "-C", str(tmp_path / str(number))]
        subprocess.run(unpack, input=whole.getvalue()[:size], capture_output=True)
        with pytest.raises(ArchiveError):
            Archive.load(tmp_path / str(number))


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
    monkeypatch.setattr(copies.os, "write", lambda fd, data: len(data) // 2)
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
    with pytest.raises(BackupError, match=r"into a directory that others can change: others can .*"):
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
