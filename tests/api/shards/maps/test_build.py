"""How maps come into being: kept, built from a snapshot, replayed from the log; always what the log says."""

from __future__ import annotations

import errno
import os
import random
import shutil
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest

from shards.host.board import NONE
from shards.log.files import LogBroken
from shards.log.manifest import SNAPSHOTS, Manifest
from shards.maps import snapshot
from shards.maps.build import MapBuildError, kept_applied, open_map
from shards.maps.layout import Identity, MapError, MapFull, map_generations, map_path, read_meta
from shards.maps.owner import MapOwner
from shards.maps.snapshot import checksum, take_snapshot
from shards.wire.protocol import Atomic, DeleteEvent, PrefixMarked, TouchEvent
from tests.api.maps import Run, delete, first_run, keys_of, put

A, B = keys_of(0, 2, 2)


def some_writes(run: Run, random: random.Random, count: int) -> None:
    """Groups of every kind of event on few keys, so that snapshots lie in the middle of their histories."""
    now_ms = run.board.now_ms()
    for n in range(count):
        shard = random.randrange(run.shards)
        keys = keys_of(shard, run.shards, 20)
        events = []
        for _ in range(random.randint(1, 5)):
            key = random.choice(keys)
            events.append(
                random.choice(
                    (
                        put(key, b"%d" % n, "text/plain"),
                        put(key, b"x" * random.randrange(9000)),
                        put(key, b"short", expires_ms=now_ms + n + random.randrange(20)),
                        TouchEvent(key, 0),
                        delete(key),
                    )
                )
            )
        if random.random() < 0.2:
            events = [Atomic(events)]  # type: ignore[list-item]
        if random.random() < 0.1:
            events.insert(0, PrefixMarked(b"k"))
            events.append(DeleteEvent(random.choice(keys), "prefix", 1))
        run.write(*events, now_ms=now_ms + n)


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return first_run(tmp_path).open()


def generations(run: Run) -> list[int]:
    return [row.map_generation for row in run.board.shards]


# A shard's restart


def test_a_restart_applies_what_was_left_open(run: Run) -> None:
    run.write(put(A, b"1"))
    kept = generations(run)
    record = run.log(put(A, b"2"), put(B), TouchEvent(B, 9))
    assert run.board.shards[record.shard].open == record.lsn
    run.close_maps()
    run.open()
    run.check()
    assert generations(run) == kept
    assert all(row.open == NONE and row.open_revision == NONE for row in run.board.shards)


def test_a_restart_applies_nothing_twice(run: Run) -> None:
    """Killed after applying, before the open words were cleared."""
    run.write(put(A, b"1"))
    record = run.log(put(A, b"2"), delete(B))
    run.maps[record.shard].apply([record])
    run.close_maps()
    run.open()
    run.check()


@pytest.mark.parametrize("others", [0, 3])
def test_a_restart_after_an_append_that_never_was(run: Run, others: int) -> None:
    """Killed between setting the open words and writing: others may have written there since."""
    run.write(put(A))
    tail, revision = run.board.history()
    run.board.shards[0].open_revision, run.board.shards[0].open = revision, tail
    for n in range(others):
        run.write(put(keys_of(1, 2, 9)[n]))
    assert run.board.watermark() == (tail, revision - 1)
    run.close_maps()
    run.open()
    run.check()
    assert run.board.watermark() == (run.board.history()[0], run.board.last_revision())


