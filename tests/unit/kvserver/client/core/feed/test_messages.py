"""Messages of the feed as changes: the server's own encoding, read back, and what no server sends."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kvserver.client.changes import Activity, Delete, Put, Reset, Synced, Touch
from kvserver.client.core.feed.messages import changes_in, error_in, parse_message
from kvserver.client.errors import Forbidden, ForeignAnswer, Unavailable
from kvserver.gateway.feed.encodings import JSON
from kvserver.gateway.feed.events import SnapshotItem
from shards.wire.protocol import Change, DeleteEvent, PutEvent, TouchEvent
from tests.unit.kvserver.gateway.feed.histories import T, event

MOMENT = datetime.fromtimestamp(T / 1000, UTC)
TIME = "2026-11-22T11:40:00.123Z"


def read_events(*changes: Change, values: bool = True, below: str = "") -> tuple[Any, ...]:
    parts = [JSON.event(event(change, at), values) for at, change in enumerate(changes, 57)]
    return changes_in(parse_message(JSON.envelope("events", b"e.9", "events", parts)), below)


@given(st.binary(max_size=20), st.text(st.characters(codec="utf-8"), min_size=1, max_size=9), st.sampled_from([0, T]))
def test_puts_as_the_server_encodes_them(value: bytes, key: str, expires: int) -> None:
    change = PutEvent(key.encode(), value, "t/t", expires)
    expected = Put(key, value, len(value), 57, MOMENT, "t/t", MOMENT if expires else None, "live")
    assert read_events(change) == (expected,)
    (without,) = read_events(change, values=False)
    assert (without.value, without.size) == (None, len(value))


def test_touches_and_deletes_as_the_server_encodes_them() -> None:
    found = read_events(TouchEvent(b"a/b", T), TouchEvent(b"a/b", 0), DeleteEvent(b"a/b", "evict"), below="a/")
    assert found == (Touch("b", 57, MOMENT, MOMENT), Touch("b", 58, MOMENT, None), Delete("b", 59, MOMENT, "evict"))


@pytest.mark.parametrize("first", [True, False])
def test_pages_of_snapshots(first: bool) -> None:
    items = [JSON.item(SnapshotItem(b"a/k", 5, T, 0, "t/t", b"\xff", 1), True)]
    found = changes_in(parse_message(JSON.envelope("snapshot", b"e.9", "items", items, first)), "a/")
    put = Put("k", b"\xff", 1, 5, MOMENT, "t/t", None, "snapshot")
    assert found == ((Reset("start", True), put) if first else (put,))


def test_other_messages() -> None:
    assert changes_in({"type": "snapshot_end", "cursor": "e.9"}) == (Synced("e.9"),)
    gap = {"type": "gap", "cursor": "e.9", "reason": "epoch", "oldest": "e.1", "snapshot": True}
    assert changes_in(gap) == (Reset("epoch", True),)
    for kind in ("bookmark", "closing", "a later kind"):
        assert changes_in({"type": kind, "cursor": "e.9"}) == ()
    assert changes_in({"type": "events", "events": [{"op": "a later kind"}]}) == ()


def test_activity() -> None:
    moment = datetime(2026, 11, 22, 11, 40, 0, 123000, UTC)
    for fields, subject in (
        ({"op": "read", "key": "a/k"}, "k"),
        ({"op": "list_prefix", "prefix": "a/"}, ""),
        ({"op": "heartbeat", "peer": "a/1"}, "a/1"),
        ({"op": "list"}, ""),
    ):
        found = changes_in({"type": "activity", "cursor": "e.9", "time": TIME, **fields}, "a/")
        assert found == (Activity(fields["op"], subject, moment),)


def test_errors() -> None:
    message = {"type": "error", "status": 403, "code": "forbidden", "detail": "d", "hint": "h"}
    error = error_in(message)
    assert isinstance(error, Forbidden) and (error.detail, error.hint) == ("d", "h")
    assert isinstance(error_in({"type": "error", "status": 503, "code": "new"}), Unavailable)


@pytest.mark.parametrize("text", ["", "x", "[]", "{}", '{"type":1}', '"' * 3, "[" * 100_000])
def test_lines_that_are_no_messages(text: str) -> None:
    with pytest.raises(ForeignAnswer):
        parse_message(text.encode())


PUT = {"op": "put", "key": "k", "revision": 1, "time": TIME, "content_type": "t/t", "expires": None, "value": "v"}


@pytest.mark.parametrize(
    "event",
    [
        1,
        {},
        PUT | {"key": 1},
        PUT | {"revision": "1"},
        PUT | {"revision": True},
        PUT | {"time": "now"},
        PUT | {"expires": "2026-13-22T11:40:00.123Z"},
        PUT | {"value": None},
        PUT | {"value": None, "value_base64": "!"},
        PUT | {"value": None, "value_base64": 1},
        {**PUT, "op": "delete"},
    ],
)
def test_events_that_no_server_sends(event: Any) -> None:
    with pytest.raises(ForeignAnswer):
        changes_in({"type": "events", "cursor": "e.1", "events": [event]})


def test_a_put_is_read_like_an_entry() -> None:
    (put,) = changes_in({"type": "events", "events": [PUT | {"value": json.dumps({"n": 1})}]})
    assert isinstance(put, Put)
    assert (put.text, put.json(), put.entry.json(), put.entry.revision) == ('{"n": 1}', {"n": 1}, {"n": 1}, 1)
    (without,) = changes_in({"type": "events", "events": [PUT | {"value": None, "size": 3}]})
    with pytest.raises(ValueError, match="values=False"):
        without.text  # type: ignore[union-attr]  # noqa: B018
