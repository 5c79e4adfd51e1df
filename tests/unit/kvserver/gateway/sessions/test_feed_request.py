"""What a request for a feed asks for."""

from __future__ import annotations

import pytest

from kvserver.gateway.sessions.feed_request import Carrier, read_credentials, read_feed_request
from shards.wire.errors import BadCursor, BadRequest, KVError
from tests.unit.kvserver.gateway.sessions.heads import EVENTS, HANDSHAKE, head_of


@pytest.mark.parametrize(
    ("headers", "carrier"),
    [
        (HANDSHAKE, "websocket"),
        (HANDSHAKE + EVENTS, "websocket"),
        (EVENTS, "sse"),
        (b"Accept: application/x-ndjson\r\n", "ndjson"),
        (b"Accept: Application/X-NDJSON, */*\r\n", "ndjson"),
        (b"Accept: application/json\r\n", "poll"),
        (b"", "poll"),
    ],
)
def test_what_carries_it(headers: bytes, carrier: Carrier) -> None:
    assert read_feed_request(head_of(headers=headers)).carrier == carrier


@pytest.mark.parametrize("method", [b"HEAD", b"OPTIONS"])
def test_only_get_opens_a_feed(method: bytes) -> None:
    with pytest.raises(KVError) as refused:
        read_feed_request(head_of(method=method))
    assert refused.value.status == 405


def test_the_first_known_subprotocol_is_chosen() -> None:
    def protocol_of(*offered: bytes) -> str:
        lines = b"".join(b"Sec-WebSocket-Protocol: " + line + b"\r\n" for line in offered)
        return read_feed_request(head_of(headers=HANDSHAKE + lines)).protocol

    assert protocol_of() == protocol_of(b" , ") == ""
    assert protocol_of(b"other, kv.msgpack", b"kv.json") == "kv.msgpack"
    with pytest.raises(BadRequest, match=r"kv\.json, kv\.msgpack"):
        protocol_of(b"other")


def test_last_event_id_goes_before_since() -> None:
    request = read_feed_request(head_of(b"/v1/feed?since=ab.1", EVENTS + b"Last-Event-ID: ab.2~token\r\n"))
    assert (request.query.since, request.resume_token) == (b"ab.2", b"token")
    request = read_feed_request(head_of(b"/v1/feed?since=ab.1", EVENTS + b"Last-Event-ID: ~token\r\n"))
    assert (request.query.since, request.resume_token) == (b"ab.1", b"token")


def test_a_since_that_is_no_cursor_is_refused_later() -> None:
    """Since a page's WebSocket gets that in the stream. A Last-Event-ID is never refused."""
    request = read_feed_request(head_of(b"/v1/feed?since=x", HANDSHAKE))
    with pytest.raises(BadCursor):
        request.check_cursor()
    read_feed_request(head_of(b"/v1/feed?since=ab.1", HANDSHAKE)).check_cursor()
    request = read_feed_request(head_of(b"/v1/feed?since=x", EVENTS + b"Last-Event-ID: y\r\n"))
    request.check_cursor()
    assert request.query.since == b"y"


@pytest.mark.parametrize("headers", [HANDSHAKE, EVENTS, b""])
def test_what_is_malformed(headers: bytes) -> None:
    with pytest.raises(BadRequest):
        read_feed_request(head_of(b"/v1/feed?wait=x", headers))


@pytest.mark.parametrize(
    ("target", "headers", "ticket", "is_page"),
    [
        (b"/wal", b"", None, False),
        (b"/wal", b"Origin: https://a.example\r\n", None, True),
        (b"/wal", b"Origin: https://a.example\r\nAuthorization: Bearer x\r\n", None, False),
        (b"/wal?ticket=kvt%5Fa", b"", b"kvt_a", True),
        (b"/wal?x&ticket=a&ticket=b", b"Authorization: Bearer x\r\n", b"a", False),
        (b"/wal?tickets=a", b"", None, False),
    ],
)
def test_who_sends_it(target: bytes, headers: bytes, ticket: bytes | None, is_page: bool) -> None:
    credentials = read_credentials(head_of(target, headers))
    assert (credentials.ticket, credentials.is_page) == (ticket, is_page)
    assert bool(credentials.authorization) == (b"Authorization" in headers)
