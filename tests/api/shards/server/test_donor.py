"""A backup for another machine, of a real store: given in pieces, and removed."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from shards.order.messages import Contents, Piece, Want
from shards.server.donor import DIRECTORY, IDLE_S, Donor
from shards.wire.protocol import Put
from tests.api.shards.server.tools import PATIENCE_S
from tests.cluster.machines import Machines, machines


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> Iterator[Machines]:
    with machines() as made:
        made["a"].ask(Put(b"k", b"v"))
        made.until_equal()
        store = made["a"].store
        monkeypatch.setenv("KVSERVER_DATA_DIR", str(store.data_dir))
        monkeypatch.setenv("KVSERVER_RUN_DIR", str(store.run_dir))
        yield made


def answered(donor: Donor, want: Want, now: float = 0.0) -> Piece:
    """Its answer, once the backup is taken."""
    give_up_at = time.monotonic() + PATIENCE_S
    while True:
        piece = donor.answer("b", want, now)
        if piece.piece or piece.problem:
            return piece
        assert time.monotonic() < give_up_at, "no backup"
        time.sleep(0.02)


def until_removed(place: Path) -> None:
    """Wait until nothing is left in `place`."""
    give_up_at = time.monotonic() + PATIENCE_S
    while left := [path.name for path in place.glob("*")]:
        assert time.monotonic() < give_up_at, f"{place} has {left}"
        time.sleep(0.02)


def test_a_backup_is_given_in_pieces_and_removed_when_nobody_asks(cluster: Machines) -> None:
    place = cluster["a"].store.data_dir / DIRECTORY
    (place / "left by a former process").mkdir(parents=True)
    donor = Donor(cluster["a"].store.data_dir)
    assert not place.exists()
    files = msgspec.msgpack.decode(answered(donor, Want(7, "", 0)).piece, type=Contents).files
    assert "backup" in files
    for name, size in files.items():
        assert not size or answered(donor, Want(7, name, 0)).piece
    assert "no file" in answered(donor, Want(7, "../manifest", 0)).problem
    assert "gives a backup to b" in donor.answer("c", Want(8, "", 0), 0.0).problem
    donor.look(IDLE_S)
    until_removed(place)
    assert "gives a backup" not in donor.answer("c", Want(8, "", 0), 0.0).problem
    donor.drop()
    until_removed(place)
