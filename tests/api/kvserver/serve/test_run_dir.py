"""Run directories: taken by one server, emptied of our files, never of files of others."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from kvserver.serve.run_dir import LONGEST_NAME, RunDir, RunDirError
from tests.stores import new_store


@pytest.fixture
def short_path() -> Iterator[Path]:
    """A directory whose path leaves room for the names of sockets."""
    with tempfile.TemporaryDirectory(dir="/tmp") as path:
        yield Path(path)


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
    taken.remove_contents()
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
    dead = RunDir.for_memory_store()
    living = RunDir.for_memory_store()
    dead.close()
    new = RunDir.for_memory_store()
    assert not dead.path.exists()
    assert living.path.exists()
    new.remove_contents()
    assert not new.path.exists()
    for run_dir in (living, new):
        run_dir.close()


def test_what_others_put_into_the_directory_of_a_dead_server_in_memory_is_left(
    short_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("kvserver.serve.run_dir.default_run_dir", lambda name: short_path / name)
    dead = RunDir.for_memory_store()
    (dead.path / "diary").write_text("dear")
    dead.close()
    new = RunDir.for_memory_store()
    new.close()
    assert (dead.path / "diary").read_text() == "dear"
