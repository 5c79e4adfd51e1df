"""Readers of a map see whole groups of the map that the board names, and follow it."""

from __future__ import annotations

import os
from multiprocessing.connection import Connection
from pathlib import Path

import pytest

from shards.host.board import Board
from shards.maps.layout import map_path
from shards.maps.owner import MapOwner
from shards.maps.reader import MapReader
from shards.wire.clock import BEGINNING
from shards.wire.errors import Unavailable
from tests.api.maps import Run, process, put, record_of
from tests.api.shards.maps.tools import apply
from tests.times import at


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
