"""Pages of the maps of several shards."""

from __future__ import annotations

from pathlib import Path

import pytest

from kvserver.gateway.feed import snapshots
from kvserver.gateway.feed.events import OCTETS
from kvserver.gateway.feed.selection import Selection
from kvserver.gateway.history import map_pages
from kvserver.gateway.history.map_pages import MapPages
from shards.wire.protocol import PutEvent
from tests.api.maps import first_run

ALL = Selection.of([b""], [])


def test_pages_have_every_key_as_it_is_stored(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of all shards, in byte order, expired ones too; without values there are sizes."""
    monkeypatch.setattr(map_pages, "PAGE_ITEMS", 32)
    monkeypatch.setattr(snapshots, "PAGE_ITEMS", 32)
    run = first_run(tmp_path, shards=2).open()
    keys = [b"%03d" % number for number in range(200)]
    for number, key in enumerate(keys):
        run.write(PutEvent(key, b"v" * number, "" if number else "text/plain", 1 if number == 7 else 0))
    run.close_maps()  # a map is open once in a process
    pages = MapPages(run.board)
    try:
        items, after, count = [], b"", 0
        while True:
            page = pages.read(ALL, after, count % 2 == 0)
            assert page.applied == 200
            items += [(item, count % 2 == 0) for item in page.items]
            count += 1
            if page.last is None:
                break
            after = page.last
        assert [item.key for item, _ in items] == keys and count > 3
        for number, (item, values) in enumerate(items):
            assert (item.revision, item.size, len(item.value)) == (number + 1, number, number if values else 0)
        assert [item.content_type for item, _ in items[:2]] == ["text/plain", OCTETS]
    finally:
        pages.close()


def test_single_keys_are_read_from_their_shard(tmp_path: Path) -> None:
    run = first_run(tmp_path, shards=2).open()
    for key in (b"a", b"b", b"c", b"d/1", b"d/2"):
        run.write(PutEvent(key, key, "", 0))
    run.close_maps()  # a map is open once in a process
    pages = MapPages(run.board)
    try:
        page = pages.read(Selection.of([b"d/"], [b"a", b"c", b"x"]), b"a", True)
        assert [(item.key, item.value) for item in page.items] == [(b"c", b"c"), (b"d/1", b"d/1"), (b"d/2", b"d/2")]
        assert page.last is None
    finally:
        pages.close()
