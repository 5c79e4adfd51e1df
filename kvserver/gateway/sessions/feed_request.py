"""What a request for a feed asks for, read from its head once. Pure."""

from __future__ import annotations

from typing import Final, Literal, NamedTuple
from urllib.parse import unquote_to_bytes

from kvserver.api import feed_query
from kvserver.api.feed_query import FeedQuery
from kvserver.gateway.feed import cursors
from kvserver.gateway.transport.head import Head, check_upgrade
from kvserver.http import handshake
from kvserver.http.responses import WrongMethod
from shards.wire.errors import BadCursor, BadRequest

Carrier = Literal["websocket", "sse", "ndjson", "poll"]
"""What carries a feed: a WebSocket, server-sent events, lines of JSON, or the answer to one poll."""

PROTOCOLS: Final = ("kv.json", "kv.msgpack")
"""The WebSocket subprotocols of `/v1/feed`; without one, messages are as with the first."""
NDJSON: Final = b"application/x-ndjson"


class Credentials(NamedTuple):
    """Who sends a request, as far as it says.

    Attributes:
        authorization: the values of the header.
        ticket: the one in the query, None if it has none.
        is_page: whether a page seems to send it: it has a ticket or an Origin, and no Authorization. A page cannot see
            the status of a failed handshake, so it is accepted first, and gets the error in the stream.
    """

    authorization: list[bytes]
    ticket: bytes | None
    is_page: bool


class FeedRequest(NamedTuple):
    """A request for `/v1/feed`.

    Attributes:
        protocol: the WebSocket subprotocol, empty if none was offered.
        query: its `since` is the Last-Event-ID, if there is one.
        has_bad_cursor: whether `since` came in the query and is no cursor. A Last-Event-ID that is no cursor is left to
            the stream: EventSource sends it on its own, and would never return after a refusal.
        resume_token: the one after the Last-Event-ID of an SSE stream that a ticket opened, else empty.
    """

    carrier: Carrier
    credentials: Credentials
    query: FeedQuery
    protocol: str = ""
    has_bad_cursor: bool = False
    resume_token: bytes = b""

    def check_cursor(self) -> None:
        """Raise `BadCursor` if the query's `since` is no cursor."""
        if self.has_bad_cursor:
            raise BadCursor("query parameter 'since': it is not a cursor")


def read_credentials(head: Head) -> Credentials:
    """Read the credentials in `head`."""
    authorization, ticket = head.values(b"authorization"), _ticket_in(head.query)
    return Credentials(authorization, ticket, not authorization and (ticket is not None or bool(head.first(b"origin"))))


def read_feed_request(head: Head) -> FeedRequest:
    """Read what a request for `/v1/feed` asks for.

    Raises `WrongMethod`, `OtherVersion`, `BadRequest`; not `BadCursor`, which a page gets in its stream.
    """
    if head.method != "GET":
        raise WrongMethod("GET" if head.method == "HEAD" else "GET,HEAD")
    carrier = _carrier_of(head)
    protocol = ""
    if carrier == "websocket":
        check_upgrade(head)
        protocol = _choose_protocol(head)
    query = feed_query.parse_feed_query(head.query)
    last_event_id, _, resume_token = head.first(b"last-event-id").partition(b"~")
    has_bad_cursor = not last_event_id and query.since is not None and cursors.parse(query.since) is None
    if last_event_id:
        query = query._replace(since=last_event_id)
    return FeedRequest(carrier, read_credentials(head), query, protocol, has_bad_cursor, resume_token)


def _carrier_of(head: Head) -> Carrier:
    if handshake.is_upgrade(head.headers):
        return "websocket"
    if handshake.is_event_stream(head.headers):
        return "sse"
    return "ndjson" if NDJSON in head.first(b"accept").lower() else "poll"


def _choose_protocol(head: Head) -> str:
    """Return the first known subprotocol, empty if none was offered. Raises `BadRequest` if only others were."""
    offered = [
        name.strip().decode("latin-1")
        for value in head.values(b"sec-websocket-protocol")
        for name in value.split(b",")
        if name.strip()
    ]
    known = next((name for name in offered if name in PROTOCOLS), "")
    if offered and not known:
        raise BadRequest(f"Sec-WebSocket-Protocol: supported are {', '.join(PROTOCOLS)}")
    return known


def _ticket_in(query: bytes) -> bytes | None:
    """Return the ticket in a query string, None if it has none. Works for `/wal`, too, whose query is not parsed."""
    for part in query.split(b"&"):
        name, _, value = part.partition(b"=")
        if name == b"ticket":
            return unquote_to_bytes(value)
    return None
