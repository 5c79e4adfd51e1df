"""Maps on real files: what is applied is read, by its owner and by other processes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from multiprocessing.connection import Connection
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from shards.host.board import Board
from shards.maps.layout import Identity, MapError, map_path, read_meta
from shards.maps.owner import NOT_MINE, MapOwner
from shards.maps.reader import MapReader
from shards.wire.clock import BEGINNING
from shards.wire.errors import Unavailable
from shards.wire.keys import SLOTS, slot_of
from shards.wire.protocol import Atomic, DeleteEvent, Event, PrefixMarked, TouchEvent
from tests import effort
from tests.api.maps import Oracle, Run, delete, first_run, keys_of, process, put, record_of
from tests.times import at

IDENTITY = Identity(format=1, store="s", epoch="e", boot_id="b", shard=0, shards=1)


@pytest.fixture
def memory() -> Iterator[Path]:
    """A directory in memory."""
    with tempfile.TemporaryDirectory(dir="/dev/shm") as directory:
        yield Path(directory)


@pytest.fixture(params=["tmp_path", "memory"])
def place(request: pytest.FixtureRequest) -> Path:
    """Where maps are: in memory they are written in another way."""
    where: Path = request.getfixturevalue(request.param)
    return where


@pytest.fixture
def map(place: Path) -> Iterator[MapOwner]:
    path = place / "shard-0.1"
    path.mkdir()
    opened = MapOwner(path)
    yield opened
    opened.close()


@pytest.fixture
def run(place: Path) -> Iterator[Run]:
    first = first_run(place, shards=1).open()
    yield first
    first.close_maps()


def apply(
    map: MapOwner, *events: Event, revision: int, time_ms: int = 1000, previous: tuple[int, ...] = ()
) -> dict[int, tuple[bytes, str, int]]:
    return map.apply_changes(events, record_of(events, revision, revision * 1000, time_ms), previous)


# What events do


def test_created_is_the_time_since_which_the_key_is_there(map: MapOwner) -> None:
    def created() -> int:
        item = map.get(b"k", BEGINNING)
        assert item is not None
        return item.created_ms

    apply(map, put(b"k"), revision=1, time_ms=1000)
    apply(map, put(b"k", expires_ms=5000), revision=2, time_ms=2000)
    assert created() == 1000
    apply(map, TouchEvent(b"k", 6000), revision=3, time_ms=3000)
    assert created() == 1000
    apply(map, put(b"k"), revision=4, time_ms=6000)  # it had expired at that very time
    assert created() == 6000
    apply(map, delete(b"k"), put(b"k"), revision=5, time_ms=7000)
    assert created() == 7000


def test_a_touch_changes_revision_and_expiry_alone(map: MapOwner) -> None:
    apply(map, put(b"k", b"value", "text/plain"), revision=1, time_ms=1000)
    before = map.get(b"k", at(1000))
    assert before is not None
    apply(map, TouchEvent(b"k", 9000), revision=2, time_ms=2000)
    assert map.get(b"k", at(1000)) == before._replace(revision=2, expires_ms=9000)


def test_previous_values_only_where_asked_and_live(map: MapOwner) -> None:
    apply(map, put(b"a", b"1"), put(b"b", b"2", "x/y", 1500), put(b"c", b"3", "x/y"), put(b"d", b""), revision=1)
    apply(map, TouchEvent(b"c", 9000), revision=5)
    replaced = apply(
        map,
        put(b"a", b"4"),
        put(b"b", b"5"),
        delete(b"c"),
        put(b"d"),
        put(b"e"),
        put(b"a", b"6"),
        revision=6,
        time_ms=2000,
        previous=(6, 7, 8, 9, 10, 11),
    )
    assert replaced == {6: (b"1", "", 1), 8: (b"3", "x/y", 5), 9: (b"", "", 4), 11: (b"4", "", 6)}
    assert apply(map, put(b"a"), delete(b"e"), revision=12, previous=()) == {}


def test_deletes_and_touches_of_what_is_not_there_change_nothing(map: MapOwner) -> None:
    apply(map, delete(b"a"), TouchEvent(b"b", 5), PrefixMarked(b""), revision=1)
    assert list(map.entries()) == []
    assert map.applied == (record_of([delete(b"a"), TouchEvent(b"b", 5), PrefixMarked(b"")], 1, 1000).end, 3)


def test_events_of_a_batch_take_a_revision_each(map: MapOwner) -> None:
    apply(map, put(b"a"), Atomic([put(b"b"), delete(b"a"), put(b"c")]), put(b"d"), revision=7)
    assert [(key, revision) for key, revision, *_ in map.entries()] == [(b"b", 8), (b"c", 10), (b"d", 11)]
    assert map.applied[1] == 11


KEYS = [b"a", b"b", b"ab", b"{t}1", b"\xc3\xa4", b"k" * 511]
EVENTS = st.one_of(
    st.builds(
        put, st.sampled_from(KEYS), st.binary(max_size=8), st.sampled_from(["", "a/b"]), st.sampled_from([0, 5, 50])
    ),
    st.builds(TouchEvent, st.sampled_from(KEYS), st.sampled_from([0, 9, 90])),
    st.builds(DeleteEvent, st.sampled_from(KEYS), st.just("expire")),
    st.builds(PrefixMarked, st.just(b"a")),
)
GROUPS = st.lists(
    st.lists(st.one_of(EVENTS, st.builds(Atomic, st.lists(EVENTS, min_size=1, max_size=3))), min_size=1, max_size=4),
    min_size=1,
    max_size=8,
)


@settings(max_examples=effort.times(20), deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(GROUPS, st.data())
def test_any_records_in_any_portions_replayed_from_anywhere(groups: list[list[Event]], data: st.DataObject) -> None:
    oracle, records, revision, lsn = Oracle(), [], 1, 0
    for time_ms, events in enumerate(groups):
        records.append(record_of(events, revision, lsn, time_ms * 10))
        oracle.apply(events, revision, time_ms * 10)
        revision, lsn = records[-1].next_revision, records[-1].end
    floors: list[int] | None = None
    if data.draw(st.booleans(), label="by slot"):
        mine = {slot_of(key) for key in data.draw(st.sets(st.sampled_from(KEYS)), label="mine")}
        floors = [0 if slot in mine else NOT_MINE for slot in range(SLOTS)]
        oracle.items = {key: item for key, item in oracle.items.items() if slot_of(key) in mine}
    with tempfile.TemporaryDirectory() as directory:
        map = MapOwner(Path(directory))
        at = 0
        while at < len(records):
            if floors is None and at:  # what is applied may be replayed, as after a kill before `open` was cleared
                map.apply(records[data.draw(st.integers(0, at), label="from") : at])
            portion = data.draw(st.integers(1, len(records) - at), label="portion")
            map.apply(records[at : at + portion], floors)
            at += portion
        assert {key: map.get(key, BEGINNING) for key, *_ in map.entries()} == oracle.items
        assert map.applied == (lsn, revision - 1)
        map.close()


def test_a_record_is_not_applied_twice(map: MapOwner) -> None:
    first, second = record_of([put(b"k", b"1")], 1, 0), record_of([put(b"k", b"2")], 2, 100)
    map.apply([first, second])
    map.apply([first])
    assert map.applied == (second.end, 2)
    assert [entry[1] for entry in map.entries()] == [2]


# What the owner can ask


def test_entries_range_and_check(map: MapOwner) -> None:
    apply(map, put(b"b", b"22"), put(b"aa", b"1", "x/y", 1001), put(b"ac"), put(b"ab"), revision=1)
    apply(map, TouchEvent(b"ab", 7000), revision=5)
    entries = {key: (a, b, c, d) for key, a, b, c, d in map.entries()}
    assert entries == {b"aa": (2, 2, 1001, 1), b"ab": (5, 4, 7000, 1), b"ac": (3, 3, 0, 1), b"b": (1, 1, 0, 2)}
    assert map.list_versions(b"a", b"", 2) == [(b"aa", 2, 2), (b"ab", 4, 5)]
    assert map.list_versions(b"a", b"ab", 2) == [(b"ac", 3, 3)]
    map.check(1, 0, entries)
    for wrong in (entries | {b"b": (1, 1, 0, 3)}, entries | {b"x": (1, 1, 0, 0)}, {b"aa": entries[b"aa"]}):
        with pytest.raises(AssertionError):
            map.check(1, 0, wrong)


def test_check_finds_keys_of_another_shard(map: MapOwner) -> None:
    apply(map, put(keys_of(1, 2, 1)[0]), revision=1)
    map.check(2, 1)
    with pytest.raises(AssertionError, match="belongs to shard 1"):
        map.check(2, 0)


def test_what_is_deleted_is_room_again(map: MapOwner) -> None:
    values = [put(b"%d" % i, bytes(100_000)) for i in range(50)]
    apply(map, *values, revision=1)
    size, inside = map.storage.size_bytes(), map.storage.spare_bytes()
    assert size > 5_000_000
    apply(map, *[delete(event.key) for event in values], revision=51)
    assert map.storage.spare_bytes() - inside > 4_900_000
    assert map.storage.free_bytes() > map.storage.spare_bytes()
    apply(map, *[delete(event.key) for event in values], revision=101)
    assert map.storage.size_bytes() < size + 500_000


def test_advance_moves_what_is_applied_forward_only(map: MapOwner) -> None:
    map.identify(IDENTITY, 500, 5)
    map.advance(400, 4)
    assert map.applied == (500, 5)
    map.advance(600, 9)
    map.close()
    assert read_meta(map.path) == (IDENTITY, (600, 9))


def test_a_map_can_be_opened_with_little_address_space(tmp_path: Path) -> None:
    program = (
        "import resource, sys, pathlib; from shards.maps.owner import MapOwner; "
        "resource.setrlimit(resource.RLIMIT_AS, (12 << 30, 12 << 30)); "
        "print(MapOwner(pathlib.Path(sys.argv[1]))._env.info()['map_size'] >> 30)"
    )
    done = subprocess.run([sys.executable, "-c", program, tmp_path], capture_output=True, text=True, check=True)
    assert done.stdout == "8\n"


def test_all_bytes_of_a_map_in_memory_are_there(memory: Path) -> None:
    """What the file system may have no room for is never touched by way of the mapping."""
    map, data = MapOwner(memory), memory / "data.mdb"
    sizes = set()
    for revision, length in enumerate((10, 5_000_000, 100, 32 << 20, *range(0, 2_000_000, 100_000)), 1):
        apply(map, put(b"%d" % revision, bytes(length)), revision=revision)
        status = data.stat()
        sizes.add(status.st_size)
        assert status.st_blocks * 512 >= status.st_size >= map.storage.size_bytes()
        assert map._env.info()["map_size"] == status.st_size
    assert len(sizes) > 3, "it grows in steps"
    map.check(1, 0)
    map.close()
    assert data.stat().st_size < 90 << 20
    again = MapOwner(memory)
    assert again._env.info()["map_size"] == data.stat().st_size
    again.close()


def test_a_map_in_memory_takes_holes_over(memory: Path) -> None:
    map, data = MapOwner(memory), memory / "data.mdb"
    apply(map, put(b"k", bytes(100_000)), revision=1)
    map.close()
    os.truncate(data, 8 << 20)
    map = MapOwner(memory)
    assert data.stat().st_blocks * 512 >= 8 << 20
    map.close()


def test_a_map_in_memory_opens_without_room_to_grow(memory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shards.maps.space.free_bytes", lambda _: 0)
    map = MapOwner(memory)  # written by system calls
    apply(map, put(b"k", b"v"), revision=1)
    map.close()
    monkeypatch.undo()
    map = MapOwner(memory)
    item = map.get(b"k", BEGINNING)
    assert item is not None
    assert item.value == b"v"
    map.close()


def test_a_map_that_is_cut_is_refused(map: MapOwner) -> None:
    apply(map, *[put(b"%d" % i, bytes(1000)) for i in range(100)], revision=1)
    map.identify(IDENTITY, 1, 1)
    map.close()
    data = map.path / "data.mdb"
    os.truncate(data, 20_000)
    with pytest.raises(MapError, match="not a whole map"):
        read_meta(map.path)
    data.unlink()
    with pytest.raises(MapError, match="cannot be read"):
        read_meta(map.path)


# Readers. LMDB opens an environment once per process, so either the owner has closed or the reader is another process.


def test_readers_see_what_was_applied(run: Run) -> None:
    expires_ms = run.board.now_ms() + 60_000
    run.write(put(b"k", b"value", "text/plain", expires_ms), put(b"empty", b""), put(b"\xc3\xa4" * 255, b"long"))
    run.close_maps()
    reader, now = MapReader(run.board, 0), run.board.now()
    assert reader.get(b"k", now) == run.oracle.items[b"k"]
    assert reader.get(b"k", at(expires_ms - 1)) is not None
    assert reader.get(b"k", at(expires_ms)) is None
    assert reader.get(b"empty", now) == run.oracle.items[b"empty"]
    assert reader.get(b"\xc3\xa4" * 255, now) is not None
    assert reader.get(b"absent", now) is None
    for key in (b"k", b"empty", b"\xc3\xa4" * 255):
        item = reader.get(key, now)
        assert item is not None
        assert reader.describe(key, now) == item._replace(value=b"")
    assert reader.describe(b"k", at(expires_ms - 1)) is not None
    assert reader.describe(b"k", at(expires_ms)) is reader.describe(b"absent", now) is None
    assert reader.applied()[1] == 3
    reader.close()
    assert reader.get(b"empty", now) is not None
    reader.close()


def test_the_largest_value(run: Run) -> None:
    value = os.urandom(32 << 20)
    map = run.maps[0]
    apply(map, put(b"k", value, "a/b"), revision=1)
    assert apply(map, put(b"k", b""), revision=2, previous=(2,)) == {2: (value, "a/b", 1)}
    apply(map, put(b"k", value, "a/b"), revision=3)
    run.close_maps()
    reader = MapReader(run.board, 0)
    item = reader.get(b"k", BEGINNING)
    assert item is not None
    assert item.value == value
    reader.close()


def test_pages_and_keys(run: Run) -> None:
    now = run.board.now()
    live = sorted([b"a", b"a/", b"a/b", b"a0", b"a/" + b"x" * 509, b"b", b"\xf4\x8f\xbf\xbf"])
    run.write(*[put(key, bytes(100)) for key in live], put(b"a/gone", b"v", "", now.wall_ms + 5), now_ms=now.wall_ms)
    run.close_maps()
    reader, now = MapReader(run.board, 0), at(now.wall_ms + 5)
    for prefix in (b"", b"a", b"a/", b"a/" + b"x" * 509, b"b", b"c", b"\xff"):
        wanted = [key for key in live if key.startswith(prefix)]
        assert reader.keys(prefix, None, 100, now) == wanted
        for after in (*live, b"", b"0", b"a/a", b"a/gone", b"zz", b"\xff"):
            rest = [key for key in wanted if key > after]
            assert reader.keys(prefix, after, 2, now) == rest[:2]
            assert [key for key, _ in reader.read_page(prefix, after, 3, now)[1]] == rest[:3]
    for key, item in reader.read_page(b"", None, 100, now)[1]:
        assert item == run.oracle.items[key]._replace(value=b"")
    applied, page = reader.read_page(b"", None, 100, now, values=True, max_bytes=350)
    assert page == [(key, run.oracle.items[key]) for key in live[:4]]
    assert applied[1] == len(live) + 1
    assert len(reader.read_page(b"", None, 100, now, values=True, max_bytes=1)[1]) == 1
    assert reader.read_page(b"", None, 0, now)[1] == []
    assert reader.keys(b"", None, 0, now) == []
    reader.close()


def test_readers_follow_the_generation(run: Run) -> None:
    row = run.board.shards[0]
    run.write(put(b"k", b"old"))
    run.close_maps()
    reader = MapReader(run.board, 0)
    first = row.map_generation
    second = map_path(run.store.map_dir, 0, 0xABC)
    second.mkdir()
    map = MapOwner(second)
    map.apply([record_of([put(b"k", b"new")])])
    map.close()

    def value() -> bytes:
        item = reader.get(b"k", BEGINNING)
        assert item is not None
        return item.value

    assert value() == b"old"
    row.map_generation = 0xABC
    assert value() == b"new"
    for missing in (0, 0xDEF):
        row.map_generation = missing
        for read in (
            lambda: reader.get(b"k", BEGINNING),
            lambda: reader.keys(b"", None, 1, BEGINNING),
            reader.applied,
        ) * 2:
            with pytest.raises(Unavailable):
                read()
    row.map_generation = first
    assert reader.keys(b"", None, 1, BEGINNING) == [b"k"]
    assert value() == b"old"
    reader.close()


def read_lengths(connection: Connection, board_path: Path) -> None:
    """A reader process: answers each key with the length of its value."""
    reader = MapReader(Board.open(board_path), 0)
    while key := connection.recv():
        item = reader.get(key, BEGINNING)
        connection.send(None if item is None else len(item.value))


def test_readers_follow_a_map_that_grows(run: Run) -> None:
    with process(read_lengths, run.board.path) as (_, connection):
        for n, length in enumerate((1, 3_000_000, 32 << 20, 5, 20 << 20)):
            run.write(put(b"key-%d" % n, bytes(length)))
            connection.send(b"key-%d" % n)
            assert connection.recv() == length
        connection.send(b"")


def read_pairs(connection: Connection, board_path: Path) -> None:
    """A reader process: counts how often it saw two keys of one group, until both say that it is over."""
    reader = MapReader(Board.open(board_path), 0)
    connection.send("reading")
    seen: set[bytes] = set()
    last = b""
    while last != b"end":
        _, pairs = reader.read_page(b"pair", None, 2, BEGINNING, values=True)
        values = {item.value for _, item in pairs}
        assert len(values) == 1, f"half a group: {values}"
        seen |= values
        item = reader.get(b"pair2", BEGINNING)
        assert item is not None
        last = item.value
    connection.send(len(seen))


def test_a_group_is_visible_as_a_whole(run: Run) -> None:
    run.write(put(b"pair1", b"0"), put(b"pair2", b"0"))
    with process(read_pairs, run.board.path) as (_, connection):
        assert connection.recv() == "reading"
        for n in range(500):
            value = b"%d" % n
            run.write(put(b"pair1", value), put(b"between", bytes(5000)), put(b"pair2", value))
        run.write(put(b"pair1", b"end"), put(b"pair2", b"end"))
        assert connection.recv() > 1


def write_for_ever(connection: Connection, path: Path) -> None:
    """A shard that only applies: group n puts n under ten keys."""
    map = MapOwner(path)
    n = map.applied[1] // 10
    while True:
        n += 1
        events = [put(b"key-%d" % i, b"%d" % n + bytes(3000)) for i in range(10)]
        map.apply([record_of(events, 10 * n - 9, n)])
        if n % 20 == 0:
            connection.send(n)


def test_a_killed_writer_leaves_its_last_commit(place: Path) -> None:
    before = 0
    for _ in range(4):
        with process(write_for_ever, place) as (child, connection):
            assert connection.recv() > before
            connection.recv()
            os.kill(child.pid, signal.SIGKILL)
            child.join()
        map = MapOwner(place)
        applied = map.applied[1]
        found = {map.get(b"key-%d" % i, BEGINNING) for i in range(10)}
        assert {item.value.rstrip(b"\0") for item in found if item} == {b"%d" % (applied // 10)}
        assert sorted(item.revision for item in found if item) == list(range(applied - 9, applied + 1))
        map.close()
        before = applied // 10


def hold_reader(connection: Connection, board_path: Path) -> None:
    """A reader that keeps a transaction until it is told to end it, then one that dies in another."""
    reader = MapReader(Board.open(board_path), 0)
    transaction = reader._begin_transaction()
    connection.send("pinned")
    connection.recv()
    transaction.abort()
    transaction = reader._begin_transaction()
    connection.send("pinned again")
    connection.recv()


def test_a_pinned_reader_is_found_and_a_dead_one_forgotten(run: Run) -> None:
    map = run.maps[0]
    run.write(put(b"k"))
    with process(hold_reader, run.board.path) as (child, connection):
        assert connection.recv() == "pinned"
        assert map.storage.pinning_readers(100.0) == []
        for n in range(20):
            run.write(put(b"k", bytes(50_000 + n)))
        assert map.storage.pinning_readers(101.9) == []
        assert map.storage.pinning_readers(102.0) == [(child.pid, 2.0)]
        connection.send("go on")
        assert connection.recv() == "pinned again"
        run.write(put(b"k", bytes(50_000)))
        assert map.storage.pinning_readers(105.0) == []
        assert map.storage.reader_check() == 0
        os.kill(child.pid, signal.SIGKILL)
        child.join()
        assert map.storage.reader_check() > 0
        assert map.storage.pinning_readers(200.0) == []


def test_a_full_file_system(tmp_path: Path) -> None:
    mount = f"mount -t tmpfs -o size=64m,mode=700 tmpfs {tmp_path}"
    command = f"{mount} && exec {sys.executable} -m tests.api.full_map {tmp_path}"
    can = subprocess.run(["unshare", "-rm", "mount", "-t", "tmpfs", "tmpfs", tmp_path], capture_output=True)
    if can.returncode:
        pytest.skip(f"no file system can be mounted here: {can.stderr!r}")
    done = subprocess.run(["unshare", "-rm", "sh", "-c", command], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.splitlines()[-1] == "all is well"
