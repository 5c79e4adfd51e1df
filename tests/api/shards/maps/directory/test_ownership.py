"""Only what a server put into a map directory is removed, and the owner that it names is believed with care."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Any

import pytest

from shards.files import safe_files
from shards.maps.directory import choose as mapdir
from shards.maps.directory.choose import choose_map_dir, release_maps
from shards.maps.directory.ownership import MapDirError
from tests.api.shards.maps.tools import STORE, leave, names

pytestmark = pytest.mark.usefixtures("room")
FORGED = b'{"store":"abc","data_dir":null}'


@pytest.mark.parametrize("way", ["removed", "taken over"])
def test_the_owner_is_the_last_to_go(shm: Path, data: Path, monkeypatch: pytest.MonkeyPatch, way: str) -> None:
    chosen = choose_map_dir(None, None if way == "taken over" else data, STORE, shm=shm)
    (chosen.path / "shard-0.1").mkdir()
    (chosen.path / "shard-0.ballast").touch()
    left, unlink = [], os.unlink

    def look(path: Any, *, dir_fd: int | None = None) -> None:
        if path == "owner":
            left.append(names(chosen.path))
        unlink(path, dir_fd=dir_fd)

    monkeypatch.setattr(os, "unlink", look)
    if way == "removed":
        chosen.remove()
    else:
        chosen.close()
        choose_map_dir(None, None, STORE, shm=shm).close()
    assert left[0] == {"lock", "owner"}


@pytest.mark.parametrize("names_of_others", [["shard-0.1"], ["owner"], ["photo.jpg"], ["log", "locks"]])
@pytest.mark.parametrize("named", [True, False], ids=["--map-dir", "in the data directory"])
def test_what_a_server_has_not_put_there_is_never_removed(
    tmp_path: Path, shm: Path, data: Path, room: list[int], named: bool, names_of_others: list[str]
) -> None:
    """A directory of maps, photos and logs of somebody's is not one of the server's, whatever it is called."""
    wanted = tmp_path / "mine" if named else data / "maps"
    wanted.mkdir(mode=0o755)
    for name in names_of_others:
        (wanted / name).write_text("precious")
    if not named:  # where there is room in memory it is not wanted
        choose_map_dir(None, data, STORE, shm=shm).close()
        room[0] = 0
    with pytest.raises(MapDirError, match="holds"):
        choose_map_dir(wanted if named else None, data, STORE, shm=shm)
    assert {(wanted / name).read_text() for name in names_of_others} == {"precious"}
    assert wanted.stat().st_mode & 0o777 == 0o755


def test_a_stranger_s_file_in_a_map_directory_is_left_where_it_is(tmp_path: Path, data: Path) -> None:
    wanted = tmp_path / "maps"
    choose_map_dir(wanted, data, STORE).close()
    (wanted / "photo.jpg").touch()
    with pytest.raises(MapDirError, match=r"holds other files \(photo.jpg\)"):
        choose_map_dir(wanted, data, STORE)
    release_maps([wanted], STORE, data)
    assert names(wanted) == {"photo.jpg"}


def test_an_owner_that_cannot_be_read_is_not_taken_for_none(
    tmp_path: Path, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wanted = tmp_path / "maps"
    choose_map_dir(wanted, data, STORE).close()
    (wanted / "shard-0.1").mkdir()

    def fail(path: Path, *_: object) -> bytes:
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE), str(path))

    monkeypatch.setattr(safe_files, "read_regular", fail)
    with pytest.raises(MapDirError, match="Too many open files"):
        choose_map_dir(wanted, data, STORE)
    assert (wanted / "shard-0.1").exists()


@pytest.mark.parametrize(
    "name", ["shard-0.1/diary", "log/diary", "locks/diary", "shard-0.1/data.mdb/diary", "log/sub/000000000000.log"]
)
def test_a_forged_owner_makes_nothing_ours(tmp_path: Path, data: Path, name: str) -> None:
    path = tmp_path / "theirs"
    precious = path / name
    precious.parent.mkdir(parents=True)
    precious.write_text("dear")
    (path / "owner").write_bytes(FORGED)
    (path / "shard-1.ballast").write_text("dear")
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(MapDirError, match=r"holds other files \(.*\): name an empty directory"):
        choose_map_dir(path, data, STORE)
    assert sorted(tmp_path.rglob("*")) == before


def test_links_in_a_map_directory_are_not_ours(tmp_path: Path, data: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "000000000000.log").write_text("dear")
    path = tmp_path / "theirs"
    path.mkdir()
    (path / "log").symlink_to(tmp_path / "elsewhere")
    (path / "owner").write_bytes(FORGED)
    with pytest.raises(MapDirError, match=r"holds other files \(log\)"):
        choose_map_dir(path, data, STORE)
    assert (tmp_path / "elsewhere" / "000000000000.log").read_text() == "dear"


def test_what_others_put_into_maps_that_belong_to_nobody_is_left(shm: Path, data: Path) -> None:
    left = leave(shm, None, "memory")
    (left / "shard-0.1" / "diary").write_text("dear")
    choose_map_dir(None, data, STORE, shm=shm).close()
    assert (left / "shard-0.1" / "diary").read_text() == "dear"


def test_what_others_put_into_maps_while_they_are_used_is_left(shm: Path) -> None:
    chosen = choose_map_dir(None, None, STORE, shm=shm)
    for name in ("shard-0.1", "log"):
        (chosen.path / name).mkdir()
        (chosen.path / name / "diary").write_text("dear")
    (chosen.path / "log" / "000000000000.log").touch()
    chosen.remove()
    assert sorted(path.name for path in chosen.path.rglob("*") if path.is_file()) == ["diary", "diary"]


def test_release_removes_nothing_of_a_directory_that_was_put_in_the_place_of_the_maps(
    tmp_path: Path, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A link, swapped between the look at the owner and the removal, leads to another store."""
    wanted, victim = tmp_path / "maps", tmp_path / "victim"
    choose_map_dir(wanted, data, STORE).close()
    (wanted / "shard-0.1").mkdir()
    (wanted / "shard-0.1" / "data.mdb").touch()
    for name in ("log/000000000000.log", "locks/append", "shard-0.1/data.mdb", "owner"):
        (victim / name).parent.mkdir(parents=True, exist_ok=True)
        (victim / name).write_text("dear")
    before = sorted(victim.rglob("*"))
    hold = mapdir.locks.acquire_for_life

    def swap_and_hold(fd: int, byte: int = 0, timeout_s: float = 0.0) -> bool:
        wanted.rename(tmp_path / "moved")
        wanted.symlink_to(victim)
        return hold(fd, byte, timeout_s)

    monkeypatch.setattr(mapdir.locks, "acquire_for_life", swap_and_hold)
    release_maps([wanted], STORE, data)
    assert sorted(victim.rglob("*")) == before
    assert names(tmp_path / "moved") <= {"lock"}


