"""Room: what a control group gives, and who keeps a map from using its pages again."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from shards.maps.space import (
    GROWTH_BYTES,
    Ballast,
    PinWatch,
    ReaderSlot,
    Reserve,
    group_room,
    growth_left,
    parse_readers,
)


def test_the_cache_of_a_group_is_room_its_shared_memory_is_not() -> None:
    stat = "anon 100\nfile 700\nshmem 400\ninactive_file 200\nactive_file 100\n"
    assert group_room(1000, 800, stat) == 1000 - 800 + 300
    assert group_room(1000, 1200, "") == 0


def test_readers_are_those_in_a_transaction() -> None:
    table = "    pid     thread     txnid\n      6787 7f6e58066b80 12\n      6788 7f6e58066b81 -\n"
    assert parse_readers(table) == [ReaderSlot(6787, "7f6e58066b80", 12)]
    assert parse_readers("(no active readers)\n") == []


A, B = ReaderSlot(1, "t", 7), ReaderSlot(2, "t", 7)


def test_one_that_stays_while_the_map_grows_pins_it() -> None:
    watch = PinWatch()
    assert watch.observe(10.0, [A], 100) == []
    assert watch.observe(11.0, [A, B], 200) == []
    assert watch.observe(12.0, [A, B], 300) == [(1, 2.0)]
    assert watch.observe(13.0, [A, B], 400) == [(1, 3.0), (2, 2.0)]


def test_no_growth_no_pin() -> None:
    watch = PinWatch()
    for now in range(10):
        assert watch.observe(now, [A], 100) == []
    assert watch.observe(10, [A], 101) == [(1, 10.0)]


def test_one_that_came_back_begins_again() -> None:
    watch = PinWatch()
    watch.observe(0, [A], 100)
    watch.observe(1, [A._replace(txnid=8)], 200)
    assert watch.observe(2, [A], 300) == []
    assert watch.observe(4, [A], 400) == [(1, 2.0)]


def test_a_ballast_takes_room_and_gives_it_back(tmp_path: Path) -> None:
    ballast = Ballast(tmp_path / "ballast", 1 << 20)
    assert ballast.there
    assert ballast.path.stat().st_blocks * 512 >= 1 << 20
    assert ballast.drop()
    assert not ballast.there
    assert ballast.path.stat().st_blocks == 0
    assert not ballast.drop()
    assert ballast.restore()
    assert Ballast(ballast.path, 1 << 20).there  # that of a predecessor is taken over


def test_a_ballast_that_does_not_fit_takes_nothing(tmp_path: Path) -> None:
    ballast = Ballast(tmp_path / "ballast", 1 << 60)
    assert not ballast.there
    assert not ballast.drop()


def blocks(path: Path) -> int:
    return path.stat().st_blocks * 512


def test_a_reserve_fills_holes_and_grows(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"content")
    reserve = Reserve(path)
    assert reserve.size == path.stat().st_size == GROWTH_BYTES <= blocks(path)
    assert reserve.grow()
    assert reserve.size == path.stat().st_size == 2 * GROWTH_BYTES <= blocks(path)
    assert reserve.grow(30 * GROWTH_BYTES)
    assert reserve.grow(), "by an eighth now"
    assert reserve.size == path.stat().st_size == 36 * GROWTH_BYTES <= blocks(path)
    assert path.read_bytes().rstrip(b"\0") == b"content"
    reserve.close()
    with Reserve(path) as again:
        assert again.size == 36 * GROWTH_BYTES


def test_a_reserve_fills_holes_and_looks_at_nothing_that_is_full(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, filled = tmp_path / "file", list[tuple[int, int]]()
    fallocate = os.posix_fallocate

    def fill(fd: int, begin: int, size: int) -> None:
        filled.append((begin, size))
        fallocate(fd, begin, size)

    monkeypatch.setattr("os.posix_fallocate", fill)
    path.write_bytes(b"content")
    os.truncate(path, 3 * GROWTH_BYTES)
    with Reserve(path) as reserve:
        assert reserve.grow() and blocks(path) >= 4 * GROWTH_BYTES
    assert filled == [(0, 3 * GROWTH_BYTES), (3 * GROWTH_BYTES, GROWTH_BYTES)]
    with Reserve(path) as again:
        assert again.size == 4 * GROWTH_BYTES
    assert len(filled) == 2


def test_a_reserve_takes_what_there_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "file"
    path.touch()
    free = GROWTH_BYTES - 1
    monkeypatch.setattr("shards.maps.space.free_bytes", lambda _: free)
    with pytest.raises(OSError, match="No space left"):
        Reserve(path)
    assert blocks(path) == 0
    free = GROWTH_BYTES
    with Reserve(path) as reserve:
        free = 100_000
        assert reserve.grow()
        assert reserve.size == GROWTH_BYTES + (64 << 10)
        free = 60_000
        assert not reserve.grow()
        assert reserve.size == path.stat().st_size == GROWTH_BYTES + (64 << 10)


def test_a_reserve_keeps_to_the_limit_of_file_sizes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "file"
    path.touch()
    assert growth_left(5) > 1 << 60
    monkeypatch.setattr("resource.getrlimit", lambda _: (GROWTH_BYTES + (64 << 10), -1))
    with Reserve(path) as reserve:
        assert growth_left(reserve.size) == 64 << 10
        assert reserve.grow()
        assert reserve.size == GROWTH_BYTES + (64 << 10)
        assert not reserve.grow()
    assert growth_left(reserve.size + 1) == 0
