"""The file of a map: its room, its growth, its readers, and a file system that is full."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import lmdb
import pytest

from shards.host.board import Board
from shards.maps import storage
from shards.maps.layout import MapFull
from shards.maps.owner import MapOwner
from shards.maps.reader import MapReader
from shards.wire.clock import BEGINNING
from tests.api.maps import Run, delete, process, put
from tests.api.shards.maps.tools import apply


def test_what_is_deleted_is_room_again(map: MapOwner) -> None:
    values = [put(b"%d" % i, bytes(100_000)) for i in range(50)]
    apply(map, *values, revision=1)
    size, inside = map.storage.size_bytes(), map.storage.spare_bytes()
    assert size > 5_000_000
    apply(map, *[delete(event.key) for event in values], revision=51)
    assert map.storage.spare_bytes() - inside > 4_900_000
    assert map.storage.free_bytes() > map.storage.spare_bytes()
    apply(map, *[delete(event.key) for event in values], revision=101)
    assert map.storage.size_bytes() < size + 500_000


def test_a_map_can_be_opened_with_little_address_space(tmp_path: Path) -> None:
    program = (
        "import resource, sys, pathlib; from shards.maps.owner import MapOwner; "
        "resource.setrlimit(resource.RLIMIT_AS, (12 << 30, 12 << 30)); "
        "print(MapOwner(pathlib.Path(sys.argv[1]))._env.info()['map_size'] >> 30)"
    )
    done = subprocess.run([sys.executable, "-c", program, tmp_path], capture_output=True, text=True, check=True)
    assert done.stdout == "8\n"


def test_all_bytes_of_a_map_in_memory_are_there(memory: Path) -> None:
    """What the file system may have no room for is never touched by way of the mapping."""
    map, data = MapOwner(memory), memory / "data.mdb"
    sizes = set()
    for revision, length in enumerate((10, 5_000_000, 100, 32 << 20, *range(0, 2_000_000, 100_000)), 1):
        apply(map, put(b"%d" % revision, bytes(length)), revision=revision)
        status = data.stat()
        sizes.add(status.st_size)
        assert status.st_blocks * 512 >= status.st_size >= map.storage.size_bytes()
        assert map._env.info()["map_size"] == status.st_size
    assert len(sizes) > 3, "it grows in steps"
    map.check(1, 0)
    map.close()
    assert data.stat().st_size < 90 << 20
    again = MapOwner(memory)
    assert again._env.info()["map_size"] == data.stat().st_size
    again.close()


def test_a_map_in_memory_takes_holes_over(memory: Path) -> None:
    map, data = MapOwner(memory), memory / "data.mdb"
    apply(map, put(b"k", bytes(100_000)), revision=1)
    map.close()
    os.truncate(data, 8 << 20)
    map = MapOwner(memory)
    assert data.stat().st_blocks * 512 >= 8 << 20
    map.close()


def test_a_map_in_memory_opens_without_room_to_grow(memory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shards.maps.space.free_bytes", lambda _: 0)
    map = MapOwner(memory)  # written by system calls
    apply(map, put(b"k", b"v"), revision=1)
    map.close()
    monkeypatch.undo()
    map = MapOwner(memory)
    item = map.get(b"k", BEGINNING)
    assert item is not None
    assert item.value == b"v"
    map.close()


def hold_reader(connection: Connection, board_path: Path) -> None:
    """A reader that keeps a transaction until it is told to end it, then one that dies in another."""
    reader = MapReader(Board.open(board_path), 0)
    transaction = reader._begin_transaction()
    connection.send("pinned")
    connection.recv()
    transaction.abort()
    transaction = reader._begin_transaction()
    connection.send("pinned again")
    connection.recv()


def test_a_pinned_reader_is_found_and_a_dead_one_forgotten(run: Run) -> None:
    map = run.maps[0]
    run.write(put(b"k"))
    with process(hold_reader, run.board.path) as (child, connection):
        assert connection.recv() == "pinned"
        assert map.storage.pinning_readers(100.0) == []
        for n in range(20):
            run.write(put(b"k", bytes(50_000 + n)))
        assert map.storage.pinning_readers(101.9) == []
        assert map.storage.pinning_readers(102.0) == [(child.pid, 2.0)]
        connection.send("go on")
        assert connection.recv() == "pinned again"
        run.write(put(b"k", bytes(50_000)))
        assert map.storage.pinning_readers(105.0) == []
        assert map.storage.reader_check() == 0
        os.kill(child.pid, signal.SIGKILL)
        child.join()
        assert map.storage.reader_check() > 0
        assert map.storage.pinning_readers(200.0) == []


def test_a_full_file_system(tmp_path: Path) -> None:
    mount = f"mount -t tmpfs -o size=64m,mode=700 tmpfs {tmp_path}"
    command = f"{mount} && exec {sys.executable} -m tests.api.full_map {tmp_path}"
    can = subprocess.run(["unshare", "-rm", "mount", "-t", "tmpfs", "tmpfs", tmp_path], capture_output=True)
    if can.returncode:
        pytest.skip(f"no file system can be mounted here: {can.stderr!r}")
    done = subprocess.run(["unshare", "-rm", "sh", "-c", command], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.splitlines()[-1] == "all is well"


class FullEnvironment:
    """An environment that has no room to make a database, some times."""

    def __init__(self, env: lmdb.Environment, times: int) -> None:
        self._env, self._times = env, times

    def __getattr__(self, name: str) -> Any:
        return getattr(self._env, name)

    def open_db(self, name: bytes) -> object:
        if name == b"outcomes" and self._times:
            self._times -= 1
            raise lmdb.MapFullError("no room")
        return self._env.open_db(name)


@pytest.mark.parametrize(("times", "has_room"), [(2, True), (99, False)])
def test_a_full_map_of_a_version_without_outcomes_grows(
    memory: Path, monkeypatch: pytest.MonkeyPatch, times: int, has_room: bool
) -> None:
    MapOwner(memory).close()
    size = (memory / "data.mdb").stat().st_size
    opened = storage._open_to_write
    with monkeypatch.context() as patch:
        patch.setattr(storage, "_open_to_write", _full(opened, times))
        if has_room:
            map = MapOwner(memory)
            assert (memory / "data.mdb").stat().st_size > size
            apply(map, put(b"k", b"v"), revision=1)
            assert map.find_outcome(bytes(18)) is None
            map.close()
        else:
            patch.setattr(storage.Reserve, "grow", lambda *_: False)
            with pytest.raises(MapFull):
                MapOwner(memory)
    MapOwner(memory).close()


def _full(opened: Callable[[Path], Any], times: int) -> Callable[[Path], Any]:
    def open_full(path: Path) -> Any:
        reserve, env = opened(path)
        return reserve, FullEnvironment(env, times)

    return open_full