def test_release_follows_no_link(tmp_path: Path, data: Path) -> None:
    wanted = tmp_path / "maps"
    choose_map_dir(wanted, data, STORE).close()
    (wanted / "shard-0.1").mkdir()
    (tmp_path / "link").symlink_to(wanted)
    assert release_maps([tmp_path / "link"], STORE, data) == 0
    assert names(wanted) == {"lock", "owner", "shard-0.1"}


@pytest.mark.skipif(os.geteuid() != 0, reason="gives a directory to another user")
def test_release_leaves_what_another_user_has_made(
    tmp_path: Path, data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    wanted = tmp_path / "maps"
    choose_map_dir(wanted, data, STORE).close()
    (wanted / "shard-0.1").mkdir()
    os.chown(wanted, 12345, 12345)
    assert release_maps([wanted], STORE, data) == 0
    assert "belongs to the user with id 12345" in capsys.readouterr().err
    assert names(wanted) == {"lock", "owner", "shard-0.1"}
    os.chown(wanted, 12345, 12345)
    os.chown(data, 12345, 12345)  # whose store it is may have its maps
    release_maps([wanted], STORE, data)
    assert not wanted.exists()


def test_a_log_in_the_maps_of_a_store_on_a_disk_is_not_ours(tmp_path: Path, data: Path) -> None:
    """Only a store in memory has it there."""
    wanted = tmp_path / "maps"
    choose_map_dir(wanted, data, STORE).close()
    (wanted / "log").mkdir()
    (wanted / "log" / "000000000000.log").write_text("dear")
    with pytest.raises(MapDirError, match=r"holds other files \(log\)"):
        choose_map_dir(wanted, data, STORE)
    release_maps([wanted], STORE, data)
    assert (wanted / "log" / "000000000000.log").read_text() == "dear"
