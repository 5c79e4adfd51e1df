"""Admission to `/v1/feed`: which request gets which session, and what is checked first."""

from __future__ import annotations

from typing import Any

import pytest

from kvserver.gateway.sessions.access import FeedAccess
from kvserver.gateway.sessions.admission import Admission
from kvserver.gateway.sessions.clients import FeedRefusal, StreamFeed, WebSocketFeed
from kvserver.gateway.sessions.polls import PollFeed
from kvserver.gateway.transport.send_budget import SendBudget
from kvserver.http.origins import Origins
from shards.wire.errors import BadCursor, BadRequest, BadTicket, Forbidden, Unauthorized
from tests.unit.kvserver.gateway.sessions.followers import FakeFollower
from tests.unit.kvserver.gateway.sessions.heads import EVENTS, HANDSHAKE, head_of
from tests.unit.kvserver.gateway.sessions.test_access import FakeTickets, FakeTokens

TOKEN = b"Authorization: Bearer all\r\n"
ORIGIN = b"Origin: https://a.example\r\n"


class Gate:
    """An admission, and what it asks."""

    def __init__(self, required: bool = True) -> None:
        self.tickets: Any = FakeTickets()
        tokens: Any = FakeTokens(required)
        self.follower: Any = FakeFollower()
        self._admission = Admission(self.follower, FeedAccess(tokens, self.tickets), Origins("*"))

    def admit(self, target: bytes = b"/v1/feed", headers: bytes = b"") -> Any:
        session = self._admission.admit(head_of(target, headers), SendBudget())
        session.end()
        return session


@pytest.mark.parametrize(
    ("headers", "kind"),
    [
        (HANDSHAKE, WebSocketFeed),
        (EVENTS, StreamFeed),
        (b"Accept: application/x-ndjson\r\n", StreamFeed),
        (b"", PollFeed),
    ],
)
def test_each_carrier_has_its_session(headers: bytes, kind: type) -> None:
    gate = Gate()
    session = gate.admit(headers=headers + TOKEN)
    assert type(session) is kind and not gate.follower.observers
    with pytest.raises(Unauthorized):
        gate.admit(headers=headers)


def test_heads_of_streams() -> None:
    gate = Gate(required=False)
    events, lines = gate.admit(headers=EVENTS).head, gate.admit(headers=b"Accept: application/x-ndjson\r\n").head
    assert b"content-type: text/event-stream\r\n" in events and events.endswith(b"\r\n\r\nretry: 2000\n")
    assert b"content-type: application/x-ndjson\r\n" in lines and lines.endswith(b"\r\n\r\n")


def test_a_page_gets_its_error_in_the_websocket() -> None:
    gate = Gate()
    assert type(gate.admit(headers=HANDSHAKE + ORIGIN)) is FeedRefusal
    assert type(gate.admit(b"/v1/feed?since=no", HANDSHAKE + ORIGIN)) is FeedRefusal
    with pytest.raises(BadRequest):  # which no page sends by itself
        gate.admit(b"/v1/feed?wait=no", HANDSHAKE + ORIGIN)
    with pytest.raises(Unauthorized):
        gate.admit(headers=HANDSHAKE)
    with pytest.raises(BadCursor):
        gate.admit(b"/v1/feed?since=no", HANDSHAKE + TOKEN)
    with pytest.raises(Forbidden):
        gate.admit(headers=HANDSHAKE + b"Authorization: Bearer reader\r\n")


def test_a_ticket_is_not_used_up_by_a_request_that_is_refused() -> None:
    gate = Gate()
    for target, headers in ((b"/v1/feed?ticket=t&since=no", EVENTS), (b"/v1/feed?ticket=t&wait=no", HANDSHAKE)):
        with pytest.raises(BadRequest):
            gate.admit(target, headers)
    assert type(gate.admit(b"/v1/feed?ticket=t&since=no", HANDSHAKE)) is FeedRefusal
    assert not gate.tickets.asked
    gate.admit(b"/v1/feed?ticket=t", EVENTS)
    gate.admit(b"/v1/feed?ticket=t", HANDSHAKE)
    assert gate.tickets.asked == [("redeem", b"t", "sse"), ("redeem", b"t", "websocket")]


def test_tickets_are_for_pages_alone() -> None:
    with pytest.raises(BadTicket):
        Gate().admit(b"/v1/feed?ticket=t")
    assert type(Gate(required=False).admit(b"/v1/feed?ticket=t")) is PollFeed


def test_a_stream_is_resumed_with_its_token() -> None:
    gate = Gate()
    session = gate.admit(b"/v1/feed?ticket=t", EVENTS + b"Last-Event-ID: e.1~good\r\n")
    assert gate.tickets.asked == [("resume", b"t", b"good")]
    assert b"\nid: e.1~token of t\n" in b"\n" + session.farewell("stop")
