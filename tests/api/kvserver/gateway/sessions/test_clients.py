"""What is done for a client ends when the client has gone."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

import gevent
import pytest
from gevent import socket as gsocket

from kvserver.access.grants import EVERYTHING
from kvserver.api.feed_query import FeedQuery
from kvserver.gateway.feed.events import ActivityLine, Block, block_of
from kvserver.gateway.feed.selection import Selection
from kvserver.gateway.feed.snapshots import Page
from kvserver.gateway.history.catch_up import CatchUpTurns
from kvserver.gateway.sessions import clients
from kvserver.gateway.sessions.clients import StreamFeed, WebSocketFeed
from kvserver.gateway.sessions.polls import PollFeed
from kvserver.gateway.transport.limits import ConnectionLimits
from kvserver.gateway.transport.scheduling import breathe
from kvserver.gateway.transport.send_budget import SendBudget
from kvserver.gateway.transport.stream import Stream
from kvserver.gateway.transport.websocket import WebSocket
from shards.log.records import DATA, Record
from shards.wire.protocol import PutEvent, encode_events

MOST_LOOKS = 20_000
"""After the client has gone: far more than it takes to notice."""
PAYLOAD = encode_events([PutEvent(b"a/k", b"v", "", 0)])
QUERY = FeedQuery((b"a/none",), since=b"e.0")


class EndlessHistory:
    """One of which no client ever comes to the end, and that has nothing of what is wanted."""

    epoch = "e"

    def __init__(self) -> None:
        self.looks = self.looks_when_gone = 0
        self.has_gone = False

    def shown(self) -> int:
        """Far away."""
        return 1 << 40

    watermark = end = shown

    def oldest(self) -> int:
        """All is kept."""
        return 1

    def now_ms(self) -> int:
        """Never mind."""
        return 0

    def was_given_out(self, revision: int) -> bool:
        """All was."""
        return True

    def is_near(self, revision: int) -> bool:
        """No client is."""
        return False

    def pass_over(self, revision: int, selection: Selection, ops: frozenset[str] | None) -> int:
        """Nothing is known of what is in it."""
        return revision

    def block_after(self, revision: int) -> Block:
        """A block with one event, decoded again each time."""
        breathe()
        self.looks += 1
        self.looks_when_gone += self.has_gone
        assert self.looks_when_gone < MOST_LOOKS, "the walk goes on without the client"
        record = Record(DATA, 0, 1, revision, revision + 1, 0, revision + 1, 1, PAYLOAD)
        return block_of([record], revision, revision + 1)

    def map_page(self, selection: Selection, after: bytes, values: bool) -> Page:
        """Nobody wants one."""
        raise NotImplementedError

    def activity_from(self, number: int) -> tuple[int, ActivityLine | None]:
        """No activity."""
        return 0, None


class FakeFollower:
    """What sessions know of `LogFollower`."""

    largest_answer = 1 << 20

    def __init__(self) -> None:
        self.history = EndlessHistory()
        self.counts: Counter[str] = Counter()
        self.turns = CatchUpTurns()
        self.observers: set[Any] = set()

    def add_observer(self, observer: Any) -> None:
        """A client comes."""
        self.observers.add(observer)

    def remove_observer(self, observer: Any) -> None:
        """A client goes."""
        self.observers.discard(observer)


def serve_stream(follower: Any, connection: gsocket.socket) -> None:
    """SSE, to its end."""
    session = StreamFeed(follower, SendBudget(), QUERY, EVERYTHING, b"", sse=True)
    _carry(session, connection)


def serve_poll(follower: Any, connection: gsocket.socket) -> None:
    """A poll, to its end."""
    session = PollFeed(follower, SendBudget(), QUERY, EVERYTHING, lambda body: body, lambda error: b"")
    _carry(session, connection)


def _carry(session: StreamFeed | PollFeed, connection: gsocket.socket) -> None:
    stream = Stream(connection, "peer:1", ConnectionLimits())
    session.carry(stream)
    stream.run(session.head)
    session.end()


def serve_websocket(follower: Any, connection: gsocket.socket) -> None:
    """A WebSocket, to its end."""
    session = WebSocketFeed(follower, SendBudget(), QUERY, EVERYTHING, "")
    websocket = WebSocket(connection, "peer:1", b"", ConnectionLimits())
    session.run(websocket)
    websocket.close_and_wait()
    session.end()


@pytest.mark.parametrize("serve", [serve_stream, serve_poll, serve_websocket])
def test_a_walk_ends_when_its_client_has_gone(serve: Callable[[Any, gsocket.socket], None]) -> None:
    follower = FakeFollower()
    here, there = gsocket.socketpair()
    serving = gevent.spawn(serve, follower, here)
    while follower.history.looks < 100:  # it is under way
        assert not serving.dead
        gevent.sleep(0.001)
    follower.history.has_gone = True
    there.close()
    serving.get(timeout=60)
    here.close()
    assert not follower.observers
    assert follower.history.looks_when_gone < MOST_LOOKS  # a WebSocket's session catches what the history raises


def test_a_long_walk_is_no_silence(monkeypatch: pytest.MonkeyPatch) -> None:
    """A bookmark comes in the middle of it, with a cursor that has moved on."""
    monkeypatch.setattr(clients, "BOOKMARK_AFTER_S", -1.0)
    follower = FakeFollower()
    here, there = gsocket.socketpair()
    session = StreamFeed(follower, SendBudget(), QUERY, EVERYTHING, b"", sse=True)  # type: ignore[arg-type]
    stream = Stream(here, "peer:1", ConnectionLimits())
    session.carry(stream)
    serving = gevent.spawn(stream.run, b"")
    told = b""
    there.settimeout(60)
    for bookmarks in (1, 2):
        looks = follower.history.looks
        while follower.history.looks < looks + 100:
            assert not serving.dead
            gevent.sleep(0.001)
        follower.history.has_gone, follower.history.looks_when_gone = True, 0  # what follows takes few looks
        session.each_second()
        while told.count(b'"type":"bookmark"') < bookmarks:
            told += there.recv(1 << 16)
        follower.history.has_gone = False
    first, second = (int(part.split(b"\n")[0]) for part in told.split(b"id: e.")[1:3])
    assert 0 < first < second
    there.close()
    serving.get(timeout=60)
    here.close()


def test_an_end_that_the_server_makes_ends_the_walk() -> None:
    """And the client gets the farewell."""
    follower = FakeFollower()
    here, there = gsocket.socketpair()
    session = StreamFeed(follower, SendBudget(), QUERY, EVERYTHING, b"", sse=True)  # type: ignore[arg-type]
    stream = Stream(here, "peer:1", ConnectionLimits())
    session.carry(stream)
    serving = gevent.spawn(stream.run, b"")
    while follower.history.looks < 100:
        assert not serving.dead
        gevent.sleep(0.001)
    follower.history.has_gone = True  # for it nothing more is looked at
    stream.close_with_farewell(1012, "", "stop")
    told = b""
    while b'"type":"closing"' not in told:
        told += there.recv(1 << 16)
    there.close()
    serving.get(timeout=60)
    here.close()
