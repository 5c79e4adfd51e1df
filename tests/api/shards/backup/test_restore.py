"""A restore verifies what it reads, and can be repeated."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from shards.backup.archive import (
    NAME,
    ArchiveError,
    RestoreTarget,
    find_cut,
)
from shards.backup.restore import UNFINISHED as RESTORING
from shards.backup.restore import NotEmpty, restore_backup, see_that_it_is_empty
from shards.maps.snapshot import SnapshotError
from tests.api.maps import Run
from tests.api.shards.backup.tools import (
    SEGMENT,
    Broken,
    History,
    check,
    damage,
    live_a_while,
    log_file,
    quiet,
    restore,
    snapshot_file,
    start,
    take,
)


@pytest.mark.parametrize(
    ("harm", "why"),
    [
        (lambda d: damage(d / NAME, 40), "damaged"),
        (lambda d: damage(log_file(d)), "damaged, its checksum does not match"),
        (lambda d: damage(snapshot_file(d)), "damaged or another store's"),
        (lambda d: log_file(d).unlink(), "cannot be read"),
        (lambda d: snapshot_file(d).unlink(), "is missing"),
    ],
)
def test_a_damaged_backup_is_refused(run: Run, tmp_path: Path, harm: Callable[[Path], Any], why: str) -> None:
    live_a_while(run, History(), random.Random(1), 5)
    run.snapshot()
    take(run, tmp_path / "backup")
    harm(tmp_path / "backup")
    with pytest.raises((ArchiveError, SnapshotError), match=why):
        restore(tmp_path / "backup", tmp_path / "r")
    assert not (tmp_path / "r" / "data" / "manifest").exists()


def test_a_restore_that_broke_off_is_repeated(run: Run, tmp_path: Path) -> None:
    history = History()
    live_a_while(run, history, random.Random(1), 10)
    run.snapshot()
    taken = take(run, tmp_path / "backup")
    data_dir = tmp_path / "r" / "data"
    data_dir.mkdir(parents=True)

    def report(done: int, total: int) -> None:
        raise Broken

    cut = find_cut(taken, tmp_path / "backup", RestoreTarget(), SEGMENT)
    with pytest.raises(Broken):
        restore_backup(taken, tmp_path / "backup", data_dir, cut, report, segment=SEGMENT)
    assert (data_dir / RESTORING).exists()
    see_that_it_is_empty(data_dir)
    restore_backup(taken, tmp_path / "backup", data_dir, cut, quiet, segment=SEGMENT)
    assert not (data_dir / RESTORING).exists()
    check(start(data_dir, tmp_path / "r", 1), history.oracle(taken.last_revision))
    with pytest.raises(NotEmpty, match="holds a store"):
        see_that_it_is_empty(data_dir)
