"""Changes as they come, and the activity between them."""

from __future__ import annotations

import json
from typing import Any

from kvserver.access.grants import EVERYTHING
from kvserver.api.feed_query import FeedQuery
from kvserver.gateway.feed.encodings import JSON
from kvserver.gateway.feed.events import ActivityLine, Block
from kvserver.gateway.feed.filters import filter_of
from kvserver.gateway.feed.follow import FeedState
from shards.wire.protocol import (
    Activity,
    Change,
    DeleteEvent,
    PrefixMarked,
    PutEvent,
)
from tests.unit.kvserver.gateway.feed.histories import T, Told, event


def test_activity_stands_where_it_happened() -> None:
    """Behind the changes before it, before those after it; what does not pass the filter is passed over."""
    puts: list[Change] = [PutEvent(b"a%d" % i, b"", "", 0) for i in range(1, 5)]
    lines: list[ActivityLine] = []
    told = Told(puts, lines)
    state = FeedState(told, filter_of(FeedQuery((b"a",), activity=True), EVERYTHING), JSON, FeedQuery(since=b"e.0"))
    for place, key in ((0, b"a"), (2, b"b"), (2, b"ax"), (2, b"ay"), (4, b"az")):
        lines.append(ActivityLine(Activity(place, "read", key, T), place))
    found: list[Any] = []
    while (message := state.next_message()) is not None:
        body = json.loads(message.body)
        found.append(body.get("key") or [each["revision"] for each in body["events"]])
        assert body["cursor"] == message.cursor.decode() == state.cursor.decode()
    assert found == ["a", [1], [2], "ax", "ay", [3], [4], "az"]


def test_a_mark_is_activity() -> None:
    changes: list[Change] = [PutEvent(b"a", b"", "", 0), PrefixMarked(b"a"), DeleteEvent(b"a", "prefix", 2)]
    told = Told(changes, [])
    told._blocks = [Block(0, 3, 0, [event(change, revision) for revision, change in enumerate(changes, 1)])]
    told.shown = lambda: 3  # type: ignore[method-assign]
    told.block_after = lambda revision: told._blocks[0]  # type: ignore[method-assign]
    told.end = lambda: 3  # type: ignore[method-assign]

    def types(query: FeedQuery) -> list[tuple[str, str]]:
        state = FeedState(told, filter_of(query, EVERYTHING), JSON, query)
        found = []
        while (message := state.next_message()) is not None:
            found.append((json.loads(message.body)["type"], message.cursor.decode()))
        return found

    assert types(FeedQuery(since=b"e.0")) == [("events", "e.3")]
    assert types(FeedQuery(since=b"e.0", activity=True)) == [("events", "e.1"), ("activity", "e.2"), ("events", "e.3")]
