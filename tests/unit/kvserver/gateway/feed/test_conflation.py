"""Conflation: the latest event of each key."""

from __future__ import annotations

from typing import Any

import pytest

from kvserver.gateway.feed import conflation
from kvserver.gateway.feed.conflation import LatestEvents
from kvserver.gateway.feed.events import Event
from shards.wire.protocol import (
    Change,
    DeleteEvent,
    PrefixMarked,
    PutEvent,
    TouchEvent,
)
from tests.unit.kvserver.gateway.feed.histories import blocks


def in_order(changes: list[Change]) -> list[Event]:
    return [event for block in blocks(changes) for event in block.events]


def left(changes: list[Change], shows: Any = lambda event: True) -> list[int]:
    found = LatestEvents(in_order(changes), len(changes), shows)
    return [each.revision for block in blocks(changes) for each in block.events if each in found]


def test_of_each_key_the_latest_put_or_delete_and_the_latest_touch_after_it() -> None:
    a, b = PutEvent(b"a", b"", "", 0), PutEvent(b"b", b"", "", 0)
    touch, gone = TouchEvent(b"a", 5), DeleteEvent(b"a", "request")
    assert left([a, touch, a, touch, touch, b]) == [3, 5, 6]
    assert left([touch, a]) == [2]
    assert left([touch, touch]) == [2]
    assert left([a, gone, touch]) == [2, 3]
    assert left([a, PrefixMarked(b"a"), gone, PrefixMarked(b"")]) == [2, 3, 4]
    assert left([a, b, a, gone], lambda event: event.op == "put") == [2, 3]


def test_only_so_many_keys_are_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(conflation, "MOST_KEYS", 2)
    puts: list[Change] = [PutEvent(b"%d" % (i % 3), b"", "", 0) for i in range(9)]
    found = LatestEvents(in_order(puts), 9, lambda event: True)
    assert found.end == 2 and found.all
