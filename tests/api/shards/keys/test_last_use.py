"""The table of last uses, as a file of the run directory that several processes map."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from shards.host.board import Board, BoardError
from shards.keys.eviction import STAMPS, record_use, stamp_at
from shards.keys.last_use import NAME, create_last_use_table, open_last_use_table, open_use_recorder
from tests.stores import new_store


def test_every_process_has_the_same_stamps(tmp_path: Path) -> None:
    store = new_store(tmp_path, shards=1, max_memory=100, on_full="evict")
    others = Board.open(store.board.path)
    ours, theirs = open_last_use_table(store.board), open_last_use_table(others)
    assert ours is not None and theirs is not None
    ours[5] = 7
    assert theirs[5] == 7
    others.close()
    store.close()


def test_all_keys_of_a_new_table_were_used_at_its_making(tmp_path: Path) -> None:
    store = new_store(tmp_path, shards=1, max_memory=100, on_full="evict")
    create_last_use_table(store.run_dir, 80_000)
    stamps = open_last_use_table(store.board)
    assert stamps is not None
    assert len(stamps) == STAMPS
    assert set(stamps) == {stamp_at(80_000)}
    store.close()


def test_a_new_table_leaves_an_open_one_alone(tmp_path: Path) -> None:
    store = new_store(tmp_path, shards=1, max_memory=100, on_full="evict")
    before = open_last_use_table(store.board)
    assert before is not None
    create_last_use_table(store.run_dir, 80_000)
    record_use(before, b"k", 160_000)
    after = open_last_use_table(store.board)
    assert after is not None
    assert stamp_at(160_000) in before and stamp_at(160_000) not in after
    store.close()


def test_what_an_interrupted_making_left_is_replaced(tmp_path: Path) -> None:
    (tmp_path / f"{NAME}.new").write_bytes(b"half")
    create_last_use_table(tmp_path, 80_000)
    assert [path.name for path in tmp_path.iterdir()] == [NAME]
    assert (tmp_path / NAME).stat().st_size == 4 * STAMPS
    assert (tmp_path / NAME).stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize(
    "put", [Path.mkdir, os.mkfifo, Path.touch, lambda path: path.symlink_to("/dev/zero"), lambda path: None]
)
def test_what_is_no_table_is_named(tmp_path: Path, put: Callable[[Path], object]) -> None:
    store = new_store(tmp_path, shards=1, max_memory=100, on_full="evict")
    (store.run_dir / NAME).unlink()
    put(store.run_dir / NAME)
    with pytest.raises(BoardError, match=f"the table of last uses, {store.run_dir / NAME}, cannot be used"):
        open_last_use_table(store.board)
    store.close()


def test_a_store_that_evicts_nothing_has_no_stamps(tmp_path: Path) -> None:
    store = new_store(tmp_path, shards=1, max_memory=100)
    assert open_last_use_table(store.board) is None
    store.close()


def test_a_use_is_seen_by_all_who_map_the_table(tmp_path: Path) -> None:
    store = new_store(tmp_path, max_memory=1 << 20, on_full="evict")
    create_last_use_table(store.run_dir, 0)
    record, words = open_use_recorder(store.board), open_last_use_table(store.board)
    assert record is not None and words is not None
    assert not any(words)
    record(b"k", 80_000)
    assert [word for word in words if word] == [stamp_at(80_000)]
    store.close()


def test_without_eviction_nothing_is_recorded(tmp_path: Path) -> None:
    store = new_store(tmp_path)
    assert open_use_recorder(store.board) is None
    store.close()
