"""Snapshots: taken by a process of their own beside writers, killed, refused; the last one is always good."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path

import msgspec
import pytest

from shards.files import locks
from shards.host.board import Board
from shards.host.settings import ProcessSettings, to_environ
from shards.log.appender import LogAppender
from shards.log.files import LogBroken
from shards.log.manifest import SNAPSHOTS, Manifest, ManifestError
from shards.maps import snapshot
from shards.maps.build import open_map
from shards.maps.layout import read_meta
from shards.maps.snapshot import SnapshotError, allowed_growth, checksum, growth_watched, take_snapshot
from shards.wire.clock import BEGINNING
from shards.wire.keys import shard_of
from shards.wire.protocol import encode_events
from tests.api.maps import Run, entries_of, first_run, keys_of, process, put
from tests.api.shards.server.tools import until


@pytest.fixture
def run(tmp_path: Path) -> Run:
    run = first_run(tmp_path).open()
    for n in range(50):
        run.write(put(b"key-%d" % n, b"value" * n, "text/plain"))
    return run


def command(run: Run) -> subprocess.Popen[str]:
    """`python -m shards.maps.snapshot` of this store, started."""
    settings = ProcessSettings(data_dir=run.store.data_dir, run_dir=run.store.run_dir)
    return subprocess.Popen(
        [sys.executable, "-m", "shards.maps.snapshot"],
        env=os.environ | to_environ(settings),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def finish(child: subprocess.Popen[str]) -> tuple[int, str]:
    out, err = child.communicate(timeout=60)
    assert out == ""
    return child.returncode, err


def test_the_command_takes_one(run: Run) -> None:
    """Beside the shards, here this process, that have the maps open."""
    before = Manifest.load(run.store.data_dir)
    lsn, revision = run.board.watermark()
    assert finish(command(run))[0] == 0
    manifest = Manifest.load(run.store.data_dir)
    assert (manifest.replay_lsn, manifest.replay_revision) == (lsn, revision)
    assert (manifest.end_lsn, manifest.end_revision) == (run.board.history()[0], run.board.last_revision())
    assert manifest.end_now.wall_ms <= run.board.now_ms() and manifest.end_now.steady_ms <= run.board.steady_ms()
    same = msgspec.structs.replace(
        manifest, files=(), replay_lsn=0, replay_revision=0, end_lsn=0, end_revision=0, end_wall_ms=0, end_steady_ms=0
    )
    assert same == before
    for shard, file in enumerate(manifest.files):
        path = run.store.data_dir / SNAPSHOTS / file.name
        assert (file.shard, file.shards, file.size) == (shard, 2, path.stat().st_size)
        assert file.checksum == checksum(path, manifest.secret) != checksum(path, manifest.secret + 1)
        assert (file.lsn, file.revision) == run.maps[shard].applied == read_meta(path, subdir=False)[1]
        assert path.stat().st_mode & 0o777 == 0o600
    run.next(boot_id="rebooted").open().check()


def test_the_position_is_what_all_maps_have(run: Run) -> None:
    """A record that is logged and not applied holds it back."""
    lsn, revision = run.board.watermark()
    first = run.log(put(keys_of(0, 2, 1)[0]))
    run.write(put(keys_of(1, 2, 1)[0]))
    assert finish(command(run))[0] == 0
    manifest = Manifest.load(run.store.data_dir)
    assert (manifest.replay_lsn, manifest.replay_revision) == (lsn, revision) == (first.lsn, first.revision - 1)
    run.next(boot_id="rebooted").open().check()


def test_the_next_one_takes_the_place_of_the_last(run: Run) -> None:
    for _ in range(2):  # the second at the same position, under another name
        assert finish(command(run))[0] == 0
        run.board.shards[0].record_heartbeat()
    manifest = Manifest.load(run.store.data_dir)
    [directory] = (run.store.data_dir / SNAPSHOTS).iterdir()
    assert {path.name for path in directory.iterdir()} == {Path(file.name).name for file in manifest.files}


def shard_process(connection: Connection, board_path: Path, shard: int) -> None:
    """A shard that writes until it is told to stop."""
    board = Board.open(board_path)
    log, map = LogAppender(board, shard), open_map(board, shard)
    keys = [key for i in range(400) if shard_of(key := b"key-%d" % i, 2) == shard]
    n = 0
    while not connection.poll():
        events = [put(keys[(n + i) % len(keys)], b"%d" % n + bytes(200)) for i in range(10)]
        record = log.append(encode_events(events), len(events), board.now())
        log.flush(record.end)
        map.apply([record])
        board.shards[shard].clear_open()
        n += 1
        if n == len(keys):
            connection.send("writing")
    map.close()
    connection.send(n)


def test_beside_writers(tmp_path: Path) -> None:
    """What snapshot and log give together is what the writers' own maps hold."""
    run = first_run(tmp_path)
    with process(shard_process, run.board.path, 0) as (_, one), process(shard_process, run.board.path, 1) as (_, two):
        assert (one.recv(), two.recv()) == ("writing", "writing")
        until(lambda: went_on_beside(run), "a snapshot that writers went on beside")
        for connection in (one, two):
            connection.send("stop")
            assert connection.recv() >= 20
    kept = run.next().open()
    wanted = {key: kept.maps[i].get(key, BEGINNING) for i in range(2) for key in entries_of(kept.maps[i])}
    assert len(wanted) == 400
    kept.oracle.items = {key: item for key, item in wanted.items() if item}
    kept.next(boot_id="rebooted").open().check()
    kept.next(shards=3).open().check()


