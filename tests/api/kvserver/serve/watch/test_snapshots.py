"""When a snapshot is due."""

from __future__ import annotations

from pathlib import Path

import pytest

from kvserver.serve.store import Store
from kvserver.serve.watch.snapshots import snapshot_after
from shards.host.board import ProcessRow
from shards.log.files import SEGMENT
from tests.api.kvserver.serve.stores_that_ran import settings_of

MIB = 1 << 20


@pytest.mark.parametrize(
    ("maps", "after"),
    [(0, 256 * MIB), (1024 * MIB, 256 * MIB), (2048 * MIB, 512 * MIB), (1 << 40, 2048 * MIB)],
)
def test_when_a_snapshot_pays(maps: int, after: int) -> None:
    assert snapshot_after(maps) == after


def test_a_snapshot_waits_until_every_shard_has_its_map(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kvserver.serve.watch.snapshots.snapshot_after", lambda _: 0)
    with Store(settings_of(tmp_path)) as store:
        row = store.board.shards[0]
        assert not store.snapshots.is_due(1.0)
        row.state = ProcessRow.UP
        assert not store.snapshots.is_due(1.0)
        row.state, row.map_generation = ProcessRow.STARTING, 1
        assert not store.snapshots.is_due(1.0)
        row.state = ProcessRow.UP
        assert store.snapshots.is_due(1.0)
        store.snapshots.note_end(1, 1.0)
        assert not store.snapshots.is_due(60.0)
        assert store.snapshots.is_due(61.0)


def test_a_full_disk_wants_a_snapshot_at_once_if_that_makes_room(tmp_path: Path) -> None:
    with Store(settings_of(tmp_path)) as store:
        row, words = store.board.shards[0], store.board.log
        row.state, row.map_generation = ProcessRow.UP, 1
        words.full = 1
        assert not store.snapshots.is_due(1.0), "all is in one segment"
        tail, following = store.board.history()
        store.board.advance(tail + SEGMENT, following)
        assert store.snapshots.is_due(1.0)
        words.full = 0
        assert not store.snapshots.is_due(1.0), "it would not pay"
        words.full = 1
        store.snapshots.note_end(1, 1.0)
        assert not store.snapshots.is_due(5.9)
        assert store.snapshots.is_due(6.0)
        row.publish_figures(dict.fromkeys(row.FIGURES, 1 << 60))
        assert not store.snapshots.is_due(6.0), "it would not fit"
        row.publish_figures(dict.fromkeys(row.FIGURES, 0))
        words.snapshot = tail + SEGMENT
        assert not store.snapshots.is_due(6.0), "it was taken, and the log is not trimmed yet"
