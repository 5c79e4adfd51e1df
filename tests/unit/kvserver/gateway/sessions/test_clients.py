"""Clients of `/v1/feed` by what carries them, without a connection."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest

from kvserver.access.grants import EVERYTHING, Grants
from kvserver.api.feed_query import FeedQuery
from kvserver.gateway.sessions import clients
from kvserver.gateway.sessions.clients import EndedStream, FeedRefusal, StreamFeed, WebSocketFeed
from kvserver.gateway.transport.send_budget import BudgetCharge, SendBudget
from shards.wire.errors import BadCursor, Forbidden
from tests.unit.kvserver.gateway.sessions.followers import Clock, FakeFollower, FakeStream, FakeWebSocket

FROM_THE_START = FeedQuery(since=b"e.0")


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(clients, "time", clock)
    return clock


def new_stream(follower: Any, query: FeedQuery = FROM_THE_START, budget: SendBudget | None = None) -> StreamFeed:
    return StreamFeed(follower, budget or SendBudget(), query, EVERYTHING, b"head", sse=False)


def test_what_is_due_is_written_at_once() -> None:
    follower: Any = FakeFollower()
    feed = new_stream(follower)
    stream: Any = FakeStream()
    feed.carry(stream)
    bodies = [json.loads(line) for line in stream.source().splitlines()]
    assert [each["revision"] for body in bodies for each in body["events"]] == [1, 2, 3]
    assert stream.source() is None and follower.counts["deliveries"] == 3
    assert json.loads(stream.farewell("stop"))["cursor"] == "e.3"
    feed.wake()
    assert stream.calls == [("wake",)]
    feed.end()
    feed.wake()
    assert stream.calls == [("wake",)] and not follower.observers


def test_a_silent_client_gets_a_bookmark(clock: Clock) -> None:
    follower: Any = FakeFollower()
    feed = new_stream(follower)
    assert feed.next_bytes() is not None
    clock.now += clients.BOOKMARK_AFTER_S
    feed.each_second()
    assert feed.next_bytes() is None
    clock.now += 0.1
    feed.each_second()
    bookmark = json.loads(feed.next_bytes() or b"")
    assert (bookmark["type"], bookmark["cursor"]) == ("bookmark", "e.3")
    assert feed.next_bytes() is None


def test_nothing_is_made_while_the_budget_is_full() -> None:
    follower: Any = FakeFollower()
    budget = SendBudget(100)
    feed = new_stream(follower, budget=budget)
    stream: Any = FakeStream()
    feed.carry(stream)
    others = BudgetCharge(budget)
    others.set_bytes(100)
    assert feed.next_bytes() is None
    feed.each_second()
    assert stream.calls == [("wake",)], "it looks again every second"
    others.set_bytes(0)
    assert feed.next_bytes() is not None


def test_grants_that_show_the_same_leave_the_connection_alone() -> None:
    follower: Any = FakeFollower()
    feed = new_stream(follower)
    stream: Any = FakeStream()
    feed.carry(stream)
    feed.recheck_grants(EVERYTHING)
    assert not stream.calls
    for changed in (None, Grants.of("none", "3", [("read", b"")]), Grants.of("a", "4", [("feed", b"a")])):
        feed.recheck_grants(changed)
        assert stream.calls.pop() == ("close_with_farewell", 3000, "", "revoked")


def test_a_client_that_can_see_nothing_is_not_followed() -> None:
    follower: Any = FakeFollower()
    with pytest.raises(Forbidden):
        StreamFeed(follower, SendBudget(), FeedQuery(), Grants.of("r", "1", [("read", b"")]), b"", sse=False)
    assert not follower.observers


@pytest.mark.parametrize("protocol", ["", "kv.json", "kv.msgpack"])
def test_a_websocket_has_the_encoding_of_its_protocol(protocol: str) -> None:
    follower: Any = FakeFollower(1)
    feed = WebSocketFeed(follower, SendBudget(), FROM_THE_START, EVERYTHING, protocol)
    websocket: Any = FakeWebSocket()
    feed.run(websocket)
    assert websocket.calls == [("ping",), ("wake",), ("receive",)]
    frame = websocket.source().data
    decode: Any = msgspec.msgpack.decode if protocol == "kv.msgpack" else json.loads
    assert frame[0] == (0x82 if protocol == "kv.msgpack" else 0x81)
    assert decode(frame[4:] if frame[1] == 126 else frame[2:])["type"] == "events"
    assert websocket.source() is None
    websocket.on_answer()
    assert follower.reported == [("heartbeat", b"10.0.0.1:5")]
    feed.recheck_grants(None)
    assert websocket.calls[-1] == ("close_with_farewell", 3000, "revoked", "revoked")


def test_a_failure_closes_the_websocket(monkeypatch: pytest.MonkeyPatch) -> None:
    follower: Any = FakeFollower()
    feed = WebSocketFeed(follower, SendBudget(), FROM_THE_START, EVERYTHING, "")
    websocket: Any = FakeWebSocket()
    feed.run(websocket)
    monkeypatch.setattr(feed.state, "next_message", lambda: 1 // 0)
    assert websocket.source() is None and websocket.calls[-1] == ("close", 1011, "")


def test_a_refusal_is_sent_in_the_stream() -> None:
    websocket: Any = FakeWebSocket()
    FeedRefusal(BadCursor("no cursor"), "").run(websocket)
    (_, body, binary), closed, _ = websocket.calls
    assert not binary and closed == ("close", 3003, "bad_cursor")
    assert {"type": "error", "status": 400, "detail": "no cursor"}.items() <= json.loads(body).items()


def test_sse_has_ids_with_a_token_that_is_renewed(clock: Clock) -> None:
    follower: Any = FakeFollower()
    tokens = iter([b"one", b"two"])
    feed = StreamFeed(follower, SendBudget(), FROM_THE_START, EVERYTHING, b"head\n", True, lambda: next(tokens))
    assert feed.head == b"head\nretry: 2000\n"
    assert (feed.next_bytes() or b"").startswith(b"id: e.1~one\n")
    assert b"~one\n" in feed.farewell("stop")
    clock.now += clients.RENEW_S
    assert b"~two\n" in feed.farewell("stop")


def test_a_stream_that_ends_at_once() -> None:
    stream: Any = FakeStream()
    ended = EndedStream(b"head\n")
    ended.carry(stream)
    assert stream.calls == [("end",)] and ended.head == b"head\nretry: 2000\n"
