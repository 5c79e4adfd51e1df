"""Directories and locks of a store as its supervisor takes them."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from kvserver.serve.rundir import LONGEST_NAME, RunDir, RunDirError
from kvserver.serve.store import StoreError, make_data_dir, snapshot_after, take_store_lock

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


def test_a_log_without_its_manifest_is_not_taken_for_a_new_store(tmp_path: Path) -> None:
    make_data_dir(tmp_path)
    (tmp_path / "log").mkdir()
    (tmp_path / "log" / "000000000000.log").touch()
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
        "board",
        "mine",
    ]
    for name in [*left, "metrics/counter_1.db"]:
        (tmp_path / "run" / name).touch()
    taken = RunDir(tmp_path / "run")
    assert {entry.name for entry in taken.path.iterdir()} == {"board", "lock", "metrics", "mine"}
    assert list(taken.metrics.iterdir()) == []
    taken.clean()
    assert {entry.name for entry in taken.path.iterdir()} == {"lock", "mine"}
    taken.close()


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
    monkeypatch.setattr("kvserver.serve.rundir.default_run_dir", lambda name: short_path / name)
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
