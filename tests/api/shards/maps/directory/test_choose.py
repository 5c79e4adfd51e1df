"""Where the maps go, and what happens to directories that nobody needs."""

from __future__ import annotations

import errno
import os
import shutil
from pathlib import Path

import pytest

from shards.maps.directory import choose as mapdir
from shards.maps.directory.choose import MIN_FREE_BYTES, MapDir, choose_map_dir, release_all
from shards.maps.directory.ownership import MapDirError, Owner
from tests.api.shards.maps.tools import STORE, leave, names, store_in

pytestmark = pytest.mark.usefixtures("room")


def test_by_default_it_is_a_directory_of_the_store_in_memory(shm: Path, data: Path) -> None:
    chosen = choose_map_dir(None, data, STORE, shm=shm)
    status = data.stat()
    assert chosen.path == shm / f"kvserver-{os.getuid()}-{STORE}-{status.st_dev:x}-{status.st_ino:x}"
    assert chosen.path.stat().st_mode & 0o777 == 0o700
    assert names(chosen.path) == {"lock", "owner"}
    assert chosen.notice == ""
    with pytest.raises(MapDirError, match="in use by another server"):
        choose_map_dir(None, data, STORE, shm=shm)
    (chosen.path / "shard-0.1").mkdir()
    chosen.close()
    again = choose_map_dir(None, data, STORE, shm=shm)
    assert again.path == chosen.path
    assert names(again.path) == {"lock", "owner", "shard-0.1"}, "maps of a stopped store are kept"
    again.remove()
    assert names(shm) == set()


def test_with_little_room_it_is_in_the_data_directory(shm: Path, data: Path, room: list[int]) -> None:
    snapshot = 100 << 20
    in_memory = choose_map_dir(None, data, STORE, snapshot, shm=shm)
    in_memory.close()
    room[0] = MIN_FREE_BYTES + 2 * snapshot - 1
    chosen = choose_map_dir(None, data, STORE, snapshot, shm=shm)
    assert chosen.path == data / "maps"
    assert "only 455 MiB are free" in chosen.notice
    assert names(shm) == set(), "what it had in memory is given up"
    chosen.close()
    room[0] += 1
    back = choose_map_dir(None, data, STORE, snapshot, shm=shm)
    assert back.path.parent == shm
    assert back.notice == ""
    assert not (data / "maps").exists()
    back.close()


def test_maps_that_are_there_are_room(shm: Path, data: Path, room: list[int]) -> None:
    first = choose_map_dir(None, data, STORE, shm=shm)
    first.close()
    room[0] = MIN_FREE_BYTES - (1 << 20)
    map = first.path / "shard-0.1"
    map.mkdir()
    (map / "data.mdb").write_bytes(bytes(2 << 20))
    again = choose_map_dir(None, data, STORE, shm=shm)
    assert again.path == first.path
    again.close()


def test_maps_of_a_store_without_a_snapshot_are_not_moved_to_where_they_do_not_fit(
    shm: Path, data: Path, room: list[int]
) -> None:
    room[0] = MIN_FREE_BYTES - 1
    on_disk = choose_map_dir(None, data, STORE, shm=shm)
    assert on_disk.path == data / "maps"
    map = on_disk.path / "shard-0.1"
    map.mkdir()
    with (map / "data.mdb").open("wb") as file:
        os.posix_fallocate(file.fileno(), 0, MIN_FREE_BYTES)
    on_disk.close()
    room[0] = MIN_FREE_BYTES + MIN_FREE_BYTES // 2 - (1 << 20)
    again = choose_map_dir(None, data, STORE, shm=shm)
    assert again.path == data / "maps"
    again.close()
    room[0] += 2 << 20  # what a file takes may be a little more than its size
    moved = choose_map_dir(None, data, STORE, shm=shm)
    assert moved.path.parent == shm
    moved.close()


def test_a_store_in_memory_wants_room_and_starts_empty(shm: Path, room: list[int]) -> None:
    first = choose_map_dir(None, None, STORE, shm=shm)
    (first.path / "log").mkdir()
    (first.path / "log" / "000000000000.log").touch()
    first.close()
    second = choose_map_dir(None, None, STORE, shm=shm)
    assert names(second.path) == {"lock", "owner"}
    second.close()
    room[0] = MIN_FREE_BYTES - 1
    with pytest.raises(MapDirError, match=r"--shm-size.*--map-dir"):
        choose_map_dir(None, None, "other", shm=shm)


