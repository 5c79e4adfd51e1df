"""Checks find every kind of damage, name it, and change nothing; a repair cuts there and no further."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest

from shards.backup.check import (
    Finding,
    check_archived_log,
    check_counters,
    check_log,
    check_map,
    check_snapshot,
)
from shards.log.files import segment_name
from shards.log.manifest import SNAPSHOTS
from shards.maps.layout import map_path
from tests.api.maps import Run, keys_of, put
from tests.api.shards.backup.tools import (
    SEGMENT,
    damage,
    lived_store,
    log_file,
    look,
    manifest_of,
    snapshot_file,
    take,
)


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return lived_store(tmp_path)


def maps(run: Run, served: bool = True) -> list[Finding]:
    return [
        check_map(
            map_path(run.store.map_dir, shard, run.board.shards[shard].map_generation),
            shard,
            run.shards,
            run.store.data_dir,
            manifest_of(run),
            served=served,
        )
        for shard in range(run.shards)
    ]


def contents(directory: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in directory.rglob("*") if path.is_file()}


def test_a_store_that_is_well_is_good_and_untouched(run: Run) -> None:
    run.close_maps()  # one process opens a map once
    before = contents(run.store.data_dir)
    manifest, (tail, following) = manifest_of(run), run.board.history()
    changed = sum(record.events for record in run.store.reader().read(0, tail, 1 << 30)[0])
    keys = check_snapshot(run.store.data_dir, manifest)
    assert keys.good
    assert keys.text.startswith("2 files, ")
    served = check_log(run.store.log_dir, manifest, tail, None, SEGMENT)
    assert served == look(run)
    assert f"1 segments, 31 records, {changed} changes, 1 starts, revisions 1 to {following - 1}" in served.finding.text
    assert check_counters(manifest, run.board, tail, following).good
    for finding, served_finding in zip(maps(run, served=False), maps(run), strict=True):
        assert finding.good
        assert "are what snapshot and log make of them" in finding.text
        assert finding == served_finding
    assert contents(run.store.data_dir) == before


@pytest.mark.parametrize("place", ["first", "middle", "last"])
def test_a_changed_byte_of_the_log_is_found_and_named(run: Run, place: str) -> None:
    found, _ = run.store.reader().read(0, run.board.history()[0], 1 << 30)
    replay = manifest_of(run).replay_lsn
    at = {
        "first": found[1],
        "middle": next(each for each in found if each.lsn >= replay),
        "last": found[-2],  # what is behind the very last says that it was flushed
    }[place]
    damage(log_file(run.store.data_dir), at.lsn + 70)
    check = look(run)
    assert (check.finding.good, check.damaged_at) == (False, at.lsn)
    assert f"segment {segment_name(0)} at byte {at.lsn}:" in check.finding.text
    assert ("no restart needs it" in check.finding.text) == (place == "first")


@pytest.mark.parametrize(
    ("harm", "why"),
    [
        (lambda path: damage(path), "is damaged or another store's"),
        (Path.unlink, "is missing"),
        (lambda path: path.write_bytes(path.read_bytes()[:-1]), "is damaged"),
    ],
)
def test_a_damaged_snapshot_is_named(run: Run, harm: Callable[[Path], object], why: str) -> None:
    path = snapshot_file(run.store.data_dir)
    harm(path)
    finding = check_snapshot(run.store.data_dir, manifest_of(run))
    assert not finding.good
    assert why in finding.text
    assert str(path) in finding.text


def test_a_snapshot_that_is_ahead_of_what_it_says_is_found(run: Run) -> None:
    manifest = manifest_of(run)
    behind = tuple(msgspec.structs.replace(file, revision=1) if file.shard == 0 else file for file in manifest.files)
    finding = check_snapshot(run.store.data_dir, msgspec.structs.replace(manifest, files=behind))
    assert not finding.good


@pytest.mark.parametrize("harm", ["changed", "missing", "more"])
def test_a_map_that_is_not_the_log_s_is_found(run: Run, harm: str) -> None:
    key = keys_of(0, 2, 1)[0]
    run.write(put(key, b"as it was"))
    with run.maps[0]._env.begin(db=run.maps[0]._data, write=True) as txn:
        if harm == "changed":
            txn.put(key, bytes(txn.get(key))[:-1] + b"X")
        elif harm == "missing":
            txn.delete(key)
        else:
            txn.put(keys_of(0, 2, 2)[1], bytes(txn.get(key)))
    run.close_maps()
    wrong, right = maps(run)
    assert right.good
    assert not wrong.good
    named = keys_of(0, 2, 2)[1] if harm == "more" else key
    assert f"{named!r} " in wrong.text


def test_a_map_is_not_compared_where_there_is_no_room(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    run.close_maps()
    monkeypatch.setattr("shards.backup.check.free_bytes", lambda path: 1)
    assert all(each.good and each.text.startswith("not compared") for each in maps(run))


def test_counters_that_disagree_are_found(run: Run) -> None:
    manifest, (tail, following) = manifest_of(run), run.board.history()
    for wrong in ({"end_lsn": tail + 1}, {"end_revision": following}):
        assert not check_counters(msgspec.structs.replace(manifest, **wrong), run.board, tail, following).good
    run.board.log.oldest_revision = following + 1
    assert not check_counters(manifest, run.board, tail, following).good


def test_a_backup_is_checked_like_a_store(run: Run, tmp_path: Path) -> None:
    taken, directory = take(run, tmp_path / "backup"), tmp_path / "backup"
    assert check_snapshot(directory, taken.manifest).good
    assert check_archived_log(directory, taken).good
    damage(log_file(directory))
    assert not check_archived_log(directory, taken).good
    shutil.rmtree(directory / SNAPSHOTS)
    assert not check_snapshot(directory, taken.manifest).good
