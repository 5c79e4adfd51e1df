"""The gateway's application: who gets which feed."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, Final

from kvserver.gateway.history.source import LogFollower
from kvserver.gateway.sessions.access import FeedAccess
from kvserver.gateway.sessions.admission import Admission
from kvserver.gateway.sessions.clients import EndedStream, FeedSession
from kvserver.gateway.sessions.feed_request import read_credentials
from kvserver.gateway.sessions.quota import ConnectionQuota
from kvserver.gateway.sessions.wal import WalRefusal, WalSession
from kvserver.gateway.transport.handler import StreamSession, WebSocketSession, run_session
from kvserver.gateway.transport.head import Head, check_upgrade, stream_head
from kvserver.gateway.transport.limits import ConnectionLimits
from kvserver.gateway.transport.send_budget import SendBudget
from kvserver.http import handshake, routes
from kvserver.http.origins import Hosts, Origins, Pages
from kvserver.http.reports.access_log import AccessLog
from kvserver.http.reports.counting import Counts
from kvserver.settings import ServerSettings
from shards.wire.errors import Forbidden, NoFeed, NoSuchResource, Overloaded, Unauthorized

BINARY: Final = b"application/octet-stream"
"""The Content-Type of a `/wal` upgrade that asks for binary frames."""
INTAKE_BYTES_S: Final = 32 << 10
"""Clients have nothing to send but pongs: one that sends more is read no faster than this."""


class Gateway:
    """The `kvserver.gateway.transport.handler.Application` of the feed.

    Attributes:
        limits: of every connection.
        budget: what all clients together have not taken.
        pages: which pages may connect.
        follower: the history that clients follow; None while there is no store.
    """

    def __init__(self) -> None:
        self.limits = ConnectionLimits(intake_bytes_s=INTAKE_BYTES_S)
        self.budget = SendBudget()
        self.pages = Pages(Origins("*"), Hosts())
        self.follower: LogFollower | None = None
        self._access: FeedAccess | None = None
        self._admission: Admission | None = None
        self._quota = ConnectionQuota(0, 0)
        self._counts: Counts | None = None
        self._access_log: AccessLog | None = None
        self._open: dict[WebSocketSession | StreamSession, Callable[[], None]] = {}  # what gives its place back
        self._ending: set[WalSession | FeedSession] = set()  # those whose rights end at a time

    def open(self, follower: LogFollower, access: FeedAccess, settings: ServerSettings, counts: Counts) -> None:
        """Admit clients to the history that `follower` follows; their requests are counted in `counts`."""
        self.follower, self._access, self._counts = follower, access, counts
        hosts = Hosts.of(settings.allowed_hosts, settings.host, access.tokens.required)
        self.pages = Pages(Origins(settings.origins), hosts)
        self._access_log = AccessLog.of(settings.access_log, settings.slow_ms)
        self._admission = Admission(follower, access, self.pages.origins)
        self._quota = ConnectionQuota(settings.feed_clients, settings.feed_clients_per_address)

    def close(self) -> None:
        """Admit no more clients; those that are connected stay."""
        self.follower = None

    def refresh_tokens(self) -> None:
        """Close connections whose tokens were revoked or grant less, or whose rights have ended.

        To be called a few times a second.
        """
        if self._access is None:
            return
        tokens = self._access.tokens
        due = self._open if tokens.refresh() else [each for each in self._ending if tokens.has_ended(each.grants)]
        for session in list(due):
            if isinstance(session, WalSession | FeedSession):
                session.recheck_grants(tokens.current_grants(session.grants))

    def admit(self, head: Head, peer: str) -> WebSocketSession | StreamSession:
        """Make the session for a well-formed request of `peer` (`ip:port`). Raises `KVError`."""
        path = head.path.decode()
        if path not in (routes.WAL, routes.FEED):
            raise NoSuchResource
        if self.follower is None or self._access is None or self._admission is None:
            if path == routes.FEED and handshake.is_event_stream(head.headers):
                return self._end_stream(head)
            raise NoFeed("the gateway is stopping")
        self.refresh_tokens()
        budget = self.budget.of_address(peer)
        if budget.is_high:
            if path == routes.FEED and handshake.is_event_stream(head.headers):
                return self._end_stream(head)  # EventSource never returns after a 503
            whose = "clients" if self.budget.is_high else "clients at this address"
            raise Overloaded(f"too much waits for {whose} to take it")
        give_back = self._quota.take_place(peer)
        try:
            session = (
                self._admission.admit(head, budget) if path == routes.FEED else self._admit_wal(head, budget, peer)
            )
        except BaseException:
            give_back()
            raise
        self._open[session] = give_back
        if isinstance(session, WalSession | FeedSession) and session.grants.ends_ms:
            self._ending.add(session)
        return session

    def _end_stream(self, head: Head) -> StreamSession:
        """Answer a request for events with a stream that ends at once. It takes no place of the quota."""
        session = EndedStream(stream_head(head, self.pages.origins, handshake.EVENT_STREAM))
        self._open[session] = lambda: None
        return session

    def _admit_wal(self, head: Head, budget: SendBudget, peer: str) -> WebSocketSession:
        """Make the session for a request of `/wal`.

        A page gets an error of authorization in its stream, so its handshake is checked before; of any other client the
        authorization is checked first, and refused with a status.
        """
        assert self.follower is not None and self._access is not None
        credentials = read_credentials(head)
        if credentials.is_page:
            check_upgrade(head)
        try:
            grants = self._access.authorize(credentials, "websocket")
        except (Unauthorized, Forbidden) as error:
            if credentials.is_page:
                return WalRefusal(error)
            raise
        check_upgrade(head)
        return WalSession(self.follower, grants, budget, peer, head.first(b"content-type") == BINARY)

    def answered(self, head: Head | None, peer: str, status: int, seconds: float, request_id: bytes) -> None:
        """Count and log a request. The web worker that handed its connection over does neither."""
        method, path = ("", b"") if head is None else (head.method, head.path)
        if self._counts is not None:
            route = path.decode() if path in (routes.WAL.encode(), routes.FEED.encode()) else routes.NOWHERE
            self._counts.add(method, route, status, seconds)
        if self._access_log is not None:
            self._access_log(peer.rpartition(":")[0], method, path, status, seconds, request_id)

    def leave(self, session: WebSocketSession | StreamSession) -> None:
        """End a session that `admit` made, and give its place back."""
        self._open.pop(session)()
        if isinstance(session, WalSession | FeedSession):
            self._ending.discard(session)
        session.end()

    def __call__(self, environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        """Run the session in `environ`, as WSGI wants it."""
        return run_session(environ, start_response)


app = Gateway()
