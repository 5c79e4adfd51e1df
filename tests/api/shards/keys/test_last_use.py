"""The table of last uses, as a file that all processes of a run map."""

from __future__ import annotations

from pathlib import Path

from shards.keys.eviction import stamp
from shards.keys.last_use import make_stamps, open_stamps, open_use_recorder
from tests.stores import new_store


def test_a_use_is_seen_by_all_who_map_the_table(tmp_path: Path) -> None:
    store = new_store(tmp_path, max_memory=1 << 20, on_full="evict")
    make_stamps(store.run_dir, 0)
    record, words = open_use_recorder(store.board), open_stamps(store.board)
    assert record is not None and words is not None
    assert not any(words)
    record(b"k", 80_000)
    assert [word for word in words if word] == [stamp(80_000)]
    store.close()


def test_without_eviction_nothing_is_recorded(tmp_path: Path) -> None:
    store = new_store(tmp_path)
    assert open_use_recorder(store.board) is None
    store.close()