def test_a_restart_shows_nothing_before_it_is_flushed(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    record = run.log(put(A))
    run.close_maps()
    run.board.log.synced = record.lsn
    seen = []
    monkeypatch.setattr(MapOwner, "apply", lambda *_: seen.append(run.board.log.synced))
    run.open()
    assert seen
    assert all(synced >= record.end for synced in seen)


def test_a_restart_ends_where_the_log_is_broken(run: Run) -> None:
    run.close_maps()
    run.board.log.broken = 1
    with pytest.raises(LogBroken):
        open_map(run.board, 0)


@pytest.mark.parametrize("harm", [lambda path: shutil.rmtree(path), lambda path: os.truncate(path / "data.mdb", 5000)])
def test_a_map_that_is_lost_is_built_again(run: Run, harm: Callable[[Path], None]) -> None:
    some_writes(run, random.Random(1), 60)
    run.snapshot()
    some_writes(run, random.Random(2), 60)
    run.log(put(A, b"open"))
    old = generations(run)
    run.close_maps()
    harm(map_path(run.store.map_dir, 0, old[0]))
    run.open()
    run.check()
    assert run.board.shards[0].map_generation != old[0]
    assert run.board.shards[1].map_generation == old[1]


@pytest.mark.parametrize("starts", ["the shard", "the server"])
def test_a_map_that_cannot_be_written_is_built_again(run: Run, monkeypatch: pytest.MonkeyPatch, starts: str) -> None:
    some_writes(run, random.Random(17), 20)
    old = map_path(run.store.map_dir, 0, generations(run)[0])
    run.log(put(A))
    apply = MapOwner.apply

    def fail(map: MapOwner, *arguments: object) -> object:
        if map.path == old:
            raise MapError("page corrupted")
        return apply(map, *arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(MapOwner, "apply", fail)
    if starts == "the shard":
        run.close_maps()
    else:
        run = run.next()
    run.open().check()
    assert not old.exists()


def test_while_a_map_is_built_there_is_none(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """The open words are cleared before it is whole, so nobody may read it, nor a snapshot be taken."""
    record = run.log(put(A))
    row, seen = run.board.shards[record.shard], []
    run.close_maps()
    shutil.rmtree(map_path(run.store.map_dir, record.shard, row.map_generation))
    apply = MapOwner.apply

    def watched(*arguments: object) -> object:
        seen.append(row.map_generation)
        return apply(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(MapOwner, "apply", watched)
    run.maps = [open_map(run.board, shard) for shard in range(2)]
    assert seen[0] == 0
    assert row.map_generation != 0
    run.check()


# The server's start


def test_a_start_keeps_the_maps_of_the_same_history(run: Run) -> None:
    some_writes(run, random.Random(3), 40)
    kept = generations(run)
    run.log(put(A, b"appended, not applied"))
    run.log(put(keys_of(1, 2, 1)[0], b"this too"))
    after = run.next()
    assert generations(after) == [0, 0]
    after.open().check()
    assert generations(after) == kept


@pytest.mark.parametrize("other", [{"boot_id": "other"}, {"epoch": "other"}, {"shards": 3}, {"shards": 1}])
def test_a_start_of_another_boot_or_history_or_count_builds(run: Run, other: dict[str, object]) -> None:
    some_writes(run, random.Random(4), 40)
    old = generations(run)
    after = run.next(**other).open()
    after.check()
    assert not set(generations(after)) & set(old)
    left = dict(map_generations(after.store.map_dir))
    assert left == dict(enumerate(generations(after))), "maps that nobody needs are removed"


@pytest.mark.parametrize("shards", [2, 1, 3])
def test_what_cannot_be_kept_is_gone_before_anything_is_built(run: Run, shards: int) -> None:
    some_writes(run, random.Random(4), 10)
    kept = {path.name for path in run.store.map_dir.iterdir()}
    assert {"shard-0.ballast", "shard-1.ballast"} < kept
    (run.store.map_dir / "shard-1.new").mkdir()
    (run.store.map_dir / "shard-7.ballast").touch()
    run.next(shards=shards)
    assert {path.name for path in run.store.map_dir.iterdir()} == (kept if shards == 2 else set())


def test_a_map_that_is_not_usable_is_gone_before_another_is_built(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    some_writes(run, random.Random(4), 10)
    other = map_path(run.store.map_dir, 1, generations(run)[1]).name
    run.close_maps()
    (map_path(run.store.map_dir, 0, generations(run)[0]) / "data.mdb").write_bytes(b"damaged")
    seen, apply = [], MapOwner.apply

    def look(map: MapOwner, *arguments: object) -> object:
        seen.append({path.name for path in run.store.map_dir.iterdir()})
        return apply(map, *arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(MapOwner, "apply", look)
    run.open().check()
    assert seen[0] == {"shard-0.new", other, "shard-1.ballast"}


@pytest.mark.parametrize("failure", [MapFull("full"), OSError(errno.ENOSPC, ""), OSError(errno.EDQUOT, "")])
def test_no_room_to_build_says_what_to_do_and_leaves_nothing(
    run: Run, monkeypatch: pytest.MonkeyPatch, failure: Exception
) -> None:
    some_writes(run, random.Random(4), 10)
    after = run.next(shards=1)

    def fail(*_: object) -> None:
        raise failure

    monkeypatch.setattr(MapOwner, "apply", fail)
    with pytest.raises(MapFull, match=f"map of shard 0 in {run.store.map_dir}.*--map-dir"):
        after.open()
    assert not list(run.store.map_dir.iterdir())


@pytest.mark.parametrize("number", [errno.EIO, errno.EMFILE, errno.EACCES, errno.EROFS])
def test_what_is_no_want_of_room_is_not_told_as_such(run: Run, monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    some_writes(run, random.Random(4), 10)
    after = run.next(shards=1)

    def fail(*_: object) -> None:
        raise OSError(number, os.strerror(number), "a file of the snapshot")

    monkeypatch.setattr(MapOwner, "apply", fail)
    with pytest.raises(OSError, match=os.strerror(number)):
        after.open()


def test_a_store_of_another_id_is_not_kept(run: Run) -> None:
    old = generations(run)
    manifest = Manifest.load(run.store.data_dir)
    msgspec.structs.replace(manifest, store="other").save(run.store.data_dir)
    assert not set(generations(run.next(store="other").open())) & set(old)


def test_a_map_ahead_of_the_log_is_not_kept(run: Run) -> None:
    run.write(put(A))
    tail, revision = run.board.history()
    run.maps[1].advance(tail + 1, revision)
    kept, ahead = generations(run)
    after = run.next().open()
    after.check()
    assert after.board.shards[0].map_generation == kept
    assert after.board.shards[1].map_generation != ahead


def test_a_map_whose_part_of_the_log_is_trimmed_is_not_kept(run: Run) -> None:
    some_writes(run, random.Random(5), 30)
    run.snapshot()
    old = generations(run)
    after = run.next()
    after.board.log.oldest = run.board.history()[0] - 1  # by a word alone: the file has it still
    after.open().check()
    assert any(row.map_generation not in old for row in after.board.shards)


def test_a_start_with_the_maps_gone(run: Run) -> None:
    some_writes(run, random.Random(6), 50)
    shutil.rmtree(run.store.map_dir)
    run.store.map_dir.mkdir()
    again = run.next().open()
    again.check()
    again.snapshot()
    some_writes(again, random.Random(7), 50)
    shutil.rmtree(run.store.map_dir)
    run.store.map_dir.mkdir()
    last = again.next(boot_id="rebooted").open()
    last.check()
    assert Manifest.load(run.store.data_dir).replay_lsn > 0


@pytest.mark.parametrize("counts", [(2, 5, 3), (1, 4, 1), (3, 3, 2), (7, 2, 16)])
def test_the_number_of_shards_is_free(tmp_path: Path, counts: tuple[int, ...]) -> None:
    """Each run starts from the last one's snapshot, taken in its middle, and from the log, written by other shards.

    The copies are not of the same moment: each map goes on after its own.
    """
    chance = random.Random(str(counts))
    run = first_run(tmp_path, counts[0]).open()
    for count in (*counts[1:], counts[-1]):
        some_writes(run, chance, 40)
        run.snapshot()
        some_writes(run, chance, 40)
        run = run.next(shards=count, boot_id=str(chance.random())).open()
        run.check()


def test_files_of_a_snapshot_may_be_ahead_of_each_other(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is written between two copies is in the later one and must not be applied to its keys again."""
    some_writes(run, random.Random(8), 30)
    copy = snapshot._copy_map

    def copy_beside_writes(board: object, shard: int, directory: Path) -> object:
        some_writes(run.open(), random.Random(shard), 20)
        run.close_maps()
        return copy(board, shard, directory)  # type: ignore[arg-type]

    monkeypatch.setattr(snapshot, "_copy_map", copy_beside_writes)
    manifest = run.snapshot()
    assert manifest.replay_lsn < manifest.files[0].lsn < manifest.files[1].lsn
    run.next(shards=3).open().check()
    run.next(boot_id="rebooted").open().check()


@pytest.mark.parametrize("shards", [1, 2, 3])
def test_what_is_in_a_file_is_not_applied_again(tmp_path: Path, shards: int) -> None:
    """Between the replay position and what is applied to a file lies what the replay must skip: here the file holds
    something else, so that it shows."""
    run = first_run(tmp_path, 2).open()
    other = keys_of(1, 2, 1)[0]
    run.log(put(other, b"holds the position back"))
    run.write(put(A, b"logged"), put(B, b"logged"))
    with run.maps[0]._env.begin(run.maps[0]._data, write=True) as transaction:
        raw = transaction.get(A)
        assert raw is not None
        transaction.put(A, raw.replace(b"logged", b"copied"))
    run.close_maps()
    manifest = take_snapshot(run.board)
    assert manifest.replay_lsn < manifest.files[0].lsn
    run.open()
    run.write(put(B, b"later"))
    run.oracle.items[A] = run.oracle.items[A]._replace(value=b"copied")
    run.next(shards=shards, boot_id="rebooted").open().check()


def test_what_a_killed_start_left_is_no_obstacle(run: Run) -> None:
    some_writes(run, random.Random(9), 10)
    half = run.store.map_dir / "shard-0.new"
    half.mkdir()
    (half / "data.mdb").write_bytes(b"half a map")
    (run.store.map_dir / "shard-1.abc.old").mkdir()
    after = run.next(boot_id="rebooted").open()
    after.check()
    names = {path.name for path in run.store.map_dir.iterdir()}
    maps = {map_path(run.store.map_dir, shard, generation).name for shard, generation in enumerate(generations(after))}
    assert names == maps | {"shard-0.ballast", "shard-1.ballast"}


def test_of_two_maps_the_newer_is_kept(run: Run) -> None:
    some_writes(run, random.Random(10), 10)
    kept = generations(run)
    old = map_path(run.store.map_dir, 0, 0xABC)
    run.close_maps()
    shutil.copytree(map_path(run.store.map_dir, 0, kept[0]), old)
    identity, (lsn, revision) = read_meta(old)
    assert identity is not None
    run.open()
    run.write(put(A, b"later"))
    shutil.rmtree(old, ignore_errors=True)
    old.mkdir()
    behind = MapOwner(old)
    behind.identify(identity, lsn, revision)
    behind.close()
    after = run.next().open()
    after.check()
    assert generations(after) == kept


def test_a_map_without_room_for_its_ballast_is_built_anew(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its file never shrinks, and its free pages are no use to large values."""
    some_writes(run, random.Random(11), 10)
    old = generations(run)
    monkeypatch.setattr("shards.maps.space.free_bytes", lambda _: 0)
    for ballast in run.store.map_dir.glob("*.ballast"):
        os.truncate(ballast, 0)
    after = run.next().open()
    after.check()
    assert not set(generations(after)) & set(old)


def test_in_memory_the_log_is_all_there_is(tmp_path: Path) -> None:
    run = first_run(tmp_path, in_memory=True).open()
    some_writes(run, random.Random(12), 20)
    run.close_maps()
    shutil.rmtree(map_path(run.store.map_dir, 0, run.board.shards[0].map_generation))
    run.open().check()


def test_applied_tells_recovery_what_was_in_the_log(run: Run) -> None:
    facts = run.board.facts
    run.write(put(A))
    run.write(put(keys_of(1, 2, 1)[0]))
    applied = sorted(map.applied[0] for map in run.maps)
    run.close_maps()
    assert sorted(kept_applied(run.store.map_dir, facts.store, facts.boot_id, facts.epoch)) == applied
    for other in (
        (facts.store, facts.boot_id, "x"),
        (facts.store, "x", facts.epoch),
        ("x", facts.boot_id, facts.epoch),
    ):
        assert kept_applied(run.store.map_dir, *other) == []
    assert kept_applied(run.store.map_dir / "none", facts.store, facts.boot_id, facts.epoch) == []


# Snapshot files that are no good


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def swap(path: Path) -> None:
    other = path.with_name("shard-1.mdb")
    middle = path.with_name("x")
    path.rename(middle)
    other.rename(path)
    middle.rename(other)


@pytest.mark.parametrize("shards", [2, 3], ids=["same count", "other count"])
@pytest.mark.parametrize(
    ("harm", "says"),
    [
        (flip, "damaged or another store's"),
        (swap, "damaged or another store's"),
        (lambda path: os.truncate(path, path.stat().st_size // 2), "damaged"),
        (lambda path: path.unlink(), "missing"),
    ],
    ids=["a bit", "swapped", "cut", "missing"],
)
def test_a_snapshot_file_that_is_no_good_is_refused(
    run: Run, harm: Callable[[Path], None], says: str, shards: int
) -> None:
    some_writes(run, random.Random(13), 30)
    manifest = run.snapshot()
    bad = run.store.data_dir / SNAPSHOTS / manifest.files[0].name
    harm(bad)
    after = run.next(boot_id="rebooted", shards=shards)
    with pytest.raises(MapBuildError, match=f"shard 0 cannot be built: .*{bad.name}.*{says}.*restore .* from a backup"):
        open_map(after.board, 0)
    assert after.board.shards[0].map_generation == 0


@pytest.mark.parametrize(
    ("wrong", "says"),
    [({"shard": 1}, "holds Identity"), ({"lsn": 1}, "ends at"), ({"format": 9}, "has format 9")],
)
def test_a_file_that_is_not_what_the_manifest_says(run: Run, wrong: dict[str, int], says: str) -> None:
    """Its checksum is right, so the manifest or the file is of another making."""
    some_writes(run, random.Random(14), 10)
    manifest = run.snapshot()
    first, second = manifest.files
    path = run.store.data_dir / SNAPSHOTS / first.name
    if "format" in wrong:
        scratch = run.store.data_dir / "scratch"
        scratch.mkdir()
        shutil.copy(path, scratch / "data.mdb")
        map = MapOwner(scratch)
        identity = map.identity()
        assert isinstance(identity, Identity)
        map.identify(msgspec.structs.replace(identity, **wrong), *map.applied)
        map.close()
        shutil.copy(scratch / "data.mdb", path)
        first = msgspec.structs.replace(first, checksum=checksum(path, manifest.secret), size=path.stat().st_size)
    else:
        first = msgspec.structs.replace(first, **wrong)
        if "shard" in wrong:
            second = msgspec.structs.replace(second, shard=0)
    msgspec.structs.replace(manifest, files=(first, second)).save(run.store.data_dir)
    after = run.next(boot_id="rebooted")
    with pytest.raises(MapBuildError, match=says):
        for shard in range(2):
            open_map(after.board, shard)


def test_a_snapshot_that_is_replaced_while_it_is_read(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """The one that a shard has found in the manifest is gone when it reads it: it begins again with the new one."""
    some_writes(run, random.Random(15), 20)
    first = run.snapshot()
    some_writes(run, random.Random(16), 20)
    second = run.snapshot()
    after = run.next(boot_id="rebooted")
    answers = iter([first, second, second, second])
    monkeypatch.setattr(Manifest, "load", lambda _: next(answers))
    after.open().check()
    assert next(answers, None) is None


def test_a_log_that_was_trimmed_too_far_is_said(run: Run) -> None:
    some_writes(run, random.Random(16), 5)
    for segment in run.store.log_dir.glob("*.log"):
        segment.rename(segment.with_name("000000000007.log"))
    after = run.next(boot_id="rebooted")
    with pytest.raises(MapBuildError, match="the log starts at"):
        open_map(after.board, 0)
