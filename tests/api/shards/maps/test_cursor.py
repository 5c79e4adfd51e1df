"""A cursor over a map: every move against a sorted list."""

from __future__ import annotations

from bisect import bisect_left
from contextlib import closing

import pytest

from shards.maps.reader import MapReader
from tests.api.maps import Run, put
from tests.times import at

KEYS = [b"a", b"b", b"b\0", b"bb", b"c"]
PLACES = [b"\0", *KEYS, b"aa", b"bz", b"z"]


@pytest.fixture
def reader(run: Run) -> MapReader:
    run.write(
        *(put(key, key * 3, "text/plain") for key in KEYS if key != b"bb"),
        put(b"bb", b"old", expires_ms=5000),
        now_ms=1000,
    )
    run.close_maps()
    return MapReader(run.board, 0)


@pytest.mark.parametrize("key", PLACES)
def test_moves_are_those_in_a_sorted_list(reader: MapReader, key: bytes) -> None:
    around = [None, *KEYS, None]
    above = bisect_left(KEYS, key) + 1  # in `around`
    with closing(reader.open_cursor(at(1000))) as cursor:
        assert cursor.seek(key) == around[above]
        if around[above] is not None:
            assert cursor.next() == around[above + 1]
        assert cursor.seek_below(key) == around[above - 1]
        if around[above - 1] is not None:
            assert cursor.prev() == (around[above - 2] if above > 1 else None)


def test_the_ends(reader: MapReader) -> None:
    with closing(reader.open_cursor(at(1000))) as cursor:
        assert (cursor.seek(b""), cursor.seek_below(None)) == (KEYS[0], KEYS[-1])
        assert cursor.seek_below(b"") is None


@pytest.mark.parametrize("values", [False, True])
def test_items_have_values_if_asked_for_and_expired_keys_have_no_size(reader: MapReader, values: bool) -> None:
    with closing(reader.open_cursor(at(6000), values=values)) as cursor:
        assert cursor.seek(b"bb") == b"bb", "met as others are"
        assert cursor.size() is None
        assert cursor.next() == b"c"
        assert cursor.size() == (3 if values else 0)
        item = cursor.item()
        assert (item.value, item.size, item.content_type) == (b"ccc" if values else b"", 3, "text/plain")
