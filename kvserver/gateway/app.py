"""The gateway's application: who gets which feed."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from typing import Any, Final

from kvserver.access.grants import Grants
from kvserver.gateway.history.source import Follower, Source
from kvserver.gateway.sessions.access import Door, close_code, is_told_in_stream
from kvserver.gateway.sessions.admission import Admission, Places
from kvserver.gateway.sessions.clients import Client, Parting
from kvserver.gateway.transport.handler import Session, Streaming, run_session
from kvserver.gateway.transport.head import Head, check_upgrade, streaming
from kvserver.gateway.transport.send_budget import Debts
from kvserver.gateway.transport.websocket import Limits, Piece, WebSocket
from kvserver.gateway.wal import formats
from kvserver.gateway.wal.views import View
from kvserver.http import handshake, routes
from kvserver.http.access_log import AccessLog
from kvserver.http.counting import Counts
from kvserver.http.origins import Hosts, Origins, Pages
from kvserver.settings import ServerSettings
from shards.host.logs import Recurring
from shards.log.reader import Trimmed
from shards.wire.errors import Forbidden, KVError, NoFeed, NoSuchResource, Overloaded, Unauthorized

log = logging.getLogger(__name__)
_failed = Recurring(log, logging.ERROR, "feeding %s")

BINARY: Final = b"application/octet-stream"
"""The Content-Type of an upgrade whose sender wants binary frames."""
INTAKE_BYTES_S: Final = 32 << 10
"""Clients have nothing to say but pongs: one that sends more is read no faster than this."""


class Wal:
    """A client of `/wal`: every change it may see as one line of text, and what others read.

    Attributes:
        grants: what it may.
    """

    protocol = ""

    def __init__(self, source: Source, grants: Grants, debts: Debts, peer: str, binary: bool) -> None:
        """From now on: the position is the history's end at this moment. `debts`: its address's."""
        self.grants = grants
        self._source, self._peer = source, peer
        self._websocket: WebSocket | None = None
        self._revoked = False
        self._encode = formats.binary_frame if binary else formats.text_frame
        self._follower: Follower = source.join(View.of(self._encode, grants), self._wake, debts)

    def run(self, websocket: WebSocket) -> None:
        """Until the client is gone. What it sends is read and dropped."""
        self._websocket = websocket
        if self._revoked:
            self._end_revoked()
        websocket.on_answer = self._answered
        websocket.ping()
        websocket.source = self._next
        websocket.wake()
        while websocket.receive() is not None:
            pass

    def end(self) -> None:
        """Stop following."""
        self._source.leave(self._follower)
        self._websocket = None

    def review(self, grants: Grants | None) -> None:
        """What it may has changed; None: its token is no more. Ends it, unless it sees the same as before."""
        if grants is None or View.of(self._encode, grants) != self._follower.view:
            self._revoked = True
            self._end_revoked()
        else:
            self.grants = grants

    def _end_revoked(self) -> None:
        if self._websocket is not None:
            self._websocket.close(3000, "revoked")

    def _next(self) -> Piece | None:
        assert self._websocket is not None
        try:
            return self._follower.next()
        except Trimmed:
            self._source.counts["lag_closed"] += 1
            self._websocket.close(1013, "too far behind: what comes next is no longer kept")
        except Exception:
            _failed.report(self._peer, error=True)
            self._websocket.close(1011)
        return None

    def _wake(self) -> None:
        if self._websocket is not None:
            self._websocket.wake()

    def _answered(self) -> None:
        self._source.report("heartbeat", self._peer.encode())


class Farewell:
    """A client that is accepted only to be told why it may not come in, since it cannot see a refusal."""

    protocol = ""

    def __init__(self, error: Unauthorized | Forbidden) -> None:
        self._error = error.with_traceback(None)  # its frames lead back to here

    def run(self, websocket: WebSocket) -> None:
        """Close, with the reason."""
        websocket.close(close_code(self._error), reason(self._error))
        while websocket.receive() is not None:
            pass

    def end(self) -> None:
        """Nothing to release."""


def reason(error: KVError) -> str:
    """An error in the words of a close frame, which has room for 123 bytes."""
    text = f"{error.title}: {error.detail}" if error.detail not in ("", error.title) else error.title
    return text.encode()[:123].decode(errors="ignore")


class Gateway:
    """`kvserver.gateway.transport.handler.Application` of the feed.

    Attributes:
        source: what clients follow; None while there is no store.
    """

    def __init__(self) -> None:
        self.limits = Limits(intake_bytes_s=INTAKE_BYTES_S)
        self.debts = Debts()
        self.pages = Pages(Origins("*"), Hosts())
        self.source: Source | None = None
        self._door: Door | None = None
        self._admission: Admission | None = None
        self._places = Places(0, 0)
        self._counts: Counts | None = None
        self._access_log: AccessLog | None = None
        self._here: dict[Session | Streaming, Callable[[], None]] = {}

    def open(self, source: Source, door: Door, settings: ServerSettings, counts: Counts) -> None:
        """Serve clients that come through `door` from `source`, as many and from which pages `settings` say; their
        requests are counted in `counts`."""
        self.source, self._door, self._counts = source, door, counts
        hosts = Hosts.of(settings.allowed_hosts, settings.host, door.tokens.required)
        self.pages = Pages(Origins(settings.origins), hosts)
        self._access_log = AccessLog() if settings.access_log else None
        self._admission = Admission(source, door, self.pages.origins)
        self._places = Places(settings.feed_clients, settings.feed_clients_per_address)

    def close(self) -> None:
        """Admit nobody any more."""
        self.source = None

    def refresh(self) -> None:
        """Follow changes of the tokens: connections whose grants are gone are closed. Call it a few times a second."""
        if self._door is not None and self._door.tokens.refresh():
            for session in list(self._here):
                if isinstance(session, Wal | Client):
                    session.review(self._door.tokens.current(session.grants))

    def admit(self, head: Head, peer: str) -> Session | Streaming:
        """A feed for a well-formed request. Raises `KVError`."""
        path = head.path.decode()
        if path not in (routes.WAL, routes.FEED):
            raise NoSuchResource
        if self.source is None or self._door is None or self._admission is None:
            if path == routes.FEED and handshake.is_event_stream(head.headers):
                return self._part(head)
            raise NoFeed("the gateway is stopping")
        self.refresh()
        debts = self.debts.of(peer)
        if debts.are_high:
            if path == routes.FEED and handshake.is_event_stream(head.headers):
                return self._part(head)  # EventSource never comes again after a 503
            whose = "clients" if self.debts.are_high else "clients at this address"
            raise Overloaded(f"too much waits for {whose} to take it")
        give_back = self._places.take(peer)
        try:
            session = self._admission.admit(head, debts) if path == routes.FEED else self._wal(head, debts, peer)
        except BaseException:
            give_back()
            raise
        self._here[session] = give_back
        return session

    def _part(self, head: Head) -> Streaming:
        session = Parting(streaming(head, self.pages.origins, handshake.EVENT_STREAM))
        self._here[session] = lambda: None
        return session

    def _wal(self, head: Head, debts: Debts, peer: str) -> Session:
        assert self.source is not None and self._door is not None
        in_stream = is_told_in_stream(head)
        if in_stream:
            check_upgrade(head)
        try:
            grants = self._door.enter(head, "websocket")
        except (Unauthorized, Forbidden) as error:
            if in_stream:
                return Farewell(error)
            raise
        check_upgrade(head)
        return Wal(self.source, grants, debts, peer, head.first(b"content-type") == BINARY)

    def answered(self, head: Head | None, peer: str, status: int, seconds: float, request_id: bytes) -> None:
        """Count a request, and tell of it: a worker that hands a connection over does not."""
        method, path = ("", b"") if head is None else (head.method, head.path)
        if self._counts is not None:
            route = path.decode() if path in (routes.WAL.encode(), routes.FEED.encode()) else routes.NOWHERE
            self._counts.add(method, route, status, seconds)
        if self._access_log is not None:
            self._access_log(peer.rpartition(":")[0], method, path, status, seconds, request_id)

    def leave(self, session: Session | Streaming) -> None:
        """A session is over."""
        self._here.pop(session)()
        session.end()

    def __call__(self, environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        """WSGI."""
        return run_session(environ, start_response)


app = Gateway()
