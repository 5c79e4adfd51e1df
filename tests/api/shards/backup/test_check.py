"""Checks find every kind of damage, name it, and change nothing; a repair cuts there and no further."""

from __future__ import annotations

import random
import shutil
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest

from shards.backup.check import (
    Finding,
    LogCheck,
    check_archived_log,
    check_counters,
    check_log,
    check_map,
    check_snapshot,
)
from shards.log.files import segment_name
from shards.log.manifest import SNAPSHOTS, Manifest
from shards.log.recovery import examine_log
from shards.log.repair import cut_at_damage, give_up_below, loss_of
from shards.maps.layout import map_path
from tests.api.maps import Run, first_run, keys_of, put
from tests.api.shards.backup.test_take import (
    SEGMENT,
    History,
    damage,
    live_a_while,
    log_file,
    snapshot_file,
    start,
    take,
)


@pytest.fixture
def run(tmp_path: Path) -> Run:
    run = first_run(tmp_path / "store", segment=SEGMENT).open()
    live_a_while(run, History(), random.Random(1), 10)
    run.snapshot()
    live_a_while(run, History(), random.Random(2), 20)
    return run


def manifest_of(run: Run) -> Manifest:
    return Manifest.load(run.store.data_dir)


def look(run: Run) -> LogCheck:
    """At the log of a store that stands still."""
    manifest = manifest_of(run)
    found = examine_log(run.store.log_dir, manifest, segment=SEGMENT)
    return check_log(run.store.log_dir, manifest, found.fold.lsn, found, SEGMENT)


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


def several_segments(tmp_path: Path) -> tuple[Run, int]:
    segment = 4096
    run = first_run(tmp_path / "small", shards=1, segment=segment)
    for n in range(30):
        run.store.segments.prepare_next()
        run.log(put(b"k", b"%d" % n * 300))
    return run, segment


HARMS: dict[str, tuple[Callable[[Path], object], str]] = {
    "cut": (lambda path: path.write_bytes(path.read_bytes()[:3000]), "the segment ends there, and not after 4096"),
    "removed": (Path.unlink, "the segment is missing"),
    "zeroed": (lambda path: path.write_bytes(bytes(4096)), "no record can be read there"),
}


@pytest.mark.parametrize("harm", HARMS)
@pytest.mark.parametrize("number", [0, 3])
def test_a_segment_that_is_not_whole_is_named_and_cut(tmp_path: Path, harm: str, number: int) -> None:
    run, segment = several_segments(tmp_path)
    manifest, (tail, following) = manifest_of(run), run.board.history()
    do, why = HARMS[harm]
    do(run.store.log_dir / segment_name(number))
    found = examine_log(run.store.log_dir, manifest, segment=segment)
    check = check_log(run.store.log_dir, manifest, found.fold.lsn, found, segment)
    assert not check.finding.good
    assert f"segment {segment_name(number)} at byte" in check.finding.text
    assert why in check.finding.text
    served = check_log(run.store.log_dir, manifest, tail, None, segment)
    assert not served.finding.good, "beside a server, too"

    loss = loss_of(found, manifest)
    assert loss.first <= loss.last == following - 1
    cut_at_damage(run.store.data_dir, manifest, found, segment=segment)
    mended = manifest_of(run)
    assert (mended.epoch, mended.end_revision, mended.new_history) == ("", following - 1, "the log was cut at damage")
    again = examine_log(run.store.log_dir, mended, segment=segment)
    assert again.damage is None
    assert again.fold.next_revision == loss.first
    assert check_log(run.store.log_dir, mended, again.fold.lsn, again, segment).finding.good


def test_damage_that_no_restart_needs_is_given_up_alone(run: Run, tmp_path: Path) -> None:
    manifest = manifest_of(run)
    assert not give_up_below(run.store.data_dir, manifest, 5, segment=SEGMENT), "the replay position is in there"
    assert give_up_below(run.store.data_dir, manifest, 5, segment=64)
    assert not (run.store.log_dir / segment_name(0)).exists()


def test_what_is_repaired_is_served_up_to_the_damage(tmp_path: Path) -> None:
    run, history = first_run(tmp_path / "store", segment=SEGMENT).open(), History()
    live_a_while(run, history, random.Random(1), 20)
    found, _ = run.store.reader().read(0, run.board.history()[0], 1 << 30)
    run.close_maps()
    damage(log_file(run.store.data_dir), found[12].lsn + 70)
    manifest = manifest_of(run)
    cut_at_damage(
        run.store.data_dir, manifest, examine_log(run.store.log_dir, manifest, segment=SEGMENT), segment=SEGMENT
    )
    (tmp_path / "r").mkdir()
    shutil.copytree(run.store.data_dir, tmp_path / "r" / "data")
    restored = start(tmp_path / "r" / "data", tmp_path / "r", 3)
    restored.oracle = history.oracle(found[12].revision - 1)
    restored.check()
    restored.close_maps()


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
