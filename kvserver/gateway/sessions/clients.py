"""Clients of `/v1/feed` on a connection that lasts: a WebSocket, SSE, or lines of JSON. `polls` has the others."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import Final

from websockets.frames import Opcode

from kvserver.access.grants import Grants
from kvserver.access.tickets import RENEW_S
from kvserver.api.feed_query import FeedQuery
from kvserver.gateway.feed import encodings
from kvserver.gateway.feed.encodings import JSON, MESSAGE_PACK, Encoding
from kvserver.gateway.feed.events import Framer, Message
from kvserver.gateway.feed.filters import filter_of
from kvserver.gateway.feed.follow import FeedState
from kvserver.gateway.feed.walk import ClientGone, Interrupted
from kvserver.gateway.history.source import LogFollower
from kvserver.gateway.sessions.access import InStreamError, close_code
from kvserver.gateway.sessions.feed_request import PROTOCOLS
from kvserver.gateway.transport.frames import Ending, Piece, frame
from kvserver.gateway.transport.send_budget import BudgetCharge, SendBudget
from kvserver.gateway.transport.stream import Stream
from kvserver.gateway.transport.websocket import WebSocket
from kvserver.http.handshake import RETRY
from shards.host.logs import Recurring
from shards.wire.errors import Forbidden

log = logging.getLogger(__name__)
_failed = Recurring(log, logging.ERROR, "feeding %s")

BOOKMARK_AFTER_S: Final = 9.0
"""Seconds without a message after which a client gets a bookmark, when it is next checked: within 10 s."""
TURN_BYTES: Final = 64 << 10
"""Messages that wait are written together, up to about so many bytes."""
REVOKED: Final = 3000
"""Close code where the token was revoked, or grants less."""


class FeedSession:
    """A client that follows the history: it says what to write next, and subclasses carry that.

    Attributes:
        grants: as its token had them when it came.
        listens: whether it wants activity.
        state: where it is in the history.
    """

    def __init__(
        self,
        follower: LogFollower,
        budget: SendBudget,
        query: FeedQuery,
        grants: Grants,
        encoding: Encoding,
        framer: Framer,
    ) -> None:
        """Follow `follower`, from where `query` says. Raises `Forbidden` if the client can never see anything.

        Args:
            budget: charged with what is kept for the client.
            framer: makes what is written of a message.
        """
        self.grants, self._budget = grants, budget
        self._follower, self._query, self._framer = follower, query, framer
        self._wake: Callable[[], None] = lambda: None
        self._bookmark_is_due = self._is_revoked = self._waits_for_budget = False
        self._spoke_at = time.monotonic()
        shown = filter_of(query, grants)
        self.listens = query.activity
        self._turn = follower.turns.of(budget)
        follower.add_observer(self)  # before its place is looked up: from now on everything is shown to it
        try:
            self.state = FeedState(follower.history, shown, encoding, query, BudgetCharge(budget), self._turn.wait)
        except BaseException:
            follower.remove_observer(self)
            raise
        follower.counts["gaps"] += self.state.gaps

    def end(self) -> None:
        """Stop following, and release what is kept for the client."""
        self._follower.remove_observer(self)
        self._turn.end()
        self._wake = lambda: None
        self.state.discard()

    def recheck_grants(self, grants: Grants | None) -> None:
        """Close the connection if its token was revoked (None), or shows something else than before."""
        if grants is not None and self._sees_the_same(grants):
            self.grants = grants
        else:
            self._is_revoked = True
            self.close_revoked()

    def _sees_the_same(self, grants: Grants) -> bool:
        try:
            return filter_of(self._query, grants) == self.state.filter
        except Forbidden:
            return False

    def close_revoked(self) -> None:
        """Close the connection, if there is one yet."""
        raise NotImplementedError

    def wake(self) -> None:
        """Have the carrier ask for more. Does not block."""
        self._wake()

    def each_second(self) -> None:
        """Wake up a client that is due a bookmark, waits for a page, or for others to take what was made for them."""
        self._bookmark_is_due = time.monotonic() - self._spoke_at > BOOKMARK_AFTER_S
        self._turn.is_due |= self._bookmark_is_due
        if self._bookmark_is_due or self._waits_for_budget or self.state.in_snapshot:
            self._wake()

    def next_bytes(self) -> bytes | None:
        """Return what to write next; None: nothing now. May switch. Raises `LogError`."""
        parts: list[bytes] = []
        size = 0
        self._waits_for_budget = self._budget.is_full
        self._turn.is_due = self._bookmark_is_due
        while size < TURN_BYTES and not self._waits_for_budget:
            if self.state.has_everything and not self._bookmark_is_due:
                break
            try:
                message = self._next_message()
            except ClientGone:
                break
            if message is None:
                break
            part = message.framed(self._framer)
            parts.append(part)
            size += len(part)
            self._turn.is_due = True
        if not parts:
            return None
        self._spoke_at = time.monotonic()
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def _next_message(self) -> Message | None:
        gaps = self.state.gaps
        try:
            message = self.state.next_message()
        except Interrupted:
            message = None
        self._follower.counts["gaps"] += self.state.gaps - gaps
        if message is not None:
            self._follower.counts["deliveries"] += message.events
        elif self._bookmark_is_due:
            message = self.state.bookmark()
        self._bookmark_is_due = False
        return message

    def farewell(self, why: Ending) -> bytes:
        """Return the message that says why the connection ends."""
        return self._framer(self.state.closing_message(why))


class WebSocketFeed(FeedSession):
    """A client on a WebSocket; `protocol` is the subprotocol, empty for none."""

    def __init__(
        self, follower: LogFollower, budget: SendBudget, query: FeedQuery, grants: Grants, protocol: str
    ) -> None:
        self.protocol = protocol
        self._websocket: WebSocket | None = None
        encoding, opcode = _FORMATS[protocol or PROTOCOLS[0]]
        super().__init__(follower, budget, query, grants, encoding, _FRAMERS[opcode])

    def run(self, websocket: WebSocket) -> None:
        """Serve the connection until the client is gone. What it sends is read and dropped."""
        self._websocket = websocket
        self._wake = websocket.wake
        self._turn.is_over = lambda: websocket.is_ending
        websocket.farewell = self.farewell
        websocket.on_answer = lambda: self._follower.report_activity("heartbeat", websocket.peer.encode())
        websocket.ping()
        websocket.source = self._next_piece
        websocket.wake()
        if self._is_revoked:
            self.close_revoked()
        while websocket.receive() is not None:
            pass

    def end(self) -> None:
        """Stop following, and forget the connection."""
        self._websocket = None
        super().end()

    def close_revoked(self) -> None:
        """Close with 3000, after a `closing` message."""
        if self._websocket is not None:
            self._websocket.close_with_farewell(REVOKED, "revoked", "revoked")

    def _next_piece(self) -> Piece | None:
        assert self._websocket is not None
        try:
            data = self.next_bytes()
        except Exception:
            _failed.report(self._websocket.peer, error=True)
            self._websocket.close(1011)
            return None
        return None if data is None else Piece(data)


class FeedRefusal:
    """A page's WebSocket that is accepted only to be sent the error, since a page cannot see how a handshake fails."""

    def __init__(self, error: InStreamError, protocol: str) -> None:
        self._error, self.protocol = error.with_traceback(None), protocol  # its frames lead back to here

    def run(self, websocket: WebSocket) -> None:
        """Send the error, close, and wait until the client is gone."""
        error = self._error
        encoding, opcode = _FORMATS[self.protocol or PROTOCOLS[0]]
        body = encoding.message(
            {
                "type": "error",
                "status": error.status,
                "code": error.code,
                "detail": error.detail or error.title,
                "hint": error.hint,
            }
        )
        websocket.send(body, binary=opcode is Opcode.BINARY)
        websocket.close(close_code(error), error.code)
        while websocket.receive() is not None:
            pass

    def end(self) -> None:
        """Do nothing: there is nothing to release."""


