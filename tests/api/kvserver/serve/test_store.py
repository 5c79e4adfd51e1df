"""Directories and locks of a store as its supervisor takes them."""

from __future__ import annotations

import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from kvserver.serve.run_dir import LONGEST_NAME, RunDir, RunDirError
from kvserver.serve.store import Store, StoreError, make_data_dir, snapshot_after, take_store_lock
from kvserver.settings import ServerSettings
from shards.host.board import ProcessRow
from shards.log.appender import LogAppender
from shards.log.files import SEGMENT
from shards.log.manifest import Manifest
from shards.log.reader import LogReader
from shards.log.records import DATA
from shards.log.recovery import begin_history
from tests.stores import new_store

MIB = 1 << 20


@pytest.fixture
def short_path() -> Iterator[Path]:
    """A directory whose path leaves room for the names of sockets."""
    with tempfile.TemporaryDirectory(dir="/tmp") as path:
        yield Path(path)


def test_an_empty_directory_becomes_a_store(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "new" / "deep"):
        make_data_dir(path)
        make_data_dir(path)
        assert [entry.name for entry in path.iterdir() if entry.name == "locks"] == ["locks"]


def test_other_files_are_left_alone(tmp_path: Path) -> None:
    (tmp_path / "letter.txt").touch()
    with pytest.raises(StoreError, match=r"letter\.txt"):
        make_data_dir(tmp_path)
    assert [entry.name for entry in tmp_path.iterdir()] == ["letter.txt"]


@pytest.mark.parametrize("left", ["log/000000000000.log", "snapshots/0000000000001000-00000000"])
def test_a_log_or_snapshot_without_its_manifest_is_not_taken_for_a_new_store(tmp_path: Path, left: str) -> None:
    make_data_dir(tmp_path)
    (tmp_path / left).parent.mkdir()
    (tmp_path / left).touch()
    with pytest.raises(StoreError, match=r"manifest .* is missing"):
        make_data_dir(tmp_path)


def test_the_lock_of_the_store_names_its_holder(tmp_path: Path) -> None:
    make_data_dir(tmp_path)
    held = take_store_lock(tmp_path)
    assert (tmp_path / "locks" / "store").read_text() == f"{os.getpid()}\n"
    with pytest.raises(StoreError, match=rf"another process \(pid {os.getpid()}\)"):
        take_store_lock(tmp_path, wait_s=0)
    os.close(held)
    os.close(take_store_lock(tmp_path))


def test_a_run_directory_is_one_server_s(tmp_path: Path) -> None:
    path = tmp_path / "run"
    first = RunDir(path)
    assert path.stat().st_mode & 0o777 == 0o700
    with pytest.raises(RunDirError, match="in use by another server"):
        RunDir(path, wait_s=0)
    first.close()
    RunDir(path, wait_s=0).close()


def test_a_run_directory_keeps_the_board_of_a_run_that_was_killed_and_nothing_else(tmp_path: Path) -> None:
    RunDir(tmp_path / "run").close()
    left = [
        "shard-0-1f.req",
        "shard-0.pub",
        "gateway-3.handover",
        "gateway-3.activity",
        "gateway.sock",
        "tokens",
        "board",
        "board.new",
        "stamps",
    ]
    for name in [*left, "metrics/counter_1.db", f"tickets/{0:064}"]:
        (tmp_path / "run" / name).touch()
    taken = RunDir(tmp_path / "run")
    assert {entry.name for entry in taken.path.iterdir()} == {"board", "lock", "metrics", "tickets"}
    assert list(taken.metrics.iterdir()) == list((taken.path / "tickets").iterdir()) == []
    taken.clean()
    assert {entry.name for entry in taken.path.iterdir()} == {"lock"}
    taken.close()


@pytest.mark.parametrize("name", ["tickets/letter.txt", "metrics/letter.txt", "metrics/mine/letter.txt"])
def test_nor_are_files_of_others_within(tmp_path: Path, name: str) -> None:
    RunDir(tmp_path / "x").close()
    precious = tmp_path / "x" / name
    precious.parent.mkdir(parents=True, exist_ok=True)
    precious.write_text("dear")
    with pytest.raises(RunDirError, match="holds other files"):
        RunDir(tmp_path / "x")
    assert precious.read_text() == "dear"


