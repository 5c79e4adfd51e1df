"""Clients of `/v1/feed`, by what carries them: WebSocket, SSE, lines of JSON, or the answer to one poll."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import Final

import gevent  # type: ignore[import-untyped]
from websockets.frames import Opcode

from kvserver.access.grants import Grants
from kvserver.access.tickets import RENEW_S
from kvserver.api.feed_query import Wish
from kvserver.gateway.feed import encodings
from kvserver.gateway.feed.encodings import JSON, MESSAGE_PACK, Encoding
from kvserver.gateway.feed.events import Carry, Message
from kvserver.gateway.feed.filters import filter_of
from kvserver.gateway.feed.follow import Answer, Follow, poll
from kvserver.gateway.history.source import Source
from kvserver.gateway.sessions.access import Telling, close_code
from kvserver.gateway.transport.frames import Ending, frame
from kvserver.gateway.transport.send_budget import Debt, Debts
from kvserver.gateway.transport.stream import Stream
from kvserver.gateway.transport.websocket import Piece, WebSocket
from kvserver.http.handshake import RETRY
from shards.host.logs import Recurring
from shards.wire.errors import Forbidden, KVError, Overloaded

log = logging.getLogger(__name__)
_failed = Recurring(log, logging.ERROR, "feeding %s")

SILENCE_S: Final = 9.0
"""After which a client gets a bookmark, when it is looked at next: within 10 s."""
TURN_BYTES: Final = 64 << 10
"""Messages that wait are written together, up to about so many bytes."""
SNAPSHOT_WAIT_S: Final = 5.0
"""How long a poll waits for the next page of a snapshot, whatever it was told."""

CATCH_UP_S: Final = 2.0
"""How long a poll that does not want to wait does so for what could be seen before it was asked."""

REVOKED: Final = 3000
"""Close code where the token, or what it grants, is gone."""


class Client:
    """Follows the history, and gives what is to be written.

    Attributes:
        grants: what it may see, as its token stood when it came.
        listens: it wants activity.
    """

    def __init__(
        self, source: Source, debts: Debts, wish: Wish, grants: Grants, encoding: Encoding, carry: Carry
    ) -> None:
        """`debts`: of which what it has not taken is part. Raises `Forbidden` if it can never see anything."""
        self.grants, self._debts = grants, debts
        self._source, self._wish, self._carry = source, wish, carry
        self._wake: Callable[[], None] = lambda: None
        self._due = self._revoked = self._waits = False
        self._spoke_at = time.monotonic()
        shown = filter_of(wish, grants)
        self.listens = wish.activity
        source.enter(self)  # before its place is looked up: from now on everything is shown to it
        try:
            self.follow = Follow(source.history, shown, encoding, wish, Debt(debts))
        except BaseException:
            source.exit(self)
            raise
        source.counts["gaps"] += self.follow.gaps

    def end(self) -> None:
        """It is gone."""
        self._source.exit(self)
        self._wake = lambda: None
        self.follow.drop()

    def review(self, grants: Grants | None) -> None:
        """What it may has changed; None: its token is no more. Ends it, unless it sees the same as before."""
        if grants is not None and self._sees_the_same(grants):
            self.grants = grants
        else:
            self._revoked = True
            self.revoke()

    def _sees_the_same(self, grants: Grants) -> bool:
        try:
            return filter_of(self._wish, grants) == self.follow.filter
        except Forbidden:
            return False

    def revoke(self) -> None:
        """End the connection, if there is one yet."""
        raise NotImplementedError

    def wake(self) -> None:
        """There may be something for it."""
        self._wake()

    def tick(self) -> None:
        """Look whether it has heard nothing for long, or waits for a page, or for others to take what they owe."""
        self._due = time.monotonic() - self._spoke_at > SILENCE_S
        if self._due or self._waits or self.follow.in_snapshot:
            self._wake()

    def next(self) -> bytes | None:
        """What it is to be written next; None: nothing now. May switch. Raises `LogError`."""
        parts: list[bytes] = []
        size = 0
        self._waits = self._debts.are_full
        while size < TURN_BYTES and not self._waits:
            if self.follow.has_everything and not self._due:
                break
            message = self._next_message()
            if message is None:
                break
            part = message.framed(self._carry)
            parts.append(part)
            size += len(part)
        if not parts:
            return None
        self._spoke_at = time.monotonic()
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def _next_message(self) -> Message | None:
        gaps = self.follow.gaps
        message = self.follow.next()
        self._source.counts["gaps"] += self.follow.gaps - gaps
        if message is not None:
            self._source.counts["deliveries"] += message.events
        elif self._due:
            message = self.follow.bookmark()
        self._due = False
        return message

    def closing(self, reason: Ending) -> bytes:
        """What tells it that the connection ends."""
        return self._carry(self.follow.closing(reason))


class OnWebSocket(Client):
    """A session on a WebSocket; `protocol` is the subprotocol it chose, empty for none."""

    PROTOCOLS: Final = {"kv.json": (JSON, Opcode.TEXT), "kv.msgpack": (MESSAGE_PACK, Opcode.BINARY)}

    def __init__(self, source: Source, debts: Debts, wish: Wish, grants: Grants, protocol: str) -> None:
        self.protocol = protocol
        self._websocket: WebSocket | None = None
        encoding, _ = self.PROTOCOLS[protocol or "kv.json"]
        super().__init__(source, debts, wish, grants, encoding, _binary if encoding is MESSAGE_PACK else _text)

    def run(self, websocket: WebSocket) -> None:
        """Until the client is gone. What it sends is read and dropped."""
        self._websocket = websocket
        self._wake = websocket.wake
        websocket.farewell = self.closing
        websocket.on_answer = lambda: self._source.report("heartbeat", websocket.peer.encode())
        websocket.ping()
        websocket.source = self._piece
        websocket.wake()
        if self._revoked:
            self.revoke()
        while websocket.receive() is not None:
            pass

    def end(self) -> None:
        """It is gone."""
        self._websocket = None
        super().end()

    def revoke(self) -> None:
        """What it may see has changed."""
        if self._websocket is not None:
            self._websocket.dismiss(REVOKED, "revoked", "revoked")

    def _piece(self) -> Piece | None:
        assert self._websocket is not None
        try:
            data = self.next()
        except Exception:
            _failed.report(self._websocket.peer, error=True)
            self._websocket.close(1011)
            return None
        return None if data is None else Piece(data)


class Refusal:
    """Tells a browser on its WebSocket why there is no feed for it: it cannot see how a handshake fails."""

    protocol = ""

    def __init__(self, error: Telling, protocol: str) -> None:
        self._error, self.protocol = error.with_traceback(None), protocol  # its frames lead back to here

    def run(self, websocket: WebSocket) -> None:
        """Say it, close, and wait until the client has gone."""
        error = self._error
        encoding, opcode = OnWebSocket.PROTOCOLS[self.protocol or "kv.json"]
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
        """Nothing to release."""


class OnStream(Client):
    """A session whose answer goes on: SSE, or lines of JSON.

    `new_word`: makes words that end the ids of an SSE stream which a ticket opened; None for any other.
    """

    def __init__(
        self,
        source: Source,
        debts: Debts,
        wish: Wish,
        grants: Grants,
        head: bytes,
        sse: bool,
        new_word: Callable[[], bytes] | None = None,
    ) -> None:
        self._stream: Stream | None = None
        self.head = head + (RETRY if sse else b"")
        carry = encodings.sse if new_word is None else _worded(new_word)
        super().__init__(source, debts, wish, grants, JSON, carry if sse else encodings.ndjson)

    def end(self) -> None:
        """It is gone."""
        self._stream = None
        super().end()

    def carry(self, stream: Stream) -> None:
        """Say what to write to `stream`."""
        self._stream = stream
        self._wake = stream.wake
        stream.source = self.next
        stream.farewell = self.closing
        if self._revoked:
            self.revoke()

    def revoke(self) -> None:
        """What it may see has changed."""
        if self._stream is not None:
            self._stream.dismiss(REVOKED, "", "revoked")


class Parting:
    """A stream of events that ends before it has begun, where the server stops: EventSource comes back after an end,
    but never after a refusal."""

    def __init__(self, head: bytes) -> None:
        self.head = head + RETRY

    def carry(self, stream: Stream) -> None:
        """End it."""
        stream.end()

    def end(self) -> None:
        """Nothing to release."""


class OnPoll(Client):
    """A session of one answer, which may wait for something to tell. `answer` makes it of its body, `refuse` of an
    error."""

    head = b""

    def __init__(
        self,
        source: Source,
        debts: Debts,
        wish: Wish,
        grants: Grants,
        answer: Callable[[bytes], bytes],
        refuse: Callable[[KVError], bytes],
    ) -> None:
        self._answer, self._refuse = answer, refuse
        self._stream: Stream | None = None
        self._at_once = wish.since is None and not wish.snapshot
        super().__init__(source, debts, wish, grants, JSON, encodings.ndjson)
        wait_s = max(wish.wait_s, SNAPSHOT_WAIT_S if self.follow.in_snapshot else 0)
        self._until = time.monotonic() + wait_s
        self._due_revision = source.history.watermark()
        self._patient_until = time.monotonic() + CATCH_UP_S
        self._timer = gevent.spawn_later(wait_s, self.wake)

    def carry(self, stream: Stream) -> None:
        """Say what to write to `stream`."""
        self._stream = stream
        self._wake = stream.wake
        stream.source = self._whole
        stream.farewell = self._empty
        if self._revoked:
            self.revoke()

    def end(self) -> None:
        """It has its answer, or is gone."""
        self._timer.kill(block=False)
        self._stream = None
        super().end()

    def revoke(self) -> None:
        """What it may see has changed: it gets what it could see until now."""
        if self._stream is not None:
            self._stream.dismiss(REVOKED, "", "revoked")

    def _whole(self) -> bytes | None:
        assert self._stream is not None
        if self._is_behind() and not self._at_once:
            return None
        if self._debts.are_high and not (self._at_once or self.follow.has_everything):
            return self._last(self._refuse(Overloaded("too many answers wait for clients to take them")))
        gaps = self.follow.gaps
        found = Answer(self.follow.cursor, False, []) if self._at_once else self._collect()
        self._source.counts["gaps"] += self.follow.gaps - gaps
        if not found.messages and not self._at_once and time.monotonic() < self._until:
            return None
        self._source.counts["deliveries"] += sum(message.events for message in found.messages)
        self.follow.drop()
        return self._last(self._answer(encodings.poll_answer(*found)))

    def _collect(self) -> Answer:
        """What there is. May switch: so it owes the largest answer meanwhile, or many would find the budget unspent. (A
        page of a snapshot is counted when it is read, and waits for room itself.)"""
        if self.follow.in_snapshot:
            return poll(self.follow)
        coming = Debt(self._debts)
        coming.owe(self._source.largest_answer)
        try:
            return poll(self.follow)
        finally:
            coming.owe(0)

    def _last(self, answer: bytes) -> bytes:
        assert self._stream is not None
        self._stream.farewell = lambda reason: b""
        self._stream.end()
        return answer

    def _is_behind(self) -> bool:
        """Whether the gateway has not come to what was visible when it was asked, and may still."""
        return self._source.history.shown() < self._due_revision and time.monotonic() < self._patient_until

    def _empty(self, reason: Ending) -> bytes:
        return self._answer(encodings.poll_answer(self.follow.cursor, False, []))


def _text(message: Message) -> bytes:
    return frame(Opcode.TEXT, message.body)


def _binary(message: Message) -> bytes:
    return frame(Opcode.BINARY, message.body)


def _worded(new_word: Callable[[], bytes]) -> Carry:
    """As SSE frames whose ids end in a word that is never much older than the message."""
    word, renew_at = b"", 0.0

    def carry(message: Message) -> bytes:
        nonlocal word, renew_at
        now = time.monotonic()
        if now >= renew_at:
            word, renew_at = b"~" + new_word(), now + RENEW_S
        return encodings.sse(message, word)

    return carry