class StreamFeed(FeedSession):
    """A client whose answer lasts: SSE, or lines of JSON.

    Attributes:
        head: of the answer.
    """

    def __init__(
        self,
        follower: LogFollower,
        budget: SendBudget,
        query: FeedQuery,
        grants: Grants,
        head: bytes,
        sse: bool,
        new_token: Callable[[], bytes] | None = None,
    ) -> None:
        """Follow `follower` in an answer that begins with `head`.

        Args:
            new_token: makes the resume tokens that end the ids of an SSE stream which a ticket opened; None for others.
        """
        self._stream: Stream | None = None
        self.head = head + (RETRY if sse else b"")
        framer = encodings.sse_frame if new_token is None else _framer_with_tokens(new_token)
        super().__init__(follower, budget, query, grants, JSON, framer if sse else encodings.ndjson_line)

    def end(self) -> None:
        """Stop following, and forget the connection."""
        self._stream = None
        super().end()

    def carry(self, stream: Stream) -> None:
        """Write to `stream`, which is about to run."""
        self._stream = stream
        self._wake = stream.wake
        self._turn.is_over = lambda: stream.is_ending
        stream.source = self.next_bytes
        stream.farewell = self.farewell
        if self._is_revoked:
            self.close_revoked()

    def close_revoked(self) -> None:
        """End the answer, after a `closing` message."""
        if self._stream is not None:
            self._stream.close_with_farewell(REVOKED, "", "revoked")


class EndedStream:
    """A stream of events that ends at once, where the server stops: EventSource returns after an end, but never after a
    refusal."""

    def __init__(self, head: bytes) -> None:
        self.head = head + RETRY

    def carry(self, stream: Stream) -> None:
        """End the stream."""
        stream.end()

    def end(self) -> None:
        """Do nothing: there is nothing to release."""


def _text_frame(message: Message) -> bytes:
    return frame(Opcode.TEXT, message.body)


def _binary_frame(message: Message) -> bytes:
    return frame(Opcode.BINARY, message.body)


_FORMATS: Final = {PROTOCOLS[0]: (JSON, Opcode.TEXT), PROTOCOLS[1]: (MESSAGE_PACK, Opcode.BINARY)}
_FRAMERS: Final = {Opcode.TEXT: _text_frame, Opcode.BINARY: _binary_frame}


def _framer_with_tokens(new_token: Callable[[], bytes]) -> Framer:
    """Make a framer of SSE whose ids end in a resume token that is never much older than the message."""
    token, renew_at = b"", 0.0

    def frame_message(message: Message) -> bytes:
        nonlocal token, renew_at
        now = time.monotonic()
        if now >= renew_at:
            token, renew_at = b"~" + new_token(), now + RENEW_S
        return encodings.sse_frame(message, token)

    return frame_message