@pytest.mark.parametrize(
    "names", [["photo.jpg"], ["metrics"], ["tickets", "tokens"], ["lock", "metrics"], ["board"], ["lock"]]
)
def test_a_directory_of_others_is_refused(tmp_path: Path, names: list[str]) -> None:
    path = tmp_path / "x"
    path.mkdir(mode=0o755)
    for name in names:
        if name in ("metrics", "tickets"):
            (path / name).mkdir()
            (path / name / "precious").touch()
        else:
            (path / name).write_text("precious")
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(RunDirError, match=r"holds other files|cannot be used"):
        RunDir(path)
    assert sorted(tmp_path.rglob("*")) == before
    assert path.stat().st_mode & 0o777 == 0o755


def test_a_stranger_s_file_in_a_run_directory_is_left_where_it_is(tmp_path: Path) -> None:
    RunDir(tmp_path / "run").close()
    (tmp_path / "run" / "photo.jpg").touch()
    with pytest.raises(RunDirError, match=r"holds other files \(photo.jpg\)"):
        RunDir(tmp_path / "run")
    assert (tmp_path / "run" / "photo.jpg").exists()


@pytest.mark.parametrize("left", [[], ["lock"], ["lock", "board"]], ids=["nothing", "a lock", "a board"])
def test_a_run_directory_that_a_server_left_unmarked_is_taken(tmp_path: Path, left: list[str]) -> None:
    store = new_store(tmp_path, shards=1)
    path = tmp_path / "old"
    path.mkdir()
    for name in left:
        (path / name).write_bytes((store.run_dir / name).read_bytes() if name == "board" else b"")
    RunDir(path).close()


def test_a_run_directory_that_lies_in_wait_is_refused(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "file").touch()
    for name in ("link", "file"):
        with pytest.raises(RunDirError, match=r"--run-dir|cannot be used"):
            RunDir(tmp_path / name)


def test_paths_too_long_for_sockets_are_refused(short_path: Path) -> None:
    for length, fits in ((107, True), (108, False)):
        path = short_path / ("x" * (length - len(str(short_path / LONGEST_NAME)) - 1))
        if fits:
            RunDir(path).close()
        else:
            with pytest.raises(RunDirError, match="107 bytes"):
                RunDir(path)


