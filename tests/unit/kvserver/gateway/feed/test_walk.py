"""A client's walk along the history, in envelopes that clients share."""

from __future__ import annotations

import json

from kvserver.access.grants import EVERYTHING
from kvserver.api.feed_query import FeedQuery
from kvserver.gateway.feed.encodings import JSON
from kvserver.gateway.feed.events import Block
from kvserver.gateway.feed.filters import filter_of
from kvserver.gateway.feed.walk import EventWalk
from shards.wire.protocol import Change, PrefixMarked, PutEvent
from tests.unit.kvserver.gateway.feed.histories import Told, event


def history_of(*changes: Change) -> Told:
    """All in one block."""
    told = Told(list(changes), [])
    block = Block(0, len(changes), 0, [event(change, revision) for revision, change in enumerate(changes, 1)])
    told._blocks = [block] * len(changes)
    return told


def put(key: bytes) -> PutEvent:
    return PutEvent(key, b"", "", 0)


def walk_on(told: Told, query: FeedQuery) -> EventWalk:
    return EventWalk(told, filter_of(query, EVERYTHING), JSON)


def test_clients_at_one_place_share_an_envelope() -> None:
    told = history_of(put(b"a"), put(b"b"), put(b"a"))
    first, same, other = walk_on(told, FeedQuery()), walk_on(told, FeedQuery()), walk_on(told, FeedQuery((b"a",)))
    message = first.next_envelope(3)
    assert message is not None and message is same.next_envelope(3)
    assert [each["revision"] for each in json.loads(message.body)["events"]] == [1, 2, 3]
    narrow = other.next_envelope(3)
    assert narrow is not None and [each["key"] for each in json.loads(narrow.body)["events"]] == ["a", "a"]
    assert first.next_envelope(3) is None and first.revision == 3


def test_what_is_not_shared() -> None:
    """The part of a block up to a revision, and what a client decides by itself."""
    told = history_of(put(b"a"), put(b"b"), put(b"c"))
    whole, part, own = walk_on(told, FeedQuery()), walk_on(told, FeedQuery()), walk_on(told, FeedQuery())
    kept = part.next_envelope(2)
    assert kept is not None and kept.cursor == b"e.2" and part.revision == 2
    chosen = own.next_envelope(3, lambda each: each.key == b"b")
    assert chosen is not None and chosen.events == 1 and own.revision == 3
    message = whole.next_envelope(3)
    assert message is not None and message.events == 3


def test_a_mark_ends_an_envelope() -> None:
    told = history_of(put(b"a"), PrefixMarked(b""), put(b"b"))
    walk = walk_on(told, FeedQuery(activity=True))
    bodies = []
    while (message := walk.next_envelope(3)) is not None:
        bodies.append(json.loads(message.body))
    assert [(body["type"], body.get("op"), body["cursor"]) for body in bodies] == [
        ("events", None, "e.1"),
        ("activity", "delete_all", "e.2"),
        ("events", None, "e.3"),
    ]


def test_cursors_within_a_snapshot_name_key_and_filter() -> None:
    walk = walk_on(history_of(), FeedQuery())
    assert walk.cursor_at(7) == b"e.7"
    walk.snapshot_key = b""
    assert walk.cursor_at(7).startswith(b"e.7..") and walk.cursor_at(7, b"k").startswith(b"e.7.aw.")
    assert walk.cursor_at(7).endswith(b"%08x" % walk.filter.crc)
