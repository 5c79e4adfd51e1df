"""Directories and locks of a store as its supervisor takes them."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from kvserver.serve.store import Store, StoreError, make_data_dir, take_store_lock
from kvserver.settings import ServerSettings
from tests.api.kvserver.serve.stores_that_ran import change_revisions, run_once, settings_of


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


def test_locks_that_are_missing_are_made_again(tmp_path: Path) -> None:
    _, revision = run_once(tmp_path)
    shutil.rmtree(tmp_path / "data" / "locks")
    with Store(settings_of(tmp_path)) as store:
        assert change_revisions(store)[-1] == revision


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