def test_run_directories_of_dead_servers_in_memory_are_removed(
    short_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("kvserver.serve.run_dir.default_run_dir", lambda name: short_path / name)
    dead = RunDir.of_a_store_in_memory()
    living = RunDir.of_a_store_in_memory()
    dead.close()
    new = RunDir.of_a_store_in_memory()
    assert not dead.path.exists()
    assert living.path.exists()
    new.clean()
    assert not new.path.exists()
    for run_dir in (living, new):
        run_dir.close()


@pytest.mark.parametrize(
    ("maps", "after"),
    [(0, 256 * MIB), (1024 * MIB, 256 * MIB), (2048 * MIB, 512 * MIB), (1 << 40, 2048 * MIB)],
)
def test_when_a_snapshot_pays(maps: int, after: int) -> None:
    assert snapshot_after(maps) == after


# A store that has run.


def settings_of(directory: Path) -> ServerSettings:
    return ServerSettings(data_dir=directory / "data", run_dir=directory / "run", map_dir=directory / "maps", shards=1)


def run_once(directory: Path, clean: bool = True) -> tuple[int, int]:
    """A run of the store that writes two records: the LSN at which the second begins, and the last revision."""
    with Store(settings_of(directory)) as store:
        log = LogAppender(store.board, 0)
        records = [log.append(b"record %d" % n, 1, store.board.now()) for n in range(2)]
        log.flush(records[-1].end)
        log.close()
        store.board.shards[0].clear_open()
        if clean:
            store.finish()
    return records[-1].lsn, records[-1].revision


def change_revisions(store: Store) -> list[int]:
    """The revisions of the changes that the log of `store`, which has just begun a run, still holds."""
    facts = store.board.facts
    reader = LogReader(Path(facts.log_dir), facts.secret)
    records, _ = reader.read(store.board.log.oldest, store.board.history()[0])
    reader.close()
    return [record.revision for record in records if record.kind == DATA]


def forget_memory(directory: Path) -> None:
    """As another boot does: what the board and the maps say of the last flush is gone."""
    for name in ("run", "maps"):
        shutil.rmtree(directory / name)


def zero_from(directory: Path, lsn: int) -> None:
    with (directory / "data" / "log" / f"{lsn // SEGMENT:012d}.log").open("r+b") as file:
        file.seek(lsn % SEGMENT)
        file.write(bytes(4096))


def contents(directory: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in directory.rglob("*") if path.is_file() and path.parent.name != "locks"}


def lose_log_dir(data: Path) -> None:
    shutil.rmtree(data / "log")


def lose_segment(data: Path) -> None:
    (data / "log" / "000000000000.log").unlink()


def cut_segment(data: Path) -> None:
    os.truncate(data / "log" / "000000000000.log", 5000)


def change_manifest(key: str) -> Callable[[Path], None]:
    def change(data: Path) -> None:
        path = data / "manifest"
        content = msgspec.json.decode(path.read_bytes())
        content[key] = content[key] + 1 if isinstance(content[key], int) else "f" * 32
        path.write_bytes(msgspec.json.encode(content))

    return change


LOSSES = {
    "log directory": (lose_log_dir, r"segment 000000000000.log at byte 0: the segment is missing; restore .*backup"),
    "segment": (lose_segment, r"segment 000000000000.log at byte 0: the segment is missing; restore .*backup"),
    "part of a segment": (cut_segment, r"segment 000000000000.log at byte 5000: the segment ends there.*restore"),
    **{
        key: (change_manifest(key), r"the manifest .*/data/manifest is damaged .*restore .*backup")
        for key in ("secret", "store", "replay_lsn", "end_lsn")
    },
}


@pytest.mark.parametrize("lost", LOSSES)
def test_a_store_that_lost_something_is_not_taken_for_a_new_one(tmp_path: Path, lost: str) -> None:
    run_once(tmp_path)
    forget_memory(tmp_path)
    lose, says = LOSSES[lost]
    lose(tmp_path / "data")
    before = contents(tmp_path / "data")
    for _ in range(2):
        with pytest.raises(StoreError, match=says):
            Store(settings_of(tmp_path))
        assert contents(tmp_path / "data") == before, "nothing is touched"


@pytest.mark.parametrize("clean", [True, False])
def test_a_lost_tail_is_damage_after_a_stop_and_torn_after_a_crash(tmp_path: Path, clean: bool) -> None:
    lsn, revision = run_once(tmp_path, clean)
    forget_memory(tmp_path)
    zero_from(tmp_path, lsn)
    if clean:
        with pytest.raises(StoreError, match=f"segment 000000000000.log at byte {lsn}"):
            Store(settings_of(tmp_path))
    else:
        with Store(settings_of(tmp_path)) as store:
            assert change_revisions(store)[-1] == revision - 1


def test_a_stop_whose_note_was_not_written_is_a_stop(tmp_path: Path) -> None:
    run_once(tmp_path, clean=False)
    manifest = (tmp_path / "data" / "manifest").read_bytes()
    _, revision = run_once(tmp_path)
    (tmp_path / "data" / "manifest").write_bytes(manifest)
    with Store(settings_of(tmp_path)) as store:
        assert change_revisions(store)[-1] == revision


def test_a_new_history_begins_above_every_revision_that_was_known(tmp_path: Path) -> None:
    run_once(tmp_path)
    data = tmp_path / "data"
    known = 1 << 52
    manifest = Manifest.load(data)
    msgspec.structs.replace(manifest, end_revision=known, inode=manifest.inode + 1).save(data)  # a copy
    with Store(settings_of(tmp_path)) as store:
        assert store.board.last_revision() >= known
        assert Manifest.load(data).end_revision == store.board.last_revision()


def test_locks_that_are_missing_are_made_again(tmp_path: Path) -> None:
    _, revision = run_once(tmp_path)
    shutil.rmtree(tmp_path / "data" / "locks")
    with Store(settings_of(tmp_path)) as store:
        assert change_revisions(store)[-1] == revision


def test_the_store_s_clock_is_right_however_long_it_takes_to_begin(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def slowly(*given: Any) -> tuple[int, int]:
        begun = begin_history(*given)
        time.sleep(0.05)
        return begun

    monkeypatch.setattr("kvserver.serve.store.begin_history", slowly)
    with Store(settings_of(tmp_path)) as store:
        before = time.time_ns() // 1_000_000
        shown = store.board.now_ms()
        assert before - 1 <= shown <= time.time_ns() // 1_000_000 + 1
        assert store.board.facts.started_ms <= shown


# When a snapshot is taken.


def test_a_snapshot_waits_until_every_shard_has_its_map(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kvserver.serve.store.snapshot_after", lambda _: 0)
    with Store(settings_of(tmp_path)) as store:
        row = store.board.shards[0]
        assert not store.wants_snapshot(1.0)
        row.state = ProcessRow.UP
        assert not store.wants_snapshot(1.0)
        row.state, row.map_generation = ProcessRow.STARTING, 1
        assert not store.wants_snapshot(1.0)
        row.state = ProcessRow.UP
        assert store.wants_snapshot(1.0)
        store.snapshot_ended(1, 1.0)
        assert not store.wants_snapshot(60.0)
        assert store.wants_snapshot(61.0)


def test_a_full_disk_wants_a_snapshot_at_once_if_that_makes_room(tmp_path: Path) -> None:
    with Store(settings_of(tmp_path)) as store:
        row, words = store.board.shards[0], store.board.log
        row.state, row.map_generation = ProcessRow.UP, 1
        words.full = 1
        assert not store.wants_snapshot(1.0), "all is in one segment"
        tail, following = store.board.history()
        store.board.advance(tail + SEGMENT, following)
        assert store.wants_snapshot(1.0)
        words.full = 0
        assert not store.wants_snapshot(1.0), "it would not pay"
        words.full = 1
        store.snapshot_ended(1, 1.0)
        assert not store.wants_snapshot(5.9)
        assert store.wants_snapshot(6.0)
        row.publish_figures(dict.fromkeys(row.FIGURES, 1 << 60))
        assert not store.wants_snapshot(6.0), "it would not fit"
        row.publish_figures(dict.fromkeys(row.FIGURES, 0))
        words.snapshot = tail + SEGMENT
        assert not store.wants_snapshot(6.0), "it was taken, and the log is not trimmed yet"


# Directories that cannot be had.


@pytest.mark.parametrize("below", ["", "x", "x/y"])
def test_a_file_in_the_place_of_the_data_directory_is_named(tmp_path: Path, below: str) -> None:
    (tmp_path / "data").write_text("a letter")
    settings = settings_of(tmp_path)
    given = ServerSettings(
        data_dir=settings.data_dir / below, run_dir=settings.run_dir, map_dir=settings.map_dir, shards=1
    )
    with pytest.raises(StoreError, match=rf"^{tmp_path}/data.* a file is in its place: name another with --data-dir$"):
        Store(given)


def test_a_disk_without_space_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_space(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("shards.files.disk.Disk.allocate", staticmethod(no_space))
    with pytest.raises(StoreError, match=r"^there is no space left for .*/data/log/\S+: free some,.* --data-dir$"):
        Store(settings_of(tmp_path))


def test_a_directory_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    given = ServerSettings(data_dir=Path("/proc/x"), run_dir=tmp_path / "run", map_dir=tmp_path / "maps", shards=1)
    with pytest.raises(StoreError, match=r"^/proc/x cannot be used \(.*\): .*--data-dir$"):
        Store(given)


def test_what_others_put_into_the_directory_of_a_dead_server_in_memory_is_left(
    short_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("kvserver.serve.run_dir.default_run_dir", lambda name: short_path / name)
    dead = RunDir.of_a_store_in_memory()
    (dead.path / "diary").write_text("dear")
    dead.close()
    new = RunDir.of_a_store_in_memory()
    new.close()
    assert (dead.path / "diary").read_text() == "dear"