def went_on_beside(run: Run) -> bool:
    """Take a snapshot; whether a map of it has more than is replayed from."""
    assert finish(command(run))[0] == 0
    manifest = Manifest.load(run.store.data_dir)
    return max(file.lsn for file in manifest.files) > manifest.replay_lsn > 0


def test_one_that_is_killed_before_the_manifest_changes_nothing(run: Run) -> None:
    """It is stopped where it flushes the log: the copies are there, nothing names them."""
    assert finish(command(run))[0] == 0
    before = Manifest.load(run.store.data_dir)
    snapshots = run.store.data_dir / SNAPSHOTS
    run.write(put(b"later"))
    run.board.log.synced = before.replay_lsn
    with locks.Turn(Path(run.board.facts.lock_dir) / "flush"):
        child = command(run)
        copies = [f"shard-{shard}.mdb" for shard in range(2)]
        until(lambda: len(list(snapshots.glob("*/shard-*.mdb"))) == 4, "both copies")
        child.send_signal(signal.SIGKILL)
        child.wait()
    assert Manifest.load(run.store.data_dir) == before
    child.communicate()
    after = run.next(boot_id="rebooted").open()
    after.check()
    assert finish(command(after))[0] == 0
    [directory] = snapshots.iterdir()
    assert sorted(path.name for path in directory.iterdir()) == copies
    after.next(boot_id="again").open().check()


def test_half_a_file_that_a_killed_one_left_is_removed(run: Run) -> None:
    left = run.store.data_dir / SNAPSHOTS / "0123456789abcdef-01234567"
    left.mkdir()
    (left / "shard-0.mdb").write_bytes(b"half")
    assert finish(command(run))[0] == 0
    assert not left.exists()


def no_map(run: Run) -> None:
    run.board.shards[1].map_generation = 0


def other_board(run: Run) -> None:
    other = Board.create(run.board.path, run.board.facts)
    other.install()
    other.close()


def broken(run: Run) -> None:
    run.board.log.broken = 1


def no_manifest(run: Run) -> None:
    (run.store.data_dir / "manifest").unlink()


def other_store(run: Run) -> None:
    manifest = Manifest.load(run.store.data_dir)
    msgspec.structs.replace(manifest, store="other").save(run.store.data_dir)


def full(run: Run) -> None:
    shutil.rmtree(run.store.data_dir / SNAPSHOTS)
    (run.store.data_dir / SNAPSHOTS).write_text("not a directory")


@pytest.mark.parametrize(
    ("state", "says"),
    [
        (no_map, "shard 1 has no map yet"),
        (other_board, "this run of the server has ended"),
        (broken, "flush of the log failed"),
        (no_manifest, "there is no store"),
        (other_store, "a different store"),
        (full, "Not a directory"),
    ],
)
def test_what_cannot_be_is_refused_and_leaves_nothing(run: Run, state: Callable[[Run], None], says: str) -> None:
    assert run.snapshot().files
    run.close_maps()
    state(run)
    manifest = run.store.data_dir / "manifest"
    before = manifest.read_bytes() if manifest.exists() else None
    with pytest.raises((SnapshotError, ManifestError, LogBroken, OSError), match=says):
        take_snapshot(run.board)
    assert (manifest.read_bytes() if manifest.exists() else None) == before
    if state is not full:
        assert len(list((run.store.data_dir / SNAPSHOTS).iterdir())) == 1


def test_the_command_says_why_not(run: Run) -> None:
    run.board.shards[1].map_generation = 0
    assert finish(command(run)) == (1, "kvserver: no snapshot was taken: shard 1 has no map yet\n")
    (run.store.run_dir / "board").unlink()
    status, said = finish(command(run))
    assert status == 1
    assert said.startswith("kvserver: no snapshot was taken: no board at")


def test_there_is_one_at_a_time(run: Run) -> None:
    fd = locks.open_lock(Path(run.board.facts.lock_dir) / "snapshot")
    assert locks.try_acquire_for_life(fd)
    status, said = finish(command(run))
    os.close(fd)
    assert (status, said.removeprefix("kvserver: ")) == (
        1,
        "no snapshot was taken: another process is taking a snapshot of this store\n",
    )


def test_a_store_in_memory_has_none(tmp_path: Path) -> None:
    with pytest.raises(SnapshotError, match="in memory"):
        take_snapshot(first_run(tmp_path, in_memory=True).board)


def test_how_much_a_map_may_grow() -> None:
    assert allowed_growth(0) == allowed_growth(2 << 30) == 512 << 20
    assert allowed_growth(8 << 30) == 2 << 30


def watch_growth(connection: Connection, path: Path, directory: Path) -> None:
    """Copies for ever."""
    snapshot.allowed_growth = lambda _: 2 << 20
    with growth_watched(path, directory):
        connection.send("copying")
        connection.recv()


def test_one_that_makes_a_map_grow_ends(tmp_path: Path) -> None:
    path, directory = tmp_path / "map", tmp_path / "new"
    path.mkdir()
    directory.mkdir()
    (path / "data.mdb").write_bytes(bytes(1 << 20))
    with process(watch_growth, path, directory) as (child, connection):
        assert connection.recv() == "copying"
        os.truncate(path / "data.mdb", (3 << 20) + 1)
        child.join(20)
        assert child.exitcode == 1
    assert not directory.exists()