def test_without_memory_to_write_to(tmp_path: Path, data: Path) -> None:
    chosen = choose_map_dir(None, data, STORE, shm=tmp_path / "none")
    assert chosen.path == data / "maps"
    chosen.close()


def test_memory_that_may_not_be_written_to_is_not_told_as_full(shm: Path, data: Path) -> None:
    chosen = choose_map_dir(None, data, STORE, shm=shm / "none")
    assert "cannot write to" in chosen.notice
    assert "MiB are free" not in chosen.notice
    chosen.close()


def test_a_removal_that_was_killed_half_way_is_no_obstacle(shm: Path, data: Path, tmp_path: Path) -> None:
    gone = tmp_path / "gone"
    gone.mkdir()
    for path in (leave(shm, data, STORE), leave(shm, gone, "other")):
        (path / "shard-0.ballast").touch()
        (path / "owner").unlink()
    (data / "maps").mkdir()
    (data / "maps" / "lock").touch()
    chosen = choose_map_dir(None, data, STORE, shm=shm)
    assert names(chosen.path) == {"lock", "owner"}
    assert names(shm) == {chosen.path.name}
    assert names(data) == {"manifest"}
    chosen.close()


def test_one_that_was_removed_under_the_server_is_given_up(shm: Path, data: Path) -> None:
    chosen = choose_map_dir(None, data, STORE, shm=shm)
    shutil.rmtree(chosen.path)
    chosen.remove()


@pytest.mark.parametrize(
    ("number", "advice"),
    [
        (errno.ENOSPC, "make room there, or name"),
        (errno.EROFS, "mount its file system so that it can be written, or"),
        (errno.EACCES, "give this user the right to, or name"),
        (errno.EMFILE, "raise the limit of open files"),
        (errno.EIO, "the disk fails"),
    ],
)
def test_what_the_system_refuses_is_named(
    tmp_path: Path, data: Path, monkeypatch: pytest.MonkeyPatch, number: int, advice: str
) -> None:
    def fail(path: str, *_: object, **__: object) -> None:
        raise OSError(number, os.strerror(number), path)

    monkeypatch.setattr(os, "rename", fail)
    with pytest.raises(MapDirError, match=f"{tmp_path / 'maps'}.*{os.strerror(number)}: {advice}.* another with --map"):
        choose_map_dir(tmp_path / "maps", data, STORE)


def test_only_directories_of_stores_that_are_gone_are_removed(shm: Path, data: Path, tmp_path: Path) -> None:
    stores = {name: tmp_path / name for name in ("stopped", "gone", "replaced", "runs", "moved")}
    for name, directory in stores.items():
        store_in(directory, name)
    left = {name: leave(shm, directory, name) for name, directory in stores.items()}
    memory = leave(shm, None, "memory")
    running = choose_map_dir(None, stores["runs"], "runs", shm=shm)
    in_memory = choose_map_dir(None, None, "running", shm=shm)
    strange = shm / f"kvserver-{os.getuid()}-strange"
    strange.mkdir()
    for name in ("gone", "runs"):
        shutil.rmtree(stores[name])
    stores["replaced"].rename(tmp_path / "x")
    store_in(stores["replaced"], "replaced")
    stores["moved"].rename(tmp_path / "elsewhere")
    own = choose_map_dir(None, data, STORE, shm=shm)
    assert names(shm) == {path.name for path in (own.path, left["stopped"], running.path, in_memory.path, strange)}
    assert not memory.exists()
    for each in (running, in_memory, own):
        each.close()


def test_a_directory_that_is_named_is_taken_as_it_is(tmp_path: Path, shm: Path, data: Path, room: list[int]) -> None:
    room[0] = 1 << 20
    wanted = tmp_path / "deep" / "maps"
    chosen = choose_map_dir(wanted, data, STORE, shm=shm)
    assert chosen.path == wanted
    assert "only 1 MiB are free in" in chosen.notice
    chosen.close()
    room[0] = MIN_FREE_BYTES
    again = choose_map_dir(wanted, data, STORE, shm=shm)
    assert again.notice == ""
    again.close()
    assert names(shm) == set()


