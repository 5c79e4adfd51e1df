"""Who gets which kind of `/v1/feed`: from a request's head to the session that serves it."""

from __future__ import annotations

import secrets
from collections import Counter
from collections.abc import Callable
from typing import Final

from kvserver.api import feed_query
from kvserver.api.feed_query import FeedQuery
from kvserver.gateway.feed import cursors
from kvserver.gateway.history.source import Source
from kvserver.gateway.sessions.access import Door, is_told_in_stream, ticket_of
from kvserver.gateway.sessions.clients import OnPoll, OnStream, OnWebSocket, Refusal
from kvserver.gateway.transport.handler import Session, Streaming
from kvserver.gateway.transport.head import Head, answered, check_upgrade, refused, streaming
from kvserver.gateway.transport.send_budget import Debts
from kvserver.http import handshake
from kvserver.http.handshake import EVENT_STREAM
from kvserver.http.origins import Origins
from kvserver.http.proxies import group
from kvserver.http.responses import WrongMethod
from shards.wire.errors import BadCursor, BadRequest, BadTicket, Forbidden, Overloaded, Unauthorized

LINES: Final = b"application/x-ndjson"
JSON_TYPE: Final = b"application/json"


class Places:
    """How many clients there may be, in all and from one address.

    The last eighth is for addresses that have less than a sixteenth of all: so one alone keeps nobody out.
    """

    def __init__(self, most: int, most_of_one: int) -> None:
        """`most_of_one`: 0: as many as there may be in all."""
        self._most, self._most_of_one = most, most_of_one or most
        self._taken: Counter[str] = Counter()
        self._count = 0

    def take(self, peer: str) -> Callable[[], None]:
        """A place for a client at `peer` (`ip:port`); call the result to give it back. Raises `Overloaded`."""
        address = group(peer.rpartition(":")[0].strip("[]") or peer)
        if self._count >= self._most:
            raise Overloaded(f"this gateway has its {self._most} clients")
        if self._taken[address] >= self._most_of_one:
            raise Overloaded(f"{self._most_of_one} feeds are open from this address")
        if self._count >= self._most - self._most // 8 and self._taken[address] >= max(1, self._most // 16):
            raise Overloaded(
                f"{self._count} feeds are open, {self._taken[address]} of them from this address: the last eighth of "
                f"the {self._most} places is for those who have few"
            )
        self._count += 1
        self._taken[address] += 1

        def give_back() -> None:
            self._count -= 1
            self._taken[address] -= 1
            if not self._taken[address]:
                del self._taken[address]

        return give_back


class Admission:
    """Lets clients of `/v1/feed` in."""

    def __init__(self, source: Source, door: Door, origins: Origins) -> None:
        self._source, self._door, self._origins = source, door, origins

    def admit(self, head: Head, debts: Debts) -> Session | Streaming:
        """A session, what whose client has not taken is part of `debts`. Raises `KVError`, which then is the answer."""
        if head.method != "GET":
            raise WrongMethod("GET" if head.method == "HEAD" else "GET,HEAD")
        if handshake.is_upgrade(head.headers):
            return self._websocket(head, debts)
        wish, word = _wish(head)
        if handshake.is_event_stream(head.headers):
            return self._events(head, debts, wish, word)
        if ticket_of(head) is not None and self._door.tokens.required:
            raise BadTicket("tickets are for WebSocket and SSE")
        grants = self._door.enter(head, "sse")
        if LINES in head.first(b"accept").lower():
            return OnStream(self._source, debts, wish, grants, streaming(head, self._origins, LINES), sse=False)
        brief, origins = head.brief(), self._origins
        return OnPoll(
            self._source,
            debts,
            wish,
            grants,
            lambda body: answered(brief, origins, JSON_TYPE, body),
            lambda error: refused(error, brief, origins, secrets.token_hex(8).encode()),
        )

    def _websocket(self, head: Head, debts: Debts) -> Session:
        check_upgrade(head)
        protocol = _protocol(head)
        try:
            wish, _ = _wish(head)
            return OnWebSocket(self._source, debts, wish, self._door.enter(head, "websocket"), protocol)
        except (Unauthorized, Forbidden, BadCursor) as error:
            if is_told_in_stream(head):
                return Refusal(error, protocol)
            raise

    def _events(self, head: Head, debts: Debts, wish: FeedQuery, word: bytes) -> Streaming:
        grants, new_word = self._door.enter_again(head, word)
        return OnStream(self._source, debts, wish, grants, streaming(head, self._origins, EVENT_STREAM), True, new_word)


def _wish(head: Head) -> tuple[FeedQuery, bytes]:
    """What the client wants, and the word of its stream if it comes back with one. Raises `BadRequest`.

    A `since` that is no cursor is refused. A Last-Event-ID that is none is for the stream to tell: EventSource sends it
    by itself, and would never come again after a refusal.
    """
    wish = feed_query.parse_feed_query(head.query)
    last_event_id, _, word = head.first(b"last-event-id").partition(b"~")
    if last_event_id:
        return wish._replace(since=last_event_id), word
    if wish.since is not None and cursors.parse(wish.since) is None:
        raise BadCursor("query parameter 'since': it is no cursor")
    return wish, word


def _protocol(head: Head) -> str:
    """The subprotocol, empty if none was offered. Raises `BadRequest` if none that was is known."""
    offered = [
        name.strip().decode("latin-1")
        for value in head.values(b"sec-websocket-protocol")
        for name in value.split(b",")
        if name.strip()
    ]
    known = next((name for name in offered if name in OnWebSocket.PROTOCOLS), "")
    if offered and not known:
        raise BadRequest(f"Sec-WebSocket-Protocol: known are {', '.join(OnWebSocket.PROTOCOLS)}")
    return known
