"""Pages of a snapshot."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kvserver.gateway.feed import snapshots
from kvserver.gateway.feed.events import SnapshotItem
from kvserver.gateway.feed.selection import Selection
from kvserver.gateway.feed.snapshots import FoldedPage, MapPart, Page, read_page
from shards.wire.protocol import DeleteEvent, PutEvent, TouchEvent
from tests.unit.kvserver.gateway.feed.histories import T, event

KEYS = [b"a", b"a/1", b"a/2", b"b", b"b/1", b"c", b"d"]


def item(key: bytes, revision: int = 1, value: bytes = b"v") -> SnapshotItem:
    return SnapshotItem(key, revision, T, 0, "t/t", value, len(value))


@settings(deadline=None)
@given(
    st.lists(st.sets(st.sampled_from(KEYS)), min_size=1, max_size=3),
    st.sets(st.sampled_from([b"", b"a", b"a/", b"b", b"x"])),
    st.sets(st.sampled_from([*KEYS, b"x"])),
    st.integers(1, 3),
)
def test_pages_together_have_every_key_once(
    maps: list[set[bytes]], prefixes: set[bytes], keys: set[bytes], most: int
) -> None:
    """Of the maps, each of which gives some of its keys at a time."""
    selection = Selection.of(prefixes, keys)
    held = [part - set().union(*maps[:index]) for index, part in enumerate(maps)]  # a key is in one map

    def read(prefix: bytes, after: bytes) -> Sequence[MapPart]:
        parts = []
        for number, part in enumerate(held):
            found = sorted(key for key in part if key.startswith(prefix) and key > after)
            parts.append(MapPart([item(key) for key in found[:most]], len(found) >= most, number))
        return parts

    def read_key(key: bytes) -> MapPart:
        return MapPart([item(key)] if any(key in part for part in held) else [], False, 9)

    got: list[bytes] = []
    after: bytes | None = b""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(snapshots, "PAGE_ITEMS", 2)
        for _ in range(50):
            assert after is not None
            page = read_page(read, read_key, selection, after)
            got += [each.key for each in page.items]
            after = page.last
            if after is None:
                break
    assert after is None
    assert got == sorted(key for part in held for key in part if selection.covers(key))


def test_a_page_is_the_store_as_of_its_revision() -> None:
    page = Page([item(b"a"), item(b"b", 9), item(b"c")], b"d", 9)
    fold = FoldedPage(page, 20)
    events = [
        event(PutEvent(b"a", b"new", "", 0), 5),
        event(DeleteEvent(b"a", "request"), 6),
        event(PutEvent(b"b", b"old", "", 0), 7),
        event(DeleteEvent(b"b", "request"), 8),
        event(PutEvent(b"b", b"kept", "", 0), 9),
        event(TouchEvent(b"c", 5000), 10),
        event(TouchEvent(b"gone", 5000), 11),
        event(PutEvent(b"d", b"", "", 0), 12),
        event(PutEvent(b"e", b"above the page", "", 0), 13),
        event(PutEvent(b"A", b"below the page", "", 0), 14),
        event(DeleteEvent(b"c", "request"), 21),
    ]
    fold.add_events(events, Selection.of([b""], []), b"A")
    assert [(each.key, each.revision, each.value) for each in fold.items()] == [
        (b"b", 9, b"kept"),
        (b"c", 10, b"v"),
        (b"d", 12, b""),
    ]
    assert fold.items()[1].expires_ms == 5000