def test_a_directory_with_other_files_is_refused(tmp_path: Path, data: Path) -> None:
    (tmp_path / "photo.jpg").touch()
    with pytest.raises(MapDirError, match="holds other files"):
        choose_map_dir(tmp_path, data, STORE)
    assert (tmp_path / "photo.jpg").exists()


def test_maps_of_a_store_that_was_removed_go_though_its_inode_came_again(shm: Path, data: Path) -> None:
    """`rm -rf` of a data directory, and a new store in its place: the file system may give the same inode again."""
    old = leave(shm, data, STORE)
    (data / "manifest").unlink()
    store_in(data, "f00d")
    new = choose_map_dir(None, data, "f00d", shm=shm)
    assert names(shm) == {new.path.name}
    assert not old.exists()
    new.close()


def test_maps_whose_data_directory_is_mine_by_another_path_go_too(
    shm: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    leave(shm, data, STORE)
    monkeypatch.setattr(Owner, "exists", lambda _: True)  # as if it could not be seen
    new = choose_map_dir(None, store_in(data, "f00d"), "f00d", shm=shm)
    assert names(shm) == {new.path.name}
    new.close()


def test_all_maps_that_belong_to_nobody_are_given_back(shm: Path, data: Path, tmp_path: Path) -> None:
    kept = leave(shm, data, STORE)
    gone = store_in(tmp_path / "gone", "gone")
    left = leave(shm, gone, "gone")
    (left / "shard-0.ballast").write_bytes(bytes(1 << 16))
    in_use = choose_map_dir(None, store_in(tmp_path / "used", "used"), "used", shm=shm)
    shutil.rmtree(tmp_path / "used")
    memory = leave(shm, None, "memory")
    shutil.rmtree(gone)
    assert release_all(shm) == 1 << 16
    assert names(shm) == {kept.name, in_use.path.name}
    assert not memory.exists()
    in_use.leave()
    assert names(shm) == {kept.name}, "a server whose data directory was removed leaves no maps"


def test_the_directory_of_another_store_is_refused_while_that_is_there(tmp_path: Path, data: Path) -> None:
    other = store_in(tmp_path / "other", "other")
    wanted = tmp_path / "maps"
    choose_map_dir(wanted, other, "other").close()
    (wanted / "shard-0.1").mkdir()
    with pytest.raises(MapDirError, match=f"holds the maps of the store in {other}"):
        choose_map_dir(wanted, data, STORE)
    shutil.rmtree(other)
    taken = choose_map_dir(wanted, data, STORE)
    assert names(wanted) == {"lock", "owner"}
    taken.close()


@pytest.mark.parametrize("kind", ["link", "file"])
def test_what_lies_in_wait_there_is_refused(shm: Path, data: Path, tmp_path: Path, kind: str) -> None:
    first = choose_map_dir(None, data, STORE, shm=shm)
    first.remove()
    trap = tmp_path / "trap"
    trap.mkdir()
    if kind == "link":
        first.path.symlink_to(trap)
    else:
        first.path.touch()
    with pytest.raises(MapDirError, match=r"must be a directory of this user|cannot be used"):
        choose_map_dir(None, data, STORE, shm=shm)
    assert names(trap) == set()


def test_a_directory_removed_as_stale_while_it_is_taken(
    tmp_path: Path, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another server that starts may remove it between our opening the lock's file and our holding it."""
    wanted = tmp_path / "maps"
    opened = mapdir.locks.open_lock
    removed: list[Path] = []

    def open_and_lose(path: Path) -> int:
        fd = opened(path)
        if not removed:
            removed.append(path)
            (wanted / "lock").unlink()
            wanted.rmdir()
        return fd

    monkeypatch.setattr(mapdir.locks, "open_lock", open_and_lose)
    chosen: MapDir = choose_map_dir(wanted, data, STORE)
    assert removed
    assert names(wanted) == {"lock", "owner"}
    chosen.close()


def test_a_directory_that_is_ours_already_wants_no_room(shm: Path, data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    choose_map_dir(None, data, STORE, shm=shm).close()

    def refuse(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "rename", refuse)
    choose_map_dir(None, data, STORE, shm=shm).close()
